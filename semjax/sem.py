"""The method: semantic equivariance as one loss, whatever the model, the mix and the framework.

    total = mixed + clean_weight * clean + sem_weight * gap(encode(mix(x)), mix(encode(x)))
            + consistency_weight * JSD(clean, views)

ERM, mixup, CutMix, RegMixup, AugMix and semantic equivariant mixup are settings of this one
function.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.batches import check_batch, check_views, main_input, sample_weights
from semjax.drawing import mix_of, streams
from semjax.hidden import input_mix
from semjax.losses import (
    Distance,
    DistanceFn,
    LabelLoss,
    LabelLossFn,
    gap,
    jensen_shannon,
)
from semjax.mixing import Mix, interpolate, interpolate_spatial, unmixed
from semjax.options import (
    MixedFrom,
    Options,
    Passes,
    Reduction,
    StateFrom,
    StopGradient,
    Weight,
    default_clean_weight,
)
from semjax.outputs import ApplyFn, Outputs
from semjax.passes import Forwarded, forward_all
from semjax.policies import Policy, mixup
from semjax.probing import ModelProbe
from semjax.rows import Rows
from semjax.selection import mix_of_part, rows_of_part
from semjax.targets import hits, label_values, mixed_values

DEFAULT_POLICY = mixup(alpha=1.0)


class SemLoss(Protocol):
    """A loss as `make_sem_loss` returns it."""

    def __call__(
        self, params: Any, batch: Mapping[str, Any], rng: jax.Array, /
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Returns the loss f32[] and the dict of its parts."""


