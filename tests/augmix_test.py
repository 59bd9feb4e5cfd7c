"""AugMix's ops against Pillow, its chains against the official loop, its draws against laws."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import stats

from semjax import augmix
from semjax.augmix import OPS

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter")
# Odd, non-square and one-pixel images, of 3 and of 1 channels, as Pillow knows them.
SHAPES = [(9, 21, 34, 3), (9, 17, 16, 1), (3, 1, 9, 3), (3, 1, 1, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES)
# Shared by the tests: one compilation for every shape.
apply_ops = jax.jit(augmix.apply_ops)
apply = jax.jit(augmix.apply_augmix)
draw = augmix.draw_augmix
MANY = 8192


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


def made_draw(seed, rows=64, **options):
    """The first rows of a draw for 64, since drawing compiles anew for every number of rows."""
    drawn = draw(jax.random.key(seed), 64, **options)
    return jax.tree.map(lambda x: x[:rows], drawn)


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


def reference_augmix(drawn, images):
    """The official loop: image by image, chain by chain, in Pillow and float64."""
    d = jax.device_get(drawn)
    out = []
    for i, image in enumerate(images):
        total = np.zeros(image.shape)
        for j, weight in enumerate(d.chain_weight[i]):
            chain = image
            for op, level in list(zip(d.op[i, j], d.level[i, j], strict=True))[: d.depth[i, j]]:
                chain = official_op(chain, OPS[op], level)
            total += weight * (chain / 255)
        share = d.mix_weight[i]
        out.append((1 - share) * (image / 255) + share * total)
    return np.stack(out)


# The nine ops.


@each_shape
@pytest.mark.parametrize("name", ["posterize", "solarize"])
def test_bits_and_thresholds_are_pillows(name, shape):
    images = made_images(*shape)
    choices = [1, 2, 3, 4, 7, 8] if name == "posterize" else [0, 1, 100, 128, 180, 255, 256]
    magnitudes = np.resize(choices, shape[0])
    found = getattr(augmix, name)(images, magnitudes)
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, with_pil(name, images, magnitudes))


def test_bits_are_clipped():
    images = made_images(2, 5, 4, 3)
    found = augmix.posterize(images, np.array([-3, 12]))
    np.testing.assert_array_equal(found, augmix.posterize(images, np.array([1, 8])))


@each_shape
def test_equalize_is_pillows(shape):
    images = made_images(*shape)
    expected = [from_pil(ImageOps.equalize(to_pil(x)), x.shape) for x in images]
    np.testing.assert_array_equal(augmix.equalize(images), np.stack(expected))


def test_equalize_is_pillows_whatever_the_histogram():
    rng = np.random.default_rng(3)
    # Few values and many, and numbers of pixels around multiples of 255, where tables overflow.
    images = np.stack(
        [rng.choice(rng.integers(0, 256, n), (16, 32, 1)) for n in (1, 2, 3, 5, 30, 200)]
        + [np.where(np.arange(512).reshape(16, 32, 1) < n, 3, 200) for n in (254, 255, 509, 511)]
    ).astype(np.uint8)
    expected = [from_pil(ImageOps.equalize(to_pil(x)), x.shape) for x in images]
    np.testing.assert_array_equal(augmix.equalize(images), np.stack(expected))


@each_shape
def test_autocontrast_is_exact(shape):
    images = made_images(*shape)
    expected = [exact_autocontrast(x) for x in images]
    np.testing.assert_array_equal(augmix.autocontrast(images), np.stack(expected))


def test_autocontrast_is_pillows_but_where_its_float_falls_short_of_a_whole_number():
    lows = [0, 1, 7, 50, 100, 180, 254]
    ranges = np.array([(low, high) for low in lows for high in range(low, 256)])
    ramps = np.clip(np.arange(256), ranges[:, :1], ranges[:, 1:]).astype(np.uint8)
    found = np.asarray(augmix.autocontrast(ramps[:, None, :, None])).reshape(ramps.shape)
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


@each_shape
@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("rotate", [-27, -9, -4, 0, 1, 5, 8, 90, 12.5]),
        ("shear_x", [-0.3, -0.0871, 0.0, 0.0312, 0.0557, 0.09, 0.3, 0.25]),
        ("shear_y", [-0.3, -0.0871, 0.0, 0.0312, 0.0557, 0.09, 0.3, 0.25]),
        ("translate_x", [-3.3, -0.5, 1.75, 0.1]),
        ("translate_y", [-3.3, -0.5, 1.75, 0.1]),
    ],
)
def test_warps_are_pillows_to_one_grey_level(name, choices, shape):
    images, magnitudes = made_images(*shape), np.resize(choices, shape[0]).astype(np.float32)
    found = np.asarray(getattr(augmix, name)(images, magnitudes)).astype(int)
    difference = abs(found - with_pil(name, images, magnitudes))
    # Pillow computes places in float64, this library to 2^-14 of a pixel; both floor the result.
    assert difference.max() <= 1
    assert difference.mean() < 0.02


@each_shape
@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_whole_translations_are_pillows_exactly(name, shape):
    images, pixels = made_images(*shape), np.resize([-40, -3, 0, 1, 2, 5], shape[0])
    found = getattr(augmix, name)(images, pixels)
    np.testing.assert_array_equal(found, with_pil(name, images, pixels))


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_a_warp_of_zero_is_the_identity(name):
    images = made_images(4, 11, 6, 2)
    np.testing.assert_array_equal(getattr(augmix, name)(images, np.zeros(4)), images)


@pytest.mark.parametrize("name", ["shear_x", "shear_y"])
def test_shears_are_clipped(name):
    images, op = made_images(2, 11, 6, 2), getattr(augmix, name)
    found = op(images, np.array([-1e9, 7.0]))
    np.testing.assert_array_equal(found, op(images, np.array([-1.0, 1.0])))


def test_large_images_do_not_overflow():
    # Smooth, for places are less precise here; and some pixels fall on the other side of the edge.
    rows, columns = np.indices((500, 900))
    image = (128 + 100 * np.sin(rows / 40) * np.cos(columns / 50)).astype(np.uint8)[None, ..., None]
    difference = abs(
        np.asarray(augmix.rotate(image, np.array([8]))).astype(int)
        - with_pil("rotate", image, [8]).astype(int)
    )
    assert (difference > 1).mean() < 1e-4
    assert difference.mean() < 0.05


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


# Chains.


def test_chains_of_exact_ops_are_those_of_the_official_loop():
    images = made_images(64, 19, 20, 3)
    drawn = made_draw(1)
    exact = [OPS.index(x) for x in ("autocontrast", "equalize", "posterize", "solarize")]
    exact += [OPS.index(x) for x in ("translate_x", "translate_y")]
    drawn = dataclasses.replace(drawn, op=jnp.asarray(exact)[drawn.op % 6])
    expected = reference_augmix(drawn, images)
    assert abs(expected - images / 255).mean() > 0.05
    np.testing.assert_allclose(apply(drawn, images), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 19, 20, 3), (6, 5, 8, 1), (5, 1, 1, 1)])
def test_chains_of_all_ops_are_those_of_the_official_loop(shape):
    images = made_images(*shape)
    drawn = made_draw(2, shape[0], severity=6.0)
    difference = abs(np.asarray(apply(drawn, images)) - reference_augmix(drawn, images))
    # Where a warp is off by one grey level, an op that follows may make more of it.
    assert (difference < 1.5 / 255).mean() > 0.99
    assert difference.mean() < 0.1 / 255


def test_floating_images_are_rounded_for_the_chains_only():
    images = made_images(64, 19, 20, 3)
    between = np.clip(images / 255 + np.random.default_rng(0).uniform(-0.4, 0.4) / 255, 0, 1)
    between = between.astype(np.float32)
    drawn = made_draw(3)
    found, whole = np.asarray(apply(drawn, between)), np.asarray(apply(drawn, images))
    share = 1 - np.asarray(drawn.mix_weight)[:, None, None, None]
    np.testing.assert_allclose(found - whole, share * (between - images / 255), atol=1e-6)


@pytest.mark.parametrize("floating", [False, True])
def test_a_share_of_zero_gives_the_image_back(floating):
    images = made_images(64, 19, 20, 3)
    images = np.sqrt(images / 255).astype(np.float32) if floating else images
    drawn = dataclasses.replace(made_draw(4), mix_weight=jnp.zeros(64))
    expected = images if floating else images.astype(np.float32) / 255
    np.testing.assert_allclose(apply(drawn, images), expected, rtol=1.2e-7)


def test_one_chain_of_one_op_and_a_share_of_one_is_the_op():
    images = made_images(9, 21, 34, 3)
    drawn = jax.tree.map(lambda x: x[:, :1] if x.ndim > 1 else x, made_draw(5, 9))
    drawn = dataclasses.replace(
        drawn,
        depth=jnp.ones((9, 1), jnp.int32),
        chain_weight=jnp.ones((9, 1)),
        mix_weight=jnp.ones(9),
    )
    expected = np.asarray(apply_ops(images, drawn.op[:, 0, 0], drawn.level[:, 0, 0]))
    np.testing.assert_allclose(apply(drawn, images), expected / 255, atol=1e-6)


def test_results_stay_in_range():
    images = np.random.default_rng(0).uniform(-0.5, 1.5, (64, 19, 20, 3)).astype(np.float32)
    images[0], images[1] = 1, 0
    found = np.asarray(apply(made_draw(6), images))
    assert found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1


def test_a_row_does_not_depend_on_the_other_rows():
    images, drawn = made_images(64, 19, 20, 3), made_draw(7)
    changed = made_images(64, 19, 20, 3, seed=1)
    changed[5] = images[5]
    np.testing.assert_array_equal(apply(drawn, images)[5], apply(drawn, changed)[5])


def test_augmix_applies_what_it_draws_and_leaves_its_input():
    images = made_images(64, 19, 20, 3)
    before = images.copy()
    options = {"severity": 5.0, "width": 2, "depth": 5, "alpha": 2.0}
    found = augmix.augmix(jax.random.key(8), images, **options)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_allclose(found, apply(made_draw(8, **options), images), atol=1e-6)
    default = augmix.augmix(jax.random.key(8), images)
    drawn = made_draw(8, severity=3.0, width=3, depth=-1, alpha=1.0)
    np.testing.assert_allclose(default, apply(drawn, images), atol=1e-6)


def test_ops_are_the_same_to_the_last_bit_under_jit():
    images = made_images(9, 21, 34, 3)
    op, level = augmix.draw_ops(jax.random.key(9), (9,), severity=9.0)
    np.testing.assert_array_equal(apply_ops(images, op, level), augmix.apply_ops(images, op, level))


def test_an_empty_batch_stays_empty():
    images = np.zeros((0, 4, 3, 1), np.uint8)
    assert augmix.augmix(jax.random.key(0), images).shape == images.shape


def test_a_sharded_batch_is_augmented_where_it_lies():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("data"))
    images, drawn = made_images(64, 19, 20, 3), made_draw(3)
    step = jax.jit(augmix.apply_augmix, in_shardings=(sharded, sharded), out_shardings=sharded)
    compiled = step.lower(drawn, images).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    found = compiled(*jax.device_put((drawn, images), sharded))
    np.testing.assert_allclose(found, apply(drawn, images), atol=1e-6)


# Draws.


def test_ops_and_levels_follow_their_laws():
    op, level = jax.device_get(augmix.draw_ops(jax.random.key(0), (MANY, 2)))
    assert op.dtype == np.int32 and level.dtype == np.float32
    pairs = op[:, 0] * 9 + op[:, 1]
    assert stats.chisquare(np.bincount(pairs, minlength=81)).pvalue > 1e-4
    assert stats.kstest(abs(level).ravel(), stats.uniform(0.1, 2.9).cdf).pvalue > 1e-4
    assert abs((level > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(level.size)
    features = [*op.T, *abs(level).T, *np.sign(level).T]
    correlation = np.corrcoef(np.stack(features)) - np.eye(6)
    assert abs(correlation).max() < 4.5 / np.sqrt(len(op))


def test_weights_and_depths_follow_their_laws():
    drawn = jax.device_get(draw(jax.random.key(1), MANY))
    assert drawn.op.shape == drawn.level.shape == (MANY, 3, 3)
    depths = (drawn.depth - 1) @ np.array([9, 3, 1])
    assert stats.chisquare(np.bincount(depths, minlength=27)).pvalue > 1e-4
    np.testing.assert_allclose(drawn.chain_weight.sum(1), 1, atol=1e-6)
    for weight in drawn.chain_weight.T:  # the marginal of Dirichlet(1, 1, 1)
        assert stats.kstest(weight, stats.beta(1, 2).cdf).pvalue > 1e-4
    assert stats.kstest(drawn.mix_weight, stats.uniform.cdf).pvalue > 1e-4
    features = [*drawn.depth.T, *drawn.chain_weight[:, :1].T, drawn.mix_weight, drawn.op[:, 0, 0]]
    correlation = np.corrcoef(np.stack(features)) - np.eye(6)
    assert abs(correlation).max() < 4.5 / np.sqrt(MANY)


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_alpha_is_the_parameter_of_both_laws(alpha):
    drawn = jax.device_get(draw(jax.random.key(2), MANY, alpha=alpha))
    assert stats.kstest(drawn.mix_weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    law = stats.beta(alpha, 2 * alpha)
    assert stats.kstest(drawn.chain_weight[:, 1], law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 100.0])
def test_weights_are_finite_for_any_alpha(alpha):
    drawn = draw(jax.random.key(3), MANY, alpha=alpha)
    assert np.isfinite(drawn.chain_weight).all() and np.isfinite(drawn.mix_weight).all()


def test_options_change_their_own_draw_and_no_other():
    first = draw(jax.random.key(4), 64)
    other = draw(jax.random.key(4), 64, severity=10.0, alpha=0.3)
    for field in dataclasses.fields(first):
        same = np.array_equal(getattr(first, field.name), getattr(other, field.name))
        assert same == (field.name not in ("level", "chain_weight", "mix_weight")), field.name
    assert float(jnp.abs(other.level).max()) > 9 and float(jnp.abs(first.level).max()) <= 3
    fixed = draw(jax.random.key(4), 64, width=2, depth=5)
    assert fixed.op.shape == (64, 2, 5)
    np.testing.assert_array_equal(fixed.depth, np.full((64, 2), 5))


def test_the_key_is_what_is_random():
    first, again, other = (draw(jax.random.key(seed), 64) for seed in (0, 0, 1))
    for field in dataclasses.fields(first):
        a, b, c = (np.asarray(getattr(x, field.name)) for x in (first, again, other))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_severity_may_be_traced():
    level = jax.jit(lambda s: augmix.draw_ops(jax.random.key(0), (64,), severity=s)[1])(9.0)
    np.testing.assert_allclose(level, augmix.draw_ops(jax.random.key(0), (64,), severity=9.0)[1])


OK = np.zeros((2, 4, 3, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda key: augmix.augmix(key, OK[0]), ValueError, r"images must be.*\(4, 3, 1\)"),
        (lambda key: augmix.augmix(key, OK.astype(int)), TypeError, "images must be.*int"),
        (lambda key: augmix.augmix(key, OK, severity=0.1), ValueError, "severity.*found 0.1"),
        (lambda key: augmix.augmix(key, OK, severity=11), ValueError, "severity.*found 11"),
        (lambda key: augmix.augmix(key, OK, severity=np.ones(2)), ValueError, "severity.*scalar"),
        (lambda key: augmix.augmix(key, OK, width=0), ValueError, "width.*found 0"),
        (lambda key: augmix.augmix(key, OK, width=1.0), TypeError, "width.*1.0"),
        (lambda key: augmix.augmix(key, OK, depth=0), ValueError, "depth.*found 0"),
        (lambda key: augmix.augmix(key, OK, depth=None), TypeError, "depth.*None"),
        (lambda key: augmix.augmix(key, OK, alpha=0.0), ValueError, "alpha.*0.0"),
        (lambda key: augmix.augmix(key, OK, alpha=float("inf")), ValueError, "alpha.*inf"),
        (
            lambda key: augmix.apply_augmix(draw(key, 64), OK),
            ValueError,
            r"images must be the 64 of the draw.*\(2, 4",
        ),
        (lambda key: augmix.equalize(OK / 255), TypeError, "images must be uint8; found float"),
        (lambda key: augmix.autocontrast(OK[0]), ValueError, "images"),
        (lambda key: augmix.posterize(OK, np.ones(2)), TypeError, "bits must be integer.*float"),
        (lambda key: augmix.posterize(OK, 4), ValueError, r"bits.*\(2,\).*\(\)"),
        (lambda key: augmix.solarize(OK, np.ones(2)), TypeError, "threshold.*float"),
        (lambda key: augmix.rotate(OK, np.ones(3)), ValueError, r"degrees.*\(2,\).*\(3,\)"),
        (lambda key: augmix.rotate(OK, np.ones(2, bool)), TypeError, "degrees.*bool"),
        (lambda key: augmix.shear_x(OK, 0.1), ValueError, "factor"),
        (lambda key: augmix.shear_y(OK, np.ones(2, complex)), TypeError, "factor.*complex"),
        (lambda key: augmix.translate_x(OK, np.ones((2, 1))), ValueError, "pixels"),
        (lambda key: augmix.translate_y(OK, np.ones(2, bool)), TypeError, "pixels.*bool"),
        (lambda key: augmix.apply_ops(OK, np.ones(2), np.ones(2)), TypeError, "op must.*float"),
        (
            lambda key: augmix.apply_ops(OK, np.ones(2, int), np.ones(2, int)),
            TypeError,
            "level must be floating",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
