"""Rematerialisation that the CPU's compiler cannot undo: inputs are kept, insides computed again.

`jax.checkpoint` computes a function again in the backward pass from the very arrays it had before.
XLA on a CPU drops the barrier between the two, sees the same operations on the same arrays, and
keeps the first results after all. Here the second computation starts from an input that has
0 times the incoming gradient added to it: the same numbers, but nothing to merge, and nothing that
can start before the gradient is there.
"""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax.core import lift
from flax.linen import transforms


def rematerialise(run: Callable[..., Any], *args: Any) -> Any:
    """Calls a function and keeps its arguments alone for the backward pass.

    Guarantees: values and gradients are those of `run(*args)`. Where the first number of the
    incoming gradient is not finite, all gradients are NaN.

    Args:
      run: a pure function of trees of floating arrays; it may close over other arrays.
      *args: its arguments; the last one is an array.

    Returns:
      What `run` returns, whose first leaf is floating.

    Example:
      >>> import jax.numpy as jnp
      >>> jax.grad(lambda x: rematerialise(jnp.sin, x))(0.0).item()
      1.0

    References:
      Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost (arXiv:1604.06174).
    """
    # Traced here, once: what the function closes over now may be gone when the backward pass comes.
    converted, closed = jax.closure_convert(run, *args)

    @jax.custom_vjp
    def call(closed: Any, *args: Any) -> Any:
        return converted(*args, *closed)

    def forward(closed: Any, *args: Any) -> Any:
        return call(closed, *args), (closed, args)

    def backward(kept: Any, gradient: Any) -> Any:
        closed, (*others, last) = kept
        first = jax.tree.leaves(gradient)[0].reshape(-1)[0]
        tied = last + (0.0 * first).astype(last.dtype)
        pull = jax.vjp(lambda closed, *args: converted(*args, *closed), closed, *others, tied)[1]
        return pull(gradient)

    call.defvjp(forward, backward)
    return call(closed, *args)


def of_module(module: type[nn.Module]) -> Any:
    """A Linen module class of which only variables and the input are kept for the backward pass.

    Args:
      module: called as `module(x, *static)`; what follows x are no arrays.

    Returns:
      A class with the same fields, names and variables.
    """
    return transforms.lift_transform(_lifted, module)


def _lifted(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(
        scope_of: Any, repack: Any, variables: Any, rngs: Any, x: jax.Array, *static: Any
    ) -> Any:
        def run(variables: Any, x: jax.Array) -> Any:
            scope = scope_of(variables, rngs)
            y = function(scope, x, *static)
            return y, repack(scope)

        return rematerialise(run, variables, x)

    return lift.pack(inner, (True,), (True,), (True,), name="rematerialise")
