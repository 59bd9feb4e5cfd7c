"""Affine warps of 8-bit images, in fixed point.

Everything but the cos and sin of a rotation is int32 arithmetic, so that no compiler's rounding can
change a pixel.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Bits of a position that interpolation looks at: more would overflow an int32, see `_interpolate`.
_PLACE_BITS = 14


def affine_warp(
    images: ArrayLike,
    *,
    degrees: ArrayLike = 0.0,
    shear_x: ArrayLike = 0.0,
    shear_y: ArrayLike = 0.0,
    right: ArrayLike = 0.0,
    down: ArrayLike = 0.0,
) -> jax.Array:
    """Turns, shears or moves each image: one of these, each image its own.

    out[a, b] is the image at the place (x, y), in pixels from its upper left corner, where

    - x - W/2 = cos(t) (b + 1/2 - W/2) - sin(t) (a + 1/2 - H/2) and
      y - H/2 = sin(t) (b + 1/2 - W/2) + cos(t) (a + 1/2 - H/2) for a turn by t, or
    - x = b + 1/2 + shear_x (a + 1/2) + right and y = a + 1/2 + shear_y (b + 1/2) + down.

    Each pixel is interpolated bilinearly between the four pixels around its place, truncated to 8
    bits, and 0 where that place lies outside. Places are right to about 2^-14 of a pixel in images
    of 32 x 32, and 2^-11 of one in images of 224 x 224.

    For each image, at most one of the options may differ from 0: they are not composed, and places
    of several together might overflow.

    Args:
      images: uint8[B, H, W, C].
      degrees: scalar or [B], the angle of the turn, anticlockwise.
      shear_x: scalar or [B], clipped to [-1, 1].
      shear_y: scalar or [B], clipped to [-1, 1].
      right: scalar or [B], pixels, clipped to [-W, W].
      down: scalar or [B], pixels, clipped to [-H, H].

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8, or another argument that is not made of numbers.
      ValueError: images that are not [B, H, W, C], or another argument of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.affine import affine_warp
      >>> images = jnp.array([[1, 2, 3], [4, 5, 6]], jnp.uint8).reshape(2, 1, 3, 1)
      >>> affine_warp(images, right=jnp.array([1, -1]))[..., 0, :, 0]
      Array([[2, 3, 0],
             [0, 4, 5]], dtype=uint8)
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images must be [B, H, W, C]; found shape {images.shape}")
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}")
    batch = images.shape[0]
    affine = _affine(
        images.shape[1:3],
        degrees=_checked_numbers("degrees", degrees, batch),
        shear_x=_checked_numbers("shear_x", shear_x, batch),
        shear_y=_checked_numbers("shear_y", shear_y, batch),
        right=_checked_numbers("right", right, batch),
        down=_checked_numbers("down", down, batch),
    )
    return _warped(images, affine)


def _affine_bits(size: tuple[int, ...]) -> int:
    """The fractional bits of a matrix: what int32 places of images of this size leave room for."""
    # Places are at most 4 * (H + W) half pixels in magnitude, see `_affine`.
    return min(20, 30 - math.ceil(math.log2(4 * sum(size))))


def _affine(
    size: tuple[int, ...],
    *,
    degrees: jax.Array,
    shear_x: jax.Array,
    shear_y: jax.Array,
    right: jax.Array,
    down: jax.Array,
) -> tuple[tuple[jax.Array, ...], ...]:
    """The matrix of one warp for each image: of every argument but one, an image has zero.

    Two rows, for x and y, of three i32[B] with `_affine_bits` fractional bits: what (2b + 1),
    (2a + 1) and 1 are multiplied by to give twice the place of the pixel (a, b) in the image.
    """
    height, width = size
    one = 1 << _affine_bits(size)

    def fixed(value: jax.Array, limit: int) -> jax.Array:
        return jnp.round(jnp.clip(value, -limit, limit) * one).astype(jnp.int32)

    radians = degrees * (math.pi / 180)
    cosine, sine = fixed(jnp.cos(radians), 1), fixed(jnp.sin(radians), 1)
    return (
        (
            cosine,
            fixed(shear_x, 1) - sine,
            width * (one - cosine) + height * sine + 2 * fixed(right, width),
        ),
        (
            fixed(shear_y, 1) + sine,
            cosine,
            height * (one - cosine) - width * sine + 2 * fixed(down, height),
        ),
    )


def _warped(images: jax.Array, affine: tuple[tuple[jax.Array, ...], ...]) -> jax.Array:
    """Interpolates uint8[B, H, W, C] at the places that the matrices say, 0 outside."""
    batch, height, width, _ = images.shape
    bits = _affine_bits((height, width)) + 1  # of a place in pixels
    columns = (2 * jnp.arange(width, dtype=jnp.int32) + 1)[None, None, :]
    rows = (2 * jnp.arange(height, dtype=jnp.int32) + 1)[None, :, None]

    def places(row: tuple[jax.Array, ...], length: int) -> tuple[jax.Array, ...]:
        """Along one axis: the pixels before and after, the way between them, whether inside."""
        by_column, by_row, constant = (jnp.broadcast_to(x, (batch,))[:, None, None] for x in row)
        place = by_column * columns + by_row * rows + constant
        inside = (place >= 0) & (place < length << bits)
        excess = bits - _PLACE_BITS
        # A pixel's value stands at its centre, half a pixel from its edge.
        place = (place + (1 << excess >> 1) >> excess) - (1 << (_PLACE_BITS - 1))
        before = place >> _PLACE_BITS
        between = place - (before << _PLACE_BITS)
        return (
            jnp.clip(before, 0, length - 1),
            jnp.clip(before + 1, 0, length - 1),
            between[..., None],
            inside,
        )

    left, right, across, in_width = places(affine[0], width)
    above, below, along, in_height = places(affine[1], height)
    pick = jax.vmap(
        lambda image, a, b: image.at[a, b].get(mode="promise_in_bounds").astype(jnp.int32)
    )
    corners = [pick(images, a, b) for a in (above, below) for b in (left, right)]
    value = _interpolate(corners, across, along)
    return jnp.where((in_width & in_height)[..., None], value, 0).astype(jnp.uint8)


def _interpolate(corners: list[jax.Array], across: jax.Array, along: jax.Array) -> jax.Array:
    """The floor of the bilinear interpolation between four pixels, exact.

    `across` and `along` count 2^-14. The result has 8 + 2 * 14 bits before it is floored; `along`
    is taken in two halves of 7 bits, so that no product needs more than 8 + 14 + 7 of them.
    """
    half = _PLACE_BITS // 2
    top = (corners[0] << _PLACE_BITS) + (corners[1] - corners[0]) * across
    bottom = (corners[2] << _PLACE_BITS) + (corners[3] - corners[2]) * across
    slope = bottom - top
    high, low = along >> half, along & ((1 << half) - 1)
    # Bits shifted out of the low product are lost to a floor anyway.
    moved = slope * high + (slope * low >> half)
    return (top << half) + moved >> (_PLACE_BITS + half)


def _checked_numbers(name: str, value: ArrayLike, batch: int) -> jax.Array:
    array = jnp.asarray(value)
    if array.shape not in ((), (batch,)):
        raise ValueError(f"{name} must be a scalar or [{batch}]; found shape {array.shape}")
    if not (jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(f"{name} must be numbers; found {array.dtype}")
    return array.astype(jnp.float32)
