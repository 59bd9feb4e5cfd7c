"""Separable filters of random fields, in whole numbers: the same sums in any order, batch, program.

A field holds whole numbers of up to 15 bits and a sign, weights are multiples of 2**-16, and the
field is filtered in two bytes, so that every sum is exact in float32.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions import streams
from semjax.corruptions.filtering import whole_weights

_UNIT = 2**16


def reflecting_gaussian(size: int, sigma: float) -> np.ndarray:
    """The normal blur of a line as a matrix: edges are reflected, cut off at 3 sigma.

    A reflection repeats the edge, and is reflected again where the blur reaches further.

    Args:
      size: N, points of the line.
      sigma: standard deviation in points; 0 blurs nothing.

    Returns:
      f32[N, N], whole multiples of 2**-16 times 2**16; each row sums to 2**16.

    Example:
      >>> from semjax.corruptions.fields import reflecting_gaussian
      >>> reflecting_gaussian(2, 0.4).astype(int).tolist()
      [[62889, 2647], [2647, 62889]]
    """
    radius = int(3 * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (offset / max(sigma, 1e-6)) ** 2)
    whole = whole_weights(weight / weight.sum(), _UNIT)
    source = np.pad(np.arange(size), radius, mode="symmetric")
    matrix = np.zeros((size, size), np.float32)
    for j, w in enumerate(whole):
        # Each row once for an offset, so that no entry is hit twice.
        matrix[np.arange(size), source[j : j + size]] += w
    return matrix


def zoom_matrix(size: int, factor: float) -> np.ndarray:
    """Zooms into the middle of a line, linearly between its points, as a matrix.

    The middle ceil(N / factor) points are spread over round(factor * that) points, ends on ends;
    of these the middle N remain.

    Args:
      size: N, points of the line.
      factor: how much larger it comes out, 1 or more.

    Returns:
      f32[N, N], whole multiples of 2**-16 times 2**16; each row sums to 2**16.

    Example:
      >>> from semjax.corruptions.fields import zoom_matrix
      >>> zoom_matrix(4, 2.0)[:2].astype(int).tolist()
      [[0, 65536, 0, 0], [0, 43691, 21845, 0]]

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), `clipped_zoom` of its code.
    """
    shown = int(np.ceil(size / factor))
    spread = round(shown * factor)
    place = (np.arange(size) + (spread - size) // 2) * ((shown - 1) / max(spread - 1, 1))
    weight = np.clip(1 - abs(place[:, None] - np.arange(shown)), 0, None)
    matrix = np.zeros((size, size), np.float32)
    first = (size - shown) // 2
    matrix[:, first : first + shown] = whole_weights(weight / weight.sum(1, keepdims=True), _UNIT)
    return matrix


def column(
    tables: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]], place: int
) -> tuple[Sequence[float], Sequence[float]]:
    """One of the constants of a pair of tables whose entries are several.

    Args:
      tables: the constants of ("cifar", "imagenet"), five entries each.
      place: which constant of each entry.

    Returns:
      The pair of tables of that constant.

    Example:
      >>> from semjax.corruptions.fields import column
      >>> column((((1, 2), (3, 4)), ((5, 6), (7, 8))), 1)
      ((2, 4), (6, 8))
    """
    cifar, imagenet = (tuple([entry[place] for entry in table]) for table in tables)
    return cifar, imagenet


def matrices(
    build: Callable[[int, float], np.ndarray],
    size: int,
    tables: tuple[Sequence[float], Sequence[float]],
) -> tuple[np.ndarray, np.ndarray]:
    """A matrix for each entry of a pair of tables, for `look_up` to choose from.

    Args:
      build: makes the matrix of a size and a constant.
      size: N.
      tables: the constants of ("cifar", "imagenet"), five each.

    Returns:
      A pair of f32[5, N, N].

    Example:
      >>> from semjax.corruptions.fields import matrices, zoom_matrix
      >>> matrices(zoom_matrix, 4, ((1, 1, 2, 2, 2), (3, 3, 3, 3, 3)))[0].shape
      (5, 4, 4)
    """
    cifar, imagenet = (np.stack([build(size, constant) for constant in table]) for table in tables)
    return cifar, imagenet


def filter_field(field: ArrayLike, down: ArrayLike, along: ArrayLike) -> jax.Array:
    """Applies a matrix down the columns and one along the rows of each field.

    Args:
      field: [B, H, W], whole numbers from -2**15 to 2**15.
      down: f32[H, H], of whole numbers of 0 or more whose rows sum to 2**16, which stands for 1.
      along: f32[W, W], likewise.

    Returns:
      f32[B, H, W], in units of the field; rounded to whole numbers between the two, not after.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.fields import filter_field, zoom_matrix
      >>> field = jnp.arange(16.0).reshape(1, 4, 4)
      >>> filter_field(field, zoom_matrix(4, 2.0), zoom_matrix(4, 1.0))[0, :, 0].round(2)
      Array([4.  , 5.33, 6.67, 8.  ], dtype=float32)
    """
    field = jnp.asarray(field, jnp.float32)
    lines = jnp.floor(_product(field, jnp.asarray(along).T) + 0.5)
    return _product(lines.swapaxes(1, 2), jnp.asarray(down).T).swapaxes(1, 2)


def _product(field: jax.Array, matrix: jax.Array) -> jax.Array:
    high = jnp.floor(field * 2.0**-8)
    low = field - high * 2.0**8
    exact = [jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST) for x in (high, low)]
    return (exact[0] + exact[1] * 2.0**-8) * 2.0**-8


def whole_normals(keys: jax.Array, height: int, width: int) -> jax.Array:
    """A field of normal values for each key, in whole numbers.

    Args:
      keys: keys [B], consumed here.
      height: H.
      width: W.

    Returns:
      f32[B, H, W], in units of 2**-12, whole and between -2**15 and 2**15.

    Example:
      >>> import jax
      >>> from semjax.corruptions.fields import whole_normals
      >>> z = whole_normals(jax.random.split(jax.random.key(0), 2), 64, 50)
      >>> z.shape, bool(abs(z.std() / 2**12 - 1) < 0.02)
      ((2, 64, 50), True)
    """
    normal = streams.normals(keys, height * width).reshape(-1, height, width)
    return jnp.round(normal * 2.0**12)


def grey_levels(
    field: ArrayLike, mean: ArrayLike, spread: ArrayLike, threshold: ArrayLike
) -> jax.Array:
    """What of a field is above a threshold, as grey levels.

    Values mean + spread * z below the threshold become 0; then [0, 1] becomes [0, 255], truncated.

    Args:
      field: f32[B, H, W], z in units of 2**-12.
      mean: f32[].
      spread: f32[].
      threshold: f32[].

    Returns:
      i32[B, H, W].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.fields import grey_levels
      >>> grey_levels(jnp.array([[[-4096.0, 0.0, 4096.0, 3e4]]]), 0.5, 0.25, 0.5)
      Array([[[  0, 127, 191, 255]]], dtype=int32)
    """
    # In units of 2**-10 grey levels.
    fine = jnp.round(jnp.asarray(field) * (jnp.asarray(spread) * (255 / 4))).astype(jnp.int32)
    mean, threshold = (
        jnp.round(jnp.asarray(x) * (255 * 2**10)).astype(jnp.int32) for x in (mean, threshold)
    )
    fine = fine + mean
    return jnp.where(fine >= threshold, jnp.clip(fine >> 10, 0, 255), 0)
