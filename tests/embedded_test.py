"""The embedded sets: what is drawn is what the factors say, and colours are as exact as said."""

import hashlib

import numpy as np
import pytest
from scipy import ndimage

from experiments.datasets import embedded, sources
from experiments.datasets.data import DataError

DIGITS = sources.digits(0)[1]


@pytest.fixture(scope="module")
def factors():
    return embedded.digit_factors(0)


@pytest.fixture(scope="module")
def coloured():
    return embedded.coloured_digits("coloured_digits", 0)


# ---------------------------------------------------------------------------------- digit_factors


def _reference(digit, x, y, scale, rotation, colour, background, side):
    """One canvas, by SciPy's interpolation: a second writing of what `render` documents."""
    theta, size = np.deg2rad(rotation), 8
    canvas = np.empty((side, side, 3))
    for row in range(side):
        for column in range(side):
            # Centred, with y upwards, in sides of the canvas.
            right, up = (column + 0.5) / side - x, y - (row + 0.5) / side
            # The point that a counter-clockwise turn by theta brings here.
            along = (np.cos(theta) * right + np.sin(theta) * up) / scale
            above = (-np.sin(theta) * right + np.cos(theta) * up) / scale
            place = [[size / 2 - above * size - 0.5], [size / 2 + along * size - 0.5]]
            # grid-constant: beyond the border pixels fade to blank, and not stop at once.
            ink = ndimage.map_coordinates(
                digit / 255, place, order=1, mode="grid-constant", cval=0.0
            )[0]
            strips = (row * 8 // side, column * 8 // side)
            odd = {1: strips[0], 2: strips[1], 3: sum(strips)}.get(background, 0) % 2
            grey = 0.2 if background == 0 else (0.1, 0.3)[odd]
            canvas[row, column] = grey * (1 - ink) + ink * np.asarray(colour)
    return canvas * 255


@pytest.mark.parametrize(("side", "background"), [(16, 0), (21, 1), (32, 2), (32, 3)])
def test_a_canvas_shows_its_factors(side, background):
    digit = DIGITS["train"].image[7 * background, :, :, 0]
    values = {"x": 0.42, "y": 0.61, "scale": 0.55, "rotation": 33.0, "colour": 1 + background}
    given = {name: np.array([value]) for name, value in values.items()}
    given["background"] = np.array([background])
    found = embedded.render(digit[None], given, side=side)[0]
    colour = [(1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1)][background]
    expected = _reference(digit, 0.42, 0.61, 0.55, 33.0, colour, background, side)
    np.testing.assert_allclose(found, expected, atol=0.51)


def test_factors_move_the_ink_the_way_they_say():
    bar = np.zeros((1, 8, 8), np.uint8)
    bar[:, 1:7, 3:5] = 255
    start = {"x": 0.5, "y": 0.5, "scale": 0.5, "rotation": 0.0, "colour": 0, "background": 0}

    def ink(**changed):
        given = {name: np.array([value]) for name, value in {**start, **changed}.items()}
        red = embedded.render(bar, given, side=64)[0, :, :, 0].astype(float)
        red -= red.min()
        rows, columns = np.mgrid[:64, :64]
        centre = np.array([(red * rows).sum(), (red * columns).sum()]) / red.sum()
        slant = (red * (rows - centre[0]) * (columns - centre[1])).sum() / red.sum()
        return centre, slant, red.sum()

    centre, slant, mass = ink()
    np.testing.assert_allclose(centre, 31.5, atol=0.1)
    np.testing.assert_allclose(ink(x=0.6)[0] - centre, [0, 6.4], atol=0.1)
    np.testing.assert_allclose(ink(y=0.6)[0] - centre, [6.4, 0], atol=0.1)
    assert 1.9 < ink(scale=0.7)[2] / mass < 2.0
    # Counter-clockwise an upright bar leans to the left: its top, of small rows, too.
    assert abs(slant) < 0.1 and ink(rotation=30.0)[1] > 1 and ink(rotation=-30.0)[1] < -1


def test_digits_of_train_and_test_are_those_of_the_digits(factors):
    num_classes, splits = factors
    assert num_classes == 10
    for name, times in (("train", 4), ("test", 2)):
        split = splits[name]
        assert split.image.shape == (times * len(DIGITS[name]), 32, 32, 3)
        np.testing.assert_array_equal(np.bincount(split.source), times)
        np.testing.assert_array_equal(split.label, DIGITS[name].label[split.source])


def test_factors_are_in_range_varied_and_independent_of_the_label_and_each_other(factors):
    split = factors[1]["train"]
    for name, (low, high) in embedded.RANGES.items():
        values = split.factors[name]
        assert values.dtype == np.float32 and low <= values.min() and values.max() <= high
        spread = np.histogram(values, bins=5, range=(low, high))[0] / len(split)
        np.testing.assert_allclose(spread, 0.2, atol=0.02)
    for name, count in (("colour", 6), ("background", 4)):
        share = np.bincount(split.factors[name], minlength=count) / len(split)
        assert split.factors[name].dtype.kind == "i"
        np.testing.assert_allclose(share, 1 / count, atol=0.02)
    columns = [*split.factors.values(), split.label, split.source]
    related = np.corrcoef(np.stack(columns).astype(float)) - np.eye(len(columns))
    assert len(columns) == 8
    related[-1, -2] = related[-2, -1] = 0  # the digits have an order
    assert np.abs(related).max() < 0.05


def test_train_and_test_are_drawn_apart(factors):
    train, test = (factors[1][name].factors["x"][:720] for name in ("train", "test"))
    assert abs(np.corrcoef(train, test)[0, 1]) < 0.2


def test_the_pictures_are_the_same_everywhere():
    splits = embedded.digit_factors(16)[1]
    digest = hashlib.sha256(b"".join(split.image.tobytes() for split in splits.values()))
    for values in splits["train"].factors.values():
        digest.update(values.tobytes())
    assert digest.hexdigest()[:16] == DIGEST, "digit_factors changed: earlier runs cannot be redone"


DIGEST = "e9050e42def319fe"


@pytest.mark.parametrize("size", [1, 15])
def test_a_canvas_too_small_to_read_is_refused(size):
    with pytest.raises(DataError, match=f"image_size must be 0 or at least 16, got {size}"):
        embedded.digit_factors(size)


# -------------------------------------------------------------------------------- coloured_digits


def test_the_label_is_whether_the_digit_is_five_or_more(coloured):
    num_classes, splits = coloured
    assert num_classes == 2
    np.testing.assert_array_equal(splits["train"].label, DIGITS["train"].label >= 5)
    np.testing.assert_array_equal(
        splits["test"].label, (DIGITS["test"].label >= 5)[splits["test"].source]
    )


def test_the_group_is_the_channel_that_the_digit_is_in(coloured):
    grey = sources.digits(16)[1]
    for name, split in coloured[1].items():
        rows = np.arange(len(split))
        original = rows if split.source is None else split.source
        ink = split.image[rows, :, :, split.group]
        np.testing.assert_array_equal(ink, grey[name].image[original, :, :, 0])
        np.testing.assert_array_equal(split.image.max(-1), ink)
        np.testing.assert_array_equal(split.image.any(-1).sum(), (ink > 0).sum())


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("coloured_digits", 0.95),
        ("coloured_digits:0.7", 0.7),
        ("coloured_digits:0.2", 0.2),
        ("coloured_digits:0", 0.0),
        ("coloured_digits:1", 1.0),
    ],
)
def test_in_train_the_colour_agrees_as_often_as_asked(name, strength):
    split = embedded.coloured_digits(name, 8)[1]["train"]
    agrees = split.label == split.group
    for label in (0, 1):
        rows = split.label == label
        assert agrees[rows].sum() == round(strength * rows.sum())
    digit = DIGITS["train"].label
    share = np.array([agrees[digit == value].mean() for value in range(10)])
    np.testing.assert_allclose(share, strength, atol=1 / 130)


