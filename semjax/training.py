"""A train step and an eval step: pure functions of a state, ready for jit and shardings.

Nothing here knows a device. The state holds arrays only, so a checkpoint of it is all a run needs;
batches, augmentation and mixing are functions of (rng, state.step).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from semjax import metrics
from semjax.drawing import draw_mix
from semjax.mixing import Mix
from semjax.policies.common import Policy
from semjax.selection import mix_of_part, rows_of_part
from semjax.sem import SemLoss

Batch = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that changes during training.

    Attributes:
      step: i32[], steps taken, skipped ones included.
      params: the model's parameters.
      model_state: its mutable state (BatchNorm statistics), or None.
      opt_state: the optimiser's state.
      ema_params: exponential moving average of the parameters, or None.
      skipped: i32[], steps whose update was thrown away because it was not finite.

    Example:
      >>> import jax.numpy as jnp, optax, semjax
      >>> state = semjax.training.init_state({"w": jnp.ones(2)}, optax.sgd(0.1))
      >>> int(state.step)
      0
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema_params: Any = None
    skipped: jax.Array


def init_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    model_state: Any = None,
    ema: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      params: the initial parameters.
      optimizer: any optax transformation.
      model_state: the initial mutable state, or None.
      ema: whether a moving average of the parameters is kept.

    Returns:
      A TrainState at step 0.

    Example:
      >>> import jax.numpy as jnp, optax, semjax
      >>> semjax.training.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), ema=True).ema_params
      {'w': Array([1., 1.], dtype=float32)}
    """
    return TrainState(
        # Strongly typed zeros: a weakly typed step would compile the step again after a restore.
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        # A copy, since a donated state must not hold one buffer twice.
        ema_params=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.zeros((), jnp.int32),
    )


