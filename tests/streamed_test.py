"""What is streamed and how its rows are seen, by the name of a data set."""

import dataclasses
import tempfile

import made_sets
import numpy as np
import pytest

from experiments.config import Config
from experiments.datasets import data, loading, streamed
from experiments.datasets.data import DataError, Split
from experiments.datasets.decoding import View
from experiments.datasets.streaming import Stream


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_sets.noise_folder(tmp_path_factory.mktemp("noise"), size=None)


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """The root directory of a prepared set `toy`."""
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(root))
        splits = {"train": made_sets.rows(30), "test": made_sets.rows(6)}
        made_sets.prepare(root, made_sets.features(), splits)
    return str(root)


def test_a_folder_has_the_splits_of_the_same_folder_in_memory(folder):
    here = loading.load(folder, image_size=8, validation_fraction=0.25)
    there = loading.load(folder, image_size=8, validation_fraction=0.25, streaming="on")
    for name in ("train", "validation", "test"):
        split, stream = getattr(here, name), getattr(there, name)
        assert (len(stream), stream.image_shape) == (len(split), split.image_shape)
        np.testing.assert_array_equal(stream.label, split.label)
    for name in ("mean", "std"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    assert (there.num_classes, there.image_shape) == (here.num_classes, here.image_shape)


def test_a_tfds_set_has_its_own_size_without_image_size(tfds):
    found = loading.load("toy", data_dir=tfds, streaming="on")
    assert found.image_shape == found.train.image_shape == (4, 5, 3)
    assert (len(found.train), len(found.test), found.validation) == (30, 6, None)


def test_what_a_random_resized_crop_is_cut_from(folder):
    found = loading.load(folder, image_size=14, random_resized_crop=True, streaming="auto")
    assert found.train.trained.view == View(16) and found.train.image_shape == (16, 16, 3)
    assert found.train.shown.view == found.test.trained.view == View(14, shorter=16)
    assert found.image_shape == (14, 14, 3)
    options = {"image_size": 14, "random_resized_crop": True, "streaming": "on"}
    larger = loading.load(folder, stored_size=20, **options)
    assert larger.train.image_shape == (20, 20, 3)


def test_a_held_out_row_is_seen_as_an_evaluation_sees_it(folder):
    found = loading.load(
        folder, image_size=14, random_resized_crop=True, streaming="on", validation_fraction=0.25
    )
    assert found.validation.trained == found.train.shown != found.train.trained


@pytest.mark.parametrize(("spare", "is_streamed"), [(0, False), (-1, True)])
def test_auto_streams_what_would_take_too_much_memory(folder, monkeypatch, spare, is_streamed):
    monkeypatch.setattr(streamed, "_MOST_IN_MEMORY", 32 * 8 * 8 * 3 + spare)
    found = loading.load(folder, image_size=8, streaming="auto")
    assert isinstance(found.train, Stream) == is_streamed
    off = loading.load(folder, image_size=8)
    assert isinstance(off.train, Split)


def test_auto_counts_the_channels_and_the_size_that_images_have(tmp_path, monkeypatch):
    grey = made_sets.noise_folder(tmp_path, size=(16, 12), mode="L")
    found = streamed.find_folder(tmp_path)
    for limit, large in ((32 * 16 * 12, False), (32 * 16 * 12 - 1, True)):
        monkeypatch.setattr(streamed, "_MOST_IN_MEMORY", limit)
        assert streamed.too_large(found, 0) == large
    assert loading.load(grey, streaming="on").image_shape == (12, 16, 1)


@pytest.mark.parametrize("name", ["digits", "coloured_digits:0.9"])
def test_what_is_embedded_is_not_streamed(name):
    with pytest.raises(DataError, match=rf"^{name} cannot be streamed, which --streaming=on"):
        loading.load(name, streaming="on")
    assert isinstance(loading.load(name, streaming="auto").train, Split)


def test_labels_that_are_not_known_are_asked_for_in_vain(tfds):
    options = {"data_dir": tfds, "streaming": "on"}
    with pytest.raises(DataError, match=r"^--validation_fraction=0\.2: .*toy.*, split train, is"):
        loading.load("toy", validation_fraction=0.2, **options)
    with pytest.raises(DataError, match=r"^--sampling=balanced: .*toy.*, split train, is streamed"):
        train = loading.load("toy", **options).train
        data.rows_at(train, 0, batch_size=4, seed=0, sampling="balanced")


def test_the_sample_of_a_large_split_is_always_the_same(folder, monkeypatch):
    monkeypatch.setattr(streamed, "_SAMPLE_ROWS", 7)
    train = loading.load(folder, image_size=8, streaming="on").train
    whole = loading.load(folder, image_size=8).train
    rows = np.sort(data.fixed_order(len(train))[:7])
    np.testing.assert_array_equal(streamed.sample(train).image, whole.image[rows])


def test_a_hold_out_of_no_row_is_refused(folder):
    with pytest.raises(DataError, match=r"validation_fraction 0\.001 of 23 train rows is no row"):
        loading.load(folder, image_size=8, streaming="on", validation_fraction=0.001)


def test_wrong_options_are_named(folder):
    with pytest.raises(ValueError, match=r"streaming must be one of .*; got 'always'"):
        loading.load(folder, streaming="always")
    with pytest.raises(ValueError, match="random_resized_crop needs image_size"):
        loading.load(folder, streaming="on", random_resized_crop=True)


def test_the_flags_of_a_run_name_its_data(folder):
    config = Config(dataset=folder, image_size=14, random_resized_crop=True, data_workers=3)
    found = loading.of_run(config, workers=0)
    assert (found.train.image_shape, found.train.workers) == ((16, 16, 3), 0)
    assert loading.of_run(dataclasses.replace(config, streaming="on")).test.workers == 3


def test_a_streamed_set_in_memory_is_what_an_evaluation_sees(folder):
    found = loading.load(folder, image_size=14, random_resized_crop=True, streaming="on")
    whole = loading.in_memory(found, train_rows=5)
    assert [len(split) for split in (whole.train, whole.test)] == [5, 9]
    assert whole.train.image_shape == whole.image_shape == (14, 14, 3)
    assert loading.in_memory(whole, train_rows=5) is whole
