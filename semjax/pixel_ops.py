"""Nine ops on 8-bit images, those of AugMix: deterministic functions of a batch.

The ops of `OPS` overlap with no corruption of CIFAR-C or ImageNet-C. Each is a function of uint8
images and of one magnitude for each image, with the semantics of Pillow, which the official code
calls: a lookup table for each channel, or a bilinear warp. All are integer arithmetic, so that an
image comes out the same under jit, in another batch and on another device; only cos and sin of a
rotation are not.

`draw_ops` draws ops and their levels, `apply_ops` applies to each image the one that was drawn.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax import lookups
from semjax.affine import affine_warp
from semjax.checks import checked_images

OPS: tuple[str, ...] = (
    "autocontrast",
    "equalize",
    "posterize",
    "rotate",
    "solarize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


def draw_ops(
    key: jax.Array, shape: tuple[int, ...], *, severity: ArrayLike = 3.0
) -> tuple[jax.Array, jax.Array]:
    """Draws ops uniformly from OPS, and levels uniform on [0.1, severity) of either sign.

    Args:
      key: consumed here.
      shape: the shape of the draws.
      severity: scalar in (0.1, 10], a number or a traced value (which is not checked).

    Returns:
      i32 of the shape, indices into OPS, and f32 of the shape, levels for `apply_ops`.

    Raises:
      ValueError: a severity that is not a scalar in (0.1, 10].

    Example:
      >>> import jax
      >>> from semjax.pixel_ops import draw_ops
      >>> op, level = draw_ops(jax.random.key(0), (4, 2))
      >>> op.shape, level.dtype.name
      ((4, 2), 'float32')

    References:
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781), and its code for the levels.
    """
    if np.shape(severity) != ():
        raise ValueError(f"severity must be a scalar; found shape {np.shape(severity)}")
    if isinstance(severity, int | float) and not 0.1 < severity <= 10:
        raise ValueError(f"severity must be in (0.1, 10]; found {severity}")
    op_key, level_key, sign_key = jax.random.split(key, 3)
    most = jnp.asarray(severity, jnp.float32)
    op = jax.random.randint(op_key, shape, 0, len(OPS), jnp.int32)
    level = jax.random.uniform(level_key, shape, jnp.float32, 0.1, most)
    return op, jnp.where(jax.random.bernoulli(sign_key, 0.5, shape), -level, level)


def apply_ops(images: ArrayLike, op: ArrayLike, level: ArrayLike) -> jax.Array:
    """Applies to each image one op of OPS at its level, with the magnitudes of the official code.

    | op | magnitude at level l, t(x) being x truncated to an integer |
    |---|---|
    | autocontrast, equalize | none |
    | posterize | 4 - t(4 abs(l) / 10) bits |
    | solarize | threshold 256 - t(256 abs(l) / 10) |
    | rotate | t(30 l / 10) degrees |
    | shear_x, shear_y | 0.3 l / 10 |
    | translate_x, translate_y | t(W / 3 * l / 10), t(H / 3 * l / 10) pixels |

    The nine are done as one lookup and one warp, of which at most one changes an image: no op is
    computed nine times over.

    Args:
      images: uint8[B, H, W, C].
      op: i32[B], indices into OPS; any other leaves the image as it is.
      level: f32[B] in [-10, 10]; the sign is the direction of the geometric ops.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or an op or level of another dtype.
      ValueError: images, op or level of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import OPS, apply_ops
      >>> row = jnp.array([1, 2, 3, 4, 5, 6], jnp.uint8).reshape(1, 1, 6, 1)
      >>> apply_ops(row, jnp.array([OPS.index("translate_x")]), jnp.array([6.0])).ravel()
      Array([2, 3, 4, 5, 6, 0], dtype=uint8)

    References:
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781); `augmentations.py` of its code.
    """
    images = _checked_bytes(images)
    batch, height, width, _ = images.shape
    op = _checked_magnitude("op", op, batch, np.integer)
    level = _checked_magnitude("level", level, batch, np.floating).astype(jnp.float32)
    strength = jnp.abs(level)
    # One product each: a compiler may rearrange a product and a quotient, and round otherwise.
    table = lookups.chosen_tables(
        images,
        {name: op == OPS.index(name) for name in lookups.OPS},
        bits=4 - _truncated(strength * 0.4),
        threshold=256 - _truncated(strength * 25.6),
    )

    def magnitude(name: str, value: jax.Array) -> jax.Array:
        return jnp.where(op == OPS.index(name), value, 0)

    warped = affine_warp(
        images,
        degrees=magnitude("rotate", jnp.trunc(level * 3)),
        shear_x=magnitude("shear_x", level * 0.03),
        shear_y=magnitude("shear_y", level * 0.03),
        right=magnitude("translate_x", jnp.trunc(level * (width / 30))),
        down=magnitude("translate_y", jnp.trunc(level * (height / 30))),
    )
    # In this order: a lookup fused into the warp would be made for each of the four corners.
    return lookups.look_up(warped, table)


def autocontrast(images: ArrayLike) -> jax.Array:
    """Stretches each channel of each image to the whole range of 8 bits.

    out = floor(255 * (x - lo) / (hi - lo)), a channel of one value staying as it is.

    The division is exact. Pillow's, in float64, falls one short of some quotients that are whole
    numbers, in 0.4 % of the cases.

    Args:
      images: uint8[B, H, W, C].

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images that are not [B, H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import autocontrast
      >>> autocontrast(jnp.array([50, 51, 60], jnp.uint8).reshape(1, 1, 3, 1)).ravel()
      Array([  0,  25, 255], dtype=uint8)
    """
    images = _checked_bytes(images)
    return lookups.look_up(images, lookups.autocontrast_tables(lookups.histograms(images)))


def equalize(images: ArrayLike) -> jax.Array:
    """Spreads the histogram of each channel of each image evenly over 8 bits.

    out = (s // 2 + n(x)) // s, at most 255, where n(x) pixels are less than x and s is the number
    of pixels that are not of the largest value, // 255. With s = 0 the channel stays as it is, as
    every channel of 255 pixels or fewer does.

    Args:
      images: uint8[B, H, W, C].

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images that are not [B, H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import equalize
      >>> image = (jnp.arange(512) // 2).astype(jnp.uint8).reshape(1, 16, 32, 1) // 2
      >>> int(image.max()), int(equalize(image).max())
      (127, 255)
    """
    images = _checked_bytes(images)
    return lookups.look_up(images, lookups.equalize_tables(lookups.histograms(images)))


def posterize(images: ArrayLike, bits: ArrayLike) -> jax.Array:
    """Keeps the highest bits of every pixel and sets the others to 0.

    Args:
      images: uint8[B, H, W, C].
      bits: integers [B], the bits to keep, clipped to [1, 8].

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or bits that are not integers.
      ValueError: images or bits of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import posterize
      >>> int(posterize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), jnp.array([4]))[0, 0, 0, 0])
      240
    """
    images = _checked_bytes(images)
    bits = _checked_magnitude("bits", bits, images.shape[0], np.integer)
    return lookups.look_up(images, lookups.posterize_tables(bits.astype(jnp.int32)))


def solarize(images: ArrayLike, threshold: ArrayLike) -> jax.Array:
    """Inverts the pixels at or above a threshold: 255 - x.

    Args:
      images: uint8[B, H, W, C].
      threshold: integers [B]; 256 inverts nothing and 0 everything.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or thresholds that are not integers.
      ValueError: images or threshold of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import solarize
      >>> solarize(jnp.array([9, 10, 255], jnp.uint8).reshape(1, 1, 3, 1), jnp.array([10])).ravel()
      Array([  9, 245,   0], dtype=uint8)
    """
    images = _checked_bytes(images)
    threshold = _checked_magnitude("threshold", threshold, images.shape[0], np.integer)
    return lookups.look_up(images, lookups.solarize_tables(threshold.astype(jnp.int32)))


def rotate(images: ArrayLike, degrees: ArrayLike) -> jax.Array:
    """Turns each image anticlockwise about its centre, black around it.

    Like every warp here: each pixel is interpolated bilinearly between the four pixels around its
    place in the image, truncated to 8 bits, and 0 where that place lies outside. Places are right
    to about 2^-14 of a pixel in images of 32 x 32, and 2^-11 of one in images of 224 x 224, so that
    a few pixels differ from Pillow's by one grey level.

    Args:
      images: uint8[B, H, W, C].
      degrees: [B], integers or floating.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or degrees that are not numbers.
      ValueError: images or degrees of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import rotate
      >>> image = jnp.array([[1, 2], [3, 4]], jnp.uint8)[None, ..., None]
      >>> rotate(image, jnp.array([90]))[0, ..., 0]
      Array([[2, 4],
             [1, 3]], dtype=uint8)
    """
    images = _checked_bytes(images)
    degrees = _checked_magnitude("degrees", degrees, images.shape[0], np.number)
    return affine_warp(images, degrees=degrees)


def shear_x(images: ArrayLike, factor: ArrayLike) -> jax.Array:
    """Moves the rows of each image to the left, each by factor times its distance from the top.

    out[a, b] is the image at column b + factor * (a + 1/2), interpolated as in `rotate`.

    Args:
      images: uint8[B, H, W, C].
      factor: [B], clipped to [-1, 1].

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or factors that are not numbers.
      ValueError: images or factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import shear_x
      >>> image = jnp.full((1, 2, 4, 1), 100, jnp.uint8)
      >>> shear_x(image, jnp.array([1.0]))[0, ..., 0]
      Array([[100, 100, 100,   0],
             [100, 100,   0,   0]], dtype=uint8)
    """
    images = _checked_bytes(images)
    factor = _checked_magnitude("factor", factor, images.shape[0], np.number)
    return affine_warp(images, shear_x=factor)


def shear_y(images: ArrayLike, factor: ArrayLike) -> jax.Array:
    """Moves the columns of each image up, each by factor times its distance from the left.

    out[a, b] is the image at row a + factor * (b + 1/2), interpolated as in `rotate`.

    Args:
      images: uint8[B, H, W, C].
      factor: [B], clipped to [-1, 1].

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or factors that are not numbers.
      ValueError: images or factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import shear_y
      >>> shear_y(jnp.full((1, 3, 1, 1), 100, jnp.uint8), jnp.array([1.0])).ravel()
      Array([100, 100,   0], dtype=uint8)
    """
    images = _checked_bytes(images)
    factor = _checked_magnitude("factor", factor, images.shape[0], np.number)
    return affine_warp(images, shear_y=factor)


def translate_x(images: ArrayLike, pixels: ArrayLike) -> jax.Array:
    """Moves each image to the left, black coming in from the right.

    out[a, b] is the image at column b + pixels, interpolated as in `rotate`.

    Args:
      images: uint8[B, H, W, C].
      pixels: [B], integers or floating; negative moves to the right.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or pixels that are not numbers.
      ValueError: images or pixels of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import translate_x
      >>> translate_x(jnp.array([1, 2, 3], jnp.uint8).reshape(1, 1, 3, 1), jnp.array([1])).ravel()
      Array([2, 3, 0], dtype=uint8)
    """
    images = _checked_bytes(images)
    pixels = _checked_magnitude("pixels", pixels, images.shape[0], np.number)
    return affine_warp(images, right=pixels)


def translate_y(images: ArrayLike, pixels: ArrayLike) -> jax.Array:
    """Moves each image up, black coming in from below.

    out[a, b] is the image at row a + pixels, interpolated as in `rotate`.

    Args:
      images: uint8[B, H, W, C].
      pixels: [B], integers or floating; negative moves down.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or pixels that are not numbers.
      ValueError: images or pixels of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import translate_y
      >>> translate_y(jnp.array([1, 2, 3], jnp.uint8).reshape(1, 3, 1, 1), jnp.array([-2])).ravel()
      Array([0, 0, 1], dtype=uint8)
    """
    images = _checked_bytes(images)
    pixels = _checked_magnitude("pixels", pixels, images.shape[0], np.number)
    return affine_warp(images, down=pixels)


def to_uint8(images: ArrayLike) -> jax.Array:
    """Images in 8 bits: uint8 as it is, floating rounded to the nearest multiple of 1 / 255.

    Args:
      images: uint8, or floating in [0, 1], values outside of which are clipped.

    Returns:
      uint8, of the shape of images.

    Example:
      >>> from semjax.pixel_ops import to_uint8
      >>> int(to_uint8(0.5))
      128
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images
    return jnp.round(jnp.clip(images.astype(jnp.float32), 0, 1) * 255).astype(jnp.uint8)


def to_unit(images: ArrayLike) -> jax.Array:
    """Images in [0, 1]: uint8 divided by 255, floating clipped, in float32.

    Args:
      images: uint8, or floating in [0, 1], values outside of which are clipped.

    Returns:
      f32, of the shape of images.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.pixel_ops import to_unit
      >>> to_unit(jnp.array([0, 255], jnp.uint8))
      Array([0., 1.], dtype=float32)
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    return jnp.clip(images.astype(jnp.float32), 0, 1)


def _truncated(value: jax.Array) -> jax.Array:
    return jnp.trunc(value).astype(jnp.int32)


def _checked_bytes(images: ArrayLike) -> jax.Array:
    images = checked_images(images)
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}")
    return images


def _checked_magnitude(name: str, value: ArrayLike, batch: int, kind: type) -> jax.Array:
    array = jnp.asarray(value)
    if array.shape != (batch,):
        raise ValueError(f"{name} must have shape ({batch},); found shape {array.shape}")
    if not jnp.issubdtype(array.dtype, kind) or jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be {kind.__name__}; found {array.dtype}")
    return array
