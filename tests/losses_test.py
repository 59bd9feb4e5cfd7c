"""Losses and gaps against loops over rows, their gradients, and what padding may not do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads

from semjax import losses
from semjax.losses import DISTANCES, gap
from semjax.mixing import Mix, interpolate

LOSSES = {
    "ce": (losses.soft_cross_entropy, reference.cross_entropy),
    "bce": (losses.soft_binary_cross_entropy, reference.binary_cross_entropy),
}
each_loss = pytest.mark.parametrize(("loss", "expected"), LOSSES.values(), ids=LOSSES.keys())
each_distance = pytest.mark.parametrize("distance", DISTANCES)
each_shape = pytest.mark.parametrize("shape", [(6, 5), (6, 2, 3, 4)])
VALID = np.array([True, False, True, True, False, True])
# Every distance under one jit each, shared by the tests.
jitted_gap = jax.jit(gap, static_argnames=("distance",))


def made_array(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def made_targets(rows=6, classes=5, seed=1):
    return np.random.default_rng(seed).dirichlet(np.ones(classes), rows).astype(np.float32)


def made_mix(rows=6):
    rng = np.random.default_rng(2)
    partner = jnp.asarray(rng.permutation(rows), jnp.int32)
    return Mix(partner, jnp.asarray(rng.random(rows), jnp.float32))


def assert_close(found, expected, rtol=1e-5):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-6)


# Losses against labels.


@each_loss
def test_losses_match_a_loop_over_rows(loss, expected):
    logits, targets = 3 * made_array(6, 5), made_targets()
    found = loss(logits, targets)
    assert found.shape == (6,)
    assert_close(found, expected(logits, targets))


@each_loss
def test_losses_need_no_targets_that_sum_to_one(loss, expected):
    logits, targets = made_array(6, 5), 0.5 * made_targets()
    assert_close(loss(logits, targets), expected(logits, targets))


def test_the_table_of_losses_names_them():
    named = {name: loss for name, (loss, _) in LOSSES.items()}
    assert {**named, "mse": losses.squared_error} == losses.LABEL_LOSSES


def test_squared_error_is_the_mean_over_outputs():
    prediction, targets = made_array(6, 5), made_targets()
    found = losses.squared_error(jnp.asarray(prediction, jnp.float32), targets)
    np.testing.assert_allclose(found, reference.squared_error(prediction, targets), rtol=1e-5)
    assert (
        losses.squared_error(jnp.ones((2, 1), jnp.bfloat16), jnp.zeros((2, 1))).dtype == np.float32
    )


@each_loss
def test_losses_are_float32_from_bfloat16(loss, expected):
    logits, targets = (jnp.asarray(x, jnp.bfloat16) for x in (3 * made_array(6, 5), made_targets()))
    found = loss(logits, targets)
    assert found.dtype == jnp.float32
    assert_close(found, expected(*(x.astype(jnp.float32) for x in (logits, targets))))


@each_loss
def test_losses_have_the_gradients_of_finite_differences(loss, expected):
    logits, targets = made_array(2, 3), made_targets(2, 3)
    check_grads(jax.jit(loss), (logits, targets), order=2, modes=["fwd", "rev"], rtol=3e-2)


@each_loss
def test_extreme_logits_have_finite_losses_and_gradients(loss, expected):
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e38, 1e38, 0.0], [1e30, 1e30, 1e30]])
    targets = jnp.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    value, gradient = jax.value_and_grad(lambda z: loss(z, targets)[0])(logits)
    assert_close(value, {"soft_cross_entropy": 2e4}.get(loss.__name__, (2e4 + np.log(2)) / 3))
    assert np.isfinite(loss(logits[:1], targets[:1])).all()
    assert np.isfinite(gradient).all()


def test_a_confident_right_answer_costs_nothing():
    logits, targets = jnp.array([[1e38, -1e38]]), jnp.array([[1.0, 0.0]])
    for loss, _ in LOSSES.values():
        assert float(loss(logits, targets)[0]) == 0


@each_loss
def test_mixed_targets_give_the_two_term_loss_of_mixup(loss, expected):
    logits, label, mix = made_array(6, 5), np.eye(5)[[0, 4, 2, 1, 1, 3]], made_mix()
    found = loss(logits, interpolate(mix, label.astype(np.float32)))
    weight, partner = np.asarray(mix.weight, np.float64), np.asarray(mix.partner)
    own, other = expected(logits, label), expected(logits, label[partner])
    assert_close(found, weight * own + (1 - weight) * other)


# Targets.


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
def test_smoothed_targets_match_the_formula(soft, smoothing):
    label = made_targets() if soft else np.array([0, 4, 2, 1, 1, 3])
    hard = label if soft else np.eye(5)[label]
    found = losses.smooth_targets(label, 5, smoothing=smoothing)
    assert found.dtype == jnp.float32
    assert_close(found, (1 - smoothing) * hard + smoothing * np.ones((6, 5)) / 5)
    assert_close(found.sum(1), np.ones(6))


def test_targets_are_not_smoothed_unless_asked():
    np.testing.assert_array_equal(losses.smooth_targets(jnp.array([2]), 3), [[0.0, 0.0, 1.0]])


def test_smoothing_and_mixing_commute():
    mix, label = made_mix(), jnp.array([0, 4, 2, 1, 1, 3])
    smoothed_first = interpolate(mix, losses.smooth_targets(label, 5, smoothing=0.1))
    mixed_first = losses.smooth_targets(
        interpolate(mix, jax.nn.one_hot(label, 5)), 5, smoothing=0.1
    )
    assert_close(smoothed_first, mixed_first)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32])
def test_class_ids_may_have_any_integer_dtype(dtype):
    found = losses.smooth_targets(jnp.array([200, 3], dtype), 300)
    assert found.argmax(1).tolist() == [200, 3]


def test_class_ids_must_be_integers():
    with pytest.raises(TypeError, match="integer class ids; found float32"):
        losses.smooth_targets(jnp.array([0.0, 1.0]), 2)


@pytest.mark.parametrize("shape", [(4, 3), (4, 1), (4, 2, 2), ()])
def test_targets_that_do_not_fit_the_classes_are_refused(shape):
    with pytest.raises(ValueError, match=r"\[B, 2\].*found shape"):
        losses.smooth_targets(jnp.zeros(shape), 2)


# The gap.


@each_distance
@each_shape
def test_gaps_match_a_loop_over_rows(shape, distance):
    prediction, target = made_array(*shape), 2 * made_array(*shape, seed=1) + 0.5
    assert_close(
        jitted_gap(prediction, target, distance=distance),
        reference.gap(prediction, target, distance),
    )


@each_distance
@each_shape
def test_gaps_are_over_valid_rows(shape, distance):
    prediction, target = made_array(*shape), 2 * made_array(*shape, seed=1) + 0.5
    expected = reference.gap(prediction, target, distance, VALID)
    prediction[~VALID], target[~VALID] = np.nan, np.inf
    assert_close(jitted_gap(prediction, target, distance=distance, valid=VALID), expected)


@each_distance
def test_all_valid_is_no_valid_at_all(distance):
    arrays = made_array(6, 5), made_array(6, 5, seed=1)
    found = jitted_gap(*arrays, distance=distance, valid=np.ones(6, bool))
    assert_close(found, jitted_gap(*arrays, distance=distance))


@each_distance
def test_padding_has_no_gradient(distance):
    prediction, target = made_array(6, 5), made_array(6, 5, seed=1)

    def gradients(prediction, target):
        def value(p, t):
            return gap(p, t, distance=distance, valid=VALID)

        return np.stack(jax.jit(jax.grad(value, (0, 1)))(prediction, target))

    clean = gradients(prediction, target)
    prediction[~VALID], target[~VALID] = np.nan, np.inf
    poisoned = gradients(prediction, target)
    np.testing.assert_array_equal(poisoned[:, ~VALID], np.zeros((2, 2, 5)))
    assert_close(poisoned[:, VALID], clean[:, VALID])


@each_distance
def test_no_valid_row_no_gap(distance):
    arrays = made_array(6, 5), made_array(6, 5, seed=1)
    assert float(jitted_gap(*arrays, distance=distance, valid=np.zeros(6, bool))) == 0


@each_distance
@each_shape
def test_equal_representations_have_no_gap(shape, distance):
    x = made_array(*shape)
    np.testing.assert_allclose(jitted_gap(x, x, distance=distance), 0, atol=1e-6)


@each_distance
def test_gaps_are_float32_from_bfloat16(distance):
    arrays = [jnp.asarray(made_array(6, 5, seed=s), jnp.bfloat16) for s in (0, 1)]
    found = jitted_gap(*arrays, distance=distance)
    assert found.dtype == jnp.float32
    expected = reference.gap(*(np.asarray(x, np.float32) for x in arrays), distance)
    assert_close(found, expected)


@each_distance
def test_gaps_have_the_gradients_of_finite_differences(distance):
    """Order 2 where smooth; normalised_mse holds the variance of its target constant."""
    target, order = made_array(3, 4, seed=1), 1 if distance == "l1" else 2
    arrays = (made_array(3, 4), target)
    value = functools.partial(gap, distance=distance)
    if distance == "normalised_mse":
        arrays, value = arrays[:1], lambda p: gap(p, target, distance="normalised_mse")
    check_grads(jax.jit(value), arrays, order=order, modes=["fwd", "rev"], rtol=3e-2)


def test_the_mse_is_the_default():
    arrays = made_array(6, 5), made_array(6, 5, seed=1)
    assert_close(gap(*arrays), reference.gap(*arrays, "mse"))


def test_normalised_mse_is_free_of_scale():
    prediction, target = made_array(6, 5), made_array(6, 5, seed=1)
    expected = jitted_gap(prediction, target, distance="normalised_mse")
    for scale in (0.5, 30.0, 1e4):
        found = jitted_gap(scale * prediction, scale * target, distance="normalised_mse")
        assert_close(found, expected)


def test_normalised_mse_of_a_single_valid_row_is_the_mse():
    prediction, target = made_array(6, 5), 3 * made_array(6, 5, seed=1)
    one = np.arange(6) == 2
    found = jitted_gap(prediction, target, distance="normalised_mse", valid=one)
    assert_close(found, np.square(prediction - target)[2].mean())


def test_normalised_mse_of_a_constant_target_is_finite():
    prediction, target = made_array(6, 5), np.ones((6, 5), np.float32)
    found = jitted_gap(prediction, target, distance="normalised_mse")
    assert_close(found, np.square(prediction - target).mean() / 1e-6)


def test_the_variance_of_normalised_mse_carries_no_gradient():
    prediction, target = made_array(6, 5), 3 * made_array(6, 5, seed=1)
    found = jax.grad(lambda t: gap(prediction, t, distance="normalised_mse"))(target)
    expected = 2 * (target - prediction) / target.size / (target.var(0).mean() + 1e-6)
    assert_close(found, expected)


def test_cosine_is_free_of_the_length_of_both():
    prediction, target = made_array(6, 5), made_array(6, 5, seed=1)
    expected = reference.gap(prediction, target, "cosine")
    for scale in (1e-2, 1.0, 1e6):
        found = jitted_gap(scale * prediction, 3 * target, distance="cosine")
        assert_close(found, expected)


@each_shape
@pytest.mark.parametrize("zero", ["prediction", "target", "both"])
def test_cosine_with_zero_vectors_is_finite_and_so_is_its_gradient(zero, shape):
    prediction, target = made_array(*shape), made_array(*shape, seed=1)
    prediction[0] *= zero == "target"
    target[0] *= zero == "prediction"

    def first(p, t):
        return gap(p[:1], t[:1], distance="cosine")

    value, gradients = jax.jit(jax.value_and_grad(first, (0, 1)))(prediction, target)
    assert float(value) == 1
    assert all(np.isfinite(g).all() for g in gradients)


def test_a_function_may_be_the_distance():
    prediction, target = made_array(6, 5), made_array(6, 5, seed=1)

    def largest(p, t):
        assert p.dtype == t.dtype == jnp.float32
        return jnp.abs(p - t).max(1)

    found = gap(jnp.asarray(prediction), jnp.asarray(target), distance=largest, valid=VALID)
    assert_close(found, np.abs(prediction - target).max(1)[VALID].mean())


@pytest.mark.parametrize(("name", "axis"), [("scalar", None), ("maps", ())])
def test_a_function_must_return_one_number_a_row(name, axis):
    with pytest.raises(ValueError, match=r"one value a row, \(6,\)"):
        gap(made_array(6, 5), made_array(6, 5), distance=lambda p, t: (p - t).sum(axis))


@each_distance
def test_contributions_of_shards_average_to_the_global_gap(distance):
    """However uneven the padding: here three, one, none and two valid rows on a shard."""
    valid = np.array([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)
    prediction, target = made_array(4, 3, 5), 2 * made_array(4, 3, 5, seed=1)
    everything = [x.reshape(12, 5) for x in (prediction, target)]
    expected = reference.gap(*everything, distance, valid.ravel())
    prediction[~valid], target[~valid] = np.nan, np.nan

    def shard(p, t, v):
        return jax.lax.pmean(gap(p, t, distance=distance, valid=v, axis_name="shards"), "shards")

    found = jax.jit(jax.vmap(shard, axis_name="shards"))(prediction, target, valid)
    assert_close(found, np.full(4, expected))


@pytest.mark.parametrize("shapes", [((6, 5), (6, 4)), ((6, 5), (5, 5)), ((6, 5), (6, 1))])
def test_representations_of_two_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="prediction and target must have one shape"):
        gap(*(made_array(*shape) for shape in shapes))


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match=r"distance must be one of mse, l1, .*'l2'"):
        gap(made_array(6, 5), made_array(6, 5), distance="l2")


@pytest.mark.parametrize("valid", [np.ones(5, bool), np.ones(6, np.float32)])
def test_a_valid_that_does_not_fit_is_refused(valid):
    with pytest.raises(ValueError, match=r"valid must be bool of shape \(6,\)"):
        gap(made_array(6, 5), made_array(6, 5), valid=valid)


# The consistency of several predictions.


def reference_jensen_shannon(logits):
    """Row by row and view by view, with no class of the mean below 1e-7."""
    out = []
    for rows in zip(*(np.asarray(z, np.float64) for z in logits), strict=True):
        p = [np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in rows]
        mean = [min(max(np.mean(column), 1e-7), 1.0) for column in zip(*p, strict=True)]
        terms = [
            sum(a * np.log(a / m) for a, m in zip(view, mean, strict=True) if a > 0) for view in p
        ]
        out.append(np.mean(terms))
    return np.array(out)


VIEWS = [
    np.array([[2, 0, -1], [0, 1, 0]], np.float32),
    np.array([[1, 0, 0], [0, 0.5, 0.5]], np.float32),
    np.array([[0, 0, 0], [1, 1, 0]], np.float32),
]


def test_twelve_times_the_mean_divergence_is_the_term_of_augmix():
    """The authors' "batchmean" is the sum over classes and the mean over rows: that of the rows."""
    assert float(12 * losses.jensen_shannon(VIEWS).mean()) == pytest.approx(0.8415339715, rel=1e-5)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_divergences_match_a_loop_over_rows(views):
    logits = [3 * made_array(6, 5, seed=seed) for seed in range(views)]
    found = losses.jensen_shannon(logits)
    assert found.shape == (6,)
    assert_close(found, reference_jensen_shannon(logits))


