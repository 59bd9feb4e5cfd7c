"""Laws of experiments.datasets.loading: the digits, hold-outs and options."""

import dataclasses
import types

import numpy as np
import pytest

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
