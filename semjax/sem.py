"""The method: semantic equivariance as one loss, whatever the model, the mix and the framework.

    total = mixed + clean_weight * clean + sem_weight * gap(encode(mix(x)), mix(encode(x)))

ERM, mixup, CutMix, RegMixup and semantic equivariant mixup are settings of this one function.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax import metrics
from semjax.drawing import mix_of, streams
from semjax.losses import (
    DISTANCES,
    LABEL_LOSSES,
    Distance,
    DistanceFn,
    LabelLoss,
    LabelLossFn,
    gap,
    smooth_targets,
)
from semjax.mixing import Mix, interpolate, interpolate_spatial
from semjax.policies import Policy, mixup
from semjax.rows import Rows

StopGradient = Literal["none", "clean", "mixed"]
STOP_GRADIENTS: tuple[str, ...] = get_args(StopGradient)
Passes = Literal["separate", "joint"]
PASSES: tuple[str, ...] = get_args(Passes)
StateFrom = Literal["mixed", "clean", "both"]
STATE_FROMS: tuple[str, ...] = get_args(StateFrom)
Reduction = Literal["sum", "mean"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
DEFAULT_POLICY = mixup(alpha=1.0)
Weight = float | jax.Array | Callable[[jax.Array], ArrayLike]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model's forward pass hands to the loss.

    Attributes:
      logits: [B, K].
      representation: [B, D] (pooled) or [B, h, w, D] (a feature map), or None where no gap is asked
        for.
      model_state: any pytree of new mutable state (BatchNorm statistics), or None.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> semjax.Outputs(logits=jnp.zeros((2, 10))).representation is None
      True
    """

    logits: jax.Array
    representation: jax.Array | None = None
    model_state: Any = None


