"""Image augmentation as key-first pure functions, to run on the device inside the training step.

Every op comes twice: the deterministic one takes its geometry as an array, one entry for each
image, and its random twin draws that array from a key and applies it. So what was drawn can be
logged, tested or applied to labels and masks as well.

Guarantees of every op here:
- images are [B, H, W, C], uint8 or floating, B may be 0, H and W may differ, be odd or 1; the dtype
  is kept (`normalise` excepted) and pixels that are moved are moved bit for bit;
- every image has its own draw, which depends on the key and on the shape of the batch, never on
  pixels;
- a batch sharded over devices is augmented where it lies, without communication, as one device
  would do it.
"""

from typing import Literal, SupportsIndex, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from semjax.checks import checked_images, checked_integer

Mode = Literal["reflect", "constant"]
MODES: tuple[str, ...] = get_args(Mode)

_Kind = Literal["bool", "integer"]
_KINDS: dict[str, type] = {"bool": np.bool_, "integer": np.integer}


def crop(
    images: ArrayLike, offsets: ArrayLike, *, padding: SupportsIndex, mode: Mode = "reflect"
) -> jax.Array:
    """Pads each image on all sides and takes the H x W window that starts at its offset.

    out[i, a, b] = padded[i, a + offsets[i, 0], b + offsets[i, 1]]

    The offset (padding, padding) gives the image back; so does padding 0.

    Args:
      images: [B, H, W, C], uint8 or floating.
      offsets: integers [B, 2], row and column of the window in the padded image; clipped to
        [0, 2 * padding].
      padding: pixels added on each side, a static integer.
      mode: "reflect" mirrors the image without repeating its edge, "constant" pads with zeros.

    Returns:
      An array of the shape and dtype of images.

    Raises:
      TypeError: images or offsets of another dtype, or a padding that is not an integer.
      ValueError: images or offsets of another shape, an unknown mode, a negative padding, or one
        that the image is too small to reflect (at most min(H, W) - 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.augment import crop
      >>> row = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
      >>> crop(row, jnp.array([[1, 2]]), padding=1, mode="constant").ravel()
      Array([2., 3., 0.], dtype=float32)
    """
    images = checked_images(images)
    offsets = _checked_rows("offsets", offsets, (images.shape[0], 2), "integer")
    pad = _checked_padding(padding, images, mode)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    # A vmapped slice copies whole windows. On two CPU cores, 128 uint8 images of 32 x 32 x 3, under
    # jit: 0.22 ms, against 0.39 ms for take_along_axis by rows then columns, 1.6 ms for two one-hot
    # matmuls (which would also spread NaN pixels) and 6.9 ms for selects between power-of-two
    # shifts; the same order in float32 and at 224.
    start = jnp.clip(offsets.astype(jnp.int32), 0, 2 * pad)
    window = images.shape[1:]
    return jax.vmap(lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), window))(
        padded, start
    )


def random_crop(
    key: jax.Array, images: ArrayLike, *, padding: SupportsIndex = 4, mode: Mode = "reflect"
) -> jax.Array:
    """Applies `crop` with offsets uniform on 0, ..., 2 * padding, drawn for each image and axis.

    Args:
      key: consumed here.
      images: [B, H, W, C], uint8 or floating.
      padding: pixels added on each side, a static integer; 0 returns the images.
      mode: "reflect" or "constant", see `crop`.

    Returns:
      An array of the shape and dtype of images.

    Raises:
      TypeError: as in `crop`.
      ValueError: as in `crop`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.augment import random_crop
      >>> random_crop(jax.random.key(0), jnp.zeros((2, 8, 6, 3), jnp.uint8)).shape
      (2, 8, 6, 3)

    References:
      He et al. 2016, Deep residual learning (arXiv:1512.03385), section 4.2, which pads by 4 with
      zeros.
    """
    images = checked_images(images)
    pad = _checked_padding(padding, images, mode)
    offsets = jax.random.randint(key, (images.shape[0], 2), 0, 2 * pad + 1, jnp.int32)
    return crop(images, offsets, padding=pad, mode=mode)


