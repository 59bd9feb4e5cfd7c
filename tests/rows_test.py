"""Means over valid rows, on one shard and on many, against the mean of the rows kept by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from semjax.rows import Rows

SHARDS, LOCAL = 4, 3
# A shard full, one partly padded, one without a valid row, one with a single valid row.
UNEVEN = np.array([1, 1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0], bool)
NOTHING = np.zeros(SHARDS * LOCAL, bool)


def made_array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(x, valid):
    """The array with NaN and infinities in its padding."""
    x = x.copy()
    x[~valid] = np.nan
    x[np.flatnonzero(~valid)[::2]] = np.inf
    return x


@pytest.mark.parametrize("valid", [None, UNEVEN], ids=["all", "some"])
def test_means_are_over_valid_rows(valid):
    keep = np.ones(12, bool) if valid is None else valid
    values, maps = poisoned(made_array(12), keep), poisoned(made_array(12, 2, 3), keep)
    rows = Rows(12, valid)
    assert float(rows.count) == keep.sum()
    np.testing.assert_allclose(rows.mean(values), values[keep].mean(), rtol=1e-5)
    found = rows.global_mean(jnp.asarray(maps))
    np.testing.assert_allclose(found, maps[keep].mean(0), rtol=1e-5, atol=1e-6)


def test_means_over_no_valid_row_are_zero():
    rows = Rows(12, NOTHING)
    assert float(rows.count) == 1
    assert float(rows.mean(np.full(12, np.nan))) == 0
    assert rows.global_mean(jnp.full((12, 2), jnp.nan)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32, jnp.bool_])
def test_a_mean_is_float32(dtype):
    values = jnp.array([1, 1, 0], dtype)
    found = Rows(3).mean(values)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 2 / 3, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_padding_is_set_to_zero_and_nothing_else_is(dtype):
    x = jnp.asarray(np.arange(1, 25).reshape(12, 2, 1), dtype)
    found = Rows(12, UNEVEN).zero_padding(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray(x) * UNEVEN[:, None, None])


def test_without_padding_the_array_itself_comes_back():
    x = jnp.full((3, 2), jnp.nan)
    assert Rows(3).zero_padding(x) is x


def test_no_gradient_comes_out_of_the_padding():
    values = jnp.asarray(poisoned(made_array(12), UNEVEN))
    found = jax.grad(lambda values: Rows(12, UNEVEN).mean(values))(values)
    np.testing.assert_allclose(found, UNEVEN / UNEVEN.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    "valid", [np.ones(4, bool), np.ones((3, 1), bool), np.ones(3, np.float32), np.ones(3, int)]
)
def test_a_valid_that_is_not_a_boolean_a_row_is_refused(valid):
    with pytest.raises(ValueError, match=r"valid must be bool of shape \(3,\)"):
        Rows(3, valid)


@pytest.mark.parametrize("shape", [(), (4,), (3, 1)])
def test_values_that_are_not_one_a_row_are_refused(shape):
    with pytest.raises(ValueError, match=r"one value a row, \(3,\)"):
        Rows(3).mean(jnp.zeros(shape))


# Sharded. Each runner calls f(*shard) on every shard and returns what the shards return, stacked.


def by_shard_map(f, *arrays, check_vma):
    mesh = jax.make_mesh(
        (SHARDS,), ("shards",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:SHARDS]
    )

    def stacked(*shards):
        return jax.tree.map(lambda x: jnp.asarray(x)[None], f(*shards))

    specs = {"in_specs": P("shards"), "out_specs": P("shards"), "check_vma": check_vma}
    return jax.jit(jax.shard_map(stacked, mesh=mesh, **specs))(*arrays)


def by_map(transformation, f, *arrays):
    shards = [x.reshape(SHARDS, LOCAL, *x.shape[1:]) for x in arrays]
    return transformation(f, axis_name="shards")(*shards)


RUNNERS = {
    "shard_map": functools.partial(by_shard_map, check_vma=True),
    "shard_map_unchecked": functools.partial(by_shard_map, check_vma=False),
    "pmap": functools.partial(by_map, jax.pmap),
    "vmap": functools.partial(by_map, jax.vmap),
}
each_runner = pytest.mark.parametrize("run", RUNNERS.values(), ids=RUNNERS.keys())


@each_runner
def test_means_of_shards_are_the_global_means(run):
    values, maps = made_array(12), made_array(12, 2)

    def means(values, maps, valid):
        rows = Rows(LOCAL, valid, "shards")
        mean = jax.lax.pmean(rows.mean(values), "shards")
        return mean, rows.global_mean(maps), rows.count

    for valid in (UNEVEN, ~UNEVEN, ~NOTHING):
        found = run(means, poisoned(values, valid), poisoned(maps, valid), valid)
        mean, global_mean, count = map(np.asarray, found)
        np.testing.assert_allclose(mean, np.full(SHARDS, values[valid].mean()), rtol=1e-5)
        expected = np.tile(maps[valid].mean(0), (SHARDS, 1))
        np.testing.assert_allclose(global_mean, expected, rtol=1e-5)
        np.testing.assert_array_equal(count, np.full(SHARDS, valid.sum()))


@each_runner
def test_shards_without_padding_need_no_valid(run):
    values = made_array(12)

    def mean(values):
        return jax.lax.pmean(Rows(LOCAL, None, "shards").mean(values), "shards")

    np.testing.assert_allclose(run(mean, values), np.full(SHARDS, values.mean()), rtol=1e-5)


@each_runner
def test_shards_without_a_valid_row_anywhere_give_zero(run):
    def mean(values, valid):
        return jax.lax.pmean(Rows(LOCAL, valid, "shards").mean(values), "shards")

    assert np.asarray(run(mean, made_array(12), NOTHING)).tolist() == [0] * SHARDS


@pytest.mark.parametrize("name", ["shard_map_unchecked", "pmap", "vmap"])
def test_the_mean_of_the_gradients_is_the_gradient_of_the_mean(name):
    values = made_array(12)

    def gradient(values, valid):
        def loss(w):
            return Rows(LOCAL, valid, "shards").mean(jnp.square(w * values))

        return jax.lax.pmean(jax.grad(loss)(1.5), "shards")

    expected = 3 * np.square(values[UNEVEN]).mean()
    found = RUNNERS[name](gradient, values, UNEVEN)
    np.testing.assert_allclose(found, np.full(SHARDS, expected), rtol=1e-5)


def test_under_a_checked_shard_map_the_reduction_stands_inside_the_gradient():
    values = made_array(12)

    def gradient(values, valid):
        def loss(w):
            mean = Rows(LOCAL, valid, "shards").mean(jnp.square(w * values))
            return jax.lax.pmean(mean, "shards")

        return jax.grad(loss)(1.5)

    expected = 3 * np.square(values[UNEVEN]).mean()
    found = RUNNERS["shard_map"](gradient, values, UNEVEN)
    np.testing.assert_allclose(found, np.full(SHARDS, expected), rtol=1e-5)
