"""The curve of the gap: its laws, and a loop over rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import semjax
from semjax.losses import gap
from semjax.mixing import Mix, interpolate, interpolate_spatial
from semjax.robustness.gap_curves import gap_curve, gap_sums

ROWS = 40
sums_of = jax.jit(gap_sums, static_argnames=("bins", "spatial"))


def made_mix(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.uniform(size=rows).astype(np.float32)
    return Mix(jnp.asarray(rng.permutation(rows), jnp.int32), jnp.asarray(weight))


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def encoder(x):
    """Of two layers: not affine."""
    return jnp.tanh(x @ normal(5, 8, seed=7)) @ normal(8, 3, seed=8)


@functools.cache
def made_batch(seed=0):
    mix, x = made_mix(seed=seed), normal(ROWS, 5, seed=seed + 10)
    return mix, encoder(x), encoder(interpolate(mix, x))


def cut_mask(mix):
    """A mix of halves: the left half of a 4 x 4 image is the row's own."""
    left = np.zeros((ROWS, 4, 4, 1), np.float32)
    left[:, :, :2] = 1
    return Mix(mix.partner, jnp.full(ROWS, 0.5), jnp.asarray(left))


def assert_trees_close(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected
    )


def reference(mix, own, mixed, bins, valid=None):
    """The curve in float64, one row at a time."""
    own, mixed = np.asarray(own, np.float64), np.asarray(mixed, np.float64)
    weight, partner = np.asarray(mix.weight, np.float64), np.asarray(mix.partner)
    kept = [i for i in range(len(own)) if valid is None or valid[i]]
    target = {i: weight[i] * own[i] + (1 - weight[i]) * own[partner[i]] for i in kept}
    centre = np.mean(list(target.values()), 0)
    found = {name: np.full(bins, np.nan) for name in ("weight", "gap", "normalised_gap")}
    found["rows"] = np.zeros(bins)
    for m in range(bins):
        rows = [i for i in kept if min(int(weight[i] * bins), bins - 1) == m]
        found["rows"][m] = len(rows)
        if rows:
            gaps = [np.mean((mixed[i] - target[i]) ** 2) for i in rows]
            scales = [np.mean((target[i] - centre) ** 2) for i in rows]
            found["weight"][m] = np.mean([weight[i] for i in rows])
            found["gap"][m] = np.mean(gaps)
            found["normalised_gap"][m] = np.sum(gaps) / np.sum(scales)
    gaps = [np.mean((mixed[i] - target[i]) ** 2) for i in kept]
    found["mean_gap"] = np.mean(gaps)
    found["mean_normalised_gap"] = np.sum(gaps) / np.sum(
        [np.mean((target[i] - centre) ** 2) for i in kept]
    )
    return found


@pytest.mark.parametrize("bins", [10, 3, 1, 50])
def test_the_curve_is_that_of_a_loop_over_rows(bins):
    mix, own, mixed = made_batch()
    found = gap_curve(sums_of(mix, own, mixed, bins=bins))
    assert_trees_close(vars(found), reference(mix, own, mixed, bins))


def test_ten_bins_are_the_default():
    assert gap_sums(*made_batch()).rows.shape == (10,)


def test_rows_that_are_not_valid_add_nothing_even_when_they_hold_nan():
    mix, own, mixed = made_batch()
    valid = np.arange(ROWS) < 30
    mix = Mix(jnp.where(valid, jnp.roll(jnp.arange(ROWS), 3) % 30, 0), mix.weight)
    expected = reference(mix, own, mixed, 4, valid)
    broken = Mix(mix.partner, jnp.where(valid, mix.weight, jnp.nan))
    own, mixed = (np.where(valid[:, None], x, np.nan) for x in (own, mixed))
    # Not compiled: XLA turns a product with a mask into a select.
    found = gap_curve(gap_sums(broken, own, mixed, bins=4, valid=valid))
    assert_trees_close(vars(found), expected)


