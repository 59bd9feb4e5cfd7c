"""SmoothMix: the Gaussian against loops, whose share it is, the law of the weights."""

import numpy as np
import policy_reference
import pytest
from policy_draws import SIZES, assert_mean, assert_weight_is_the_mean, drawn, many

from semjax.mixing import interpolate_spatial
from semjax.policies.smoothmix import smoothmix, smoothmix_mask


@pytest.mark.parametrize("size", SIZES)
def test_the_mask_is_a_gaussian_of_the_distance(size):
    random = np.random.default_rng(0)
    sigma, centre = random.uniform(0.2, 0.6, 9), random.uniform(0, 1, (9, 2))
    found = smoothmix_mask(sigma, centre, height=size[0], width=size[1])
    expected = policy_reference.smoothmix_mask(sigma, centre, *size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_weight_is_the_mean_of_the_mask():
    assert_weight_is_the_mean(smoothmix)


def test_the_centre_shows_the_row_and_the_rim_its_partner():
    mix = drawn(smoothmix(sigma=(0.05, 0.05), pairing="roll"), rows=2)
    own = np.zeros((2, 16, 16, 1), np.float32)
    own[0] = 1
    mixed = np.asarray(interpolate_spatial(mix, own))[0]
    assert mixed.max() > 0.7
    assert np.median(mixed) < 0.01
    np.testing.assert_allclose(mixed.mean(), mix.weight[0], rtol=1e-5)


@pytest.mark.parametrize(("size", "sigma"), [((8, 8), (0.25, 0.5)), ((6, 10), (0.1, 0.2))])
def test_the_mean_weight_of_smoothmix(size, sigma):
    expected = policy_reference.expected_smoothmix_weight(*size, *sigma)
    weight, _ = many(smoothmix(sigma=sigma, weight_scope="sample"), size, keys=5)
    assert_mean(weight, expected)


def test_the_centre_is_uniform_on_the_image():
    """The brightest pixel of a narrow Gaussian is any of them, as often."""
    _, mask = many(smoothmix(sigma=(0.1, 0.1), weight_scope="sample"), (4, 6), keys=5)
    counts = np.bincount(mask.reshape(len(mask), -1).argmax(1), minlength=24)
    expected = len(mask) / 24
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("sigma", [(0.0, 0.5), (0.5, 0.2), (0.2, float("inf")), (0.3,)])
def test_a_sigma_out_of_range_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be two shares"):
        smoothmix(sigma=sigma)
