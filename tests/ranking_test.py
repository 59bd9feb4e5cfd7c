"""Ranking against scikit-learn, averages over all orders of ties, and figures worked by hand."""

import itertools

import jax
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from semjax.robustness.ranking import (
    area_under_risk_coverage,
    auroc,
    average_precision,
    false_positive_rate,
    risk_coverage,
)

TWO_SIDED = {
    "auroc": (auroc, roc_auc_score),
    "average_precision": (average_precision, average_precision_score),
}
each_two_sided = pytest.mark.parametrize(
    ("found", "expected"), TWO_SIDED.values(), ids=TWO_SIDED.keys()
)
MEASURES = [auroc, average_precision, false_positive_rate]
each_measure = pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.__name__)


def made_scores(rows, positives, levels=None, seed=0):
    """Overlapping scores, of a few levels only where ties are wanted."""
    rng = np.random.default_rng(seed)
    positive = rng.normal(0.7, 1, positives)
    negative = rng.normal(0, 1, rows - positives)
    if levels:
        positive, negative = (np.round(levels * x) / levels for x in (positive, negative))
    return positive.astype(np.float32), negative.astype(np.float32)


def stacked(positive, negative):
    truth = np.repeat([1, 0], [len(positive), len(negative)])
    return truth, np.concatenate([positive, negative])


