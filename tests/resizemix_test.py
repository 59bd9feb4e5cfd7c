"""ResizeMix: boxes against loops, the whole partner inside them, the law of the weights."""

import jax
import numpy as np
import policy_reference
import pytest
import reference
from policy_draws import MANY, assert_mean, assert_weight_is_the_mean, drawn, image_of

from semjax.mixing import interpolate, interpolate_spatial
from semjax.policies.resizemix import box_zoom, resizemix


def boxes(mix, height, width):
    """Top, left, bottom and right of each row's box, from its zoom."""
    scaled = mix.zoom * np.float32([height, width, height, width])
    box = np.rint(scaled).astype(int)
    np.testing.assert_allclose(scaled, box, rtol=0, atol=1e-4)
    return np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)


@pytest.mark.parametrize("size", [(16, 16), (9, 14), (15, 7)])
def test_the_mask_is_the_box_of_the_zoom(size):
    mix = drawn(resizemix(weight_scope="sample", pairing="roll"), size=size)
    expected = policy_reference.box_mask(boxes(mix, *size), *size)
    np.testing.assert_array_equal(mix.mask, expected)


@pytest.mark.parametrize("size", [(16, 16), (9, 14), (1, 5)])
def test_the_box_shows_the_whole_partner(size):
    mix = drawn(resizemix(scale=(0.4, 1.0), weight_scope="sample", pairing="roll"), size=size)
    x = np.random.default_rng(0).uniform(size=(12, *size, 2)).astype(np.float32)
    mixed = np.asarray(interpolate_spatial(mix, x))
    for i, (top, left, bottom, right) in enumerate(boxes(mix, *size)):
        expected = x[i].copy()
        if top < bottom and left < right:
            partner = x[mix.partner[i]][None]
            small = reference.area_resample(partner[..., :1], bottom - top, right - left)
            other = reference.area_resample(partner[..., 1:], bottom - top, right - left)
            expected[top:bottom, left:right] = np.concatenate([small, other], -1)[0]
        np.testing.assert_allclose(mixed[i], expected, rtol=0, atol=1e-5)


def test_the_box_is_that_of_the_share_and_the_centre():
    """Even sides, all of one length, cut at the border; every length of the range is there."""
    mix = drawn(resizemix(weight_scope="sample", pairing="roll"), rows=MANY, size=(20, 20))
    top, left, bottom, right = boxes(mix, 20, 20).T
    inner = (top > 0) & (left > 0) & (bottom < 20) & (right < 20)
    assert set((bottom - top)[inner]) == {2, 4, 6, 8, 10, 12, 14}
    np.testing.assert_array_equal((bottom - top)[inner], (right - left)[inner])


def test_a_box_without_area_leaves_the_row_alone():
    policy = resizemix(scale=(0.0, 0.1), weight_scope="sample", pairing="roll")
    mix = drawn(policy, size=(9, 9))
    np.testing.assert_array_equal(mix.weight, np.ones(12))
    x = np.random.default_rng(0).uniform(size=(12, 9, 9, 1)).astype(np.float32)
    np.testing.assert_array_equal(interpolate_spatial(mix, x), x)
    labels = np.eye(12, dtype=np.float32)
    np.testing.assert_array_equal(interpolate(mix, labels), labels)


def test_a_row_that_is_its_own_partner_is_left_as_it_is():
    mix = drawn(resizemix(scale=(0.8, 0.8)), rows=1)
    assert mix.weight[0] < 1
    x = np.random.default_rng(0).uniform(size=(1, 16, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(interpolate_spatial(mix, x), x)


def test_rows_that_are_not_mixed_are_not_zoomed():
    mix = drawn(resizemix(probability=0, pairing="roll"))
    np.testing.assert_array_equal(mix.zoom, [[0, 0, 1, 1]] * 12)


def test_the_weight_is_the_mean_of_the_mask():
    assert_weight_is_the_mean(resizemix)


@pytest.mark.parametrize(("scale", "published"), [((0.1, 0.8), 0.841), ((0.5, 0.7), None)])
def test_the_mean_weight_of_resizemix(scale, published):
    expected = policy_reference.expected_resizemix_weight(32, *scale)
    assert published is None or abs(expected - published) < 5e-4
    policy = resizemix(scale=scale, weight_scope="sample")
    draw = jax.jit(lambda key: policy(key, image_of(MANY, 32, 32)).weight)
    weight = np.concatenate([draw(jax.random.key(seed)) for seed in range(5)])
    assert_mean(weight, expected)


def test_a_box_in_units_of_the_image():
    zoom = box_zoom(np.array([[1, 2, 3, 5], [0, 0, 4, 10]]), height=4, width=10)
    np.testing.assert_allclose(zoom, [[0.25, 0.2, 0.5, 0.3], [0, 0, 1, 1]], rtol=1e-6)


@pytest.mark.parametrize("scale", [(0.8, 0.1), (-0.1, 0.5), (0.1, 1.5), (0.1,), (float("nan"), 1)])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be two shares"):
        resizemix(scale=scale)