def test_divergences_do_not_look_at_the_order_of_the_views():
    logits = [made_array(6, 5, seed=seed) for seed in range(3)]
    assert_close(losses.jensen_shannon(logits), losses.jensen_shannon(logits[::-1]))


def test_divergences_are_zero_of_equal_and_log_v_of_disjoint_predictions():
    logits = made_array(6, 5)
    assert_close(losses.jensen_shannon([logits, logits + 1, logits]), np.zeros(6))
    certain = [np.full((2, 3), -200, np.float32) for _ in range(3)]
    for k, view in enumerate(certain):
        view[:, k] = 200
    assert_close(losses.jensen_shannon(certain), np.full(2, np.log(3)))


def test_the_mean_of_the_predictions_is_clipped():
    # All but one class have probabilities below 1e-7, for which the clip makes the terms negative.
    logits = [
        np.array([[0, -18, -19, -20]], np.float32),
        np.array([[0, -19, -20, -18]], np.float32),
    ]
    expected = reference_jensen_shannon(logits)
    assert expected[0] < 0
    np.testing.assert_allclose(losses.jensen_shannon(logits), expected, atol=1e-7)


def test_divergences_are_float32_from_bfloat16():
    logits = [jnp.asarray(3 * made_array(6, 5, seed=seed), jnp.bfloat16) for seed in range(3)]
    found = losses.jensen_shannon(logits)
    assert found.dtype == jnp.float32
    assert_close(found, reference_jensen_shannon([z.astype(jnp.float32) for z in logits]))


def test_divergences_have_the_gradients_of_finite_differences():
    logits = [made_array(2, 3, seed=seed) for seed in range(3)]
    check_grads(jax.jit(losses.jensen_shannon), (logits,), order=1, modes=["rev"], rtol=3e-2)


def test_divergences_of_certain_predictions_have_finite_gradients():
    logits = [np.array([[500.0, -500.0, 0.0]], np.float32), np.zeros((1, 3), np.float32)]
    gradients = jax.grad(lambda z: losses.jensen_shannon(z).sum())([jnp.asarray(z) for z in logits])
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("count", [0, 1])
def test_a_divergence_of_fewer_than_two_predictions_is_refused(count):
    with pytest.raises(ValueError, match=rf"at least two predictions; found {count}"):
        losses.jensen_shannon([made_array(6, 5)] * count)