def flip(images: ArrayLike, flipped: ArrayLike) -> jax.Array:
    """Mirrors the chosen images left to right.

    Args:
      images: [B, H, W, C], uint8 or floating.
      flipped: bool[B], which images to mirror.

    Returns:
      An array of the shape and dtype of images.

    Raises:
      TypeError: images or flipped of another dtype.
      ValueError: images or flipped of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.augment import flip
      >>> rows = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 1, 2, 1)
      >>> flip(rows, jnp.array([False, True])).reshape(2, 2)
      Array([[1., 2.],
             [4., 3.]], dtype=float32)
    """
    images = checked_images(images)
    flipped = _checked_rows("flipped", flipped, images.shape[:1], "bool")
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def random_flip(key: jax.Array, images: ArrayLike, *, probability: ArrayLike = 0.5) -> jax.Array:
    """Mirrors each image left to right with the given probability, independently.

    Args:
      key: consumed here.
      images: [B, H, W, C], uint8 or floating.
      probability: scalar in [0, 1], a number or a traced value (which is not checked). 0 never
        flips, 1 always.

    Returns:
      An array of the shape and dtype of images.

    Raises:
      TypeError: images of another dtype.
      ValueError: images of another shape, or a probability that is not a scalar in [0, 1].

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.augment import random_flip
      >>> row = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1)
      >>> random_flip(jax.random.key(0), row, probability=1.0).ravel()
      Array([2., 1.], dtype=float32)
    """
    images = checked_images(images)
    if np.shape(probability) != ():
        raise ValueError(f"probability must be a scalar; found shape {np.shape(probability)}")
    if isinstance(probability, int | float) and not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1]; found {probability}")
    chance = jnp.asarray(probability, jnp.float32)
    return flip(images, jax.random.bernoulli(key, chance, images.shape[:1]))


def cutout(
    images: ArrayLike, centre: ArrayLike, *, size: SupportsIndex, fill: ArrayLike = 0
) -> jax.Array:
    """Overwrites a square of each image, clipped at the image's borders.

    The square covers the rows centre - size // 2 to centre - size // 2 + size - 1, and the columns
    likewise.

    Args:
      images: [B, H, W, C], uint8 or floating.
      centre: integers [B, 2], row and column of each square; it may lie outside the image.
      size: side of the square, a static integer; 0 changes nothing, and a side larger than the
        image may cover it.
      fill: static value written into the square, a scalar or one value for each channel. 0 is the
        mean colour of normalised images and black before that.

    Returns:
      An array of the shape and dtype of images.

    Raises:
      TypeError: images or centre of another dtype, or a size that is not an integer.
      ValueError: images or centre of another shape, a negative size, or a fill that is neither a
        scalar nor [C], or that uint8 images cannot hold.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.augment import cutout
      >>> cutout(jnp.ones((1, 1, 4, 1)), jnp.array([[0, 3]]), size=2).ravel()
      Array([1., 1., 0., 0.], dtype=float32)

    References:
      DeVries & Taylor 2017, Cutout (arXiv:1708.04552), section 3.2. An odd side, which their code
      rounds down to an even one, is kept here.
    """
    images = checked_images(images)
    centre = _checked_rows("centre", centre, (images.shape[0], 2), "integer")
    side = checked_integer("size", size, natural=True)
    start = centre.astype(jnp.int32) - side // 2
    rows = _covered(start[:, :1], side, images.shape[1])
    columns = _covered(start[:, 1:], side, images.shape[2])
    square = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(square, _checked_fill(fill, images), images)


