"""Random resized crops on the device: a part of random size and shape, resized to one size.

`draw_boxes` draws, `resized_crop` applies, `random_resized_crop` does both. Every image has its own
box, which depends on the key and on the shape of the batch, never on pixels, and a batch sharded
over devices is cropped where it lies. Resizing is two products with small matrices for each image,
which accelerators are made for, and no gathering of pixels.
"""

import math
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.checks import checked_images, checked_integer

# Boxes that are drawn for an image before it is cropped at its centre.
_TRIES = 10


def random_resized_crop(
    key: jax.Array,
    images: ArrayLike,
    *,
    size: SupportsIndex,
    aspect: ArrayLike | None = None,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Cuts a random part out of each image and resizes it: `resized_crop` at `draw_boxes`.

    Args:
      key: consumed here.
      images: [B, H, W, C], uint8 or floating.
      size: S, side of the result, a static integer.
      aspect: f32[B], see `draw_boxes`; None takes W / H.
      scale: least and largest share of the area.
      ratio: least and largest width over height of the part.

    Returns:
      [B, S, S, C] of the dtype of images.

    Raises:
      TypeError: as in `resized_crop`.
      ValueError: as in `resized_crop` and `draw_boxes`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.resized_crop import random_resized_crop
      >>> random_resized_crop(jax.random.key(0), jnp.zeros((2, 9, 9, 3), jnp.uint8), size=8).shape
      (2, 8, 8, 3)

    References:
      Szegedy et al. 2015, Going deeper with convolutions (arXiv:1409.4842), section 6; the law of
      the boxes is that of torchvision's RandomResizedCrop.
    """
    images = checked_images(images)
    batch, height, width, _ = images.shape
    if aspect is None:
        aspect = jnp.full(batch, width / height, jnp.float32)
    if jnp.shape(aspect) != (batch,):
        raise ValueError(f"aspect must have shape ({batch},); found shape {jnp.shape(aspect)}")
    boxes = draw_boxes(key, aspect, scale=scale, ratio=ratio)
    return resized_crop(images, boxes, size=size)


def draw_boxes(
    key: jax.Array,
    aspect: ArrayLike,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Draws the boxes of random resized crops.

    A share a of the area is uniform on `scale`, the logarithm of a ratio r of width to height on
    that of `ratio`. The box of this area and ratio is taken if it fits into the picture, at a place
    that is uniform among all. Of ten such draws the first that fits counts; without one, the box is
    the largest at the centre whose ratio is allowed. That is torchvision's law, but for its
    rounding of boxes to whole pixels.

    Args:
      key: consumed here.
      aspect: f32[B], positive: width over height of each picture. Of a picture that was squeezed
        into a square it is that of the original, so that the law is the original's.
      scale: least and largest share of the area, static, in (0, 1].
      ratio: least and largest ratio, static, positive.

    Returns:
      f32[B, 4]: top, left, height and width of each box, as fractions of the picture.

    Raises:
      ValueError: an aspect that is not a vector, or a scale or ratio that is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.resized_crop import draw_boxes
      >>> boxes = draw_boxes(jax.random.key(0), jnp.ones(4), scale=(0.25, 0.25), ratio=(1, 1))
      >>> boxes[:, 2:].ravel().tolist()
      [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

    References:
      Szegedy et al. 2015, Going deeper with convolutions (arXiv:1409.4842), section 6.
    """
    aspect = jnp.asarray(aspect, jnp.float32)
    if aspect.ndim != 1:
        raise ValueError(f"aspect must have shape (B,); found shape {aspect.shape}")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"scale must be two ascending numbers in (0, 1]; found {scale}")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"ratio must be two ascending positive numbers; found {ratio}")
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    shape = (*aspect.shape, _TRIES)
    area = jax.random.uniform(area_key, shape, jnp.float32, *scale)
    low, high = (math.log(value) for value in ratio)
    # Width over height in units of the picture's own.
    relative = jnp.exp(jax.random.uniform(ratio_key, shape, jnp.float32, low, high))
    relative = relative / aspect[:, None]
    sides = jnp.sqrt(jnp.stack([area / relative, area * relative], axis=-1))
    # A full-size box misses 1 by a rounding error at times.
    fits = (sides <= 1 + 1e-6).all(-1)
    first = jnp.argmax(fits, axis=1)[:, None, None]
    drawn = jnp.minimum(jnp.take_along_axis(sides, first, axis=1)[:, 0], 1)
    # The picture itself, cut at the sides that are too long.
    central = jnp.stack([aspect / ratio[0], ratio[1] / aspect], axis=-1)
    sides = jnp.where(fits.any(1)[:, None], drawn, jnp.minimum(central, 1))
    place = jax.random.uniform(place_key, sides.shape, jnp.float32)
    place = jnp.where(fits.any(1)[:, None], place, 0.5)
    return jnp.concatenate([place * (1 - sides), sides], axis=1)


