"""Edges of 8-bit maps, the distance to them, flat histograms: as OpenCV computes them, exactly."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# The lengths of a step to the side, along a diagonal, and of a knight in the 5x5 distance mask: 1,
# 1.4 and 2.1969, in whole numbers.
_STRAIGHT, _DIAGONAL, _KNIGHT = 10000, 14000, 21969
# The tangents of 22.5 degrees and of 67.5, in units of 2**-15 as OpenCV has them.
_TANGENT = 13573
_STEPS = 4


def canny_edges(maps: ArrayLike, low: int, high: int) -> jax.Array:
    """The edges of maps by Canny's method: where the gradient has a ridge, and it is high enough.

    The gradient is Sobel's, in the l1 norm; thinning keeps pixels that are largest along it, of
    four directions; those above `high` are edges, and those above `low` that touch an edge.

    Args:
      maps: [B, H, W] of whole numbers from 0 to 255.
      low: where the gradient of an edge must be above.
      high: and be above somewhere along each edge.

    Returns:
      bool[B, H, W].

    Raises:
      ValueError: maps of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.edges import canny_edges
      >>> canny_edges(jnp.zeros((1, 3, 5)).at[..., 3:].set(99), 50, 150)[0, 1]
      Array([False, False,  True, False, False], dtype=bool)

    References:
      Canny 1986, A computational approach to edge detection; OpenCV's `Canny`, with which the
      result agrees exactly.
    """
    maps = _checked(maps).astype(jnp.int32)
    height, width = maps.shape[1:]
    dx = _whole_product(maps, _stencil(height, 1, 2, 1), _stencil(width, -1, 0, 1))
    dy = _whole_product(maps, _stencil(height, -1, 0, 1), _stencil(width, 1, 2, 1))
    size = abs(dx) + abs(dy)
    side = jnp.pad(size, ((0, 0), (1, 1), (1, 1)))

    def neighbour(i: int, j: int) -> jax.Array:
        return side[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width]

    flat, steep = abs(dx) * _TANGENT, abs(dy) << 15
    horizontal, vertical = steep < flat, steep > flat + (abs(dx) << 16)
    rising = (dx ^ dy) < 0
    before = jnp.where(rising, neighbour(-1, 1), neighbour(-1, -1))
    after = jnp.where(rising, neighbour(1, -1), neighbour(1, 1))
    # Of two equal neighbours the earlier one is the ridge.
    ridge = jnp.where(
        horizontal,
        (size > neighbour(0, -1)) & (size >= neighbour(0, 1)),
        jnp.where(
            vertical,
            (size > neighbour(-1, 0)) & (size >= neighbour(1, 0)),
            (size > before) & (size > after),
        ),
    )
    weak = ridge & (size > low)
    return _grown(weak & (size > high), weak)


def _grown(strong: jax.Array, weak: jax.Array) -> jax.Array:
    """The pixels of `weak` that are joined to `strong`, over sides and corners."""

    def step(edges: jax.Array) -> jax.Array:
        for axis in (1, 2):
            edged = jnp.pad(edges, [(0, 0)] + [(int(axis == a),) * 2 for a in (1, 2)])
            size = edges.shape[axis]
            one = jax.lax.slice_in_dim(edged, 0, size, axis=axis)
            two = jax.lax.slice_in_dim(edged, 2, size + 2, axis=axis)
            edges = edges | one | two
        return edges & weak

    def body(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        edges, _ = state
        grown = edges
        for _ in range(_STEPS):
            grown = step(grown)
        return grown, (grown != edges).any()

    return jax.lax.while_loop(lambda state: state[1], body, (strong, jnp.bool_(True)))[0]


def distance_to(marks: ArrayLike, *, most: int) -> jax.Array:
    """The distance of every pixel to the nearest mark, cut off at `most`.

    The length of a way of straight, diagonal and knight's steps of 1, 1.4 and 2.1969, close to the
    Euclidean one. That is a norm, so that the search splits: along rows first, then along columns.

    Args:
      marks: bool[B, H, W].
      most: the cut, at least 1.

    Returns:
      i32[B, H, W], from 0 to `most` in units of 1 / 10000; `most` everywhere if nothing is marked.

    Raises:
      ValueError: marks of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.edges import distance_to
      >>> marks = jnp.zeros((1, 2, 5), bool).at[0, 0, 0].set(True)
      >>> (distance_to(marks, most=3) / 10000)[0]
      Array([[0.    , 1.    , 2.    , 3.    , 3.    ],
             [1.    , 1.4   , 2.1969, 3.    , 3.    ]], dtype=float32)

    References:
      Borgefors 1986, Distance transformations in digital images; OpenCV's `distanceTransform` with
      a 5x5 mask, with which the result agrees.
    """
    marks = _checked(marks)
    height, width = marks.shape[1:]
    place = jnp.arange(width, dtype=jnp.int32)[None, None]
    before = jax.lax.cummax(jnp.where(marks, place, -most), axis=2)
    after = jax.lax.cummin(jnp.where(marks, place, width + most), axis=2, reverse=True)
    along = jnp.minimum(jnp.minimum(place - before, after - place), most)
    reach = min(most, height - 1)
    edged = jnp.pad(along, ((0, 0), (reach, reach), (0, 0)), constant_values=most)
    nearest = along * _STRAIGHT
    for step in range(1, reach + 1):
        starts = reach - step, reach + step
        rows = [jax.lax.slice_in_dim(edged, z, z + height, axis=1) for z in starts]
        # The norm grows with either coordinate: of two rows as far, the nearer mark counts.
        nearest = jnp.minimum(nearest, _length(jnp.minimum(*rows), step))
    return jnp.minimum(nearest, most * _STRAIGHT)


def _length(along: jax.Array, across: int) -> jax.Array:
    """The norm of a difference of coordinates, neither negative."""
    larger, smaller = jnp.maximum(along, across), jnp.minimum(along, across)
    slim = (larger - 2 * smaller) * _STRAIGHT + smaller * _KNIGHT
    wide = (larger - smaller) * _KNIGHT + (2 * smaller - larger) * _DIAGONAL
    return jnp.where(larger > 2 * smaller, slim, wide)


def flattened(maps: ArrayLike, *, most: int) -> jax.Array:
    """Spreads the values of each map so that their histogram is as flat as can be.

    Value v becomes round(255 * (n(v) - n(least)) / (n(most) - n(least))) for n(v) pixels at v or
    below, from the least value of the map to its most. A map of one value stays as it is.

    Args:
      maps: [B, H, W] of whole numbers from 0 to `most`.
      most: the largest value there may be.

    Returns:
      i32[B, H, W] from 0 to 255.

    Raises:
      ValueError: maps of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.edges import flattened
      >>> flattened(jnp.array([[[1, 1, 2, 4]]]), most=4)
      Array([[[  0,   0, 128, 255]]], dtype=int32)

    References:
      OpenCV's `equalizeHist`, with which the result agrees exactly.
    """
    maps = _checked(maps).astype(jnp.int32)
    # Where each map's count of each value stands.
    start = (most + 1) * jnp.arange(len(maps), dtype=jnp.int32)[:, None, None]
    count = jnp.zeros((len(maps) * (most + 1),), jnp.int32).at[(maps + start).ravel()].add(1)
    below = jnp.cumsum(count.reshape(len(maps), most + 1), 1)
    pixels = below[:, -1:]
    least = jnp.min(jnp.where(below > 0, below, pixels), axis=1, keepdims=True)
    scale = 255 / jnp.maximum(pixels - least, 1).astype(jnp.float32)
    table = jnp.round(jnp.maximum(below - least, 0).astype(jnp.float32) * scale).astype(jnp.int32)
    spread = table.ravel()[maps + start]
    return jnp.where((least < pixels)[:, :, None], spread, maps)


def relief(liquid: ArrayLike) -> jax.Array:
    """Drops of liquid as they bulge: the distance to their edges, lit from the upper left.

    The distance to Canny's edges (thresholds 50 and 150), up to 20 and smoothed, is made flat in
    its histogram, embossed and smoothed again; every step is rounded to 8 bits.

    Args:
      liquid: i32[B, H, W], grey levels from 0 to 255.

    Returns:
      i32[B, H, W], grey levels from 0 to 255.

    Raises:
      ValueError: liquid of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.edges import relief
      >>> relief(jnp.zeros((1, 8, 8), jnp.int32).at[0, 2:6, 2:6].set(200)).shape
      (1, 8, 8)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), `spatter` of its code.
    """
    distance = distance_to(canny_edges(liquid, 50, 150), most=20)
    distance = jax.lax.div(_box(distance), 9 * _STRAIGHT)
    flat = flattened(distance, most=20)
    around = jnp.pad(flat, ((0, 0), (1, 1), (1, 1)), mode="reflect")
    height, width = flat.shape[1:]
    light = {(0, 0): -2, (0, 1): -1, (1, 0): -1, (1, 1): 1, (1, 2): 1, (2, 1): 1, (2, 2): 2}
    slope = sum(w * around[:, i : i + height, j : j + width] for (i, j), w in light.items())
    return jax.lax.div(2 * _box(jnp.clip(slope, 0, 255)) + 9, 18)


def _box(maps: jax.Array) -> jax.Array:
    """The sums over 3x3 pixels of i32[B, H, W], below 2**24; edges are reflected."""
    down, along = (_stencil(size, 1, 1, 1, mode="reflect") for size in maps.shape[1:])
    return _whole_product(maps, down, along)


def _stencil(size: int, *weights: float, mode: Literal["edge", "reflect"] = "edge") -> np.ndarray:
    """f32[N, N], which weighs the points before, at and after each point."""
    source = np.pad(np.arange(size), 1, mode=mode)
    identity = np.eye(size, dtype=np.float32)
    return np.sum([w * identity[source[j : j + size]] for j, w in enumerate(weights)], 0)


def _whole_product(maps: jax.Array, down: np.ndarray, along: np.ndarray) -> jax.Array:
    """Applies matrices of whole numbers down the columns and along the rows of i32[B, H, W].

    Exact below 2**24. A product, since XLA computes the input of a stencil anew for each neighbour.
    """
    field = maps.astype(jnp.float32)
    for matrix in (along, down):
        product = jnp.matmul(field, jnp.asarray(matrix.T), precision=jax.lax.Precision.HIGHEST)
        field = product.swapaxes(1, 2)
    return field.astype(jnp.int32)


def _checked(maps: ArrayLike) -> jax.Array:
    maps = jnp.asarray(maps)
    if maps.ndim != 3:
        raise ValueError(f"maps must be [B, H, W]; found shape {maps.shape}")
    return maps
