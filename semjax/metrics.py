"""Classification metrics as sums and counts, so that batches, devices and hosts simply add up.

A mean of means is wrong as soon as batches differ in size. So a batch gives a `Sums`, Sums are
added (`+`, or a psum), and only the total is turned into fractions by `summarise`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums over rows, a pytree of float32: it passes through jit, vmap, scan, psum and shardings.

    Counts are exact up to 2**24 = 16,777,216 rows, the integers that float32 holds.

    With M bins, bin m = 1..M holds the rows whose confidence lies in ((m - 1) / M, m / M]. The
    edges are the float32 numbers nearest to m / M, and a confidence equal to one belongs below it.

    Attributes:
      count: f32[], rows.
      correct: f32[], rows whose most probable class is the label.
      nll: f32[], sum of the negative log-likelihoods, in nats.
      brier: f32[], sum of the squared errors of the probabilities, over all classes.
      bin_count: f32[M], rows of each confidence bin; they sum to count.
      bin_correct: f32[M], correct rows of each bin.
      bin_confidence: f32[M], sum of the confidences of each bin.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import classification_sums
      >>> first = classification_sums(jnp.array([[3.0, 0.0], [0.0, 3.0]]), jnp.array([0, 0]))
      >>> second = classification_sums(jnp.array([[3.0, 0.0]]), jnp.array([0]))
      >>> total = first + second
      >>> float(total.correct), float(total.count)
      (2.0, 3.0)
    """

    count: jax.Array
    correct: jax.Array
    nll: jax.Array
    brier: jax.Array
    bin_count: jax.Array
    bin_correct: jax.Array
    bin_confidence: jax.Array

    def __add__(self, other: Any) -> "Sums":
        """Adds two Sums; `sum(parts, start=zeros())` adds many."""
        if not isinstance(other, Sums):
            return NotImplemented
        # Checked here because a lone bin would broadcast to any number of them.
        if self.bin_count.shape != other.bin_count.shape:
            raise ValueError(
                "Sums must have the same bins to be added; "
                f"found {self.bin_count.shape} and {other.bin_count.shape}"
            )
        return jax.tree.map(jnp.add, self, other)


def zeros(*, bins: int = 15) -> Sums:
    """The Sums of no rows, to start adding from.

    Args:
      bins: M, the number of confidence bins.

    Returns:
      Sums that are 0.

    Raises:
      ValueError: bins less than 1.

    Example:
      >>> from semjax.metrics import zeros
      >>> zeros(bins=3).bin_count
      Array([0., 0., 0.], dtype=float32)
    """
    _check_bins(bins)

    # Each field has its own buffer, so that a carried Sums can be donated.
    def total(*shape: int) -> jax.Array:
        return jnp.zeros(shape, jnp.float32)

    return Sums(
        count=total(),
        correct=total(),
        nll=total(),
        brier=total(),
        bin_count=total(bins),
        bin_correct=total(bins),
        bin_confidence=total(bins),
    )


def classification_sums(
    logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None, bins: int = 15
) -> Sums:
    """Accuracy, likelihood, Brier score and calibration of a batch, as sums over its valid rows.

    With p = softmax(z), y the label as a distribution, and both in float32:

      nll = -sum_k y_k log p_k      brier = sum_k (p_k - y_k)^2
      confidence = max_k p_k        correct = [argmax_k z_k == argmax_k y_k]

    Ties of the argmax go to the lowest class. A row whose largest logit is not finite (a NaN, +inf,
    all -inf) has no softmax: it is not correct, and it makes nll, brier and the confidence of a bin
    NaN. A class id outside [0, K) is not correct, and it makes nll and brier NaN.

    Args:
      logits: floating [B, K], of any precision.
      label: integers [B], class ids, or floating [B, K], rows that sum to 1.
      valid: bool[B], or None for all. Rows that are not valid add nothing, whatever they hold.
      bins: M, the number of equal-width confidence bins.

    Returns:
      The Sums of the batch.

    Raises:
      TypeError: logits, label or valid of another dtype.
      ValueError: logits, label or valid of another shape, or bins less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import classification_sums
      >>> sums = classification_sums(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1]), bins=2)
      >>> sums.bin_count, float(sums.correct)
      (Array([0., 2.], dtype=float32), 1.0)

    References:
      Brier 1950, Verification of forecasts expressed in terms of probability, eq. 2.
      Guo et al. 2017, On calibration of modern neural networks (arXiv:1706.04599), eq. 3, and
      Naeini et al. 2015, Obtaining well calibrated probabilities, for the bins.
    """
    _check_bins(bins)
    logits, label, valid = _checked(logits, label, valid)
    target = _distribution(label, logits.shape[1])
    p, log_p = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    confidence = p.max(1)
    # Where y_k is 0 the term is 0, though log p_k may be -inf (a class masked out of the logits).
    nll = -jnp.where(target == 0, 0, target * log_p).sum(1)
    brier = jnp.square(p - target).sum(1)
    rows = valid.astype(jnp.float32)
    correct = rows * (_predicted(logits) == _class(label))
    # Elementwise and no matmul: matrix units may round their factors to bfloat16. And what may be
    # NaN is selected, not multiplied: 0 * NaN is NaN.
    member = rows[:, None] * _membership(confidence, bins)
    return Sums(
        count=rows.sum(),
        correct=correct.sum(),
        nll=jnp.where(valid, nll, 0).sum(),
        brier=jnp.where(valid, brier, 0).sum(),
        bin_count=member.sum(0),
        bin_correct=(member * correct[:, None]).sum(0),
        bin_confidence=jnp.where(member > 0, confidence[:, None], 0).sum(0),
    )


