"""Labels as targets that can be mixed: class ids, soft and multi-label, dense maps, regression."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax import metrics
from semjax.losses import LABEL_LOSSES, LabelLoss, LabelLossFn, smooth_targets
from semjax.mixing import Mix, interpolate, interpolate_spatial, partner_rows


def as_targets(
    label: ArrayLike, logits: jax.Array, *, smoothing: float = 0.0, regression: bool = False
) -> jax.Array:
    """What the logits are compared with.

    | label | logits | kind |
    |---|---|---|
    | i32[B], or f32[B, K] | [B, K] | classes, soft classes, several labels at once |
    | i32[B, h, w], or f32[B, h, w, K] | [B, h, w, K] | dense label maps |
    | f32[B], or f32[B, D] | [B, D] | regression |

    Args:
      label: as in the table.
      logits: as in the table; only the shape is looked at.
      smoothing: s in [0, 1], of classes, see `semjax.losses.smooth_targets`.
      regression: whether labels are numbers.

    Returns:
      f32 of the shape of logits.

    Raises:
      TypeError: class ids that are not integers.
      ValueError: labels that do not fit the logits.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.targets import as_targets
      >>> as_targets(jnp.array([[[1, 0]]]), jnp.zeros((1, 1, 2, 2))).tolist()
      [[[[0.0, 1.0], [1.0, 0.0]]]]
    """
    label = jnp.asarray(label)
    if regression:
        targets = label.astype(jnp.float32)
        targets = targets[:, None] if targets.ndim == 1 else targets
    elif logits.ndim == 4:
        if label.ndim not in (3, 4):
            raise ValueError(f"labels {label.shape} do not fit the model's output {logits.shape}")
        classes = logits.shape[-1]
        cells = label.reshape(-1) if label.ndim == 3 else label.reshape(-1, label.shape[-1])
        targets = smooth_targets(cells, classes, smoothing=smoothing)
        targets = targets.reshape(*label.shape[:3], classes)
    else:
        return smooth_targets(label, logits.shape[1], smoothing=smoothing)
    if targets.shape != logits.shape:
        raise ValueError(f"labels {label.shape} do not fit the model's output {logits.shape}")
    return targets


def mix_targets(mix: Mix, targets: jax.Array) -> jax.Array:
    """Mixes targets: by weight, or dense maps cell by cell, as the pixels were.

    Args:
      mix: the mix.
      targets: floating [B, K] or [B, h, w, K].

    Returns:
      An array of the shape and dtype of targets.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.targets import mix_targets
      >>> mix_targets(Mix(jnp.array([1, 0]), jnp.full(2, 0.75)), jnp.eye(2)).tolist()
      [[0.75, 0.25], [0.25, 0.75]]
    """
    return interpolate_spatial(mix, targets) if targets.ndim == 4 else interpolate(mix, targets)


def label_values(
    label_loss: LabelLoss | LabelLossFn, logits: jax.Array, targets: jax.Array
) -> jax.Array:
    """The label loss of every row; of dense maps the mean over cells.

    Args:
      label_loss: a name in LABEL_LOSSES, or a function of logits and targets.
      logits: [B, K] or [B, h, w, K].
      targets: of the same shape.

    Returns:
      f32[B].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.targets import label_values
      >>> label_values("mse", jnp.ones((2, 3)), jnp.zeros((2, 3))).tolist()
      [1.0, 1.0]
    """
    function = label_loss if callable(label_loss) else LABEL_LOSSES[label_loss]
    values = function(logits, targets)
    return values.reshape(len(values), -1).mean(1) if jnp.ndim(values) > 1 else values


def mixed_values(
    label_loss: LabelLoss | LabelLossFn,
    logits: jax.Array,
    targets: jax.Array,
    mix: Mix,
    *,
    sample_weight: jax.Array | None = None,
) -> jax.Array:
    """The label loss of every mixed row, each of its two labels counted by its own weight if given.

    Without sample weights: loss(z_i, mix of the targets). With them, in two terms, as UMIX does:

      weight_i * s_i * loss(z_i, t_i) + (1 - weight_i) * s_p * loss(z_i, t_p),  p = partner_i

    which for a loss that is linear in its targets and s = 1 is the same.

    Args:
      label_loss: as for `label_values`.
      logits: [B, K] or [B, h, w, K], of the mixed rows.
      targets: of the same shape, of the rows before mixing.
      mix: the mix.
      sample_weight: f32[B], s, or None.

    Returns:
      f32[B].

    Raises:
      ValueError: sample weights of dense maps.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.targets import mixed_values
      >>> mix, weights = Mix(jnp.array([1, 0]), jnp.full(2, 0.75)), jnp.array([1.0, 3.0])
      >>> values = mixed_values(
      ...     "mse", jnp.zeros((2, 1)), jnp.ones((2, 1)), mix, sample_weight=weights)
      >>> values.tolist()
      [1.5, 2.5]

    References:
      Han et al. 2022, UMIX (arXiv:2209.08928), eq. 6.
    """
    if sample_weight is None:
        return label_values(label_loss, logits, mix_targets(mix, targets))
    if targets.ndim == 4:
        raise ValueError("batch['sample_weight'] is for one label a row; found dense label maps")
    own = sample_weight * label_values(label_loss, logits, targets)
    other = label_values(label_loss, logits, partner_rows(mix, targets))
    other = partner_rows(mix, sample_weight) * other
    return mix.weight * own + (1 - mix.weight) * other


def hits(logits: jax.Array, label: jax.Array, *, mix: Mix | None = None) -> jax.Array:
    """How right each row is: each of its two labels counts by its share; of dense maps the mean.

    Args:
      logits: [B, K] or [B, h, w, K].
      label: as for `as_targets`, of the rows before mixing.
      mix: the mix, or None for rows as they are.

    Returns:
      f32[B], in [0, 1] for weights in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.targets import hits
      >>> mix = Mix(jnp.array([1, 0]), jnp.full(2, 0.75))
      >>> hits(jnp.eye(2), jnp.arange(2), mix=mix).tolist()
      [0.75, 0.75]
    """
    if logits.ndim == 2:
        if mix is None:
            return metrics.correct(logits, label)
        # Partners inside their groups: `mixed_correct` looks them up in the whole batch.
        own, other = (metrics.correct(logits, it) for it in (label, partner_rows(mix, label)))
        return mix.weight * own + (1 - mix.weight) * other
    classes = logits.shape[-1]
    ids = label if label.ndim == 3 else label.argmax(-1)
    shares = jax.nn.one_hot(ids, classes, dtype=jnp.float32)
    shares = shares if mix is None else interpolate_spatial(mix, shares)
    predicted = jax.nn.one_hot(logits.argmax(-1), classes, dtype=jnp.float32)
    return (shares * predicted).sum(-1).mean((1, 2))
