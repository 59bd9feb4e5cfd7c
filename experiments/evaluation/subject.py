"""The model that is evaluated, any apply function with weights, and how it runs over many rows."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import semjax
from experiments import sharding
from experiments.datasets import data as data_lib
from experiments.datasets.data import Split
from semjax.hidden import run_model, takes_hidden


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What a model said about N rows, on the host.

    Attributes:
      logits: f32[N,K].
      representation: f32[N,D], a feature map averaged over its cells; None where there is none.
    """

    logits: np.ndarray
    representation: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """Any model with its weights, as a report sees it.

    Attributes:
      apply_fn: `apply_fn(params, images, rng) -> semjax.Outputs` in evaluation mode, with images
        f32[B,H,W,C] in [0, 1]: whatever scaling the model expects is its own. One that has a
        parameter `hidden` offers its hidden layers too, as for `semjax.make_sem_loss`.
      params: its parameters, a pytree of arrays.
      batch_size: rows at a time; rounded up to a multiple of the devices.

    Example:
      >>> def apply_fn(params, images, rng):
      ...     flat = images.reshape(len(images), -1)
      ...     return semjax.Outputs(logits=flat @ params, representation=flat)
      >>> subject = Subject(apply_fn, jnp.ones((4, 2)))
      >>> subject.answers(np.zeros((3, 2, 2, 1), np.uint8)).logits.shape
      (3, 2)
    """

    apply_fn: semjax.outputs.ApplyFn
    params: Any
    batch_size: int = 256

    def logits(self, params: Any, images: jax.Array) -> jax.Array:
        """Logits f32[B,K] of images in [0, 1], to be traced and differentiated."""
        outputs = run_model(self.apply_fn, params, images, jax.random.key(0))
        return outputs.logits.astype(jnp.float32)

    def layers(self, params: Any, images: jax.Array) -> dict[str, jax.Array]:
        """What the model makes of images in [0, 1], layer by layer, to be traced.

        Returns:
          By name: `layer 1`, `layer 2`, ... where the model offers hidden layers, else
          `feature map` where it has one; `representation` where it has one; `logits`. [B,...] in
          float32.
        """
        found: dict[str, Any] = {}

        def record(layer: int, x: jax.Array, /) -> jax.Array:
            found[f"layer {layer}"] = x
            return x

        hook = record if takes_hidden(self.apply_fn) else None
        outputs = run_model(self.apply_fn, params, images, jax.random.key(0), hidden=hook)
        if not found:
            found["feature map"] = outputs.feature_map
        found |= {"representation": outputs.representation, "logits": outputs.logits}
        return {name: x.astype(jnp.float32) for name, x in found.items() if x is not None}

    def answers(self, images: np.ndarray) -> Answers:
        """Runs the model over uint8 images [N,H,W,C].

        Raises:
          ValueError: logits that are not finite.
        """
        found = self.over_rows(self._answer, images)
        logits = found["logits"]
        if wrong := int((~np.isfinite(logits)).any(1).sum()):
            raise ValueError(
                f"the model's logits are NaN or infinite for {wrong} of {len(logits)} rows: the "
                "run has diverged, or the images are not what it was trained on"
            )
        return Answers(logits, found.get("representation"))

    def over_rows(
        self,
        function: Callable[..., dict[str, jax.Array]],
        images: np.ndarray,
        **others: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Runs a compiled `function(params, batch)` over all rows, batch by batch, on all devices.

        Args:
          function: jitted; batch holds `image`, the others and `index` i32[B], the place of each
            row; returns arrays [B,...] by name.
          images: [N,H,W,C].
          others: further arrays [N,...] by name.

        Returns:
          The arrays, [N,...], without padding.
        """
        devices = jax.device_count()
        size = -(-min(self.batch_size, max(len(images), 1)) // devices) * devices
        parts: list[dict[str, np.ndarray]] = []
        for start in range(0, len(images), size):
            rows = slice(start, min(start + size, len(images)))
            batch = {"image": images[rows], **{name: x[rows] for name, x in others.items()}}
            count = rows.stop - start
            padding = size - count
            if padding:
                batch = {
                    name: np.concatenate([x, np.zeros((padding, *x.shape[1:]), x.dtype)])
                    for name, x in batch.items()
                }
            batch["index"] = np.arange(start, start + size, dtype=np.int32)
            found = function(self.params, sharding.put_batch(batch, self._mesh))
            parts.append({name: np.asarray(x)[:count] for name, x in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `function(params, batch)` with the rows of the batch split over the devices."""
        everywhere, rows = sharding.replicated(self._mesh), sharding.by_rows(self._mesh)
        return jax.jit(function, in_shardings=(everywhere, rows), out_shardings=rows)

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return sharding.make_mesh()

    @functools.cached_property
    def _answer(self) -> Callable[..., dict[str, jax.Array]]:
        def answer(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            images = unit(batch["image"])
            outputs = run_model(self.apply_fn, params, images, jax.random.key(0))
            found = {"logits": outputs.logits.astype(jnp.float32)}
            if outputs.representation is not None:
                x = outputs.representation.astype(jnp.float32)
                found["representation"] = x.mean((1, 2)) if x.ndim == 4 else x
            return found

        return self.jit(answer)


def unit(images: jax.Array) -> jax.Array:
    """Bytes as float32 in [0, 1], as augment.normalise scales them."""
    return images.astype(jnp.float32) / 255


def some_rows(split: Split, count: int) -> Split:
    """At most `count` rows (0: all), each class in proportion, always the same ones."""
    if not count or count >= len(split):
        return split
    return split.take(data_lib.stratified(split.label, count))
