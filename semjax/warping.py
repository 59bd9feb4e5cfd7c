"""Linear warps of a grid of cells, exact on every grid: area resampling, zooming, moving blocks.

A mix carries its warps in units of the whole image, so that pixels and feature maps of any size are
warped alike. Every warp here is linear in x and leaves constants as they are.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def area_resample(x: ArrayLike, height: int, width: int) -> jax.Array:
    """Resamples maps to another grid by exact area averaging, which keeps each map's mean.

    Args:
      x: f32[B, H, W, C].
      height: h, rows of the new grid; larger or smaller than H.
      width: w, columns of the new grid.

    Returns:
      f32[B, h, w, C]; `x` itself when the grid is its own.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.warping import area_resample
      >>> area_resample(jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1), 2, 1).ravel()
      Array([0.6666667, 0.       ], dtype=float32)
    """
    x = jnp.asarray(x)
    rows, columns = x.shape[1:3]
    if (rows, columns) == (height, width):
        return x
    return jnp.einsum(
        "ah,bhwc,dw->badc",
        _area_matrix(height, rows),
        x,
        _area_matrix(width, columns),
        precision=jax.lax.Precision.HIGHEST,  # a TPU's default would round a mask to bfloat16
    )


def zoom_into(x: ArrayLike, box: ArrayLike) -> jax.Array:
    """Resizes the whole of every map into a box of its own grid, by area averaging.

    A cell of the box is the average of x over what the cell shows; of a cell that the box covers in
    part, only that part counts. Cells outside the box are 0.

    Args:
      x: f32[B, h, w, C].
      box: f32[B, 4]: top, left, height and width, as fractions of the grid. (0, 0, 1, 1) returns x,
        exactly; a box without area returns 0.

    Returns:
      f32[B, h, w, C].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.warping import zoom_into
      >>> x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(1, 1, 4, 1)
      >>> zoom_into(x, jnp.array([[0.0, 0.5, 1.0, 0.5]])).ravel()
      Array([0., 0., 2., 6.], dtype=float32)

    References:
      Qin et al. 2020, ResizeMix (arXiv:2012.11101), for its use.
    """
    x, box = jnp.asarray(x), jnp.asarray(box, jnp.float32)
    return jnp.einsum(
        "bah,bhwc,bdw->badc",
        _zoom_matrix(x.shape[1], box[:, 0], box[:, 2]),
        x,
        _zoom_matrix(x.shape[2], box[:, 1], box[:, 3]),
        precision=jax.lax.Precision.HIGHEST,
    )


def move_cells(x: ArrayLike, transport: ArrayLike) -> jax.Array:
    """Rearranges the cells of every map: out(a, b) = sum_cd transport(a, b, c, d) * x(c, d).

    Where x's grid is a multiple of the transport's, every cell is a block of x and moves as it is.
    On another grid x is brought to the transport's by area averaging, and what moving changes there
    is brought back and added, so that a transport that moves nothing returns x, exactly.

    Args:
      x: f32[B, H, W, C].
      transport: f32[B, h, w, h, w], what each cell (a, b) takes from each cell (c, d); the shares
        of a cell sum to 1.

    Returns:
      f32[B, H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.warping import move_cells
      >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 1, 2, 1, 2)
      >>> move_cells(jnp.arange(4.0).reshape(1, 1, 4, 1), swap).ravel()
      Array([2., 3., 0., 1.], dtype=float32)

    References:
      Kim et al. 2020, Puzzle Mix (arXiv:2009.06962), section 3.2, for its use.
    """
    x, transport = jnp.asarray(x), jnp.asarray(transport, jnp.float32)
    height, width = x.shape[1:3]
    rows, columns = transport.shape[1:3]
    if height % rows or width % columns:
        coarse = area_resample(x, rows, columns)
        moved = move_cells(coarse, transport) - coarse
        return x + area_resample(moved, height, width)
    blocks = x.reshape(len(x), rows, height // rows, columns, width // columns, x.shape[3])
    moved = jnp.einsum(
        "baecd,bcpdqk->bapeqk", transport, blocks, precision=jax.lax.Precision.HIGHEST
    )
    return moved.reshape(x.shape)


def _area_matrix(cells_out: int, cells_in: int) -> np.ndarray:
    """f32[out, in]: the share of each input cell in the average over each output cell."""
    edges = np.arange(cells_out + 1) * (cells_in / cells_out)
    inner = np.arange(cells_in + 1)
    upper = np.minimum(edges[1:, None], inner[None, 1:])
    lower = np.maximum(edges[:-1, None], inner[None, :-1])
    return (np.clip(upper - lower, 0, None) * (cells_out / cells_in)).astype(np.float32)


def _zoom_matrix(cells: int, start: jax.Array, length: jax.Array) -> jax.Array:
    """f32[B, out, in]: the share of each cell in what each cell shows of the zoomed axis."""
    start, length = start[:, None], length[:, None]
    edges = jnp.arange(cells + 1, dtype=jnp.float32)[None]
    # What lies before each edge, in cells of the axis before zooming.
    shown = jnp.clip((edges - start * cells) / jnp.maximum(length, 1e-6), 0, cells)
    upper = jnp.minimum(shown[:, 1:, None], edges[:, None, 1:])
    lower = jnp.maximum(shown[:, :-1, None], edges[:, None, :-1])
    overlap = jnp.clip(upper - lower, 0, None)
    share = overlap / jnp.maximum(overlap.sum(2, keepdims=True), 1e-6)
    return jnp.where(length[:, :, None] > 0, share, 0.0)
