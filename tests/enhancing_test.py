"""Brightness, contrast, colour and sharpness against Pillow's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from semjax import enhancing

NAMES = {"brightness": "Brightness", "contrast": "Contrast", "colour": "Color"}
NAMES["sharpness"] = "Sharpness"
FACTORS = np.array([0.0, 0.1, 0.55, 1.0, 1.3, 1.9, 3.7], np.float32)


@jax.jit
def enhanced(images, factor):
    return {name: getattr(enhancing, name)(images, factor) for name in NAMES}


def made(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def with_pil(name, image, factor):
    pil = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(getattr(ImageEnhance, NAMES[name])(pil).enhance(factor)).reshape(image.shape)


@pytest.mark.parametrize("shape", [(7, 13, 10, 3), (7, 11, 8, 1), (7, 2, 5, 3)])
def test_they_are_pillows_to_one_grey_level_of_few_pixels(shape):
    images = made(*shape)
    for name, found in enhanced(images, FACTORS).items():
        pairs = zip(images, FACTORS, strict=True)
        expected = np.stack([with_pil(name, image, float(factor)) for image, factor in pairs])
        difference = abs(np.asarray(found).astype(int) - expected)
        assert difference.max() <= 1, name
        assert difference.mean() < 0.005, name
        assert found.dtype == jnp.uint8


def test_a_factor_of_one_changes_no_pixel():
    images = made(3, 9, 8, 3)
    for name, found in enhanced(images, np.ones(3, np.float32)).items():
        np.testing.assert_array_equal(found, images, name)


def test_factors_are_clipped_before_they_overflow():
    images = made(2, 4, 4, 3)
    far = enhanced(images, np.array([-5, 1e9], np.float32))
    near = enhanced(images, np.array([0, 100], np.float32))
    for name in NAMES:
        np.testing.assert_array_equal(far[name], near[name])


def test_the_mean_grey_is_rounded_half_up():
    images = np.stack([np.array([[1, 2]]), np.array([[1, 1]])])[..., None].astype(np.uint8)
    assert enhancing.mean_grey(jnp.asarray(images))[:, 0, 0, 0].tolist() == [2, 1]


def test_wrong_images_and_factors_are_named():
    with pytest.raises(TypeError, match="images must be uint8; found float32"):
        enhancing.brightness(np.zeros((1, 2, 2, 3), np.float32), np.ones(1))
    with pytest.raises(ValueError, match=r"images must have 1 or 3 channels; found shape"):
        enhancing.colour(made(1, 2, 2, 4), np.ones(1))
    with pytest.raises(ValueError, match=r"factor must have shape \(2,\); found shape \(3,\)"):
        enhancing.sharpness(made(2, 4, 4, 3), np.ones(3))
