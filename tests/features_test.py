"""What holds for every kind of network: features, statistics, gradients, ways to compute."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from network_reference import NO_ONEDNN, SMALL, random_images, random_variables

import semjax
from experiments.networks.features import Features, prepare

needs_onednn = pytest.mark.skipif(NO_ONEDNN is not None, reason="oneDNN not installed")


def test_features_are_a_frozen_pytree_with_or_without_a_feature_map():
    logits, pooled, spatial = jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((2, 1, 1, 4))
    for features, leaves in (
        (Features(logits=logits, pooled=pooled, spatial=spatial), 3),
        (Features(logits=logits, pooled=pooled), 2),
    ):
        doubled = jax.jit(lambda f: jax.tree.map(lambda x: 2 * x, f))(features)
        assert isinstance(doubled, Features)
        assert len(jax.tree.leaves(features)) == leaves
        np.testing.assert_array_equal(doubled.logits, 2 * logits)
        with pytest.raises(dataclasses.FrozenInstanceError):
            features.logits = logits


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind not in ("vit", "mlp")])
def test_pooled_is_the_float32_mean_of_the_feature_map(kind):
    images = random_images((2, 9, 6, 2))
    features = SMALL[kind].apply(random_variables(SMALL[kind], images), images, train=False)
    np.testing.assert_array_equal(features.pooled, jnp.mean(features.spatial, axis=(1, 2)))


@pytest.mark.parametrize("kind", ["post", "cnn"])
def test_reductions_of_bfloat16_activations_are_taken_in_float32(kind):
    model = dataclasses.replace(SMALL[kind], compute_dtype=jnp.bfloat16)
    images = random_images((4, 16, 16, 2))
    variables = random_variables(model, images)
    # Not jitted: a compiler may skip the rounding between two operations.
    features, state = model.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    spatial = np.asarray(features.spatial, np.float64)
    np.testing.assert_allclose(features.pooled, spatial.mean((1, 2)), rtol=1e-5, atol=1e-6)

    conv, norm = ("stem_conv", "stem_norm") if kind == "post" else ("conv1", "norm1")
    activation = np.asarray(state["intermediates"][conv]["__call__"][0], np.float64)
    old, new = variables["batch_stats"][norm], state["batch_stats"][norm]
    mean = 0.9 * np.asarray(old["mean"]) + 0.1 * activation.mean((0, 1, 2))
    np.testing.assert_allclose(new["mean"], mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", SMALL)
def test_only_training_changes_statistics_and_lets_rows_see_each_other(kind):
    model, images = SMALL[kind], random_images()
    variables = random_variables(model, images)
    other_rows = images.at[1:].multiply(3.0)

    @functools.partial(jax.jit, static_argnames="train")
    def apply(images, train):
        return model.apply(variables, images, train=train, mutable=["batch_stats"])

    def first_row_agrees(train):
        first, second = (apply(x, train=train)[0].logits[0] for x in (images, other_rows))
        return np.allclose(first, second, rtol=1e-5, atol=1e-5)

    old = jax.tree.leaves(variables.get("batch_stats", {}))
    in_eval = jax.tree.leaves(apply(images, train=False)[1])
    in_training = jax.tree.leaves(apply(images, train=True)[1])
    assert len(in_eval) == len(in_training) == len(old)
    assert all(np.array_equal(a, b) for a, b in zip(old, in_eval, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(old, in_training, strict=True))
    assert first_row_agrees(train=False)
    assert first_row_agrees(train=True) == (kind in ("vit", "mlp"))


@pytest.mark.parametrize("kind", SMALL)
def test_every_parameter_gets_a_finite_gradient(kind):
    model, images = SMALL[kind], random_images()
    variables = random_variables(model, images)

    @jax.jit
    @jax.grad
    def gradient(params):
        state = {**variables, "params": params}
        return model.apply(state, images, train=False).logits[:, 0].sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@functools.cache
def everything(name, **changed):
    """Outputs, statistics and gradients, with a hidden layer mixed as a policy does."""
    # A bottleneck halves three times: BatchNorm of a handful of cells would amplify rounding.
    plain, images = (
        SMALL[name],
        random_images((4, 24, 16, 2) if name == "bottleneck" else (3, 6, 5, 2)),
    )
    model, variables = plain.copy(**changed), random_variables(plain, images)
    first = "block1" if name == "vit" else "stage1_block1"
    hook = semjax.interceptor(lambda layer, x: 0.5 * (x + x[::-1]), [first])

    def run(params, images):
        with nn.intercept_methods(hook):
            features, state = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
        return jnp.sum(features.logits**2), (features, state)

    value = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
    return jax.jit(value)(variables["params"], images)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("post", {"lowering": "phased"}),
        pytest.param("post", {"remat": True}, marks=pytest.mark.long),
        pytest.param("post", {"lowering": "onednn", "remat": True}, marks=needs_onednn),
        pytest.param("pre_norm", {"lowering": "phased"}, marks=pytest.mark.long),
        pytest.param("pre_norm", {"remat": True}, marks=pytest.mark.long),
        pytest.param("pre_norm", {"lowering": "onednn"}, marks=[needs_onednn, pytest.mark.long]),
        ("bottleneck", {"lowering": "phased", "remat": True}),
        pytest.param("bottleneck", {"lowering": "onednn"}, marks=[needs_onednn, pytest.mark.long]),
        ("vit", {"remat": True}),
    ],
    ids=str,
)
def test_lowerings_and_rematerialisation_change_no_value(name, changed):
    expected, found = everything(name), everything(name, **changed)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for each, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, float(jnp.abs(reference).max()))
        np.testing.assert_allclose(each, reference, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 8, 0, 3)])
def test_images_of_a_wrong_shape_are_named(shape):
    with pytest.raises(ValueError, match=rf"images: .*found {re.escape(str(shape))}"):
        prepare(jnp.zeros(shape), jnp.float32)


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="images: expected a floating dtype, found uint8"):
        prepare(jnp.zeros((2, 8, 8, 3), jnp.uint8), jnp.float32)
