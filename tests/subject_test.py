"""Any model over any number of rows: each row once and in order, whatever the batch."""

import evaluation_example as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import semjax
from experiments.evaluation.subject import Subject, some_rows, unit


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 64), (17, 8), (24, 8), (7, 3)])
def test_rows_come_back_in_order_without_padding(rows: int, batch_size: int):
    images = example.digits().test.image[:rows]
    answers = Subject(example.apply_fn, jnp.asarray(example.weights()), batch_size).answers(images)
    np.testing.assert_allclose(answers.logits, example.logits(images), atol=1e-4)
    np.testing.assert_allclose(answers.representation, example.flat(images), atol=1e-6)


def test_a_feature_map_is_averaged_and_none_stays_none():
    def maps(params, images, rng):
        return semjax.Outputs(logits=images.sum((1, 2)), representation=images)

    def bare(params, images, rng):
        return semjax.Outputs(logits=images.sum((1, 2)))

    images = example.digits().test.image[:3]
    pooled = Subject(maps, ()).answers(images).representation
    np.testing.assert_allclose(pooled[:, 0], example.flat(images).mean(1), rtol=1e-5)
    assert Subject(bare, ()).answers(images).representation is None


def test_logits_that_are_not_finite_are_an_error():
    def diverged(params, images, rng):
        return semjax.Outputs(logits=jnp.log(images.sum((1, 2)) - 18))

    with pytest.raises(ValueError, match=r"logits are NaN or infinite for \d+ of 5 rows"):
        Subject(diverged, ()).answers(example.digits().test.image[:5])


def test_layers_are_those_the_model_offers():
    def deep(params, images, rng, hidden):
        x = hidden(1, images.reshape(len(images), -1))
        return semjax.Outputs(logits=hidden(2, 2 * x), representation=x)

    images = unit(jnp.asarray(example.digits().test.image[:2]))
    layers = Subject(deep, ()).layers((), images)
    assert set(layers) == {"layer 1", "layer 2", "representation", "logits"}
    np.testing.assert_array_equal(layers["layer 2"], 2 * layers["layer 1"])
    assert set(Subject(example.apply_fn, ()).layers(jnp.zeros((64, 10)), images)) == {
        "representation",
        "logits",
    }


def test_a_row_knows_its_place():
    subject = Subject(example.apply_fn, jnp.zeros(()), 8)
    place = subject.jit(lambda params, batch: {"place": batch["index"], "twice": 2 * batch["own"]})
    own = np.arange(19, dtype=np.float32)
    found = subject.over_rows(place, np.zeros((19, 1, 1, 1), np.uint8), own=own)
    np.testing.assert_array_equal(found["place"], np.arange(19))
    np.testing.assert_array_equal(found["twice"], 2 * own)


def test_some_rows_are_stratified_and_always_the_same():
    test = example.digits().test
    chosen = some_rows(test, 50)
    assert len(chosen) == 50
    np.testing.assert_array_equal(chosen.image, some_rows(test, 50).image)
    counts = np.bincount(chosen.label, minlength=10)
    assert counts.min() >= 4
    assert some_rows(test, 0) is test
    assert some_rows(test, 10**6) is test


def test_bytes_are_scaled_to_one():
    np.testing.assert_allclose(unit(jnp.array([0, 51, 255], jnp.uint8)), [0, 0.2, 1])


def test_logits_can_be_differentiated_in_the_images():
    subject = Subject(example.apply_fn, jnp.asarray(example.weights()))
    images = unit(jnp.asarray(example.digits().test.image[:1]))
    gradient = jax.grad(lambda x: subject.logits(subject.params, x)[0, 3])(images)
    np.testing.assert_allclose(gradient.ravel(), example.weights()[:, 3], rtol=1e-5)
