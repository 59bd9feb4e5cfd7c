"""Draws for the tests of the policies: the mix of a key, and many of them."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np

from semjax import policies

MASKED = [
    policies.cutmix,
    policies.fmix,
    policies.resizemix,
    policies.gridmix,
    policies.smoothmix,
]
ALL = [policies.mixup, *MASKED]
MANY = 4_000
SIZES = [(8, 8), (6, 10), (7, 5), (1, 1), (1, 9), (5, 1)]


def has_alpha(factory):
    """Whether a factory draws from a Beta law."""
    return "alpha" in inspect.signature(factory).parameters


def sure(factory, **options):
    """A policy whose weight is below 1 just where the row is mixed, whatever the box."""
    extra = {policies.cutmix: {"correction": False}, policies.resizemix: {"scale": (0.3, 0.8)}}
    return factory(**options, **extra.get(factory, {}))


def image_of(rows, height, width):
    return {"image": jax.ShapeDtypeStruct((rows, height, width, 3), jnp.float32)}


def drawn(policy, seed=0, rows=12, size=(16, 16), valid=None):
    """The mix of one key, with NumPy leaves."""
    batch = image_of(rows, *size)
    if valid is not None:
        batch["valid"] = jnp.asarray(valid)
    return jax.tree.map(np.asarray, policy(jax.random.key(seed), batch))


def many(policy, size=(16, 16), keys=1):
    """The weights and masks of `keys` keys with MANY rows each, one after the other."""
    mixes = [drawn(policy, seed, MANY, size) for seed in range(keys)]
    masks = [] if mixes[0].mask is None else np.concatenate([mix.mask for mix in mixes])
    return np.concatenate([mix.weight for mix in mixes]), masks


def distinct(values):
    return len(np.unique(values.reshape(len(values), -1), axis=0))


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def assert_mean(values, expected):
    """The mean is within four standard errors of an expectation."""
    values = np.asarray(values, np.float64)
    assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))


def assert_weight_is_the_mean(factory, sizes=((8, 8), (7, 5), (1, 9)), **options):
    policy = factory(weight_scope="sample", **options)
    for size in sizes:
        for seed in range(2):
            mix = drawn(policy, seed, size=size)
            assert mix.mask.shape == (12, *size, 1)
            assert mix.mask.dtype == mix.weight.dtype == np.float32
            assert mix.mask.min() >= 0
            assert mix.mask.max() <= 1
            means = mix.mask.mean((1, 2, 3), dtype=np.float64)
            np.testing.assert_allclose(mix.weight, means, rtol=0, atol=1e-6)
