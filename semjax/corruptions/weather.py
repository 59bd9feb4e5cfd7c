"""Weather: snow, frost, fog, and water or mud on the lens.

Random fields are drawn apart from what is made of them, and what is made of them is whole numbers,
so that a row comes out the same wherever it is computed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions import streams
from semjax.corruptions.edges import relief
from semjax.corruptions.fields import (
    column,
    filter_field,
    grey_levels,
    matrices,
    whole_normals,
    zoom_matrix,
)
from semjax.corruptions.filtering import gaussian_matrix, smear, whole_weights
from semjax.corruptions.ice import TEXTURES, ice_textures
from semjax.corruptions.plasma import plasma
from semjax.corruptions.severities import Level, checked, look_up, row_keys, table_of

# Density, and decay of the wibble.
_FOG = (
    ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
# Shares of the image and of the ice, in hundredths.
_FROST = (
    ((100, 20), (100, 30), (90, 40), (85, 40), (75, 45)),
    ((100, 40), (80, 60), (70, 70), (65, 70), (60, 75)),
)
# How much ice there is to cut from, at least, and how much smaller than in the photographs.
_ICE = {"cifar": (128, 5), "imagenet": (512, 1)}
# Mean and spread of the noise, zoom, threshold, radius and spread of the smear, share of the image.
_SNOW = (
    (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
# Mean, spread and blur of the liquid, threshold, strength of water or blur of mud.
_SPATTER = (
    (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    ),
    (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    ),
)
# From this place of a table on it is mud.
_MUD_FROM = 3
# Red, green and blue, and what they are in grey.
_WATER_COLOUR, _WATER_GREY = (175, 238, 238), 219
_MUD_COLOUR, _MUD_GREY = (63, 42, 20), 46


def snow(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Lets it snow: streaks of flakes from above, on a paler image.

    Normal noise is zoomed into, cut off below a threshold and smeared along a steep line of a
    direction for each image, uniform between -135 and -45 degrees. With that layer of flakes f,

      out = clip(c x + (1 - c) max(x, 1.5 grey(x) + 1/2) + f + f turned by 180 degrees),

    x in [0, 1]; f and the result are truncated to 8 bits. Mean and spread of the noise, zoom,
    threshold, radius and spread of the smear and c by severity: (.1, .2, 1, .6, 8, 3, .95),
    (.1, .2, 1, .5, 10, 4, .9), (.15, .3, 1.75, .55, 10, 4, .9), (.25, .3, 2.25, .6, 12, 6, .85),
    (.3, .3, 1.25, .65, 14, 12, .8) (cifar); (.1, .3, 3, .5, 10, 4, .8), (.2, .3, 2, .5, 12, 4, .7),
    (.55, .3, 4, .9, 12, 8, .7), (.55, .3, 4.5, .85, 12, 8, .65), (.55, .3, 2.5, .85, 12, 12, .55)
    (imagenet).

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: i32[B], the numbers of the rows, see `semjax.corruptions.severities.row_keys`.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions.weather import snow
      >>> x = snow(jax.random.key(0), jnp.full((1, 32, 32, 3), 60, jnp.uint8), 1)
      >>> int(x.min())  # where no flake is: 0.95 * 60 + 0.05 * (1.5 * 60 + 127.5)
      67

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants; the package
      imagecorruptions for the smear, which is ImageMagick's in the official sets.
    """
    images, level = checked(images, severity, constants)
    return _snow(row_keys(key, len(images), index), images, level)


@jax.jit
def _snow(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    return _apply_snow(images, *_draw_snow(keys, images, level), level)


def _draw_snow(keys: jax.Array, images: jax.Array, level: Level) -> tuple[jax.Array, jax.Array]:
    """The noise, f32[B, H, W] in units of 2**-12, and the direction, f32[B] in degrees."""
    noise_keys, angle_keys = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    degrees = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, -135, -45))(angle_keys)
    return whole_normals(noise_keys, *images.shape[1:3]), degrees


def _apply_snow(images: jax.Array, noise: jax.Array, degrees: jax.Array, level: Level) -> jax.Array:
    mean, spread, _, threshold, _, _, share = look_up(level, _SNOW)
    height, width = images.shape[1:3]
    zooms = column(_SNOW, 2)
    down, along = (look_up(level, matrices(zoom_matrix, n, zooms)) for n in (height, width))
    flakes = grey_levels(filter_field(noise, down, along), mean, spread, threshold)

    # The weights of half a bell curve over 2 radius + 1 pixels.
    options = table_of(level, _SNOW)[:, 4:6]
    weights = np.zeros((5, 2 * int(options[:, 0].max()) + 1), np.int32)
    for row, (radius, sigma) in zip(weights, options, strict=True):
        tap = np.exp(-(np.arange(2 * int(radius) + 1) ** 2) / (2 * sigma**2))
        row[: len(tap)] = whole_weights(tap / tap.sum(), 2**22)
    taps = look_up(level, (weights, weights), dtype=jnp.int32)
    layer = smear(flakes.astype(jnp.uint8)[..., None], degrees, taps)[..., 0].astype(jnp.float32)
    # The layer and its mirror image by one product: XLA would smear anew for each of their uses.
    mirror = np.concatenate([np.eye(width), np.eye(width)[:, ::-1]], 1).astype(np.float32)
    both = jnp.matmul(layer, jnp.asarray(mirror), precision=jax.lax.Precision.HIGHEST)
    fallen = (both[:, :, :width] + both[:, ::-1, width:]).astype(jnp.int32)[..., None]

    x = images.astype(jnp.int32)
    # In thousandths, then in two thousandths; shares are whole twentieths.
    grey = _luma(x) if x.shape[-1] == 3 else 1000 * x
    paler = jnp.maximum(2000 * x, 3 * grey + 255_000)
    kept = jnp.round(20 * share).astype(jnp.int32)
    image = jax.lax.div(kept * 2000 * x + (20 - kept) * paler, 40_000)
    return _bytes(image + fallen)


