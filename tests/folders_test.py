"""Folders of images: rows, their order and their mode; what is refused stands in sources_test."""

import pathlib

import made_sets
import numpy as np
import pytest

from experiments.datasets import folders
from experiments.datasets.data import DataError


def found(tmp_path, files):
    made_sets.write(tmp_path, files)
    return folders.splits(tmp_path)


def test_rows_are_in_the_order_of_class_then_name(tmp_path):
    names = ("train/dog/b.png", "train/cat/z.png", "train/dog/a.png", "test/dog/ü.JPG")
    classes, splits = found(tmp_path, dict.fromkeys(names, b"unread"))
    assert classes == ["cat", "dog"]
    train = splits["train"]
    paths = [path.relative_to(tmp_path).as_posix() for path in train.paths()]
    assert paths == ["train/cat/z.png", "train/dog/a.png", "train/dog/b.png"]
    assert train.label.tolist() == [0, 1, 1] and train.label.dtype == np.int32
    assert splits["test"].path(0) == tmp_path / "test" / "dog" / "ü.JPG"
    assert [len(split) for split in splits.values()] == [3, 1]


def test_an_example_names_its_file_and_is_not_read(tmp_path):
    _, splits = found(tmp_path, {"train/a/1.png": b"", "train/b/2.png": b"", "test/a/3.png": b""})
    example = splits["train"].example(1)
    assert (example.source, example.label) == (tmp_path / "train" / "b" / "2.png", 1)
    assert example.where == str(example.source)


def test_a_damaged_image_has_no_say_in_the_mode(tmp_path):
    grey = made_sets.encoded(made_sets.noise(1, mode="L")[0])
    files = {"train/a/1.png": b"no image", "train/a/2.png": grey, "test/a/1.png": grey}
    assert folders.mode(found(tmp_path, files)[1]) == "L"
    colour = made_sets.encoded(made_sets.noise(1)[0])
    assert folders.mode(found(tmp_path, files | {"test/a/2.png": colour})[1]) == "RGB"


def test_a_file_that_is_gone_is_named(tmp_path):
    _, splits = found(tmp_path, {"train/a/1.png": b"", "test/a/1.png": b""})
    pathlib.Path(tmp_path, "test", "a", "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png cannot be read: No such file"):
        folders.mode(splits)
