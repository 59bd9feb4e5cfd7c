"""PixMix on the device: images mixed in rounds with pictures of structure, fractals say.

`draw_pixmix` draws, `apply_pixmix` applies, `pixmix` does both. `fractal_pictures` makes pictures
to mix with, where there are no files of them. Every image has its own draw, which depends on the
key and on the shape of the batch, never on pixels.
"""

import dataclasses
import math
import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.augmix import apply_ops, draw_ops, to_uint8, to_unit

# A fractal is the attractor of at most so many maps.
_MAPS = 4
# Steps before a point is taken to lie on the attractor, and steps that are plotted.
_UNPLOTTED, _PLOTTED = 16, 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PixmixDraw:
    """What PixMix draws for a batch, for at most k rounds.

    Attributes:
      op: i32[B, k + 1], the op of every augmented copy of an image, see
        `semjax.augmix.apply_ops`: of the copy to begin with, then of the partner of every round.
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
      >>> pixmix(key, jnp.zeros((4, 8, 6, 3), jnp.uint8), pictures).shape
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
      severity: scalar in (0.1, 10], see `semjax.augmix.draw_ops`.

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
    rounds = _checked_natural("k", k)
    if pictures < 1:
        raise ValueError(f"pictures must be at least 1; found {pictures}")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta must be positive and finite; found {beta!r}")
    # One stream for each decision: an option changes its own draw and no other.
    keys = jax.random.split(key, 8)
    every = (batch_size, rounds)
    op, level = draw_ops(keys[0], (batch_size, rounds + 1), severity=severity)
    convex = jax.random.bernoulli(keys[1], 0.5, every)
    # The largest of beta uniform draws, for a beta that need not be whole, has the law Beta(beta, 1)
    # and 1 minus it Beta(1, beta): no rejection sampling is needed.
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
    count = _checked_natural("count", count)
    sizes = {"height": height, "width": width, "channels": channels}
    for name, size in sizes.items():
        if _checked_natural(name, size) < 1:
            raise ValueError(f"{name} must be at least 1; found {size}")
    return jax.vmap(lambda key: _fractal(key, height, width, channels))(
        jax.random.split(key, count)
    )


def _fractal(key: jax.Array, height: int, width: int, channels: int) -> jax.Array:
    """One picture, f32[H, W, C]."""
    map_key, start_key, game_key, colour_key = jax.random.split(key, 4)
    matrix, shift, thresholds = _affine_maps(map_key)
    colour, background = _colours(colour_key, channels)
    points = max(1024, 2 * height * width)
    cells = height * width

    def move(state: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[jax.Array, jax.Array]:
        place, shade = state
        chance = jax.random.uniform(key, (points, 1), jnp.float32)
        chosen = (chance >= thresholds[None]).sum(1)
        place = jnp.einsum("pij,pj->pi", matrix[chosen], place) + shift[chosen]
        return place, (shade + colour[chosen]) / 2

    settle_key, plot_key = jax.random.split(game_key)
    place = jax.random.uniform(start_key, (points, 2), jnp.float32, -1, 1)
    state = (place, jnp.broadcast_to(background, (points, channels)))
    state, _ = jax.lax.scan(
        lambda state, key: (move(state, key), None),
        state,
        jax.random.split(settle_key, _UNPLOTTED),
    )
    # The points now lie on the attractor: the picture is the box around them.
    low, high = state[0].min(0, keepdims=True), state[0].max(0, keepdims=True)
    size = jnp.array([[height, width]], jnp.float32)
    scale = size / jnp.maximum(high - low, 1e-6)

    def plot(
        carry: tuple[tuple[jax.Array, jax.Array], jax.Array], key: jax.Array
    ) -> tuple[tuple[tuple[jax.Array, jax.Array], jax.Array], None]:
        state, sums = carry
        place, shade = state = move(state, key)
        cell = jnp.clip(((place - low) * scale).astype(jnp.int32), 0, size.astype(jnp.int32) - 1)
        ink = jnp.concatenate([shade, jnp.ones((points, 1), jnp.float32)], 1)
        return (state, sums.at[cell[:, 0] * width + cell[:, 1]].add(ink)), None

    sums = jnp.zeros((cells, channels + 1), jnp.float32)
    (_, sums), _ = jax.lax.scan(plot, (state, sums), jax.random.split(plot_key, _PLOTTED))
    number = sums[:, -1:]
    ink = sums[:, :-1] / jnp.maximum(number, 1)
    light = jnp.log1p(number) / jnp.log1p(number.max())
    picture = light * ink + (1 - light) * background
    return jnp.clip(picture, 0, 1).reshape(height, width, channels)


def _affine_maps(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Contractive maps of the plane: f32[M, 2, 2] and f32[M, 2].

    With them f32[M - 1], what a uniform draw must reach to choose the second map, the third, ....
    """
    number_key, value_key, turn_key, sign_key, shift_key = jax.random.split(key, 5)
    number = jax.random.randint(number_key, (), 2, _MAPS + 1)
    used = jnp.arange(_MAPS) < number
    large, ratio = jax.random.uniform(value_key, (2, _MAPS), jnp.float32, 0.3, 1.0)
    # Attractors are neither dust nor blobs where the sum over the maps of their larger and twice
    # their smaller singular value is near (6 + number) / 2.
    total = jnp.where(used, large * (1 + 2 * ratio), 0).sum()
    large = jnp.minimum(large * (6 + number) / 2 / total, 0.95)
    values = jnp.stack([large, large * ratio], 1)
    before, after = _rotation(jax.random.uniform(turn_key, (2, _MAPS), jnp.float32, 0, 2 * math.pi))
    values *= jax.random.rademacher(sign_key, (_MAPS, 2), jnp.float32)
    matrix = jnp.einsum("mij,mj,mjk->mik", after, values, before)
    shift = jax.random.uniform(shift_key, (_MAPS, 2), jnp.float32, -1, 1)
    # By area, so that the points spread evenly; a flat map has its share as well.
    area = jnp.where(used, jnp.maximum(jnp.abs(values[:, 0] * values[:, 1]), 0.02), 0)
    return matrix, shift, jnp.cumsum(area)[:-1] / area.sum()


