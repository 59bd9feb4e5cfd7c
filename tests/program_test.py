"""From a config to compiled functions: what the flags do not show by themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import models, program, sharding
from experiments.config import Config
from experiments.datasets import data as data_lib
from experiments.datasets import loading

TINY = Config(model="mlp", batch_size=16)
SHARED = dataclasses.replace(TINY, share_prefix=True, policy_options="mixup.layers=(2,)")


@pytest.fixture(scope="module")
def digits() -> data_lib.Data:
    return loading.load("digits")


def _build(config: Config, data: data_lib.Data, total_steps: int = 10) -> program.Program:
    return program.build(config, data, total_steps, sharding.make_mesh())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"decay": "cosine"}, lambda t: 0.1 * 0.5 * (1 + np.cos(np.pi * t / 10))),
        ({"decay": "constant"}, lambda t: 0.1 + 0 * t),
        (
            {"decay": "cosine", "warmup_steps": 4},
            lambda t: np.where(
                t < 4, 0.1 * (t + 1) / 4, 0.1 * 0.5 * (1 + np.cos(np.pi * (t - 4) / 6))
            ),
        ),
    ],
)
def test_learning_rate(options: dict, expected, digits: data_lib.Data):
    schedule = _build(dataclasses.replace(TINY, **options), digits).learning_rate
    steps = np.arange(10)
    found = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(found, expected(steps.astype(float)), rtol=1e-5)


def test_rows_per_step_doubles_with_a_clean_pass():
    assert program.rows_per_step(TINY) == 32
    assert program.rows_per_step(dataclasses.replace(TINY, sem_weight=0.0)) == 16
    both = dataclasses.replace(TINY, sem_weight=0.0, clean_weight=1.0)
    assert program.rows_per_step(both) == 32


def test_rows_per_step_counts_the_clean_rows_of_a_fraction():
    quarter = dataclasses.replace(TINY, sem_fraction=0.25, pairing_groups=4)
    assert program.rows_per_step(quarter) == 16 + 4
    seldom = dataclasses.replace(quarter, sem_every=2)
    assert program.rows_per_step(seldom) == 16 + 4 / 2
    assert program.without_gap(seldom).sem_fraction == 1
    shared = dataclasses.replace(SHARED, sem_every=2)
    assert program.rows_per_step(shared) == 16 + 16 / 2
    assert not program.without_gap(shared).share_prefix


def test_rows_per_step_are_a_mean_where_only_some_steps_have_a_gap():
    assert program.rows_per_step(dataclasses.replace(TINY, sem_every=4)) == 16 + 16 / 4
    clean = dataclasses.replace(TINY, sem_every=4, clean_weight=1.0)
    assert program.rows_per_step(clean) == 32


def test_one_step_in_k_has_the_gap_and_the_others_are_those_of_the_plain_method(
    digits: data_lib.Data,
):
    config = dataclasses.replace(TINY, sem_every=3, sem_ramp_steps=5)
    both = _build(config, digits)
    assert [both.step_at(step) is both.step for step in range(7)] == [
        *(True, False, False) * 2,
        True,
    ]
    with_gap = _build(dataclasses.replace(TINY, sem_ramp_steps=5), digits)
    plain = _build(dataclasses.replace(TINY, sem_weight=0.0), digits)
    assert with_gap.plain_step is plain.plain_step is None
    assert plain.step_at(1) is plain.step
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((16,), np.int32),
    }

    def text(step: program.Step) -> str:
        return step.lower(both.state_shape, batch, both.rng).as_text()

    assert text(both.step) == text(with_gap.step)
    assert text(both.plain_step) == text(plain.step) != text(with_gap.step)


def test_a_shared_prefix_is_part_of_the_step(digits: data_lib.Data):
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((16,), np.int32),
    }

    def text(config: Config) -> str:
        built = _build(config, digits)
        return built.step.lower(built.state_shape, batch, built.rng).as_text()

    assert text(SHARED) != text(dataclasses.replace(SHARED, share_prefix=False))


def test_parameter_count_is_of_the_parameters_alone(digits: data_lib.Data):
    config = dataclasses.replace(TINY, model="cnn", ema_decay=0.9)
    variables = models.create("cnn", 10).init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False
    )
    expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert program.parameter_count(_build(config, digits).state_shape) == expected


def test_init_is_a_function_of_the_seed_and_fits_the_template(digits: data_lib.Data):
    first, second = _build(TINY, digits), _build(dataclasses.replace(TINY, seed=1), digits)
    state = first.init()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)
    template = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), first.state_shape)
    assert shapes == template
    again = _build(TINY, digits).init()
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
    kernels = [jax.tree.leaves(built.init().params)[-1] for built in (first, second)]
    assert not np.array_equal(*kernels)


def test_evaluation_counts_every_row_once_whatever_the_batch(digits: data_lib.Data):
    built = _build(TINY, digits)
    state, mesh = built.init(), sharding.make_mesh()
    totals = []
    for size in (64, 200):
        parts = [
            built.evaluate(state, sharding.put_batch(batch, mesh))
            for batch in data_lib.eval_batches(digits.test, size)
        ]
        totals.append(jax.tree.map(lambda *x: np.sum(x, axis=0), *parts))
    assert totals[0].count == totals[1].count == 360
    assert totals[0].correct == totals[1].correct
    np.testing.assert_allclose(totals[0].nll, totals[1].nll, rtol=1e-5)


def test_training_images_are_scaled_and_evaluation_ones_alike(digits: data_lib.Data):
    # With no augmentation asked for, both see (x / 255 - mean) / std.
    images = digits.train.image[:32]
    augment = program._augmentation(TINY, digits)
    found = augment(jax.random.key(0), images)
    expected = (images / 255.0 - digits.mean) / digits.std
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
