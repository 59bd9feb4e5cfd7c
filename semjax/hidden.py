"""Mixing at a hidden layer: the hook a model calls, and how unmodified Linen models call it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from semjax.mixing import Mix, mix_inputs
from semjax.outputs import ApplyFn, Hidden, Outputs


class MixingHook:
    """The hook that mixes the rows whose layer has come: `x = hook(layer, x)`.

    All rows of a layer are mixed before any of them is replaced, so partners are what they were.
    Rows of another layer pass as they are; those of layer 0 were mixed at the input.

    Args:
      mix: the mix, with a layer.
      rows: B. In a joint pass x has more rows, of which the first B are mixed.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.hidden import MixingHook
      >>> from semjax.mixing import Mix
      >>> layer = jnp.array([1, 2])
      >>> mix = Mix(jnp.array([1, 0]), jnp.zeros(2), layer=layer, layers=(1, 2))
      >>> MixingHook(mix, rows=2)(1, jnp.array([[1.0], [5.0]])).ravel().tolist()
      [5.0, 5.0]
    """

    def __init__(self, mix: Mix, rows: int) -> None:
        """Remembers the mix, and the layers it is called with."""
        self._mix, self._rows = mix, rows
        self._called: list[int] = []

    def __call__(self, layer: int, x: jax.Array, /) -> jax.Array:
        """Mixes x, floating [B, ...], where `layer` is the row's."""
        self._called.append(layer)
        if layer not in self._mix.layers or layer == 0:
            return x
        first, rest = x[: self._rows], x[self._rows :]
        here = _rows_of(self._mix, layer, x)
        mixed = jnp.where(here, mix_inputs(self._mix, first), first)
        return mixed if len(x) == self._rows else jnp.concatenate([mixed, rest])

    def check(self) -> None:
        """Raises ValueError unless the model offered every layer of the mix, once each."""
        wanted = [layer for layer in self._mix.layers if layer]
        called = [layer for layer in self._called if layer in wanted]
        if sorted(called) != sorted(wanted):
            raise ValueError(
                f"the policy mixes at the hidden layers {wanted}, each of which apply_fn must "
                f"offer once by `x = hidden(layer, x)`; it offered {self._called}"
            )


class SharedPrefix:
    """The hooks of a mixed and a clean pass that share what lies before the layer mixed.

    Up to the only hidden layer of a mix both passes compute the same from the same rows. The clean
    pass goes on from the value that the mixed pass was about to mix (before any noise), so that
    one forward and one backward pass of the layers before it serve both. The clean pass still
    states them; the compiler drops what nothing depends on.

    Args:
      mix: the mix, of exactly one hidden layer.
      hook: the hook that mixes there.
      held: whether the clean pass takes the value as a constant.

    Raises:
      ValueError: a mix of no hidden layer, of several, or of the input too.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.hidden import MixingHook, SharedPrefix
      >>> from semjax.mixing import Mix
      >>> mix = Mix(jnp.array([1, 0]), jnp.zeros(2), layer=jnp.array([1, 1]), layers=(1,))
      >>> shared = SharedPrefix(mix, MixingHook(mix, rows=2), held=False)
      >>> shared.mixed(1, jnp.array([[1.0], [5.0]])).ravel().tolist()
      [5.0, 1.0]
      >>> shared.clean(1, jnp.array([[0.0], [0.0]])).ravel().tolist()
      [1.0, 5.0]
    """

    def __init__(self, mix: Mix, hook: Hidden | None, *, held: bool) -> None:
        """Remembers the layer, and the transformation that the passes are made in."""
        if hook is None or len(mix.layers) != 1 or 0 in mix.layers:
            found = f"layers={mix.layers}" if mix.layers else "a mix of the input"
            raise ValueError(
                "share_prefix=True needs a mix of exactly one hidden layer, such as "
                f"semjax.at_layers(policy, layers=(1,)); found {found}"
            )
        (self._layer,) = mix.layers
        self._hook, self._held = hook, held
        self._trace = _transformation()
        self._kept: dict[int, jax.Array] = {}
        self._clean_called: list[int] = []

    def mixed(self, layer: int, x: jax.Array, /) -> jax.Array:
        """The hook of the mixed pass: keeps x, [B, ...], and mixes it.

        Raises:
          ValueError: x is a value of a transformation inside the model, which ends before the clean
            pass begins.
        """
        if layer == self._layer:
            if _transformation() != self._trace:
                raise ValueError(
                    f"share_prefix=True hands the hidden layer {layer} from the mixed pass to the "
                    "clean one, so apply_fn must call hidden(layer, x) outside of jax.jit, "
                    "jax.checkpoint (flax's nn.remat), jax.lax.scan and their like, where the "
                    "layers before and after it may be; found it called inside of one"
                )
            self._kept[layer] = x
        return self._hook(layer, x)

    def clean(self, layer: int, x: jax.Array, /) -> jax.Array:
        """The hook of the clean pass: what the mixed pass kept, and any other layer as it is."""
        self._clean_called.append(layer)
        x = self._kept.get(layer, x)
        return jax.lax.stop_gradient(x) if self._held and layer in self._kept else x

    def check(self) -> None:
        """Raises ValueError unless the clean pass offered the layer, once."""
        if self._clean_called.count(self._layer) != 1:
            raise ValueError(
                f"share_prefix=True needs the hidden layer {self._layer} to be offered once by "
                f"`x = hidden(layer, x)` in the clean pass too; it offered {self._clean_called}"
            )


