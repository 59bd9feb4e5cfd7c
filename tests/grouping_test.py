"""Accuracy by group, against loops over groups."""

import jax
import numpy as np
import pytest

from semjax.robustness.grouping import average_accuracy, group_accuracy, worst_group_accuracy

# Group 0: 2 of 3 right. Group 1: none. Group 2: 1 of 2. Group 3: 1 of 1.
GROUP = np.array([0, 2, 0, 3, 2, 0])
CORRECT = np.array([True, True, False, True, False, True])


def test_groups_worked_by_hand():
    found = group_accuracy(CORRECT, GROUP, num_groups=4)
    np.testing.assert_array_equal(found.count, [3, 0, 2, 1])
    np.testing.assert_allclose(found.accuracy, [2 / 3, np.nan, 1 / 2, 1], atol=1e-6)
    np.testing.assert_allclose(average_accuracy(found), 4 / 6, atol=1e-6)
    np.testing.assert_allclose(worst_group_accuracy(found), 1 / 2, atol=1e-6)


def test_groups_match_a_loop():
    rng = np.random.default_rng(0)
    group, correct = rng.integers(0, 7, 1_000), (rng.random(1_000) < 0.6).astype(np.float32)
    found = jax.jit(group_accuracy, static_argnames="num_groups")(correct, group, num_groups=7)
    expected = [correct[group == g].mean() for g in range(7)]
    np.testing.assert_allclose(found.accuracy, expected, atol=1e-6)
    np.testing.assert_allclose(average_accuracy(found), correct.mean(), atol=1e-6)
    np.testing.assert_allclose(worst_group_accuracy(found), min(expected), atol=1e-6)


@pytest.mark.parametrize(("right", "accuracy"), [(1, 1.0), (0, 0.0)])
def test_all_right_and_all_wrong(right, accuracy):
    found = group_accuracy(np.full(6, right), GROUP, num_groups=9)
    assert float(average_accuracy(found)) == float(worst_group_accuracy(found)) == accuracy


def test_counts_are_exact():
    found = group_accuracy(np.ones(100_000), np.zeros(100_000, int), num_groups=1)
    assert found.count.tolist() == [100_000] and found.accuracy.tolist() == [1]


@pytest.mark.parametrize(
    ("correct", "group", "num_groups", "error", "message"),
    [
        ([], [], 2, ValueError, "correct must have at least one row"),
        ([0.5, 1], [0, 1], 2, ValueError, "correct must be 0 or 1; found 1 bad row"),
        ([0, 1], [0], 2, ValueError, r"group must have shape \(2,\); found shape \(1,\)"),
        ([0, 1], [0, 2], 2, ValueError, r"group must be in \[0, 2\); found 1 bad row of 2"),
        ([0, 1], [0, -1], 2, ValueError, r"group must be in \[0, 2\); found 1 bad row of 2"),
        ([0, 1], [0.0, 1.0], 2, TypeError, "group must be integers"),
        ([0, 1], [0, 1], 0, ValueError, "num_groups must be at least 1; found 0"),
        ([0, 1], [0, 1], 1.5, TypeError, "num_groups must be a static integer"),
    ],
)
def test_what_is_refused(correct, group, num_groups, error, message):
    with pytest.raises(error, match=message):
        group_accuracy(np.array(correct), np.array(group), num_groups=num_groups)
