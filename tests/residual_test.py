"""Residual networks against NumPy forward passes written from the papers, and how they start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_reference import SMALL, conv, norm, random_images, random_variables, relu

from experiments import models
from experiments.networks.residual import PreActResNet, ResNet


def post_block(x, params, stats, stride):
    y = relu(norm(conv(x, params["conv1"], stride), params["norm1"], stats.get("norm1")))
    y = norm(conv(y, params["conv2"]), params["norm2"], stats.get("norm2"))
    if "shortcut_conv" in params:
        x = conv(x, params["shortcut_conv"], stride)
        x = norm(x, params["shortcut_norm"], stats.get("shortcut_norm"))
    elif stride == 2:
        x = np.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (1, 1)))  # 4 channels to 6
    return relu(x + y)


def pre_block(x, params, stats, stride):
    y = relu(norm(x, params["norm1"], stats.get("norm1")))
    shortcut = conv(y, params["shortcut_conv"], stride) if "shortcut_conv" in params else x
    y = relu(norm(conv(y, params["conv1"], stride), params["norm2"], stats.get("norm2")))
    return shortcut + conv(y, params["conv2"])


def forward(kind, images, params, stats):
    """Last feature map of a small network; empty `stats` mean those of the batch."""
    x = conv(images, params["stem_conv"])
    if kind.startswith("post"):
        x = relu(norm(x, params["stem_norm"], stats.get("stem_norm")))
    block = post_block if kind.startswith("post") else pre_block
    for name, stride in (("stage1_block1", 1), ("stage2_block1", 2)):
        x = block(x, params[name], stats.get(name, {}), stride)
    if kind == "pre_norm":
        x = relu(norm(x, params["final_norm"], stats.get("final_norm")))
    return x


@pytest.mark.parametrize("kind", ["post", "post_pad", "pre", "pre_norm"])
@pytest.mark.parametrize("train", [False, True])
def test_forward_pass_matches_numpy(kind, train):
    images = random_images()
    variables = random_variables(SMALL[kind], images)
    apply = jax.jit(lambda v, x: SMALL[kind].apply(v, x, train=train, mutable=["batch_stats"]))
    features, _ = apply(variables, images)

    params = jax.tree.map(np.asarray, variables["params"])
    stats = {} if train else variables["batch_stats"]
    spatial = forward(kind, np.asarray(images, np.float64), params, stats)
    pooled = spatial.mean((1, 2))
    logits = pooled @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(features.spatial, spatial, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.pooled, pooled, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.logits, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("module", [ResNet, PreActResNet])
def test_a_stage_as_wide_as_the_one_before_still_halves_the_map(module):
    model = module(3, widths=(64, 64), blocks=1)
    images = jnp.zeros((1, 8, 6, 1))
    init = functools.partial(model.init_with_output, train=False)
    features, _ = jax.eval_shape(init, jax.random.key(0), images)
    assert features.spatial.shape == (1, 4, 3, 64)


# How they start


@functools.cache
def initial(kind):
    # Wide enough for statistics, and 16 channels in where 32 go out: the fan-in would show.
    narrow = ResNet(100, widths=(16, 32), blocks=1)
    model = narrow if kind == "resnet" else models.create("wrn_10_1", 100)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 4, 4, 3)), train=False)["params"])
    return init(jax.random.key(0))


@pytest.mark.parametrize("kind", ["resnet", "wrn"])
def test_convolutions_start_as_he_normal_over_the_fan_out(kind):
    kernel = np.asarray(initial(kind)["stage2_block1"]["conv1"]["kernel"])
    assert kernel.shape == (3, 3, 16, 32)
    expected = np.sqrt(2 / (9 * 32))
    assert kernel.std() == pytest.approx(expected, rel=0.05)
    # Not truncated at two standard deviations, which flax's default would be.
    assert np.abs(kernel).max() > 2.5 * expected


def test_wide_resnet_classifier_starts_uniform_in_one_over_root_fan_in():
    kernel = np.asarray(initial("wrn")["head"]["kernel"])
    bound = 1 / np.sqrt(64)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_resnet_classifier_starts_at_variance_one_over_fan_in():
    kernel = np.asarray(initial("resnet")["head"]["kernel"])
    assert kernel.std() == pytest.approx(1 / np.sqrt(32), rel=0.05)


@pytest.mark.parametrize("kind", ["resnet", "wrn"])
def test_classifier_biases_start_at_zero(kind):
    np.testing.assert_array_equal(initial(kind)["head"]["bias"], 0)
