"""The two operators against loops over rows and cells, and the laws a mix must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads

from semjax import mixing
from semjax.mixing import (
    Mix,
    Noise,
    interpolate,
    interpolate_spatial,
    interpolate_tree,
    mix_inputs,
    perturb,
)

OPERATORS = [interpolate, interpolate_spatial]
# Compiled as a whole, where a test visits many shapes.
fast_interpolate, fast_spatial = map(jax.jit, OPERATORS)
fast_resample = jax.jit(mixing.area_resample, static_argnums=(1, 2))
fast_rows = jax.jit(mixing.partner_rows)
GRIDS = [(6, 4), (3, 2), (4, 3), (1, 1), (7, 5), (12, 8), (2, 11)]


def made_mix(rows=4, grid=None, groups=1, seed=0):
    """A mix with fractional shares, whose partners stay in their groups."""
    rng = np.random.default_rng(seed)
    size = rows // groups
    partner = np.concatenate([g * size + rng.permutation(size) for g in range(groups)])
    weight = rng.random(rows).astype(np.float32)
    mask = None
    if grid is not None:
        mask = rng.random((rows, *grid, 1)).astype(np.float32)
        weight = mask.mean((1, 2, 3))
    fields = jax.tree.map(jnp.asarray, (partner.astype(np.int32), weight, mask))
    return Mix(*fields, groups=groups)


def made_array(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def swapped(weight, mask=None):
    """Rows 0 and 1 mixed with each other."""
    mask = None if mask is None else jnp.asarray(mask, jnp.float32)
    return Mix(jnp.array([1, 0]), jnp.asarray(weight, jnp.float32), mask)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (5, 4, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_interpolate_matches_a_loop_over_rows(groups, shape):
    mix, x = made_mix(groups=groups), made_array(4, *shape)
    assert_close(fast_interpolate(mix, x), reference.interpolate(mix.partner, mix.weight, x))


@pytest.mark.parametrize("grid", GRIDS)
def test_interpolate_spatial_matches_a_loop_over_cells(grid):
    mix, x = made_mix(grid=(6, 4)), made_array(4, *grid, 3)
    expected = reference.interpolate_spatial(mix.partner, mix.mask, x)
    assert_close(fast_spatial(mix, x), expected)


def test_interpolate_spatial_stays_in_the_groups():
    mix, x = made_mix(grid=(6, 4), groups=2), made_array(4, 3, 3, 2)
    expected = reference.interpolate_spatial(mix.partner, mix.mask, x)
    assert_close(fast_spatial(mix, x), expected)


@pytest.mark.parametrize("shape", [(3,), (5, 4, 3)])
def test_without_a_mask_the_two_operators_are_one(shape):
    mix, x = made_mix(), made_array(4, *shape)
    np.testing.assert_array_equal(interpolate_spatial(mix, x), interpolate(mix, x))


def test_interpolate_does_not_look_at_the_mask():
    mix, x = made_mix(grid=(2, 2)), made_array(4, 2, 2, 1)
    plain = Mix(mix.partner, mix.weight)
    np.testing.assert_array_equal(interpolate(mix, x), interpolate(plain, x))


@pytest.mark.parametrize("grid", GRIDS)
def test_resampling_matches_repeated_and_averaged_cells(grid):
    mask = made_mix(grid=(6, 4)).mask
    found = fast_resample(mask, *grid)
    assert found.shape == (4, *grid, 1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference.area_resample(mask, *grid), atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_resampling_keeps_the_mean_of_every_mask(grid):
    mix = made_mix(grid=(6, 4))
    means = np.asarray(fast_resample(mix.mask, *grid), np.float64).mean((1, 2, 3))
    np.testing.assert_allclose(means, mix.weight, rtol=0, atol=1e-6)


def test_resampling_to_its_own_grid_returns_the_mask_itself():
    mask = made_mix(grid=(6, 4)).mask
    assert mixing.area_resample(mask, 6, 4) is mask


def test_weight_one_is_the_row_and_weight_zero_the_partner_exactly():
    x = made_array(2, 50)
    np.testing.assert_array_equal(interpolate(swapped([1, 1]), x), x)
    np.testing.assert_array_equal(interpolate(swapped([0, 0]), x), x[::-1])
    np.testing.assert_array_equal(interpolate(swapped([1, 0]), x), x[[0, 0]])


def test_mask_one_is_the_row_and_mask_zero_the_partner_exactly():
    x = made_array(2, 4, 6, 3)
    left = np.zeros((2, 4, 6, 1), np.float32)
    left[:, :, :3] = 1
    expected = np.concatenate([x[:, :, :3], x[::-1, :, 3:]], axis=2)
    mixed = interpolate_spatial(swapped([0.5, 0.5], left), x)
    np.testing.assert_array_equal(mixed, expected)


@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (8, 6)])
def test_constant_masks_of_ones_and_zeros_are_exact_on_grids_that_divide(grid):
    x = made_array(2, *grid, 3)
    ones = swapped([1, 1], np.ones((2, 4, 6, 1)))
    zeros = swapped([0, 0], np.zeros((2, 4, 6, 1)))
    np.testing.assert_array_equal(fast_spatial(ones, x), x)
    np.testing.assert_array_equal(fast_spatial(zeros, x), x[::-1])


def test_a_row_that_is_its_own_partner_is_left_as_it_is():
    x = made_array(4, 50)
    mix = Mix(jnp.arange(4), made_mix().weight)
    np.testing.assert_allclose(interpolate(mix, x), x, rtol=3e-7, atol=0)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_weight_is_the_share_of_the_original(operator):
    x = jnp.stack([jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))])
    mix = swapped([0.75, 0.75])
    assert operator(mix, x).ravel().tolist() == [0.75, 0.25]


def test_the_mask_is_the_share_of_the_original():
    x = jnp.stack([jnp.ones((1, 2, 1)), jnp.zeros((1, 2, 1))])
    mask = np.tile(np.array([1.0, 0.25]).reshape(1, 1, 2, 1), (2, 1, 1, 1))
    mixed = interpolate_spatial(swapped([0.625, 0.625], mask), x)
    assert mixed[..., 0].tolist() == [[[1.0, 0.25]], [[0.0, 0.75]]]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_one_partner_map_drives_images_labels_and_representations(groups):
    """Every row holds its own number, so that the numbers tell who was mixed with whom."""
    rows = 8
    mix = made_mix(rows, grid=(4, 4), groups=groups)
    zeros = Mix(mix.partner, jnp.zeros(rows), jnp.zeros_like(mix.mask), groups)
    number = jnp.arange(rows, dtype=jnp.float32)
    images = interpolate_spatial(zeros, jnp.ones((rows, 4, 4, 3)) * number[:, None, None, None])
    features = interpolate_spatial(zeros, jnp.ones((rows, 2, 3, 1)) * number[:, None, None, None])
    labels = interpolate(zeros, jax.nn.one_hot(jnp.arange(rows), rows))
    np.testing.assert_array_equal(
        images, np.ones((rows, 4, 4, 3)) * mix.partner[:, None, None, None]
    )
    np.testing.assert_array_equal(features.mean((1, 2, 3)), mix.partner)
    np.testing.assert_array_equal(labels.argmax(1), mix.partner)
    np.testing.assert_array_equal(mixing.partner_rows(zeros, jnp.arange(rows)), mix.partner)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 3)])
def test_partner_rows_gathers_whole_rows(shape, groups):
    mix, x = made_mix(8, groups=groups), made_array(8, *shape)
    found = fast_rows(mix, x)
    np.testing.assert_array_equal(found, [x[j] for j in np.asarray(mix.partner)])


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_, jnp.bfloat16, jnp.float32])
def test_partner_rows_keeps_every_dtype(dtype):
    assert mixing.partner_rows(made_mix(), jnp.zeros(4, dtype)).dtype == dtype


def test_class_ids_over_256_are_gathered_exactly():
    ids = jnp.array([257, 999, 70_001, 16_777_217])
    found = mixing.partner_rows(Mix(jnp.array([3, 2, 1, 0]), jnp.ones(4)), ids)
    assert found.tolist() == [16_777_217, 70_001, 999, 257]


@pytest.mark.parametrize("grid", [None, (2, 2)])
def test_bfloat16_images_keep_their_dtype_and_are_mixed_in_float32(grid):
    """1 - 2^-10 is 1 in bfloat16: a share cast down would lose the partner."""
    share = np.float32(1 - 2**-10)
    mask = None if grid is None else np.full((2, *grid, 1), share)
    x = jnp.stack([jnp.zeros((2, 2, 1)), jnp.ones((2, 2, 1))]).astype(jnp.bfloat16)
    mixed = interpolate_spatial(swapped([share, share], mask), x)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_array_equal(mixed[0].astype(jnp.float32), np.full((2, 2, 1), 2.0**-10))


def test_bfloat16_sums_are_rounded_once():
    mix, x = made_mix(), jnp.asarray(made_array(4, 200), jnp.bfloat16)
    once = interpolate(mix, x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(interpolate(mix, x), once)


@pytest.mark.parametrize("grid", [None, (6, 4)])
def test_nothing_that_goes_in_is_changed(grid):
    mix, x = made_mix(grid=grid), made_array(4, 6, 4, 2)
    before = jax.tree.map(np.array, (mix, x))
    interpolate(mix, x), interpolate_spatial(mix, x), mixing.partner_rows(mix, x)
    jax.tree.map(np.testing.assert_array_equal, (mix, x), before)


@pytest.mark.parametrize("operator", OPERATORS)
def test_jit_agrees_with_eager(operator):
    mix, x = made_mix(grid=(6, 4), groups=2), made_array(4, 3, 3, 2)
    assert_close(jax.jit(operator)(mix, x), operator(mix, x))


def test_a_mix_passes_through_scan():
    mixes = jax.tree.map(lambda *leaves: jnp.stack(leaves), made_mix(seed=0), made_mix(seed=1))
    x = made_array(4, 3)
    _, out = jax.lax.scan(lambda carry, mix: (carry, interpolate(mix, x)), 0, mixes)
    for seed in (0, 1):
        mix = made_mix(seed=seed)
        assert_close(out[seed], reference.interpolate(mix.partner, mix.weight, x))


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradients_agree_with_finite_differences(operator):
    mix = made_mix(grid=(3, 2))

    def mixed(weight, mask, x):
        return operator(Mix(mix.partner, weight, mask), x)

    x = made_array(4, 2, 2, 1)
    check_grads(jax.jit(mixed), (mix.weight, mix.mask, x), order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
def test_values_that_cannot_be_averaged_are_refused(dtype, operator):
    with pytest.raises(TypeError, match=f"x must be floating.*{jnp.dtype(dtype).name}"):
        operator(made_mix(), jnp.zeros((4, 2, 2, 1), dtype))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (8, 4, 4, 1), ()])
def test_a_mix_for_another_batch_size_is_refused(shape, operator):
    with pytest.raises(ValueError, match=r"mix.partner must have shape.*\(4,\)"):
        operator(made_mix(grid=(4, 4)), jnp.zeros(shape))


def test_a_mask_needs_maps():
    with pytest.raises(ValueError, match=r"\[B, h, w, C\].*\(4, 5\)"):
        interpolate_spatial(made_mix(grid=(2, 2)), jnp.zeros((4, 5)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partner", jnp.zeros((4, 1), jnp.int32)),
        ("weight", jnp.float32(0.5)),
        ("weight", jnp.ones((4, 1))),
        ("mask", jnp.ones((4, 6, 4))),
        ("mask", jnp.ones((3, 6, 4, 1))),
        ("mask", jnp.ones((4, 6, 4, 2))),
        ("zoom", jnp.ones((4, 3))),
        ("zoom", jnp.ones(4)),
        ("zoom", jnp.ones((3, 4))),
        ("transport", jnp.ones((4, 2, 3, 3, 2))),
        ("transport", jnp.ones((3, 2, 3, 2, 3))),
        ("own_transport", jnp.ones((4, 6, 6))),
        ("layer", jnp.zeros(3, jnp.int32)),
        ("layer", jnp.int32(0)),
        ("layers", (1,)),
        ("noise", Noise(jnp.zeros(3, jnp.uint32), jnp.zeros(4), jnp.zeros(4))),
        ("noise", Noise(jnp.zeros(4, jnp.uint32), jnp.float32(0), jnp.zeros(4))),
        ("groups", 3),
        ("groups", 0),
    ],
)
def test_check_mix_names_the_field_that_does_not_fit(field, value):
    mix = made_mix(grid=(6, 4))
    fields = {name: getattr(mix, name) for name in ("partner", "weight", "mask", "groups")}
    fields |= {"layers": (0,)} if field == "layer" else {}
    with pytest.raises(ValueError, match=rf"mix\.{field}"):
        mixing.check_mix(Mix(**{**fields, field: value}), 4)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_check_mix_accepts_what_fits(groups):
    mixing.check_mix(made_mix(groups=groups), 4)
    mixing.check_mix(made_mix(grid=(2, 3), groups=groups), 4)


def test_a_layer_that_no_list_names_is_refused():
    """It would be mixed nowhere, and its label all the same."""
    mix = Mix(jnp.arange(4), jnp.ones(4), layer=jnp.zeros(4, jnp.int32))
    with pytest.raises(
        ValueError, match=r"mix.layers must list the values.*layers=\(\) and a layer"
    ):
        mixing.check_mix(mix, 4)


# --- warps ------------------------------------------------------------------------------------


def zoomed_by_repeating(x, top, left, height, width):
    """The whole picture in a box of whole pixels, which its own size is a multiple of."""
    out = np.zeros_like(x)
    rows, columns = x.shape[0] // height, x.shape[1] // width
    small = x.reshape(height, rows, width, columns, x.shape[2]).mean((1, 3))
    out[top : top + height, left : left + width] = small
    return out


def test_the_partner_is_zoomed_before_it_is_mixed():
    mix, x = made_mix(grid=(4, 6)), made_array(4, 4, 6, 2)
    boxes = [(0, 0, 4, 6), (1, 2, 2, 3), (2, 0, 1, 2), (3, 5, 1, 1)]
    box = jnp.array(boxes) / jnp.array([[4, 6, 4, 6]])
    partner = np.stack(
        [zoomed_by_repeating(x[j], *box) for j, box in zip(mix.partner, boxes, strict=True)]
    )
    expected = mix.mask * x + (1 - mix.mask) * partner
    found = fast_spatial(Mix(mix.partner, mix.weight, mix.mask, zoom=box), x)
    assert_close(found, expected)


@pytest.mark.parametrize("masked", [False, True])
def test_own_and_partner_cells_are_moved_before_they_are_mixed(masked):
    mix, x = made_mix(grid=(4, 6) if masked else None), made_array(4, 4, 6, 2)
    shares = np.random.default_rng(2).dirichlet(np.ones(6), (2, 4, 2, 3)).astype(np.float32)
    other, own = shares.reshape(2, 4, 2, 3, 2, 3)

    def moved(x, transport):
        blocks = np.float64(x).reshape(4, 2, 2, 3, 2, 2)
        return np.einsum("nabcd,ncydxk->naybxk", transport, blocks).reshape(x.shape)

    share = mix.mask if masked else np.asarray(mix.weight).reshape(-1, 1, 1, 1)
    expected = share * moved(x, own) + (1 - share) * moved(x[np.asarray(mix.partner)], other)
    warped = Mix(mix.partner, mix.weight, mix.mask, transport=other, own_transport=own)
    assert_close(fast_spatial(warped, x), expected)


def test_warps_need_maps():
    with pytest.raises(ValueError, match=r"\[B, h, w, C\] when the mix has a mask or a warp"):
        interpolate_spatial(
            Mix(jnp.arange(4), jnp.ones(4), zoom=jnp.ones((4, 4))), jnp.ones((4, 5))
        )


# --- noise ------------------------------------------------------------------------------------


def made_noise(rows=4, add=0.0, multiply=0.0, seed=0):
    seeds = jnp.arange(rows, dtype=jnp.uint32) + jnp.uint32(seed)
    return Noise(seeds, jnp.full(rows, add, jnp.float32), jnp.full(rows, multiply, jnp.float32))


def test_noise_is_added_and_multiplied_as_its_strengths_say():
    """The moments of (1 + m (2 U - 1)) x + a N at x = 3."""
    x = np.full((4, 40_000), 3, np.float32)
    for add, multiply in ((0.5, 0.0), (0.0, 0.2), (0.4, 0.1)):
        found = np.float64(perturb(made_noise(add=add, multiply=multiply), x)) - 3
        spread = np.sqrt(add**2 + (3 * multiply) ** 2 / 3)
        for row in found:
            assert abs(row.mean()) < 4 * spread / 200
            assert abs(row.std() - spread) < 4 * spread / 200
    factor = perturb(made_noise(multiply=0.2), x) / 3
    assert 0.8 <= factor.min() < 0.801
    assert 1.199 < factor.max() <= 1.2 + 1e-6


def test_every_row_has_noise_of_its_own_seed():
    x = made_array(4, 50)
    noise = made_noise(add=0.3, multiply=0.1)
    whole = perturb(noise, x)
    alone = perturb(jax.tree.map(lambda leaf: leaf[2:3], noise), x[2:3])
    assert_close(whole[2:3], alone)
    assert len(np.unique(np.asarray(whole - x).round(6), axis=0)) == 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_noise_of_no_strength_returns_the_rows_exactly(dtype):
    x = jnp.asarray(made_array(4, 3, 3, 2), dtype)
    found = perturb(made_noise(), x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, x)


def test_noise_comes_after_the_mixing():
    mix, x = made_mix(grid=(6, 4)), made_array(4, 3, 2, 2)
    noisy = Mix(mix.partner, mix.weight, mix.mask, noise=made_noise(add=0.2, multiply=0.3))
    np.testing.assert_array_equal(
        mix_inputs(noisy, x), perturb(noisy.noise, interpolate_spatial(mix, x))
    )
    np.testing.assert_array_equal(interpolate_spatial(noisy, x), interpolate_spatial(mix, x))


def test_inputs_without_a_grid_are_mixed_by_weight():
    mix, x = made_mix(grid=(6, 4)), made_array(4, 5)
    np.testing.assert_array_equal(mix_inputs(mix, x), interpolate(mix, x))


# --- trees ------------------------------------------------------------------------------------


def test_every_leaf_of_a_tree_is_mixed_by_the_one_mix():
    mix = made_mix(grid=(6, 4))
    tree = {"image": made_array(4, 3, 2, 1), "rest": (made_array(4), made_array(4, 7, seed=3))}
    found = interpolate_tree(mix, tree)
    jax.tree.map(assert_close, found, jax.tree.map(lambda x: interpolate(mix, x), tree))
    everywhere = interpolate_tree(mix, {"image": tree["image"]}, spatial=True)
    np.testing.assert_array_equal(everywhere["image"], interpolate_spatial(mix, tree["image"]))


def test_spatial_may_be_a_prefix_of_the_tree():
    mix = made_mix(grid=(6, 4))
    maps = {"image": made_array(4, 3, 2, 1), "dense": made_array(4, 6, 4, 2)}
    tree = {"maps": maps, "age": made_array(4, 1)}
    found = interpolate_tree(mix, tree, spatial={"maps": True, "age": False})
    for name, x in maps.items():
        np.testing.assert_array_equal(found["maps"][name], interpolate_spatial(mix, x))
    np.testing.assert_array_equal(found["age"], interpolate(mix, tree["age"]))


def test_modalities_may_have_mixes_of_their_own():
    mixes = {"sound": made_mix(seed=1), "picture": made_mix(grid=(2, 2), seed=2)}
    tree = {"sound": [made_array(4, 5), made_array(4, 2)], "picture": made_array(4, 4, 4, 1)}
    found = interpolate_tree(mixes, tree, spatial={"sound": False, "picture": True})
    for part, x in zip(found["sound"], tree["sound"], strict=True):
        np.testing.assert_array_equal(part, interpolate(mixes["sound"], x))
    expected = interpolate_spatial(mixes["picture"], tree["picture"])
    np.testing.assert_array_equal(found["picture"], expected)


def test_trees_that_do_not_fit_are_refused():
    mix = made_mix()
    with pytest.raises(TypeError, match="x must be floating"):
        interpolate_tree(mix, {"id": jnp.zeros(4, int)})
    with pytest.raises(ValueError, match=r"mix.partner must have shape"):
        interpolate_tree(mix, {"age": jnp.zeros(5)})
    with pytest.raises(ValueError, match="different numbers of pytree children"):
        interpolate_tree({"age": mix}, {"age": jnp.zeros(4), "pulse": jnp.zeros(4)})
