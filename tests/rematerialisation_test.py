"""Rematerialisation: the same values, with what is closed over, and less memory on a CPU too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.layers.rematerialisation import of_module, rematerialise


def test_values_and_gradients_are_those_of_the_function():
    weights, x = jnp.array([[0.5, -1.0], [2.0, 0.25]]), jnp.array([0.3, -0.7])
    scale, rows = jnp.array(1.5), jnp.array([1, 0])

    def loss(wrap, weights, x, scale):
        def run(weights, x):
            return jnp.tanh(x @ weights)[rows] * scale  # closes over a float and an integer array

        return jnp.sum(wrap(run, weights, x) ** 2)

    def gradients(wrap):
        return jax.jit(jax.value_and_grad(loss, argnums=(1, 2, 3)), static_argnums=0)(
            wrap, weights, x, scale
        )

    expected = gradients(lambda run, *args: run(*args))
    for found, reference in zip(
        jax.tree.leaves(gradients(rematerialise)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(found, reference, rtol=1e-6)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for _ in range(6):
            x = jnp.sin(nn.Dense(64)(x))
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        if train and not self.is_initializing():
            seen.value = seen.value + x.mean()
        return x


class Network(nn.Module):
    block: type

    @nn.compact
    def __call__(self, x):
        for place in range(4):
            x = self.block(name=f"block{place}")(x, True)
        return x


def test_a_module_keeps_names_and_state_and_needs_less_memory():
    x = jnp.ones((256, 64))
    plain, again = Network(Block), Network(of_module(Block))
    variables = plain.init(jax.random.key(0), x)
    chex_equal = jax.tree.map(np.array_equal, variables, again.init(jax.random.key(0), x))
    assert jax.tree.all(chex_equal)

    def step(network):
        def loss(params):
            y, state = network.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return jnp.sum(y**2), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables["params"]).compile()

    expected, found = step(plain), step(again)
    for each, reference in zip(
        jax.tree.leaves(found(variables["params"])),
        jax.tree.leaves(expected(variables["params"])),
        strict=True,
    ):
        np.testing.assert_allclose(each, reference, rtol=1e-4, atol=1e-4)
    sizes = [each.memory_analysis().temp_size_in_bytes for each in (found, expected)]
    assert sizes[0] < 0.7 * sizes[1]


def test_a_gradient_that_is_not_finite_stays_so():
    gradient = jax.grad(lambda x: jnp.inf * rematerialise(jnp.sin, x))(0.5)
    assert not np.isfinite(gradient)
    with pytest.raises(TypeError):
        jax.grad(lambda x: rematerialise(jnp.sin, x))(jnp.array(1))