def test_in_test_each_digit_is_there_once_in_each_colour(coloured):
    test = coloured[1]["test"]
    assert len(test) == 720
    pairs = set(zip(test.source.tolist(), test.group.tolist(), strict=True))
    assert pairs == {(source, group) for source in range(360) for group in (0, 1)}


def test_colours_do_not_follow_the_order_of_the_rows(coloured):
    train = coloured[1]["train"]
    rare = np.flatnonzero(train.label != train.group)
    assert 0.3 < (rare < len(train) / 2).mean() < 0.7


def test_image_size_is_the_size_of_the_image(coloured):
    assert coloured[1]["train"].image.shape[1:] == (16, 16, 3)
    assert embedded.coloured_digits("coloured_digits", 10)[1]["test"].image.shape[1:] == (10, 10, 3)


@pytest.mark.parametrize("text", ["", "red", "1.01", "-0.1", "nan", "0.9:1"])
def test_a_strength_that_cannot_be_is_named(text):
    with pytest.raises(DataError, match=rf"coloured_digits:{text}: STRENGTH must be .* '{text}'"):
        embedded.coloured_digits(f"coloured_digits:{text}", 8)


def test_arrays_cannot_be_changed_by_accident(factors, coloured):
    for array in (
        coloured[1]["train"].group,
        coloured[1]["test"].image,
        factors[1]["train"].factors["x"],
    ):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
