"""Spreads, paired differences and Holm's correction, by hand and against SciPy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.studying.statistics import Difference, difference, family, holm, spread


def by_seed(values):
    return dict(enumerate(map(float, values)))


def test_a_spread_is_mean_and_deviation_with_n_minus_1():
    found = spread([1.0, 2.0, 6.0])
    assert (found.n, found.mean) == (3, 3.0)
    assert found.sd == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


@pytest.mark.parametrize(("values", "mean"), [([], None), ([2.5], 2.5)])
def test_fewer_than_two_values_have_no_deviation(values, mean):
    found = spread(values)
    assert (found.n, found.mean, found.sd) == (len(values), mean, None)


def test_a_difference_worked_by_hand():
    # Differences 1, 2, 3: mean 2, s = 1, t = 2 √3; for 2 degrees of freedom the tail is in closed
    # form, P(|T| > t) = 1 - t / √(2 + t²), and t(0.975) = 4.302653.
    found = difference(by_seed([2, 4, 6]), by_seed([1, 2, 3]))
    assert (found.n, found.mean, found.adjusted) == (3, 2.0, None)
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_difference_is_scipys_paired_test(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, n))
    found, expected = difference(by_seed(a), by_seed(b)), stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx((a - b).mean())


def test_only_seeds_that_both_have_are_paired_whatever_their_order():
    mine, theirs = {4: 9.0, 0: 1.0, 2: 5.0, 7: 100.0}, {2: 3.0, 4: 6.0, 0: 0.0, 1: -50.0}
    assert difference(mine, theirs) == difference(
        {0: 1.0, 2: 5.0, 4: 9.0}, {0: 0.0, 2: 3.0, 4: 6.0}
    )
    assert difference(mine, theirs).mean == 2.0


@pytest.mark.parametrize(
    ("mine", "n", "mean"), [({}, 0, None), ({5: 1.0}, 0, None), ({0: 3.0}, 1, 2.0)]
)
def test_fewer_than_two_pairs_have_neither_interval_nor_test(mine, n, mean):
    found = difference(mine, {0: 1.0, 1: 1.0})
    assert found == Difference(n=n, mean=mean, low=None, high=None, p=None)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((0.7, 0.8, 0.9), (0.6, 0.7, 0.8))],
)
def test_differences_alike_but_for_rounding_are_not_tested(mine, theirs):
    found = difference(by_seed(mine), by_seed(theirs))
    assert (found.low, found.high, found.p, found.significant) == (None, None, None, False)
    assert found.mean == pytest.approx(mine[0] - theirs[0])


def test_small_values_that_do_vary_are_tested():
    a, b = np.array([1e-9, 3e-9, 4e-9]), np.zeros(3)
    assert difference(by_seed(a), by_seed(b)).p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_holm_by_hand():
    # 0.01 · 4; 0.02 · 3; 0.03 · 2 = 0.06 again; 0.04 · 1 is below the one before.
    found = holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02})
    assert list(found) == ["d", "a", "c", "b"]
    assert found == pytest.approx({"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.1, rng.integers(1, 9))
        rejected = set()
        # As Holm wrote it: go up from the smallest, stop at the first that is too large.
        for step, place in enumerate(np.argsort(p)):
            if p[place] >= 0.05 / (len(p) - step):
                break
            rejected.add(int(place))
        adjusted = holm(dict(enumerate(p)))
        assert {place for place, one in adjusted.items() if one < 0.05} == rejected


def test_a_family_is_of_those_that_were_tested():
    tested = {name: Difference(3, 1.0, 0.5, 1.5, p) for name, p in (("a", 0.02), ("b", 0.03))}
    found = family({**tested, "c": Difference(1, 1.0)})
    assert (found["a"].adjusted, found["b"].adjusted, found["c"].adjusted) == (0.04, 0.04, None)
    assert [one.significant for one in found.values()] == [True, True, False]
    # One more test, and none of them is significant any more.
    found = family({**tested, "c": Difference(3, 0.0, -1.0, 1.0, 0.9)})
    assert not any(one.significant for one in found.values())
