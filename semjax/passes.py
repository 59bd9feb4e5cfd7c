"""The forward passes of a loss: of mixed rows, of clean rows and of views, apart or as one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from semjax.hidden import MixingHook, SharedPrefix, run_model
from semjax.mixing import Mix
from semjax.options import Options
from semjax.outputs import ApplyFn, Hidden, Outputs


@dataclasses.dataclass(frozen=True)
class Forwarded:
    """What the passes gave.

    Attributes:
      mixed: of the mixed rows.
      clean: of the clean rows; None where they are not forwarded.
      views: of each augmented copy.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.outputs import Outputs
      >>> from semjax.passes import Forwarded
      >>> mixed = Outputs(logits=jnp.zeros((2, 3)), model_state=1.0)
      >>> clean = Outputs(logits=jnp.zeros((2, 3)), model_state=3.0)
      >>> float(Forwarded(mixed, clean, []).state("both"))
      2.0
    """

    mixed: Outputs
    clean: Outputs | None
    views: list[Outputs]

    def state(self, state_pass: str) -> Any:
        """The model state of "mixed", of "clean", or the mean of "both"."""
        mixed, clean = self.mixed, self.clean
        if clean is None or state_pass == "mixed":
            return mixed.model_state
        if state_pass == "clean":
            return clean.model_state

        def mean(a: Any, b: Any) -> Any:
            # Counters and keys have no mean; those of the mixed pass are kept.
            return (a + b) / 2 if jnp.issubdtype(jnp.result_type(a), jnp.inexact) else a

        return jax.tree.map(mean, mixed.model_state, clean.model_state)


def forward_all(
    apply_fn: ApplyFn,
    params: Any,
    inputs: list[tuple[Any, jax.Array]],
    mix: Mix,
    options: Options,
) -> Forwarded:
    """Forwards every input, in passes of their own or in one.

    Args:
      apply_fn: the model.
      params: its parameters.
      inputs: images and key of the mixed rows, then of the clean rows where `options` needs them,
        then of each view.
      mix: of the mixed rows, for what is mixed at hidden layers.
      options: of the loss.

    Returns:
      The outputs.

    Raises:
      ValueError: outputs of a wrong shape, or a hook called where it cannot be used.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> from semjax.options import Options
      >>> from semjax.passes import forward_all
      >>> def apply_fn(params, images, rng):
      ...     return semjax.Outputs(logits=images @ params)
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.5, 0.5]))
      >>> inputs = [(jnp.ones((2, 4)), jax.random.key(0))]
      >>> options = Options(sem_weight=0.0)
      >>> forward_all(apply_fn, jnp.ones((4, 3)), inputs, mix, options).mixed.logits.shape
      (2, 3)
    """
    size = len(mix.partner)
    hook = MixingHook(mix, size) if mix.layers else None
    hooks: list[Hidden | None] = [hook, *(None for _ in inputs[1:])]
    shared = SharedPrefix(mix, hook, held=options.holds_clean) if options.share_prefix else None
    if shared is not None:
        hooks[:2] = shared.mixed, shared.clean

    def forward(images: Any, key: jax.Array, hidden: Hidden | None, held: bool = False) -> Outputs:
        if options.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(options.axis_name))
        learnt = _held(params) if held else params
        outputs = run_model(apply_fn, learnt, images, key, hidden=hidden)
        _check_outputs(outputs, jax.tree.leaves(images)[0].shape[0], options)
        return outputs

    if options.passes == "joint" and len(inputs) > 1:
        together = jax.tree.map(lambda *x: jnp.concatenate(x), *(images for images, _ in inputs))
        outputs = _split(forward(together, inputs[0][1], hook), size, len(inputs))
    else:
        outputs = [
            forward(images, key, hooks[place], held=place == 1 and options.holds_clean)
            for place, (images, key) in enumerate(inputs)
        ]
    if hook is not None:
        hook.check()
    if shared is not None:
        shared.check()
    mixed, *rest = outputs
    clean = rest.pop(0) if options.needs_clean else None
    return Forwarded(mixed, clean, rest)


def _held(params: Any) -> Any:
    """The parameters as constants, so that a pass with them is not differentiated at all."""
    return jax.tree.map(
        # Trees of some frameworks hold functions too.
        lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf,
        params,
    )


def _check_outputs(outputs: Outputs, rows: int, options: Options) -> None:
    shape = outputs.logits.shape
    if len(shape) not in (2, 4) or shape[0] != rows:
        raise ValueError(
            f"apply_fn must return logits of shape ({rows}, K), or ({rows}, h, w, K) for dense "
            f"labels; found {shape}"
        )
    if options.has_gap:
        found = None if outputs.representation is None else outputs.representation.shape
        if found is None or len(found) not in (2, 4) or found[0] != rows:
            raise ValueError(
                f"sem_weight={options.sem_weight!r} needs a representation of shape "
                f"({rows}, D) or ({rows}, h, w, D) from apply_fn; found {found}"
            )


def _split(together: Outputs, size: int, parts: int) -> list[Outputs]:
    def part(place: int) -> Outputs:
        rows = slice(place * size, (place + 1) * size)
        representation = together.representation
        return dataclasses.replace(
            together,
            logits=together.logits[rows],
            representation=None if representation is None else representation[rows],
            feature_map=None,
        )

    return [part(place) for place in range(parts)]
