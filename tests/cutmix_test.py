"""CutMix: boxes against loops, the law of the weights, the correction, boxes of given sides."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import policy_reference
import pytest
import reference
from policy_draws import MANY, assert_mean, assert_weight_is_the_mean, drawn, many
from scipy import stats

from semjax.policies.cutmix import box_mask, clipped_box, cutmix, cutmix_mask

sized_mask = jax.jit(cutmix_mask, static_argnames=("height", "width"))


# Boxes.


@pytest.mark.parametrize(("side", "weight", "centre", "box", "after"), policy_reference.BOXES)
def test_boxes_worked_by_hand(side, weight, centre, box, after):
    centres = jnp.full((1, 2), centre)
    mask = np.asarray(sized_mask(jnp.array([weight]), centres, height=side, width=side))
    expected = np.ones((1, side, side, 1), np.float32)
    expected[:, slice(*box), slice(*box)] = 0
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(mask.mean(), after, atol=5e-7)
    again = reference.cutmix_mask([weight], [(centre, centre)], side, side) if side < 50 else mask
    np.testing.assert_array_equal(mask, again)


@pytest.mark.parametrize(("height", "width"), [(12, 5), (7, 9), (1, 6)])
def test_boxes_of_images_that_are_not_square(height, width):
    """Rows and columns have sides and limits of their own."""
    proportions = np.float32([0.03, 0.33, 0.61, 0.87])
    corners = itertools.product([0, height // 2, height - 1], [0, width // 2, width - 1])
    weight, centre = zip(*itertools.product(proportions, corners), strict=True)
    found = sized_mask(jnp.array(weight), jnp.array(centre), height=height, width=width)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, reference.cutmix_mask(weight, centre, height, width))


@pytest.mark.parametrize(("height", "width"), [(12, 5), (1, 6)])
def test_clipped_boxes_and_their_masks(height, width):
    ratio = np.float32([0.05, 0.37, 0.71, 0.93])
    centre = [(0, 0), (height // 2, width - 1), (height - 1, 2), (0, width // 2)]
    box = clipped_box(ratio, np.array(centre), height=height, width=width)
    expected = policy_reference.clipped_box(ratio, centre, height, width)
    np.testing.assert_array_equal(box, expected)
    found = box_mask(box, height=height, width=width)
    np.testing.assert_array_equal(found, policy_reference.box_mask(expected, height, width))


def test_the_weight_is_the_mean_of_the_mask():
    assert_weight_is_the_mean(cutmix)


def test_boxes_reach_every_row_and_column():
    weight, mask = many(cutmix(weight_scope="sample"), (24, 4))
    small = mask[weight > 0.75, ..., 0] == 0
    assert small.any((0, 2)).all()
    assert small.any((0, 1)).all()


# Laws.


@pytest.mark.parametrize(("side", "published"), [(32, 0.701), (64, 0.690)])
def test_the_mean_weight_of_cutmix(side, published):
    expected = reference.expected_cutmix_weight(side)
    assert abs(expected - published) < 5e-4
    policy = cutmix(weight_scope="sample")
    weight = np.concatenate([drawn(policy, seed, MANY, (side, side)).weight for seed in range(5)])
    assert weight.std() / np.sqrt(weight.size) < 0.003
    assert_mean(weight, expected)


@pytest.mark.parametrize("alpha", [0.5, 2])
def test_boxes_are_drawn_from_the_beta_law(alpha):
    weight, _ = many(cutmix(alpha=alpha, weight_scope="sample", correction=False), keys=5)
    assert stats.kstest(weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


# Correction.


def test_correction_moves_the_weight_and_not_the_box():
    options = {"weight_scope": "sample"}
    corrected = drawn(cutmix(**options))
    drawn_weight = drawn(cutmix(correction=False, **options))
    np.testing.assert_array_equal(corrected.mask, drawn_weight.mask)
    assert (corrected.weight >= drawn_weight.weight).all()
    assert (corrected.weight - drawn_weight.weight).max() > 0.05


def test_the_correction_leaves_the_partner_alone():
    np.testing.assert_array_equal(drawn(cutmix(correction=False)).partner, drawn(cutmix()).partner)


def test_without_correction_the_weight_is_what_the_box_was_drawn_for():
    weight, mask = many(cutmix(correction=False, weight_scope="sample"))
    boxes = 1 - mask[..., 0]
    inside = ~(boxes[:, [0, -1]].any((1, 2)) | boxes[:, :, [0, -1]].any((1, 2)))
    sides = np.floor(16 * np.sqrt(1 - weight)).astype(int) // 2 * 2
    assert inside.sum() > 100
    np.testing.assert_array_equal(boxes.sum((1, 2))[inside], (sides**2)[inside])


def test_without_correction_alpha_zero_leaves_every_row_alone():
    mix = drawn(cutmix(alpha=0, correction=False))
    assert (mix.weight == 1).all()
    assert (mix.mask == 1).all()


# Boxes of given sides.


def corners(mask):
    """First and last row or column of each box, along both axes, and whether it is a full box."""
    shown = mask[..., 0] == 0
    rows, columns = shown.any(2), shown.any(1)
    full = (shown == (rows[:, :, None] & columns[:, None])).all((1, 2))
    ends = [(axis.argmax(1), axis.sum(1)) for axis in (rows, columns)]
    contiguous = [(np.diff(axis.astype(int), axis=1) == 1).sum(1) <= 1 for axis in (rows, columns)]
    return ends, full & contiguous[0] & contiguous[1]


def test_sides_and_places_of_minmax_are_uniform():
    """Each side in [3, 8) of 10 and [4, 12) of 15 pixels; each place in [0, size - side)."""
    weight, mask = many(cutmix(minmax=(0.3, 0.8), weight_scope="sample"), (10, 15), keys=5)
    ends, whole = corners(mask)
    assert whole.all()
    for (first, side), size, sides in zip(ends, (10, 15), (range(3, 8), range(4, 12)), strict=True):
        assert sorted(set(side)) == list(sides)
        assert stats.chisquare(np.bincount(side)[sides.start :]).pvalue > 1e-4
        for length in sides:
            places = np.bincount(first[side == length])
            assert len(places) == size - length
            assert stats.chisquare(places).pvalue > 1e-4
    area = ends[0][1] * ends[1][1]
    np.testing.assert_allclose(weight, 1 - area / 150, rtol=0, atol=1e-6)
    assert_mean(weight, policy_reference.expected_minmax_weight(10, 15, 0.3, 0.8))
    # The sides of the two axes are drawn apart.
    assert abs(np.corrcoef(ends[0][1], ends[1][1])[0, 1]) < 4 / np.sqrt(len(weight))


def test_minmax_does_not_look_at_alpha():
    policy = cutmix(minmax=(0.3, 0.8), alpha=0, weight_scope="sample")
    np.testing.assert_array_equal(
        drawn(policy).mask, drawn(cutmix(minmax=(0.3, 0.8), weight_scope="sample")).mask
    )


def test_the_weight_of_minmax_is_the_mean_of_the_mask():
    assert_weight_is_the_mean(cutmix, [(8, 8), (6, 10), (7, 5)], minmax=(0.2, 0.9))


@pytest.mark.parametrize("minmax", [(0.5, 0.5), (0.6, 0.2), (-0.1, 0.5), (0.2, 1.1), (0.2,)])
def test_minmax_out_of_range_is_refused(minmax):
    with pytest.raises(ValueError, match="minmax must be None or two shares"):
        cutmix(minmax=minmax)


def test_minmax_needs_the_correction():
    with pytest.raises(ValueError, match="correction must be True with minmax"):
        cutmix(minmax=(0.2, 0.8), correction=False)


@pytest.mark.parametrize("size", [(1, 1), (16, 2), (2, 16)])
def test_minmax_needs_images_that_have_a_side_to_draw(size):
    with pytest.raises(ValueError, match=f"no side to draw for images of {size[0]} x {size[1]}"):
        drawn(cutmix(minmax=(0.1, 0.4)), size=size)
