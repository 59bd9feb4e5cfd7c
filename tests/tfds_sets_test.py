"""Records of a TFDS set in any order; what of such a set is refused stands in sources_test."""

import copy
import tempfile

import made_sets
import numpy as np
import pytest

from experiments.datasets import tfds_sets
from experiments.datasets.data import DataError


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A prepared set of 30 rows in two shards and 6 rows in one."""
    root = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(root))
        splits = {"train": made_sets.rows(30), "test": made_sets.rows(6)}
        return made_sets.prepare(root, made_sets.features(), splits, num_shards=2)


@pytest.fixture
def rows(directory):
    return tfds_sets.TfdsRows(tfds_sets.describe(directory), "train")


def key(example):
    return example.where, example.source, example.label


def test_a_set_is_found_and_described(directory):
    assert tfds_sets.find("toy:1.0.0", directory.parents[1], download=False) == directory
    found = tfds_sets.describe(directory)
    assert (found.image, found.label, found.num_classes, found.mode) == ("image", "label", 3, "RGB")
    assert (found.splits, found.test, found.count("train")) == (["test", "train"], "test", 30)
    with pytest.raises(DataError, match=r"has the splits \['test', 'train'\]"):
        found.check_splits("train", "validation")


def test_records_are_those_that_are_read_in_order(directory, rows):
    expected = list(tfds_sets.examples(tfds_sets.describe(directory), "train"))
    assert len(rows) == len(expected) == 30
    for row in np.random.default_rng(0).permutation(30).tolist():
        assert key(rows.example(row)) == key(expected[row])


def test_a_copy_opens_its_files_anew(rows):
    first = key(rows.example(29))
    other = copy.copy(rows)
    assert not {"_records", "_parse"} & set(other.__dict__)
    assert key(other.example(29)) == first


def test_a_record_that_was_changed_or_lost_is_named(directory, tmp_path):
    kept = {path: path.read_bytes() for path in directory.glob("toy-train*")}
    try:
        rows = tfds_sets.TfdsRows(tfds_sets.describe(directory), "train")
        first = sorted(kept)[0]
        content = bytearray(kept[first])
        content[content.index(b"IHDR")] ^= 1
        first.write_bytes(bytes(content))
        with pytest.raises(DataError, match=r"toy-train.*, record \d+ cannot be read"):
            for row in range(15):
                rows.example(row)
        sorted(kept)[1].unlink()
        with pytest.raises(DataError, match=r"00001-of-00002, record 14 cannot be read"):
            rows.example(29)
        with pytest.raises(DataError, match=r"00001-of-00002 is missing: prepare the data set"):
            tfds_sets.TfdsRows(tfds_sets.describe(directory), "train")
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
