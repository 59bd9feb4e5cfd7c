"""The nine ops against Pillow, their draws against laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import stats

from semjax import pixel_ops
from semjax.pixel_ops import OPS

# Odd, non-square and one-pixel images, of 3 and of 1 channels, as Pillow knows them.
SHAPES = [(9, 21, 34, 3), (9, 17, 16, 1), (3, 1, 9, 3), (3, 1, 1, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES)
WARPS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
MANY = 8192


@jax.jit
def look_ups(images, bits, threshold):
    """The four ops that are lookups, in one compilation for every shape."""
    return {
        "autocontrast": pixel_ops.autocontrast(images),
        "equalize": pixel_ops.equalize(images),
        "posterize": pixel_ops.posterize(images, bits),
        "solarize": pixel_ops.solarize(images, threshold),
    }


@jax.jit
def warps(images, magnitudes):
    return {name: getattr(pixel_ops, name)(images, magnitudes[name]) for name in WARPS}


apply_ops = jax.jit(pixel_ops.apply_ops)
autocontrast = jax.jit(pixel_ops.autocontrast)
equalize = jax.jit(pixel_ops.equalize)


def made_images(*shape, seed=0):
    """Smooth images with noise, of various contrasts; the first is constant, the last binary."""
    rng = np.random.default_rng(seed)
    batch, height, width, channels = shape
    rows, columns = np.indices((height, width))[..., None]
    phase = rng.uniform(0, 0.5, (batch, 1, 1, channels))
    wave = np.sin(phase * rows[None]) + np.cos(phase[::-1] * columns[None])
    wave = wave + rng.normal(0, 0.4, shape)
    contrast = rng.uniform(5, 80, (batch, 1, 1, channels))
    images = np.clip(rng.uniform(60, 200, (batch, 1, 1, channels)) + contrast * wave, 0, 255)
    images[0], images[-1] = 77, np.where(images[-1] > 120, 255, 0)
    return images.astype(np.uint8)


def to_pil(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pil(image, shape):
    return np.asarray(image).reshape(shape)


def warped(image, matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


PIL_OPS = {
    "posterize": lambda x, bits: ImageOps.posterize(x, int(bits)),
    "solarize": lambda x, threshold: ImageOps.solarize(x, int(threshold)),
    "rotate": lambda x, degrees: x.rotate(float(degrees), resample=Image.Resampling.BILINEAR),
    "shear_x": lambda x, factor: warped(x, (1, float(factor), 0, 0, 1, 0)),
    "shear_y": lambda x, factor: warped(x, (1, 0, 0, float(factor), 1, 0)),
    "translate_x": lambda x, pixels: warped(x, (1, 0, float(pixels), 0, 1, 0)),
    "translate_y": lambda x, pixels: warped(x, (1, 0, 0, 0, 1, float(pixels))),
}


def with_pil(name, images, magnitudes):
    return np.stack(
        [
            from_pil(PIL_OPS[name](to_pil(x), m), x.shape)
            for x, m in zip(images, magnitudes, strict=True)
        ]
    )


def exact_autocontrast(image):
    low, high = (f(image.astype(int), (0, 1), keepdims=True) for f in (np.min, np.max))
    stretched = (image - low) * 255 // np.maximum(high - low, 1)
    return np.where(high > low, stretched, image).astype(np.uint8)


def official_op(image, name, level):
    """One op of the official code, for an image array; the sign of the level is its direction."""
    pil, height, width = to_pil(image), *image.shape[:2]
    size, level = abs(float(level)), float(level)
    if name == "autocontrast":
        return exact_autocontrast(image)
    result = {
        "equalize": lambda: ImageOps.equalize(pil),
        "posterize": lambda: ImageOps.posterize(pil, 4 - int(size * 4 / 10)),
        "solarize": lambda: ImageOps.solarize(pil, 256 - int(size * 256 / 10)),
        "rotate": lambda: PIL_OPS["rotate"](pil, int(level * 30 / 10)),
        "shear_x": lambda: PIL_OPS["shear_x"](pil, level * 0.3 / 10),
        "shear_y": lambda: PIL_OPS["shear_y"](pil, level * 0.3 / 10),
        "translate_x": lambda: PIL_OPS["translate_x"](pil, int(level * (width / 3) / 10)),
        "translate_y": lambda: PIL_OPS["translate_y"](pil, int(level * (height / 3) / 10)),
    }[name]()
    return from_pil(result, image.shape)


# The nine ops.


@each_shape
def test_look_ups_are_pillows_and_autocontrast_is_exact(shape):
    images = made_images(*shape)
    bits = np.resize([1, 2, 3, 4, 7, 8], shape[0])
    threshold = np.resize([0, 1, 100, 128, 180, 255, 256], shape[0])
    expected = {
        "autocontrast": np.stack([exact_autocontrast(x) for x in images]),
        "equalize": np.stack([from_pil(ImageOps.equalize(to_pil(x)), x.shape) for x in images]),
        "posterize": with_pil("posterize", images, bits),
        "solarize": with_pil("solarize", images, threshold),
    }
    for name, found in look_ups(images, bits, threshold).items():
        assert found.dtype == jnp.uint8
        np.testing.assert_array_equal(found, expected[name], name)


def test_bits_are_clipped():
    images, threshold = made_images(9, 21, 34, 3), np.zeros(9, int)
    found, expected = (
        look_ups(images, np.resize(bits, 9), threshold)["posterize"] for bits in ([-3, 12], [1, 8])
    )
    np.testing.assert_array_equal(found, expected)


def test_equalize_is_pillows_whatever_the_histogram():
    rng = np.random.default_rng(3)
    # Few values and many, and numbers of pixels around multiples of 255, where tables overflow.
    images = np.stack(
        [rng.choice(rng.integers(0, 256, n), (16, 32, 1)) for n in (1, 2, 3, 5, 30, 200)]
        + [np.where(np.arange(512).reshape(16, 32, 1) < n, 3, 200) for n in (254, 255, 509, 511)]
    ).astype(np.uint8)
    expected = [from_pil(ImageOps.equalize(to_pil(x)), x.shape) for x in images]
    np.testing.assert_array_equal(equalize(images), np.stack(expected))


def test_autocontrast_is_pillows_but_where_its_float_falls_short_of_a_whole_number():
    lows = [0, 1, 7, 50, 100, 180, 254]
    ranges = np.array([(low, high) for low in lows for high in range(low, 256)])
    ramps = np.clip(np.arange(256), ranges[:, :1], ranges[:, 1:]).astype(np.uint8)
    found = np.asarray(autocontrast(ramps[:, None, :, None])).reshape(ramps.shape)
    pillow = np.stack(
        [np.asarray(ImageOps.autocontrast(Image.fromarray(x[None])))[0] for x in ramps]
    )
    span = np.maximum(ranges[:, 1:] - ranges[:, :1], 1)
    short = found.astype(int) - pillow
    assert set(np.unique(short)) == {0, 1}
    whole = (ramps.astype(int) - ranges[:, :1]) * 255 % span == 0
    inside = (np.arange(256) >= ranges[:, :1]) & (np.arange(256) <= ranges[:, 1:])
    assert not short[~whole].any()
    assert short[inside].mean() < 0.01


def test_warps_are_pillows_to_one_grey_level():
    images = made_images(9, 21, 34, 3)
    choices = {
        "rotate": [-27, -9, -4, 0, 1, 5, 8, 90, 12.5],
        "shear_x": [-0.3, -0.0871, 0.0, 0.0312, 0.0557, 0.09, 0.3, 0.25],
        "shear_y": [-0.3, -0.0871, 0.0, 0.0312, 0.0557, 0.09, 0.3, 0.25],
        "translate_x": [-3.3, -0.5, 1.75, 0.1],
        "translate_y": [-3.3, -0.5, 1.75, 0.1],
    }
    magnitudes = {name: np.resize(x, 9).astype(np.float32) for name, x in choices.items()}
    for name, found in warps(images, magnitudes).items():
        expected = with_pil(name, images, magnitudes[name])
        difference = abs(np.asarray(found).astype(int) - expected)
        assert difference.max() <= 1, name
        assert difference.mean() < 0.02, name


def test_magnitudes_of_warps_may_be_integers():
    images = made_images(9, 21, 34, 3)
    magnitudes = dict.fromkeys(WARPS, np.resize([-1, 2, 0], 9))
    found = warps(images, magnitudes)
    floating = warps(images, {name: x.astype(np.float32) for name, x in magnitudes.items()})
    for name in WARPS:
        np.testing.assert_array_equal(found[name], floating[name])


@pytest.mark.parametrize("shape", [(9, 21, 34, 3), (9, 17, 16, 1)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_levels_mean_what_they_do_in_the_official_code(shape, sign):
    images = made_images(*shape)
    for level in (0.1, 1.3, 2.9, 4.7, 9.9):
        levels = np.full(9, sign * level, np.float32)
        found = np.asarray(apply_ops(images, np.arange(9), levels)).astype(int)
        for i, name in enumerate(OPS):
            difference = abs(found[i] - official_op(images[i], name, levels[i]).astype(int))
            smooth = name in ("rotate", "shear_x", "shear_y")
            assert difference.max() <= smooth, name
            assert difference.mean() < 0.02, name


def test_an_op_that_does_not_exist_leaves_an_image_as_it_is():
    images = made_images(9, 21, 34, 3)
    np.testing.assert_array_equal(
        apply_ops(images, np.resize([-1, 9], 9), np.full(9, 3, np.float32)), images
    )


def test_ops_are_the_same_to_the_last_bit_under_jit():
    images = made_images(9, 21, 34, 3)
    op, level = pixel_ops.draw_ops(jax.random.key(9), (9,), severity=9.0)
    np.testing.assert_array_equal(
        apply_ops(images, op, level), pixel_ops.apply_ops(images, op, level)
    )


# Draws.


def test_ops_and_levels_follow_their_laws():
    op, level = jax.device_get(pixel_ops.draw_ops(jax.random.key(0), (MANY, 2)))
    assert op.dtype == np.int32 and level.dtype == np.float32
    pairs = op[:, 0] * 9 + op[:, 1]
    assert stats.chisquare(np.bincount(pairs, minlength=81)).pvalue > 1e-4
    assert stats.kstest(abs(level).ravel(), stats.uniform(0.1, 2.9).cdf).pvalue > 1e-4
    assert abs((level > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(level.size)
    features = [*op.T, *abs(level).T, *np.sign(level).T]
    correlation = np.corrcoef(np.stack(features)) - np.eye(6)
    assert abs(correlation).max() < 4.5 / np.sqrt(len(op))


def test_severity_may_be_traced():
    def levels(severity):
        return pixel_ops.draw_ops(jax.random.key(0), (MANY, 2), severity=severity)[1]

    found = jax.jit(levels)(9.0)
    assert float(jnp.abs(found).max()) > 8.9
    np.testing.assert_allclose(found, levels(9.0))


OK = np.zeros((2, 4, 3, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: pixel_ops.draw_ops(jax.random.key(0), (2,), severity=0.1),
            ValueError,
            "severity.*found 0.1",
        ),
        (
            lambda: pixel_ops.draw_ops(jax.random.key(0), (2,), severity=11),
            ValueError,
            "severity.*found 11",
        ),
        (
            lambda: pixel_ops.draw_ops(jax.random.key(0), (2,), severity=np.ones(2)),
            ValueError,
            "severity.*scalar",
        ),
        (lambda: pixel_ops.equalize(OK / 255), TypeError, "images must be uint8; found float"),
        (lambda: pixel_ops.autocontrast(OK[0]), ValueError, "images"),
        (lambda: pixel_ops.posterize(OK, np.ones(2)), TypeError, "bits must be integer.*float"),
        (lambda: pixel_ops.posterize(OK, 4), ValueError, r"bits.*\(2,\).*\(\)"),
        (lambda: pixel_ops.solarize(OK, np.ones(2)), TypeError, "threshold.*float"),
        (lambda: pixel_ops.rotate(OK, np.ones(3)), ValueError, r"degrees.*\(2,\).*\(3,\)"),
        (lambda: pixel_ops.rotate(OK, np.ones(2, bool)), TypeError, "degrees.*bool"),
        (lambda: pixel_ops.shear_x(OK, 0.1), ValueError, "factor"),
        (lambda: pixel_ops.shear_y(OK, np.ones(2, complex)), TypeError, "factor.*complex"),
        (lambda: pixel_ops.translate_x(OK, np.ones((2, 1))), ValueError, "pixels"),
        (lambda: pixel_ops.translate_y(OK, np.ones(2, bool)), TypeError, "pixels.*bool"),
        (lambda: pixel_ops.apply_ops(OK, np.ones(2), np.ones(2)), TypeError, "op must.*float"),
        (
            lambda: pixel_ops.apply_ops(OK, np.ones(2, int), np.ones(2, int)),
            TypeError,
            "level must be floating",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
