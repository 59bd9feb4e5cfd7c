"""Image ops against loops over pixels, their random twins against the law they promise."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semjax import augment

# Non-square, odd and one-pixel-high images: what swapped axes would break.
SHAPES = [(3, 6, 9, 3), (4, 7, 4, 2), (2, 1, 5, 1)]
DTYPES = [jnp.uint8, jnp.float32, jnp.bfloat16, jnp.float16]
RANDOM_OPS = {
    "crop": functools.partial(augment.random_crop, padding=2),
    "flip": augment.random_flip,
    "cutout": functools.partial(augment.random_cutout, size=3),
}
COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter")


def numbered(shape, dtype=jnp.uint8):
    """Images whose pixels are all different as far as the dtype allows, and never 0."""
    return (np.arange(np.prod(shape)).reshape(shape) % 255 + 1).astype(dtype)


def coordinates(batch, height, width):
    """uint8 images that hold each pixel's row + 1 and column + 1 as channels."""
    rows, columns = np.indices((height, width), np.uint8) + np.uint8(1)
    return np.tile(np.stack([rows, columns], -1), (batch, 1, 1, 1))


def reference_crop(images, offsets, padding, mode):
    out = np.zeros_like(images)
    _, height, width, _ = images.shape
    for i, a, b in np.ndindex(images.shape[:3]):
        y, x = a + offsets[i][0] - padding, b + offsets[i][1] - padding
        if mode == "reflect":
            y, x = abs(y), abs(x)
            y, x = min(y, 2 * (height - 1) - y), min(x, 2 * (width - 1) - x)
        if 0 <= y < height and 0 <= x < width:
            out[i, a, b] = images[i, y, x]
    return out


