"""Laws of experiments.datasets.loading: the digits, hold-outs and options."""

import dataclasses
import types

import made_sets
import numpy as np
import pytest

from experiments.config import Config
from experiments.datasets import data, loading, order, sources


def _keys(split):
    """The rows of a split as hashable values."""
    return [
        (image.tobytes(), int(label)) for image, label in zip(split.image, split.label, strict=True)
    ]


@pytest.fixture(scope="module")
def digits():
    return loading.load("digits")


@pytest.fixture(scope="module")
def held_out():
    return loading.load("digits", validation_fraction=0.25)


def test_digits_are_scikit_learns(digits):
    from sklearn import datasets

    source = datasets.load_digits()
    image = np.concatenate([digits.train.image, digits.test.image])
    assert (image.shape, image.dtype, digits.num_classes) == ((1797, 8, 8, 1), np.uint8, 10)
    assert (image.min(), image.max()) == (0, 255)
    # 16 grey levels survive the rescaling, so the original can be had back.
    rows = {
        (np.rint(i[..., 0] / 255 * 16).tobytes(), int(k))
        for i, k in zip(image, np.concatenate([digits.train.label, digits.test.label]), strict=True)
    }
    assert rows == {
        (i.tobytes(), int(k)) for i, k in zip(source.images, source.target, strict=True)
    }


