"""The linear warps against loops over cells, and what they leave as it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from semjax.warping import area_resample, move_cells, zoom_into

# Compiled as wholes: a test visits many shapes.
zoom, move = jax.jit(zoom_into), jax.jit(move_cells)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def axis_zoomed(cells, start, length):
    """[out, in]: what a box on one axis shows, cell of the box by cell of the axis."""
    shares = np.zeros((cells, cells))
    for out, cell in itertools.product(range(cells), range(cells)):
        # The stretch of the picture in which this cell of the axis is shown.
        left = start * cells + cell * length
        shares[out, cell] = max(0, min(left + length, out + 1) - max(left, out))
    totals = shares.sum(1, keepdims=True)
    return np.divide(shares, totals, out=np.zeros_like(shares), where=totals > 1e-6)


def zoomed(x, box):
    rows = []
    for picture, (top, left, height, width) in zip(np.float64(x), np.float64(box), strict=True):
        vertical = axis_zoomed(picture.shape[0], top, height)
        horizontal = axis_zoomed(picture.shape[1], left, width)
        rows.append(np.einsum("ah,hwc,dw->adc", vertical, picture, horizontal))
    return np.stack(rows)


def moved(x, transport):
    """Block by block, where the grid of x is a multiple of the transport's."""
    out = np.zeros(x.shape)
    height, width = (
        size // cells for size, cells in zip(x.shape[1:3], transport.shape[1:3], strict=True)
    )
    for i, a, b, c, d in np.ndindex(transport.shape):
        block = x[i, c * height : (c + 1) * height, d * width : (d + 1) * width]
        into = out[i, a * height : (a + 1) * height, b * width : (b + 1) * width]
        into += np.float64(transport[i, a, b, c, d]) * block
    return out


def transports(rows, height, width, seed=3):
    """Shares that sum to 1 in every cell."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(height * width), (rows, height, width))
    return shares.reshape(rows, height, width, height, width).astype(np.float32)


def still(rows, height, width):
    eye = np.eye(height * width, dtype=np.float32).reshape(1, height, width, height, width)
    return eye.repeat(rows, 0)


@pytest.mark.parametrize("grid", [(3, 5), (4, 6), (9, 2)])
def test_area_resampling_matches_repeated_and_averaged_cells(grid):
    x = normal(2, 6, 5, 3)
    expected = np.concatenate(
        [reference.area_resample(x[..., c : c + 1], *grid) for c in range(3)], axis=-1
    )
    np.testing.assert_allclose(area_resample(x, *grid), expected, atol=1e-6)


BOXES = [
    (0.0, 0.0, 1.0, 1.0),
    (0.5, 0.25, 0.5, 0.5),
    (0.13, 0.41, 0.61, 0.37),
    (0.7, 0.05, 0.3, 0.9),
    (0.31, 0.31, 0.02, 0.02),
]


@pytest.mark.parametrize("size", [(8, 8), (6, 11), (5, 3)])
def test_zoom_matches_a_loop_over_cells(size):
    x, box = normal(len(BOXES), *size, 2), np.array(BOXES, np.float32)
    np.testing.assert_allclose(zoom(x, box), zoomed(x, box), atol=2e-5)


def test_zoom_into_the_whole_grid_returns_the_picture_exactly():
    x = normal(2, 7, 5, 3)
    np.testing.assert_array_equal(zoom(x, np.tile([0.0, 0.0, 1.0, 1.0], (2, 1))), x)


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.0, 0.5), (0.2, 0.2, 0.5, 0.0), (0, 0, 0, 0)])
def test_zoom_into_a_box_without_area_shows_nothing(box):
    np.testing.assert_array_equal(
        zoom(normal(1, 4, 4, 1), np.float32([box])), np.zeros((1, 4, 4, 1))
    )


def test_zoom_leaves_constants_as_they_are_inside_the_box_and_0_outside():
    box = np.array([[0.25, 0.0, 0.5, 0.5]], np.float32)
    shown = np.asarray(zoom(np.ones((1, 4, 8, 1), np.float32), box))[0, :, :, 0]
    inside = np.zeros((4, 8))
    inside[1:3, :4] = 1
    np.testing.assert_allclose(shown, inside, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (8, 6), (2, 3)])
def test_moving_cells_matches_a_loop_over_blocks(size):
    x, transport = normal(2, *size, 3), transports(2, 2, 3)
    np.testing.assert_allclose(move(x, transport), moved(x, transport), atol=1e-5)


@pytest.mark.parametrize("size", [(5, 7), (4, 5), (1, 1)])
def test_on_another_grid_the_change_of_the_coarse_cells_is_added(size):
    x, transport = normal(2, *size, 1), transports(2, 2, 3)
    coarse = reference.area_resample(x, 2, 3)
    change = reference.area_resample(moved(coarse, transport) - coarse, *size)
    np.testing.assert_allclose(move(x, transport), x + change, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_a_transport_that_moves_nothing_returns_the_picture_exactly(size):
    x = normal(2, *size, 3)
    np.testing.assert_array_equal(move(x, still(2, 2, 3)), x)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_moving_cells_leaves_constants_as_they_are(size):
    x = np.full((2, *size, 1), 3, np.float32)
    np.testing.assert_allclose(move(x, transports(2, 2, 3)), x, rtol=1e-6)


def test_blocks_keep_their_pixels():
    """A swap moves the two halves as they are, columns in their order."""
    swap = jnp.array([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 1, 2, 1, 2)
    x = normal(1, 2, 6, 3)
    np.testing.assert_array_equal(move(x, swap), np.concatenate([x[:, :, 3:], x[:, :, :3]], axis=2))


@pytest.mark.parametrize("warp", ["zoom", "move"])
def test_warps_are_linear(warp):
    x, y = normal(2, 4, 6, 2), normal(2, 4, 6, 2, seed=1)
    box = np.array(BOXES[1:3], np.float32)

    def apply(z):
        return zoom(z, box) if warp == "zoom" else move(z, transports(2, 2, 3))

    np.testing.assert_allclose(apply(2 * x - y), 2 * apply(x) - apply(y), atol=1e-5)
