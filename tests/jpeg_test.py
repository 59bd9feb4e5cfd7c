"""JPEG against Pillow, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corruption_reference_weather import JPEG, jpeg, natural

from semjax.corruptions.jpeg import jpeg_compression

compress = jax.jit(jpeg_compression, static_argnames="constants")
KEY = jax.random.key(0)


def made(count, height, width, channels):
    """Photographs, and of the last two one of noise and one of black and white."""
    images = natural(count, height, width)[..., :channels].copy()
    rng = np.random.default_rng(0)
    images[-2] = rng.integers(0, 256, images[-2].shape)
    images[-1] = 255 * rng.integers(0, 2, images[-1].shape)
    return images


# Whole blocks, parts of blocks, an odd number of pixels, less than one block, one pixel.
@pytest.mark.parametrize("size", [(32, 32), (17, 22), (8, 8), (5, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_pillow(size, channels):
    images = made(12, *size, channels)
    for constants, qualities in JPEG.items():
        for severity, quality in enumerate(qualities, 1):
            found = compress(KEY, images, jnp.int32(severity), constants=constants)
            expected = np.stack([jpeg(image, quality) for image in images])
            np.testing.assert_array_equal(found, expected)


def test_a_higher_severity_loses_more():
    images = natural(12, 32, 32)
    losses = [
        abs(np.asarray(compress(KEY, images, s)).astype(int) - images).mean() for s in range(1, 6)
    ]
    assert losses == sorted(losses) and losses[0] > 1 and losses[4] > 1.5 * losses[0]


def test_size_chooses_the_constants_and_the_key_nothing():
    small, large = natural(1, 8, 64), natural(1, 8, 66)
    found = jpeg_compression(KEY, small, 2)
    np.testing.assert_array_equal(found[0], jpeg(small[0], 65))
    np.testing.assert_array_equal(jpeg_compression(KEY, large, 2)[0], jpeg(large[0], 18))
    np.testing.assert_array_equal(jpeg_compression(jax.random.key(1), small, 2), found)


def test_faults_are_told():
    images = natural(2, 8, 8)
    with pytest.raises(TypeError, match="images must be uint8"):
        jpeg_compression(KEY, images / 255, 1)
    with pytest.raises(ValueError, match="severity must be"):
        jpeg_compression(KEY, images, 0)
    with pytest.raises(ValueError, match="constants must be"):
        jpeg_compression(KEY, images, 1, constants="svhn")
    with pytest.raises(ValueError, match="index must be"):
        jpeg_compression(KEY, images, 1, index=jnp.arange(3))
