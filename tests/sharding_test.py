"""Devices: rows are split, the state is whole everywhere, and draws need no communication."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_a_process_that_is_alone_puts_every_row_and_what_is_whole_is_on_each_device():
    mesh = sharding.make_mesh()
    rows = {"label": np.arange(16, dtype=np.int32)}
    own = sharding.put_own_rows(
        {name: column[sharding.own_rows(mesh, 16)] for name, column in rows.items()}, mesh
    )
    np.testing.assert_array_equal(own["label"], rows["label"])
    assert own["label"].sharding == sharding.put_batch(rows, mesh)["label"].sharding
    whole = sharding.put_everywhere({"a": np.ones(3), "key": jax.random.key(0)}, mesh)
    assert all(leaf.sharding == sharding.replicated(mesh) for leaf in whole.values())


def test_the_mesh_puts_the_devices_of_a_process_side_by_side(monkeypatch: pytest.MonkeyPatch):
    devices = jax.devices()
    assert list(sharding.make_mesh().devices.flat) == devices
    # As a torus of several machines may be listed.
    monkeypatch.setattr(jax, "devices", lambda: devices[::-1])
    assert list(sharding.make_mesh().devices.flat) == devices


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
