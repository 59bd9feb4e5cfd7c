"""Matrices and fields against SciPy, and that their sums are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from semjax.corruptions import fields

EXACT = 2.0**16


@pytest.mark.parametrize("size", [5, 8, 40])
@pytest.mark.parametrize("sigma", [0.3, 1.6, 6.4, 30.0])
def test_the_reflecting_blur_is_that_of_scipy(size, sigma):
    matrix = fields.reflecting_gaussian(size, sigma)
    expected = ndimage.gaussian_filter1d(np.eye(size), sigma, 0, mode="reflect", truncate=3)
    np.testing.assert_allclose(matrix / EXACT, expected, atol=1e-3)
    assert (matrix.sum(1) == EXACT).all() and (matrix == np.round(matrix)).all()


def test_no_spread_blurs_nothing():
    np.testing.assert_array_equal(fields.reflecting_gaussian(6, 0.0), EXACT * np.eye(6))


@pytest.mark.parametrize("size", [8, 26, 32])
@pytest.mark.parametrize("factor", [1, 1.25, 1.75, 2.25, 3, 4.5])
def test_the_zoom_is_that_of_scipy(size, factor):
    shown = int(np.ceil(size / factor))
    top = (size - shown) // 2
    spread = ndimage.zoom(np.eye(size)[top : top + shown], (factor, 1), order=1, mode="nearest")
    top = (len(spread) - size) // 2
    matrix = fields.zoom_matrix(size, factor)
    np.testing.assert_allclose(matrix / EXACT, spread[top : top + size], atol=1e-4)
    assert (matrix.sum(1) == EXACT).all() and (matrix == np.round(matrix)).all()


def test_there_is_a_matrix_for_each_constant():
    cifar, imagenet = fields.matrices(fields.zoom_matrix, 6, ((1, 2, 3, 1, 2), (3, 3, 3, 3, 1)))
    np.testing.assert_array_equal(cifar[2], fields.zoom_matrix(6, 3))
    np.testing.assert_array_equal(imagenet[4], fields.zoom_matrix(6, 1))
    assert fields.column((((1, 2),) * 5, ((3, 4),) * 5), 1) == ((2,) * 5, (4,) * 5)


def test_fields_are_filtered_down_and_along_and_exactly():
    rng = np.random.default_rng(0)
    field = rng.integers(-(2**15), 2**15 + 1, (5, 7, 9)).astype(np.float32)
    down, along = fields.reflecting_gaussian(7, 1.0), fields.reflecting_gaussian(9, 2.0)
    found = np.asarray(fields.filter_field(field, down, along))
    whole = np.floor(field.astype(np.float64) @ along.T.astype(float) / EXACT + 0.5)
    expected = down.astype(float) @ whole / EXACT
    # Between the two every sum is a whole number; the last one is rounded to float32.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-3)
    alone = np.concatenate([fields.filter_field(row[None], down, along) for row in field])
    np.testing.assert_array_equal(alone, found)


def test_whole_normals_are_normal_and_whole():
    keys = jax.random.split(jax.random.key(0), 3)
    found = np.asarray(fields.whole_normals(keys, 40, 50))
    assert found.shape == (3, 40, 50) and (found == np.round(found)).all()
    assert stats.kstest(found.ravel() / 2**12, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(found.reshape(3, -1)) - np.eye(3)).max() < 0.1


def test_grey_levels_are_cut_off_at_the_threshold_and_truncated():
    z = np.linspace(-4, 4, 1001)
    found = fields.grey_levels(jnp.asarray(np.round(z * 2**12)).reshape(1, 7, 143), 0.5, 0.2, 0.4)
    value = 0.5 + 0.2 * np.round(z * 2**12) / 2**12
    expected = np.where(value < 0.4, 0, np.clip(value, 0, 1) * 255)
    assert abs(np.asarray(found).ravel() - np.floor(expected)).max() <= 1
    assert (np.asarray(found).ravel() == np.floor(expected)).mean() > 0.98
