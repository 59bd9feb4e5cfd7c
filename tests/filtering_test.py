"""Filters in whole numbers against SciPy and against those of the package imagecorruptions."""

import corruption_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from semjax.corruptions import filtering
from semjax.corruptions.filtering import (
    disc_kernel,
    exact_product,
    filter_dense,
    filter_separable,
    filter_symmetric,
    gaussian_matrix,
    smear,
    sum_of_products,
    whole_weights,
)


def made_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def assert_close(found, expected, share):
    """Truncated alike, but where the exact value is next to a whole number."""
    difference = np.asarray(found).astype(int) - np.floor(expected).astype(int)
    assert abs(difference).max() <= 1
    assert abs(expected - np.round(expected))[difference != 0].max(initial=0) < 0.02
    assert (difference == 0).mean() > share


def test_whole_weights_keep_the_sum_and_are_rounded():
    weights = np.random.default_rng(0).dirichlet(np.ones(9), 50)
    whole = whole_weights(weights, 2**16)
    assert (whole.sum(-1) == 2**16).all()
    assert abs(whole - weights * 2**16).max() < 5
    assert np.median(abs(whole - weights * 2**16)) < 0.5


@pytest.mark.parametrize("sigma", [0.05, 0.4, 1.0, 6.0])
def test_the_gaussian_matrix_is_scipys(sigma):
    expected = ndimage.gaussian_filter1d(np.eye(13), sigma, axis=0, mode="nearest", truncate=4)
    found = gaussian_matrix(13, sigma)
    assert (found.sum(1) == 2**16).all()
    np.testing.assert_allclose(found / 2**16, expected, atol=1e-4)


def test_separable_matrices_are_applied_to_rows_and_columns():
    images = made_images(3, 9, 6, 3)
    down, along = gaussian_matrix(9, 2.0), gaussian_matrix(6, 0.7)
    expected = np.einsum("hg,bgvc,wv->bhwc", down / 2**16, images, along / 2**16)
    assert_close(filter_separable(images, down, along), expected, 0.99)


def test_flat_areas_stay_flat():
    flat = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 5, 4, 1))
    blur = gaussian_matrix(5, 1.1), gaussian_matrix(4, 1.1)
    np.testing.assert_array_equal(filter_separable(flat, *blur), flat)
    weights = jnp.asarray(whole_weights(np.full(3, 1 / 3), 2**22), jnp.int32)
    np.testing.assert_array_equal(smear(flat, jnp.arange(256) * 0.3, weights), flat)


@pytest.mark.parametrize(
    "options", [(0.3, 0.4), (0.5, 0.6), (1, 0.2), (1.5, 0.1), (3, 0.1), (8, 0.5), (10, 0.5)]
)
def test_the_disc_is_that_of_imagecorruptions(options):
    from imagecorruptions import corruptions  # slow to import

    expected = corruptions.disk(*options)
    middle = len(expected) // 2
    np.testing.assert_allclose(disc_kernel(*options), expected[middle:, middle:], atol=1e-6)


@pytest.mark.parametrize("reach", [1, 3, 6])
def test_symmetric_kernels_are_scipys_by_either_way(reach, monkeypatch):
    images = made_images(2, 8, 5, 3)
    quarter = np.random.default_rng(0).integers(0, 2**16 // (2 * reach + 1) ** 2, [reach + 1] * 2)
    full = np.pad(quarter, ((reach, 0), (reach, 0)), mode="reflect") / 2**16
    kernel = jnp.asarray(quarter, jnp.float32)
    planes = images.astype(float)
    expected = ndimage.correlate(planes, full[None, :, :, None], mode="mirror")
    found = []
    for dense in (True, False):
        monkeypatch.setattr(filtering, "DENSE_REACH", 0 if dense else 99)
        found.append(np.asarray(filter_symmetric(images, kernel)))
    np.testing.assert_array_equal(found[0], found[1])
    assert_close(found[0], expected, 0.999)


def test_a_dense_matrix_sums_kronecker_products():
    draw = np.random.default_rng(0)
    down, along = draw.integers(0, 9, (3, 2, 2)), draw.integers(0, 9, (3, 4, 4))
    expected = sum(np.kron(a, b) for a, b in zip(down, along, strict=True))
    found = sum_of_products(jnp.asarray(down, jnp.float32), jnp.asarray(along, jnp.float32))
    np.testing.assert_array_equal(found, expected)
    images = made_images(2, 2, 4, 3)
    mixed = np.einsum("bic,ij->bjc", images.reshape(2, 8, 3).astype(int), expected * 50)
    found = filter_dense(images, jnp.asarray(expected * 50, jnp.float32)).reshape(2, 8, 3)
    np.testing.assert_array_equal(found, mixed // 2**16)


def test_products_are_exact_up_to_2_to_the_24():
    draw = np.random.default_rng(0)
    x, matrix = draw.integers(0, 256, (7, 40)), draw.integers(0, 2**16 // 40, (40, 5))
    found = exact_product(jnp.asarray(x, jnp.float32), jnp.asarray(matrix, jnp.float32))
    np.testing.assert_array_equal(found, x @ matrix)


@pytest.mark.parametrize("options", [(6, 1), (10, 3), (20, 15)])
def test_a_smear_is_the_motion_of_imagecorruptions(options):
    from imagecorruptions import corruptions  # slow to import

    images = reference.photographs(5, 43, 47)
    degrees = np.array([-45.0, -17.3, 0.0, 8.9, 45.0], np.float32)
    radius, sigma = options
    kernel = corruptions.getMotionBlurKernel(2 * radius + 1, sigma)
    weights = jnp.asarray(whole_weights(kernel, 2**22), jnp.int32)
    found = jax.jit(smear)(images, degrees, weights)
    for image, angle, out in zip(images, degrees.tolist(), found, strict=True):
        assert_close(out, corruptions._motion_blur(image, radius, sigma, angle), 0.97)
        assert_close(out, reference.motion_blur(image, options, angle), 0.97)