def frost(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Freezes the lens: a blend with a cutting of ice, out = clip(a x + b ice), truncated.

    The cutting is taken anywhere in one of five textures. They are generated, see
    `semjax.corruptions.ice.ice_textures`; the official sets cut out of photographs. A cutting shows
    a texture at its full size (imagenet) or at a fifth of it (cifar). Images of one channel get the
    luma of the ice. (a, b) by severity: (1, .2), (1, .3), (.9, .4), (.85, .4), (.75, .45) (cifar);
    (1, .4), (.8, .6), (.7, .7), (.65, .7), (.6, .75) (imagenet).

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: i32[B], the numbers of the rows, see `semjax.corruptions.severities.row_keys`.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions.weather import frost
      >>> x = frost(jax.random.key(0), jnp.zeros((1, 16, 16, 3), jnp.uint8), 5)
      >>> bool(x[..., 0].mean() < x[..., 2].mean() < 0.45 * 255)  # ice is blue
      True

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    return _frost(row_keys(key, len(images), index), images, level)


@jax.jit
def _frost(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    return _apply_frost(images, *_draw_frost(keys, images, level), level)


def _draw_frost(keys: jax.Array, images: jax.Array, level: Level) -> tuple[jax.Array]:
    """The cuttings, uint8[B, H, W, 3]."""
    height, width = images.shape[1:3]
    least, shrink = _ICE[level.family]
    size = max(least, 2 * max(height, width))
    textures = jnp.asarray(ice_textures(size, shrink))
    # How many textures there are, and how many places in one, down and along.
    choices = jnp.array([TEXTURES, size - height + 1, size - width + 1])

    def cutting(key: jax.Array) -> jax.Array:
        which, top, left = jax.random.randint(key, (3,), 0, choices)
        zero = jnp.zeros_like(which)
        return jax.lax.dynamic_slice(textures, (which, top, left, zero), (1, height, width, 3))[0]

    return (jax.vmap(cutting)(keys),)


def _apply_frost(images: jax.Array, ice: jax.Array, level: Level) -> jax.Array:
    ice = ice.astype(jnp.int32)
    if images.shape[-1] == 1:
        ice = jax.lax.div(_luma(ice), 1000)
    kept, added = look_up(level, _FROST, dtype=jnp.int32)
    return _bytes(jax.lax.div(kept * images.astype(jnp.int32) + added * ice, 100))


def fog(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Adds fog, a fractal cloud p of its own for each image: out = clip((x + c p) m / (m + c)).

    m is the largest value of the image x in [0, 1], which so keeps its range. The cloud is drawn on
    the smallest square that holds the image and has a power of two as its side, see
    `semjax.corruptions.plasma.plasma`; the result is truncated to 8 bits. (c, decay) by severity:
    (.2, 3), (.5, 3), (.75, 2.5), (1, 2), (1.5, 1.75) (cifar); (1.5, 2), (2, 2), (2.5, 1.7),
    (2.5, 1.5), (3, 1.4) (imagenet).

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: i32[B], the numbers of the rows, see `semjax.corruptions.severities.row_keys`.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions.weather import fog
      >>> x = jnp.zeros((1, 32, 32, 1), jnp.uint8).at[0, 0, 0].set(200)
      >>> foggy = fog(jax.random.key(0), x, 5)
      >>> bool(foggy.max() <= 200), bool(foggy.mean() > 40)
      (True, True)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    return _fog(row_keys(key, len(images), index), images, level)


@jax.jit
def _fog(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    return _apply_fog(images, *_draw_fog(keys, images, level), level)


def _draw_fog(keys: jax.Array, images: jax.Array, level: Level) -> tuple[jax.Array]:
    """The cloud, f32[B, H, W] in [0, 1]."""
    height, width = images.shape[1:3]
    size = 1 << (max(height, width) - 1).bit_length()
    word = streams.words(keys, size * size).reshape(-1, size, size)
    noise = ((word >> np.uint32(8)).astype(jnp.int32) - 2**23).astype(jnp.float32) * 2.0**-23
    _, decay = look_up(level, _FOG)
    return (plasma(noise, decay)[:, :height, :width],)


def _apply_fog(images: jax.Array, cloud: jax.Array, level: Level) -> jax.Array:
    x = images.astype(jnp.int32)
    largest = x.max((1, 2, 3), keepdims=True)
    density, _ = look_up(level, _FOG)
    # In units of 2**-12 grey levels.
    density = density * (255 * 2**12)
    dense = (x << 12) + jnp.round(density * cloud).astype(jnp.int32)[..., None]
    range_ = (largest << 12) + jnp.round(density).astype(jnp.int32)
    return _bytes(jax.lax.div(dense * largest, jnp.broadcast_to(range_, dense.shape)))


def spatter(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Spatters the lens with water (severities 1 to 3) or mud (4 and 5).

    Normal noise, blurred, is liquid where it is above a threshold, and dry elsewhere. Water adds
    w m / max(m) of pale turquoise to the image: m is the liquid times a relief of the distance to
    its edges, by Canny's method, made flat in its histogram, embossed and smoothed. Mud blends in
    brown by a blurred mask of the liquid, where that is at least 0.8. The result is truncated to 8
    bits; an image without any liquid stays as it is. Mean, spread and blur of the noise, the
    threshold, and w or the blur of the mask by severity: (.62, .1, .7, .7, .5),
    (.65, .1, .8, .7, .5), (.65, .3, 1, .69, .5), (.65, .1, .7, .69, .6), (.65, .1, .5, .68, .6)
    (cifar); (.65, .3, 4, .69, .6), (.65, .3, 3, .68, .6), (.65, .3, 2, .68, .5),
    (.65, .3, 1, .65, 1.5), (.67, .4, 1, .65, 1.5) (imagenet).

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: i32[B], the numbers of the rows, see `semjax.corruptions.severities.row_keys`.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions.weather import spatter
      >>> muddy = spatter(jax.random.key(0), jnp.full((1, 32, 32, 3), 200, jnp.uint8), 5)
      >>> muddy.min((0, 1, 2)).tolist()
      [63, 42, 20]

    References:
      Hendrycks & Dietterich 2019, the code of arXiv:1903.12261, where it is held out.
    """
    images, level = checked(images, severity, constants)
    return _spatter(row_keys(key, len(images), index), images, level)


@jax.jit
def _spatter(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    return _apply_spatter(images, *_draw_spatter(keys, images, level), level)


def _draw_spatter(keys: jax.Array, images: jax.Array, level: Level) -> tuple[jax.Array]:
    """The liquid, i32[B, H, W] in grey levels, 0 where it is dry."""
    mean, spread, _, threshold, _ = look_up(level, _SPATTER)
    height, width = images.shape[1:3]
    blurs = column(_SPATTER, 2)
    down, along = (look_up(level, matrices(gaussian_matrix, n, blurs)) for n in (height, width))
    noise = filter_field(whole_normals(keys, height, width), down, along)
    return (grey_levels(noise, mean, spread, threshold),)


def _apply_spatter(images: jax.Array, liquid: jax.Array, level: Level) -> jax.Array:
    x = images.astype(jnp.int32)
    mud = level.place >= _MUD_FROM
    return _bytes(jnp.where(mud, _muddy(x, liquid, level), _watery(x, liquid, level)))


def _watery(x: jax.Array, liquid: jax.Array, level: Level) -> jax.Array:
    amount = liquid * relief(liquid)
    largest = jnp.maximum(amount.max((1, 2), keepdims=True), 1).astype(jnp.float32)
    # In units of 2**-16; strengths are whole tenths.
    share = jnp.round(amount.astype(jnp.float32) / largest * 2.0**16).astype(jnp.int32)
    strength = jnp.round(10 * look_up(level, _SPATTER)[4]).astype(jnp.int32)
    colour = np.array(_WATER_COLOUR if x.shape[-1] == 3 else [_WATER_GREY]).reshape(1, 1, 1, -1)
    return x + jax.lax.div(strength * share[..., None] * colour, 10 * 2**16)


def _muddy(x: jax.Array, liquid: jax.Array, level: Level) -> jax.Array:
    blurs = column(_SPATTER, 4)
    down, along = (look_up(level, matrices(gaussian_matrix, n, blurs)) for n in x.shape[1:3])
    # In units of 2**-14.
    mask = jnp.round(filter_field((liquid > 0) * 2.0**14, down, along)).astype(jnp.int32)
    mask = jnp.where(5 * mask < 4 * 2**14, 0, mask)[..., None]
    colour = np.array(_MUD_COLOUR if x.shape[-1] == 3 else [_MUD_GREY]).reshape(1, 1, 1, -1)
    return ((2**14 - mask) * x + mask * colour) >> 14


def _luma(x: jax.Array) -> jax.Array:
    """The luma i32[B, H, W, 1] of red, green and blue, in thousandths."""
    return 299 * x[..., :1] + 587 * x[..., 1:2] + 114 * x[..., 2:]


def _bytes(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 255).astype(jnp.uint8)