# Laws.


def test_an_affine_encoder_has_no_gap():
    mix, x = made_mix(), normal(ROWS, 5)
    matrix, shift = normal(5, 3, seed=2), normal(1, 3, seed=3)
    own, mixed = (x @ matrix + shift for x in (x, np.asarray(interpolate(mix, x))))
    curve = gap_curve(sums_of(mix, own, mixed, bins=10))
    full = np.asarray(curve.rows) > 0
    assert np.abs(curve.gap)[full].max() < 1e-10
    assert np.abs(curve.normalised_gap)[full].max() < 1e-10
    assert curve.mean_gap < 1e-10 and curve.mean_normalised_gap < 1e-10


def test_nothing_is_mixed_at_weight_one():
    mix, own, _ = made_batch()
    whole = Mix(mix.partner, jnp.ones(ROWS))
    curve = gap_curve(sums_of(whole, own, own, bins=10))
    assert curve.rows.tolist() == 9 * [0] + [ROWS]
    assert curve.gap[-1] == curve.mean_gap == curve.mean_normalised_gap == 0
    assert curve.weight[-1] == 1
    for values in (curve.gap, curve.normalised_gap, curve.weight):
        assert np.isnan(values[:-1]).all()


@pytest.mark.parametrize("scale", [2.0, 1e-3, -5.0])
def test_the_normalised_gap_does_not_see_scale_and_shift(scale):
    mix, own, mixed = made_batch()
    shift = jnp.array([[3.0, -1.0, 0.5]])
    curve = gap_curve(sums_of(mix, own, mixed, bins=5))
    moved = gap_curve(sums_of(mix, scale * own + shift, scale * mixed + shift, bins=5))
    np.testing.assert_allclose(moved.normalised_gap, curve.normalised_gap, rtol=2e-3)
    np.testing.assert_allclose(moved.mean_normalised_gap, curve.mean_normalised_gap, rtol=2e-3)
    np.testing.assert_allclose(moved.mean_gap, scale**2 * curve.mean_gap, rtol=2e-3)


def test_the_mean_target_scores_one():
    mix, own, _ = made_batch()
    target = interpolate(mix, own)
    centre = jnp.broadcast_to(target.mean(0, keepdims=True), own.shape)
    curve = gap_curve(sums_of(mix, own, centre, bins=5))
    np.testing.assert_allclose(curve.normalised_gap, np.ones(5), rtol=1e-5)


def test_over_all_rows_it_is_the_gap_of_the_losses():
    mix, own, mixed = made_batch()
    curve, target = gap_curve(sums_of(mix, own, mixed, bins=5)), interpolate(mix, own)
    np.testing.assert_allclose(curve.mean_gap, gap(mixed, target), rtol=1e-5)
    normalised = gap(mixed, target, distance="normalised_mse")
    np.testing.assert_allclose(curve.mean_normalised_gap, normalised, rtol=1e-4)


def test_the_sums_of_two_batches_are_those_of_one():
    # Each row twice, in another order: two batches with the mean target of both together.
    mix, own, mixed = made_batch()
    order = np.random.default_rng(3).permutation(ROWS)
    place = jnp.asarray(np.argsort(order), jnp.int32)
    other = Mix(place[mix.partner[order]], mix.weight[order])
    both = Mix(
        jnp.concatenate([mix.partner, other.partner + ROWS]),
        jnp.concatenate([mix.weight, other.weight]),
    )
    one = sums_of(
        both, jnp.concatenate([own, own[order]]), jnp.concatenate([mixed, mixed[order]]), bins=5
    )
    two = sums_of(mix, own, mixed, bins=5) + sums_of(other, own[order], mixed[order], bins=5)
    assert_trees_close(two, one, rtol=1e-4)


