"""Corruptions that read pixels from elsewhere: local shuffles and mean zooms, in whole numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from semjax.corruptions.filtering import DENSE_PIXELS, filter_dense, sum_of_products

#: The finest fraction of a pixel that `mean_zoom` reads at is 1 / 2**FRACTION_BITS.
FRACTION_BITS = 9


def shuffle_sources(down: jax.Array, right: jax.Array, reach: jax.Array) -> jax.Array:
    """Where each pixel comes from in a pass of glass blur, all pixels at once.

    The original walks over rows h = H - r, ..., r + 1 and, in each, columns w = W - r, ..., r + 1,
    and exchanges the pixel (h, w) with that at (h + down, w + right). It exchanges views of one
    array, not values: (h, w) becomes the other pixel, and the other stays as it is. So the pixels
    of CIFAR-10-C are copied, not swapped, and each new pixel is an old one or one that is new
    already: chains of pointers, whose ends are found by doubling instead of a walk.

    Args:
      down: i32[B, H, W], from -reach to reach - 1.
      right: i32[B, H, W], from -reach to reach - 1.
      reach: i32[], r, at least 1.

    Returns:
      i32[B, H * W]: for each pixel, the flat place that it is a copy of.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.moves import shuffle_sources
      >>> left = -jnp.ones((1, 4, 4), jnp.int32)
      >>> shuffle_sources(0 * left, left, jnp.array(1)).reshape(4, 4).tolist()
      [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 10], [12, 13, 13, 14]]

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), `glass_blur` of its code.
    """
    batch, height, width = down.shape
    pixels = height * width
    row = jnp.arange(height, dtype=jnp.int32)[:, None]
    column = jnp.arange(width, dtype=jnp.int32)[None, :]
    walked = (reach < row) & (row <= height - reach) & (reach < column) & (column <= width - reach)
    own = row * width + column
    other_row, other_column = row[None] + down, column[None] + right
    other = other_row * width + other_column
    other_walked = (
        (reach < other_row)
        & (other_row <= height - reach)
        & (reach < other_column)
        & (other_column <= width - reach)
    )
    # Places from `pixels` on stand for old pixels, at which a chain ends.
    end = jnp.where(other_walked & (other > own[None]), other, other + pixels)
    pointer = jnp.where(walked[None], end, own[None] + pixels).reshape(batch, pixels)

    def further(pointer: jax.Array) -> jax.Array:
        # Each round doubles the stretch of a chain that a pointer spans.
        inner = jnp.minimum(pointer, pixels - 1)
        end = jnp.take_along_axis(pointer, inner, 1, mode="promise_in_bounds")
        return jnp.where(pointer < pixels, end, pointer)

    pointer = jax.lax.while_loop(lambda pointer: (pointer < pixels).any(), further, pointer)
    return pointer - pixels


def zoom_places(size: int, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of a line come from when its middle is zoomed to fill it.

    The middle ceil(N / f) pixels are stretched to round(f ceil(N / f)), first onto first and last
    onto last; of those the middle N are kept.

    Args:
      size: N, pixels of the line.
      factors: f64[K], at least 1.

    Returns:
      The place of the left one of two neighbours, i32[K, N], and the share of the right one in
      units of 2**-FRACTION_BITS, i32[K, N].

    Example:
      >>> import numpy as np
      >>> from semjax.corruptions.moves import zoom_places
      >>> place, share = zoom_places(4, np.array([1.0, 2.0]))
      >>> place.tolist(), share[1].tolist()
      ([[0, 1, 2, 2], [1, 1, 1, 2]], [0, 171, 341, 0])
    """
    places, shares = [], []
    for factor in factors:
        cut = math.ceil(size / factor)
        stretched = round(cut * factor)
        first = (stretched - size) // 2
        step = (cut - 1) / (stretched - 1) if stretched > 1 else 0.0
        position = (size - cut) // 2 + (first + np.arange(size)) * step
        # The last pixel has no right neighbour: it is the whole share of the one before it.
        place = np.clip(np.floor(position), 0, max(size - 2, 0)).astype(np.int32)
        places.append(place)
        shares.append(np.round((position - place) * 2**FRACTION_BITS).astype(np.int32))
    return np.stack(places), np.stack(shares)