def reference_cutout(images, centres, size, fill):
    out = images.copy()
    for i, (cy, cx) in enumerate(centres):
        for y in range(cy - size // 2, cy - size // 2 + size):
            for x in range(cx - size // 2, cx - size // 2 + size):
                if 0 <= y < images.shape[1] and 0 <= x < images.shape[2]:
                    out[i, y, x] = fill
    return out


def chi_squared(values, cells):
    """Pearson's statistic of values in range(cells) against the uniform law."""
    expected = len(values) / cells
    return float(((np.bincount(values, minlength=cells) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize(("shape", "padding"), [(SHAPES[0], 5), (SHAPES[1], 2), (SHAPES[2], 0)])
def test_crop_is_a_window_of_the_padded_image(shape, padding, mode):
    images = numbered(shape)
    offsets = np.random.default_rng(0).integers(0, 2 * padding + 1, (shape[0], 2))
    offsets[0], offsets[-1] = (0, 2 * padding), (padding, 0)
    found = augment.crop(images, offsets, padding=padding, mode=mode)
    np.testing.assert_array_equal(found, reference_crop(images, offsets, padding, mode))


def test_crop_with_constant_padding_may_exceed_the_image():
    images = numbered(SHAPES[2])
    offsets = np.array([[0, 0], [4, 3]])
    found = augment.crop(images, offsets, padding=3, mode="constant")
    np.testing.assert_array_equal(found, reference_crop(images, offsets, 3, "constant"))


def test_crop_at_the_centre_gives_the_image_back():
    images = numbered(SHAPES[0])
    found = augment.crop(images, np.full((3, 2), 4), padding=4)
    np.testing.assert_array_equal(found, images)


def test_crop_clips_offsets_outside_the_padded_image():
    images = numbered(SHAPES[0])
    outside, inside = np.array([[-1, 9], [-7, 3], [2, 5]]), np.array([[0, 4], [0, 3], [2, 4]])
    found = augment.crop(images, outside, padding=2)
    np.testing.assert_array_equal(found, augment.crop(images, inside, padding=2))


def test_crop_reads_unsigned_offsets():
    images, offsets = numbered(SHAPES[0]), np.array([[0, 4], [4, 0], [1, 3]], np.uint8)
    found = augment.crop(images, offsets, padding=2)
    np.testing.assert_array_equal(found, reference_crop(images, offsets.astype(int), 2, "reflect"))


@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_columns_of_the_chosen_images(shape):
    images = numbered(shape)
    flipped = np.arange(shape[0]) % 2 == 1
    expected = np.stack([x[:, ::-1] if f else x for x, f in zip(images, flipped, strict=True)])
    np.testing.assert_array_equal(augment.flip(images, flipped), expected)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 30])
@pytest.mark.parametrize("shape", SHAPES)
def test_cutout_fills_a_clipped_square(shape, size):
    images = numbered(shape)
    corner = (shape[1] - 1, shape[2] - 1)
    centres = np.array([(0, 0), corner, (0, 3), (shape[1] + 1, -1)])[: shape[0]]
    found = augment.cutout(images, centres, size=size, fill=7)
    np.testing.assert_array_equal(found, reference_cutout(images, centres, size, 7))


def test_cutout_reads_unsigned_centres_near_the_border():
    images, centres = numbered(SHAPES[2]), np.array([[0, 0], [0, 1]], np.uint8)
    found = augment.cutout(images, centres, size=4)
    np.testing.assert_array_equal(found, reference_cutout(images, centres.astype(int), 4, 0))


def test_cutout_fills_each_channel_with_its_value():
    images, centres = numbered(SHAPES[0], np.float32), np.array([(2, 2), (5, 8), (0, 4)])
    fill = np.array([0.5, -1.0, np.nan], np.float32)
    found = augment.cutout(images, centres, size=3, fill=fill)
    np.testing.assert_array_equal(found, reference_cutout(images, centres, 3, fill))


@pytest.mark.parametrize("op", ["crop", "flip", "cutout"])
def test_pixels_that_are_moved_keep_their_bits(op):
    # Sums over one-hot rows, say, would spread NaN and infinities.
    images = numbered(SHAPES[0], np.float32)
    images[:, 2, 3], images[:, 4, 1] = np.nan, -np.inf
    offsets = np.array([[1, 2], [0, 4], [3, 3]])
    found, expected = {
        "crop": lambda: (
            augment.crop(images, offsets, padding=2),
            reference_crop(images, offsets, 2, "reflect"),
        ),
        "flip": lambda: (augment.flip(images, np.ones(3, bool)), images[:, :, ::-1]),
        "cutout": lambda: (
            augment.cutout(images, offsets, size=2),
            reference_cutout(images, offsets, 2, 0),
        ),
    }[op]()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", RANDOM_OPS)
def test_dtype_and_shape_are_kept(op, dtype):
    images = jnp.asarray(numbered(SHAPES[0], dtype))
    found = RANDOM_OPS[op](jax.random.key(0), images)
    assert (found.dtype, found.shape) == (images.dtype, images.shape)


def test_normalise_divides_uint8_by_255_and_takes_floats_as_they_are():
    images = numbered(SHAPES[0])
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 2.0])
    expected = np.empty(images.shape)
    for index in np.ndindex(images.shape):
        expected[index] = (images[index] / 255 - mean[index[3]]) / std[index[3]]
    np.testing.assert_allclose(augment.normalise(images, mean, std), expected, atol=2e-6)
    fractions = (images / 255).astype(np.float32)
    np.testing.assert_allclose(augment.normalise(fractions, mean, std), expected, atol=2e-6)


def test_normalise_takes_scalars():
    images = numbered(SHAPES[1])
    expected = (images / 255 - 0.4) / 0.2
    np.testing.assert_allclose(augment.normalise(images, 0.4, 0.2), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_normalise_rounds_once_to_the_dtype_asked_for(dtype):
    images = numbered(SHAPES[1])
    found = augment.normalise(images, 0.4, 0.2, dtype=dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, augment.normalise(images, 0.4, 0.2).astype(dtype))
    # The dtype of the result is not that of the images.
    assert augment.normalise(jnp.asarray(images, dtype), 0.4, 0.2).dtype == jnp.float32


def test_random_crop_draws_every_offset_alike_for_each_image_and_axis():
    images = coordinates(4000, 9, 11)
    found = np.asarray(augment.random_crop(jax.random.key(3), images, mode="constant"))
    # The default padding is 4: the pixel (4, 4) of a window is the offset in the image.
    rows, columns = (found[:, 4, 4].astype(int) - 1).T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 8, 0, 8)
    # Jointly uniform, over axes and over neighbours; 135 is past the 99.99 % point for 81 cells.
    assert chi_squared(9 * rows + columns, 81) < 135
    assert chi_squared(9 * rows[:-1] + rows[1:], 81) < 135


def test_random_crop_reflects_by_default():
    images = numbered(SHAPES[0])
    found = augment.random_crop(jax.random.key(1), images)
    mode = {
        mode: augment.random_crop(jax.random.key(1), images, padding=4, mode=mode)
        for mode in augment.MODES
    }
    np.testing.assert_array_equal(found, mode["reflect"])
    assert (np.asarray(mode["constant"]) == 0).any() and (np.asarray(found) != 0).all()


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("shape", [*SHAPES, (2, 1, 1, 1), (0, 4, 3, 3)])
def test_padding_zero_is_the_identity(shape, mode):
    found = augment.random_crop(jax.random.key(0), numbered(shape), padding=0, mode=mode)
    np.testing.assert_array_equal(found, numbered(shape))


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_random_flip_mirrors_with_its_probability(probability):
    images = np.tile(np.array([1, 2], np.uint8).reshape(1, 1, 2, 1), (4000, 1, 1, 1))
    options = {} if probability == 0.5 else {"probability": probability}
    found = np.asarray(augment.random_flip(jax.random.key(5), images, **options))[:, 0, :, 0]
    flipped = found[:, 0] == 2
    np.testing.assert_array_equal(found[:, 1], 3 - found[:, 0])
    deviation = np.sqrt(probability * (1 - probability) / 4000)
    assert abs(flipped.mean() - probability) < 4 * deviation
    # Neighbours are independent: both flip with the square of the probability.
    both = (flipped[:-1] & flipped[1:]).mean()
    assert abs(both - probability**2) < 4 * np.sqrt(probability**2 / 4000)


@pytest.mark.parametrize("probability", [0, 1, 0.0, np.float32(1.0)])
def test_random_flip_is_certain_at_the_ends(probability):
    images = numbered((64, 1, 3, 1))
    found = augment.random_flip(jax.random.key(0), images, probability=probability)
    np.testing.assert_array_equal(found, images[:, :, ::-1] if probability else images)


def test_the_probability_of_a_flip_may_be_traced():
    images = numbered((16, 1, 3, 1))
    run = jax.jit(lambda p: augment.random_flip(jax.random.key(0), images, probability=p))
    np.testing.assert_array_equal(run(1.0), images[:, :, ::-1])


def test_random_cutout_centres_are_uniform_over_the_pixels():
    images = np.ones((4000, 5, 7, 1), np.uint8)
    found = np.asarray(augment.random_cutout(jax.random.key(2), images, size=1)).reshape(4000, 35)
    np.testing.assert_array_equal(found.sum(1), 34)
    # 74 is past the 99.99 % point for 35 cells.
    assert chi_squared(found.argmin(1), 35) < 74


def test_random_cutout_applies_cutout_with_its_options():
    images = numbered(SHAPES[1])
    found = np.asarray(augment.random_cutout(jax.random.key(0), images, size=3, fill=[255, 0]))
    for image, original in zip(found, images, strict=True):
        choices = [
            reference_cutout(original[None], [centre], 3, [255, 0])[0]
            for centre in np.ndindex(7, 4)
        ]
        assert any((image == choice).all() for choice in choices)


@pytest.mark.parametrize("op", RANDOM_OPS)
def test_a_row_does_not_depend_on_the_other_rows(op):
    images = numbered((5, 6, 9, 3))
    changed = images.copy()
    changed[[0, 1, 3, 4]] = 200
    first = RANDOM_OPS[op](jax.random.key(4), images)
    second = RANDOM_OPS[op](jax.random.key(4), changed)
    np.testing.assert_array_equal(first[2], second[2])


@pytest.mark.parametrize("op", RANDOM_OPS)
def test_the_key_is_what_is_random(op):
    images, draw = numbered((8, 6, 9, 3)), RANDOM_OPS[op]
    found = draw(jax.random.key(0), images)
    np.testing.assert_array_equal(found, draw(jax.random.key(0), images))
    np.testing.assert_array_equal(found, draw(jax.random.PRNGKey(0), images))
    assert (found != draw(jax.random.key(1), images)).any()


@pytest.mark.parametrize("op", RANDOM_OPS)
def test_jit_and_vmap_over_keys_change_nothing(op):
    images, draw = numbered(SHAPES[0]), RANDOM_OPS[op]
    mapped = jax.jit(jax.vmap(draw, (0, None)))(jax.random.split(jax.random.key(7)), images)
    for key, found in zip(jax.random.split(jax.random.key(7)), mapped, strict=True):
        np.testing.assert_array_equal(found, draw(key, images))


@pytest.mark.parametrize("op", [*RANDOM_OPS, "normalise"])
def test_a_sharded_batch_is_augmented_where_it_lies(op):
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("data"))
    replicated = jax.NamedSharding(mesh, jax.P())

    def draw(key, images):
        if op == "normalise":
            return augment.normalise(images, jnp.full(3, 0.5), jnp.full(3, 0.25))
        return RANDOM_OPS[op](key, images)

    images = numbered((16, 6, 9, 3))
    step = jax.jit(draw, in_shardings=(replicated, sharded), out_shardings=sharded)
    compiled = step.lower(jax.random.key(6), images).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    found = step(jax.random.key(6), images)
    assert found.sharding.is_equivalent_to(sharded, 4)
    np.testing.assert_array_equal(found, jax.jit(draw)(jax.random.key(6), images))


