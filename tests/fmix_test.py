"""FMix: the field against NumPy's transform, the number of pixels, the coin and the spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import policy_reference
import pytest
from policy_draws import MANY, SIZES, assert_weight_is_the_mean, drawn, image_of, many
from scipy import stats

from semjax.policies.common import Common
from semjax.policies.fmix import fmix, fmix_field, fmix_mask


def noise_for(height, width, reference_compat, rows=3, seed=0):
    # As many frequencies as the authors' code has: one too many for odd widths.
    columns = width // 2 + 1
    if reference_compat and width % 2:
        columns = min(width, width // 2 + 2)
    shape = (rows, height, columns, 2)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [*SIZES, (4, 2), (9, 3)])
@pytest.mark.parametrize(("decay_power", "reference_compat"), [(3.0, False), (1.0, True)])
def test_the_field_is_numpys_up_to_a_factor(decay_power, reference_compat, size):
    height, width = size
    noise = noise_for(height, width, reference_compat)
    found = np.asarray(
        fmix_field(
            noise,
            height=height,
            width=width,
            decay_power=decay_power,
            reference_compat=reference_compat,
        )
    )
    expected = policy_reference.fmix_field(noise, height, width, decay_power, reference_compat)
    found, expected = (x / np.abs(x).max() for x in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def energy(reference_compat, height=24, width=30):
    """The share of the energy at each frequency along the width, averages apart."""
    noise = noise_for(height, width, reference_compat, rows=20)
    field = np.asarray(
        fmix_field(noise, height=height, width=width, reference_compat=reference_compat), np.float64
    )
    power = np.abs(np.fft.fft2(field)) ** 2
    power[:, 0, 0] = 0
    return power.sum((0, 1)) / power.sum()


def test_the_fields_of_the_authors_code_have_one_period_along_the_width_at_most():
    assert energy(reference_compat=True)[2:-1].sum() < 1e-10
    assert energy(reference_compat=False)[2:-1].sum() > 1e-3


def test_the_power_falls_with_the_frequency_along_both_axes():
    """By the sixth power; a real transform keeps half of the power of f_x = 0."""
    field = np.asarray(fmix_field(noise_for(16, 16, False, 2_000), height=16, width=16), float)
    power = (np.abs(np.fft.fft2(field)) ** 2).mean(0)
    np.testing.assert_allclose(power[1, 0], power[0, 1] / 2, rtol=0.2)
    np.testing.assert_allclose(power[2, 0] / power[1, 0], 2.0**-6, rtol=0.2)
    np.testing.assert_allclose(power[0, 2] / power[0, 1], 2.0**-6, rtol=0.2)


def test_a_smaller_decay_power_makes_rougher_masks():
    def edges(power):
        _, mask = many(fmix(decay_power=power, weight_scope="sample"))
        return np.abs(np.diff(mask, axis=2)).mean()

    assert edges(0.0) > 2 * edges(3.0)


@pytest.mark.parametrize("size", SIZES)
def test_the_mask_has_the_highest_pixels(size):
    random = np.random.default_rng(1)
    field = random.standard_normal((8, *size)).astype(np.float32)
    weight = np.float32([0, 1, 0.5, 0.51, 0.13, 0.99, 0.02, 0.75])
    for up in (np.arange(8) % 2 == 0, np.arange(8) % 2 == 1):
        found = fmix_mask(weight, field, up)
        np.testing.assert_array_equal(found, policy_reference.fmix_mask(weight, field, up))
        pixels = size[0] * size[1]
        assert (np.abs(np.asarray(found).mean((1, 2, 3)) - weight) < 1 / pixels + 1e-6).all()


def test_equal_values_are_counted_exactly():
    field = np.zeros((2, 3, 5), np.float32)
    field[1, 1, 2:] = 1
    weight, up = np.float32([0.5, 0.3]), np.array([True, False])
    found = fmix_mask(weight, field, up)
    np.testing.assert_array_equal(found, policy_reference.fmix_mask(weight, field, up))
    assert np.asarray(found).sum((1, 2, 3)).tolist() == [8, 4]


@pytest.mark.parametrize("reference_compat", [False, True])
def test_the_weight_is_the_mean_of_the_mask(reference_compat):
    assert_weight_is_the_mean(fmix, reference_compat=reference_compat)


def test_the_number_of_pixels_is_rounded_by_a_fair_coin():
    ups, weights = [], []
    for seed in range(5):
        mix = drawn(fmix(weight_scope="sample"), seed, MANY, (5, 7))
        draw = Common(weight_scope="sample").draw(jax.random.key(seed), image_of(MANY, 5, 7))
        asked = np.asarray(draw.weight, np.float64)
        assert (np.abs(mix.weight - asked) < 1 / 35 + 1e-6).all()
        ups.append(mix.weight > asked)
        weights.append(mix.weight)
    ups, weights = np.concatenate(ups), np.concatenate(weights)
    assert abs(ups.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(ups))
    # The rounding leaves no bias: k of 35 has probability 1/35, the ends a half of it.
    counts = np.bincount(np.rint(weights * 35).astype(int), minlength=36)
    expected = np.full(36, len(weights) / 35)
    expected[[0, -1]] /= 2
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_the_mask_is_random_everywhere():
    _, mask = many(fmix(weight_scope="sample"), (6, 5))
    assert (np.abs(mask.mean(0) - 0.5) < 0.05).all()


def test_the_field_of_the_authors_code_reaches_the_mask():
    compat = drawn(fmix(reference_compat=True, weight_scope="sample"))
    default = drawn(fmix(weight_scope="sample"))
    assert (compat.mask != default.mask).any()
    # Only the coin's rounding may differ.
    assert np.abs(compat.weight - default.weight).max() < 2 / 256


@pytest.mark.parametrize("power", [-1.0, float("nan"), float("inf")])
def test_a_decay_power_out_of_range_is_refused(power):
    with pytest.raises(ValueError, match="decay_power must be finite and at least 0"):
        fmix(decay_power=power)


def test_noise_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"noise must be \[B, 4, 3, 2\]; found shape \(1, 4, 4"):
        fmix_field(jnp.zeros((1, 4, 4, 2)), height=4, width=4)