def make_sem_loss(
    apply_fn: ApplyFn,
    *,
    policy: Policy | None = DEFAULT_POLICY,
    sem_weight: Weight = 20.0,
    schedule: Callable[[jax.Array], ArrayLike] | None = None,
    sem_fraction: float = 1.0,
    distance: Distance | DistanceFn = "mse",
    stop_gradient: StopGradient = "none",
    clean_weight: Weight | None = None,
    consistency_weight: Weight = 0.0,
    reduction: Reduction = "sum",
    label_loss: LabelLoss | LabelLossFn = "ce",
    label_smoothing: float = 0.0,
    passes: Passes = "separate",
    state_from: StateFrom = "auto",
    share_prefix: bool = False,
    mixed_from: MixedFrom = "image",
    axis_name: str | None = None,
) -> SemLoss:
    """Makes the semantic-equivariant mixup loss of a model.

    total = mixed + clean_weight * clean + sem_weight * gap(encode(mix(x)), mix(encode(x)))
            + consistency_weight * JSD(clean, views)

    | method | options | rows forwarded |
    |---|---|---|
    | ERM | policy=None, sem_weight=0 | B |
    | mixup, CutMix, ... | policy=mixup() or cutmix(), ..., sem_weight=0 | B |
    | RegMixup | policy=mixup(alpha=10), sem_weight=0, clean_weight=1 | 2 B |
    | AugMix | policy=None, sem_weight=0, consistency_weight=12, two views in the batch | 3 B |
    | UMIX | policy=mixup(), sem_weight=0, `sample_weight` in the batch | B |
    | sem on mixup, CutMix, UMIX | the defaults: sem_weight=20, clean_weight=1 | 2 B |
    | sem on RegMixup | policy=mixup(alpha=10) | 2 B |
    | the same, of 1 / k of the rows | sem_fraction=1 / k, policy=mixup(groups=k) | B + B / k |
    | sem and AugMix | policy=mixup(), sem_weight > 0, consistency_weight=12 | 4 B |

    (The RegMixup authors' code is reduction="mean", their paper's formula "sum".)

    The clean rows are forwarded once, whatever asks for them: the partner's representation is the
    clean one, reordered. A policy that looks at the model adds its own passes (see
    `semjax.ModelProbe`). A Python weight of 0 takes its term out of the program; then the gradients
    are those of the plain method, to the last bit.

    What sem costs on top of the plain method, and what its options save:

    | options | rows forwarded for the gap | backward pass of them |
    |---|---|---|
    | the defaults | B | yes |
    | stop_gradient="clean", clean_weight=0 | B | none |
    | sem_fraction=1 / k | B / k | yes |
    | sem_fraction=1 / k, stop_gradient="clean" | B / k | none |
    | share_prefix=True | B, from the layer mixed on | yes, of these layers |

    No backward pass is made, and nothing kept for one, where nothing else learns from the clean
    rows: passes="separate", clean_weight=0 and consistency_weight=0, both as Python numbers.

    Guarantees: the mix depends on rng, the batch's shapes and the policy alone, never on the other
    options. Weights, labels, gaps and reductions are float32 whatever the model computes in. Rows
    with `valid` False count in no mean and are nobody's partner; their pixels and labels are set to
    0 before anything else, so that a NaN in the padding goes nowhere.

    Args:
      apply_fn: `apply_fn(params, images, rng) -> Outputs`, any framework's forward pass in training
        mode. With a parameter named `hidden` it is handed a hook, to be called as
        `x = hidden(layer, x)` where a policy may mix hidden layers (see `semjax.at_layers`).
      policy: draws the mix, `semjax.mixup(alpha=1.0)` by default; None trains on the rows
        as they are.
      sem_weight: weight of the gap; a number of at least 0, an array, or a function of the step.
      schedule: a function of the step that multiplies sem_weight, for a ramp.
      sem_fraction: 1 / k, the share of the rows whose clean representation is forwarded and whose
        gap is measured: every k-th of the mix's groups, from the first on, so the groups must be a
        multiple of k (on shards, of k times the shards). What the gap and BatchNorm take over a
        batch they take over these rows. Below 1 it needs passes="separate", clean_weight=0 and
        consistency_weight=0.
      distance: see `gap`.
      stop_gradient: the side of the gap held constant: "none", "clean" (the target) or "mixed".
      clean_weight: weight of the label loss on the clean rows; as sem_weight, a schedule too. None
        is 1 where all clean rows are forwarded for a gap (sem_fraction=1), else 0: without a gap
        the plain method, which clean rows are no part of.
      consistency_weight: weight of the Jensen-Shannon divergence between the predictions on the
        clean rows and on each of `batch["views"]`; as sem_weight, a schedule too.
      reduction: of the two label losses: "sum" as in the formula, or "mean", which divides
        mixed + clean_weight * clean by 1 + clean_weight (one mean over the 2B rows).
      label_loss: "ce" (softmax), "bce" (sigmoid, the mean over classes), "mse" (a regression, whose
        labels are numbers) or a function `f(logits, targets) -> f32[B]`.
      label_smoothing: s in [0, 1], see `smooth_targets`.
      passes: "separate", forward passes of B rows each, or "joint", one of all rows (mixed first,
        then clean, then views). They differ where rows of a batch see each other, as in BatchNorm.
      state_from: the pass whose `model_state` is returned: "mixed", "clean", or "both", the mean of
        the two; "auto" is "clean" where all clean rows have a whole pass of their own, else
        "mixed". A joint pass has one state only.
      share_prefix: whether the clean pass goes on from what the mixed pass computed up to the layer
        mixed, instead of computing it again: the same loss and gradients to rounding, without a
        second forward and backward pass of the layers before. For mixes of exactly one hidden
        layer (`at_layers(policy, layers=(L,))`, L >= 1), passes="separate" and sem_fraction=1.
        apply_fn must call the hook outside of transformations of its own (jax.jit, jax.checkpoint,
        jax.lax.scan). What it draws at random before the layer is one draw for both passes; the
        state of the clean pass (state_from) is of another.
      mixed_from: what the mixed rows are made of: "image", the clean rows themselves, or "views",
        the first augmented copy of each, batch["views"][:, 0]. The gap then asks that a mix of
        augmented rows is represented as the mix of the clean ones is. Policies that look at the
        model are shown the clean rows.
      axis_name: the axis the batch is sharded over inside pmap or shard_map, where `batch` is the
        shard and rng the same on every shard. The mix is drawn for the global batch and sliced;
        partners must stay in the shard (the policy's groups a multiple of the shards). The loss is
        the shard's contribution to the global one: take `grad(pmean(loss))` under shard_map with
        check_vma=True, and `pmean(grad(loss))` with check_vma=False and under pmap.

    Returns:
      `sem_loss(params, batch, rng) -> (loss f32[], aux)`. rng is a typed key or a legacy PRNGKey.

      | batch | |
      |---|---|
      | image | floating [B, ...], or a tree of such inputs, all mixed by the one mix |
      | label | see `semjax.targets.as_targets`: class ids, soft, dense maps, numbers |
      | valid | optional bool[B], False for padding |
      | step | optional i32[], needed by schedules |
      | group | optional i32[B], needed by pairings that look at it |
      | sample_weight | optional f32[B], weights of the rows' labels in both label losses |
      | views | [B, V, ...], augmented copies, for consistency_weight and mixed_from="views" |
      | mix | optional Mix drawn beforehand, instead of the policy's draw |

      `aux` is a dict of f32[], 0 where the term is not part of the program, and of the state:

      | key | meaning |
      |---|---|
      | loss, mixed_loss, clean_loss, gap, consistency | the total and its terms, unweighted |
      | normalised_gap | the gap as normalised_mse, whatever the distance: scale-free |
      | accuracy | on the mixed rows: weight of the predicted class in the mixed label |
      | clean_accuracy | on the clean rows that are forwarded |
      | weight | mean weight |
      | unmixed | share of rows left as they were (weight 1, or their own partner) |
      | model_state | the new state, see state_from |

    Raises:
      ValueError: an option out of range or at odds with another; when called, a batch whose keys or
        shapes do not fit, a mix whose groups do not fit sem_fraction or whose layers do not fit
        share_prefix, or a hook called where share_prefix cannot use it.
      TypeError: a policy, a weight or a fraction that is none; when called, images or labels of a
        wrong dtype, or an apply_fn that does not return Outputs.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     features = jax.nn.relu(images.reshape(len(images), -1) @ params["encoder"])
      ...     return semjax.Outputs(logits=features @ params["head"], representation=features)
      >>> params = {"encoder": jnp.ones((64, 8)) / 64, "head": jnp.zeros((8, 10))}
      >>> batch = {"image": jnp.ones((4, 8, 8, 1)), "label": jnp.arange(4)}
      >>> sem_loss = semjax.make_sem_loss(apply_fn, policy=semjax.mixup())
      >>> step = jax.jit(jax.value_and_grad(sem_loss, has_aux=True))
      >>> (loss, aux), grads = step(params, batch, jax.random.key(0))
      >>> round(float(loss), 4), float(aux["gap"])
      (4.6052, 0.0)

    References:
      Han et al. 2023, Semantic Equivariant Mixup (arXiv:2308.06451), for the regulariser's idea.
      The public text gives neither norm, layer, weight nor stop-gradient: those options and their
      defaults are ours. Pinto et al. 2022, RegMixup (arXiv:2206.14502), for the clean term;
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781), for the consistency; Han et al. 2022, UMIX
      (arXiv:2209.08928), for sample weights.
    """
    if not (policy is None or callable(policy)):
        raise TypeError(
            f"policy must be a function such as semjax.mixup(), or None; found {policy!r}"
        )
    if clean_weight is None:
        clean_weight = default_clean_weight(sem_weight=sem_weight, sem_fraction=sem_fraction)
    options = Options(
        mixes=policy is not None,
        sem_weight=sem_weight,
        schedule=schedule,
        sem_fraction=sem_fraction,
        distance=distance,
        stop_gradient=stop_gradient,
        clean_weight=clean_weight,
        consistency_weight=consistency_weight,
        reduction=reduction,
        label_loss=label_loss,
        label_smoothing=label_smoothing,
        passes=passes,
        state_from=state_from,
        share_prefix=share_prefix,
        mixed_from=mixed_from,
        axis_name=axis_name,
    )

    def sem_loss(
        params: Any, batch: Mapping[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        images, label = check_batch(batch, regression=options.regression)
        main = main_input(images)
        rows = Rows(main.shape[0], batch.get("valid"), axis_name)
        keys = streams(rng)
        images, label = jax.tree.map(rows.zero_padding, images), rows.zero_padding(label)
        shown = {**batch, "image": main_input(images), "label": label}
        probe = ModelProbe(
            apply_fn,
            params,
            {**shown, "image": images},
            keys.probe,
            label_loss=options.row_losses,
            axis_name=axis_name,
        )
        mix = mix_of(keys.mix, policy, shown, axis_name, probe)
        # Without a policy not even an identity is applied: it would gather every row for nothing.
        mixed_images = source = images
        if options.mixed_from == "views":
            views = check_views(batch, images, asked_by="mixed_from='views'")
            source = rows.zero_padding(views[:, 0])
        if options.mixes:
            mixed_images = jax.tree.map(lambda x: input_mix(mix, x), source)
        inputs = [(mixed_images, keys.mixed)]
        measured = _measured(mix, rows, batch.get("valid"), options)
        if options.needs_clean:
            inputs.append((jax.tree.map(measured.take, images), keys.clean))
        if options.has_consistency:
            views = check_views(batch, images)
            for view, key in enumerate(jax.random.split(keys.views, views.shape[1])):
                inputs.append((rows.zero_padding(views[:, view]), key))
        outputs = forward_all(apply_fn, params, inputs, mix, options)
        return _combine(mix, rows, measured, label, outputs, batch, options)

    return sem_loss


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The rows whose gap is measured, all or every k-th group: their mix, their means, the rows."""

    mix: Mix
    rows: Rows
    take: Callable[[jax.Array], jax.Array]


def _measured(mix: Mix, rows: Rows, valid: jax.Array | None, options: Options) -> _Measured:
    parts = options.sem_parts
    if parts == 1:
        return _Measured(mix, rows, lambda x: x)
    if mix.groups % parts:
        of_shard = "" if rows.axis_name is None else " of each shard"
        raise ValueError(
            f"sem_fraction={options.sem_fraction!r} measures one in {parts} groups{of_shard}, so "
            f"that partners are among the rows measured: the mix's groups must be a multiple of "
            f"{parts}, as in semjax.mixup(groups={parts}); found groups={mix.groups}"
        )
    take = functools.partial(rows_of_part, place=0, groups=mix.groups, parts=parts)
    few = Rows(rows.size // parts, None if valid is None else take(valid), rows.axis_name)
    return _Measured(mix_of_part(mix, 0, parts=parts), few, take)


def _combine(
    mix: Mix,
    rows: Rows,
    measured: _Measured,
    label: jax.Array,
    outputs: Forwarded,
    batch: Mapping[str, Any],
    options: Options,
) -> tuple[jax.Array, dict[str, Any]]:
    """The total and its parts, from the outputs of all passes."""
    mixed, clean, step = outputs.mixed, outputs.clean, batch.get("step")
    sample_weight = sample_weights(batch, rows)
    targets = options.targets(label, mixed.logits)
    zero = jnp.zeros((), jnp.float32)
    values = mixed_values(
        options.label_loss, mixed.logits, targets, mix, sample_weight=sample_weight
    )
    classes = not options.regression
    aux: dict[str, Any] = {
        "mixed_loss": rows.mean(values),
        "clean_loss": zero,
        "gap": zero,
        "normalised_gap": zero,
        "consistency": zero,
        "accuracy": rows.mean(hits(mixed.logits, label, mix=mix)) if classes else zero,
        "clean_accuracy": zero,
        "weight": rows.mean(mix.weight),
        "unmixed": rows.mean(unmixed(mix)),
        "model_state": outputs.state(options.state_pass),
    }
    loss = aux["mixed_loss"]
    if clean is not None and classes:
        correct = hits(clean.logits, measured.take(label))
        aux["clean_accuracy"] = measured.rows.mean(correct)
    if clean is not None and options.has_clean_loss:
        clean_weight = _at_step(options.clean_weight, step, "clean_weight")
        values = label_values(options.label_loss, clean.logits, targets)
        values = values if sample_weight is None else sample_weight * values
        aux["clean_loss"] = rows.mean(values)
        loss = loss + clean_weight * aux["clean_loss"]
        if options.reduction == "mean":
            loss = loss / (1 + clean_weight)
    if clean is not None and options.has_gap:
        sem_weight = _at_step(options.sem_weight, step, "sem_weight")
        if options.schedule is not None:
            sem_weight = sem_weight * _at_step(options.schedule, step, "schedule")
        aux |= _gaps(measured, mixed, clean, options)
        loss = loss + sem_weight * aux["gap"]
    if options.has_consistency:
        original = mixed if clean is None else clean
        logits = [each.logits for each in (original, *outputs.views)]
        values = jensen_shannon(logits)
        aux["consistency"] = rows.mean(values.reshape(rows.size, -1).mean(1))
        weight = _at_step(options.consistency_weight, step, "consistency_weight")
        loss = loss + weight * aux["consistency"]
    return loss, {"loss": loss, **aux}


def _gaps(
    measured: _Measured, mixed: Outputs, clean: Outputs, options: Options
) -> dict[str, jax.Array]:
    mix, rows = measured.mix, measured.rows
    # float32 before the target is mixed: a bfloat16 target would lose what the gap is made of.
    prediction = measured.take(jnp.asarray(mixed.representation, jnp.float32))
    target = jnp.asarray(clean.representation, jnp.float32)
    # A pooled representation is mixed by the weight, a feature map cell by cell.
    target = interpolate(mix, target) if target.ndim == 2 else interpolate_spatial(mix, target)
    if options.stop_gradient == "clean":
        target = jax.lax.stop_gradient(target)
    if options.stop_gradient == "mixed":
        prediction = jax.lax.stop_gradient(prediction)
    measure = functools.partial(gap, prediction, target, valid=rows.valid, axis_name=rows.axis_name)
    return {
        "gap": measure(distance=options.distance),
        "normalised_gap": jax.lax.stop_gradient(measure(distance="normalised_mse")),
    }


def _at_step(weight: Weight, step: jax.Array | None, name: str) -> ArrayLike:
    if not callable(weight):
        return weight
    if step is None:
        raise ValueError(f"batch needs 'step' because {name} is a schedule of the step")
    return jnp.asarray(weight(step), jnp.float32)