def test_collectives_are_recognised():
    # Without this the test above could pass because the compiler calls them something else.
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("data"))
    total = jax.jit(jnp.sum, in_shardings=sharded).lower(jnp.ones(8)).compile()
    assert COLLECTIVE.findall(total.as_text())


OK = np.ones((2, 4, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda key: augment.flip(OK[0], np.ones(2, bool)), ValueError, r"images.*\(4, 3, 3\)"),
        (lambda key: augment.flip(OK > 0, np.ones(2, bool)), TypeError, "images.*bool"),
        (lambda key: augment.crop(OK.astype(int), 0, padding=1), TypeError, "images.*int"),
        (lambda key: augment.random_flip(key, OK[0]), ValueError, "images"),
        (lambda key: augment.random_crop(key, OK[0]), ValueError, "images"),
        (lambda key: augment.random_cutout(key, OK[0], size=1), ValueError, "images"),
        (lambda key: augment.normalise(OK[0], 0, 1), ValueError, "images"),
        (lambda key: augment.normalise(OK.astype(np.int16), 0, 1), TypeError, "images.*int16"),
        (lambda key: augment.flip(OK, np.ones(3, bool)), ValueError, r"flipped.*\(2,\).*\(3,\)"),
        (
            lambda key: augment.flip(OK, np.ones(2, int)),
            TypeError,
            "flipped must be bool; found int",
        ),
        (lambda key: augment.crop(OK, [0, 0], padding=1), ValueError, r"offsets.*\(2, 2\)"),
        (lambda key: augment.crop(OK, np.ones((2, 2)), padding=1), TypeError, "offsets.*float"),
        (lambda key: augment.cutout(OK, [0, 0], size=1), ValueError, r"centre.*\(2, 2\)"),
        (lambda key: augment.cutout(OK, np.ones((2, 2)), size=1), TypeError, "centre.*float"),
        (
            lambda key: augment.random_crop(key, OK, padding=3),
            ValueError,
            "padding.*at most 2.*found 3",
        ),
        (lambda key: augment.random_crop(key, OK, padding=-1), ValueError, "padding.*-1"),
        (lambda key: augment.random_crop(key, OK, padding=1.0), TypeError, "padding.*1.0"),
        (
            lambda key: augment.random_crop(key, OK, mode="edge"),
            ValueError,
            "reflect, constant.*edge",
        ),
        (lambda key: augment.random_flip(key, OK, probability=1.5), ValueError, "probability.*1.5"),
        (lambda key: augment.random_flip(key, OK, probability=np.ones(2)), ValueError, "scalar"),
        (lambda key: augment.random_cutout(key, OK, size=-2), ValueError, "size.*-2"),
        (lambda key: augment.random_cutout(key, OK, size=2.0), TypeError, "size.*2.0"),
        (
            lambda key: augment.random_cutout(key, OK, size=1, fill=[1, 2]),
            ValueError,
            r"fill.*\(3,\)",
        ),
        (lambda key: augment.normalise(OK, [0.5], 1), ValueError, r"mean.*\(3,\).*\(1,\)"),
        (lambda key: augment.normalise(OK, 0, np.ones(2)), ValueError, r"std.*\(3,\).*\(2,\)"),
        (lambda key: augment.normalise(OK, 0, 1, dtype=jnp.uint8), TypeError, "dtype.*uint8"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))


@pytest.mark.parametrize("fill", [0.5, -1, 256, np.nan])
def test_a_fill_that_uint8_cannot_hold_is_refused(fill):
    with pytest.raises(ValueError, match=r"fill.*\[0, 255\]"):
        augment.random_cutout(jax.random.key(0), numbered(SHAPES[0]), size=1, fill=fill)


def test_a_traced_size_is_refused_by_name():
    images = numbered(SHAPES[0])
    with pytest.raises(TypeError, match="padding must be a static integer"):
        jax.jit(lambda p: augment.random_crop(jax.random.key(0), images, padding=p))(2)
