"""Brightness, contrast, saturation and pixelation, pixel by pixel, against two implementations."""

import corruption_reference as reference
import jax
import numpy as np
import pytest
from filtering_test import assert_close
from PIL import Image

from semjax import corruptions

NAMES = ("brightness", "contrast", "saturate", "pixelate")
each_name = pytest.mark.parametrize("name", NAMES)
# The least share of pixels that come out the same. The others are whole numbers, which the
# originals, in floating point, may take for a little less.
SHARES = {"brightness": 0.93, "contrast": 0.96, "saturate": 0.86, "pixelate": 0.9999}


def corrupted(name, images, severity, **options):
    return np.asarray(getattr(corruptions, name)(jax.random.key(0), images, severity, **options))


@each_name
@pytest.mark.parametrize("channels", [1, 3])
def test_cifar_strengths_are_the_references(name, channels):
    images = reference.photographs(6, 32, 27)[..., :channels]
    for severity in range(1, 6):
        constant = reference.CIFAR[name][severity - 1]
        expected = np.stack([getattr(reference, name)(image, constant) for image in images])
        # As "auto" chooses at this size.
        assert_close(corrupted(name, images, severity), expected, SHARES[name])


@each_name
def test_imagenet_strengths_are_those_of_imagecorruptions(name):
    from imagecorruptions import corruptions as peer  # slow to import

    images = reference.photographs(4, 44, 48)
    for severity in range(1, 6):
        expected = [getattr(peer, name)(Image.fromarray(image), severity) for image in images]
        expected = np.stack([np.asarray(x, float) for x in expected])
        found = corrupted(name, images, severity, constants="imagenet")
        assert_close(found, expected, SHARES[name])


def test_every_colour_keeps_hue_and_gets_its_brightness():
    # All corners, edges and greys of the colour cube, and colours between.
    levels = np.array([0, 1, 2, 50, 127, 128, 254, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, 16, 32, 3)
    for name in ("brightness", "saturate"):
        for severity in range(1, 6):
            expected = getattr(reference, name)(cube[0], reference.CIFAR[name][severity - 1])
            assert_close(corrupted(name, cube, severity), expected[None], 0.8)


def test_saturation_turns_grey_into_red_only_in_colour_images():
    grey = np.full((1, 8, 8, 3), 200, np.uint8)
    np.testing.assert_array_equal(corrupted("saturate", grey, 5)[0, 0, 0], [200, 160, 160])
    np.testing.assert_array_equal(corrupted("saturate", grey[..., :1], 5), grey[..., :1])


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (16, 96)])
def test_pixelate_is_pillows_at_any_size(size):
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype(np.uint8)
    shares = {"cifar": [0.95, 0.9, 0.85, 0.75, 0.65], "imagenet": [0.6, 0.5, 0.4, 0.3, 0.25]}
    for family, values in shares.items():
        for severity, share in enumerate(values, 1):
            # Pillow makes no image without pixels; a box of all there are takes its place.
            small = max(1, int(size[1] * share)), max(1, int(size[0] * share))
            for image, found in zip(
                images, corrupted("pixelate", images, severity, constants=family), strict=True
            ):
                picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
                picture = picture.resize(size[::-1], Image.Resampling.BOX)
                np.testing.assert_array_equal(found, np.asarray(picture))
