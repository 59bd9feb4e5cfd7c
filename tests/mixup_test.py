"""Mixup: the law of its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from policy_draws import drawn, many
from scipy import stats

from semjax.policies import mixup


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 10])
def test_weights_follow_the_beta_law(alpha):
    weight, _ = many(mixup(alpha=alpha, weight_scope="sample"), keys=5)
    assert stats.kstest(weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 0.1])
def test_weights_of_a_small_alpha_follow_the_beta_law(alpha):
    """A ratio of two float32 gammas would be 0 / 0 for many a draw."""
    weight, _ = many(mixup(alpha=alpha, weight_scope="sample"), keys=5)
    weight = weight.astype(np.float64)
    assert np.isfinite(weight).all()
    assert ((weight >= 0) & (weight <= 1)).all()
    for place in (1e-30, 1e-6, 0.5, 1 - 1e-6):
        expected = stats.beta.cdf(place, alpha, alpha)
        error = np.sqrt(expected * (1 - expected) / len(weight))
        assert abs((weight <= place).mean() - expected) < 4 * error + 1e-4, place


def test_mixup_has_no_mask():
    mix = drawn(mixup())
    assert mix.mask is None
    assert mix.zoom is None


def test_mixup_needs_rows_only():
    mix = mixup()(jax.random.key(0), {"image": jnp.zeros((4, 7))})
    assert mix.weight.shape == (4,)