def decay_mask(params: Any) -> Any:
    """Which parameters weight decay is for: kernels, not biases and normalisation scales.

    Args:
      params: a pytree of arrays.

    Returns:
      A pytree of bools of the same structure, True for leaves of rank 2 and more.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> semjax.training.decay_mask({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
      {'bias': False, 'kernel': True}

    References:
      He et al. 2019, Bag of Tricks (arXiv:1812.01187), section 3.1.
    """
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def make_optimizer(
    name: Literal["sgd", "adamw"],
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """The usual optimisers: clipping, then decay of kernels only, then SGD or AdamW.

    For SGD the decay is the L2 term of the gradient (as in PyTorch); for AdamW it is decoupled.

    Args:
      name: "sgd" or "adamw".
      learning_rate: a number or an optax schedule.
      weight_decay: coefficient, at least 0; see `decay_mask` for what it leaves out.
      clip_norm: largest global norm of the gradient, or None.
      momentum: of SGD.
      nesterov: whether SGD's momentum is Nesterov's.

    Returns:
      An optax transformation.

    Raises:
      ValueError: an unknown name, a negative weight_decay or a clip_norm that is not positive.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> optimizer = semjax.training.make_optimizer("sgd", 0.1, weight_decay=5e-4, clip_norm=1.0)
      >>> state = semjax.training.init_state({"w": jnp.ones((2, 2))}, optimizer)
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0; found {weight_decay!r}")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm must be above 0, or None; found {clip_norm!r}")
    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    if name == "adamw":
        adamw = optax.adamw(learning_rate, weight_decay=weight_decay, mask=decay_mask)
        return optax.chain(*clip, adamw)
    if name == "sgd":
        decay = [optax.add_decayed_weights(weight_decay, decay_mask)] if weight_decay else []
        sgd = optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov)
        return optax.chain(*clip, *decay, sgd)
    raise ValueError(f"optimizer must be one of sgd, adamw; found {name!r}")


def train_step(
    state: TrainState,
    batch: Batch,
    rng: jax.Array,
    *,
    make_loss: Callable[[Any], SemLoss],
    optimizer: optax.GradientTransformation,
    augment: Callable[..., Any] | None = None,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    policy: Policy | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: augment, mix, loss, gradient, update; all randomness from fold_in(rng, state.step).

    Guarantees: a step whose new state would hold a NaN or an infinity changes nothing but `step`
    and `skipped`. The step is a function of its arguments alone, so a run resumed from its state
    goes on as if never stopped.

    Jit it with the state donated: `jax.jit(functools.partial(train_step, ...), donate_argnums=0)`.
    Sharded batches give global-batch semantics.

    Args:
      state: the state.
      batch: as for `make_sem_loss`, images of any dtype that `augment` takes; `step` is added here.
      rng: the root key of the run, the same at every step.
      make_loss: maps the current model_state to a loss, so that its apply_fn can close over it:
        `lambda model_state: make_sem_loss(functools.partial(apply, model_state), ...)`. A loss
        without mutable state ignores its argument.
      optimizer: any optax transformation.
      augment: `augment(key, images)`, applied to batch["image"], gives the images, or a dict of
        batch entries, `image` and `views` say. Where the batch has an `aspect` it is
        `augment(key, images, aspect)`, and the loss does not see the aspect.
      ema_decay: decay of the moving average, used when the state keeps one.
      accumulate: A, the number of parts of B / A rows whose gradients are added, for batches that
        do not fit. The mix is drawn for the whole batch, in groups that no part divides, so that
        without BatchNorm (and with a gap that is a mean over all rows, which normalised_mse and a
        sem_fraction below 1 are not) the step equals the unaccumulated one.
      policy: the policy of the loss; needed when accumulate > 1 and the loss mixes.

    Returns:
      The new state, and a dict of f32[], the loss's parts and grad_norm, with skipped i32[] (0 or
      1).

    Raises:
      ValueError: accumulate that does not divide the batch or the policy's groups, or a loss whose
        model_state has another structure than the state's.

    Example:
      >>> import functools, jax, jax.numpy as jnp, optax, semjax
      >>> def apply_fn(params, images, rng):
      ...     features = images.reshape(len(images), -1) @ params["w"]
      ...     return semjax.Outputs(logits=features, representation=features)
      >>> loss = semjax.make_sem_loss(apply_fn, policy=semjax.mixup())
      >>> optimizer = optax.sgd(0.1)
      >>> state = semjax.training.init_state({"w": jnp.zeros((4, 3))}, optimizer)
      >>> step = jax.jit(functools.partial(
      ...     semjax.train_step, make_loss=lambda model_state: loss, optimizer=optimizer))
      >>> batch = {"image": jnp.ones((2, 2, 2, 1)), "label": jnp.arange(2)}
      >>> state, logs = step(state, batch, jax.random.key(0))
      >>> int(state.step), int(state.skipped)
      (1, 0)
    """
    augment_key, loss_key, parts_key = jax.random.split(jax.random.fold_in(rng, state.step), 3)
    batch = dict(batch)
    if augment is not None:
        # The shapes of the pictures that images were made from, which only augmentation is for.
        aspect = [batch.pop("aspect")] if "aspect" in batch else []
        images = augment(augment_key, batch["image"], *aspect)
        batch |= images if isinstance(images, Mapping) else {"image": images}
    batch["step"] = state.step
    if accumulate == 1:
        grad = jax.value_and_grad(make_loss(state.model_state), has_aux=True)
        (_, aux), grads = grad(state.params, batch, loss_key)
        model_state, logs = _split_aux(aux, state.model_state)
    else:
        mix = batch.pop("mix", None)
        if mix is None and policy is not None:
            mix = draw_mix(policy, batch, loss_key)
        parts = _parts(batch, mix, accumulate)
        grads, model_state, logs = _accumulate(state, parts, parts_key, make_loss)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params = None
    if state.ema_params is not None:
        ema_params = optax.incremental_update(params, state.ema_params, 1 - ema_decay)
    new = dataclasses.replace(
        state,
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        ema_params=ema_params,
    )
    _check_state(new, state)
    finite = _all_finite((logs["loss"], new))
    # One select for the whole state: optax.apply_if_finite would leave BatchNorm statistics broken.
    new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, state)
    skipped = 1 - finite.astype(jnp.int32)
    new = dataclasses.replace(new, step=state.step + 1, skipped=state.skipped + skipped)
    return new, {**logs, "grad_norm": optax.tree.norm(grads), "skipped": skipped}


