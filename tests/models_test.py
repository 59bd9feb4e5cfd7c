"""The networks by name: published parameter counts, shapes, dtypes and errors.

All of it comes from `jax.eval_shape`, so the large networks cost nothing here. Their numbers are
checked where the networks are, on the same modules made a few channels wide.
"""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from network_reference import count

from experiments import models

ALL = ("resnet18", "preact_resnet18", "resnet20", "wrn_16_2", "resnet50", "vit_s_16", "cnn", "mlp")
CONVOLUTIONAL = [name for name in ALL if name not in ("vit_s_16", "mlp")]


@functools.cache
def shapes(name, num_classes=10, image_shape=(2, 32, 32, 3), compute_dtype=jnp.float32):
    """Abstract `(features, variables)` of a network; runs nothing."""
    model = models.create(name, num_classes, compute_dtype=compute_dtype)
    images = jnp.zeros(image_shape)
    return jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, train=False))


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


def resnet50_count(classes):
    total, n_in = conv_norm(3, 64, size=7), 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            total += conv_norm(n_in, width, 1) + conv_norm(width, width)
            total += conv_norm(width, 4 * width, 1)
            total += conv_norm(n_in, 4 * width, 1) if block == 0 else 0
            n_in = 4 * width
    return total + (n_in + 1) * classes


def vit_count(classes, width=384, depth=12, mlp=1536, patch=16, cells=14 * 14):
    block = 4 * (width + 1) * width + (width + 1) * mlp + (mlp + 1) * width + 4 * width
    embedding = (3 * patch**2 + 1) * width + width + (cells + 1) * width
    return embedding + depth * block + 2 * width + (width + 1) * classes


COUNTS = [
    ("resnet18", 10, 11_173_962, resnet18_count(10)),
    ("resnet18", 100, 11_220_132, resnet18_count(100)),
    ("preact_resnet18", 10, 11_171_146, preact_resnet18_count(10)),
    ("resnet20", 10, 269_722, resnet20_count(10)),
    ("wrn_16_2", 10, 691_674, wrn_count(16, 2, 10)),
    ("wrn_40_2", 10, 2_243_546, wrn_count(40, 2, 10)),
    ("wrn_28_10", 10, 36_479_194, wrn_count(28, 10, 10)),
    ("resnet50", 1000, 25_557_032, resnet50_count(1000)),
    ("vit_s_16", 1000, 22_050_664, vit_count(1000)),
]


@pytest.mark.parametrize(("name", "classes", "published", "counted"), COUNTS)
def test_parameter_count_is_the_published_one(name, classes, published, counted):
    image_shape = (2, 224, 224, 3) if classes == 1000 else (2, 32, 32, 3)
    _, variables = shapes(name, classes, image_shape)
    assert count(variables["params"]) == published == counted


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (22, 3)])
def test_wide_resnets_of_any_depth_and_width_have_the_counted_parameters(depth, width):
    _, variables = shapes(f"wrn_{depth}_{width}", 7)
    assert count(variables["params"]) == wrn_count(depth, width, 7)


def test_the_cnn_stays_small():
    assert count(shapes("cnn")[1]["params"]) <= 100_000


def test_two_networks_have_no_batch_statistics():
    without = [name for name in ALL if "batch_stats" not in shapes(name)[1]]
    assert without == ["vit_s_16", "mlp"]


# Shapes and dtypes


STRIDE = {
    "resnet18": 8,
    "preact_resnet18": 8,
    "resnet20": 4,
    "wrn_16_2": 4,
    "resnet50": 32,
    "cnn": 4,
}
DIMENSION = {
    "resnet18": 512,
    "preact_resnet18": 512,
    "resnet20": 64,
    "wrn_16_2": 128,
    "resnet50": 2048,
    "cnn": 96,
}


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


@pytest.mark.parametrize("image_shape", [(2, 32, 48, 3), (1, 16, 16, 1)])
def test_the_vision_transformer_has_one_cell_a_patch(image_shape):
    batch, height, width, _ = image_shape
    features, variables = shapes("vit_s_16", 5, image_shape)
    assert features.logits.shape == (batch, 5)
    assert features.pooled.shape == (batch, 384)
    assert features.spatial.shape == (batch, height // 16, width // 16, 384)
    cells = (height // 16) * (width // 16)
    assert variables["params"]["positions"].shape == (1, 1 + cells, 384)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("compute_dtype", [jnp.float32, jnp.bfloat16, "bfloat16"])
def test_layers_compute_in_the_asked_dtype_and_the_rest_is_float32(name, compute_dtype):
    model = models.create(name, 10, compute_dtype=compute_dtype)
    features, variables = shapes(name, 10, (2, 16, 16, 1), compute_dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert features.logits.dtype == features.pooled.dtype == jnp.float32
    assert features.spatial is None or features.spatial.dtype == compute_dtype

    def layers(variables):
        images = jnp.zeros((2, 16, 16, 1))
        _, state = model.apply(variables, images, train=False, capture_intermediates=True)
        captured = state["intermediates"]
        assert captured.pop("head")["__call__"][0].dtype == jnp.float32
        del captured["__call__"]  # The Features themselves.
        return captured

    inner = jax.tree.leaves(jax.eval_shape(layers, variables))
    assert {leaf.dtype for leaf in inner} == {jnp.dtype(compute_dtype)}


@pytest.mark.parametrize("name", ALL)
def test_hidden_modules_are_modules_of_the_network_in_its_order(name):
    modules = models.hidden_modules(name)
    assert set(modules) <= set(shapes(name)[1]["params"])
    assert len(modules) == {"resnet50": 4, "vit_s_16": 4, "mlp": 2}.get(name, len(modules)) >= 2
    numbers = [[int(number) for number in re.findall(r"[0-9]+", module)] for module in modules]
    assert numbers == sorted(numbers)


# Errors


@pytest.mark.parametrize("name", ["wrn_17_2", "wrn_4_2", "wrn_9_1"])
def test_a_depth_that_is_not_6n_plus_4_is_named(name):
    depth = name.split("_")[1]
    with pytest.raises(ValueError, match=rf"'{name}' has depth {depth}: .*6n \+ 4 \(10, 16"):
        models.create(name, 10)


@pytest.mark.parametrize(
    "name", ["resnet19", "", "WRN_16_2", "wrn_16", "wrn_16_0", "wrn_D_W", "vit_b_16"]
)
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
def test_every_network_refuses_images_that_are_none(name):
    with pytest.raises(ValueError, match=r"images: .*found \(8, 8, 3\)"):
        shapes(name, 10, (8, 8, 3))
    model = models.create(name, 10)
    with pytest.raises(TypeError, match="images: expected a floating dtype, found uint8"):
        jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((2, 8, 8, 3), jnp.uint8), train=False)
        )


def test_only_the_vision_transformer_asks_for_a_size():
    for name in ALL:
        models.check_image(name, (32, 48, 3))
        if name != "vit_s_16":
            models.check_image(name, (7, 1, 3))
    for shape in ((40, 32, 3), (32, 8, 1)):
        found = f"multiples of 16, the side of a patch; found {shape[0]}x{shape[1]}"
        with pytest.raises(ValueError, match=found):
            models.check_image("vit_s_16", shape)
        with pytest.raises(ValueError, match=found):
            shapes("vit_s_16", 10, (1, *shape))


def test_a_network_without_blocks_has_nothing_to_compute_again():
    with pytest.raises(ValueError, match="remat: cnn has no residual blocks"):
        models.create("cnn", 10, remat=True)
