"""Labels of every kind as targets, their mixing, and the losses and hits of their rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from semjax.mixing import Mix
from semjax.targets import as_targets, hits, label_values, mix_targets, mixed_values

RNG = np.random.default_rng(0)
PARTNER, WEIGHT = np.array([2, 0, 1]), np.array([0.75, 0.5, 0.125], np.float32)
MIX = Mix(jnp.asarray(PARTNER), jnp.asarray(WEIGHT))
MASK = (RNG.random((3, 4, 6, 1)) < 0.5).astype(np.float32)
MASKED = Mix(jnp.asarray(PARTNER), jnp.asarray(MASK.mean((1, 2, 3))), jnp.asarray(MASK))
LOGITS = RNG.normal(size=(3, 5)).astype(np.float32)
MAPS = RNG.normal(size=(3, 2, 3, 5)).astype(np.float32)
IDS = RNG.integers(0, 5, (3, 2, 3))


def test_class_ids_become_one_hot_and_soft_labels_stay():
    np.testing.assert_array_equal(as_targets(np.array([4, 0, 2]), LOGITS), np.eye(5)[[4, 0, 2]])
    soft = RNG.dirichlet(np.ones(5), 3).astype(np.float32)
    np.testing.assert_array_equal(as_targets(soft, LOGITS), soft)


def test_dense_class_ids_become_one_hot_in_every_cell():
    np.testing.assert_array_equal(as_targets(IDS, MAPS), np.eye(5)[IDS])
    soft = RNG.dirichlet(np.ones(5), (3, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(as_targets(soft, MAPS), soft)


@pytest.mark.parametrize("dense", [False, True])
def test_smoothing_takes_from_the_class_and_gives_to_all(dense):
    label, logits = (IDS, MAPS) if dense else (np.array([4, 0, 2]), LOGITS)
    expected = 0.8 * np.eye(5)[label] + 0.2 / 5
    np.testing.assert_allclose(as_targets(label, logits, smoothing=0.2), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_are_targets_of_a_regression(dtype):
    label = np.array([3, 1, 2], dtype)
    found = as_targets(label, np.zeros((3, 1)), regression=True)
    np.testing.assert_array_equal(found, np.float32([[3], [1], [2]]))
    assert found.dtype == jnp.float32
    wide = np.arange(6, dtype=dtype).reshape(3, 2)
    np.testing.assert_array_equal(as_targets(wide, np.zeros((3, 2)), regression=True), wide)


@pytest.mark.parametrize(
    ("label", "logits", "regression"),
    [
        (np.zeros((3, 4, 6), int), MAPS, False),
        (np.zeros((3, 2, 3, 4)), MAPS, False),
        (np.zeros(3, int), MAPS, False),
        (np.zeros((3, 5)), MAPS, False),
        (np.zeros((3, 6)), LOGITS, False),
        (IDS, LOGITS, False),
        (np.zeros(3), LOGITS, True),
        (np.zeros((3, 2)), LOGITS, True),
    ],
)
def test_labels_that_do_not_fit_are_refused(label, logits, regression):
    with pytest.raises(ValueError, match="fit"):
        as_targets(label, jnp.asarray(logits), regression=regression)


@pytest.mark.parametrize(("label", "logits"), [(np.zeros(3), LOGITS), (np.zeros((3, 2, 3)), MAPS)])
def test_class_ids_that_are_no_integers_are_refused(label, logits):
    with pytest.raises(TypeError, match="integer class ids"):
        as_targets(label, jnp.asarray(logits))


def test_rows_are_mixed_by_weight_and_maps_cell_by_cell():
    rows, maps = np.eye(3, 5, dtype=np.float32), np.eye(5, dtype=np.float32)[IDS]
    weight = np.asarray(MASKED.weight)
    np.testing.assert_allclose(
        mix_targets(MASKED, jnp.asarray(rows)), reference.interpolate(PARTNER, weight, rows)
    )
    np.testing.assert_allclose(
        mix_targets(MASKED, jnp.asarray(maps)),
        reference.interpolate_spatial(PARTNER, MASK, maps),
        atol=1e-6,
    )


def test_dense_losses_are_means_over_cells():
    targets = as_targets(IDS, MAPS)
    cells = reference.cross_entropy(MAPS.reshape(-1, 5), np.asarray(targets).reshape(-1, 5))
    found = label_values("ce", MAPS, targets)
    np.testing.assert_allclose(found, cells.reshape(3, -1).mean(1), rtol=1e-5)


def test_the_loss_may_be_a_function():
    found = label_values(
        lambda z, t: (z * t).sum(-1), jnp.ones((3, 2, 3, 5)), as_targets(IDS, MAPS)
    )
    np.testing.assert_allclose(found, [1, 1, 1], rtol=1e-6)


SAMPLE_WEIGHT = np.array([2.0, 0.5, 3.0], np.float32)


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_sample_weights_weigh_each_of_the_two_labels(loss):
    targets = np.eye(3, 5, dtype=np.float32)
    found = mixed_values(loss, LOGITS, jnp.asarray(targets), MIX, sample_weight=SAMPLE_WEIGHT)
    expected = []
    for i, (p, w) in enumerate(zip(PARTNER, np.float64(WEIGHT), strict=True)):
        own, other = (
            reference.cross_entropy(LOGITS[i : i + 1], targets[j : j + 1])[0]
            if loss == "ce"
            else np.square(LOGITS[i] - targets[j]).mean()
            for j in (i, p)
        )
        expected.append(w * SAMPLE_WEIGHT[i] * own + (1 - w) * SAMPLE_WEIGHT[p] * other)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sample_weights_of_1_change_nothing_where_the_loss_is_linear_in_the_targets():
    targets = jnp.eye(3, 5)
    ones = mixed_values("ce", LOGITS, targets, MIX, sample_weight=jnp.ones(3))
    np.testing.assert_allclose(ones, mixed_values("ce", LOGITS, targets, MIX), rtol=1e-6)


def test_sample_weights_are_for_one_label_a_row():
    with pytest.raises(ValueError, match=r"sample_weight.*dense label maps"):
        mixed_values("ce", MAPS, as_targets(IDS, MAPS), MIX, sample_weight=jnp.ones(3))


def test_hits_count_each_label_by_its_share():
    logits = jnp.eye(3, 5)[jnp.array([2, 1, 1])]
    # In turn: the partner's class, the row's own, the partner's.
    found = hits(logits, jnp.arange(3), mix=MIX)
    np.testing.assert_allclose(found, [0.25, 0.5, 0.875])
    np.testing.assert_array_equal(hits(logits, jnp.arange(3)), [0, 1, 0])


@pytest.mark.parametrize("soft", [False, True])
def test_hits_of_maps_are_means_over_cells(soft):
    guess = MAPS.argmax(-1)
    share = reference.area_resample(MASK, 2, 3)[..., 0]
    own, other = guess == IDS, guess == IDS[PARTNER]
    label = jnp.asarray(np.eye(5, dtype=np.float32)[IDS] if soft else IDS)
    found = hits(jnp.asarray(MAPS), label, mix=MASKED)
    np.testing.assert_allclose(found, (share * own + (1 - share) * other).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(hits(jnp.asarray(MAPS), label), own.mean((1, 2)), rtol=1e-6)


def test_gradients_reach_the_logits_of_both_labels():
    slope = jax.grad(
        lambda z: mixed_values("ce", z, jnp.eye(3, 5), MIX, sample_weight=SAMPLE_WEIGHT).sum()
    )(LOGITS)
    # A loss of total weight v is v softmax(z) - (what the labels get).
    given = np.zeros((3, 5))
    for i, p in enumerate(PARTNER):
        given[i, i] += WEIGHT[i] * SAMPLE_WEIGHT[i]
        given[i, p] += (1 - WEIGHT[i]) * SAMPLE_WEIGHT[p]
    softmax = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    np.testing.assert_allclose(slope, given.sum(1, keepdims=True) * softmax - given, atol=1e-5)
