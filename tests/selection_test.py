"""Rows of several mixes put together, and what a field at rest means."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semjax.mixing import Mix, Noise, interpolate_spatial, mix_inputs
from semjax.selection import keep_rows, like_each_other, mix_of_part, rows_of_part, select_rows

ROWS = 4


def plain(seed=0, **fields):
    rng = np.random.default_rng(seed)
    partner = jnp.asarray(rng.permutation(ROWS), jnp.int32)
    return Mix(partner, jnp.asarray(rng.random(ROWS), jnp.float32), **fields)


def random(*shape, seed=5):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def transports(seed=6):
    shares = np.random.default_rng(seed).dirichlet(np.ones(6), (ROWS, 2, 3))
    return jnp.asarray(shares.reshape(ROWS, 2, 3, 2, 3), jnp.float32)


BOX = jnp.array([[0.25, 0.0, 0.5, 0.5]] * ROWS)
NOISE = Noise(jnp.arange(ROWS, dtype=jnp.uint32), jnp.full(ROWS, 0.3), jnp.full(ROWS, 0.2))
FIELDS = {
    "mask": {"mask": random(ROWS, 4, 6, 1)},
    "zoom": {"zoom": BOX},
    "transport": {"transport": transports()},
    "own_transport": {"own_transport": transports(7)},
    "noise": {"noise": NOISE},
    "layer": {"layer": jnp.full(ROWS, 2, jnp.int32), "layers": (1, 2)},
}
EVERYTHING = plain(1, **{name: value for field in FIELDS.values() for name, value in field.items()})


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_at_rest_changes_nothing(field):
    """On the grid of the mask and on grids that the transport's divides, to the last bit."""
    mix, other = plain(), plain(1, **FIELDS[field])
    first, second = like_each_other([mix, other])
    x = random(ROWS, 4, 6, 3)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert_same(second, other if field != "layer" else dataclasses.replace(other, layers=(0, 1, 2)))
    np.testing.assert_array_equal(mix_inputs(first, x), mix_inputs(mix, x))
    np.testing.assert_array_equal(first.weight, mix.weight)
    if field == "mask":
        np.testing.assert_allclose(first.mask.mean((1, 2, 3)), mix.weight, rtol=1e-6)


@pytest.mark.parametrize("grid", [(5, 7), (3, 3)])
def test_fields_at_rest_change_nothing_on_any_grid(grid):
    mix = plain()
    x = random(ROWS, *grid, 2)
    rested = like_each_other([mix, EVERYTHING])[0]
    found = jax.jit(mix_inputs)(rested, x)
    np.testing.assert_allclose(found, interpolate_spatial(mix, x), rtol=1e-6)


def test_layers_are_those_of_all_and_0_for_the_input():
    mixes = like_each_other([plain(), EVERYTHING])
    assert [mix.layers for mix in mixes] == [(0, 1, 2), (0, 1, 2)]
    assert mixes[0].layer.tolist() == [0] * ROWS
    hidden = [plain(layer=jnp.full(ROWS, k), layers=(k,)) for k in (3, 1)]
    assert [mix.layers for mix in like_each_other(hidden)] == [(1, 3), (1, 3)]


def test_groups_are_those_that_hold_for_all():
    partner, weight = jnp.arange(12), jnp.ones(12)
    mixes = [Mix(partner, weight, groups=groups) for groups in (4, 6, 12)]
    assert [mix.groups for mix in like_each_other(mixes)] == [2, 2, 2]


def test_alike_mixes_stay_as_they_are():
    for mix in (plain(), EVERYTHING):
        for same in like_each_other([mix, mix]):
            assert_same(same, mix)


def test_every_row_is_taken_from_the_mix_chosen():
    mixes = [EVERYTHING, plain(2), dataclasses.replace(EVERYTHING, weight=jnp.zeros(ROWS))]
    chosen = [2, 0, 1, 0]
    found = jax.jit(lambda chosen: select_rows(chosen, mixes))(jnp.array(chosen))
    alike = like_each_other(mixes)
    for row, place in enumerate(chosen):
        for taken, source in zip(
            jax.tree.leaves(found), jax.tree.leaves(alike[place]), strict=True
        ):
            np.testing.assert_array_equal(taken[row], source[row])


def test_rows_that_are_kept_apart_are_not_mixed():
    kept = keep_rows(jnp.array([True, False, True, False]), EVERYTHING)
    x = random(ROWS, 4, 6, 3)
    mixed, whole = mix_inputs(kept, x), mix_inputs(EVERYTHING, x)
    np.testing.assert_array_equal(mixed[1::2], x[1::2])
    np.testing.assert_array_equal(mixed[::2], whole[::2])
    assert kept.weight[1::2].tolist() == [1, 1]
    assert kept.layer.tolist() == [2, 0, 2, 0]
    np.testing.assert_array_equal(kept.partner, EVERYTHING.partner)


def test_parts_take_their_groups_in_turn():
    x = np.arange(24).reshape(12, 2)
    parts = [rows_of_part(x, place, groups=6, parts=3) for place in range(3)]
    assert [part[:, 0].tolist() for part in parts] == [
        [0, 2, 12, 14],
        [4, 6, 16, 18],
        [8, 10, 20, 22],
    ]


def test_the_mix_of_a_part_mixes_its_rows_as_the_whole_does():
    """With every field that a mix can have: masks, warps, noise and a layer."""
    grouped = dataclasses.replace(EVERYTHING, partner=jnp.array([1, 0, 2, 2]), groups=2)
    x = random(ROWS, 4, 6, 3)

    @jax.jit
    def parts(x):
        takes = [functools.partial(rows_of_part, place=i, groups=2, parts=2) for i in (0, 1)]
        mixes = [mix_of_part(grouped, place, parts=2) for place in (0, 1)]
        mixed = [mix_inputs(mix, take(x)) for mix, take in zip(mixes, takes, strict=True)]
        return mixes, mixed, mix_inputs(grouped, x)

    mixes, mixed, whole = parts(x)
    np.testing.assert_allclose(jnp.concatenate(mixed), whole, rtol=1e-6)
    assert [mix.partner.tolist() for mix in mixes] == [[1, 0], [0, 0]]
    assert [(mix.groups, mix.layers) for mix in mixes] == 2 * [(1, grouped.layers)]
    assert mixes[1].layer.tolist() == [2, 2]


def test_no_mix_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one mix; found none"):
        select_rows(jnp.zeros(ROWS, int), [])


@pytest.mark.parametrize("field", ["mask", "transport", "own_transport"])
def test_fields_on_different_grids_are_refused(field):
    shape = (ROWS, 2, 2, 1) if field == "mask" else (ROWS, 3, 3, 3, 3)
    with pytest.raises(ValueError, match=f"mixes with a {field} must have it on one grid.*found"):
        like_each_other([EVERYTHING, plain(**{field: jnp.ones(shape)})])