def random_cutout(
    key: jax.Array, images: ArrayLike, *, size: SupportsIndex, fill: ArrayLike = 0
) -> jax.Array:
    """Applies `cutout` with a centre uniform over the pixels, drawn for each image.

    The square is clipped at the borders, so that on average less than size * size pixels are lost.

    Args:
      key: consumed here.
      images: [B, H, W, C], uint8 or floating.
      size: side of the square, a static integer.
      fill: static value written into the square, a scalar or one value for each channel.

    Returns:
      An array of the shape and dtype of images.

    Raises:
      TypeError: as in `cutout`.
      ValueError: as in `cutout`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.augment import random_cutout
      >>> float(random_cutout(jax.random.key(0), jnp.ones((1, 5, 7, 1)), size=1).sum())
      34.0

    References:
      DeVries & Taylor 2017, Cutout (arXiv:1708.04552), section 3.2.
    """
    images = checked_images(images)
    batch, height, width, _ = images.shape
    bounds = jnp.array([[height, width]], jnp.int32)
    centre = jax.random.randint(key, (batch, 2), 0, bounds, jnp.int32)
    return cutout(images, centre, size=size, fill=fill)


def normalise(
    images: ArrayLike, mean: ArrayLike, std: ArrayLike, *, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Takes images to zero mean and unit variance: (x - mean) / std, computed in float32.

    Args:
      images: [B, H, W, C]. uint8 is divided by 255 first; floating images are taken as already in
        [0, 1].
      mean: scalar or [C], on the [0, 1] scale.
      std: scalar or [C], on the [0, 1] scale, positive (not checked).
      dtype: floating dtype of the result, to which the float32 result is rounded.

    Returns:
      [B, H, W, C] of the dtype asked for.

    Raises:
      TypeError: images of another dtype, or a dtype that is not floating.
      ValueError: images that are not [B, H, W, C], or a mean or std that is neither a scalar nor
        [C].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.augment import normalise
      >>> normalise(jnp.array([0, 255], jnp.uint8).reshape(1, 1, 2, 1), 0.5, 0.25).ravel()
      Array([-2.,  2.], dtype=float32)
    """
    images = checked_images(images)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be floating; found {jnp.dtype(dtype)}")
    mean = _checked_channels("mean", jnp.asarray(mean, jnp.float32), images)
    std = _checked_channels("std", jnp.asarray(std, jnp.float32), images)
    x = images.astype(jnp.float32)
    if images.dtype == jnp.uint8:
        x = x / 255
    return ((x - mean) / std).astype(dtype)


def _covered(start: jax.Array, side: int, length: int) -> jax.Array:
    """bool[B, length]: which positions lie in [start, start + side), for start i32[B, 1]."""
    position = jnp.arange(length, dtype=jnp.int32)[None, :]
    return (position >= start) & (position < start + side)


def _checked_rows(name: str, value: ArrayLike, shape: tuple[int, ...], kind: _Kind) -> jax.Array:
    array = jnp.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; found shape {array.shape}")
    if not jnp.issubdtype(array.dtype, _KINDS[kind]):
        raise TypeError(f"{name} must be {kind}; found {array.dtype}")
    return array


def _checked_padding(padding: SupportsIndex, images: jax.Array, mode: str) -> int:
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; found {mode!r}")
    pad = checked_integer("padding", padding, natural=True)
    height, width = images.shape[1:3]
    most = min(height, width) - 1
    if mode == "reflect" and pad > most:
        raise ValueError(
            f"padding must be at most {most} to reflect images of {height} x {width}; found {pad}"
        )
    return pad


def _checked_channels(name: str, value: jax.Array, images: jax.Array) -> jax.Array:
    channels = images.shape[3]
    if value.shape not in ((), (channels,)):
        raise ValueError(
            f"{name} must be a scalar or one value for each channel, shape ({channels},); "
            f"found shape {value.shape}"
        )
    return value.reshape(1, 1, 1, -1)


def _checked_fill(fill: ArrayLike, images: jax.Array) -> jax.Array:
    value = np.asarray(fill)
    if images.dtype == jnp.uint8 and not np.isin(value, np.arange(256)).all():
        raise ValueError(f"fill must be integers in [0, 255] for uint8 images; found {fill!r}")
    return _checked_channels("fill", jnp.asarray(value, images.dtype), images)
