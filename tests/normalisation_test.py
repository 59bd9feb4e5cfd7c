"""BatchNorm against Linen's and against float64, and the rectifier against JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.layers.normalisation import BatchNorm, normalise, rectify


def example(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    x = 3.0 + 2.0 * jax.random.normal(keys[0], (4, 3, 5, 6))
    scale, bias = 1.0 + jax.random.normal(keys[1], (6,)), jax.random.normal(keys[2], (6,))
    return x.astype(dtype), scale, bias, jax.random.normal(keys[3], x.shape).astype(dtype)


def in_float64(x, scale, bias, gradient, rectified):
    """Output and gradients by the textbook, in float64."""
    x, scale, bias, gradient = (np.float64(each) for each in (x, scale, bias, gradient))
    rows = (0, 1, 2)
    mean, var = x.mean(rows), x.var(rows)
    standard = (x - mean) / np.sqrt(var + 1e-5)
    y = scale * standard + bias
    if rectified:
        y, gradient = np.maximum(y, 0), gradient * (y > 0)
    to_standard = gradient * scale
    to_x = to_standard - to_standard.mean(rows) - standard * (to_standard * standard).mean(rows)
    return y, to_x / np.sqrt(var + 1e-5), (gradient * standard).sum(rows), gradient.sum(rows)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
def test_output_and_gradients_are_the_textbooks(dtype, bound, rectified):
    x, scale, bias, gradient = example(dtype)
    y, pull = jax.vjp(lambda *args: normalise(*args, rectified)[0], x, scale, bias)
    found = (y, *pull(gradient))
    assert y.dtype == found[1].dtype == dtype
    expected = in_float64(
        x.astype(jnp.float32), scale, bias, gradient.astype(jnp.float32), rectified
    )
    for each, reference in zip(found, expected, strict=True):
        difference = np.abs(np.float64(each.astype(jnp.float32)) - reference).max()
        assert difference < bound * np.abs(reference).max()


@pytest.mark.parametrize("train", [False, True])
def test_the_module_is_linens(train):
    x, *_ = example()
    ours = BatchNorm(jnp.float32)
    linen = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    variables = ours.init(jax.random.key(1), x, train=False)
    assert jax.tree.structure(variables) == jax.tree.structure(linen.init(jax.random.key(1), x))
    variables = jax.tree.map(lambda leaf: leaf + 0.25, variables)
    found, state = ours.apply(variables, x, train=train, mutable=["batch_stats"])
    expected, linen_state = linen.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for each, reference in zip(jax.tree.leaves(state), jax.tree.leaves(linen_state), strict=True):
        np.testing.assert_allclose(each, reference, rtol=1e-5)


def test_a_constant_map_gives_finite_gradients():
    x = jnp.full((2, 2, 2, 3), 7.0)
    gradient = jax.grad(lambda x: normalise(x, jnp.ones(3), jnp.zeros(3), True)[0].sum())(x)
    assert np.isfinite(gradient).all()


def test_statistics_carry_no_gradient():
    x, scale, bias, _ = example()
    gradient = jax.grad(lambda x: sum(s.sum() for s in normalise(x, scale, bias)[1:]))(x)
    np.testing.assert_array_equal(gradient, 0.0)


def test_rectify_is_relu_with_its_gradient_at_zero_too():
    x = jnp.array([-2.0, -0.0, 0.0, 1.5])
    np.testing.assert_array_equal(rectify(x), jax.nn.relu(x))
    for found, expected in zip(
        jax.vjp(rectify, x)[1](jnp.ones(4)), jax.vjp(jax.nn.relu, x)[1](jnp.ones(4)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
