"""Warps against Pillow, which computes them in float64."""

import jax
import numpy as np
import pytest
from pixel_ops_test import each_shape, made_images, with_pil

from semjax import affine

# What Pillow's ops are called here.
OPTIONS = {
    "rotate": "degrees",
    "shear_x": "shear_x",
    "shear_y": "shear_y",
    "translate_x": "right",
    "translate_y": "down",
}
SHAPE = (9, 21, 34, 3)
# Shared by the tests: one compilation for every shape.
warp = jax.jit(affine.affine_warp)


def warped(name, images, magnitudes):
    options = {option: np.zeros(len(images), np.float32) for option in OPTIONS.values()}
    options[OPTIONS[name]] = np.asarray(magnitudes, np.float32)
    return np.asarray(warp(images, **options))


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
    found = warped(name, images, magnitudes).astype(int)
    difference = abs(found - with_pil(name, images, magnitudes))
    # Pillow computes places in float64, this library to 2^-14 of a pixel; both floor the result.
    assert difference.max() <= 1
    assert difference.mean() < 0.02


@each_shape
@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_whole_translations_are_pillows_exactly(name, shape):
    images, pixels = made_images(*shape), np.resize([-40, -3, 0, 1, 2, 5], shape[0])
    found = warped(name, images, pixels)
    np.testing.assert_array_equal(found, with_pil(name, images, pixels))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_warp_of_zero_is_the_identity(name):
    images = made_images(*SHAPE)
    np.testing.assert_array_equal(warped(name, images, np.zeros(9)), images)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("shear_x", 1), ("shear_y", 1), ("translate_x", 34), ("translate_y", 21)],
)
def test_shears_and_translations_are_clipped(name, limit):
    images = made_images(*SHAPE)
    found = warped(name, images, np.resize([-1e9, 7.0 * limit], 9))
    np.testing.assert_array_equal(found, warped(name, images, np.resize([-limit, limit], 9)))


def test_an_integer_is_for_every_image_and_what_is_left_out_is_zero():
    images = made_images(3, 1, 9, 3)
    expected = warped("translate_x", images, [2.0, 2.0, 2.0])
    np.testing.assert_array_equal(warp(images, right=2), expected)


def test_large_images_do_not_overflow():
    # Smooth, for places are less precise here; and some pixels fall on the other side of the edge.
    rows, columns = np.indices((500, 900))
    image = (128 + 100 * np.sin(rows / 40) * np.cos(columns / 50)).astype(np.uint8)[None, ..., None]
    difference = abs(
        warped("rotate", image, [8]).astype(int) - with_pil("rotate", image, [8]).astype(int)
    )
    assert (difference > 1).mean() < 1e-4
    assert difference.mean() < 0.05


OK = np.zeros((2, 4, 3, 1), np.uint8)


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (OK[0], {}, ValueError, r"images must be.*\(4, 3, 1\)"),
        (OK / 255, {}, TypeError, "images must be uint8; found float"),
        (OK, {"degrees": np.ones(3)}, ValueError, r"degrees.*\[2\].*\(3,\)"),
        (OK, {"shear_x": np.ones((2, 1))}, ValueError, "shear_x"),
        (OK, {"shear_y": 1j}, TypeError, "shear_y.*complex"),
        (OK, {"right": np.ones(2, bool)}, TypeError, "right.*bool"),
        (OK, {"down": True}, TypeError, "down.*bool"),
    ],
)
def test_wrong_arguments_are_named(images, options, error, message):
    with pytest.raises(error, match=message):
        affine.affine_warp(images, **options)