class ApplyFn(Protocol):
    """Any framework's forward pass in training mode, as a function."""

    def __call__(self, params: Any, images: jax.Array, rng: jax.Array, /) -> Outputs:
        """Runs the model on [B, ...] images; rng is for dropout and its like."""


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
    sem_weight: Weight = 1.0,
    schedule: Callable[[jax.Array], ArrayLike] | None = None,
    distance: Distance | DistanceFn = "mse",
    stop_gradient: StopGradient = "none",
    clean_weight: Weight = 0.0,
    reduction: Reduction = "sum",
    label_loss: LabelLoss | LabelLossFn = "ce",
    label_smoothing: float = 0.0,
    passes: Passes = "separate",
    state_from: StateFrom = "mixed",
    axis_name: str | None = None,
) -> SemLoss:
    """Makes the semantic-equivariant mixup loss of a model.

    total = mixed + clean_weight * clean + sem_weight * gap(encode(mix(x)), mix(encode(x)))

    | method | options |
    |---|---|
    | ERM | policy=None, sem_weight=0 |
    | mixup, CutMix | policy=mixup() or cutmix(), sem_weight=0 |
    | RegMixup | policy=mixup(alpha=10), sem_weight=0, clean_weight=1 |
    | sem on any of them | sem_weight > 0 |

    (The RegMixup authors' code is reduction="mean", their paper's formula "sum".)

    Rows forwarded: B for the mixed batch, and B more once a gap or a clean term is asked for: the
    partner's representation is the clean one, reordered. A Python weight of 0 takes its term out of
    the program; then the gradients are those of the plain method, to the last bit.

    Guarantees: the mix depends on rng, the batch's shapes and the policy alone, never on the other
    options. Weights, labels, gaps and reductions are float32 whatever the model computes in. Rows
    with `valid` False count in no mean and are nobody's partner; their pixels and labels are set to
    0 before anything else, so that a NaN in the padding goes nowhere.

    Args:
      apply_fn: `apply_fn(params, images, rng) -> Outputs`, any framework's forward pass in training
        mode.
      policy: draws the mix, `semjax.mixup(alpha=1.0)` by default; None trains on the rows
        as they are.
      sem_weight: weight of the gap; a number of at least 0, an array, or a function of the step.
      schedule: a function of the step that multiplies sem_weight, for a ramp.
      distance: see `gap`.
      stop_gradient: the side of the gap held constant: "none", "clean" (the target) or "mixed".
      clean_weight: weight of the label loss on the clean rows; as sem_weight, a schedule too.
      reduction: of the two label losses: "sum" as in the formula, or "mean", which divides
        mixed + clean_weight * clean by 1 + clean_weight (one mean over the 2B rows).
      label_loss: "ce" (softmax), "bce" (sigmoid, the mean over classes) or a function
        `f(logits, targets) -> f32[B]`.
      label_smoothing: s in [0, 1], see `smooth_targets`.
      passes: "separate", two forward passes of B rows, or "joint", one of 2B rows (mixed first).
        They differ where rows of a batch see each other, as in BatchNorm.
      state_from: the pass whose `model_state` is returned: "mixed", "clean", or "both", the mean of
        the two. A joint pass has one state only.
      axis_name: the axis the batch is sharded over inside pmap or shard_map, where `batch` is the
        shard and rng the same on every shard. The mix is drawn for the global batch and sliced;
        partners must stay in the shard (the policy's groups a multiple of the shards). The loss is
        the shard's contribution to the global one: take `grad(pmean(loss))` under shard_map with
        check_vma=True, and `pmean(grad(loss))` with check_vma=False and under pmap.

    Returns:
      `sem_loss(params, batch, rng) -> (loss f32[], aux)`. `batch` holds `image` (floating
      [B, ...]) and `label` (i32[B] or f32[B, K]); optionally `valid` (bool[B]), `step` (i32[],
      needed by schedules), and `mix`, a Mix drawn beforehand that replaces the policy's draw. rng
      is a typed key or a legacy PRNGKey. `aux` is a dict of f32[], 0 where the term is not part of
      the program, and of the state:

      | key | meaning |
      |---|---|
      | loss, mixed_loss, clean_loss, gap | the total and its terms, unweighted |
      | normalised_gap | the gap as normalised_mse, whatever the distance: scale-free |
      | accuracy | on the mixed rows: weight of the predicted class in the mixed label |
      | clean_accuracy | on the clean rows |
      | weight | mean weight |
      | unmixed | share of rows left as they were (weight 1, or their own partner) |
      | model_state | the new state, see state_from |

    Raises:
      ValueError: an option out of range or at odds with another; when called, a batch whose keys or
        shapes do not fit.
      TypeError: a policy or a weight that is none; when called, images or labels of a wrong dtype,
        or an apply_fn that does not return Outputs.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     features = jax.nn.relu(images.reshape(len(images), -1) @ params["encoder"])
      ...     return semjax.Outputs(logits=features @ params["head"], representation=features)
      >>> params = {"encoder": jnp.ones((64, 8)) / 64, "head": jnp.zeros((8, 10))}
      >>> batch = {"image": jnp.ones((4, 8, 8, 1)), "label": jnp.arange(4)}
      >>> sem_loss = semjax.make_sem_loss(apply_fn, policy=semjax.mixup(), sem_weight=1.0)
      >>> step = jax.jit(jax.value_and_grad(sem_loss, has_aux=True))
      >>> (loss, aux), grads = step(params, batch, jax.random.key(0))
      >>> round(float(loss), 4), float(aux["gap"])
      (2.3026, 0.0)

    References:
      Han et al. 2023, Semantic Equivariant Mixup (arXiv:2308.06451), for the regulariser's idea.
      The public text gives neither norm, layer, weight nor stop-gradient: those options and their
      defaults are ours. Pinto et al. 2022, RegMixup (arXiv:2206.14502), for the clean term.
    """
    if not (policy is None or callable(policy)):
        raise TypeError(
            f"policy must be a function such as semjax.mixup(), or None; found {policy!r}"
        )
    options = _Options(
        mixes=policy is not None,
        sem_weight=sem_weight,
        schedule=schedule,
        distance=distance,
        stop_gradient=stop_gradient,
        clean_weight=clean_weight,
        reduction=reduction,
        label_loss=label_loss,
        label_smoothing=label_smoothing,
        passes=passes,
        state_from=state_from,
        axis_name=axis_name,
    )

    def sem_loss(
        params: Any, batch: Mapping[str, Any], rng: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        images, label = _check_batch(batch)
        rows = Rows(images.shape[0], batch.get("valid"), axis_name)
        mix_key, mixed_key, clean_key = streams(rng)
        mix = mix_of(mix_key, policy, batch, axis_name)
        images, label = rows.zero_padding(images), rows.zero_padding(label)
        # Without a policy not even an identity is applied: it would gather every row for nothing.
        mixed_images = interpolate_spatial(mix, images) if options.mixes else images
        mixed, clean = _forward(
            _checked(apply_fn, params, options),
            (mixed_images, mixed_key),
            (images, clean_key),
            options,
        )
        return _combine(mix, rows, label, mixed, clean, batch.get("step"), options)

    return sem_loss


@dataclasses.dataclass(frozen=True)
class _Options:
    """The options of `make_sem_loss`, checked where they are made."""

    sem_weight: Weight
    schedule: Callable[[jax.Array], ArrayLike] | None
    distance: Distance | DistanceFn
    stop_gradient: str
    clean_weight: Weight
    reduction: str
    label_loss: Any
    label_smoothing: float
    passes: str
    state_from: str
    axis_name: str | None
    mixes: bool

    def __post_init__(self) -> None:
        for name, allowed in (
            ("distance", DISTANCES),
            ("label_loss", tuple(LABEL_LOSSES)),
            ("stop_gradient", STOP_GRADIENTS),
            ("reduction", REDUCTIONS),
            ("passes", PASSES),
            ("state_from", STATE_FROMS),
        ):
            _check_choice(name, getattr(self, name), allowed)
        for name in ("sem_weight", "clean_weight"):
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                raise TypeError(
                    f"{name} must be a number, an array or a function of the step; found {value!r}"
                )
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0; found {value!r}")
        if self.schedule is not None and not self.has_gap:
            raise ValueError("schedule multiplies sem_weight, which is 0; found both")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1]; found {self.label_smoothing!r}")
        if not self.mixes and self.needs_clean:
            raise ValueError(
                "policy=None mixes nothing, so there is no gap and the mixed rows are the clean "
                "ones: sem_weight and clean_weight must be 0; "
                f"found {self.sem_weight!r} and {self.clean_weight!r}"
            )
        if self.state_from != "mixed" and (self.passes == "joint" or not self.needs_clean):
            raise ValueError(
                f"state_from={self.state_from!r} needs a clean pass of its own: passes='separate' "
                f"and sem_weight or clean_weight above 0; found passes={self.passes!r}, "
                f"sem_weight={self.sem_weight!r}, clean_weight={self.clean_weight!r}"
            )

    def label_values(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        loss = LABEL_LOSSES.get(self.label_loss, self.label_loss)
        return loss(logits, targets)

    @property
    def has_gap(self) -> bool:
        return not _is_zero(self.sem_weight)

    @property
    def has_clean_loss(self) -> bool:
        return not _is_zero(self.clean_weight)

    @property
    def needs_clean(self) -> bool:
        return self.has_gap or self.has_clean_loss


def _is_zero(weight: Weight) -> bool:
    """Whether a weight is 0 for good, so that its term is not traced; an array never is."""
    return isinstance(weight, int | float) and weight == 0


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    takes_function = name in ("distance", "label_loss")
    if value not in allowed and not (takes_function and callable(value)):
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")


def _check_batch(batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    for name in ("image", "label"):
        if name not in batch:
            raise ValueError(f"batch needs {name!r}; found the keys {sorted(batch)}")
    images, label = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"batch['image'] must be floating; found {images.dtype}. Scale uint8 images first, "
            "with semjax.augment.normalise for instance"
        )
    if images.ndim < 2 or images.shape[0] == 0:
        raise ValueError(f"batch['image'] must be [B, ...] with B >= 1; found shape {images.shape}")
    if label.ndim not in (1, 2) or label.shape[0] != images.shape[0]:
        raise ValueError(
            f"batch['label'] must be [{images.shape[0]}] or [{images.shape[0]}, K] for images of "
            f"shape {images.shape}; found shape {label.shape}"
        )
    return images, label.astype(jnp.float32) if label.ndim == 2 else label


def _checked(
    apply_fn: ApplyFn, params: Any, options: _Options
) -> Callable[[jax.Array, jax.Array], Outputs]:
    """The forward pass with its outputs checked, and its random numbers drawn per shard."""

    def forward(images: jax.Array, key: jax.Array) -> Outputs:
        if options.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(options.axis_name))
        outputs = apply_fn(params, images, key)
        if not isinstance(outputs, Outputs):
            raise TypeError(f"apply_fn must return semjax.Outputs; found {type(outputs).__name__}")
        rows = images.shape[0]
        if outputs.logits.ndim != 2 or outputs.logits.shape[0] != rows:
            raise ValueError(
                f"apply_fn must return logits of shape ({rows}, K); found {outputs.logits.shape}"
            )
        if options.has_gap:
            shape = None if outputs.representation is None else outputs.representation.shape
            if shape is None or len(shape) not in (2, 4) or shape[0] != rows:
                raise ValueError(
                    f"sem_weight={options.sem_weight!r} needs a representation of shape "
                    f"({rows}, D) or ({rows}, h, w, D) from apply_fn; found {shape}"
                )
        return outputs

    return forward


