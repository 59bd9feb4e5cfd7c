"""Attacks: their laws on models in closed form, and what they do to a small network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial
from sklearn.datasets import load_digits

from semjax.robustness.attacks import fgsm, pgd, robust_rows

EPSILON = 0.1
IMAGES, LABEL = np.full((2, 2, 2, 2), 0.5, np.float32), np.array([0, 2])


def key(seed=0):
    return jax.random.key(seed)


@functools.cache
def plane(seed=0):
    """A linear model of three classes over 2 x 2 images, and a batch that it gets right."""
    rng = np.random.default_rng(seed)
    matrix = jnp.asarray(rng.standard_normal((8, 3)), jnp.float32)

    def logits_fn(images):
        return images.reshape(len(images), 8) @ matrix

    images = jnp.asarray(rng.uniform(0.2, 0.8, (40, 2, 2, 2)), jnp.float32)
    return logits_fn, images, logits_fn(images).argmax(1)


def losses(logits_fn, images, label):
    return optax.softmax_cross_entropy_with_integer_labels(logits_fn(images), label)


def is_wrong(logits_fn, images, label):
    return np.asarray(logits_fn(images).argmax(1) != label)


def wavy(images):
    """A smooth model that is not linear, whose loss has hills and valleys inside a ball."""
    flat = images.reshape(len(images), -1)
    waves = np.random.default_rng(5).standard_normal((flat.shape[1], 6)).astype(np.float32)
    out = np.random.default_rng(6).standard_normal((6, 3)).astype(np.float32)
    return jnp.sin(6 * flat @ waves) @ out


# The network.


def convolution(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def network(params, images):
    x = jax.nn.relu(convolution(images, params["first"], 1))
    x = jax.nn.relu(convolution(x, params["second"], 2))
    return x.reshape(len(x), -1) @ params["head"]


@pytest.fixture(scope="session")
def digits():
    """A network trained on half of the digits, as a function and its parameters; the other half."""
    data = load_digits()
    images, label = (data.images[..., None] / 16).astype(np.float32), data.target
    rng = np.random.default_rng(0)
    order = rng.permutation(len(images))
    train, test = order[:900], order[900:1100]

    def normal(*shape):
        fan_in = np.prod(shape[:-1])
        return jnp.asarray(rng.standard_normal(shape) * np.sqrt(2 / fan_in), jnp.float32)

    params = {"first": normal(3, 3, 1, 8), "second": normal(3, 3, 8, 16), "head": normal(256, 10)}
    optimiser = optax.adam(3e-3)

    @jax.jit
    def step(params, state, images, label):
        grads = jax.grad(lambda p: losses(Partial(network, p), images, label).mean())(params)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state

    state = optimiser.init(params)
    for _ in range(300):
        rows = rng.choice(train, 64)
        params, state = step(params, state, images[rows], label[rows])
    return Partial(network, params), images[test], label[test]


def test_an_undefended_network_falls_to_twenty_steps(digits):
    logits_fn, images, label = digits
    clean = is_wrong(logits_fn, images, label).mean()
    adversarial = pgd(key(), logits_fn, images, label, epsilon=0.3)
    broken = is_wrong(logits_fn, adversarial, label).mean()
    assert clean < 0.05
    assert broken >= 0.95


def test_errors_rise_with_epsilon_and_the_iterated_attack_finds_no_fewer(digits):
    logits_fn, images, label = digits
    epsilons = [0.0, 0.02, 0.05, 0.1, 0.3]
    robust = robust_rows(key(), logits_fn, images, label, epsilons=epsilons, steps=5)
    assert robust.shape == (5, 200) and robust.dtype == bool
    np.testing.assert_array_equal(robust[0], ~is_wrong(logits_fn, images, label))
    assert not (robust[1:] & ~robust[:-1]).any()
    single = np.array(
        [
            is_wrong(logits_fn, fgsm(logits_fn, images, label, epsilon=epsilon), label)
            for epsilon in epsilons
        ]
    )
    # Row by row: none withstands the iterated attack that falls to the single step.
    assert not (robust & single).any()
    assert (~robust).sum(1)[3] > single.sum(1)[3] > single.sum(1)[0] + 20


# The fast gradient sign method.


def test_the_step_is_along_the_sign_of_finite_differences():
    images, label = np.random.default_rng(0).uniform(0.2, 0.8, (2, 2, 2, 2)), np.array([0, 2])
    images = images.astype(np.float32)
    away = np.asarray(fgsm(wavy, images, label, epsilon=EPSILON) - images) / EPSILON
    width, known = 1e-2, 0
    for place in np.ndindex(2, 2, 2):
        bump = np.zeros(images.shape, np.float32)
        bump[:, *place] = width
        slope = np.asarray(losses(wavy, images + bump, label) - losses(wavy, images - bump, label))
        clear = np.abs(slope) / (2 * width) > 0.2
        known += clear.sum()
        np.testing.assert_allclose(away[:, *place][clear], np.sign(slope)[clear], atol=1e-5)
    assert known >= 12


def test_the_fast_step_is_the_worst_point_of_the_ball_for_a_linear_model_of_two_classes():
    direction = np.array([1.0, -2.0, 0.5, 0.25], np.float32)

    def logits_fn(images):
        score = images.reshape(len(images), 4) @ direction
        return jnp.stack([score, -score], 1)

    images = np.full((1, 2, 2, 1), 0.5, np.float32)
    found = fgsm(logits_fn, images, np.array([0]), epsilon=EPSILON)
    np.testing.assert_allclose(found.ravel(), 0.5 - EPSILON * np.sign(direction), atol=1e-6)


# Both.


def attacked(name, logits_fn, images, label, epsilon, **options):
    if name == "fgsm":
        return fgsm(logits_fn, images, label, epsilon=epsilon)
    return pgd(key(), logits_fn, images, label, epsilon=epsilon, steps=4, **options)


each_attack = pytest.mark.parametrize("name", ["fgsm", "pgd"])


@each_attack
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.6])
def test_images_stay_in_the_ball_and_in_range(name, epsilon):
    logits_fn, images, label = plane()
    images = images.at[:4].set(0.0).at[4:8].set(1.0)
    found = attacked(name, logits_fn, images, label, epsilon)
    assert found.shape == images.shape and found.dtype == np.float32
    assert float(jnp.abs(found - images).max()) <= epsilon + 1e-6
    assert float(found.min()) >= 0 and float(found.max()) <= 1


@each_attack
def test_each_row_is_attacked_on_its_own(name):
    images, label = np.random.default_rng(0).random((6, 2, 2, 2)), np.arange(6) % 3
    images = images.astype(np.float32)
    whole = attacked(name, wavy, images, label, EPSILON)
    options = {"index": np.array([4, 5])} if name == "pgd" else {}
    part = attacked(name, wavy, images[4:], label[4:], EPSILON, **options)
    np.testing.assert_allclose(part, whole[4:], atol=1e-6)


@each_attack
def test_attacks_run_inside_jit(name):
    logits_fn, images, label = plane()
    inside = jax.jit(functools.partial(attacked, name, logits_fn))(images, label, EPSILON)
    np.testing.assert_allclose(inside, attacked(name, logits_fn, images, label, EPSILON), atol=1e-6)


@each_attack
def test_parameters_may_be_leaves_of_the_function(name):
    images, label = np.random.default_rng(0).random((4, 2, 2, 2)), np.arange(4) % 3
    traced = []

    def logits_fn(matrix, images):
        traced.append(matrix)
        return images.reshape(len(images), 8) @ matrix

    for seed in (0, 1):
        matrix = np.random.default_rng(seed).standard_normal((8, 3)).astype(np.float32)
        found = attacked(name, Partial(logits_fn, matrix), images, label, EPSILON)
        closed = attacked(name, lambda x, w=matrix: x.reshape(-1, 8) @ w, images, label, EPSILON)
        np.testing.assert_allclose(found, closed, atol=1e-6)
        if not seed:
            before = len(traced)
    assert len(traced) == before  # other parameters, the same program


# Projected gradient descent.


def test_what_comes_back_is_the_worst_of_what_was_looked_at():
    images = np.random.default_rng(1).random((60, 2, 2, 2)).astype(np.float32)
    label = np.array(wavy(images).argmax(1))
    label[:20] = (label[:20] + 1) % 3  # misclassified from the start
    candidates = [images, fgsm(wavy, images, label, epsilon=EPSILON)]
    found = pgd(key(), wavy, images, label, epsilon=EPSILON, steps=3)
    for other in candidates:
        worse = is_wrong(wavy, found, label).astype(int) - is_wrong(wavy, other, label)
        assert (worse >= 0).all()
        alike = worse == 0
        gain = np.asarray(losses(wavy, found, label) - losses(wavy, other, label))
        assert (gain[alike] >= -1e-5).all()
    assert is_wrong(wavy, found, label)[:20].all()


def at_a_distance(near, far):
    """Logits by whether the one pixel of an image is at 0.5, about there, or further away."""

    def logits_fn(images):
        away = jnp.abs(images.reshape(len(images), 1) - 0.5)
        exact, near_by = jnp.array([[0.01, 0.0, 0.0]]), jnp.array([near])
        return jnp.where(away == 0, exact, jnp.where(away < 0.02, near_by, jnp.array([far])))

    return logits_fn, np.full((1, 1, 1, 1), 0.5, np.float32), np.array([0])


def test_a_wrong_row_is_worse_than_a_right_one_of_larger_loss():
    # At 0.5 the label has a third of three classes (loss 1.09), elsewhere just less than half.
    logits_fn, image, label = at_a_distance([1.0, 1.1, -9.0], [1.0, 1.1, -9.0])
    found = pgd(key(), logits_fn, image, label, epsilon=EPSILON, steps=1)
    assert is_wrong(logits_fn, found, label).all()
    assert losses(logits_fn, found, label) < losses(logits_fn, image, label)


def test_a_row_broken_at_a_small_epsilon_stays_broken_at_a_large_one():
    # Only close to 0.5 is the model wrong, and a start in a large ball misses that.
    logits_fn, image, label = at_a_distance([0.0, 9.0, 0.0], [9.0, 0.0, 0.0])
    second = jax.random.fold_in(key(), 1)
    missed = pgd(second, logits_fn, image, label, epsilon=0.5, steps=1)
    assert not is_wrong(logits_fn, missed, label).any()
    robust = robust_rows(key(), logits_fn, image, label, epsilons=[0.01, 0.5], steps=1)
    assert robust.tolist() == [[False], [False]]


def test_the_points_are_those_of_the_recurrence():
    direction = np.array([3.0, -1.0, 2.0, 0.5], np.float32)
    seen = []

    def logits_fn(images):
        jax.debug.callback(lambda x: seen.append(np.array(x)), images)
        score = images.reshape(len(images), 4) @ direction
        return jnp.stack([-score, score], 1)

    images = np.array([[0.5, 0.5, 0.5, 0.5], [0.05, 0.1, 0.98, 0.4]], np.float32)
    images = images.reshape(2, 2, 2, 1)
    low, high = np.maximum(images - EPSILON, 0), np.minimum(images + EPSILON, 1)
    options = {"steps": 3, "step_size": 0.06, "restarts": 2}
    pgd(key(), logits_fn, images, np.array([0, 0]), epsilon=EPSILON, **options)
    jax.effects_barrier()
    clean, fast, *walks = seen
    slope = np.sign(direction).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(clean, images)
    np.testing.assert_allclose(fast, np.clip(images + EPSILON * slope, low, high), atol=1e-6)
    assert len(walks) == 8
    for start in (0, 4):
        assert ((walks[start] >= low) & (walks[start] <= high)).all()
        for s in range(start, start + 3):
            expected = np.clip(walks[s] + 0.06 * slope, low, high)
            np.testing.assert_allclose(walks[s + 1], expected, atol=1e-6)
    assert not np.allclose(walks[0], walks[4])


def test_starts_fill_the_ball():
    starts = []

    def logits_fn(images):
        jax.debug.callback(lambda x: starts.append(np.array(x)), images)
        return images.reshape(len(images), -1)[:, :2]

    images = np.full((2, 32, 32, 1), 0.5, np.float32)
    pgd(key(), logits_fn, images, np.array([0, 0]), epsilon=EPSILON, steps=1)
    jax.effects_barrier()
    noise = (starts[2] - images) / EPSILON  # after the clean image and the single step
    assert np.abs(noise).max() <= 1 + 1e-5
    assert noise.min() < -0.98 and noise.max() > 0.98
    np.testing.assert_allclose([noise.mean(), noise.var()], [0, 1 / 3], atol=0.05)
    assert not np.allclose(noise[0], noise[1])


def test_small_steps_alone_climb_where_one_large_step_overshoots():
    """The loss peaks inside the ball: the sign step of length epsilon jumps over it."""

    def logits_fn(images):
        x = images.reshape(len(images), 1)
        return jnp.concatenate([jnp.square(x - 0.53), jnp.full_like(x, 1e-3)], 1) * 100

    image, label = np.full((1, 1, 1, 1), 0.5, np.float32), np.array([0])
    jumped = fgsm(logits_fn, image, label, epsilon=0.3)
    np.testing.assert_allclose(jumped.ravel(), [0.8], atol=1e-6)
    found = pgd(key(), logits_fn, image, label, epsilon=0.3, steps=40, step_size=0.02)
    np.testing.assert_allclose(found.ravel(), [0.53], atol=0.011)
    assert is_wrong(logits_fn, found, label).all() and not is_wrong(logits_fn, jumped, label).any()


def mean_loss(seed=0, **options):
    images = np.random.default_rng(1).random((60, 2, 2, 2)).astype(np.float32)
    label = np.asarray(wavy(images).argmax(1))
    defaults = {"epsilon": 0.3, "steps": 2}
    found = pgd(key(seed), wavy, images, label, **defaults | options)
    return np.asarray(losses(wavy, found, label)), is_wrong(wavy, found, label), found


def test_restarts_never_help_the_model_and_do_hurt_it():
    one, several = mean_loss(), mean_loss(restarts=4)
    assert not (one[1] & ~several[1]).any()
    assert several[0].mean() > one[0].mean() + 1e-3


def test_twenty_steps_of_the_stated_length_are_the_default():
    defaults = {"epsilon": 0.3}
    images = np.random.default_rng(1).random((60, 2, 2, 2)).astype(np.float32)
    label = np.asarray(wavy(images).argmax(1))
    found = pgd(key(), wavy, images, label, **defaults)
    for options, same in (
        ({"steps": 20, "step_size": 2.5 * 0.3 / 20, "restarts": 1}, True),
        ({"steps": 19}, False),
        ({"step_size": 0.3 / 20}, False),
    ):
        other = pgd(key(), wavy, images, label, **defaults | options)
        assert np.allclose(found, other, atol=1e-5) is same


def test_the_start_depends_on_the_key_and_the_index():
    np.testing.assert_array_equal(mean_loss()[2], mean_loss()[2])
    assert not np.array_equal(mean_loss()[2], mean_loss(seed=1)[2])
    np.testing.assert_array_equal(mean_loss()[2], mean_loss(index=np.arange(60))[2])
    assert not np.array_equal(mean_loss()[2], mean_loss(index=np.arange(60) + 60)[2])


def test_logits_that_are_not_finite_are_misclassified():
    def logits_fn(images):  # breaks down away from 0.5
        x = images.reshape(len(images), -1).sum(1, keepdims=True)
        return jnp.concatenate([jnp.where(x == 2, 1.0, jnp.nan) * x, 0 * x], 1)

    images = np.full((1, 2, 2, 1), 0.5, np.float32)
    robust = robust_rows(key(), logits_fn, images, np.array([0]), epsilons=[0.0, 0.1], steps=1)
    assert robust.tolist() == [[True], [False]]


def test_robust_rows_use_their_options():
    images = np.random.default_rng(1).random((400, 2, 2, 2)).astype(np.float32)
    label = np.asarray(wavy(images).argmax(1))

    def rows(seed=0, **options):
        defaults = {"epsilons": [0.03], "steps": 1}
        return np.asarray(robust_rows(key(seed), wavy, images, label, **defaults | options))

    usual = rows()
    np.testing.assert_array_equal(usual, rows(restarts=1, index=np.arange(400)))
    assert rows(restarts=8).sum() < usual.sum()
    assert rows(steps=10).sum() < usual.sum()
    np.testing.assert_array_equal(rows(epsilons=[0.02, 0.03])[:1], rows(epsilons=[0.02]))
    for other in (rows(index=np.arange(400) + 400), rows(seed=1)):
        assert (other != usual).any()


def test_robust_rows_take_twenty_steps_unless_told():
    looks = []

    def logits_fn(images):
        jax.debug.callback(lambda x: looks.append(x), images)
        return images.reshape(len(images), -1)[:, :2]

    robust_rows(key(), logits_fn, IMAGES[:, :1], np.array([0, 0]), epsilons=[0.1])
    jax.effects_barrier()
    assert len(looks) == 2 + 21


# What is refused.


@each_attack
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"images": IMAGES[0]}, ValueError, r"images must be \[B, H, W, C\]; found shape"),
        ({"images": IMAGES.astype(np.uint8)}, TypeError, "images must be floating; found uint8"),
        ({"images": 3 * IMAGES}, ValueError, r"images must be in \[0, 1\]; found 2 bad rows of 2"),
        ({"images": IMAGES * np.nan}, ValueError, "images must be finite; found 2 bad rows of 2"),
        ({"images": IMAGES[:0]}, ValueError, "images must have at least one row"),
        ({"label": np.array([0])}, ValueError, r"label must have shape \(2,\)"),
        ({"label": np.array([0.0, 1.0])}, TypeError, "label must be integers"),
        ({"label": np.array([0, 3])}, ValueError, "labels that name one of them; found 1 bad row"),
        ({"label": np.array([-1, 0])}, ValueError, "labels that name one of them; found 1 bad row"),
        ({"epsilon": -0.1}, ValueError, "epsilon must be a number, 0 or more and finite; found"),
        ({"epsilon": np.nan}, ValueError, "epsilon must be a number, 0 or more and finite; found"),
        ({"epsilon": np.ones(2)}, ValueError, "epsilon must be a number, 0 or more and finite"),
        ({"logits_fn": lambda x: x}, ValueError, r"logits_fn must return \[B, K\] for B = 2"),
        ({"logits_fn": lambda x: jnp.nan * wavy(x)}, ValueError, "finite logits.*2 bad rows of 2"),
    ],
)
def test_what_cannot_be_attacked_is_refused(name, options, error, message):
    arguments = {"logits_fn": wavy, "images": IMAGES, "label": LABEL, "epsilon": 0.1} | options
    with pytest.raises(error, match=message):
        attacked(name, **arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1; found 0"),
        ({"steps": 2.0}, TypeError, "steps must be a static integer"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1; found 0"),
        ({"step_size": -1.0}, ValueError, "step_size must be a number, 0 or more and finite"),
        ({"index": np.arange(3)}, ValueError, r"index must have shape \(2,\)"),
        ({"index": np.ones(2)}, TypeError, "index must be integers"),
    ],
)
def test_the_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        pgd(key(), wavy, IMAGES, LABEL, epsilon=0.1, **options)


@pytest.mark.parametrize("epsilons", [[], [0.2, 0.1], [0.1, 0.1], [0.1, np.nan]])
def test_epsilons_ascend(epsilons):
    with pytest.raises(
        ValueError, match=r"(epsilons must be one or more|epsilon must be a number)"
    ):
        robust_rows(key(), wavy, IMAGES, LABEL, epsilons=epsilons, steps=1)
