"""The networks against published counts and against NumPy forward passes written from the papers.

Counts, shapes and dtypes come from `jax.eval_shape`, so the large networks cost nothing here; the
numbers are checked on the same modules made a few channels wide.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import semjax
from experiments import models
from experiments.layers import onednn

needs_onednn = pytest.mark.skipif(onednn.unavailable() is not None, reason="oneDNN not installed")

ALL = ("resnet18", "preact_resnet18", "resnet20", "wrn_16_2", "cnn", "mlp")
CONVOLUTIONAL = ALL[:-1]

# Each kind of network, small: two stages, the second at half the resolution.
SMALL = {
    "post": models.ResNet(3, widths=(4, 6), blocks=1),
    "post_pad": models.ResNet(3, widths=(4, 6), blocks=1, pad_shortcut=True),
    "pre": models.PreActResNet(3, stem_width=4, widths=(4, 6), blocks=1),
    "pre_norm": models.PreActResNet(3, stem_width=2, widths=(4, 6), blocks=1, final_norm=True),
    "cnn": models.CNN(3, widths=(4, 6)),
    "mlp": models.MLP(3, widths=(5, 6)),
}


@functools.cache
def shapes(name, num_classes=10, image_shape=(2, 32, 32, 3), compute_dtype=jnp.float32):
    """Abstract `(features, variables)` of a network; runs nothing."""
    model = models.create(name, num_classes, compute_dtype=compute_dtype)
    images = jnp.zeros(image_shape)
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_variables(model, images, seed=0):
    """Variables with every leaf random, so that no scale of 1 or bias of 0 hides a mistake."""
    key = jax.random.key(seed)
    abstract = jax.eval_shape(lambda: model.init(key, images, train=False))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape, scale=0.5)
        positive = getattr(path[-1], "key", None) == "var"
        return jnp.asarray(np.exp(values) if positive else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def random_images(shape=(3, 6, 5, 2), seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# Parameter counts


def conv_norm(n_in, n_out, size=3):
    """Weights of a bias-free convolution and the scale and bias of a BatchNorm after it."""
    return size * size * n_in * n_out + 2 * n_out


def resnet18_count(classes):
    total = conv_norm(3, 64) + 4 * conv_norm(64, 64)
    for n in (128, 256, 512):
        total += conv_norm(n // 2, n) + conv_norm(n // 2, n, size=1) + 3 * conv_norm(n, n)
    return total + (512 + 1) * classes


def preact_resnet18_count(classes):
    convs = 9 * (3 * 64 + 4 * 64 * 64 + sum(n * n // 2 + 3 * n * n for n in (128, 256, 512)))
    shortcuts = sum(n * n // 2 for n in (128, 256, 512))
    normed = 4 * 64 + sum(n // 2 + 3 * n for n in (128, 256, 512))
    return convs + shortcuts + 2 * normed + (512 + 1) * classes


def resnet20_count(classes):
    total = conv_norm(3, 16) + 6 * conv_norm(16, 16)
    for n in (32, 64):
        total += conv_norm(n // 2, n) + 5 * conv_norm(n, n)
    return total + (64 + 1) * classes


def wrn_count(depth, width, classes):
    blocks, n_in, total = (depth - 4) // 6, 16, 27 * 16
    for n in (16 * width, 32 * width, 64 * width):
        total += 9 * n_in * n + 9 * n * n * (2 * blocks - 1)
        total += 2 * n_in + 2 * n * (2 * blocks - 1)
        total += n_in * n if n_in != n else 0
        n_in = n
    return total + 2 * n_in + (n_in + 1) * classes


COUNTS = [
    ("resnet18", 10, 11_173_962, resnet18_count(10)),
    ("resnet18", 100, 11_220_132, resnet18_count(100)),
    ("preact_resnet18", 10, 11_171_146, preact_resnet18_count(10)),
    ("resnet20", 10, 269_722, resnet20_count(10)),
    ("wrn_16_2", 10, 691_674, wrn_count(16, 2, 10)),
    ("wrn_40_2", 10, 2_243_546, wrn_count(40, 2, 10)),
    ("wrn_28_10", 10, 36_479_194, wrn_count(28, 10, 10)),
]


@pytest.mark.parametrize(("name", "classes", "published", "counted"), COUNTS)
def test_parameter_count_is_the_published_one(name, classes, published, counted):
    _, variables = shapes(name, classes)
    assert count(variables["params"]) == published == counted


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (22, 3)])
def test_wide_resnets_of_any_depth_and_width_have_the_counted_parameters(depth, width):
    _, variables = shapes(f"wrn_{depth}_{width}", 7)
    assert count(variables["params"]) == wrn_count(depth, width, 7)


def test_the_cnn_stays_small():
    assert count(shapes("cnn")[1]["params"]) <= 100_000


def test_only_the_mlp_has_no_batch_statistics():
    assert [name for name in ALL if "batch_stats" not in shapes(name)[1]] == ["mlp"]


# Shapes and dtypes

STRIDE = {"resnet18": 8, "preact_resnet18": 8, "resnet20": 4, "wrn_16_2": 4, "cnn": 4}
DIMENSION = {"resnet18": 512, "preact_resnet18": 512, "resnet20": 64, "wrn_16_2": 128, "cnn": 96}


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("image_shape", [(2, 32, 32, 3), (3, 7, 10, 1), (1, 1, 13, 3)])
def test_shapes_hold_for_any_image(name, image_shape):
    batch, height, width, _ = image_shape
    stride, dim = STRIDE[name], DIMENSION[name]
    features, _ = shapes(name, 5, image_shape)
    assert features.logits.shape == (batch, 5)
    assert features.pooled.shape == (batch, dim)
    # Rounded up, as halving with a pixel of padding does at every step.
    assert features.spatial.shape == (batch, -(-height // stride), -(-width // stride), dim)


@pytest.mark.parametrize("image_shape", [(2, 32, 32, 3), (3, 7, 10, 1)])
def test_the_mlp_has_no_feature_map(image_shape):
    features, _ = shapes("mlp", 5, image_shape)
    assert features.logits.shape == (image_shape[0], 5)
    assert features.pooled.shape == (image_shape[0], 256)
    assert features.spatial is None


@pytest.mark.parametrize("module", [models.ResNet, models.PreActResNet])
def test_a_stage_as_wide_as_the_one_before_still_halves_the_map(module):
    model = module(3, widths=(64, 64), blocks=1)
    images = jnp.zeros((1, 8, 6, 1))
    init = functools.partial(model.init_with_output, train=False)
    features, _ = jax.eval_shape(init, jax.random.key(0), images)
    assert features.spatial.shape == (1, 4, 3, 64)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("compute_dtype", [jnp.float32, jnp.bfloat16, "bfloat16"])
def test_layers_compute_in_the_asked_dtype_and_the_rest_is_float32(name, compute_dtype):
    model = models.create(name, 10, compute_dtype=compute_dtype)
    features, variables = shapes(name, 10, (2, 8, 8, 1), compute_dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert features.logits.dtype == features.pooled.dtype == jnp.float32
    assert features.spatial is None or features.spatial.dtype == compute_dtype

    def layers(variables):
        images = jnp.zeros((2, 8, 8, 1))
        _, state = model.apply(variables, images, train=False, capture_intermediates=True)
        captured = state["intermediates"]
        assert captured.pop("head")["__call__"][0].dtype == jnp.float32
        del captured["__call__"]  # The Features themselves.
        return captured

    inner = jax.tree.leaves(jax.eval_shape(layers, variables))
    assert {leaf.dtype for leaf in inner} == {jnp.dtype(compute_dtype)}


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


# Values, against NumPy


def relu(x):
    return np.maximum(x, 0)


def conv(x, layer, stride=1):
    """Cross-correlation over an image with `size // 2` zero pixels on each side, pixel by pixel."""
    kernel = np.asarray(layer["kernel"], np.float64)
    size = kernel.shape[0]
    edge = size // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    rows = range(0, x.shape[1], stride)
    columns = range(0, x.shape[2], stride)
    out = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = padded[:, row : row + size, column : column + size]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
    return out


def norm(x, layer, running):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    if running is not None:
        mean, var = np.asarray(running["mean"]), np.asarray(running["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]


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
    if kind == "cnn":
        x = relu(norm(conv(images, params["conv1"]), params["norm1"], stats.get("norm1")))
        return relu(norm(conv(x, params["conv2"], 2), params["norm2"], stats.get("norm2")))
    x = conv(images, params["stem_conv"])
    if kind.startswith("post"):
        x = relu(norm(x, params["stem_norm"], stats.get("stem_norm")))
    block = post_block if kind.startswith("post") else pre_block
    for name, stride in (("stage1_block1", 1), ("stage2_block1", 2)):
        x = block(x, params[name], stats.get(name, {}), stride)
    if kind == "pre_norm":
        x = relu(norm(x, params["final_norm"], stats.get("final_norm")))
    return x


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "mlp"])
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


def layer_outputs(state):
    return [(name, out) for name, out in state["intermediates"].items() if name != "__call__"]


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "mlp"])
def test_pooled_is_the_float32_mean_of_the_feature_map(kind):
    images = random_images((2, 9, 6, 2))
    features = SMALL[kind].apply(random_variables(SMALL[kind], images), images, train=False)
    np.testing.assert_array_equal(features.pooled, jnp.mean(features.spatial, axis=(1, 2)))


# BatchNorm


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
    assert first_row_agrees(train=True) == (kind == "mlp")


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


# Initialisation


@functools.cache
def initial(kind):
    # Wide enough for statistics, and 16 channels in where 32 go out: the fan-in would show.
    narrow = models.ResNet(100, widths=(16, 32), blocks=1)
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


# Features


def test_features_are_a_frozen_pytree_with_or_without_a_feature_map():
    logits, pooled, spatial = jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((2, 1, 1, 4))
    for features, leaves in (
        (models.Features(logits=logits, pooled=pooled, spatial=spatial), 3),
        (models.Features(logits=logits, pooled=pooled), 2),
    ):
        doubled = jax.jit(lambda f: jax.tree.map(lambda x: 2 * x, f))(features)
        assert isinstance(doubled, models.Features)
        assert len(jax.tree.leaves(features)) == leaves
        np.testing.assert_array_equal(doubled.logits, 2 * logits)
        with pytest.raises(dataclasses.FrozenInstanceError):
            features.logits = logits


# Errors


@pytest.mark.parametrize("name", ["wrn_17_2", "wrn_4_2", "wrn_9_1"])
def test_a_depth_that_is_not_6n_plus_4_is_named(name):
    depth = name.split("_")[1]
    with pytest.raises(ValueError, match=rf"'{name}' has depth {depth}: .*6n \+ 4 \(10, 16"):
        models.create(name, 10)


@pytest.mark.parametrize("name", ["resnet19", "", "WRN_16_2", "wrn_16", "wrn_16_0", "wrn_D_W"])
def test_an_unknown_name_is_told_the_known_ones(name):
    with pytest.raises(ValueError, match=f"unknown model '{name}'") as error:
        models.create(name, 10)
    assert all(known in str(error.value) for known in models.NAMES)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"name": 18}, TypeError, "name: expected a string, found 18"),
        ({"num_classes": 0}, ValueError, "num_classes: expected at least 1, found 0"),
        ({"num_classes": 10.0}, TypeError, "num_classes: expected an integer, found 10.0"),
        ({"num_classes": True}, TypeError, "num_classes: expected an integer, found True"),
        ({"compute_dtype": jnp.float16}, ValueError, "compute_dtype: .* found float16"),
        ({"compute_dtype": jnp.int32}, ValueError, "compute_dtype: .* found int32"),
    ],
)
def test_bad_options_are_named(arguments, kind, message):
    options = {"name": "cnn", "num_classes": 10, **arguments}
    with pytest.raises(kind, match=message):
        models.create(options.pop("name"), options.pop("num_classes"), **options)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 8, 0, 3)])
def test_images_of_a_wrong_shape_are_named(name, shape):
    with pytest.raises(ValueError, match=rf"images: .*found {re.escape(str(shape))}"):
        shapes(name, 10, shape)


@pytest.mark.parametrize("name", ALL)
def test_integer_images_are_refused(name):
    model = models.create(name, 10)
    images = jnp.zeros((2, 8, 8, 3), jnp.uint8)
    with pytest.raises(TypeError, match="images: expected a floating dtype, found uint8"):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


# The same network computed in other ways


@pytest.mark.parametrize(
    "changed",
    [
        {"lowering": "phased"},
        pytest.param({"lowering": "onednn"}, marks=needs_onednn),
        {"remat": True},
        pytest.param({"lowering": "onednn", "remat": True}, marks=needs_onednn),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["post", "pre_norm"])
def test_lowerings_and_rematerialisation_change_no_value(name, changed):
    """Outputs, statistics and gradients, with hidden layers mixed as a policy does."""
    plain, images = SMALL[name], random_images()
    variables = random_variables(plain, images)
    hook = semjax.interceptor(lambda layer, x: 0.5 * (x + x[::-1]), ["stage1_block1"])

    def run(model, params, images):
        with nn.intercept_methods(hook):
            features, state = model.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
        return jnp.sum(features.logits**2), (features, state)

    def everything(model):
        value = jax.value_and_grad(functools.partial(run, model), argnums=(0, 1), has_aux=True)
        return jax.jit(value)(variables["params"], images)

    expected, found = everything(plain), everything(plain.copy(**changed))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for each, reference in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, float(jnp.abs(reference).max()))
        np.testing.assert_allclose(each, reference, rtol=0, atol=1e-4 * scale)


def test_a_network_without_blocks_has_nothing_to_compute_again():
    with pytest.raises(ValueError, match="remat: cnn has no residual blocks"):
        models.create("cnn", 10, remat=True)
