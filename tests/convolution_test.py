"""Every lowering of a convolution against a loop over the taps in float64, odd shapes too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.layers import convolution, onednn
from experiments.layers.convolution import Conv, choose, convolve

needs_onednn = pytest.mark.skipif(onednn.unavailable() is not None, reason="oneDNN not installed")
LOWERINGS = ["xla", "phased", pytest.param("onednn", marks=needs_onednn)]

# Images, kernel, stride, padding: what the networks use, and odd sizes that they do not.
SHAPES = [
    ((2, 8, 8, 16), (3, 3, 16, 32), 1, 1),
    ((2, 8, 8, 16), (3, 3, 16, 32), 2, 1),
    ((3, 7, 5, 3), (3, 3, 3, 5), 2, 1),
    ((1, 9, 10, 2), (3, 3, 2, 3), 3, 0),
    ((2, 6, 7, 4), (1, 1, 4, 6), 2, 0),
    ((2, 5, 4, 1), (5, 3, 1, 2), 2, 2),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0),
]


def by_taps(images, kernel, stride, padding, gradient=None):
    """Output, or the two gradients for a gradient of the output, in float64."""
    images, kernel = np.float64(images), np.float64(kernel)
    padded = np.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    height = (padded.shape[1] - kernel.shape[0]) // stride + 1
    width = (padded.shape[2] - kernel.shape[1]) // stride + 1
    output = np.zeros((images.shape[0], height, width, kernel.shape[3]))
    to_images, to_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            window = (
                slice(None),
                slice(row, row + stride * (height - 1) + 1, stride),
                slice(column, column + stride * (width - 1) + 1, stride),
            )
            output += padded[window] @ kernel[row, column]
            if gradient is not None:
                to_images[window] += np.float64(gradient) @ kernel[row, column].T
                to_kernel[row, column] = np.einsum("nhwc,nhwo->co", padded[window], gradient)
    if gradient is None:
        return output
    inside = slice(padding, -padding or None)
    return to_images[:, inside, inside], to_kernel


def values(shape, seed, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def gap(found, expected):
    """Largest difference in units of the largest value."""
    return np.abs(np.float64(found) - expected).max() / max(np.abs(expected).max(), 1e-9)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("images", "kernel", "stride", "padding", "dtype"),
    [(*shape, jnp.float32) for shape in SHAPES] + [(*shape, jnp.bfloat16) for shape in SHAPES[1:3]],
)
def test_output_and_both_gradients_are_those_of_the_definition(
    lowering, images, kernel, stride, padding, dtype
):
    x, w = values(images, 0, dtype), values(kernel, 1)
    rounded = w.astype(dtype).astype(jnp.float32)

    def run(x, w):
        return convolve(x, w, stride=stride, padding=padding, lowering=lowering)

    output, pull = jax.vjp(jax.jit(run), x, w)
    gradient = values(output.shape, 2, dtype)
    to_images, to_kernel = pull(gradient)
    assert (output.dtype, to_images.dtype, to_kernel.dtype) == (dtype, dtype, jnp.float32)

    bound = 2e-6 if dtype == jnp.float32 else 1e-2
    wide = gradient.astype(jnp.float32)
    expected = by_taps(x.astype(jnp.float32), rounded, stride, padding, wide)
    assert gap(output, by_taps(x.astype(jnp.float32), rounded, stride, padding)) < bound
    assert gap(to_images, expected[0]) < bound
    assert gap(to_kernel, expected[1]) < bound


def test_a_kernel_gradient_of_bfloat16_images_is_not_rounded_to_bfloat16():
    if onednn.unavailable():
        pytest.skip("oneDNN not installed")
    x, w = values((2, 8, 8, 8), 0, jnp.bfloat16), values((3, 3, 8, 8), 1)
    gradient = jax.grad(lambda w: convolve(x, w, padding=1, lowering="onednn").sum())(w)
    assert (gradient != gradient.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.5


@needs_onednn
def test_onednn_is_the_same_under_jit_vmap_scan_and_rematerialisation():
    x, w = values((3, 2, 6, 6, 4), 0), values((3, 3, 4, 4), 1)

    def loss(x, w):
        return jnp.sum(convolve(x, w, stride=2, padding=1, lowering="onednn") ** 2)

    one_by_one = jnp.stack([jax.grad(loss, argnums=1)(each, w) for each in x])
    of_all = jax.jit(jax.vmap(jax.grad(loss, argnums=1), in_axes=(0, None)))(x, w)
    again = jax.jit(jax.grad(jax.checkpoint(loss), argnums=1))(x[0], w)
    _, scanned = jax.lax.scan(lambda _, x: (None, jax.grad(loss, argnums=1)(x, w)), None, x)
    for found, expected in ((of_all, one_by_one), (scanned, one_by_one), (again, one_by_one[0])):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_only_gradients_that_are_asked_for_are_computed():
    def loss(x, w):
        return convolve(x, w, padding=1, lowering="onednn").sum()

    def calls(argument):
        gradient = jax.jit(jax.grad(loss, argnums=argument))
        text = gradient.lower(jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))).compile().as_text()
        return {kind for kind in ("input_gradient", "kernel_gradient") if f"onednn_{kind}" in text}

    assert calls(0) == {"input_gradient"}
    assert calls(1) == {"kernel_gradient"}
    assert calls((0, 1)) == {"input_gradient", "kernel_gradient"}


def test_the_module_is_linens_parameters_and_values():
    x, key = values((2, 5, 5, 3), 0), jax.random.key(3)
    init = nn.initializers.lecun_normal()
    ours = Conv(4, 3, 2, kernel_init=init, dtype=jnp.float32, lowering="phased", name="layer")
    linen = nn.Conv(
        4, (3, 3), 2, padding=((1, 1), (1, 1)), use_bias=False, kernel_init=init, name="layer"
    )
    variables = ours.init(key, x)
    for found, expected in zip(
        jax.tree.leaves_with_path(variables),
        jax.tree.leaves_with_path(linen.init(key, x)),
        strict=True,
    ):
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(ours.apply(variables, x), linen.apply(variables, x), rtol=1e-5)


def test_choose_says_why_onednn_is_out_of_reach(monkeypatch):
    assert choose("xla", platform="cpu", devices=1) == "xla"
    assert choose("auto", platform="tpu", devices=1) == "xla"
    assert choose("auto", platform="cpu", devices=2) == "phased"
    with pytest.raises(ValueError, match="for CPUs, and this program runs on gpu"):
        choose("onednn", platform="gpu", devices=1)
    with pytest.raises(ValueError, match="arrays of one device, and this program has 8"):
        choose("onednn", platform="cpu", devices=8)
    with pytest.raises(ValueError, match="must be one of auto, xla, phased, onednn; found 'fast'"):
        choose("fast", platform="cpu", devices=1)
    monkeypatch.setattr(convolution.onednn, "unavailable", lambda: "not here")
    assert choose("auto", platform="cpu", devices=1) == "phased"
    with pytest.raises(ValueError, match="cannot be used: not here"):
        choose("onednn", platform="cpu", devices=1)
    monkeypatch.setattr(convolution.onednn, "unavailable", lambda: None)
    assert choose("auto", platform="cpu", devices=1) == "onednn"


def test_phases_are_dense_convolutions():
    def gradient(lowering):
        def loss(x, w):
            return convolve(x, w, stride=2, padding=1, lowering=lowering).sum()

        return jax.jit(jax.grad(loss)).lower(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 4)))

    assert "lhs_dilate = [2, 2]" in gradient("xla").as_text()
    assert "lhs_dilate = [2, 2]" not in gradient("phased").as_text()
