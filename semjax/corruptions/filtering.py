"""Filters in whole numbers: a pixel comes out the same in any batch, program and order of sums.

Weights are multiples of a power of two that sum to 1 exactly, and every sum stays in the range in
which float32 or int32 is exact. So no result depends on how a compiler orders or fuses the sums,
flat areas stay exactly flat, and what is lost is about 0.01 grey levels. Results are truncated to
8 bits, as those of the original code.
"""

import jax
import jax.numpy as jnp
import numpy as np

# 255 * 2**16 < 2**24, up to which float32 holds every whole number.
_UNIT = 2**16
#: Images of up to so many pixels are filtered by one dense matrix if the filter is large.
DENSE_PIXELS = 1024
#: A filter is large if it reaches further than this, in pixels.
DENSE_REACH = 4


def whole_weights(weights: np.ndarray, unit: int) -> np.ndarray:
    """Weights in whole multiples of 1 / unit, whose sum along the last axis is kept.

    Args:
      weights: floating [..., N], of sums that are multiples of 1 / unit up to rounding.
      unit: what a weight of 1 becomes.

    Returns:
      i64[..., N]: the weights times unit, rounded, what is left over added to the largest.

    Example:
      >>> import numpy as np
      >>> from semjax.corruptions.filtering import whole_weights
      >>> whole_weights(np.full(3, 1 / 3), 16).tolist()
      [6, 5, 5]
    """
    weights = np.asarray(weights, np.float64)
    whole = np.round(weights * unit).astype(np.int64)
    largest = weights.argmax(-1)[..., None]
    left = np.round(weights.sum(-1) * unit).astype(np.int64) - whole.sum(-1)
    np.put_along_axis(whole, largest, np.take_along_axis(whole, largest, -1) + left[..., None], -1)
    return whole


def gaussian_matrix(size: int, sigma: float) -> np.ndarray:
    """The normal blur of a line of pixels as a matrix: edges are repeated, cut off at 4 sigma.

    Args:
      size: N, pixels of the line.
      sigma: standard deviation in pixels.

    Returns:
      f32[N, N], whole multiples of 2**-16 times 2**16; each row sums to 2**16.

    Example:
      >>> from semjax.corruptions.filtering import gaussian_matrix
      >>> gaussian_matrix(3, 0.1).astype(int).tolist()
      [[65536, 0, 0], [0, 65536, 0], [0, 0, 65536]]
    """
    radius = int(4 * sigma + 0.5)
    offset = np.arange(-radius, radius + 1)
    weight = np.exp(-0.5 * (offset / sigma) ** 2)
    whole = whole_weights(weight / weight.sum(), _UNIT)
    matrix = np.zeros((size, size), np.float32)
    rows = np.arange(size)
    for j, w in zip(offset, whole, strict=True):
        # Each row once for an offset, so that no entry is hit twice.
        matrix[rows, np.clip(rows + j, 0, size - 1)] += w
    return matrix


def filter_separable(images: jax.Array, down: jax.Array, along: jax.Array) -> jax.Array:
    """Applies a matrix down the columns and one along the rows of each channel.

    Args:
      images: uint8[B, H, W, C].
      down: f32[H, H], of whole numbers of 0 or more whose rows sum to 2**16, which stands for 1.
      along: f32[W, W], likewise.

    Returns:
      uint8[B, H, W, C], truncated.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.filtering import filter_separable, gaussian_matrix
      >>> image = jnp.zeros((1, 3, 3, 1), jnp.uint8).at[0, 1, 1].set(100)
      >>> blur = jnp.asarray(gaussian_matrix(3, 0.5))
      >>> filter_separable(image, blur, blur)[0, :, :, 0].tolist()
      [[1, 8, 1], [8, 61, 8], [1, 8, 1]]
    """
    planes = jnp.transpose(images, (0, 3, 1, 2)).astype(jnp.float32)
    lines = exact_product(planes, along.T)
    # Three bytes, whose sums of products are exact again; products by powers of two are, too.
    lines = lines.swapaxes(-1, -2)
    high, rest = _divided(lines, 2.0**16)
    middle, low = _divided(rest, 2.0**8)
    high, middle, low = (exact_product(part, down.T) for part in (high, middle, low))
    filtered = high + (middle * 2.0**-8 + low * 2.0**-16)
    return _truncated(filtered).transpose(0, 3, 2, 1)