def summarise(sums: Sums) -> dict[str, jax.Array]:
    """Turns sums into means.

    ece = sum_m n_m / N * |accuracy of bin m - mean confidence of bin m|; empty bins add nothing.

    Args:
      sums: the total over whatever is to be summarised. Leading axes, of Sums made under vmap, are
        kept.

    Returns:
      A dict of f32[]: count; accuracy and ece, fractions in [0, 1]; nll in nats; brier in [0, 2].
      All but count are NaN when count is 0, since there is nothing to average.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import classification_sums, summarise
      >>> summary = summarise(classification_sums(jnp.zeros((4, 2)), jnp.array([0, 0, 0, 1])))
      >>> {name: round(float(value), 4) for name, value in summary.items()}
      {'count': 4.0, 'accuracy': 0.75, 'nll': 0.6931, 'brier': 0.5, 'ece': 0.25}

    References:
      Guo et al. 2017, On calibration of modern neural networks (arXiv:1706.04599), eq. 3.
    """
    gaps = jnp.abs(sums.bin_correct - sums.bin_confidence)
    means = {"accuracy": sums.correct, "nll": sums.nll, "brier": sums.brier, "ece": gaps.sum(-1)}
    return {"count": sums.count} | {name: total / sums.count for name, total in means.items()}


def accuracy(logits: ArrayLike, label: ArrayLike, *, valid: ArrayLike | None = None) -> jax.Array:
    """The share of valid rows whose most probable class is the label.

    Args:
      logits: floating [B, K]. A row whose largest logit is not finite is wrong.
      label: integers [B], class ids, or floating [B, K], of which the argmax counts.
      valid: bool[B], or None for all.

    Returns:
      f32[], NaN without a valid row.

    Raises:
      TypeError: logits, label or valid of another dtype.
      ValueError: logits, label or valid of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import accuracy
      >>> float(accuracy(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1])))
      0.5
    """
    return _mean(correct(logits, label), _checked(logits, label, valid)[2])


def correct(logits: ArrayLike, label: ArrayLike) -> jax.Array:
    """Which rows are right: the values that `accuracy` is the mean of.

    Args:
      logits: as for `accuracy`.
      label: as for `accuracy`.

    Returns:
      f32[B], 0 or 1.

    Raises:
      TypeError: logits or label of another dtype.
      ValueError: logits or label of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import correct
      >>> correct(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1])).tolist()
      [1.0, 0.0]
    """
    logits, label, _ = _checked(logits, label, None)
    return (_predicted(logits) == _class(label)).astype(jnp.float32)


def mixed_accuracy(
    logits: ArrayLike,
    label: ArrayLike,
    partner: ArrayLike,
    weight: ArrayLike,
    *,
    valid: ArrayLike | None = None,
) -> jax.Array:
    """The accuracy on mixed rows, the mean of `mixed_correct` over the valid ones.

    Args:
      logits: as for `mixed_correct`.
      label: as for `mixed_correct`.
      partner: as for `mixed_correct`; a valid row's partner is valid.
      weight: as for `mixed_correct`.
      valid: bool[B], or None for all.

    Returns:
      f32[], NaN without a valid row.

    Raises:
      TypeError: an argument of another dtype.
      ValueError: an argument of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import mixed_accuracy
      >>> logits, label = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1])
      >>> float(mixed_accuracy(logits, label, jnp.array([1, 0]), jnp.array([0.75, 0.5])))
      0.625
    """
    values = mixed_correct(logits, label, partner, weight)
    return _mean(values, _checked(logits, label, valid)[2])