def _forward(
    forward: Callable[[jax.Array, jax.Array], Outputs],
    mixed_input: tuple[jax.Array, jax.Array],
    clean_input: tuple[jax.Array, jax.Array],
    options: _Options,
) -> tuple[Outputs, Outputs | None]:
    """The outputs of the mixed rows and, where a term needs them, of the clean rows."""
    if not options.needs_clean:
        return forward(*mixed_input), None
    if options.passes == "separate":
        return forward(*mixed_input), forward(*clean_input)
    size = mixed_input[0].shape[0]
    both = forward(jnp.concatenate([mixed_input[0], clean_input[0]]), mixed_input[1])

    def part(rows: slice) -> Outputs:
        representation = None if both.representation is None else both.representation[rows]
        return dataclasses.replace(both, logits=both.logits[rows], representation=representation)

    return part(slice(None, size)), part(slice(size, None))


def _combine(
    mix: Mix,
    rows: Rows,
    label: jax.Array,
    mixed: Outputs,
    clean: Outputs | None,
    step: jax.Array | None,
    options: _Options,
) -> tuple[jax.Array, dict[str, Any]]:
    """The total and its parts, from the outputs of both passes."""
    targets = smooth_targets(label, mixed.logits.shape[1], smoothing=options.label_smoothing)
    unmixed = (mix.weight == 1) | (mix.partner == jnp.arange(rows.size))
    zero = jnp.zeros((), jnp.float32)
    aux: dict[str, Any] = {
        "mixed_loss": rows.mean(options.label_values(mixed.logits, interpolate(mix, targets))),
        "clean_loss": zero,
        "gap": zero,
        "normalised_gap": zero,
        "accuracy": rows.mean(metrics.mixed_correct(mixed.logits, label, mix.partner, mix.weight)),
        "clean_accuracy": zero,
        "weight": rows.mean(mix.weight),
        "unmixed": rows.mean(unmixed),
        "model_state": _select_state(mixed, clean, options.state_from),
    }
    loss = aux["mixed_loss"]
    if clean is not None:
        aux["clean_accuracy"] = rows.mean(metrics.correct(clean.logits, label))
    if clean is not None and options.has_clean_loss:
        clean_weight = _at_step(options.clean_weight, step, "clean_weight")
        aux["clean_loss"] = rows.mean(options.label_values(clean.logits, targets))
        loss = loss + clean_weight * aux["clean_loss"]
        if options.reduction == "mean":
            loss = loss / (1 + clean_weight)
    if clean is not None and options.has_gap:
        sem_weight = _at_step(options.sem_weight, step, "sem_weight")
        if options.schedule is not None:
            sem_weight = sem_weight * _at_step(options.schedule, step, "schedule")
        aux |= _gaps(mix, rows, mixed, clean, options)
        loss = loss + sem_weight * aux["gap"]
    return loss, {"loss": loss, **aux}


def _gaps(
    mix: Mix, rows: Rows, mixed: Outputs, clean: Outputs, options: _Options
) -> dict[str, jax.Array]:
    # float32 before the target is mixed: a bfloat16 target would lose what the gap is made of.
    prediction = jnp.asarray(mixed.representation, jnp.float32)
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


def _select_state(mixed: Outputs, clean: Outputs | None, state_from: str) -> Any:
    if clean is None or state_from == "mixed":
        return mixed.model_state
    if state_from == "clean":
        return clean.model_state

    def mean(a: Any, b: Any) -> Any:
        # Counters and keys have no mean; those of the mixed pass are kept.
        return (a + b) / 2 if jnp.issubdtype(jnp.result_type(a), jnp.inexact) else a

    return jax.tree.map(mean, mixed.model_state, clean.model_state)


def _at_step(weight: Weight, step: jax.Array | None, name: str) -> ArrayLike:
    if not callable(weight):
        return weight
    if step is None:
        raise ValueError(f"batch needs 'step' because {name} is a schedule of the step")
    return jnp.asarray(weight(step), jnp.float32)
