"""PixMix on the device: images mixed in rounds with pictures of structure, fractals say.

`draw_pixmix` draws, `apply_pixmix` applies, `pixmix` does both. `fractal_pictures` makes pictures
to mix with, where there are no files of them. Every image has its own draw, which depends on the
key and on the shape of the batch, never on pixels.
"""

import dataclasses
import math
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.checks import checked_images, checked_integer
from semjax.pixel_ops import apply_ops, draw_ops, to_uint8, to_unit

# A fractal is the attractor of at most so many maps.
_MAPS = 4
# Steps before a point is taken to lie on the attractor, and steps that are plotted.
_UNPLOTTED, _PLOTTED = 16, 32

# Where points are and their colours: f32[P, N, 2], f32[P, N, C].
_Points = tuple[jax.Array, jax.Array]
# Matrices and shifts, f32[P, M, 2, 2] and f32[P, M, 2]; and f32[P, M - 1], what a uniform draw must
# reach to choose the second map, the third, ....
_Maps = tuple[jax.Array, jax.Array, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PixmixDraw:
    """What PixMix draws for a batch, for at most k rounds.

    Attributes:
      op: i32[B, k + 1], the op of every augmented copy of an image, see
        `semjax.pixel_ops.apply_ops`: of the copy to begin with, then of the partner of every round.
      level: f32[B, k + 1], its strength.
      augmented: bool[B], whether to begin with the augmented copy or with the image.
      rounds: i32[B], n, the rounds done, at most k.
      picture: i32[B], the picture of each image.
      pictured: bool[B, k], whether the partner is the picture or an augmented copy.
      multiplied: bool[B, k], whether to multiply or to add.
      own_weight: f32[B, k], a, the weight of what has been mixed so far.
      partner_weight: f32[B, k], b, the weight of the partner.

    Example:
      >>> import jax
      >>> from semjax.pixmix import draw_pixmix
      >>> draw = draw_pixmix(jax.random.key(0), 8, 100)
      >>> draw.op.shape, draw.pictured.shape
      ((8, 5), (8, 4))
    """

    op: jax.Array
    level: jax.Array
    augmented: jax.Array
    rounds: jax.Array
    picture: jax.Array
    pictured: jax.Array
    multiplied: jax.Array
    own_weight: jax.Array
    partner_weight: jax.Array


def pixmix(
    key: jax.Array,
    images: ArrayLike,
    pictures: ArrayLike,
    *,
    k: SupportsIndex = 4,
    beta: float = 3.0,
    severity: ArrayLike = 3.0,
) -> jax.Array:
    """Mixes each image in random rounds: `apply_pixmix` of `draw_pixmix`.

    Args:
      key: consumed here.
      images: [B, H, W, C], uint8, or floating in [0, 1]; not normalised.
      pictures: [P, H, W, C], uint8, or floating in [0, 1]; one of them is drawn for each image.
      k: the most rounds, a static integer.
      beta: parameter of the weights, see `draw_pixmix`.
      severity: scalar in (0.1, 10], of the augmented copies.

    Returns:
      f32[B, H, W, C] in [0, 1], to be normalised afterwards.

    Raises:
      TypeError: as in `draw_pixmix` and `apply_pixmix`.
      ValueError: as in `draw_pixmix` and `apply_pixmix`, or pictures that are not [P, H, W, C].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.pixmix import fractal_pictures, pixmix
      >>> picture_key, key = jax.random.split(jax.random.key(0))
      >>> pictures = fractal_pictures(picture_key, 2, height=8, width=6)
      >>> pixmix(key, jnp.zeros((4, 8, 6, 3), jnp.uint8), pictures, k=1).shape
      (4, 8, 6, 3)

    References:
      Hendrycks et al. 2022, PixMix (arXiv:2112.05135), section 3.
    """
    images, pictures = _checked_pair(images, pictures)
    draw = draw_pixmix(key, images.shape[0], pictures.shape[0], k=k, beta=beta, severity=severity)
    return apply_pixmix(draw, images, pictures)


def draw_pixmix(
    key: jax.Array,
    batch_size: int,
    pictures: int,
    *,
    k: SupportsIndex = 4,
    beta: float = 3.0,
    severity: ArrayLike = 3.0,
) -> PixmixDraw:
    """Draws the rounds of PixMix for each image on its own.

    n is uniform on 0, ..., k. Each round draws fair coins for its partner, for its operation and
    for its weights, which are

    - (a, b) with a ~ Beta(beta, 1) and b ~ Beta(1, beta), or
    - (1 + a, -b) with a and b ~ Beta(1, beta).

    Args:
      key: consumed here.
      batch_size: B.
      pictures: P, the number of pictures, at least 1.
      k: the most rounds, a static integer, at least 0.
      beta: positive and finite; the larger, the more of the image is kept.
      severity: scalar in (0.1, 10], see `semjax.pixel_ops.draw_ops`.

    Returns:
      The PixmixDraw of the batch.

    Raises:
      TypeError: a k that is not an integer.
      ValueError: an option out of range, or no pictures.

    Example:
      >>> import jax
      >>> from semjax.pixmix import draw_pixmix
      >>> draw_pixmix(jax.random.key(0), 3, 1, k=0).rounds.tolist()
      [0, 0, 0]

    References:
      Hendrycks et al. 2022, PixMix (arXiv:2112.05135), and its code for the weights.
    """
    rounds = checked_integer("k", k, natural=True)
    if pictures < 1:
        raise ValueError(f"pictures must be at least 1; found {pictures}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite; found {beta!r}")
    # One stream for each decision: an option changes its own draw and no other.
    keys = jax.random.split(key, 8)
    every = (batch_size, rounds)
    op, level = draw_ops(keys[0], (batch_size, rounds + 1), severity=severity)
    convex = jax.random.bernoulli(keys[1], 0.5, every)
    # A uniform draw to the power 1 / beta has the law Beta(beta, 1), and 1 minus it Beta(1, beta):
    # no rejection sampling is needed.
    own, partner = jax.random.uniform(keys[2], (2, *every), jnp.float32) ** (1 / beta)
    partner = 1 - partner
    return PixmixDraw(
        op=op,
        level=level,
        augmented=jax.random.bernoulli(keys[3], 0.5, (batch_size,)),
        rounds=jax.random.randint(keys[4], (batch_size,), 0, rounds + 1, jnp.int32),
        picture=jax.random.randint(keys[5], (batch_size,), 0, pictures, jnp.int32),
        pictured=jax.random.bernoulli(keys[6], 0.5, every),
        multiplied=jax.random.bernoulli(keys[7], 0.5, every),
        own_weight=jnp.where(convex, own, 2 - own),
        partner_weight=jnp.where(convex, partner, -partner),
    )


def apply_pixmix(draw: PixmixDraw, images: ArrayLike, pictures: ArrayLike) -> jax.Array:
    """Mixes images in the drawn rounds.

    One begins with x, the image or an augmented copy of it. Each of the n rounds takes a partner y,
    the picture or another augmented copy of the image, and

    - adds, on the scale of [-1, 1]: (a (2 x - 1) + b (2 y - 1) + 1) / 2, or
    - multiplies, on the scale of [0, 2]: (2 x)^a max(2 y, 1e-37)^b / 2,

    and clips to [0, 1]. Augmented copies have 8 bits, as in Pillow; nothing else is rounded.

    Args:
      draw: the draw, of B images.
      images: [B, H, W, C], uint8, or floating in [0, 1]; values outside are clipped.
      pictures: [P, H, W, C], uint8, or floating in [0, 1]; values outside are clipped. An index of
        the draw beyond them takes the last.

    Returns:
      f32[B, H, W, C] in [0, 1].

    Raises:
      TypeError: images or pictures of another dtype.
      ValueError: images of another shape, or of another number than the draw; pictures of another
        shape than the images, or none.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp
      >>> from semjax.pixmix import apply_pixmix, draw_pixmix
      >>> draw = draw_pixmix(jax.random.key(0), 1, 1, k=0)
      >>> draw = dataclasses.replace(draw, augmented=jnp.array([False]))
      >>> float(apply_pixmix(draw, jnp.full((1, 2, 2, 1), 0.5), jnp.ones((1, 2, 2, 1))).mean())
      0.5

    References:
      Hendrycks et al. 2022, PixMix (arXiv:2112.05135); `pixmix_utils.py` of its code.
    """
    images, pictures = _checked_pair(images, pictures)
    batch, copies = draw.op.shape
    if images.shape[0] != batch:
        raise ValueError(f"images must be the {batch} of the draw; found shape {images.shape}")
    pixels = images.shape[1:]
    repeated = jnp.broadcast_to(to_uint8(images)[:, None], (batch, copies, *pixels))
    augmented = to_unit(
        apply_ops(
            repeated.reshape(batch * copies, *pixels), draw.op.ravel(), draw.level.ravel()
        ).reshape(repeated.shape)
    )
    picture = to_unit(jnp.take(pictures, draw.picture, axis=0, mode="clip"))

    def by_image(value: jax.Array) -> jax.Array:
        return value[:, None, None, None]

    mixed = jnp.where(by_image(draw.augmented), augmented[:, 0], to_unit(images))
    for i in range(copies - 1):
        partner = jnp.where(by_image(draw.pictured[:, i]), picture, augmented[:, i + 1])
        a, b = by_image(draw.own_weight[:, i]), by_image(draw.partner_weight[:, i])
        added = (a * (2 * mixed - 1) + b * (2 * partner - 1) + 1) / 2
        # The floor keeps a negative power of 0 finite; it is the official one.
        multiplied = (2 * mixed) ** a * jnp.maximum(2 * partner, 1e-37) ** b / 2
        result = jnp.where(by_image(draw.multiplied[:, i]), multiplied, added)
        mixed = jnp.where(by_image(i < draw.rounds), jnp.clip(result, 0, 1), mixed)
    return mixed


def fractal_pictures(
    key: jax.Array,
    count: int,
    *,
    height: int,
    width: int,
    channels: int = 3,
) -> jax.Array:
    """Makes pictures of fractals: attractors of random contractive affine maps, in colour.

    Each picture draws two to four maps of the plane and plays the chaos game with them, thousands
    of points at once. A map mixes its own colour into every point that it moves. A pixel shows the
    mean colour of the points on it over a background, as brightly as the logarithm of their number.

    Args:
      key: consumed here.
      count: P, how many; the memory needed is proportional to P * H * W.
      height: H.
      width: W.
      channels: C.

    Returns:
      f32[P, H, W, C] in [0, 1].

    Raises:
      TypeError: a size that is not an integer.
      ValueError: a negative count, or a height, width or number of channels below 1.

    Example:
      >>> import jax
      >>> from semjax.pixmix import fractal_pictures
      >>> fractal_pictures(jax.random.key(0), 2, height=8, width=6, channels=1).shape
      (2, 8, 6, 1)

    References:
      Barnsley 1988, Fractals everywhere, for the chaos game; Anderson & Farrell 2022, Improving
      fractal pre-training (arXiv:2110.03091), section 3, for the law of the maps' singular values.
    """
    count = checked_integer("count", count, natural=True)
    sizes = {"height": height, "width": width, "channels": channels}
    for name, length in sizes.items():
        if checked_integer(name, length, natural=True) < 1:
            raise ValueError(f"{name} must be at least 1; found {length}")
    map_key, colour_key, start_key, settle_key, plot_key = jax.random.split(key, 5)
    maps = _affine_maps(map_key, count)
    colour, background = _colours(colour_key, count, channels)
    points = max(1024, 2 * height * width)

    def move(state: _Points, key: jax.Array) -> _Points:
        return _moved(state, jax.random.uniform(key, (count, points, 1), jnp.float32), maps, colour)

    start = jax.random.uniform(start_key, (count, points, 2), jnp.float32, -1, 1)
    state, _ = jax.lax.scan(
        lambda state, key: (move(state, key), None),
        (start, jnp.broadcast_to(background, (count, points, channels))),
        jax.random.split(settle_key, _UNPLOTTED),
    )
    # The points now lie on the attractor: the picture is the box around them.
    low, high = state[0].min(1, keepdims=True), state[0].max(1, keepdims=True)
    size = jnp.array([[[height, width]]], jnp.int32)
    scale = size / jnp.maximum(high - low, 1e-6)

    def plot(
        carry: tuple[_Points, jax.Array], key: jax.Array
    ) -> tuple[tuple[_Points, jax.Array], None]:
        state, sums = carry
        place, shade = state = move(state, key)
        cell = jnp.clip(((place - low) * scale).astype(jnp.int32), 0, size - 1)
        ink = jnp.concatenate([shade, jnp.ones((count, points, 1), jnp.float32)], 2)
        add = jax.vmap(lambda sums, cell, ink: sums.at[cell[:, 0], cell[:, 1]].add(ink))
        return (state, add(sums, cell, ink)), None

    sums = jnp.zeros((count, height, width, channels + 1), jnp.float32)
    (_, sums), _ = jax.lax.scan(plot, (state, sums), jax.random.split(plot_key, _PLOTTED))
    number = sums[..., -1:]
    light = jnp.log1p(number) / jnp.log1p(number.max((1, 2), keepdims=True))
    ink = sums[..., :-1] / jnp.maximum(number, 1)
    return jnp.clip(light * ink + (1 - light) * background[:, None], 0, 1)


def _moved(state: _Points, chance: jax.Array, maps: _Maps, colour: jax.Array) -> _Points:
    """Moves every point by a map chosen by chance, f32[P, N, 1], and mixes its colour in."""
    place, shade = state
    matrix, shift, thresholds = maps
    chosen = (chance >= thresholds[:, None]).sum(2)
    matrix, shift, colour = (
        jax.vmap(lambda table, at: table[at])(table, chosen) for table in (matrix, shift, colour)
    )
    # Not a dot product, which some devices would round.
    place = (matrix * place[:, :, None]).sum(3) + shift
    return place, (shade + colour) / 2


def _affine_maps(key: jax.Array, count: int) -> _Maps:
    """Contractive maps of the plane for each picture."""
    number_key, value_key, turn_key, sign_key, shift_key = jax.random.split(key, 5)
    each = (count, _MAPS)
    number = jax.random.randint(number_key, (count, 1), 2, _MAPS + 1, jnp.int32)
    used = jnp.arange(_MAPS, dtype=jnp.int32)[None] < number
    large, ratio = jax.random.uniform(value_key, (2, *each), jnp.float32, 0.3, 1.0)
    # Attractors are neither dust nor blobs where the sum over the maps of their larger and twice
    # their smaller singular value is near (6 + number) / 2.
    total = jnp.where(used, large * (1 + 2 * ratio), 0).sum(1, keepdims=True)
    large = jnp.minimum(large * (6 + number) / (2 * total), 0.95)
    signs = jax.random.rademacher(sign_key, (2, *each), jnp.float32)
    values = jnp.stack([large * signs[0], large * ratio * signs[1]], -1)
    before, after = _rotation(jax.random.uniform(turn_key, (2, *each), jnp.float32, 0, math.tau))
    # after @ diag(values) @ before, likewise.
    matrix = ((after * values[:, :, None])[..., None] * before[:, :, None]).sum(3)
    shift = jax.random.uniform(shift_key, (*each, 2), jnp.float32, -1, 1)
    # By area, so that the points spread evenly; a flat map has its share as well.
    area = jnp.where(used, jnp.maximum(jnp.square(large) * ratio, 0.02), 0)
    thresholds = jnp.cumsum(area, 1)[:, :-1] / area.sum(1, keepdims=True)
    return matrix, shift, thresholds


def _colours(key: jax.Array, count: int, channels: int) -> tuple[jax.Array, jax.Array]:
    """The colours of the maps and of the background, f32[P, M, C] and f32[P, 1, C] in [0, 1]."""
    back_key, distance_key = jax.random.split(key)
    background = jax.random.uniform(back_key, (count, 1, channels), jnp.float32)
    # Around a circle, and on the far side of it, so that every map stands out.
    each = (count, _MAPS, channels)
    distance = jax.random.uniform(distance_key, each, jnp.float32, 0.3, 0.7)
    return (background + distance) % 1, background


def _rotation(angle: jax.Array) -> jax.Array:
    """f32[..., 2, 2]: the rotations by the angles."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cosine, -sine], -1), jnp.stack([sine, cosine], -1)], -2)


def _checked_pair(images: ArrayLike, pictures: ArrayLike) -> tuple[jax.Array, jax.Array]:
    images, pictures = (
        checked_images(images, name="images"),
        checked_images(pictures, name="pictures"),
    )
    if pictures.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"pictures must have the shape of the images, {images.shape[1:]}; "
            f"found {pictures.shape[1:]}"
        )
    if pictures.shape[0] < 1:
        raise ValueError(f"pictures must be at least 1; found shape {pictures.shape}")
    return images, pictures
