"""Calibration against loops in float64, SciPy, and figures worked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from semjax import metrics
from semjax.robustness.calibration import (
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability,
)

ERRORS = [expected_calibration_error, adaptive_calibration_error, classwise_calibration_error]
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
each_function = pytest.mark.parametrize(
    "function", [*ERRORS, reliability], ids=lambda function: function.__name__
)

# Confidences .55 .58 .95 .91 .35, of which the 1st, 3rd and 5th are right.
BY_HAND = np.array(
    [
        [0.55, 0.4, 0.05],
        [0.3, 0.58, 0.12],
        [0.95, 0.03, 0.02],
        [0.04, 0.05, 0.91],
        [0.33, 0.32, 0.35],
    ]
)
LABEL = np.array([0, 0, 0, 1, 2])


@functools.cache
def compiled(function):
    return jax.jit(function, static_argnames="bins")


def made_batch(rows, classes, seed=0):
    """Overconfident probabilities, in float32."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((rows, classes))
    label = (logits + 2 * rng.gumbel(size=logits.shape)).argmax(1)
    return np.exp(log_softmax(logits, 1)).astype(np.float32), label


def binned_error(confidence, correct, bins):
    """The error over bins of equal width, one row at a time."""
    members = [[] for _ in range(bins)]
    edges = np.arange(1, bins, dtype=np.float32) / np.float32(bins)
    for sure, right in zip(confidence, correct, strict=True):
        members[sum(edge < sure for edge in edges)].append(right - float(sure))
    return sum(abs(sum(member)) for member in members) / len(confidence)


def expected_error(p, label, bins):
    return binned_error(p.max(1), p.argmax(1) == label, bins)


def adaptive_error(p, label, bins):
    """Runs cut from the sorted rows; for rows without ties."""
    order = np.argsort(p.max(1))
    surplus = ((p.argmax(1) == label) - p.max(1).astype(np.float64))[order]
    runs = [[] for _ in range(bins)]
    for rank, value in enumerate(surplus):
        runs[rank * bins // len(p)].append(value)
    return sum(abs(sum(run)) for run in runs) / len(p)


def classwise_error(p, label, bins):
    return np.mean([binned_error(p[:, k], label == k, bins) for k in range(p.shape[1])])


REFERENCES = dict(zip(ERRORS, (expected_error, adaptive_error, classwise_error), strict=True))


# Worked by hand.


def test_the_diagram_worked_by_hand():
    found = reliability(BY_HAND, LABEL, bins=5)
    np.testing.assert_allclose(found.count, [0, 1, 2, 0, 2])
    np.testing.assert_allclose(found.accuracy, [np.nan, 1, 0.5, np.nan, 0.5], atol=1e-6)
    np.testing.assert_allclose(found.confidence, [np.nan, 0.35, 0.565, np.nan, 0.93], atol=1e-6)


def test_the_errors_worked_by_hand():
    # Bins (.2, .4], (.4, .6] and (.8, 1]: gaps .65, .065 and .43 of 1, 2 and 2 rows.
    found = expected_calibration_error(BY_HAND, LABEL, bins=5)
    np.testing.assert_allclose(found, (0.65 + 2 * 0.065 + 2 * 0.43) / 5, atol=1e-6)
    # Sorted: .35 right, .55 right, .58 wrong | .91 wrong, .95 right. floor(2 r / 5) = 0 0 0 1 1.
    found = adaptive_calibration_error(BY_HAND, LABEL, bins=2)
    np.testing.assert_allclose(found, (abs(2 - 1.48) + abs(1 - 1.86)) / 5, atol=1e-6)
    # Of two bins. Class 0: .3, .04, .33 | .55, .95, of which .3 | both are label 0.
    # Class 1: .4, .03, .05, .32 | .58, of which .05 is. Class 2: .05 .12 .02 .35 | .91, .35 is.
    gaps = abs(1 - 0.67) + abs(2 - 1.5), abs(1 - 0.8) + 0.58, abs(1 - 0.54) + 0.91
    found = classwise_calibration_error(BY_HAND, LABEL, bins=2)
    np.testing.assert_allclose(found, sum(gaps) / 5 / 3, atol=1e-6)


def test_tied_rows_share_their_right_answers_across_a_cut():
    # .75 four times, of which two are right: any run of them is right by a half.
    p = np.full((4, 2), [0.75, 0.25])
    for label in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]):
        found = adaptive_calibration_error(p, np.array(label), bins=2)
        np.testing.assert_allclose(found, 0.25, atol=1e-6)