def test_gaps_and_rows_of_any_two_batches_add_up():
    (mix, own, mixed), (other, others, mixed_others) = made_batch(0), made_batch(1)
    total = sums_of(mix, own, mixed, bins=5) + sums_of(other, others, mixed_others, bins=5)
    curve = gap_curve(total)
    parts = [reference(*made_batch(seed), 5) for seed in (0, 1)]
    rows = sum(part["rows"] for part in parts)
    np.testing.assert_array_equal(curve.rows, rows)
    expected = sum(np.nan_to_num(part["gap"]) * part["rows"] for part in parts) / rows
    np.testing.assert_allclose(curve.gap, expected, rtol=1e-5)


def test_weights_on_an_edge_belong_above_it():
    weight = jnp.asarray(np.arange(11, dtype=np.float32) / np.float32(10))
    mix, x = Mix(jnp.roll(jnp.arange(11), 1), weight), normal(11, 2)
    sums = gap_sums(mix, x, x)
    assert sums.rows.tolist() == 9 * [1] + [2]


@pytest.mark.parametrize("spatial", [True, False])
def test_feature_maps_are_mixed_cell_by_cell_where_that_is_asked_for(spatial):
    mix, maps = cut_mask(made_mix()), normal(ROWS, 2, 2, 3)
    targets = {True: interpolate_spatial(mix, maps), False: interpolate(mix, maps)}
    sums = sums_of(mix, maps, targets[spatial], bins=2, spatial=spatial)
    other = sums_of(mix, maps, targets[not spatial], bins=2, spatial=spatial)
    assert float(sums.gap.sum()) < 1e-9
    np.testing.assert_allclose(
        other.gap.sum() / ROWS, np.square(targets[True] - targets[False]).mean(), rtol=1e-4
    )


def test_the_target_is_not_spatial_unless_asked_for():
    mix, maps = cut_mask(made_mix()), normal(ROWS, 2, 2, 3)
    assert float(gap_sums(mix, maps, semjax.interpolate(mix, maps)).gap.sum()) == 0


# What is refused.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"representation": np.full((2, 3), np.nan)}, ValueError, "representation must be finite"),
        ({"mixed": np.full((2, 3), np.inf)}, ValueError, "mixed_representation must be finite"),
        ({"mixed": np.ones((2, 4))}, ValueError, r"one shape; found \(2, 3\) and \(2, 4\)"),
        ({"representation": np.ones((3, 3))}, ValueError, r"of the mix's 2 rows; found .*\(3, 3\)"),
        ({"representation": np.ones(2)}, ValueError, r"must be \[B, D\] or \[B, h, w, D\]"),
        ({"representation": np.ones((2, 3), int)}, TypeError, "representation must be floating"),
        ({"weight": [0.5, 1.5]}, ValueError, r"mix.weight must be in \[0, 1\]; found 1 bad row"),
        ({"weight": [0.5, np.nan]}, ValueError, r"mix.weight must be in \[0, 1\]; found 1 bad row"),
        ({"bins": 0}, ValueError, "bins must be at least 1; found 0"),
        ({"bins": 1.5}, TypeError, "bins must be a static integer"),
        ({"valid": np.ones(3, bool)}, ValueError, r"valid must be bool of shape \(2,\)"),
    ],
)
def test_what_is_refused(options, error, message):
    defaults = {"representation": np.ones((2, 3)), "mixed": np.ones((2, 3)), "weight": [0.5, 0.5]}
    arguments = defaults | options
    mix = Mix(jnp.array([1, 0]), jnp.array(arguments.pop("weight")))
    own, mixed = arguments.pop("representation"), arguments.pop("mixed")
    with pytest.raises(error, match=message):
        gap_sums(mix, own, mixed, **arguments)


def test_only_sums_with_the_same_bins_are_added():
    one, five = (sums_of(*made_batch(), bins=bins) for bins in (1, 5))
    with pytest.raises(ValueError, match=r"same bins.*\(5,\).*\(1,\)"):
        five + one
    with pytest.raises(TypeError, match="unsupported operand"):
        five + 1
