"""Blurs, pixel by pixel where nothing is drawn or the draw is known, against two references."""

import corruption_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from semjax import corruptions
from semjax.corruptions import blur

DETERMINISTIC = ("gaussian_blur", "defocus_blur", "zoom_blur")
# The least share of pixels that come out the same; a disc of five equal weights meets many whole
# numbers, which the originals, in floating point, may take for a little less.
SHARES = {"gaussian_blur": 0.98, "defocus_blur": 0.84, "zoom_blur": 0.98}


def corrupted(name, images, severity, **options):
    return np.asarray(getattr(corruptions, name)(jax.random.key(0), images, severity, **options))


def assert_alike(found, expected, share):
    difference = np.asarray(found).astype(int) - np.floor(expected).astype(int)
    assert abs(difference).max() <= 1
    assert (difference == 0).mean() > share


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize(("width", "channels"), [(32, 3), (40, 1)])
def test_cifar_strengths_are_the_references(name, width, channels):
    images = reference.photographs(5, 32, width)[..., :channels]
    for severity in range(1, 6):
        constant = reference.CIFAR[name][severity - 1]
        expected = np.stack([getattr(reference, name)(image, constant) for image in images])
        # As "auto" chooses at this size.
        assert_alike(corrupted(name, images, severity), expected, SHARES[name])


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("size", [(32, 32), (44, 48)])
def test_imagenet_strengths_are_those_of_imagecorruptions(name, size):
    from imagecorruptions import corruptions as peer  # slow to import

    images = reference.photographs(4, *size)
    for severity in range(1, 6):
        expected = [getattr(peer, name)(Image.fromarray(image), severity) for image in images]
        found = corrupted(name, images, severity, constants="imagenet")
        assert_alike(found, np.stack(expected), SHARES[name])


@pytest.mark.parametrize("family", ["cifar", "imagenet"])
def test_motion_blur_is_the_references_at_the_angle_it_draws(family, monkeypatch):
    # Seen from outside: a bright pixel leaves a trace in the direction of the draw.
    images = reference.photographs(6, 44, 47)
    constants = (reference.CIFAR if family == "cifar" else reference.IMAGENET)["motion_blur"]
    angles = []
    smear = blur.smear

    def listened(images, degrees, weights):
        jax.debug.callback(lambda x: angles.append(np.asarray(x)), degrees)
        return smear(images, degrees, weights)

    monkeypatch.setattr(blur, "smear", listened)
    motion = jax.jit(lambda *x: blur._motion.__wrapped__(*x))
    for severity in range(1, 6):
        angles.clear()
        _, level = blur.checked(images, severity, family)
        keys = blur.row_keys(jax.random.key(severity), 6, None)
        found = np.asarray(motion(keys, images, level))
        jax.effects_barrier()
        assert len(np.unique(angles[0])) == 6
        assert (abs(angles[0]) <= 45).all()
        pairs = zip(images, angles[0].tolist(), strict=True)
        expected = [reference.motion_blur(x, constants[severity - 1], a) for x, a in pairs]
        assert_alike(found, np.stack(expected), 0.95)


def test_motion_goes_up_and_down_alike():
    image = np.zeros((300, 21, 21, 1), np.uint8)
    image[:, 10, 10] = 255
    trace = corrupted("motion_blur", image, 5, constants="imagenet")[..., 0].astype(float)
    rows, columns = np.arange(21) - 10, 10 - np.arange(21)
    # A pixel is seen from those to its left.
    right, down = (trace.sum(1) * columns).sum(1), -(trace.sum(2) * rows).sum(1)
    angle = np.degrees(np.arctan2(down, right))
    assert abs(angle).max() < 48
    assert abs(angle.mean()) < 4.5 * 45 / np.sqrt(3 * 300)
    assert abs(angle.std() - 45 / np.sqrt(3)) < 3


@pytest.mark.parametrize("family", ["cifar", "imagenet"])
def test_glass_blur_is_blur_walk_and_blur(family, monkeypatch):
    images = reference.photographs(3, 20, 26)
    constants = (reference.CIFAR if family == "cifar" else reference.IMAGENET)["glass_blur"]
    draws = []
    sources = blur.shuffle_sources

    def listened(down, right, reach):
        jax.debug.callback(
            lambda *x: draws.append(tuple(map(np.asarray, x))), down, right, ordered=True
        )
        return sources(down, right, reach)

    monkeypatch.setattr(blur, "shuffle_sources", listened)
    glass = jax.jit(lambda *x: blur._glass.__wrapped__(*x))
    for severity in range(1, 6):
        draws.clear()
        _, level = blur.checked(images, severity, family)
        keys = blur.row_keys(jax.random.key(severity), 3, None)
        found = np.asarray(glass(keys, images, level)).astype(int)
        jax.effects_barrier()
        sigma, reach, passes = constants[severity - 1]
        # A narrow blur of a slope misses a whole number by 1e-6, at one pixel in 30 each time.
        share = 0.9 if sigma < 0.5 else 0.98
        for i, image in enumerate(images):
            # Truncated as ours: a whole number stays.
            walked = np.floor(reference.gaussian_blur(image, sigma) + 1e-9)
            for down, right in draws[:passes]:
                assert set(np.unique(down)) == set(np.unique(right)) == set(range(-reach, reach))
                walked = reference.shuffled(walked, down[i], right[i], reach)
            difference = found[i] - np.floor(reference.gaussian_blur(walked, sigma) + 1e-9)
            assert abs(difference).max() <= 1
            assert (difference == 0).mean() > share


def test_blurs_keep_flat_images():
    flat = np.array([90, 255], np.uint8)[:, None, None, None] * np.ones((1, 12, 9, 3), np.uint8)
    for name in DETERMINISTIC:
        for family in ("cifar", "imagenet"):
            found = corrupted(name, flat, 5, constants=family)
            # The largest disc weighs 1 % more than 1, where the grid reflects its soft rim.
            np.testing.assert_allclose(found.astype(int), flat, atol=1)


def test_the_key_chooses_motion_and_glass():
    images = jnp.asarray(reference.photographs(1, 16, 16))
    for function in (corruptions.motion_blur, corruptions.glass_blur):
        first, second = (function(jax.random.key(seed), images, 5) for seed in (0, 1))
        assert (first != second).any()
