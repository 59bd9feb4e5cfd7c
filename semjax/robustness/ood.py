"""Scores of how familiar an input looks: higher is more in-distribution.

Compare them between data sets by `semjax.robustness.ranking`: auroc(score of the test set, score of
another data set).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.checks import checked_integer
from semjax.robustness.values import checked_classes, checked_rows

# Rows scored at a time by nearest_neighbour_score: against 50,000 rows, 102 MB of similarities.
_BLOCK = 512


def max_softmax_probability(logits: ArrayLike) -> jax.Array:
    """The probability of the most probable class, MSP.

    max_k softmax(z)_k, in float32: probabilities above 1 - 6e-8 are all 1 and tie.

    Args:
      logits: floating [N, K].

    Returns:
      f32[N] in [1 / K, 1].

    Raises:
      TypeError: logits that are not floating.
      ValueError: logits of another rank, no rows, or not finite (in an eager call).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import max_softmax_probability
      >>> max_softmax_probability(jnp.zeros((1, 4)))
      Array([0.25], dtype=float32)

    References:
      Hendrycks and Gimpel 2017, A baseline for detecting misclassified and out-of-distribution
      examples in neural networks (arXiv:1610.02136).
    """
    return jax.nn.softmax(checked_rows("logits", logits, ("N", "K"))).max(1)


def negative_entropy(logits: ArrayLike) -> jax.Array:
    """Minus the entropy of the softmax, in nats: sum_k p_k log p_k.

    Args:
      logits: floating [N, K].

    Returns:
      f32[N] in [-log K, 0].

    Raises:
      TypeError: logits that are not floating.
      ValueError: logits of another rank, no rows, or not finite (in an eager call).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import negative_entropy
      >>> round(float(negative_entropy(jnp.zeros((1, 4)))[0]), 4)
      -1.3863
    """
    log_p = jax.nn.log_softmax(checked_rows("logits", logits, ("N", "K")))
    return (jnp.exp(log_p) * log_p).sum(1)


def negative_energy(logits: ArrayLike, *, temperature: float = 1.0) -> jax.Array:
    """Minus the free energy of the logits: T log sum_k exp(z_k / T).

    Args:
      logits: floating [N, K].
      temperature: T, positive.

    Returns:
      f32[N].

    Raises:
      TypeError: logits that are not floating.
      ValueError: logits of another rank, no rows, or not finite (in an eager call), or a
        temperature that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import negative_energy
      >>> round(float(negative_energy(jnp.zeros((1, 4)))[0]), 4)
      1.3863

    References:
      Liu et al. 2020, Energy-based out-of-distribution detection (arXiv:2010.03759).
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be positive and finite; found {temperature!r}")
    logits = checked_rows("logits", logits, ("N", "K"))
    return temperature * jax.nn.logsumexp(logits / temperature, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mahalanobis:
    """Gaussians of one covariance, one for each class, as `fit_mahalanobis` fits them.

    Attributes:
      mean: f32[C, D], of each class; that of all rows for a class without rows.
      count: f32[C], rows of each class.
      whitening: f32[D, R], W with W W^T the pseudo-inverse of the covariance, R = min(N, D).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import fit_mahalanobis
      >>> features = jnp.array([[0.0], [2.0], [10.0], [12.0]])
      >>> fit_mahalanobis(features, jnp.array([0, 0, 1, 1]), num_classes=2).mean.ravel()
      Array([ 1., 11.], dtype=float32)
    """

    mean: jax.Array
    count: jax.Array
    whitening: jax.Array


def fit_mahalanobis(features: ArrayLike, label: ArrayLike, *, num_classes: int) -> Mahalanobis:
    """Fits class means and the covariance that all classes share, to training features.

    covariance = (1 / N) sum_i (f_i - mean of f_i's class) (f_i - mean of f_i's class)^T

    Its inverse is the pseudo-inverse: a direction whose standard deviation is at most D * 1.2e-7 of
    the largest one, or of the length of the mean feature if that is larger, is rounding and not
    looked at. So features may be of any rank (ReLUs that never fire, more features than rows).

    Args:
      features: floating [N, D], of the training set.
      label: integers [N] in [0, C).
      num_classes: C, static.

    Returns:
      The Mahalanobis.

    Raises:
      TypeError: arguments of another dtype.
      ValueError: arguments of another shape, no rows, or, in an eager call, features that are not
        finite, or labels out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import fit_mahalanobis, mahalanobis_score
      >>> features = jnp.array([[0.0], [2.0], [10.0], [12.0]])
      >>> fit = fit_mahalanobis(features, jnp.array([0, 0, 1, 1]), num_classes=2)
      >>> mahalanobis_score(fit, jnp.array([[2.0], [14.0]])).round(4)
      Array([-1., -9.], dtype=float32)

    References:
      Lee et al. 2018, A simple unified framework for detecting out-of-distribution samples and
      adversarial attacks (arXiv:1807.03888), for the fit and the score, of one layer and without
      their input pre-processing. The rule for the rank is ours.
    """
    features = checked_rows("features", features, ("N", "D"))
    num_classes = checked_integer("num_classes", num_classes)
    label = checked_classes("label", label, features.shape[0], number=num_classes)
    return _fit(features, label, num_classes)


@functools.partial(jax.jit, static_argnames="num_classes")
def _fit(features: jax.Array, label: jax.Array, num_classes: int) -> Mahalanobis:
    rows, width = features.shape
    member = jax.nn.one_hot(label, num_classes)
    count = member.sum(0)
    # Sums of what is left after the mean of all rows: a mean far from 0 would cost digits.
    centre = features.mean(0)
    total = jnp.matmul(member.T, features - centre[None], precision="highest")
    mean = centre[None] + total / jnp.maximum(count, 1)[:, None]
    within = (features - mean[label]) / math.sqrt(rows)
    # The singular values of the differences, not the eigenvalues of the covariance: those are the
    # squares, of which float32 resolves half the range.
    _, deviation, direction = jnp.linalg.svd(jnp.linalg.qr(within, mode="r"), full_matrices=False)
    largest = jnp.maximum(deviation[0], jnp.linalg.norm(centre))
    used = deviation > largest * width * jnp.finfo(jnp.float32).eps
    scale = jnp.where(used, 1 / jnp.where(used, deviation, 1), 0)
    return Mahalanobis(mean=mean, count=count, whitening=direction.T * scale[None])


def mahalanobis_score(fit: Mahalanobis, features: ArrayLike) -> jax.Array:
    """Minus the squared Mahalanobis distance to the nearest class.

    max_c -(f - mean_c)^T covariance^+ (f - mean_c), over the classes that have rows

    Args:
      fit: of `fit_mahalanobis`.
      features: floating [N, D], to be scored.

    Returns:
      f32[N], at most 0.

    Raises:
      TypeError: features that are not floating.
      ValueError: features of another width than the fit's, no rows, or not finite (in an eager
        call).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import fit_mahalanobis, mahalanobis_score
      >>> features = jnp.array([[0.0], [2.0]])
      >>> fit = fit_mahalanobis(features, jnp.array([0, 0]), num_classes=1)
      >>> mahalanobis_score(fit, jnp.array([[4.0]])).round(4)
      Array([-9.], dtype=float32)

    References:
      Lee et al. 2018 (arXiv:1807.03888).
    """
    features = checked_rows("features", features, ("N", "D"))
    if features.shape[1] != fit.mean.shape[1]:
        raise ValueError(
            f"features must have the {fit.mean.shape[1]} columns of the fit; "
            f"found shape {features.shape}"
        )

    return _score(fit, features)


@jax.jit
def _score(fit: Mahalanobis, features: jax.Array) -> jax.Array:
    # From amid the classes: a mean far from 0 would cost digits.
    centre = fit.mean.mean(0)
    white, means = (
        jnp.matmul(x - centre[None], fit.whitening, precision="highest")
        for x in (features, fit.mean)
    )

    def score(one: tuple[jax.Array, jax.Array]) -> jax.Array:
        mean, count = one
        return jnp.where(count > 0, -jnp.square(white - mean[None]).sum(1), -jnp.inf)

    # Class by class: the differences to all classes at once would be [N, C, D].
    return jax.lax.map(score, (means, fit.count)).max(0)


def nearest_neighbour_score(features: ArrayLike, bank: ArrayLike, *, k: int = 50) -> jax.Array:
    """Minus the distance to the k-th nearest training row, between features of length 1.

    -|f / |f| - b / |b||, b the k-th nearest of the bank; a feature that is 0 stays 0

    Rows are scored 512 at a time, so that memory is for 512 times the bank's rows. Distances below
    about 1e-3 are accurate to 5e-4 in the choice of the neighbour, others to 1e-6.

    Args:
      features: floating [N, D], to be scored.
      bank: floating [M, D], of the training set.
      k: static, in [1, M].

    Returns:
      f32[N] in [-2, 0].

    Raises:
      TypeError: arguments that are not floating.
      ValueError: arguments of another shape, no rows, k out of range, or, in an eager call,
        features that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.ood import nearest_neighbour_score
      >>> bank = jnp.array([[1.0, 0.0], [0.0, 3.0]])
      >>> nearest_neighbour_score(jnp.array([[2.0, 0.0], [0.0, 1.0]]), bank, k=2).tolist()
      [-1.4142135381698608, -1.4142135381698608]

    References:
      Sun et al. 2022, Out-of-distribution detection with deep nearest neighbors
      (arXiv:2204.06507).
    """
    features = checked_rows("features", features, ("N", "D"))
    bank = checked_rows("bank", bank, ("M", "D"))
    if features.shape[1] != bank.shape[1]:
        raise ValueError(
            f"features and bank must have one width; found shapes {features.shape}, {bank.shape}"
        )
    k = checked_integer("k", k)
    if not 1 <= k <= bank.shape[0]:
        raise ValueError(f"k must be in [1, {bank.shape[0]}], the rows of the bank; found {k}")
    rows = features.shape[0]
    block = min(rows, _BLOCK)
    features, bank = _unit(features), _unit(bank)
    features = jnp.pad(features, [(0, -rows % block), (0, 0)])
    # Not lax.map: inside a loop the CPU backend computes a block on one core.
    parts = [
        _distance_to_kth(features[start : start + block], bank, k)
        for start in range(0, features.shape[0], block)
    ]
    return -jnp.concatenate(parts)[:rows]


@functools.partial(jax.jit, static_argnames="k")
def _distance_to_kth(features: jax.Array, bank: jax.Array, k: int) -> jax.Array:
    similarity = jnp.matmul(features, bank.T, precision="highest")
    nearest = bank[_kth_largest(similarity, k)]
    # From the difference: sqrt(2 - 2 * similarity) loses half of the digits of a small distance.
    return jnp.linalg.norm(features - nearest, axis=1)


def _kth_largest(x: jax.Array, k: int) -> jax.Array:
    """i32[B]: where the k-th largest of each row of f32[B, M] is."""
    # The k largest lie in the k groups whose largest members are largest. So groups are ranked
    # first, then the members of k of them: 2 sqrt(k M) numbers to sort for M.
    rows, size = x.shape
    width = math.isqrt(size // k)
    padded = jnp.pad(x, [(0, 0), (0, -size % width)], constant_values=-jnp.inf)
    groups = padded.reshape(rows, -1, width)
    chosen = jax.lax.top_k(groups.max(2), k)[1]
    members = jnp.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(rows, k * width)
    place = jax.lax.top_k(members, k)[1][:, -1:]
    return (jnp.take_along_axis(chosen, place // width, axis=1) * width + place % width)[:, 0]


def _unit(x: jax.Array) -> jax.Array:
    # Scaled by the largest entry first, whose square may be out of float32's range.
    x = x / jnp.maximum(jnp.abs(x).max(1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
