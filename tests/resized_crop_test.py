"""Random resized crops: values against Pillow, boxes against the law of torchvision."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from semjax import resized_crop
from semjax.resized_crop import draw_boxes, random_resized_crop

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter")
MANY = 4000

cropped = jax.jit(resized_crop.resized_crop, static_argnames="size")
random = jax.jit(random_resized_crop, static_argnames="size")
drawn = jax.jit(draw_boxes, static_argnames=("scale", "ratio"))


def made(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def boxes(count, seed=0):
    """Boxes of all sizes: a pixel or so, the whole image, and between."""
    draw = np.random.default_rng(seed)
    sides = draw.uniform(0.05, 1, (count, 2))
    sides[0], sides[1] = 1, 0.04
    return np.concatenate([draw.uniform(0, 1 - sides), sides], 1).astype(np.float32)


def with_pil(image, box, side):
    height, width = image.shape[:2]
    top, left = box[0] * height, box[1] * width
    place = (left, top, min(left + box[3] * width, width), min(top + box[2] * height, height))
    pil = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(pil.resize((side, side), Image.Resampling.BILINEAR, box=place))


@pytest.mark.parametrize(("shape", "side"), [((9, 24, 24, 3), 16), ((9, 13, 40, 1), 24)])
def test_values_are_pillows_to_its_rounding(shape, side):
    images, box = made(*shape), boxes(shape[0])
    found = np.asarray(cropped(images, box, size=side))
    assert found.dtype == np.uint8
    expected = [
        with_pil(*row, side).reshape(side, side, -1) for row in zip(images, box, strict=True)
    ]
    # Pillow rounds between its two passes too.
    difference = abs(found.astype(int) - np.stack(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.2


def test_values_are_means_with_the_weights_of_a_triangle():
    """In float64, one pixel of the result at a time."""
    images = np.random.default_rng(1).normal(size=(2, 7, 9, 2)).astype(np.float32)
    box, side = boxes(5)[3:], 4
    found = cropped(images, box, size=side)
    for i, a, b in np.ndindex(2, side, side):
        weights = []
        for place, start, length, pixels in ((a, 0, 2, 7), (b, 1, 3, 9)):
            step = float(box[i, length]) * pixels / side
            centre = float(box[i, start]) * pixels + (place + 0.5) * step
            distance = abs(np.arange(pixels) + 0.5 - centre)
            weight = np.clip(1 - distance / max(step, 1), 0, None)
            weights.append(weight / weight.sum())
        expected = np.einsum("h,w,hwc->c", *weights, images[i].astype(np.float64))
        np.testing.assert_allclose(found[i, a, b], expected, atol=1e-5)


def test_the_whole_image_at_its_own_size_is_the_image():
    images = made(2, 8, 8, 3)
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1))
    np.testing.assert_array_equal(cropped(images, whole, size=8), images)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_the_dtype_is_kept_and_a_constant_stays_what_it_is(dtype):
    images = jnp.full((2, 6, 9, 3), 100, dtype)
    found = random(jax.random.key(0), images, size=5)
    assert (found.dtype, found.shape) == (dtype, (2, 5, 5, 3))
    np.testing.assert_allclose(np.asarray(found, np.float64), 100, rtol=1e-5)


def torchvision_box(rng, width, height, scale, ratio):
    """get_params of RandomResizedCrop: (top, left, height, width) in pixels."""
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        shape = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = round(np.sqrt(area * shape)), round(np.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (15000, 5000), (4000, 9000)])
def test_boxes_have_torchvisions_law(width, height):
    """Of a picture so large that its rounding to pixels cannot be seen."""
    rng, scale, ratio = np.random.default_rng(7), (0.08, 1.0), (3 / 4, 4 / 3)
    expected = np.array([torchvision_box(rng, width, height, scale, ratio) for _ in range(MANY)])
    # To what rounding to pixels leaves alone: boxes at the centre are many and all alike.
    expected = np.round(expected / [height, width, height, width], 3)
    aspect = np.full(MANY, width / height, np.float32)
    found = np.round(np.asarray(drawn(jax.random.key(5), aspect)), 3)
    for column in range(4):
        law = stats.ks_2samp(found[:, column], expected[:, column])
        assert law.pvalue > 1e-3, column
    products = (x[:, 2] * x[:, 3] for x in (found, expected))
    assert stats.ks_2samp(*products).pvalue > 1e-3


def test_boxes_lie_inside_and_are_as_large_and_as_wide_as_asked_for():
    aspect = np.random.default_rng(2).uniform(0.3, 3, MANY).astype(np.float32)
    box = np.asarray(drawn(jax.random.key(1), aspect, scale=(0.2, 0.5), ratio=(0.5, 2)))
    assert box.min() >= 0 and (box[:, :2] + box[:, 2:]).max() <= 1 + 1e-6
    area, ratio = box[:, 2] * box[:, 3], box[:, 3] / box[:, 2] * aspect
    assert (area.min(), area.max()) == pytest.approx((0.2, 0.5), abs=0.01)
    assert (ratio.min(), ratio.max()) == pytest.approx((0.5, 2), rel=0.01)


def test_without_a_box_that_fits_the_largest_at_the_centre_is_taken():
    """All of the area at a ratio that the picture does not have."""
    aspect = np.array([6.0, 1 / 6], np.float32)
    box = np.asarray(drawn(jax.random.key(0), aspect, scale=(1.0, 1.0)))
    wide, side = 4 / 3 / 6, (1 - 4 / 3 / 6) / 2
    np.testing.assert_allclose(box, [[0, side, 1, wide], [side, 0, wide, 1]], atol=1e-6)


def test_a_squeezed_picture_is_cropped_as_the_original_would_be():
    """The same boxes whether a picture comes in its own shape or as a square with its aspect."""
    aspect = jnp.full(3, 2.0)
    box = drawn(jax.random.key(2), aspect)
    for images, given in ((made(3, 30, 30, 3), aspect), (made(3, 15, 30, 3), None)):
        found = random(jax.random.key(2), images, size=8, aspect=given)
        np.testing.assert_array_equal(found, cropped(images, box, size=8))


def test_a_sharded_batch_is_cropped_where_it_lies():
    images = made(8, 12, 12, 3)
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))

    def crop(key, images):
        return random_resized_crop(key, images, size=8)

    everywhere = jax.NamedSharding(mesh, jax.P())
    step = jax.jit(crop, in_shardings=(everywhere, rows), out_shardings=rows)
    compiled = step.lower(jax.random.key(6), images).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    found, alone = step(jax.random.key(6), images), jax.jit(crop)(jax.random.key(6), images)
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, x: random_resized_crop(k, x[0], size=2), ValueError, r"images must be \[B"),
        (lambda k, x: random_resized_crop(k, x, size=0), ValueError, "size must be 1 or more"),
        (lambda k, x: random_resized_crop(k, x, size=2.5), TypeError, "size must be a static"),
        (
            lambda k, x: random_resized_crop(k, x, size=2, aspect=jnp.ones(3)),
            ValueError,
            r"aspect must have shape \(2,\); found shape \(3,\)",
        ),
        (
            lambda k, x: draw_boxes(k, jnp.ones((2, 1))),
            ValueError,
            r"aspect must have shape \(B,\)",
        ),
        (lambda k, x: draw_boxes(k, jnp.ones(2), scale=(0, 1)), ValueError, "scale must be two"),
        (lambda k, x: draw_boxes(k, jnp.ones(2), ratio=(2, 1)), ValueError, "ratio must be two"),
        (
            lambda k, x: resized_crop.resized_crop(x, jnp.ones((2, 3)), size=2),
            ValueError,
            r"box must have shape \(2, 4\)",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0), made(2, 4, 4, 3))
