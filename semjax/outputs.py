"""The contract between a model and the loss: an apply function that returns Outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model's forward pass hands to the loss.

    Attributes:
      logits: [B, K]; [B, h, w, K] for dense label maps; [B, D] predictions in a regression.
      representation: [B, D] (pooled) or [B, h, w, D] (a feature map), or None where no gap is asked
        for.
      feature_map: [B, h, w, D] for policies that look at features, or None; a representation of
        rank 4 stands in for it.
      model_state: any pytree of new mutable state (BatchNorm statistics), or None.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> semjax.Outputs(logits=jnp.zeros((2, 10))).representation is None
      True
    """

    logits: jax.Array
    representation: jax.Array | None = None
    feature_map: jax.Array | None = None
    model_state: Any = None


class Hidden(Protocol):
    """The hook a model offers its hidden layers to: `x = hidden(layer, x)`, layers from 1."""

    def __call__(self, layer: int, x: jax.Array, /) -> jax.Array:
        """Returns x, mixed where this layer is the one that was drawn."""


# Any framework's forward pass in training mode: `apply_fn(params, images, rng) -> Outputs`, where
# rng is for dropout and its like. One that has a parameter named `hidden` is handed a Hidden by
# that name, in every pass.
ApplyFn = Callable[..., Outputs]