def mean_zoom(
    images: jax.Array,
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    count: jax.Array,
) -> jax.Array:
    """The mean of an image and its zooms, each interpolated linearly between four pixels.

    Args:
      images: uint8[B, H, W, C].
      rows: the places and shares of `zoom_places`, i32[K, H] each.
      columns: the same for columns, i32[K, W] each.
      count: i32[], how many of the K zooms there are; the others are left out. At most 30.

    Returns:
      uint8[B, H, W, C], truncated.

    Example:
      >>> import jax.numpy as jnp, numpy as np
      >>> from semjax.corruptions.moves import mean_zoom, zoom_places
      >>> places = tuple(map(jnp.asarray, zoom_places(2, np.array([2.0]))))
      >>> image = jnp.array([[0, 100], [200, 40]], jnp.uint8).reshape(1, 2, 2, 1)
      >>> mean_zoom(image, places, places, jnp.array(1)).ravel().tolist()
      [0, 50, 100, 20]
    """
    batch, height, width, channels = images.shape
    pixels = height * width
    flat = images.reshape(batch, pixels, channels)
    if pixels <= DENSE_PIXELS:
        return filter_dense(images, _zoom_matrix(rows, columns, count))
    # The image itself and K zooms: 31 * 255 * 2**18 < 2**31.
    total = flat.astype(jnp.int32) << (2 * FRACTION_BITS)
    for k in range(len(rows[0])):
        for row, weight in _neighbours(rows, k, height):
            for column, share in _neighbours(columns, k, width):
                source = (row[:, None] * width + column[None, :]).ravel()
                product = jnp.where(k < count, weight[:, None] * share[None, :], 0).ravel()
                pixel = flat.at[:, source].get(mode="promise_in_bounds").astype(jnp.int32)
                total = total + pixel * product[None, :, None]
    # A flat area is a multiple of the divisor, of which the product may fall short.
    guarded = (total + 2 ** (FRACTION_BITS + 2)).astype(jnp.float32)
    mean = guarded * (2.0 ** (-2 * FRACTION_BITS) / (1 + count.astype(jnp.float32)))
    return jnp.floor(mean).astype(jnp.uint8).reshape(images.shape)


def _neighbours(
    axis: tuple[jax.Array, jax.Array], k: int, size: int
) -> list[tuple[jax.Array, jax.Array]]:
    """The two places that zoom k reads at along an axis, and their weights."""
    place, share = axis[0][k], axis[1][k]
    following = jnp.minimum(place + 1, size - 1)
    return [(place, 2**FRACTION_BITS - share), (following, share)]


def _zoom_matrix(
    rows: tuple[jax.Array, jax.Array], columns: tuple[jax.Array, jax.Array], count: jax.Array
) -> jax.Array:
    """f32[H W, H W]: the mean of all zooms at once, in whole numbers; columns sum to 2**16."""

    def weights(axis: tuple[jax.Array, jax.Array]) -> jax.Array:
        most, size = axis[0].shape
        source = jnp.arange(size, dtype=jnp.int32)[:, None]
        lines = [
            sum(w[None, :] * (place[None, :] == source) for place, w in _neighbours(axis, k, size))
            for k in range(most)
        ]
        return jnp.stack(lines).astype(jnp.float32)

    down = weights(rows)
    there = (jnp.arange(len(down), dtype=jnp.int32) < count)[:, None, None]
    total = sum_of_products(jnp.where(there, down, 0), weights(columns))
    own = jnp.eye(len(total), dtype=jnp.float32)
    scale = 2.0 ** (16 - 2 * FRACTION_BITS) / (1 + count.astype(jnp.float32))
    matrix = jnp.round((total + own * 2.0 ** (2 * FRACTION_BITS)) * scale)
    # The pixel itself takes what rounding leaves over.
    return matrix + own * (2.0**16 - matrix.sum(0, keepdims=True))
