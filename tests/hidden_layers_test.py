"""Policies for hidden layers: the laws of the layer and of the noise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import semjax
from semjax import Mix, Outputs, make_sem_loss
from semjax.mixing import Noise, perturb

BATCH = {"image": jax.ShapeDtypeStruct((3, 4, 4, 1), jnp.float32)}
KEYS = jax.random.split(jax.random.key(11), 20_000)


def fixed(key, batch, probe=None):
    """A policy that draws nothing, so that compiling it is quick."""
    rows = batch["image"].shape[0]
    return Mix(jnp.roll(jnp.arange(rows, dtype=jnp.int32), 1), jnp.full(rows, 0.25, jnp.float32))


def drawn(policy, seed):
    """The mix of one key, compiled: quicker than one operation after the other."""
    return jax.jit(lambda key: policy(key, BATCH))(jax.random.key(seed))


def many(policy):
    """The mixes of all keys, with NumPy leaves [keys, rows, ...]."""
    mixes = jax.jit(jax.vmap(lambda key: policy(key, BATCH)))(jax.random.clone(KEYS))
    return jax.tree.map(np.asarray, mixes)


def test_the_layer_is_uniform_and_the_batch_shares_it():
    layer = many(semjax.at_layers(fixed, layers=[0, 3, 1])).layer
    np.testing.assert_array_equal(layer, layer[:, :1] * np.ones((1, 3)))
    values, counts = np.unique(layer[:, 0], return_counts=True)
    assert values.tolist() == [0, 1, 3]
    assert stats.chisquare(counts).pvalue > 1e-5


def test_one_layer_is_no_draw():
    mix = semjax.at_layers(fixed, layers=(2,))(jax.random.key(0), BATCH)
    assert (mix.layer.tolist(), mix.layers) == ([2, 2, 2], (2,))


def test_the_layer_changes_nothing_else_of_the_mix():
    """A mask, a weight and partners come as the policy draws them from its own key."""
    policy = semjax.cutmix(weight_scope="sample")
    mix = drawn(semjax.at_layers(policy, layers=[1, 2]), 3)
    own = drawn(lambda key, batch: policy(jax.random.split(key)[0], batch), 3)
    back = dataclasses.replace(mix, layer=None, layers=())
    jax.tree.map(np.testing.assert_array_equal, back, own)


def test_the_strengths_of_the_noise_follow_their_beta_laws():
    noise = many(semjax.with_noise(fixed, add=0.4, multiply=0.2)).noise
    for found, largest in ((noise.add, 0.4), (noise.multiply, 0.2)):
        np.testing.assert_array_equal(found, found[:, :1] * np.ones((1, 3), np.float32))
        assert stats.kstest(found[:, 0] / np.float32(largest), stats.beta(2, 5).cdf).pvalue > 1e-5
    correlation = np.corrcoef(noise.add[:, 0], noise.multiply[:, 0])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(len(KEYS))
    assert len(np.unique(noise.seed)) > 3 * len(KEYS) - 10


def test_the_shape_of_the_beta_law_is_an_option():
    noise = many(semjax.with_noise(fixed, add=2.0, multiply=0.0, shape=(1, 3))).noise
    assert stats.kstest(noise.add[:, 0] / 2, stats.beta(1, 3).cdf).pvalue > 1e-5
    assert (noise.multiply == 0).all()


def test_noisy_feature_mixup_is_its_three_parts():
    options = {"alpha": 1.0, "weight_scope": "sample", "pairing": "roll", "groups": 3}
    whole = semjax.noisy_feature_mixup(layers=[0, 2], add=0.3, multiply=0.1, **options)
    parts = semjax.with_noise(
        semjax.at_layers(semjax.mixup(**options), layers=[0, 2]), add=0.3, multiply=0.1
    )
    found, expected = (drawn(policy, 5) for policy in (whole, parts))
    assert found.layers == (0, 2)
    assert found.groups == 3
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_manifold_mixup_is_its_two_parts():
    options = {"alpha": 1.0, "probability": 0.5, "weight_scope": "sample", "pairing": "reverse"}
    found, expected = (
        drawn(policy, 5)
        for policy in (
            semjax.manifold_mixup(layers=[1, 4], **options),
            semjax.at_layers(semjax.mixup(**options), layers=[1, 4]),
        )
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_rows_that_are_not_mixed_get_noise_all_the_same():
    mix = drawn(semjax.noisy_feature_mixup(alpha=0, layers=[0]), 0)
    assert mix.weight.tolist() == [1, 1, 1]
    assert (mix.noise.add > 0).all()


def test_only_what_is_mixed_has_noise():
    """Labels and the targets of the gap do not: an identity's gap is that of the noise itself."""
    policy = semjax.with_noise(fixed, add=0.5, multiply=0.3)
    images = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype(np.float32)
    batch, seen = {"image": images, "label": np.array([0, 1, 1])}, {}

    def identity(params, images, rng):
        features = images.reshape(len(images), -1)
        return Outputs(logits=features[:, :2], representation=features)

    def keep(name, a, b):
        seen[name] = (np.asarray(a), np.asarray(b))
        return jnp.square(a - b).mean(1)

    loss = make_sem_loss(
        identity,
        policy=policy,
        clean_weight=0.0,
        distance=functools.partial(keep, "gap"),
        label_loss=functools.partial(keep, "label"),
    )
    loss({}, batch, jax.random.key(2))
    mix = semjax.draw_mix(policy, batch, jax.random.key(2))
    mixed = 0.25 * images + 0.75 * np.roll(images, 1, 0)
    noisy = perturb(mix.noise, jnp.asarray(mixed)).reshape(3, -1)
    np.testing.assert_allclose(seen["gap"][0], noisy, atol=1e-6)
    np.testing.assert_allclose(seen["gap"][1], mixed.reshape(3, -1), atol=1e-6)
    one_hot = np.eye(2)[batch["label"]]
    np.testing.assert_allclose(seen["label"][1], 0.25 * one_hot + 0.75 * np.roll(one_hot, 1, 0))


def layered(key, batch, probe=None):
    mix = fixed(key, batch)
    return dataclasses.replace(mix, layer=jnp.zeros(3, jnp.int32), layers=(0,))


def noisy(key, batch, probe=None):
    still = Noise(jnp.zeros(3, jnp.uint32), jnp.zeros(3), jnp.zeros(3))
    return dataclasses.replace(fixed(key, batch), noise=still)


@pytest.mark.parametrize("layers", [[], [-1], [0, 0], [1.5], [0, "1"]])
def test_layers_out_of_range_are_refused(layers):
    for factory in (semjax.manifold_mixup, functools.partial(semjax.at_layers, fixed)):
        with pytest.raises(ValueError, match="layers must be different integers of at least 0"):
            factory(layers=layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"add": -0.1}, "add must be finite and at least 0; found -0.1"),
        ({"add": float("nan")}, "add must be finite"),
        ({"multiply": float("inf")}, "multiply must be finite and at least 0; found inf"),
        ({"shape": (0, 5)}, r"shape must be two numbers above 0; found \(0, 5\)"),
        ({"shape": (1, 2, 3)}, "shape must be two numbers above 0"),
    ],
)
def test_noise_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        semjax.with_noise(fixed, **options)


def test_layers_and_noise_are_drawn_once():
    with pytest.raises(ValueError, match="a policy that draws a layer itself"):
        semjax.at_layers(layered)(jax.random.key(0), BATCH)
    with pytest.raises(ValueError, match="a policy that draws noise itself"):
        semjax.with_noise(noisy)(jax.random.key(0), BATCH)