def input_mix(mix: Mix, x: Any) -> jax.Array:
    """What the model is fed: x mixed in the rows of layer 0, as it is in the others.

    Args:
      mix: the mix.
      x: floating [B, ...].

    Returns:
      An array of the shape and dtype of x.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.hidden import input_mix
      >>> from semjax.mixing import Mix
      >>> layer = jnp.array([0, 1])
      >>> mix = Mix(jnp.array([1, 0]), jnp.zeros(2), layer=layer, layers=(0, 1))
      >>> input_mix(mix, jnp.array([[1.0], [5.0]])).ravel().tolist()
      [5.0, 5.0]
    """
    if mix.layer is None:
        return mix_inputs(mix, x)
    if 0 not in mix.layers:
        return x
    return jnp.where(_rows_of(mix, 0, x), mix_inputs(mix, x), x)


def _transformation() -> Any:
    """The transformation that is being traced, to be compared with another one."""
    # Not at the top: jax.extend loads Pallas, a third of what importing semjax would add to jax.
    from jax.extend.core import get_opaque_trace_state

    return get_opaque_trace_state()


def _rows_of(mix: Mix, layer: int, x: jax.Array) -> jax.Array:
    """bool[B, 1, ...]: the rows mixed at a layer."""
    return (jnp.asarray(mix.layer) == layer).reshape((-1,) + (1,) * (x.ndim - 1))


def takes_hidden(apply_fn: ApplyFn) -> bool:
    """Whether an apply function has a parameter named `hidden`.

    Args:
      apply_fn: the function, or a `functools.partial` of it.

    Returns:
      A bool; False where the signature cannot be told.

    Example:
      >>> from semjax.hidden import takes_hidden
      >>> takes_hidden(lambda params, images, rng, hidden: ...)
      True
    """
    try:
        return "hidden" in inspect.signature(apply_fn).parameters
    except (TypeError, ValueError):
        return False


def run_model(
    apply_fn: ApplyFn, params: Any, images: Any, rng: jax.Array, *, hidden: Hidden | None = None
) -> Outputs:
    """Runs an apply function, with a hook for its hidden layers if it takes one.

    Args:
      apply_fn: as for `make_sem_loss`.
      params: its parameters.
      images: what it is fed.
      rng: as apply_fn takes it; consumed.
      hidden: the hook; None mixes no hidden layer.

    Returns:
      The Outputs, checked to be such.

    Raises:
      TypeError: something else was returned.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> from semjax.hidden import run_model
      >>> def apply_fn(params, images, rng, hidden):
      ...     return semjax.Outputs(logits=hidden(1, images @ params))
      >>> run_model(apply_fn, jnp.eye(2), jnp.ones((1, 2)), jax.random.key(0)).logits.tolist()
      [[1.0, 1.0]]
    """
    extra = {}
    if takes_hidden(apply_fn):
        extra["hidden"] = hidden or (lambda layer, x: x)
    outputs = apply_fn(params, images, rng, **extra)
    if not isinstance(outputs, Outputs):
        raise TypeError(f"apply_fn must return semjax.Outputs; found {type(outputs).__name__}")
    return outputs


def interceptor(hidden: Hidden, modules: Mapping[str, int] | Sequence[str]) -> Callable[..., Any]:
    """An interceptor for `flax.linen.intercept_methods` that offers the outputs of named modules.

    So that an unmodified Linen model mixes at hidden layers:

      with flax.linen.intercept_methods(semjax.interceptor(hidden, ["block1", "block2"])):
          logits = model.apply({"params": params}, images)

    Args:
      hidden: what apply_fn was handed as `hidden`.
      modules: names of submodules, or "/"-joined paths of them, and the layer that the output of
        each is; a sequence numbers them from 1.

    Returns:
      `f(next_fun, args, kwargs, context)`, as Linen calls it.

    Raises:
      ValueError: no module was named.

    Example:
      >>> import types
      >>> from semjax.hidden import interceptor
      >>> context = types.SimpleNamespace(
      ...     module=types.SimpleNamespace(name="block1", path=("block1",)), method_name="__call__")
      >>> double = interceptor(lambda layer, x: 2 * x, ["block1"])
      >>> double(lambda x: x + 1, (3,), {}, context)
      8

    References:
      Verma et al. 2019, Manifold Mixup (arXiv:1806.05236), section 3.
    """
    if not modules:
        raise ValueError("modules must name at least one submodule; found none")
    if not isinstance(modules, Mapping):
        modules = {name: layer for layer, name in enumerate(modules, start=1)}

    def intercept(next_fun: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        value = next_fun(*args, **kwargs)
        module = context.module
        if context.method_name != "__call__":
            return value
        for name in (module.name, "/".join(module.path)):
            if name in modules:
                return hidden(modules[name], value)
        return value

    return intercept