def resized_crop(images: ArrayLike, box: ArrayLike, *, size: SupportsIndex) -> jax.Array:
    """Resizes the part of each image that its box shows, bilinearly, with anti-aliasing.

    Each pixel of the result is a mean of the pixels around its place, with weights that fall
    linearly to 0 at a distance of one pixel of the result, or of the image where these are larger.
    That is what Pillow's `resize(..., BILINEAR, box)` does, which rounds to 8 bits once more on the
    way.

    Args:
      images: [B, H, W, C], uint8 or floating.
      box: f32[B, 4]: top, left, height and width, as fractions of the image, inside of it (not
        checked).
      size: S, side of the result, a static integer.

    Returns:
      [B, S, S, C] of the dtype of images, computed in float32; uint8 is rounded to the nearest.

    Raises:
      TypeError: images of another dtype, or a size that is not an integer.
      ValueError: images or box of another shape, or a size below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.resized_crop import resized_crop
      >>> row = jnp.array([0, 10, 20, 30], jnp.uint8).reshape(1, 1, 4, 1)
      >>> resized_crop(row, jnp.array([[0, 0.5, 1, 0.5]]), size=2)[0, 0, :, 0]
      Array([20, 30], dtype=uint8)
    """
    images = checked_images(images)
    side = checked_integer("size", size)
    if side < 1:
        raise ValueError(f"size must be 1 or more; found {side}")
    batch, height, width, _ = images.shape
    box = jnp.asarray(box, jnp.float32)
    if box.shape != (batch, 4):
        raise ValueError(f"box must have shape ({batch}, 4); found shape {box.shape}")
    rows = _weights(box[:, 0], box[:, 2], height, side)
    columns = _weights(box[:, 1], box[:, 3], width, side)
    # Bytes have 8 significant bits, so that three passes of bfloat16 lose nothing that counts.
    precision = jax.lax.Precision.HIGH if images.dtype == jnp.uint8 else jax.lax.Precision.HIGHEST
    x = images.astype(jnp.float32)
    x = jnp.einsum("bsh,bhwc->bswc", rows, x, precision=precision)
    x = jnp.einsum("btw,bswc->bstc", columns, x, precision=precision)
    if images.dtype == jnp.uint8:
        x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return x.astype(images.dtype)


def _weights(start: jax.Array, length: jax.Array, pixels: int, side: int) -> jax.Array:
    """f32[B, side, pixels]: the share of each pixel in each pixel of the result, along one axis."""
    start, step = start[:, None, None] * pixels, length[:, None, None] * (pixels / side)
    centre = start + (jnp.arange(side, dtype=jnp.float32)[None, :, None] + 0.5) * step
    distance = jnp.arange(pixels, dtype=jnp.float32)[None, None] + 0.5 - centre
    weight = jnp.maximum(1 - jnp.abs(distance) / jnp.maximum(step, 1), 0)
    return weight / weight.sum(2, keepdims=True)
