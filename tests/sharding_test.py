"""Devices: rows are split, the state is whole everywhere, and draws need no communication."""

import re

import jax
import jax.numpy as jnp
import numpy as np

import semjax
from experiments import sharding


def test_rows_are_split_over_all_devices_and_the_state_is_on_each():
    mesh = sharding.make_mesh()
    batch = sharding.put_batch({"image": np.arange(16.0).reshape(16, 1)}, mesh)
    shards = batch["image"].addressable_shards
    assert len(shards) == jax.device_count() == 8
    assert [shard.data.shape for shard in shards] == [(2, 1)] * 8
    whole = jax.device_put(jnp.ones(3), sharding.replicated(mesh))
    assert [shard.data.shape for shard in whole.addressable_shards] == [(3,)] * 8


def test_draws_made_whole_are_the_same_and_need_no_reduction():
    mesh = sharding.make_mesh()
    policy = semjax.mixup(alpha=0.3, weight_scope="sample")
    images = jax.device_put(jnp.ones((64, 4)), sharding.by_rows(mesh))

    def mixed(policy):
        def apply(key, images):
            return semjax.interpolate(policy(key, {"image": images}), images)

        shardings = (sharding.replicated(mesh), sharding.by_rows(mesh))
        return jax.jit(apply, in_shardings=shardings, out_shardings=sharding.by_rows(mesh))

    def reductions(function) -> int:
        text = function.lower(jax.random.key(0), images).compile().as_text()
        return len(re.findall(r"all-reduce(?:-start)?\(", text))

    whole = mixed(sharding.drawn_replicated(policy, mesh))
    assert reductions(whole) < reductions(mixed(policy))
    np.testing.assert_array_equal(
        whole(jax.random.key(0), images), mixed(policy)(jax.random.key(0), images)
    )
