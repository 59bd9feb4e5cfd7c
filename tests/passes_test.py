"""What a loss forwards: which rows in which passes, what is differentiated, and what it costs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from sem_example import (
    TERMS,
    assert_terms,
    assert_trees_equal,
    batch_of,
    grads,
    mix_of,
    mlp,
    normal,
    terms,
    weights_of,
)

import semjax
from semjax import Outputs, make_sem_loss


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, [7, 7]),
        ({"clean_weight": 1.0}, [7, 7]),
        ({"sem_weight": 0, "clean_weight": 1.0}, [7, 7]),
        ({"sem_weight": 0}, [7]),
        ({"sem_weight": 0.0, "clean_weight": 0.0, "passes": "joint"}, [7]),
        ({"passes": "joint", "clean_weight": 1.0}, [14]),
        ({"policy": None, "sem_weight": 0}, [7]),
        ({"policy": semjax.cutmix()}, [7, 7]),
    ],
)
def test_rows_forwarded(options, passes):
    """Counted while tracing: a term with a Python weight of 0 is no part of the program."""
    seen = []

    def counting(params, images, rng):
        seen.append(len(images))
        return mlp(params, images, rng)

    loss = make_sem_loss(counting, **options)
    jax.eval_shape(loss, weights_of(48), batch_of(), jax.random.key(0))
    assert seen == passes


def test_a_clean_pass_that_nothing_learns_from_is_not_differentiated():
    """The model's own derivative rule tells when it is asked for one."""
    asked = []

    @jax.custom_vjp
    def encode(x, w):
        asked.append(False)
        return jnp.tanh(x @ w)

    def forward(x, w):
        asked.append(True)
        return jnp.tanh(x @ w), (x, w)

    encode.defvjp(forward, lambda kept, g: (jnp.zeros_like(kept[0]), kept[0].T @ g))

    def own_rule(params, images, rng):
        features = encode(images.reshape(len(images), -1), params["w"])
        return Outputs(logits=features @ params["head"], representation=features)

    for options, passes in (
        ({}, [True, True]),
        ({"stop_gradient": "clean"}, [True, False]),
        ({"stop_gradient": "clean", "clean_weight": 1.0}, [True, True]),
    ):
        asked.clear()
        gradient = functools.partial(grads, own_rule, batch=batch_of(mix=mix_of()), **options)
        jax.eval_shape(gradient, weights_of(48))
        assert asked == passes


def test_a_held_clean_pass_has_the_gradients_of_a_held_representation():
    """To the last bit, also with parameters that are no arrays."""

    def held(prediction, target):
        return jnp.square(prediction - jax.lax.stop_gradient(target)).mean(1)

    assert_trees_equal(grads(stop_gradient="clean"), grads(distance=held))

    def with_functions(params, images, rng):
        return params["model"](params, images, rng)

    params = {**weights_of(48), "model": mlp}
    found = terms(with_functions, params, stop_gradient="clean")
    assert_trees_equal(found, terms(stop_gradient="clean"))


DEEP = {
    "first": normal(4, 64, seed=10) / 2,
    "second": normal(64, 64, seed=11) / 8,
    "third": normal(64, 64, seed=12) / 8,
    "head": normal(64, 5, seed=13) / 8,
}


def deep(params, images, rng, hidden):
    x = images.reshape(len(images), -1)
    for layer, name in enumerate(("first", "second", "third"), start=1):
        x = hidden(layer, jnp.tanh(x @ params[name]))
    return Outputs(logits=x @ params["head"], representation=x)


@functools.cache
def flops(backward, layer=0, **options):
    """Floating-point operations of the compiled loss, or of its value and gradients."""
    loss = make_sem_loss(deep, **options)
    mix = dataclasses.replace(mix_of(32), layer=jnp.full(32, layer, jnp.int32), layers=(layer,))
    function = jax.jit(jax.value_and_grad(loss, has_aux=True) if backward else loss)
    program = function.lower(DEEP, batch_of(32, (2, 2, 1), mix=mix), jax.random.key(0))
    return program.compile().cost_analysis()["flops"]


def test_the_clean_pass_costs_a_forward_pass_and_its_gradient_the_rest_of_a_step():
    step, forward = flops(True, sem_weight=0), flops(False, sem_weight=0)
    held = flops(True, stop_gradient="clean", clean_weight=0.0)
    assert held < step + 1.15 * forward < 1.5 * step
    assert 1.9 * step < flops(True) < 2.1 * step


@pytest.mark.parametrize("stop_gradient", ["none", "clean"])
def test_what_lies_before_the_only_layer_mixed_is_computed_forward_once(stop_gradient):
    """Both passes compute the same there, which the compiler sees."""
    prefix = 2 * 32 * (4 * 64 + 64 * 64)
    at_input, at_layer = (flops(True, layer, stop_gradient=stop_gradient) for layer in (0, 2))
    assert at_layer < at_input - 0.9 * prefix


def test_one_pass_of_2b_rows_equals_two_passes_without_batch_statistics():
    options = {"batch": batch_of(), "clean_weight": 0.5, "policy": semjax.cutmix()}
    separate, joint = (terms(**options, passes=passes) for passes in ("separate", "joint"))
    assert_terms(joint, separate, names=(*TERMS, "clean_accuracy"), rtol=1e-6)


def normalising(params, images, rng):
    """A model whose rows see each other, as in BatchNorm."""
    return mlp(params, (images - images.mean(0)[None]) * 2, rng)


def test_joint_pass_normalises_over_2b_rows():
    separate, joint = (terms(normalising, passes=passes) for passes in ("separate", "joint"))
    assert abs(separate["mixed_loss"] - joint["mixed_loss"]) > 1e-3


def test_mixed_and_clean_passes_get_keys_of_their_own():
    keys = []

    def recording(params, images, rng):
        keys.append(jax.random.key_data(rng).tolist())
        return mlp(params, images, rng)

    terms(recording)
    terms(recording, seed=1)
    assert len({tuple(key) for key in keys}) == 4
