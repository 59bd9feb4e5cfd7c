"""Brightness, contrast, saturation and pixelation, all in whole numbers.

Quotients of whole numbers are floored exactly: the guard is less than the distance of any quotient
below the next whole number, and more than what float32 loses.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions.filtering import exact_product
from semjax.corruptions.severities import Level, checked, look_up, row_keys, table_of

_BRIGHTNESS = ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))
_CONTRAST = ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
# Factor and summand of the saturation, in tenths.
_SATURATE = (
    ((3, 0), (1, 0), (15, 0), (20, 1), (25, 2)),
    ((3, 0), (1, 0), (20, 0), (50, 1), (200, 2)),
)
_PIXELATE = ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))


def brightness(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Adds to the value of HSV: v = min(v + c, 1), v the largest of red, green and blue.

    Hue and saturation stay, so a pixel is scaled by v' / v; black becomes grey, and a grey image
    gets c added. The result is truncated to 8 bits, as in the original. c by severity: .05, .1,
    .15, .2, .3 (cifar); .1, .2, .3, .4, .5 (imagenet).

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import brightness
      >>> image = jnp.array([100, 50, 0], jnp.uint8).reshape(1, 1, 1, 3)
      >>> brightness(jax.random.key(0), image, 4).ravel()
      Array([151,  75,   0], dtype=uint8)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _brightness(images, level)


@jax.jit
def _brightness(images: jax.Array, level: Level) -> jax.Array:
    # c is a multiple of 1 / 20, so that 255 * c is one of 1 / 4.
    quarters = tuple(np.round(np.asarray(c) * 1020) for c in _BRIGHTNESS)
    x = images.astype(jnp.int32)
    value = x.max(-1, keepdims=True)
    brighter = jnp.minimum(4 * value + look_up(level, quarters, dtype=jnp.int32), 1020)
    scaled = _floored(x * brighter, 4 * value)
    return jnp.where(value > 0, scaled, brighter >> 2).astype(jnp.uint8)


def _floored(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Floor of a quotient up to 255 of whole numbers, of a denominator up to 2550; / 0 is / 1."""
    quotient = numerator.astype(jnp.float32) / jnp.maximum(denominator, 1).astype(jnp.float32)
    return jnp.floor(quotient + 2.0**-13).astype(jnp.int32)


def contrast(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Brings each channel nearer to its mean m over the image: out = clip(c (x - m) + m).

    The result is truncated to 8 bits, as in the original. c by severity: .75, .5, .4, .3, .15
    (cifar); .4, .3, .2, .1, .05 (imagenet).

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import contrast
      >>> image = jnp.array([0, 200], jnp.uint8).reshape(1, 1, 2, 1)
      >>> contrast(jax.random.key(0), image, 2).ravel()
      Array([ 50, 150], dtype=uint8)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _contrast(images, level)


@jax.jit
def _contrast(images: jax.Array, level: Level) -> jax.Array:
    # In units of 2**-20: 255 of them stay below 2**31, and their guard is 2**-8 of a grey level.
    pixels = images.shape[1] * images.shape[2]
    factors = tuple(np.round(np.asarray(c) * 2.0**20) for c in _CONTRAST)
    shares = tuple((1 - np.asarray(c)) * 2.0**20 / pixels for c in _CONTRAST)
    x = images.astype(jnp.int32)
    # One product and no sum: a compiler that fuses the two would round otherwise here and there.
    total = x.sum((1, 2), keepdims=True).astype(jnp.float32)
    mean = jnp.round(total * look_up(level, shares)).astype(jnp.int32)
    nearer = x * look_up(level, factors, dtype=jnp.int32) + mean + 2**12
    return jnp.minimum(nearer >> 20, 255).astype(jnp.uint8)


def saturate(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Changes the saturation of HSV: s = clip(a s + b).

    Hue and value stay. Grey has no hue, which HSV takes for red: with b > 0 the grey pixels of a
    colour image turn reddish, as in the original. Images of one channel stay as they are. The
    result is truncated to 8 bits. a, b by severity: (.3, 0), (.1, 0), (1.5, 0), (2, .1), (2.5, .2)
    (cifar); (.3, 0), (.1, 0), (2, 0), (5, .1), (20, .2) (imagenet).

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import saturate
      >>> image = jnp.array([200, 100, 150], jnp.uint8).reshape(1, 1, 1, 3)
      >>> saturate(jax.random.key(0), image, 2).ravel()
      Array([200, 190, 195], dtype=uint8)

    References:
      Hendrycks & Dietterich 2019, the code of arXiv:1903.12261, where it is held out.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _saturate(images, level) if images.shape[-1] == 3 else images


@jax.jit
def _saturate(images: jax.Array, level: Level) -> jax.Array:
    factor, summand = look_up(level, _SATURATE, dtype=jnp.int32)
    x = images.astype(jnp.int32)
    value = x.max(-1, keepdims=True)
    chroma = value - x.min(-1, keepdims=True)
    # 10 s' v: what the least channel falls short of the value by, in tenths of a grey level.
    short = jnp.minimum(factor * chroma + summand * value, 10 * value)
    # A channel's share of it: where it stood between the value and the least; grey counts as red.
    red = jnp.arange(3, dtype=jnp.int32)[None, None, None] == 0
    share = jnp.where(chroma > 0, value - x, jnp.where(red, 0, 1))
    ten = 10 * jnp.maximum(chroma, 1)
    # Rounded up, since it is subtracted and the difference is truncated.
    return (value - _floored(share * short + ten - 1, ten)).astype(jnp.uint8)


def pixelate(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Scales down to a share c of height and width by boxes and up again, as Pillow does.

    Boxes are of whole pixels, means are rounded after each direction, and an image never shrinks
    below one pixel. c by severity: .95, .9, .85, .75, .65 (cifar); .6, .5, .4, .3, .25 (imagenet).

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import pixelate
      >>> image = jnp.array([0, 100, 50, 60], jnp.uint8).reshape(1, 1, 4, 1)
      >>> pixelate(jax.random.key(0), image, 2, constants="imagenet").ravel()
      Array([50, 50, 55, 55], dtype=uint8)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _pixelate(images, level)


@jax.jit
def _pixelate(images: jax.Array, level: Level) -> jax.Array:
    planes = jnp.transpose(images, (0, 3, 1, 2))
    # Along the rows first, as in Pillow: the order of rounding.
    for _ in range(2):
        size = planes.shape[-1]
        boxes = [_boxes(size, share) for share in table_of(level, _PIXELATE)]
        first, count = look_up(level, (boxes, boxes), dtype=jnp.int32)
        place = jnp.arange(size, dtype=jnp.int32)[:, None] - first[None, :]
        inside = ((place >= 0) & (place < count[None, :])).astype(jnp.float32)
        total = exact_product(planes.astype(jnp.float32), inside)
        # Half up.
        count = count.reshape(1, 1, 1, size).astype(jnp.float32)
        planes = _floored(2 * total + count, 2 * count).swapaxes(-1, -2)
    return planes.astype(jnp.uint8).transpose(0, 2, 3, 1)


def _boxes(size: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of the result along an axis, the first pixel of its box and their number."""
    small = max(1, int(size * share))
    scale = size / small
    centre = (np.arange(small) + 0.5) * scale
    first = np.maximum((centre - scale / 2 + 0.5).astype(int), 0)
    last = np.minimum((centre + scale / 2 + 0.5).astype(int), size)
    # Back to size: each pixel is the small one in which its middle lies.
    back = ((np.arange(size) + 0.5) * (small / size)).astype(int)
    return first[back], (last - first)[back]
