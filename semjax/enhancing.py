"""Brightness, contrast, colour and sharpness of 8-bit images, as Pillow's ImageEnhance makes them.

Each goes from a degenerate image, which lacks the property altogether, through the image itself to
more of it: out = degenerate + factor * (image - degenerate). All is integer arithmetic, so that an
image comes out the same under jit, in another batch and on another device. Pillow multiplies in
float32, which differs by one grey level at a few pixels.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.checks import checked_images

# Fractional bits of a factor, and the largest one that leaves a product of 8 bits in an int32.
_BITS = 16
# More than a factor's error makes of a product, so that whole numbers are not rounded down to the
# one before.
_ERROR = 1 << 8
_LARGEST = 100.0


def brightness(images: ArrayLike, factor: ArrayLike) -> jax.Array:
    """Makes each image darker, at 0 black, or brighter.

    Args:
      images: uint8[B, H, W, C].
      factor: [B], clipped to [0, 100]; 1 changes nothing.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images or factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import brightness
      >>> int(brightness(jnp.full((1, 1, 1, 1), 100, jnp.uint8), jnp.array([1.5]))[0, 0, 0, 0])
      150
    """
    images = _checked(images)
    return blend(jnp.zeros_like(images), images, factor)


def contrast(images: ArrayLike, factor: ArrayLike) -> jax.Array:
    """Brings each image nearer to its mean grey, at 0 to that alone, or further away from it.

    Args:
      images: uint8[B, H, W, C], of 1 or 3 channels.
      factor: [B], clipped to [0, 100]; 1 changes nothing.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images or factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import contrast
      >>> contrast(jnp.array([10, 30], jnp.uint8).reshape(1, 1, 2, 1), jnp.array([0.5])).ravel()
      Array([15, 25], dtype=uint8)
    """
    images = _checked(images)
    return blend(mean_grey(images), images, factor)


def colour(images: ArrayLike, factor: ArrayLike) -> jax.Array:
    """Takes the colour out of each image, at 0 all of it, or makes it stronger.

    Args:
      images: uint8[B, H, W, C], of 1 or 3 channels.
      factor: [B], clipped to [0, 100]; 1 changes nothing.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images or factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import colour
      >>> colour(jnp.array([255, 0, 0], jnp.uint8).reshape(1, 1, 1, 3), jnp.array([0.0])).ravel()
      Array([76, 76, 76], dtype=uint8)
    """
    images = _checked(images)
    return blend(grey(images), images, factor)


def sharpness(images: ArrayLike, factor: ArrayLike) -> jax.Array:
    """Smooths each image, at 0 with the mean of 3 x 3 pixels, or sharpens it.

    Args:
      images: uint8[B, H, W, C].
      factor: [B], clipped to [0, 100]; 1 changes nothing.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images or factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import sharpness
      >>> image = jnp.zeros((1, 3, 3, 1), jnp.uint8).at[0, 1, 1, 0].set(130)
      >>> int(sharpness(image, jnp.array([0.0]))[0, 1, 1, 0])
      50
    """
    images = _checked(images)
    return blend(smooth(images), images, factor)


def blend(degenerate: jax.Array, images: jax.Array, factor: ArrayLike) -> jax.Array:
    """Goes from one image through another: degenerate + factor * (image - degenerate).

    Args:
      degenerate: uint8[B, H, W, C].
      images: uint8[B, H, W, C].
      factor: [B], clipped to [0, 100].

    Returns:
      uint8[B, H, W, C], rounded down and clipped.

    Raises:
      ValueError: a factor of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import blend
      >>> black, grey = (jnp.full((1, 1, 1, 1), value, jnp.uint8) for value in (0, 200))
      >>> int(blend(black, grey, jnp.array([0.25]))[0, 0, 0, 0])
      50
    """
    factor = jnp.asarray(factor, jnp.float32)
    if factor.shape != (images.shape[0],):
        raise ValueError(f"factor must have shape ({images.shape[0]},); found shape {factor.shape}")
    fixed = jnp.round(jnp.clip(factor, 0, _LARGEST) * (1 << _BITS)).astype(jnp.int32)
    low, x = degenerate.astype(jnp.int32), images.astype(jnp.int32)
    found = (low << _BITS) + fixed[:, None, None, None] * (x - low) + _ERROR >> _BITS
    return jnp.clip(found, 0, 255).astype(jnp.uint8)


def grey(images: jax.Array) -> jax.Array:
    """The grey level of every pixel, in all channels: the luma of Rec. 601, rounded.

    Args:
      images: uint8[B, H, W, C], of 1 or 3 channels.

    Returns:
      uint8[B, H, W, C].

    Raises:
      ValueError: another number of channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import grey
      >>> int(grey(jnp.array([0, 255, 0], jnp.uint8).reshape(1, 1, 1, 3))[0, 0, 0, 2])
      150
    """
    channels = images.shape[-1]
    if channels == 1:
        return images
    if channels != 3:
        raise ValueError(f"images must have 1 or 3 channels; found shape {images.shape}")
    red, green, blue = (images[..., k : k + 1].astype(jnp.int32) for k in range(3))
    luma = red * 19595 + green * 38470 + blue * 7471 + (1 << 15) >> 16
    return jnp.broadcast_to(luma.astype(jnp.uint8), images.shape)


def mean_grey(images: jax.Array) -> jax.Array:
    """The mean grey level of each image in all of its pixels, rounded.

    Args:
      images: uint8[B, H, W, C], of 1 or 3 channels and less than 2^23 pixels.

    Returns:
      uint8[B, H, W, C].

    Raises:
      ValueError: another number of channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import mean_grey
      >>> mean_grey(jnp.array([1, 2], jnp.uint8).reshape(1, 1, 2, 1)).ravel()
      Array([2, 2], dtype=uint8)
    """
    pixels = max(images.shape[1] * images.shape[2], 1)
    total = grey(images)[..., :1].astype(jnp.int32).sum((1, 2), keepdims=True)
    return jnp.broadcast_to(((total + pixels // 2) // pixels).astype(jnp.uint8), images.shape)


def smooth(images: jax.Array) -> jax.Array:
    """The mean of 3 x 3 pixels, the middle one counted five times; pixels at the edge stay.

    Args:
      images: uint8[B, H, W, C].

    Returns:
      uint8[B, H, W, C], rounded.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.enhancing import smooth
      >>> int(smooth(jnp.full((1, 3, 3, 1), 9, jnp.uint8))[0, 1, 1, 0])
      9
    """
    height, width = images.shape[1:3]
    if height < 3 or width < 3:
        return images
    x = images.astype(jnp.int32)
    columns = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    total = columns[:, :-2] + columns[:, 1:-1] + columns[:, 2:] + 4 * x[:, 1:-1, 1:-1]
    inner = ((2 * total + 13) // 26).astype(jnp.uint8)
    return images.at[:, 1:-1, 1:-1].set(inner)


def _checked(images: ArrayLike) -> jax.Array:
    images = checked_images(images)
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}")
    return images