# Against references.


@each_error
@pytest.mark.parametrize(("rows", "bins"), [(200, 15), (200, 4), (7, 15), (10_000, 15)])
def test_the_errors_are_those_of_a_loop_over_rows(error, rows, bins):
    p, label = made_batch(rows, 3)
    expected = REFERENCES[error](p, label, bins)
    np.testing.assert_allclose(compiled(error)(p, label, bins=bins), expected, atol=1e-6)


@each_function
def test_fifteen_bins_are_the_default(function):
    p, label = made_batch(200, 3)
    jax.tree.map(np.testing.assert_array_equal, function(p, label), function(p, label, bins=15))


def test_the_diagram_of_many_rows_keeps_its_digits():
    p, label = made_batch(10_000, 3)
    p[:] = [0.98, 0.01, 0.01]
    found = reliability(p, label)
    assert found.count.tolist() == 14 * [0] + [10_000]
    np.testing.assert_allclose(found.accuracy[-1], (label == 0).mean(), atol=1e-6)
    np.testing.assert_allclose(found.confidence[-1], 0.98, atol=1e-6)


def test_the_diagram_and_the_error_are_those_of_the_sums():
    p, label = made_batch(200, 3)
    sums = metrics.classification_sums(np.log(p), label)
    found = reliability(p, label)
    np.testing.assert_array_equal(found.count, sums.bin_count)
    np.testing.assert_allclose(found.accuracy, sums.bin_correct / sums.bin_count, rtol=1e-5)
    np.testing.assert_allclose(found.confidence, sums.bin_confidence / sums.bin_count, rtol=1e-5)
    ece = metrics.summarise(sums)["ece"]
    np.testing.assert_allclose(expected_calibration_error(p, label), ece, atol=1e-6)


@each_error
def test_the_order_of_the_rows_does_not_matter(error):
    p, label = made_batch(60, 3)
    p[20:40] = p[20]  # ties
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(
        error(p[order], label[order], bins=7), error(p, label, bins=7), atol=1e-6
    )


@each_error
@pytest.mark.parametrize(("label", "expected"), [([0, 1, 0], 0), ([1, 0, 1], 1)])
def test_certain_answers_that_are_all_right_or_all_wrong(error, label, expected):
    p = np.eye(2)[[0, 1, 0]]
    np.testing.assert_allclose(error(p, np.array(label)), expected, atol=1e-6)


@pytest.mark.parametrize(("classes", "bins"), [(2, 2), (3, 15), (15, 15), (2, 1), (1, 15)])
def test_a_confidence_on_an_edge_belongs_below_it(classes, bins):
    p = np.full((1, classes), 1 / classes, np.float32)
    assert int(reliability(p, np.array([0]), bins=bins).count.argmax()) + 1 == max(
        1, bins // classes
    )


# The temperature.


def best_temperature(logits, label):
    """SciPy's, in float64."""

    def nll(log_t):
        return -np.take_along_axis(log_softmax(logits / np.exp(log_t), 1), label[:, None], 1).mean()

    bounds = np.log([1e-3, 1e3])
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return np.exp(found.x)


@pytest.mark.parametrize("seed", range(8))
def test_the_temperature_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    classes, true = int(rng.integers(2, 12)), float(np.exp(rng.uniform(-2.5, 2.5)))
    logits = (rng.standard_normal((300, classes)) * 2).astype(np.float32)
    label = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    logits = (logits * np.float32(true)) + np.float32(rng.uniform(-5, 5))
    expected = best_temperature(logits.astype(np.float64), label)
    np.testing.assert_allclose(fit_temperature(logits, label), expected, rtol=1e-4)