def eval_step(
    state: TrainState,
    batch: Batch,
    *,
    logits_fn: Callable[[Any, Any, jax.Array], jax.Array],
) -> metrics.Sums:
    """Sums and counts of one batch.

    For the moving average of the weights, where the state keeps one.

    Args:
      state: the state.
      batch: `image` [B, ...], `label` i32[B], optionally `valid` bool[B].
      logits_fn: `logits_fn(params, model_state, images) -> [B, K]`, the model in evaluation mode.

    Returns:
      `semjax.metrics.Sums`, to be added over batches and summarised.

    Example:
      >>> import jax.numpy as jnp, optax, semjax
      >>> state = semjax.training.init_state({"w": jnp.eye(2)}, optax.sgd(0.1))
      >>> batch = {"image": jnp.eye(2), "label": jnp.array([0, 1])}
      >>> sums = semjax.eval_step(state, batch, logits_fn=lambda params, _, x: x @ params["w"])
      >>> float(sums.correct), float(sums.count)
      (2.0, 2.0)
    """
    params = state.params if state.ema_params is None else state.ema_params
    logits = logits_fn(params, state.model_state, batch["image"])
    return metrics.classification_sums(logits, batch["label"], valid=batch.get("valid"))


def _split_aux(aux: Mapping[str, Any], model_state: Any) -> tuple[Any, dict[str, jax.Array]]:
    logs = dict(aux)
    new = logs.pop("model_state", None)
    # A loss that returns no state leaves the state as it was.
    return (model_state if new is None else new), logs


def _parts(batch: Batch, mix: Mix | None, parts: int) -> Batch:
    """The batch as [A, B / A, ...]: part k takes the k-th of every A groups of rows."""
    size = batch["image"].shape[0]
    # Where nothing is mixed every row is a group of its own, and may go to any part.
    groups = size if mix is None else mix.groups
    if parts < 1 or groups % parts or size % groups:
        raise ValueError(
            f"accumulate={parts} must divide the policy's groups, and these the batch, so that "
            f"partners stay in their part; found groups={groups} and a batch of {size} rows"
        )

    def part(place: int) -> Batch:
        rest = {
            name: rows_of_part(x, place, groups=groups, parts=parts)
            for name, x in batch.items()
            if name != "step" and x is not None
        }
        own_mix = jnp.zeros(0) if mix is None else mix_of_part(mix, place, parts=parts)
        return {**rest, "mix": own_mix}

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(part, range(parts)))


def _accumulate(
    state: TrainState, parts: Batch, key: jax.Array, make_loss: Callable[[Any], SemLoss]
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """The gradient, the new model state and the logs, summed over the parts by their valid rows."""
    count = parts["image"].shape[0]
    valid = parts.get("valid", jnp.ones(parts["label"].shape[:2], bool))
    shares = valid.sum(1) / jnp.maximum(valid.sum(), 1)

    def body(carry: Any, part: Any) -> tuple[Any, Any]:
        grads, model_state = carry
        index, share, batch = part
        batch = {**batch, "step": state.step}
        batch["mix"] = batch["mix"] if isinstance(batch["mix"], Mix) else None
        grad = jax.value_and_grad(make_loss(model_state), has_aux=True)
        (_, aux), new = grad(state.params, batch, jax.random.fold_in(key, index))
        model_state, logs = _split_aux(aux, model_state)
        grads = jax.tree.map(lambda total, g: total + (share * g).astype(total.dtype), grads, new)
        return (grads, model_state), jax.tree.map(lambda x: share * x, logs)

    # Sums of bfloat16 gradients would lose what the later parts add.
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), state.params
    )
    # A loop body loses its threads on the CPU, so there the parts are written out one after the
    # other.
    unroll = jax.default_backend() == "cpu"
    (grads, model_state), logs = jax.lax.scan(
        body, (zeros, state.model_state), (jnp.arange(count), shares, parts), unroll=unroll
    )
    grads = jax.tree.map(lambda total, x: total.astype(x.dtype), grads, state.params)
    return grads, model_state, jax.tree.map(lambda x: x.sum(0), logs)


def _check_state(new: TrainState, old: TrainState) -> None:
    """Refuses, when tracing, a state that could not be the next step's: it would compile anew."""
    try:
        chex.assert_trees_all_equal_shapes_and_dtypes(new, old)
    except AssertionError as error:
        raise ValueError(
            "the new state must have the structure, shapes and dtypes of the old one; look at the "
            f"loss's model_state and at the optimizer. {error}"
        ) from error


def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
