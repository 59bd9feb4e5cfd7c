"""The vision transformer against NumPy in float64, and what its parts promise."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_reference import random_images, random_variables

from experiments import program, sharding
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.layers.convolution import convolve
from experiments.networks.vit import Attention, TransformerBlock, ViT

TINY = ViT(3, patch=2, width=8, depth=2, heads=2, mlp_width=12)


def wide(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def dense(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def layer_norm(x, layer):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, params, heads):
    """Row by row, head by head and token by token."""
    query, key, value = (dense(x, params[name]) for name in ("query", "key", "value"))
    y, size = np.zeros_like(x), x.shape[-1] // heads
    for row in range(len(x)):
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            for token in range(x.shape[1]):
                score = key[row, :, part] @ query[row, token, part] / np.sqrt(size)
                share = np.exp(score - score.max())
                y[row, token, part] = share / share.sum() @ value[row, :, part]
    return dense(y, params["out"])


def block(x, params, heads):
    x = x + attention(layer_norm(x, params["norm1"]), params["attention"], heads)
    y = gelu(dense(layer_norm(x, params["norm2"]), params["dense1"]))
    return x + dense(y, params["dense2"])


def drawn(module, *args):
    """Variables with every leaf random, and what the module makes of the arguments with them."""
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args))
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), shapes
    )
    return wide(variables["params"]), jax.jit(lambda v: module.apply(v, *args))(variables)


def test_attention_matches_numpy():
    x = random_images((2, 5, 12))
    params, found = drawn(Attention(3, jnp.float32), x)
    np.testing.assert_allclose(found, attention(wide(x), params, 3), rtol=1e-4, atol=1e-4)


def test_a_block_matches_numpy():
    x = random_images((2, 5, 12))
    params, found = drawn(TransformerBlock(3, 7, jnp.float32), x, False)
    np.testing.assert_allclose(found, block(wide(x), params, 3), rtol=1e-4, atol=1e-4)


def test_forward_pass_matches_numpy():
    images = random_images((3, 4, 6, 2))
    variables = random_variables(TINY, images)
    apply = jax.jit(functools.partial(TINY.apply, train=True))
    features = apply(variables, images)

    params = wide(variables["params"])
    x = wide(images).reshape(3, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 6, 8)
    x = dense(x, params["embedding"])
    token = np.repeat(params["class_token"], 3, axis=0)
    x = np.concatenate([token, x], axis=1) + params["positions"]
    for name in ("block1", "block2"):
        x = block(x, params[name], 2)
    x = layer_norm(x, params["final_norm"])
    logits = dense(x[:, 0], params["head"])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(features.pooled, x[:, 0])
    close(features.spatial, x[:, 1:].reshape(3, 2, 3, 8))
    close(features.logits, logits)


def test_a_patch_is_embedded_as_by_the_strided_convolution_of_the_paper():
    images = random_images((2, 4, 6, 3))
    model = ViT(3, patch=2, width=5, depth=0, heads=1, mlp_width=1)
    variables = random_variables(model, images)
    embedding = variables["params"]["embedding"]
    kernel = embedding["kernel"].reshape(2, 2, 3, 5)
    expected = convolve(images, kernel, stride=2) + embedding["bias"][None, None, None]
    _, state = model.apply(variables, images, train=False, capture_intermediates=True)
    found = state["intermediates"]["embedding"]["__call__"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_attention_sums_and_takes_the_softmax_in_float32():
    x, module = jnp.ones((2, 5, 4), jnp.bfloat16), Attention(2, jnp.bfloat16)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    program = str(jax.make_jaxpr(module.apply)(variables, x))
    assert re.findall(r":(\w+)\[[\d,]*\] = exp", program) == ["f32"]
    # The four dense layers are bfloat16 with outputs [2,5,4], the products of attention [2,2,5,*].
    products = re.findall(r":(\w+)\[([\d,]*)\] = dot_general", program)
    assert sorted(kind for kind, shape in products if shape.startswith("2,2,")) == ["f32", "f32"]
    assert [kind for kind, shape in products if shape == "2,5,4"] == 4 * ["bf16"]
    assert jax.eval_shape(module.apply, variables, x).dtype == jnp.bfloat16


def test_it_starts_as_the_published_code_does():
    model = ViT(7, patch=4, width=64, depth=1, heads=2, mlp_width=256)
    init = jax.jit(lambda key: model.init(key, jnp.zeros((1, 16, 16, 3)), train=False)["params"])
    params = jax.tree.map(np.asarray, init(jax.random.key(0)))
    assert not params["head"]["kernel"].any() and not params["class_token"].any()
    assert params["positions"].std() == pytest.approx(0.02, rel=0.1)
    assert params["embedding"]["kernel"].std() == pytest.approx(1 / np.sqrt(48), rel=0.1)
    assert 0 < np.abs(params["block1"]["dense1"]["bias"]).max() < 1e-5
    for name in ("query", "key", "value", "out"):
        kernel = params["block1"]["attention"][name]["kernel"]
        assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / 128), rel=0.02)


def test_the_positions_belong_to_one_size_of_images():
    variables = random_variables(TINY, random_images((1, 4, 6, 2)))
    with pytest.raises(Exception, match="positions"):
        TINY.apply(variables, random_images((1, 6, 6, 2)), train=False)


def test_the_sides_of_an_image_are_multiples_of_the_patch():
    found = "images: sides must be multiples of 2, the side of a patch; found 4x5"
    with pytest.raises(ValueError, match=found):
        jax.eval_shape(lambda: TINY.init(jax.random.key(0), jnp.zeros((1, 4, 5, 3)), train=False))


def test_a_run_of_images_that_cannot_be_cut_is_refused_by_its_flags():
    found = r"--model=vit_s_16: images: sides must be multiples of 16, .* found 8x8; --image_size"
    with pytest.raises(ConfigError, match=found):
        program.state_template(Config(model="vit_s_16"), (8, 8, 1), 10, sharding.make_mesh())
