"""How well a score ranks: positives above negatives, right answers above wrong ones.

Every function depends on the order of its scores alone, never on the order of the rows: tied scores
are handled by their expectation, or together, as each docstring says. Scores are compared as
float32. Counts are exact integers below 2**31, so values are right to about 1e-7.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.robustness.summing import pairwise_mean
from semjax.robustness.values import checked_correct, checked_rows


def auroc(positive: ArrayLike, negative: ArrayLike) -> jax.Array:
    """The area under the receiver operating characteristic, by the ranks of Mann and Whitney.

    P(positive > negative) + P(positive = negative) / 2 over all pairs

    Args:
      positive: floating [P], scores of what should score high.
      negative: floating [N], scores of what should score low.

    Returns:
      f32[] in [0, 1]; 0.5 when the score says nothing.

    Raises:
      TypeError: scores that are not floating.
      ValueError: scores of another rank, none of one kind, or not finite (in an eager call).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ranking import auroc
      >>> float(auroc(jnp.array([0.9, 0.5]), jnp.array([0.5, 0.1])))
      0.875

    References:
      Hanley and McNeil 1982, The meaning and use of the area under a ROC curve.
    """
    positive, negative = _checked(positive, negative)
    below = _below(negative, positive, "left") + _below(negative, positive, "right")
    # The mean of shares: the number of all pairs would not fit into 32 bits.
    return pairwise_mean(below / (2 * negative.shape[0]))


def average_precision(positive: ArrayLike, negative: ArrayLike) -> jax.Array:
    """The area under the precision-recall curve, as a step function without interpolation.

    The mean over positives of the precision at their score: the share of positives among the rows
    that score as high or higher. Tied scores are taken together.

    Args:
      positive: floating [P], scores of what should score high.
      negative: floating [N], scores of what should score low.

    Returns:
      f32[] in [0, 1]; about P / (P + N) when the score says nothing.

    Raises:
      TypeError: scores that are not floating.
      ValueError: scores of another rank, none of one kind, or not finite (in an eager call).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ranking import average_precision
      >>> round(float(average_precision(jnp.array([0.9, 0.5]), jnp.array([0.5, 0.1]))), 4)
      0.8333
    """
    positive, negative = _checked(positive, negative)
    hits = positive.shape[0] - _below(positive, positive, "left")
    misses = negative.shape[0] - _below(negative, positive, "left")
    return pairwise_mean(hits / (hits + misses))


def false_positive_rate(
    positive: ArrayLike, negative: ArrayLike, *, true_positive_rate: float = 0.95
) -> jax.Array:
    """The share of negatives accepted by the highest threshold that accepts enough positives.

    The share of negatives >= t, where t is the largest threshold with a share of positives >= t of
    at least the rate.

    Args:
      positive: floating [P], scores of what should score high.
      negative: floating [N], scores of what should score low.
      true_positive_rate: in (0, 1].

    Returns:
      f32[] in [0, 1]; small is good.

    Raises:
      TypeError: scores that are not floating.
      ValueError: scores of another rank, none of one kind, or not finite (in an eager call), or a
        rate out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ranking import false_positive_rate
      >>> float(false_positive_rate(jnp.array([0.9, 0.5]), jnp.array([0.7, 0.1])))
      0.5

    References:
      Hendrycks et al. 2019, Deep anomaly detection with outlier exposure (arXiv:1812.04606),
      for its use (FPR95).
    """
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"true_positive_rate must be in (0, 1]; found {true_positive_rate!r}")
    positive, negative = _checked(positive, negative)
    # Products such as 0.07 * 100 come out a hair above the integer that is meant.
    accepted = max(1, math.ceil(true_positive_rate * positive.shape[0] - 1e-6))
    threshold = jnp.sort(positive)[positive.shape[0] - accepted]
    return (negative >= threshold).sum() / negative.shape[0]


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """The error on the k most confident rows, for every k: the risk-coverage curve.

    coverage_k = k / N,  risk_k = E[wrong rows among the k most confident] / k

    The expectation is over the order of rows whose confidence is tied: a part of a tied group holds
    its share of the group's wrong rows. The last risk is the error on all rows.

    Args:
      confidence: floating [N].
      correct: [N], bool, or numbers that are 0 or 1.

    Returns:
      coverage f32[N], rising to 1, and risk f32[N] in [0, 1].

    Raises:
      TypeError: a confidence that is not floating.
      ValueError: arguments of another shape, no rows, a confidence that is not finite or a correct
        that is neither 0 nor 1 (in an eager call).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ranking import risk_coverage
      >>> coverage, risk = risk_coverage(jnp.array([0.9, 0.5, 0.5]), jnp.array([True, True, False]))
      >>> [round(float(r), 4) for r in risk]
      [0.0, 0.25, 0.3333]

    References:
      Geifman and El-Yaniv 2017, Selective classification for deep neural networks
      (arXiv:1705.08500), for risk and coverage.
    """
    confidence = checked_rows("confidence", confidence, ("N",))
    rows = confidence.shape[0]
    wrong = 1 - checked_correct("correct", correct, rows=rows)
    order = jnp.argsort(-confidence)
    ranked = -confidence[order]
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(wrong[order], dtype=jnp.int32)])
    # Of row k's group of ties: where it begins, and where the next one does.
    first, last = (jnp.searchsorted(ranked, ranked, side=side) for side in ("left", "right"))
    taken = jnp.arange(1, rows + 1, dtype=jnp.int32)
    share = (taken - first) / (last - first)
    risk = (before[first] + share * (before[last] - before[first])) / taken
    return taken / rows, risk


def area_under_risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> jax.Array:
    """The mean of `risk_coverage` over all coverages, AURC: small when errors are unsure.

    (1 / N) sum_k risk_k

    It is the expectation over the orders of tied rows. It is at least that of the best ranking,
    which is above 0 as soon as a row is wrong: compare models of like accuracy.

    Args:
      confidence: floating [N].
      correct: [N], bool, or numbers that are 0 or 1.

    Returns:
      f32[] in [0, 1]; the error when the confidence says nothing.

    Raises:
      TypeError: as in `risk_coverage`.
      ValueError: as in `risk_coverage`.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ranking import area_under_risk_coverage
      >>> confidence, correct = jnp.array([0.9, 0.5, 0.5]), jnp.array([True, True, False])
      >>> round(float(area_under_risk_coverage(confidence, correct)), 4)
      0.1944

    References:
      Geifman et al. 2019, Bias-reduced uncertainty estimation for deep neural classifiers
      (arXiv:1805.08206), for the measure.
    """
    return pairwise_mean(risk_coverage(confidence, correct)[1])


def _checked(positive: ArrayLike, negative: ArrayLike) -> tuple[jax.Array, jax.Array]:
    return checked_rows("positive", positive, ("P",)), checked_rows("negative", negative, ("N",))


def _below(scores: jax.Array, thresholds: jax.Array, side: str) -> jax.Array:
    """i32[T]: how many scores lie below each threshold, those equal to it counted by "right"."""
    return jnp.searchsorted(jnp.sort(scores), thresholds, side=side)
