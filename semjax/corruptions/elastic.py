"""Elastic distortion: a random affine warp, then a smooth random displacement of every pixel.

Places are rounded to 1/256 of a pixel and grey levels between the two to 1/128, so that what is
interpolated are whole numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions import streams
from semjax.corruptions.fields import filter_field, reflecting_gaussian
from semjax.corruptions.severities import Level, checked, look_up, row_keys, table_of

# How far pixels move before smoothing, the spread of the smoothing, and how far the control points
# of the affine warp move, in sides of the image.
_ELASTIC = (
    ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
)
# The official ImageNet-C takes 244 pixels for the side of images of 224.
_SIDE = {"cifar": 1.0, "imagenet": 244 / 224}


def elastic_transform(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Distorts images elastically: out(p) = affine(x)(p + a G * u(p)).

    The affine warp moves three control points around the middle, each coordinate by up to c of
    the side, uniformly; u is uniform on [-1, 1] at every pixel, for either direction, G a normal
    blur of spread s, cut off at 3 s. Both warps interpolate linearly and reflect the image at its
    edges, the first without repeating them. The result is truncated to 8 bits. (a, s, c) in sides
    min(H, W) of the image, by severity: (0, 0, .08), (.05, .2, .07), (.08, .06, .06),
    (.1, .04, .05), (.1, .03, .03) (cifar); 244 / 224 times (2, .7, .1), (2, .08, .2),
    (.05, .01, .02), (.07, .01, .02), (.12, .01, .02) (imagenet).

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
      >>> from semjax.corruptions.elastic import elastic_transform
      >>> image = jnp.full((1, 16, 12, 3), 77, jnp.uint8)
      >>> bool((elastic_transform(jax.random.key(0), image, 4) == image).all())
      True

    References:
      Simard et al. 2003, Best practices for convolutional neural networks; Hendrycks & Dietterich
      2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    return _elastic(row_keys(key, len(images), index), images, level)


@jax.jit
def _elastic(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    return _apply_elastic(images, *_draw_elastic(keys, images), level)


def _draw_elastic(keys: jax.Array, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How the control points move, f32[B, 3, 2], and the pixels, f32[B, 2, H, W], in [-1, 1].

    Down before right. Multiples of 2**-15.
    """
    height, width = images.shape[1:3]
    word = streams.words(keys, 6 + 2 * height * width) >> np.uint32(16)
    uniform = (word.astype(jnp.int32) - 2**15).astype(jnp.float32) * 2.0**-15
    return uniform[:, :6].reshape(-1, 3, 2), uniform[:, 6:].reshape(-1, 2, height, width)


def _apply_elastic(
    images: jax.Array, corners: jax.Array, moves: jax.Array, level: Level
) -> jax.Array:
    height, width = images.shape[1:3]
    side = min(height, width) * _SIDE[level.family]
    far, _, reach = look_up(level, _ELASTIC) * side

    points = _control_points(height, width)
    down, right = _affine_places(points, corners * reach, height, width)
    fine = _interpolated(images.astype(jnp.int32) << 7, down, right, repeat_edge=False)
    # A product with 1: XLA would compute the first warp anew for each pixel that the second reads.
    one = jnp.eye(images.shape[-1], dtype=jnp.float32)
    fine = jnp.matmul(fine.astype(jnp.float32), one, precision=jax.lax.Precision.HIGHEST)
    fine = fine.astype(jnp.int32)

    spreads = table_of(level, _ELASTIC)[:, 1] * side
    blur_down, blur_along = (
        look_up(level, (blurs, blurs))
        for blurs in (
            np.stack([reflecting_gaussian(n, s) for s in spreads]) for n in (height, width)
        )
    )
    smooth = filter_field(moves.reshape(-1, height, width) * 2.0**15, blur_down, blur_along)
    # In units of 1/256 pixel.
    shift = jnp.round(smooth * (far * 2.0**-7)).astype(jnp.int32).reshape(moves.shape)
    row, column = (
        np.arange(height, dtype=np.int32)[None, :, None],
        np.arange(width, dtype=np.int32)[None, None],
    )
    out = _interpolated(fine, shift[:, 0] + 256 * row, shift[:, 1] + 256 * column, repeat_edge=True)
    return (out >> 7).astype(jnp.uint8)


def _control_points(height: int, width: int) -> np.ndarray:
    """f32[3, 2], row and column: two on the diagonal through the middle, and one beside it."""
    middle, size = np.array([height // 2, width // 2]), min(height, width) // 3
    beside = middle + np.array([-size, size])
    return np.stack([middle + size, beside, middle - size]).astype(np.float32)


def _affine_places(
    points: np.ndarray, moves: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """Where each pixel comes from, i32[B, H, W] down and right in units of 1/256 pixel.

    The affine map takes each point to where it moves; pixels are read at its inverse.
    """
    ends = points[None] + moves
    # Edges of the triangle before and after, as the columns of 2x2 matrices.
    before = (points[:2] - points[2]).T
    first, second = ends[:, 0] - ends[:, 2], ends[:, 1] - ends[:, 2]
    area = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    area = jnp.where(abs(area) < 1e-3, 1e-3, area)  # a triangle that has become a line
    row, column = np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32)
    y = row[None, :, None] - ends[:, 2, 0, None, None]
    x = column[None, None] - ends[:, 2, 1, None, None]
    share = [
        (y * second[:, 1, None, None] - x * second[:, 0, None, None]) / area[:, None, None],
        (x * first[:, 0, None, None] - y * first[:, 1, None, None]) / area[:, None, None],
    ]
    down, right = (points[2, i] + before[i, 0] * share[0] + before[i, 1] * share[1] for i in (0, 1))
    # Far outside, reflections repeat; the bound keeps whole numbers small.
    far = 64.0 * max(height, width)
    down, right = (jnp.round(256 * jnp.clip(z, -far, far)).astype(jnp.int32) for z in (down, right))
    return down, right


def _interpolated(
    planes: jax.Array, down: jax.Array, right: jax.Array, *, repeat_edge: bool
) -> jax.Array:
    """Linear between the pixels of i32[B, H, W, C], below 2**15; places are in 1/256 pixel."""
    batch, height, width, channels = planes.shape
    flat = planes.reshape(-1, channels)
    first = height * jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    total = jnp.zeros(planes.shape, jnp.int32)
    for i in (0, 1):
        row = first + _reflected((down >> 8) + i, height, repeat_edge)
        row_share = down & 255 if i else 256 - (down & 255)
        for j in (0, 1):
            column = _reflected((right >> 8) + j, width, repeat_edge)
            share = row_share * (right & 255 if j else 256 - (right & 255))
            total = total + share[..., None] * flat[row * width + column]
    return total >> 16


def _reflected(place: jax.Array, size: int, repeat_edge: bool) -> jax.Array:
    """Folds places into 0 ... size - 1 at the edges, which are repeated or not."""
    period = 2 * size if repeat_edge else max(2 * size - 2, 1)
    place = place % period
    return jnp.minimum(place, period - int(repeat_edge) - place)