def _colours(key: jax.Array, channels: int) -> tuple[jax.Array, jax.Array]:
    """The colours of the maps and of the background, f32[M, C] and f32[1, C] in [0, 1]."""
    back_key, distance_key = jax.random.split(key)
    background = jax.random.uniform(back_key, (1, channels), jnp.float32)
    # Around a circle, and on the far side of it, so that every map stands out.
    distance = jax.random.uniform(distance_key, (_MAPS, channels), jnp.float32, 0.3, 0.7)
    return (background + distance) % 1, background


def _rotation(angle: jax.Array) -> jax.Array:
    """f32[..., 2, 2]: the rotations by the angles."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cosine, -sine], -1), jnp.stack([sine, cosine], -1)], -2)


def _checked_pair(images: ArrayLike, pictures: ArrayLike) -> tuple[jax.Array, jax.Array]:
    images, pictures = _checked_images("images", images), _checked_images("pictures", pictures)
    if pictures.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"pictures must have the shape of the images, {images.shape[1:]}; "
            f"found {pictures.shape[1:]}"
        )
    if pictures.shape[0] < 1:
        raise ValueError(f"pictures must be at least 1; found shape {pictures.shape}")
    return images, pictures


def _checked_images(name: str, images: ArrayLike) -> jax.Array:
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"{name} must be [B, H, W, C]; found shape {images.shape}")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{name} must be uint8 or floating; found {images.dtype}")
    return images


def _checked_natural(name: str, value: SupportsIndex) -> int:
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a static integer; found {value!r}") from error
    if number < 0:
        raise ValueError(f"{name} must be 0 or more; found {number}")
    return number
