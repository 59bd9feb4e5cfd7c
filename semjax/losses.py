"""Losses against soft targets, and the gap between representations."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.rows import Rows

Distance = Literal["mse", "l1", "cosine", "normalised_mse"]
DISTANCES: tuple[str, ...] = get_args(Distance)
DistanceFn = Callable[[jax.Array, jax.Array], jax.Array]
LabelLossFn = Callable[[jax.Array, jax.Array], jax.Array]


def soft_cross_entropy(logits: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Cross-entropy against soft targets: -sum_k t_k log softmax(z)_k, in float32.

    It is linear in the targets, so that mixed targets give exactly the two-term loss of mixup.

    Args:
      logits: [B, K].
      targets: [B, K], rows that sum to 1.

    Returns:
      f32[B].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.losses import soft_cross_entropy
      >>> float(soft_cross_entropy(jnp.zeros((1, 4)), jnp.full((1, 4), 0.25))[0])
      1.3862943649291992

    References:
      Zhang et al. 2018, mixup (arXiv:1710.09412).
    """
    log_p = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    return -(jnp.asarray(targets, jnp.float32) * log_p).sum(-1)


def soft_binary_cross_entropy(logits: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Sigmoid cross-entropy against soft targets, the mean over the K classes, in float32.

    Args:
      logits: [B, K].
      targets: [B, K], each in [0, 1].

    Returns:
      f32[B].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.losses import soft_binary_cross_entropy
      >>> float(soft_binary_cross_entropy(jnp.zeros((1, 4)), jnp.ones((1, 4)))[0])
      0.6931471824645996

    References:
      Wightman et al. 2021, ResNet strikes back (arXiv:2110.00476), for its use with mixup.
    """
    z, t = jnp.asarray(logits, jnp.float32), jnp.asarray(targets, jnp.float32)
    return -(t * jax.nn.log_sigmoid(z) + (1 - t) * jax.nn.log_sigmoid(-z)).mean(-1)


def squared_error(prediction: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Squared error of a regression, the mean over the D outputs, in float32.

    Args:
      prediction: [B, D].
      targets: [B, D].

    Returns:
      f32[B].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.losses import squared_error
      >>> squared_error(jnp.array([[1.0, 3.0]]), jnp.zeros((1, 2)))
      Array([5.], dtype=float32)
    """
    difference = jnp.asarray(prediction, jnp.float32) - jnp.asarray(targets, jnp.float32)
    return jnp.square(difference).mean(-1)


LabelLoss = Literal["ce", "bce", "mse"]
LABEL_LOSSES: dict[str, LabelLossFn] = {
    "ce": soft_cross_entropy,
    "bce": soft_binary_cross_entropy,
    "mse": squared_error,
}


def smooth_targets(label: ArrayLike, num_classes: int, *, smoothing: float = 0.0) -> jax.Array:
    """Label-smoothed targets: (1 - s) * y + s / K, in float32. Smoothing and mixing commute.

    Args:
      label: i32[B] class ids, or soft labels f32[B, K].
      num_classes: K.
      smoothing: s in [0, 1].

    Returns:
      f32[B, K].

    Raises:
      ValueError: soft labels of another number of classes.
      TypeError: labels of rank 1 that are not integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.losses import smooth_targets
      >>> smooth_targets(jnp.array([1]), 2, smoothing=0.5)
      Array([[0.25, 0.75]], dtype=float32)

    References:
      Szegedy et al. 2016 (arXiv:1512.00567), section 7.
    """
    label = jnp.asarray(label)
    if label.ndim == 1:
        if not jnp.issubdtype(label.dtype, jnp.integer):
            raise TypeError(f"labels of rank 1 must be integer class ids; found {label.dtype}")
        label = jax.nn.one_hot(label, num_classes, dtype=jnp.float32)
    if label.ndim != 2 or label.shape[1] != num_classes:
        raise ValueError(
            f"labels must be [B] or [B, {num_classes}] to fit the logits; found shape {label.shape}"
        )
    return (1 - smoothing) * label.astype(jnp.float32) + smoothing / num_classes


def gap(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    distance: Distance | DistanceFn = "mse",
    valid: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Distance between the representation of the mix and the mix of the representations.

    | distance | per row, over its n features (or h x w x D of a feature map) |
    |---|---|
    | mse | mean of (p - t)^2 |
    | l1 | mean of abs(p - t) |
    | cosine | 1 - p.t / (|p| |t|) over the last axis, the mean over cells |
    | normalised_mse | mse / (v + 1e-6), v the variance of t over the valid rows |
    | a function | `distance(prediction, target) -> f32[B]` |

    The variance is averaged over features and carries no gradient; with one valid row, whose
    variance says nothing, normalised_mse is the mse. The gap is the mean over valid rows, in
    float32 whatever the dtype of the arguments.

    Args:
      prediction: [B, D] or [B, h, w, D], the representation of the mix.
      target: of the same shape, the mix of the representations.
      distance: see the table.
      valid: bool[B]; None means that all rows are.
      axis_name: inside pmap or shard_map, the axis the batch is sharded over. The value is then the
        shard's contribution: its `jax.lax.pmean` is the gap of the global batch.

    Returns:
      f32[].

    Raises:
      ValueError: shapes that differ, an unknown distance, or a function that does not return one
        number a row.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> float(semjax.gap(jnp.ones((2, 3)), jnp.zeros((2, 3))))
      1.0

    References:
      Han et al. 2023, Semantic Equivariant Mixup (arXiv:2308.06451), for the idea; the distances
      are ours.
    """
    prediction = jnp.asarray(prediction, jnp.float32)
    target = jnp.asarray(target, jnp.float32)
    if prediction.shape != target.shape:
        raise ValueError(
            "prediction and target must have one shape; "
            f"found {prediction.shape} and {target.shape}"
        )
    rows = Rows(prediction.shape[0], valid, axis_name)
    # Before the distance, not after: its gradient at a NaN of the padding would be NaN times 0.
    prediction, target = rows.zero_padding(prediction), rows.zero_padding(target)
    result = rows.mean(_distances(prediction, target, distance))
    if distance == "normalised_mse":
        result = result / _scale(target, rows)
    return result


def _distances(
    prediction: jax.Array, target: jax.Array, distance: Distance | DistanceFn
) -> jax.Array:
    """f32[B]: the distance of every row."""
    if callable(distance):
        return distance(prediction, target)
    features = tuple(range(1, target.ndim))
    if distance in ("mse", "normalised_mse"):
        return jnp.square(prediction - target).mean(features)
    if distance == "l1":
        return jnp.abs(prediction - target).mean(features)
    if distance == "cosine":
        return (1 - _cosine(prediction, target)).mean(features[:-1])
    raise ValueError(f"distance must be one of {', '.join(DISTANCES)}; found {distance!r}")


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    return (_unit(a) * _unit(b)).sum(-1)


def _unit(x: jax.Array) -> jax.Array:
    # The floor keeps the value and its gradient finite where a ReLU left a cell all zero.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def _scale(target: jax.Array, rows: Rows) -> jax.Array:
    """f32[]: what normalised_mse divides by; 1 for one row, whose variance says nothing."""
    target = jax.lax.stop_gradient(target)
    centred = target - rows.global_mean(target)[None]
    variance = rows.global_mean(jnp.square(centred)).mean()
    return jnp.where(rows.count > 1, variance + 1e-6, 1.0)


def jensen_shannon(logits: Sequence[ArrayLike]) -> jax.Array:
    """The Jensen-Shannon divergence of several predictions of the same rows, in float32 and nats.

    (1 / V) sum_k KL(p_k || M),  M = mean of the p_k, clipped to [1e-7, 1]

    Args:
      logits: V arrays [B, K].

    Returns:
      f32[B], at least 0 and at most log V (but for the clip).

    Raises:
      ValueError: fewer than two predictions.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.losses import jensen_shannon
      >>> alike = jnp.array([[1.0, 2.0]])
      >>> round(float(jensen_shannon([alike, alike + 3])[0]), 6)
      0.0

    References:
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781), eq. 3; their term is 12 times its mean.
    """
    if len(logits) < 2:
        raise ValueError(f"a divergence needs at least two predictions; found {len(logits)}")
    log_p = jax.nn.log_softmax(jnp.stack([jnp.asarray(z, jnp.float32) for z in logits]))
    p = jnp.exp(log_p)
    log_mean = jnp.log(jnp.clip(p.mean(0), 1e-7, 1.0))
    # A class of probability 0 adds nothing, though its logarithm may be -inf.
    terms = jnp.where(p > 0, p * (log_p - log_mean[None]), 0.0)
    return terms.sum(-1).mean(0)
