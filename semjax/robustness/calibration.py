"""Whether probabilities mean what they say: calibration errors, and the temperature that helps.

Bins are as in `semjax.metrics.Sums`: with M bins of equal width, bin m = 1..M holds what lies in
((m - 1) / M, m / M], a 0 in the first, and the edges are the float32 numbers nearest to m / M.

Every value is right to 1e-6 for 10,000 rows, and no function depends on the order of the rows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.checks import checked_integer
from semjax.robustness.summing import pairwise_mean, pairwise_sum
from semjax.robustness.values import check_values, checked_classes, checked_rows

#: The temperatures that `fit_temperature` looks at.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-3, 1e3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reliability:
    """A reliability diagram: how right and how sure the rows of each confidence bin are.

    Attributes:
      count: f32[M], rows of each bin.
      accuracy: f32[M], the share of them that is right; NaN in an empty bin.
      confidence: f32[M], their mean confidence; NaN in an empty bin.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.calibration import reliability
      >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
      >>> reliability(p, jnp.array([0, 1]), bins=2).accuracy
      Array([nan, 0.5], dtype=float32)
    """

    count: jax.Array
    accuracy: jax.Array
    confidence: jax.Array


def reliability(probabilities: ArrayLike, label: ArrayLike, *, bins: int = 15) -> Reliability:
    """Accuracy and mean confidence by confidence, in bins of equal width.

    The confidence of a row is its largest probability; the row is right if that is the label's.
    Ties go to the lowest class.

    Args:
      probabilities: floating [N, K], rows that sum to 1.
      label: integers [N] in [0, K).
      bins: M, static.

    Returns:
      The Reliability.

    Raises:
      TypeError: arguments of another dtype.
      ValueError: arguments of another shape, no rows, bins less than 1, or, in an eager call,
        probabilities that are none, or labels out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.calibration import reliability
      >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
      >>> reliability(p, jnp.array([0, 1]), bins=2).count
      Array([0., 2.], dtype=float32)

    References:
      Guo et al. 2017, On calibration of modern neural networks (arXiv:1706.04599).
    """
    confidence, correct, bins = _checked(probabilities, label, bins)
    return _diagram(confidence, correct, bins)


def expected_calibration_error(
    probabilities: ArrayLike, label: ArrayLike, *, bins: int = 15
) -> jax.Array:
    """The gap between accuracy and confidence, in bins of equal width: ECE.

    sum_m n_m / N * |accuracy of bin m - mean confidence of bin m|

    Args:
      probabilities: as in `reliability`.
      label: as in `reliability`.
      bins: M, static.

    Returns:
      f32[] in [0, 1].

    Raises:
      TypeError: as in `reliability`.
      ValueError: as in `reliability`.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.calibration import expected_calibration_error
      >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
      >>> float(expected_calibration_error(p, jnp.array([0, 1])))
      0.25

    References:
      Guo et al. 2017, On calibration of modern neural networks (arXiv:1706.04599), eq. 3.
    """
    confidence, correct, bins = _checked(probabilities, label, bins)
    return _error(confidence, correct, bins)


def adaptive_calibration_error(
    probabilities: ArrayLike, label: ArrayLike, *, bins: int = 15
) -> jax.Array:
    """The gap between accuracy and confidence, in bins of equal mass.

    The rows, ordered by confidence, are cut into M runs whose lengths differ by one at most: the
    row of rank r = 0..N-1 is in run floor(r M / N). The error is that of
    `expected_calibration_error` over the runs; runs without a row add nothing.

    Rows of one confidence may lie on both sides of a cut. Each of them counts as right by the share
    of right rows among them, so that the order in which they come does not matter.

    Args:
      probabilities: as in `reliability`.
      label: as in `reliability`.
      bins: M, static.

    Returns:
      f32[] in [0, 1].

    Raises:
      TypeError: as in `reliability`.
      ValueError: as in `reliability`.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.calibration import adaptive_calibration_error
      >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
      >>> float(adaptive_calibration_error(p, jnp.array([0, 1])))
      0.25

    References:
      Nguyen and O'Connor 2015, Posterior calibration and exploratory analysis for natural language
      processing models (arXiv:1508.05154), for bins of equal mass; Mukhoti et al. 2020, Calibrating
      deep neural networks using focal loss (arXiv:2002.09437), for their use with the most probable
      class. The rule for ties is ours.
    """
    confidence, correct, bins = _checked(probabilities, label, bins)
    return _adaptive_error(confidence, correct, bins)


def classwise_calibration_error(
    probabilities: ArrayLike, label: ArrayLike, *, bins: int = 15
) -> jax.Array:
    """The gap between frequency and probability of each class, the mean over the classes.

    (1 / K) sum_k sum_m n_mk / N * |share of label k in bin m - mean p_k in bin m|

    where the bins of class k are those of p_k.

    Args:
      probabilities: as in `reliability`.
      label: as in `reliability`.
      bins: M, static.

    Returns:
      f32[] in [0, 1]. With many classes most p_k are about 0, and so is the error: compare it for
      one K only.

    Raises:
      TypeError: as in `reliability`.
      ValueError: as in `reliability`.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.calibration import classwise_calibration_error
      >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
      >>> float(classwise_calibration_error(p, jnp.array([0, 1])))
      0.25

    References:
      Kull et al. 2019, Beyond temperature scaling (arXiv:1910.12656), for classwise calibration;
      Nixon et al. 2019, Measuring calibration in deep learning (arXiv:1904.01685), who call it
      static calibration error.
    """
    p, label, bins = _checked_all(probabilities, label, bins)
    return _classwise_error(p, label, bins)


def fit_temperature(logits: ArrayLike, label: ArrayLike) -> jax.Array:
    """The temperature that makes the labels most likely: the T of the least NLL of softmax(z / T).

    The NLL is convex in b = 1 / T, with the slope mean_i(sum_k p_ik z_ik - z_iy), which rises with
    b. Its zero is found by 24 halvings of [log 1e-3, log 1e3], which settle T to 1e-6 of itself.

    | labels | T |
    |---|---|
    | every label has the largest logit of its row (separable) | 1e-3, the lower bound |
    | larger logits make labels no likelier (useless) | 1e3, the upper bound |
    | all logits of each row are equal: T changes nothing | 1 |

    Args:
      logits: floating [N, K], of rows the model was not trained on.
      label: integers [N] in [0, K).

    Returns:
      f32[] in [1e-3, 1e3]; divide logits by it.

    Raises:
      TypeError: arguments of another dtype.
      ValueError: arguments of another shape, no rows, or, in an eager call, logits that are not
        finite, or labels out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.calibration import fit_temperature
      >>> logits = jnp.array([[4.0, 0.0]] * 4)  # three of four are right, and sigmoid(log 3) = 3/4
      >>> round(float(4 / fit_temperature(logits, jnp.array([0, 0, 0, 1]))), 4)  # log 3
      1.0986

    References:
      Guo et al. 2017, On calibration of modern neural networks (arXiv:1706.04599), section 4.2.
    """
    logits = checked_rows("logits", logits, ("N", "K"))
    label = checked_classes("label", label, *logits.shape[:1], number=logits.shape[1])
    return _temperature(logits, label)


@jax.jit
def _temperature(logits: jax.Array, label: jax.Array) -> jax.Array:
    # Logits count from the label's, so that the slope is a mean of small numbers.
    ahead = logits - jnp.take_along_axis(logits, label[:, None], axis=1)

    def slope(inverse: jax.Array) -> jax.Array:
        return pairwise_mean((jax.nn.softmax(inverse * ahead) * ahead).sum(1))

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        rising = slope(jnp.exp(-middle)) > 0  # too cold: the best T lies above
        return jnp.where(rising, middle, low), jnp.where(rising, high, middle)

    low, high = (jnp.log(jnp.float32(t)) for t in (LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE))
    best = jnp.exp(jax.lax.fori_loop(0, 24, halve, (low, high))[1])
    best = jnp.where(slope(1 / jnp.float32(LOWEST_TEMPERATURE)) <= 0, LOWEST_TEMPERATURE, best)
    best = jnp.where(slope(1 / jnp.float32(HIGHEST_TEMPERATURE)) >= 0, HIGHEST_TEMPERATURE, best)
    return jnp.where((ahead == 0).all(), jnp.float32(1), best)


def _checked(
    probabilities: ArrayLike, label: ArrayLike, bins: int
) -> tuple[jax.Array, jax.Array, int]:
    """The confidence f32[N] and whether it was right, f32[N]."""
    p, label, bins = _checked_all(probabilities, label, bins)
    return p.max(1), (p.argmax(1) == label).astype(jnp.float32), bins


def _checked_all(
    probabilities: ArrayLike, label: ArrayLike, bins: int
) -> tuple[jax.Array, jax.Array, int]:
    bins = checked_integer("bins", bins)
    if bins < 1:
        raise ValueError(f"bins must be at least 1; found {bins}")
    p = checked_rows("probabilities", probabilities, ("N", "K"))
    # Logits are the likely mistake. The tolerance is for probabilities made in bfloat16.
    fine = (jnp.abs(p.sum(1) - 1) < 0.02) & (p >= 0).all(1) & (p <= 1 + 1e-5).all(1)
    check_values("probabilities", fine, "in [0, 1], in rows that sum to 1")
    return p, checked_classes("label", label, *p.shape[:1], number=p.shape[1]), bins


@functools.partial(jax.jit, static_argnames="bins")
def _diagram(confidence: jax.Array, correct: jax.Array, bins: int) -> Reliability:
    member = _membership(confidence, bins)
    count, right, sure = pairwise_sum(
        jnp.stack([member, member * correct[:, None], member * confidence[:, None]], axis=1)
    )
    return Reliability(count=count, accuracy=right / count, confidence=sure / count)


@functools.partial(jax.jit, static_argnames="bins")
def _adaptive_error(confidence: jax.Array, correct: jax.Array, bins: int) -> jax.Array:
    rows = confidence.shape[0]
    order = jnp.argsort(confidence)
    confidence, right = confidence[order], correct[order].astype(jnp.int32)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(right, dtype=jnp.int32)])
    first, last = (
        jnp.searchsorted(confidence, confidence, side=side) for side in ("left", "right")
    )
    share = (before[last] - before[first]) / (last - first)
    run = np.arange(rows, dtype=np.int64) * bins // rows
    return _gaps(share - confidence, jax.nn.one_hot(run, bins)) / rows


@functools.partial(jax.jit, static_argnames="bins")
def _classwise_error(p: jax.Array, label: jax.Array, bins: int) -> jax.Array:
    own = jax.nn.one_hot(label, p.shape[1], axis=0)
    # Class by class, so that memory is for one class: [N, M] and not [N, K, M].
    return pairwise_mean(jax.lax.map(lambda pair: _error(*pair, bins), (p.T, own)))


@functools.partial(jax.jit, static_argnames="bins")
def _error(confidence: jax.Array, correct: jax.Array, bins: int) -> jax.Array:
    rows = confidence.shape[0]
    return _gaps(correct - confidence, _membership(confidence, bins)) / rows


def _gaps(surplus: jax.Array, member: jax.Array) -> jax.Array:
    """f32[]: the sum over bins of |sum of the surplus of the bin's rows|."""
    return jnp.abs(pairwise_sum(member * surplus[:, None])).sum()


def _membership(confidence: jax.Array, bins: int) -> jax.Array:
    """f32[N, M], one-hot: the bin of each confidence."""
    # Compared with the edges, not multiplied by M and rounded up, which would misplace edges.
    edges = np.arange(1, bins, dtype=np.float32) / np.float32(bins)
    return jax.nn.one_hot(jnp.searchsorted(edges, confidence, side="left"), bins)
