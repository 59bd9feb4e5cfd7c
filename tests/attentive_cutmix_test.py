"""Attentive CutMix: the most attended cells of each row's own partner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as plain
import saliency_reference as reference

from semjax.policies.attentive_cutmix import attentive_cutmix, attentive_mask


def drawn(policy, features, size, seed=0):
    """The mix of one key, with NumPy leaves."""
    shape = {"image": jax.ShapeDtypeStruct((len(features), *size, 3), jnp.float32)}
    probe = reference.Answers(features=jnp.asarray(features))
    mix = jax.jit(lambda key: policy(key, shape, probe))(jax.random.key(seed))
    return jax.tree.map(np.asarray, mix)


def maps(rows, height, width, channels=4):
    random = np.random.default_rng(rows)
    return random.standard_normal((rows, height, width, channels)).astype(np.float32)


@pytest.mark.parametrize(
    ("grid", "size", "cells"), [((7, 7), (14, 14), 6), ((3, 4), (7, 9), 5), ((1, 1), (2, 1), 1)]
)
def test_the_most_attended_cells_are_cut_out_the_first_of_equal_ones(grid, size, cells):
    attention = np.random.default_rng(0).integers(0, 5, (10, *grid)).astype(np.float32)
    mask = attentive_mask(attention, cells, height=size[0], width=size[1])
    assert mask.dtype == jnp.float32
    np.testing.assert_array_equal(mask, reference.attentive_mask(attention, cells, *size))


@pytest.mark.parametrize(
    ("size", "channels", "count"),
    [
        ((14, 14), (7, 7), 6),
        ((32, 32), (8, 8), 6),
        ((9, 7), (4, 5), 6),
        ((5, 12), (7, 7), 4),
        ((1, 9), (2, 3), 0),
        ((1, 1), (1, 1), 0),
    ],
)
def test_six_cells_of_seven_by_seven_come_from_the_partner(size, channels, count):
    """A grid finer than the image is cut to its pixels, and the number of cells with it."""
    features = maps(10, *channels)
    mix = drawn(attentive_cutmix(pairing="roll"), features, size)
    attention = (features.astype(np.float64) ** 2).mean(-1)
    coarse = reference.block_means(attention, min(7, size[0]), min(7, size[1]))
    expected = reference.attentive_mask(coarse[mix.partner], count, *size)
    np.testing.assert_array_equal(mix.partner, np.roll(np.arange(10), 1))
    np.testing.assert_array_equal(mix.mask, expected)
    assert mix.mask.dtype == mix.weight.dtype == np.float32
    np.testing.assert_allclose(mix.weight, mix.mask.mean((1, 2, 3), dtype=float), atol=1e-6)
    if size == (14, 14):
        np.testing.assert_allclose(mix.weight, 1 - 6 / 49, atol=1e-6)


def test_rows_have_cells_of_their_own():
    mix = drawn(attentive_cutmix(pairing="roll"), maps(20, 7, 7), (7, 7))
    assert len(np.unique(mix.mask.reshape(20, -1), axis=0)) == 20


@pytest.mark.parametrize(("cells", "grid"), [(1, 1), (3, 2), (4, 2), (5, 3)])
def test_cells_and_grid_are_options(cells, grid):
    features = maps(10, 4, 4)
    mix = drawn(attentive_cutmix(cells=cells, grid=grid, pairing="roll"), features, (6, 6))
    np.testing.assert_allclose(mix.weight, 1 - cells / grid**2, atol=1e-6)
    attention = reference.block_means((features.astype(np.float64) ** 2).mean(-1), grid, grid)
    expected = reference.attentive_mask(attention[mix.partner], cells, 6, 6)
    np.testing.assert_array_equal(mix.mask, expected)


def test_partners_stay_in_their_groups():
    mix = drawn(attentive_cutmix(pairing="roll", groups=3), maps(12, 7, 7), (7, 7))
    assert mix.groups == 3
    assert mix.partner.tolist() == plain.partners("roll", 12, 3)


def test_whether_to_mix_is_decided_by_the_scope():
    features = maps(400, 7, 7)
    never = drawn(attentive_cutmix(probability=0.0), features, (7, 7))
    np.testing.assert_array_equal(never.weight, np.ones(400))
    always = drawn(attentive_cutmix(pairing="roll"), features, (7, 7))
    policy = attentive_cutmix(probability=0.3, weight_scope="sample", pairing="roll")
    mix = drawn(policy, features, (7, 7))
    mixed = mix.weight < 1
    assert abs(mixed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 400)
    np.testing.assert_array_equal(mix.mask[mixed], always.mask[mixed])
    together = [
        drawn(attentive_cutmix(probability=0.5), features, (7, 7), seed).weight < 1
        for seed in range(8)
    ]
    assert {bool(each.all()) for each in together} == {True, False}
    assert all(each.all() or not each.any() for each in together)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": 0}, "grid must be an integer of at least 1; found 0"),
        ({"grid": 7.0}, "grid must be.*7.0"),
        ({"cells": 0}, r"cells must be an integer in \[1, 49\]; found 0"),
        ({"cells": 5, "grid": 2}, r"cells must be an integer in \[1, 4\]; found 5"),
        ({"probability": 2}, "probability must be.*2"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attentive_cutmix(**options)


def test_it_needs_images_and_a_probe():
    with pytest.raises(ValueError, match=r"\[B, H, W, C\].*\(4, 7\)"):
        attentive_cutmix()(jax.random.key(0), {"image": jnp.zeros((4, 7))}, reference.Answers())
    with pytest.raises(ValueError, match="attentive_cutmix looks at the model"):
        attentive_cutmix()(jax.random.key(0), {"image": jnp.zeros((4, 7, 7, 1))})