@each_two_sided
@pytest.mark.parametrize("levels", [None, 1, 20], ids=["no ties", "many ties", "some ties"])
@pytest.mark.parametrize(("rows", "positives"), [(50, 20), (10_000, 5_000), (10_000, 300)])
def test_areas_are_those_of_scikit_learn(found, expected, rows, positives, levels):
    positive, negative = made_scores(rows, positives, levels)
    value = expected(*stacked(positive, negative))
    np.testing.assert_allclose(found(positive, negative), value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("rate", [0.07, 0.5, 0.95, 1.0])
def test_the_false_positive_rate_is_that_of_scikit_learn(rate, levels):
    positive, negative = made_scores(1_000, 300, levels)
    false, true, _ = roc_curve(*stacked(positive, negative), drop_intermediate=False)
    expected = false[np.argmax(true >= rate - 1e-9)]
    found = false_positive_rate(positive, negative, true_positive_rate=rate)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_ninety_five_percent_is_the_default():
    positive, negative = made_scores(1_000, 300)
    found = false_positive_rate(positive, negative)
    assert found == false_positive_rate(positive, negative, true_positive_rate=0.95)
    assert found != false_positive_rate(positive, negative, true_positive_rate=0.9)


@each_measure
def test_perfect_and_reversed_and_constant_scores(measure):
    high, low = np.array([2.0, 3.0, 4.0]), np.array([-1.0, 0.0, 1.0])
    tied = np.zeros(3)
    found = [float(measure(*pair)) for pair in ((high, low), (low, high), (tied, tied))]
    # Reversed: the positives rank 4th, 5th and 6th of 6, precisions 1/4, 2/5 and 3/6.
    expected = {
        auroc: [1, 0, 0.5],
        average_precision: [1, (1 / 4 + 2 / 5 + 3 / 6) / 3, 0.5],
        false_positive_rate: [0, 1, 1],
    }
    np.testing.assert_allclose(found, expected[measure], atol=1e-6)


def test_turning_the_scores_around_turns_the_area_around():
    positive, negative = made_scores(60, 25, levels=4)
    total = float(auroc(positive, negative)) + float(auroc(negative, positive))
    np.testing.assert_allclose(total, 1, atol=1e-6)


@each_measure
def test_only_the_order_of_the_scores_counts(measure):
    positive, negative = made_scores(60, 25, levels=4)
    moved = measure(np.exp(positive)[::-1], np.exp(negative)[::-1])
    np.testing.assert_allclose(moved, measure(positive, negative), atol=1e-6)
    np.testing.assert_allclose(jax.jit(measure)(positive, negative), moved, atol=1e-6)


# The risk-coverage curve.


def mean_risk_over_orders(confidence, correct):
    """The curve, averaged over every order of the rows that sorts them by confidence."""
    curves = []
    for order in itertools.permutations(range(len(confidence))):
        ranked = [confidence[i] for i in order]
        if ranked == sorted(ranked, reverse=True):
            wrong = np.cumsum([1 - correct[i] for i in order])
            curves.append(wrong / np.arange(1, len(order) + 1))
    return np.mean(curves, 0)


@pytest.mark.parametrize(
    "confidence",
    [
        [0.9, 0.5, 0.5, 0.5, 0.2, 0.2],
        [0.4, 0.4, 0.4, 0.4, 0.4, 0.4],
        [0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
        [-1.0, 3.0, 3.0, -1.0, 3.0, 7.0],
    ],
)
@pytest.mark.parametrize("correct", [[1, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 1]])
def test_the_risk_is_the_mean_over_the_orders_of_ties(confidence, correct):
    expected = mean_risk_over_orders(confidence, correct)
    coverage, risk = risk_coverage(confidence, np.array(correct))
    np.testing.assert_allclose(coverage, np.arange(1, 7) / 6, atol=1e-6)
    np.testing.assert_allclose(risk, expected, atol=1e-6)
    found = area_under_risk_coverage(confidence, np.array(correct))
    np.testing.assert_allclose(found, expected.mean(), atol=1e-6)


def test_the_area_keeps_its_digits_for_many_rows():
    rng = np.random.default_rng(0)
    confidence = rng.permutation(10_000).astype(np.float32)
    correct = rng.random(10_000) < 0.3 + 0.6 * confidence / 10_000
    wrong = ~correct[np.argsort(-confidence)]
    expected = (np.cumsum(wrong) / np.arange(1, 10_001)).mean()
    found = area_under_risk_coverage(confidence, correct)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(risk_coverage(confidence, correct)[1][-1], wrong.mean(), atol=1e-6)


def test_the_risk_does_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    confidence, correct = rng.integers(0, 5, 50) / 4, rng.random(50) < 0.7
    order = rng.permutation(50)
    jitted = jax.jit(risk_coverage)
    for found, expected in zip(
        jitted(confidence[order], correct[order]), risk_coverage(confidence, correct), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("right", "area"), [(True, 0), (False, 1)])
def test_all_right_and_all_wrong(right, area):
    confidence = np.array([0.9, 0.3, 0.3])
    assert float(area_under_risk_coverage(confidence, np.full(3, right))) == area


# What is refused.


@each_measure
@pytest.mark.parametrize("side", ["positive", "negative"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "must have at least one row"),
        ([[1.0]], "must be"),
        ([1.0, np.nan], "must be finite; found 1 bad row of 2"),
        ([np.inf], "must be finite; found 1 bad row of 1"),
    ],
)
def test_scores_that_do_not_rank_are_refused(measure, side, bad, message):
    sides = {"positive": np.ones(2), "negative": np.ones(2), side: np.array(bad)}
    with pytest.raises(ValueError, match=f"{side} {message}"):
        measure(sides["positive"], sides["negative"])


@each_measure
def test_scores_are_floating(measure):
    with pytest.raises(TypeError, match="negative must be floating; found int"):
        measure(np.ones(2), np.array([1, 2]))


@pytest.mark.parametrize("rate", [0.0, 1.1, np.nan])
def test_a_rate_is_a_share(rate):
    with pytest.raises(ValueError, match=r"true_positive_rate must be in \(0, 1\]; found"):
        false_positive_rate(np.ones(2), np.ones(2), true_positive_rate=rate)


@pytest.mark.parametrize("function", [risk_coverage, area_under_risk_coverage])
def test_confidence_and_correct_are_checked(function):
    for confidence, correct, message in (
        ([], [], "confidence must have at least one row"),
        ([1.0, np.nan], [1, 1], "confidence must be finite; found 1 bad row of 2"),
        ([1.0, 0.5], [1], r"correct must have shape \(2,\)"),
        ([1.0, 0.5], [1, 2], "correct must be 0 or 1; found 1 bad row of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            function(np.array(confidence), np.array(correct))
    with pytest.raises(TypeError, match="confidence must be floating"):
        function(np.array([1, 2]), np.array([1, 1]))
