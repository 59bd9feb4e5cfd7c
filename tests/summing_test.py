"""Sums that keep their digits, against sums in float64."""

import jax
import numpy as np
import pytest

from semjax.robustness.summing import pairwise_mean, pairwise_sum


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 10_000])
def test_sums_and_means_are_those_of_float64(rows):
    x = np.random.default_rng(rows).random((rows, 2)).astype(np.float32)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(pairwise_sum(x), exact.sum(0), rtol=3e-7)
    np.testing.assert_allclose(pairwise_mean(x), exact.mean(0), rtol=3e-7)


def test_digits_are_kept_where_a_running_sum_loses_them():
    x = np.full(2**18, 0.1, np.float32)
    running = np.add.accumulate(x)[-1]
    exact = x.astype(np.float64).sum()
    assert abs(running - exact) / exact > 1e-4
    np.testing.assert_allclose(jax.jit(pairwise_sum)(x), exact, rtol=1e-7)
