"""What metrics refuse, and that they refuse it only where values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semjax.robustness.values import check_values, checked_classes, checked_correct, checked_rows


def test_rows_come_back_in_float32():
    found = checked_rows("x", jnp.array([[1.0, 2.0]], jnp.bfloat16), ("N", "K"))
    assert found.dtype == np.float32 and found.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.ones(2), ValueError, r"x must be \[N, K\]; found shape \(2,\)"),
        (np.ones((2, 2), int), TypeError, "x must be floating; found int"),
        (np.ones((0, 2)), ValueError, r"x must have at least one row; found shape \(0, 2\)"),
        (np.ones((2, 0)), ValueError, r"x must have at least one row; found shape \(2, 0\)"),
        ([[1.0, np.nan], [np.inf, np.nan]], ValueError, "x must be finite; found 2 bad rows of 2"),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        checked_rows("x", value, ("N", "K"))


def test_rows_that_are_not_valid_may_hold_anything():
    value = np.array([[1.0], [np.nan], [np.inf]])
    assert checked_rows("x", value, ("N", "K"), valid=[True, False, False]).shape == (3, 1)
    with pytest.raises(ValueError, match="found 1 bad row of 3"):
        checked_rows("x", value, ("N", "K"), valid=[True, True, False])


def test_classes_come_back_as_they_are():
    found = checked_classes("label", np.array([2, 0], np.uint8), 2, number=3)
    assert found.dtype == np.int32 and found.tolist() == [2, 0]
    assert checked_classes("index", [7, -1], 2).tolist() == [7, -1]


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros(3, int), ValueError, r"label must have shape \(2,\); found shape \(3,\)"),
        (np.zeros(2), TypeError, "label must be integers; found float"),
        ([0, 3], ValueError, r"label must be in \[0, 3\); found 1 bad row of 2"),
        ([-1, 3], ValueError, r"label must be in \[0, 3\); found 2 bad rows of 2"),
    ],
)
def test_labels_that_name_no_class_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        checked_classes("label", value, 2, number=3)


@pytest.mark.parametrize("value", [[True, False], [1, 0], [1.0, 0.0]])
def test_right_and_wrong_may_be_bools_or_numbers(value):
    found = checked_correct("correct", value)
    assert found.dtype == np.int32 and found.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("value", "rows", "message"),
    [
        ([[1.0]], None, r"correct must have shape \(N,\); found shape \(1, 1\)"),
        ([1.0], 2, r"correct must have shape \(2,\); found shape \(1,\)"),
        (np.ones(0), None, r"correct must have at least one row; found shape \(0,\)"),
        ([0.5, 1.0], None, "correct must be 0 or 1; found 1 bad row of 2"),
        ([np.nan, 1.0], None, "correct must be 0 or 1; found 1 bad row of 2"),
    ],
)
def test_what_is_neither_right_nor_wrong_is_refused(value, rows, message):
    with pytest.raises(ValueError, match=message):
        checked_correct("correct", value, rows=rows)


def test_values_are_looked_at_in_eager_calls_only():
    bad = jnp.array([False, True])
    jax.jit(lambda fine: check_values("x", fine, "good"))(bad)
    check_values("x", ~bad | bad, "good")
    with pytest.raises(ValueError, match="x must be good; found 1 bad row of 2"):
        check_values("x", bad, "good")
