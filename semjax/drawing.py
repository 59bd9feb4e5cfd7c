"""From a policy to the mix of the rows at hand: of a batch, or of one shard of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from semjax.losses import LabelLoss, LabelLossFn
from semjax.mixing import Mix, check_mix
from semjax.outputs import ApplyFn
from semjax.policies.common import Policy
from semjax.probing import ModelProbe, Probe
from semjax.targets import as_targets, label_values


class Streams(NamedTuple):
    """The keys of a loss, one for each use.

    Example:
      >>> import jax
      >>> from semjax.drawing import Streams, streams
      >>> isinstance(streams(jax.random.key(0)), Streams)
      True
    """

    mix: jax.Array
    mixed: jax.Array
    clean: jax.Array
    probe: jax.Array
    views: jax.Array


def streams(rng: jax.Array) -> Streams:
    """Splits the key of a loss into those of the mix, the passes and the probe.

    Always as many, so that no option of the loss changes what another one draws.

    Args:
      rng: a typed key or a legacy PRNGKey, consumed.

    Returns:
      The keys by name.

    Example:
      >>> import jax
      >>> from semjax.drawing import streams
      >>> len(streams(jax.random.key(0)))
      5
    """
    return Streams(*jax.random.split(rng, len(Streams._fields)))


def draw_mix(
    policy: Policy,
    batch: Mapping[str, Any],
    rng: jax.Array,
    *,
    apply_fn: ApplyFn | None = None,
    params: Any = None,
    label_loss: LabelLoss | LabelLossFn = "ce",
) -> Mix:
    """Draws the mix that `sem_loss(params, batch, rng)` draws.

    To look at it, or to draw it once for many calls.

    Args:
      policy: the policy of the loss.
      batch: as for the loss; pixels are looked at only by policies that look at the model.
      rng: as for the loss; consumed.
      apply_fn: the model, for policies that look at it.
      params: its parameters.
      label_loss: that of the loss, which saliency is the gradient of (label smoothing left out).

    Returns:
      The Mix of the batch, which `batch["mix"]` hands to a loss.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> from semjax.drawing import draw_mix
      >>> batch = {"image": jnp.zeros((4, 8, 8, 1)), "label": jnp.arange(4)}
      >>> draw_mix(semjax.mixup(), batch, jax.random.key(0)).weight.shape
      (4,)
    """
    keys = streams(rng)
    probe = None
    if apply_fn is not None:

        def row_losses(logits: jax.Array, label: jax.Array) -> jax.Array:
            targets = as_targets(label, logits, regression=label_loss == "mse")
            return label_values(label_loss, logits, targets)

        probe = ModelProbe(apply_fn, params, batch, keys.probe, label_loss=row_losses)
    return policy(keys.mix, batch, probe)


def mix_of(
    key: jax.Array,
    policy: Policy | None,
    batch: Mapping[str, Any],
    axis_name: str | None,
    probe: Probe | None,
) -> Mix:
    """The mix of the rows at hand; on a shard, its part of the mix of the global batch.

    Args:
      key: the key of the draw, the same on every shard; consumed.
      policy: draws the mix; None leaves every row as it is.
      batch: `image` [B, ...], and what else the policy looks at; a `mix` in it is taken as it is.
      axis_name: the axis the batch is sharded over inside pmap or shard_map, or None.
      probe: for policies that look at the model; it answers for the global batch.

    Returns:
      The Mix of the B rows.

    Raises:
      ValueError: partners would leave their shard, the mix is of another batch, or nothing is to
        be mixed and a mix was given.
      TypeError: what was given is no Mix.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.drawing import mix_of
      >>> mix_of(jax.random.key(0), None, {"image": jnp.zeros((2, 4))}, None, None).partner.tolist()
      [0, 1]
    """
    size = batch["image"].shape[0]
    if policy is None:
        if batch.get("mix") is not None:
            raise ValueError("batch['mix'] was given to a loss that mixes nothing (policy=None)")
        # Each row a group of its own: nothing has to be fetched from anywhere.
        rows = jnp.arange(size, dtype=jnp.int32)
        return Mix(rows, jnp.ones(size, jnp.float32), groups=size)
    if "mix" in batch:
        mix = batch["mix"]
        if not isinstance(mix, Mix):
            raise TypeError(
                f"batch['mix'] must be a semjax.Mix; found {mix!r}. With gradient accumulation, "
                "hand the loss's policy to train_step too"
            )
    elif axis_name is None:
        mix = policy(key, batch, probe)
    else:
        mix = _shard_mix(policy(key, _global_batch(batch, axis_name), probe), size, axis_name)
    check_mix(mix, size)
    return mix


def _global_batch(batch: Mapping[str, Any], axis_name: str) -> dict[str, Any]:
    """What a policy may look at, for all shards: every entry but the pixels, which stay a shape."""
    image = batch["image"]
    shards = jax.lax.axis_size(axis_name)
    rest = {name: batch[name] for name in ("label", "valid", "group") if name in batch}
    gathered: dict[str, Any] = jax.lax.all_gather(rest, axis_name, tiled=True)
    shape = (shards * image.shape[0], *image.shape[1:])
    if "step" in batch:
        gathered["step"] = batch["step"]
    return {**gathered, "image": jax.ShapeDtypeStruct(shape, image.dtype)}


def _shard_mix(mix: Mix, size: int, axis_name: str) -> Mix:
    shards = jax.lax.axis_size(axis_name)
    if mix.groups % shards:
        raise ValueError(
            f"under axis_name={axis_name!r} partners must stay in their shard: the policy's groups "
            f"must be a multiple of the {shards} shards; found groups={mix.groups}"
        )
    first = jax.lax.axis_index(axis_name) * size
    mine = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, size), mix)
    return dataclasses.replace(mine, partner=mine.partner - first, groups=mix.groups // shards)
