"""Edges, distances and flat histograms against OpenCV."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corruption_reference_weather import relief
from scipy import ndimage

from semjax.corruptions import edges

HIGH = 150


def made(height, width, count=12):
    """Drops of liquid: noise that is blurred and cut off, uint8[B, H, W]."""
    rng = np.random.default_rng(0)
    blurred = [
        ndimage.gaussian_filter(rng.normal(0.65, spread, (height, width)), sigma)
        for spread, sigma in [(0.1, 0.7), (0.3, 1.0), (0.3, 2.0)] * (count // 3)
    ]
    drops = np.stack(blurred)
    return (np.clip(np.where(drops < 0.68, 0, drops), 0, 1) * 255).astype(np.uint8)


canny = jax.jit(edges.canny_edges, static_argnums=(1, 2))
distance = jax.jit(edges.distance_to, static_argnames="most")
flattened = jax.jit(edges.flattened, static_argnames="most")
DROPS = {size: made(*size) for size in [(32, 32), (9, 8), (40, 57)]}
each_size = pytest.mark.parametrize("size", DROPS, ids=str)


@functools.cache
def opencv_edges(size, low=50):
    return np.stack([cv2.Canny(x, low, HIGH) > 0 for x in DROPS[size]])


@each_size
def test_edges_are_those_of_opencv(size):
    expected = opencv_edges(size)
    assert 0.02 < expected.mean() < 0.5
    np.testing.assert_array_equal(canny(DROPS[size], 50, HIGH), expected)


def test_both_thresholds_are_used():
    size = (32, 32)
    found = np.asarray(canny(DROPS[size], 140, HIGH))
    np.testing.assert_array_equal(found, opencv_edges(size, 140))
    assert found.sum() < opencv_edges(size).sum()
    faint = DROPS[size] // 5
    assert canny(faint, 50, 100).sum() < canny(faint, 50, 60).sum()


def test_a_faint_edge_is_followed_from_a_strong_end_as_far_as_it_goes():
    # A long way, in a spiral that is strong at its start only.
    image = np.zeros((1, 40, 40), np.uint8)
    places = [(2, 2)]
    for length, (i, j) in zip(
        [35, 35, 35, 27, 27, 19, 19, 11], [(0, 1), (1, 0), (0, -1), (-1, 0)] * 2, strict=True
    ):
        for _ in range(length):
            places.append((places[-1][0] + i, places[-1][1] + j))
    for place in places:
        image[(0, *place)] = 30
    image[0, 2, 2:4] = 255
    expected = cv2.Canny(image[0], 50, 500) > 0
    assert expected[25:].any()
    np.testing.assert_array_equal(canny(image, 50, 500)[0], expected)


@each_size
def test_distances_are_those_of_opencv(size):
    marks = opencv_edges(size)
    expected = np.stack(
        [cv2.distanceTransform(255 * (~x).astype(np.uint8), cv2.DIST_L2, 5) for x in marks]
    )
    for most in (3, 20):
        found = np.asarray(distance(marks, most=most)) / 10_000
        np.testing.assert_allclose(found, np.minimum(expected, most), atol=1e-4)


def test_without_marks_all_is_as_far_as_can_be():
    assert (np.asarray(distance(np.zeros((1, 4, 5), bool), most=7)) == 70_000).all()


def test_flat_histograms_are_those_of_opencv():
    rng = np.random.default_rng(0)
    maps = np.stack([rng.binomial(20, p, (11, 13)) for p in (0.1, 0.5, 0.9)]).astype(np.uint8)
    maps[2] = 4  # one value only
    expected = np.stack([cv2.equalizeHist(x) for x in maps])
    np.testing.assert_array_equal(flattened(maps, most=20), expected)
    np.testing.assert_array_equal(flattened(maps, most=255), expected)


@each_size
def test_the_relief_is_that_of_opencv(size):
    found = np.asarray(jax.jit(edges.relief)(DROPS[size].astype(np.int32)))
    expected = np.stack([relief(x) for x in DROPS[size]])
    assert expected.std() > 10
    np.testing.assert_array_equal(found, expected)


def test_other_ranks_are_refused():
    flat = jnp.zeros((4, 4), jnp.int32)
    for function in (
        lambda: edges.canny_edges(flat, 50, 150),
        lambda: edges.distance_to(flat, most=2),
        lambda: edges.flattened(flat, most=2),
        lambda: edges.relief(flat),
    ):
        with pytest.raises(ValueError, match=r"maps must be \[B, H, W\]; found shape \(4, 4\)"):
            function()