def test_the_temperature_found_by_hand():
    # Of K = 3 equal rivals, 7 of 10 rows are right: e^{b z} / (e^{b z} + 2) = 0.7.
    logits, label = np.tile([6.0, 0.0, 0.0], (10, 1)), np.array(7 * [0] + [1, 2, 1])
    expected = 6 / np.log(0.7 * 2 / 0.3)
    for fit in (fit_temperature, jax.jit(fit_temperature)):
        np.testing.assert_allclose(fit(logits, label), expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_labels_that_can_be_separated_end_at_the_lower_bound(scale):
    logits = scale * np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    np.testing.assert_allclose(fit_temperature(logits, np.array([0, 1])), 1e-3, rtol=1e-6)


def test_logits_that_are_of_no_use_end_at_the_upper_bound():
    logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    np.testing.assert_allclose(fit_temperature(logits, np.array([1, 0, 0])), 1e3, rtol=1e-6)


def test_a_temperature_that_changes_nothing_is_one():
    assert float(fit_temperature(np.full((3, 2), 4.0), np.array([0, 1, 1]))) == 1


def test_the_fitted_temperature_lowers_the_calibration_error_of_overconfident_rows():
    p, label = made_batch(2_000, 5)
    logits = 3 * np.log(p)
    before, after = (
        float(expected_calibration_error(jax.nn.softmax(logits / t), label))
        for t in (1, fit_temperature(logits, label))
    )
    assert after < 0.04 < 0.2 < before


# What is refused.


@each_function
@pytest.mark.parametrize(
    ("p", "label", "error", "message"),
    [
        (np.zeros((0, 2)), [], ValueError, "probabilities must have at least one row"),
        ([0.5, 0.5], [0], ValueError, r"probabilities must be \[N, K\]; found shape \(2,\)"),
        ([[1, 0]], [0], TypeError, "probabilities must be floating; found int"),
        ([[np.nan, 1.0]], [0], ValueError, "probabilities must be finite; found 1 bad row of 1"),
        ([[2.0, -1.0]], [0], ValueError, r"in \[0, 1\], in rows that sum to 1; found 1 bad row"),
        ([[0.5, 0.2]], [0], ValueError, r"in \[0, 1\], in rows that sum to 1; found 1 bad row"),
        ([[0.5, 0.5]], [2], ValueError, r"label must be in \[0, 2\); found 1 bad row of 1"),
        ([[0.5, 0.5]], [0, 1], ValueError, r"label must have shape \(1,\); found shape \(2,\)"),
        ([[0.5, 0.5]], [0.0], TypeError, "label must be integers; found float"),
    ],
)
def test_what_is_no_prediction_is_refused(function, p, label, error, message):
    with pytest.raises(error, match=message):
        function(np.array(p), np.array(label, int if not label else None))


@each_function
def test_bins_are_a_number_of_them(function):
    for bins, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="bins must be"):
            function(BY_HAND, LABEL, bins=bins)


def test_logits_are_checked():
    for logits, label, message in (
        ([[np.nan, 1.0], [1.0, 2.0]], [0, 1], "logits must be finite; found 1 bad row of 2"),
        ([[0.0, 1.0]], [2], r"label must be in \[0, 2\); found 1 bad row of 1"),
        (np.zeros((0, 2)), np.zeros(0, int), "logits must have at least one row"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_temperature(np.array(logits), np.array(label))


@each_function
def test_probabilities_of_half_precision_are_taken(function):
    p = jax.nn.softmax(jnp.asarray(made_batch(20, 7)[0], jnp.bfloat16) * 9)
    assert p.dtype == jnp.bfloat16
    found = jax.tree.leaves(function(p, np.zeros(20, int)))
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}
