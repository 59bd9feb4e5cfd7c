"""ResNet-50's bottleneck against NumPy, where its stride is, and how it starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_reference import SMALL, conv, norm, random_images, random_variables, relu

from experiments.networks.bottleneck import Bottleneck, BottleneckResNet


def max_pool(x):
    """The largest of 3x3, every second pixel, nothing beyond the edge."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = range(0, x.shape[1], 2), range(0, x.shape[2], 2)
    return np.stack(
        [np.stack([padded[:, i : i + 3, j : j + 3].max((1, 2)) for j in columns], 1) for i in rows],
        axis=1,
    )


def bottleneck(x, params, stats, stride):
    y = relu(norm(conv(x, params["conv1"]), params["norm1"], stats.get("norm1")))
    y = relu(norm(conv(y, params["conv2"], stride), params["norm2"], stats.get("norm2")))
    y = norm(conv(y, params["conv3"]), params["norm3"], stats.get("norm3"))
    if "shortcut_conv" in params:
        x = conv(x, params["shortcut_conv"], stride)
        x = norm(x, params["shortcut_norm"], stats.get("shortcut_norm"))
    return relu(x + y)


@pytest.mark.parametrize("train", [False, True])
def test_forward_pass_matches_numpy(train):
    model, images = SMALL["bottleneck"], random_images((3, 13, 10, 2))
    variables = random_variables(model, images)
    apply = jax.jit(lambda v, x: model.apply(v, x, train=train, mutable=["batch_stats"]))
    features, _ = apply(variables, images)

    params = jax.tree.map(np.asarray, variables["params"])
    stats = {} if train else variables["batch_stats"]
    x = conv(np.asarray(images, np.float64), params["stem_conv"], stride=2)
    x = max_pool(relu(norm(x, params["stem_norm"], stats.get("stem_norm"))))
    assert x.shape == (3, 4, 3, 4)
    for name, stride in (("stage1_block1", 1), ("stage2_block1", 2)):
        x = bottleneck(x, params[name], stats.get(name, {}), stride)
    logits = x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    assert x.shape == (3, 2, 2, 12)
    np.testing.assert_allclose(features.spatial, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.logits, logits, rtol=1e-4, atol=1e-4)


def test_the_stride_is_in_the_3x3_convolution():
    block = Bottleneck(2, 2, jnp.float32)
    images = jnp.zeros((1, 6, 4, 3))

    def shapes():
        _, variables = block.init_with_output(jax.random.key(0), images, False)
        return block.apply(variables, images, False, capture_intermediates=True)[1]

    found = jax.eval_shape(shapes)["intermediates"]
    assert found["conv1"]["__call__"][0].shape == (1, 6, 4, 2)
    assert found["conv2"]["__call__"][0].shape == (1, 3, 2, 2)
    assert found["conv3"]["__call__"][0].shape == (1, 3, 2, 8)


def test_every_block_starts_as_its_shortcut_and_the_classifier_small():
    model = BottleneckResNet(200, stem_width=4, widths=(8, 16), blocks=(2, 1))
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8, 8, 3)), train=False)["params"])
    params = jax.tree.map(np.asarray, init(jax.random.key(0)))
    blocks = ("stage1_block1", "stage1_block2", "stage2_block1")
    assert all((params[block]["norm3"]["scale"] == 0).all() for block in blocks)
    others = [params["stem_norm"], *(params[block]["norm2"] for block in blocks)]
    assert all((norm["scale"] == 1).all() for norm in others)
    assert "shortcut_conv" not in params["stage1_block2"]
    assert params["head"]["kernel"].std() == pytest.approx(0.01, rel=0.05)
    kernel = params["stage2_block1"]["conv2"]["kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.05)