def mixed_correct(
    logits: ArrayLike, label: ArrayLike, partner: ArrayLike, weight: ArrayLike
) -> jax.Array:
    """How right each mixed row is: each of its two labels counts by its share.

    weight[i] * [pred_i == label_i] + (1 - weight[i]) * [pred_i == label_partner[i]]

    Where the two labels agree the row is right or wrong as a whole, whatever the weight.

    Args:
      logits: floating [B, K], of the mixed rows. A row whose largest logit is not finite is wrong.
      label: integers [B], class ids, or floating [B, K], of which the argmax counts; of the rows
        BEFORE mixing.
      partner: integers [B], the row each row was mixed with.
      weight: floating [B], the share of the original row.

    Returns:
      f32[B] in [0, 1].

    Raises:
      TypeError: an argument of another dtype.
      ValueError: an argument of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.metrics import mixed_correct
      >>> logits, label = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1])
      >>> mixed_correct(logits, label, jnp.array([1, 0]), jnp.array([0.75, 0.5])).tolist()
      [0.75, 0.5]

    References:
      Zhang et al. 2018, mixup (arXiv:1710.09412); the accuracy their training code logs.
    """
    logits, label, _ = _checked(logits, label, None)
    rows = (logits.shape[0],)
    partner = _checked_array("partner", partner, rows, jnp.integer)
    weight = _checked_array("weight", weight, rows, jnp.floating).astype(jnp.float32)
    predicted, label = _predicted(logits), _class(label)
    own, other = predicted == label, predicted == label[partner]
    return weight * own + (1 - weight) * other


def _predicted(logits: jax.Array) -> jax.Array:
    """i32[B], the most probable class; a number that no class has where there is no softmax."""
    # argmax alone would return the place of a NaN, and a diverged model would score on class 0.
    defined = jnp.isfinite(logits.max(1))
    return jnp.where(defined, logits.argmax(1).astype(jnp.int32), jnp.iinfo(jnp.int32).min)


def _class(label: jax.Array) -> jax.Array:
    return label if label.ndim == 1 else label.argmax(1).astype(jnp.int32)


def _distribution(label: jax.Array, classes: int) -> jax.Array:
    """f32[B, K], one-hot for class ids; NaN for an id that names no class, which 0 would hide."""
    if label.ndim == 2:
        return label
    known = (label >= 0) & (label < classes)
    return jnp.where(known[:, None], jax.nn.one_hot(label, classes, dtype=jnp.float32), jnp.nan)


def _membership(confidence: jax.Array, bins: int) -> jax.Array:
    """f32[B, M], one-hot: the bin of each confidence, the lowest for one that is NaN."""
    # Compared with the edges, not multiplied by M and rounded up, which would misplace edges.
    edges = np.arange(1, bins, dtype=np.float32) / np.float32(bins)
    index = (confidence[:, None] > edges[None, :]).sum(1)
    return jax.nn.one_hot(index, bins, dtype=jnp.float32)


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.where(valid, values, 0).sum() / valid.sum(dtype=jnp.float32)


def _checked(
    logits: ArrayLike, label: ArrayLike, valid: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Float32 logits, labels (float32 where soft) and a mask, or a clear error."""
    logits, label = jnp.asarray(logits), jnp.asarray(label)
    if logits.ndim != 2:
        raise ValueError(f"logits must be [B, K]; found shape {logits.shape}")
    logits = _checked_array("logits", logits, logits.shape, jnp.floating).astype(jnp.float32)
    if label.ndim == 2:
        label = _checked_array("label", label, logits.shape, jnp.floating).astype(jnp.float32)
    else:
        label = _checked_array("label", label, logits.shape[:1], jnp.integer).astype(jnp.int32)
    if valid is None:
        return logits, label, jnp.ones(logits.shape[:1], bool)
    return logits, label, _checked_array("valid", valid, logits.shape[:1], jnp.bool_)


def _checked_array(name: str, value: ArrayLike, shape: tuple[int, ...], kind: Any) -> jax.Array:
    array = jnp.asarray(value)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; found shape {array.shape}")
    if not jnp.issubdtype(array.dtype, kind):
        raise TypeError(f"{name} must be {kind.__name__.rstrip('_')}; found {array.dtype}")
    return array


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1; found {bins}")
