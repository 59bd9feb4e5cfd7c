"""Shuffles against a walk over pixels, zooms against SciPy."""

import corruption_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filtering_test import made_images

from semjax.corruptions import moves
from semjax.corruptions.moves import mean_zoom, shuffle_sources, zoom_places

sources = jax.jit(shuffle_sources)


def offsets(reach, *shape):
    return np.random.default_rng(reach).integers(-reach, reach, (2, *shape)).astype(np.int32)


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_a_shuffle_is_the_walk_over_pixels(reach):
    images = made_images(6, 12, 15, 3)
    down, right = offsets(reach, 6, 12, 15)
    found = sources(down, right, reach)
    for image, source, d, r in zip(images, found, down, right, strict=True):
        expected = reference.shuffled(image, d, r, reach)
        np.testing.assert_array_equal(image.reshape(-1, 3)[source].reshape(12, 15, 3), expected)


def test_a_shuffle_is_that_of_imagecorruptions(monkeypatch):
    from imagecorruptions import corruptions  # slow to import

    image, reach = made_images(14, 11, 3), 2
    down, right = offsets(reach, 1, 14, 11)
    # It draws (dx, dy), and moves by dy rows and dx columns, in the order of its walk.
    walk = [(h, w) for h in range(12, 2, -1) for w in range(9, 2, -1)]
    draws = iter([(right[0, h, w], down[0, h, w]) for h, w in walk])
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(draws))
    walked = corruptions._shuffle_pixels_njit_glass_blur.py_func
    expected = walked(14, 11, image.copy(), (0, reach, 1), 0)
    assert next(draws, None) is None
    found = image.reshape(-1, 3)[np.asarray(sources(down, right, reach)[0])]
    np.testing.assert_array_equal(found.reshape(image.shape), expected)


def test_a_chain_over_all_pixels_is_followed_to_its_end():
    # Every pixel takes the next one, which is new already: all become the first that stays.
    right = np.ones((1, 5, 40), np.int32)
    found = np.asarray(sources(0 * right, right, 2)).reshape(5, 40)
    expected = np.arange(200).reshape(5, 40)
    expected[3, 3:39] = expected[3, 39]
    np.testing.assert_array_equal(found, expected)


def test_images_too_small_to_walk_over_stay():
    down, right = offsets(4, 1, 4, 9)
    np.testing.assert_array_equal(sources(down, right, 4)[0], np.arange(36))


@pytest.mark.parametrize("dense", [True, False])
def test_the_mean_of_zooms_is_scipys_by_either_way(dense, monkeypatch):
    monkeypatch.setattr(moves, "DENSE_PIXELS", 10**6 if dense else 0)
    images = reference.photographs(4, 22, 27)
    # The sixth is not counted.
    factors = np.array([1.0, 1.07, 1.13, 1.22, 1.3, 2.0])
    rows, columns = (tuple(map(jnp.asarray, zoom_places(n, factors))) for n in (22, 27))
    found = jax.jit(mean_zoom)(images, rows, columns, jnp.array(5))
    expected = [reference.zoom_blur(image, factors[:5]) for image in images]
    difference = np.asarray(found).astype(int) - np.floor(expected).astype(int)
    assert abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.98


def test_zooms_of_flat_images_are_flat():
    flat = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 4, 5, 1))
    factors = 1 + np.arange(7) / 30
    rows, columns = (tuple(map(jnp.asarray, zoom_places(n, factors))) for n in (4, 5))
    for pixels in (0, 1024):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moves, "DENSE_PIXELS", pixels)
            zoom = jax.jit(lambda *options: mean_zoom(*options))
            for count in (1, 6, 7):
                np.testing.assert_array_equal(zoom(flat, rows, columns, count), flat)