def _divided(x: jax.Array, divisor: float) -> tuple[jax.Array, jax.Array]:
    quotient = jnp.floor(x * (1 / divisor))
    return quotient, x - quotient * divisor


def _truncated(filtered: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.floor(filtered * (1 / _UNIT)), 255).astype(jnp.uint8)


def exact_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """The matrix product of whole numbers, exact as long as no sum exceeds 2**24.

    Args:
      x: f32[..., N], whole numbers.
      matrix: f32[N, M], whole numbers.

    Returns:
      f32[..., M].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.filtering import exact_product
      >>> exact_product(jnp.full((1, 2), 2.0**23 - 1), jnp.ones((2, 1)))[0, 0] == 2**24 - 2
      Array(True, dtype=bool)
    """
    # By default some devices multiply in fewer bits.
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


def sum_of_products(down: jax.Array, along: jax.Array) -> jax.Array:
    """The matrix that does what K pairs of matrices do together, down the columns and along rows.

    Args:
      down: f32[K, H, H], whole numbers; [k, i, j] is the weight of row i in row j.
      along: f32[K, W, W], likewise for columns.

    Returns:
      f32[H * W, H * W], the sum over k of their Kronecker products.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.filtering import sum_of_products
      >>> sum_of_products(jnp.array([[[2.0]], [[3.0]]]), jnp.array([[[5.0]], [[7.0]]]))
      Array([[31.]], dtype=float32)
    """
    terms, height, width = len(down), down.shape[1], along.shape[1]
    products = exact_product(down.reshape(terms, -1).T, along.reshape(terms, -1))
    products = products.reshape(height, height, width, width).transpose(0, 2, 1, 3)
    return products.reshape(height * width, height * width)


def filter_dense(images: jax.Array, matrix: jax.Array) -> jax.Array:
    """Applies one matrix to all pixels of each channel.

    Args:
      images: uint8[B, H, W, C].
      matrix: f32[H * W, H * W], of whole numbers of 0 or more; [i, j] is the weight of pixel i in
        pixel j; 2**16 stands for 1, about what each j's weights sum to.

    Returns:
      uint8[B, H, W, C], truncated and at most 255.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.filtering import filter_dense
      >>> image = jnp.array([10, 31], jnp.uint8).reshape(1, 1, 2, 1)
      >>> filter_dense(image, jnp.full((2, 2), 2.0**15)).ravel()
      Array([20, 20], dtype=uint8)
    """
    flat = images.reshape(len(images), -1, images.shape[-1]).swapaxes(1, 2)
    filtered = exact_product(flat.astype(jnp.float32), matrix)
    return _truncated(filtered).swapaxes(1, 2).reshape(images.shape)


