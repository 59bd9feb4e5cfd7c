"""The bare step computes what the product's does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import semjax
from benchmarks import bare_jnp
from experiments import models

CLASSES = 5


def test_the_bare_network_is_the_product_s_in_values_statistics_and_gradients():
    module = models.ResNet(CLASSES, widths=(16, 32, 64), blocks=1, pad_shortcut=True)
    image_key, target_key, key = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(image_key, (4, 8, 8, 3))
    targets = jax.nn.softmax(jax.random.normal(target_key, (4, CLASSES)))
    variables = jax.jit(module.init, static_argnames="train")(key, images, train=False)
    params, statistics = variables["params"], variables["batch_stats"]

    def theirs(params):
        given = {"params": params, "batch_stats": statistics}
        features, new = module.apply(given, images, train=True, mutable=["batch_stats"])
        return semjax.losses.soft_cross_entropy(features.logits, targets).mean(), new["batch_stats"]

    def ours(params):
        return bare_jnp.loss(params, statistics, images, targets)

    found, expected = (jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (ours, theirs))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, expected
    )


def test_the_bare_update_is_the_optimiser_s():
    optimizer = semjax.training.make_optimizer(
        "sgd", bare_jnp.LEARNING_RATE, weight_decay=bare_jnp.WEIGHT_DECAY
    )
    params = expected = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.arange(3.0)}
    velocity, state = jax.tree.map(jnp.zeros_like, params), optimizer.init(params)
    for step in range(3):
        gradient = jax.tree.map(lambda x: jnp.cos(x + step), params)  # noqa: B023 (used at once)
        params, velocity = bare_jnp.update(params, velocity, gradient)
        updates, state = optimizer.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
