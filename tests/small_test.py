"""The two small networks against NumPy, and what BatchNorm does in training."""

import jax
import numpy as np
import pytest
from network_reference import (
    SMALL,
    conv,
    layer_outputs,
    norm,
    random_images,
    random_variables,
    relu,
)


@pytest.mark.parametrize("train", [False, True])
def test_the_cnn_matches_numpy(train):
    images = random_images()
    variables = random_variables(SMALL["cnn"], images)
    apply = jax.jit(lambda v, x: SMALL["cnn"].apply(v, x, train=train, mutable=["batch_stats"]))
    features, _ = apply(variables, images)

    params = jax.tree.map(np.asarray, variables["params"])
    stats = {} if train else variables["batch_stats"]
    x = np.asarray(images, np.float64)
    for layer, stride in (("1", 1), ("2", 2)):
        x = conv(x, params["conv" + layer], stride)
        x = relu(norm(x, params["norm" + layer], stats.get("norm" + layer)))
    logits = x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(features.spatial, x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(features.logits, logits, rtol=1e-4, atol=1e-4)


def test_the_mlp_matches_numpy():
    images = random_images()
    variables = random_variables(SMALL["mlp"], images)
    features = SMALL["mlp"].apply(variables, images, train=True)
    params = jax.tree.map(np.asarray, variables["params"])
    x = np.asarray(images, np.float64).reshape(3, -1)
    for name in ("dense1", "dense2"):
        x = relu(x @ params[name]["kernel"] + params[name]["bias"])
    np.testing.assert_allclose(features.pooled, x, rtol=1e-5, atol=1e-5)
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(features.logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 7, 6, 1)])
def test_a_strided_convolution_pads_one_pixel_on_each_side(shape):
    model, images = SMALL["cnn"], random_images(shape)
    variables = random_variables(model, images)
    _, state = model.apply(variables, images, train=False, capture_intermediates=True)
    captured = {name: np.asarray(out["__call__"][0]) for name, out in layer_outputs(state)}
    reference = conv(relu(captured["norm1"]), variables["params"]["conv2"], stride=2)
    np.testing.assert_allclose(captured["conv2"], reference, rtol=1e-4, atol=1e-5)


def test_training_normalises_over_the_batch_and_moves_the_statistics_by_a_tenth():
    model, images = SMALL["cnn"], random_images((2, 2, 2, 2))
    variables = model.init(jax.random.key(0), images, train=True)
    variables["batch_stats"] = random_variables(model, images)["batch_stats"]
    _, state = model.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    captured = {name: np.asarray(out["__call__"][0]) for name, out in layer_outputs(state)}
    # Scale 1 and bias 0 as initialised: each channel has mean 0 and variance 1 over B, h and w.
    np.testing.assert_allclose(captured["norm1"].mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(captured["norm1"].var((0, 1, 2)), 1, atol=1e-3)

    old, new = variables["batch_stats"]["norm1"], state["batch_stats"]["norm1"]
    batch_mean, batch_var = (f(captured["conv1"], axis=(0, 1, 2)) for f in (np.mean, np.var))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * batch_mean, rtol=1e-4)
    # The biased variance: 8 values a channel, so the unbiased one is 14 % larger.
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * batch_var, rtol=1e-4)
