"""The elastic transform against OpenCV and SciPy.

There is no comparison with the package imagecorruptions, whose elastic transform is another one: it
has no affine part.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corruption_reference_weather import ELASTIC, elastic, natural

from semjax.corruptions import elastic as library
from semjax.corruptions.elastic import elastic_transform
from semjax.corruptions.severities import Level, row_keys

KEY = jax.random.key(3)
IMAGES = natural(6, 24, 30)


@functools.cache
def parts(family: str):
    @jax.jit
    def run(place):
        drawn = library._draw_elastic(row_keys(KEY, len(IMAGES), None), jnp.asarray(IMAGES))
        return drawn, library._apply_elastic(jnp.asarray(IMAGES), *drawn, Level(place, family))

    return [jax.tree.map(np.asarray, run(jnp.int32(place))) for place in range(5)]


@pytest.mark.parametrize(("family", "side"), [("cifar", 24), ("imagenet", 24 * 244 / 224)])
def test_pixels_are_those_of_the_reference(family, side):
    for (drawn, found), constants in zip(parts(family), ELASTIC[family], strict=True):
        expected = np.stack(
            [
                elastic(*row, *(side * c for c in constants))
                for row in zip(IMAGES, *drawn, strict=True)
            ]
        )
        difference = abs(found.astype(int) - np.floor(expected))
        # Places are rounded to 1/256 pixel here, and where the affine warp is strong to more there.
        assert difference.mean() < 0.15 and (difference <= 2).mean() > 0.999


def test_moves_are_uniform():
    corners, moves = parts("cifar")[0][0]
    assert corners.shape == (6, 3, 2) and moves.shape == (6, 2, 24, 30)
    for values in (corners, moves):
        assert values.min() >= -1 and values.max() < 1
        assert abs(values.mean()) < 4 / np.sqrt(3 * values.size)
        assert abs(values.std() - np.sqrt(1 / 3)) < 0.5 / np.sqrt(values.size) + 1e-3


def test_nothing_that_moves_nothing_changes():
    still = jnp.zeros((6, 3, 2)), jnp.zeros((6, 2, 24, 30))
    apply = jax.jit(library._apply_elastic)
    for place in (0, 4):
        found = apply(jnp.asarray(IMAGES), *still, Level(jnp.int32(place), "cifar"))
        np.testing.assert_array_equal(found, IMAGES)


def test_control_points_on_a_line_give_an_image():
    # The first point falls onto the third: no affine map does that.
    points = library._control_points(24, 30)
    reach = 24 * 0.08
    corners = np.zeros((6, 3, 2), np.float32)
    corners[:, 0] = (points[2] - points[0]) / reach
    found = jax.jit(library._apply_elastic)(
        jnp.asarray(IMAGES),
        jnp.asarray(corners),
        jnp.zeros((6, 2, 24, 30)),
        Level(jnp.int32(0), "cifar"),
    )
    assert set(np.unique(found)) <= set(range(256)) and found.dtype == np.uint8
    down, right = library._affine_places(points, jnp.asarray(reach * corners), 24, 30)
    assert abs(down).max() <= 256 * 64 * 30 and abs(right).max() <= 256 * 64 * 30


def test_flat_images_stay_flat():
    flat = np.full((6, 24, 30, 3), 201, np.uint8)
    np.testing.assert_array_equal(elastic_transform(KEY, flat, 5), flat)


def test_grey_images_are_moved_like_colours():
    grey = np.ascontiguousarray(IMAGES[..., :1])
    found = elastic_transform(KEY, grey, 4)
    expected = elastic_transform(KEY, IMAGES, 4)[..., :1]
    np.testing.assert_array_equal(found, expected)


def test_a_row_depends_on_its_index_and_on_no_other_row():
    index = jnp.array([5, 0, 70_000, 3, 2, 1])
    whole = np.asarray(elastic_transform(KEY, IMAGES, 3, index=index))
    order = np.array([4, 2, 0, 1, 5, 3])
    moved = elastic_transform(KEY, IMAGES[order], 3, index=index[order])
    np.testing.assert_array_equal(moved, whole[order])
    alone = elastic_transform(KEY, IMAGES[2:3], 3, index=index[2:3])
    np.testing.assert_array_equal(alone, whole[2:3])
    rows = np.asarray(elastic_transform(KEY, np.repeat(IMAGES[:1], 6, 0), 3))
    assert all((rows[0] != row).any() for row in rows[1:])


def test_it_is_what_is_made_of_what_is_drawn_by_options_and_key():
    found = [np.asarray(elastic_transform(KEY, IMAGES, s)) for s in range(1, 6)]
    np.testing.assert_array_equal(found, [made for _, made in parts("cifar")])
    traced = jax.jit(elastic_transform)(KEY, IMAGES, jnp.int32(2))
    np.testing.assert_array_equal(traced, found[1])
    other = elastic_transform(KEY, IMAGES, 2, constants="imagenet")
    np.testing.assert_array_equal(other, parts("imagenet")[1][1])
    assert (np.asarray(elastic_transform(jax.random.key(2), IMAGES, 2)) != found[1]).any()
    assert len({x.tobytes() for x in found}) == 5


def test_faults_are_told():
    with pytest.raises(TypeError, match="images must be uint8"):
        elastic_transform(KEY, IMAGES / 255, 1)
    with pytest.raises(ValueError, match="severity must be"):
        elastic_transform(KEY, IMAGES, 6)
    with pytest.raises(ValueError, match="constants must be"):
        elastic_transform(KEY, IMAGES, 1, constants="svhn")
    with pytest.raises(ValueError, match="index must be"):
        elastic_transform(KEY, IMAGES, 1, index=jnp.arange(3))
