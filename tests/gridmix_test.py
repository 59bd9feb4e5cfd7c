"""GridMix: grids against loops, holes worked by hand, options that reach the mask."""

import numpy as np
import policy_reference
import pytest
from policy_draws import MANY, SIZES, assert_weight_is_the_mean, drawn, many

from semjax.policies.gridmix import gridmix, gridmix_mask


def grids(rows, seed):
    random = np.random.default_rng(seed)
    return {
        "weight": random.uniform(0, 1, rows).astype(np.float32),
        "holes": random.integers(2, 7, rows).astype(np.float32),
        "area": random.uniform(0.5, 1, rows).astype(np.float32),
        "aspect": random.uniform(0.5, 2, rows).astype(np.float32),
        "place": random.uniform(0, 1, (rows, 2)).astype(np.float32),
    }


def found_mask(options, height, width):
    weight, holes, *_ = options.values()
    rest = {name: options[name] for name in ("area", "aspect", "place")}
    return np.asarray(gridmix_mask(weight, holes, **rest, height=height, width=width))


@pytest.mark.parametrize("size", [*SIZES, (32, 32), (20, 33)])
def test_the_mask_is_hole_by_hole(size):
    options = grids(60, seed=size[0])
    expected = policy_reference.gridmix_mask(*options.values(), *size)
    np.testing.assert_array_equal(found_mask(options, *size), expected)


def test_a_grid_worked_by_hand():
    """Three patches of 4 pixels along 12, holes of floor(4 sqrt(0.5)) = 2: 36 of 144 pixels."""
    options = {
        "weight": [0.5],
        "holes": [3.0],
        "area": [1.0],
        "aspect": [1.0],
        "place": [[0.5, 0.5]],
    }
    mask = found_mask(options, 12, 12)[0, :, :, 0]
    expected = np.ones((12, 12))
    for a, b in np.ndindex(3, 3):
        expected[4 * a : 4 * a + 2, 4 * b : 4 * b + 2] = 0
    np.testing.assert_array_equal(mask, expected)
    assert mask.mean() == 0.75


def test_a_hole_has_a_pixel_at_least_and_leaves_one_at_least_but_weight_one_has_none():
    options = {name: value[[0, 0, 0]] for name, value in grids(1, 0).items()}
    options |= {"weight": np.float32([1, 1 - 1e-6, 0]), "area": np.ones(3), "aspect": np.ones(3)}
    none, least, most = found_mask(options | {"holes": np.full(3, 2.0)}, 12, 12)[..., 0]
    assert (none == 1).all()
    assert (1 - least).sum() == 4
    assert (1 - most).sum() == 4 * 25


def test_the_weight_is_the_mean_of_the_mask():
    assert_weight_is_the_mean(gridmix)


@pytest.mark.parametrize("holes", [(2, 2), (4, 4), (2, 6)])
def test_the_number_of_holes_is_drawn_from_its_range(holes):
    options = {"crop_area": (1.0, 1.0), "crop_aspect": (1.0, 1.0)}
    weight, mask = many(gridmix(holes=holes, weight_scope="sample", **options), (24, 24))
    # Holes begin at the first row; each begins after a pixel of the row itself.
    first = mask[weight < 0.97, 0, :, 0]
    number = 1 + ((first[:, :-1] == 1) & (first[:, 1:] == 0)).sum(1)
    allowed = {2, 3, 4, 5, 6} if holes == (2, 6) else {holes[0]}
    assert set(number) == allowed
    assert holes != (2, 6) or (np.bincount(number)[2:] > 0.15 * len(number)).all()


@pytest.mark.parametrize("axis", [1, 2])
def test_the_crop_has_its_area_and_its_aspect(axis):
    options = {"crop_area": (0.5, 0.5), "crop_aspect": (2.0, 2.0), "holes": (2, 2), "alpha": 1}
    _, mask = many(gridmix(weight_scope="sample", **options), (32, 32))
    shown = (mask[..., 0] == 0).any(axis)
    first, last = shown.argmax(1), 32 - shown[:, ::-1].argmax(1)
    # 16 columns and 32 rows; the last patch ends with pixels of the row itself.
    length = {1: 16, 2: 32}[axis]
    assert (last - first).max() == length - 1
    positions = set(first)
    assert positions == (set(range(16)) if axis == 1 else {0})


def test_crops_larger_than_the_image_are_cut_to_it():
    options = grids(4, 0) | {"area": np.ones(4), "aspect": np.float32([0.5, 2, 0.5, 2])}
    mask = found_mask(options, 10, 10)
    np.testing.assert_array_equal(mask, policy_reference.gridmix_mask(*options.values(), 10, 10))
    assert (mask.mean((1, 2, 3)) < 1).all()


def test_the_mean_weight_is_that_of_the_reference():
    """Over draws of the reference's own, from the laws of the options."""
    options, random = grids(6_000, seed=5), np.random.default_rng(6)
    options["weight"] = random.uniform(0, 1, 6_000)
    expected = policy_reference.gridmix_mask(*options.values(), 16, 16).mean((1, 2, 3))
    weight, _ = many(gridmix(weight_scope="sample"), keys=5)
    assert len(weight) == 5 * MANY
    error = np.hypot(expected.std() / np.sqrt(len(expected)), weight.std() / np.sqrt(len(weight)))
    assert abs(weight.mean(dtype=np.float64) - expected.mean()) < 4 * error


def test_alpha_is_the_beta_laws():
    weight, _ = many(gridmix(alpha=50, weight_scope="sample", crop_area=(1.0, 1.0)), (32, 32))
    uniform, _ = many(gridmix(weight_scope="sample", crop_area=(1.0, 1.0)), (32, 32))
    assert weight.std() < 0.7 * uniform.std()


def test_one_pixel_has_no_hole():
    mix = drawn(gridmix(weight_scope="sample"), size=(1, 1))
    assert (mix.weight == 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holes": (0, 3)}, "holes must be two numbers"),
        ({"holes": (4, 3)}, "holes must be two numbers"),
        ({"crop_area": (0.0, 0.5)}, "crop_area must be two shares"),
        ({"crop_area": (0.5, 1.5)}, "crop_area must be two shares"),
        ({"crop_aspect": (0.0, 1.0)}, "crop_aspect must be two ratios"),
        ({"crop_aspect": (1.0, float("inf"))}, "crop_aspect must be two ratios"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gridmix(**options)