def disc_kernel(radius: float, blur: float) -> np.ndarray:
    """A disc whose rim is softened by a normal blur, as the quarter of a symmetric kernel.

    On a grid of 17 x 17, or as large as the disc if it is larger; pixels within the radius get the
    same weight, then the grid is blurred, over 3 x 3 pixels or over 5 x 5 on a larger grid,
    reflected at its edges.

    Args:
      radius: of the disc, in pixels.
      blur: the standard deviation of the blur, in pixels.

    Returns:
      f64[R + 1, R + 1], the weights at rows and columns 0 ... R from the centre; the whole kernel
      sums to 1, or a little more or less if the disc reaches the edge of the grid.

    Example:
      >>> from semjax.corruptions.filtering import disc_kernel
      >>> disc_kernel(1.0, 0.01)[:2, :2].round(3).tolist()
      [[0.2, 0.2], [0.2, 0.0]]
    """
    reach = 8 if radius <= 8 else int(radius)
    rim = 1 if radius <= 8 else 2
    offset = np.arange(-reach, reach + 1)
    disc = (offset[:, None] ** 2 + offset[None] ** 2 <= radius**2).astype(np.float64)
    tap = np.exp(-(np.arange(-rim, rim + 1) ** 2) / (2 * blur**2))
    tap /= tap.sum()
    soft = disc / disc.sum()
    for axis in (0, 1):
        pad = [(rim, rim) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(soft, pad, mode="reflect")
        size = len(offset)
        soft = sum(t * np.take(padded, np.arange(size) + j, axis) for j, t in enumerate(tap))
    return soft[reach:, reach:]


def filter_symmetric(images: jax.Array, kernel: jax.Array) -> jax.Array:
    """Filters by a kernel that is the same left and right, up and down; edges are reflected.

    The edge pixel itself is not repeated by the reflection.

    Args:
      images: uint8[B, H, W, C].
      kernel: f32[R + 1, R + 1], the quarter of the kernel, of whole numbers of 0 or more; 2**16
        stands for 1, about what the whole kernel sums to.

    Returns:
      uint8[B, H, W, C], truncated and at most 255.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.filtering import filter_symmetric
      >>> image = jnp.arange(9, dtype=jnp.uint8).reshape(1, 3, 3, 1)
      >>> cross = jnp.array([[2.0**15, 2.0**13], [2.0**13, 0.0]])
      >>> filter_symmetric(image, cross)[0, :, :, 0].tolist()
      [[1, 1, 2], [3, 4, 4], [5, 6, 7]]
    """
    reach = kernel.shape[0] - 1
    height, width = images.shape[1:3]
    # Rows at the same distance above and below share their weights, and so do columns.
    beside = _at_distance(width, reach)
    along = jnp.einsum("dj,jvw->dvw", kernel, beside, precision=jax.lax.Precision.HIGHEST)
    if reach > DENSE_REACH and height * width <= DENSE_PIXELS:
        return filter_dense(images, sum_of_products(_at_distance(height, reach), along))
    planes = jnp.transpose(images, (0, 3, 1, 2)).astype(jnp.float32)
    around = planes.at[:, :, _reflected(height, reach)].get(mode="promise_in_bounds")
    total = exact_product(planes, along[0])
    for d in range(1, reach + 1):
        above, below = (around[:, :, at : at + height] for at in (reach - d, reach + d))
        total = total + exact_product(above + below, along[d])
    return _truncated(total).transpose(0, 2, 3, 1)


def _at_distance(size: int, reach: int) -> jax.Array:
    """f32[R + 1, N, N], [d, i, j]: how often pixel i of a line is at distance d from j."""
    source = jnp.asarray(_reflected(size, reach))[None, :]
    hits = (source == jnp.arange(size, dtype=jnp.int32)[:, None]).astype(jnp.float32)
    steps = [hits[:, at : at + size] for at in range(2 * reach + 1)]
    pairs = [steps[reach - d] + steps[reach + d] for d in range(1, reach + 1)]
    return jnp.stack([steps[reach], *pairs])


def _reflected(size: int, reach: int) -> np.ndarray:
    return np.pad(np.arange(size, dtype=np.int32), reach, mode="reflect")


def smear(images: jax.Array, degrees: jax.Array, weights: jax.Array) -> jax.Array:
    """Averages along a line from each pixel, of a direction for each image; edges are repeated.

    Tap i is the pixel nearest to i steps in the direction: (ceil(i sin - 1/2), ceil(i cos - 1/2))
    rows down and columns right.

    Args:
      images: uint8[B, H, W, C].
      degrees: f32[B], 0 to the right, 90 down.
      weights: i32[N], the weight of each tap, 0 or more, that sum to 2**22, which stands for 1.

    Returns:
      uint8[B, H, W, C], truncated.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.filtering import smear
      >>> row = jnp.array([0, 0, 100, 0], jnp.uint8).reshape(1, 1, 4, 1)
      >>> smear(row, jnp.zeros(1), jnp.array([2**21, 2**20, 2**20])).ravel()
      Array([25, 25, 50,  0], dtype=uint8)
    """
    batch, height, width, channels = images.shape
    angle = jnp.deg2rad(degrees)
    # In units of 2**-20 steps.
    sine, cosine = (jnp.round(f(angle) * 2.0**20).astype(jnp.int32) for f in (jnp.sin, jnp.cos))
    row = jnp.arange(height, dtype=jnp.int32)[None, :]
    column = jnp.arange(width, dtype=jnp.int32)[None, :]
    flat = images.reshape(batch, height * width, channels)
    total = jnp.zeros(flat.shape, jnp.int32)
    for i in range(len(weights)):
        down, right = (-((2**20 - 2 * i * x) >> 21)[:, None] for x in (sine, cosine))
        source_row = jnp.clip(row + down, 0, height - 1)
        source_column = jnp.clip(column + right, 0, width - 1)
        source = (source_row[:, :, None] * width + source_column[:, None]).reshape(batch, -1)
        tap = jnp.take_along_axis(flat, source[:, :, None], 1, mode="promise_in_bounds")
        total = total + tap.astype(jnp.int32) * weights[i]
    return (total >> 22).astype(jnp.uint8).reshape(images.shape)