def test_digits_are_the_same_where_scikit_learn_keeps_its_file_elsewhere(monkeypatch):
    direct = sources._scikit_learn_digits()
    nowhere = types.SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(sources, "importlib", types.SimpleNamespace(util=nowhere))
    for found, expected in zip(sources._scikit_learn_digits(), direct, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_digits_test_split_is_stratified_and_disjoint(digits):
    assert (len(digits.train), len(digits.test), digits.validation) == (1437, 360, None)
    assert not set(_keys(digits.train)) & set(_keys(digits.test))
    share = np.bincount(digits.test.label) / np.bincount(
        np.concatenate([digits.train.label, digits.test.label])
    )
    np.testing.assert_allclose(share, 360 / 1797, atol=1 / 174)


def test_the_hold_out_leaves_the_test_split_alone(digits, held_out):
    assert _keys(held_out.test) == _keys(digits.test)


def test_the_hold_out_and_the_rest_are_the_train_split(digits, held_out):
    assert (len(held_out.train), len(held_out.validation)) == (1078, 359)
    parts = _keys(held_out.train) + _keys(held_out.validation)
    assert sorted(parts) == sorted(_keys(digits.train))


def test_the_hold_out_is_stratified(digits, held_out):
    share = np.bincount(held_out.validation.label) / np.bincount(digits.train.label)
    np.testing.assert_allclose(share, 0.25, atol=1 / 138)


def test_the_hold_out_is_the_same_whatever_happened_before(held_out):
    np.random.seed(11)
    data.batch_at(held_out.train, 1000, batch_size=32, seed=9)
    order.uniform.cache_clear()
    again = loading.load("digits", validation_fraction=0.25)
    assert _keys(again.validation) == _keys(held_out.validation)


def test_mean_and_std_are_of_the_rows_trained_on(held_out):
    scaled = held_out.train.image.astype(np.float64) / 255
    np.testing.assert_allclose(held_out.mean, [scaled.mean()], rtol=1e-6)
    np.testing.assert_allclose(held_out.std, [scaled.std()], rtol=1e-6)
    assert held_out.mean.dtype == held_out.std.dtype == np.float32


def test_image_size_resizes_digits():
    resized = loading.load("digits", image_size=12)
    assert resized.train.image.shape == (1437, 12, 12, 1)
    assert resized.test.image.shape == (360, 12, 12, 1)


def test_loaded_arrays_cannot_be_changed_by_accident(digits):
    with pytest.raises(ValueError, match="read-only"):
        digits.test.image[0] = 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_validation_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        loading.load("digits", validation_fraction=fraction)


def test_a_hold_out_of_no_row_is_refused():
    with pytest.raises(data.DataError, match=r"validation_fraction 0\.0001 of 1437 train rows"):
        loading.load("digits", validation_fraction=0.0001)


def test_a_negative_image_size_is_refused():
    with pytest.raises(ValueError, match="image_size must be 0 or positive, got -1"):
        loading.load("digits", image_size=-1)


def test_embedded_sets_are_found_by_name_with_their_groups_and_factors():
    coloured = loading.load("coloured_digits:0.8", image_size=9)
    assert (coloured.num_classes, coloured.num_groups, coloured.attribute) == (2, 2, "colour")
    assert coloured.train.image.shape == (1437, 9, 9, 3)
    factors = loading.load("digit_factors", image_size=16)
    assert (factors.num_classes, factors.num_groups) == (10, None)
    assert set(factors.test.factors) == {"x", "y", "scale", "rotation", "colour", "background"}


def test_a_data_set_without_groups_has_none(digits):
    assert digits.num_groups is None and digits.train.group is None
    assert digits.train.factors is None


def test_a_hold_out_has_the_groups_in_proportion():
    whole = loading.load("coloured_digits").train
    data_ = loading.load("coloured_digits", validation_fraction=0.25)
    for label in (0, 1):
        for group in (0, 1):
            found, of = (
                int(((split.label == label) & (split.group == group)).sum())
                for split in (data_.validation, whole)
            )
            assert abs(found - of / 4) <= 1
    assert len(data_.train) + len(data_.validation) == 1437
    # The colour of a row is the channel that its ink is in.
    ink = data_.validation.image.any((1, 2))
    np.testing.assert_array_equal(ink.argmax(1), data_.validation.group)


def test_renderings_of_one_digit_are_held_out_together():
    data_ = loading.load("digit_factors", image_size=16, validation_fraction=0.25)
    train, held = data_.train, data_.validation
    assert not set(train.source) & set(held.source)
    assert (len(held), len(train)) == (4 * 359, 4 * 1078)
    share = np.bincount(held.label) / np.bincount(np.concatenate([train.label, held.label]))
    np.testing.assert_allclose(share, 0.25, atol=1 / 138)
    whole = loading.load("digit_factors", image_size=16).train
    rows = np.flatnonzero(np.isin(whole.source, held.source))
    np.testing.assert_array_equal(held.image, whole.image[rows])
    for name, values in whole.factors.items():
        np.testing.assert_array_equal(held.factors[name], values[rows])


@pytest.mark.parametrize("classes", [2, 7, 10])
@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_the_first_classes_are_kept_in_every_split(digits, classes, fraction):
    found = loading.load("digits", classes=classes, validation_fraction=fraction)
    assert found.num_classes == classes
    held = [] if found.validation is None else _keys(found.validation)
    assert bool(held) == bool(fraction)
    for rows, whole in (
        (_keys(found.train) + held, digits.train),
        (_keys(found.test), digits.test),
    ):
        wanted = [row for row in _keys(whole) if row[1] < classes]
        assert sorted(rows) == sorted(wanted)
        assert {label for _, label in rows} == set(range(classes))
    scaled = found.train.image / 255
    np.testing.assert_allclose(found.mean, [scaled.mean()], rtol=1e-6)


def test_rows_of_the_first_classes_keep_what_is_known_of_them():
    whole = loading.load("digit_factors", image_size=16)
    few = loading.load("digit_factors", image_size=16, classes=3)
    for split in ("train", "test"):
        rows = np.flatnonzero(getattr(whole, split).label < 3)
        kept = getattr(few, split)
        np.testing.assert_array_equal(kept.source, getattr(whole, split).source[rows])
        for name, values in getattr(whole, split).factors.items():
            np.testing.assert_array_equal(kept.factors[name], values[rows])


def test_more_classes_than_there_are_and_fewer_than_two_are_refused():
    with pytest.raises(data.DataError, match=r"^--classes=11: digits has 10 classes$"):
        loading.load("digits", classes=11)
    for classes in (1, -1):
        with pytest.raises(ValueError, match=f"0, for all, or at least 2; got {classes}"):
            loading.load("digits", classes=classes)


def test_a_split_without_the_first_classes_is_refused(tmp_path):
    names = ("train/a/1", "train/b/2", "train/c/3", "test/c/4")
    source = made_sets.write(tmp_path, {f"{name}.png": made_sets.colour(9) for name in names})
    assert len(loading.load(source, classes=3).test) == 1
    with pytest.raises(data.DataError, match=r"^--classes=2: split test of .* has no row of them"):
        loading.load(source, classes=2)


@pytest.mark.parametrize("classes", [0, 4])
def test_the_validation_rows_can_stand_as_the_test_split(digits, classes):
    options = {"validation_fraction": 0.25, "classes": classes}
    usual = loading.load("digits", **options)
    found = loading.load("digits", test_split="validation", **options)
    assert found.validation is None
    assert _keys(found.test) == _keys(usual.validation)
    assert _keys(found.train) == _keys(usual.train)
    assert not set(_keys(digits.test)) & set(_keys(found.test) + _keys(found.train))
    np.testing.assert_array_equal(found.mean, usual.mean)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_folders_own_validation_rows_can_stand_as_the_test_split(tmp_path, fraction):
    files = {"train/a/1.png": 1, "train/a/2.png": 2, "train/b/3.png": 3, "train/b/4.png": 4}
    files |= {"test/a/5.png": 5, "val/b/6.png": 6}
    source = made_sets.write(tmp_path, {k: made_sets.colour(red) for k, red in files.items()})
    options = {"validation_fraction": fraction}
    held = loading.load(source, **options).validation
    found = loading.load(source, test_split="validation", **options)
    np.testing.assert_array_equal(found.test.image, held.image)
    reds = set(found.test.image[..., 0].flat)
    assert reds == {6} if not fraction else reds < {1, 2, 3, 4}


def test_a_test_split_of_no_rows_or_of_another_name_is_refused():
    with pytest.raises(data.DataError, match="digits has no validation rows; --validation_fract"):
        loading.load("digits", test_split="validation")
    with pytest.raises(ValueError, match="test_split must be test or validation; got 'train'"):
        loading.load("digits", test_split="train")


@pytest.mark.parametrize(
    "options", [{"classes": 2}, {"test_split": "validation", "validation_fraction": 0.25}]
)
def test_what_needs_rows_in_memory_is_not_streamed(tmp_path, options):
    source = made_sets.noise_folder(tmp_path)
    with pytest.raises(data.DataError, match=r"is streamed: --classes and --test_split=validation"):
        loading.load(source, image_size=8, streaming="on", **options)
    assert len(loading.load(source, image_size=8, streaming="auto", **options).test)


def test_a_run_has_the_classes_and_the_test_split_of_its_flags():
    config = Config(classes=3, test_split="validation", validation_fraction=0.25)
    found = loading.of_run(config)
    assert (found.num_classes, found.validation) == (3, None)
    expected = loading.load("digits", classes=3, validation_fraction=0.25).validation
    assert _keys(found.test) == _keys(expected)


def test_other_data_comes_in_the_size_and_channels_of_the_models():
    digits = loading.load("digits")
    assert loading.load_like(digits, "coloured_digits").test.image.shape[1:] == (8, 8, 1)
    colour = loading.load_like(loading.load("coloured_digits", image_size=8), "digits")
    np.testing.assert_array_equal(colour.test.image, np.repeat(digits.test.image, 3, axis=-1))
    # Grey stays what it was when it comes back as one channel.
    back = loading._with_channels("x", colour.test, 1)
    np.testing.assert_array_equal(back.image, digits.test.image)
    with pytest.raises(data.DataError, match="x has images of 3 channels, not 4"):
        loading._with_channels("x", colour.test, 4)
    tall = dataclasses.replace(digits.test, image=digits.test.image[:, :4])
    with pytest.raises(data.DataError, match="cannot be brought to 4x8 pixels"):
        loading.load_like(dataclasses.replace(digits, test=tall), "digits")
