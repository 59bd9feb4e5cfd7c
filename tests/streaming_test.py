"""Streams: the rows are those of the same data in memory, whoever reads them and whenever."""

import dataclasses
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import made_sets
import numpy as np
import pytest

from experiments.datasets import data, loading, streaming
from experiments.datasets.data import DataError

ROOT = pathlib.Path(__file__).resolve().parents[1]
BATCH, SEED = 6, 11
DRAW = {"batch_size": BATCH, "seed": SEED}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_sets.noise_folder(tmp_path_factory.mktemp("noise"), size=None)


@pytest.fixture(scope="module")
def tfds(tmp_path_factory):
    """The root directory of a prepared set `toy`, its pictures of various sizes."""
    root = tmp_path_factory.mktemp("toy")
    pictures = made_sets.noise(26, size=None)
    made = [{"image": picture, "label": k % 3} for k, picture in enumerate(pictures)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(root))
        features = made_sets.features(shape=(None, None, 3))
        splits = {"train": made[:19], "test": made[19:]}
        made_sets.prepare(root, features, splits, num_shards=2)
    return str(root)


def pair(name, **options):
    """The same data in memory and as streams."""
    return [loading.load(name, image_size=9, streaming=way, **options) for way in ("off", "on")]


def assert_rows(found, expected):
    assert found["valid"].all()
    assert set(found) == {*expected, "valid"}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("kind", ["folder", "tfds"])
def test_batches_are_those_of_the_data_in_memory(request, kind):
    name = request.getfixturevalue(kind)
    here, there = pair(name) if kind == "folder" else pair("toy", data_dir=name)
    np.testing.assert_array_equal(there.mean, here.mean)
    found = streaming.batches(there.train, 2, **DRAW)
    for step in range(2, 9):  # more than an epoch
        expected = data.batch_at(here.train, step, **DRAW)
        assert_rows(next(found), expected)
        assert_rows(streaming.batch_at(there.train, step, **DRAW), expected)
    found.close()
    batches = streaming.eval_batches(there.test, 4), data.eval_batches(here.test, 4)
    for one, other in zip(*batches, strict=True):
        for column in ("image", "label", "valid"):
            np.testing.assert_array_equal(one[column], other[column])


def test_a_process_reads_its_own_rows_only(folder):
    here, there = pair(folder)
    own = np.array([1, 4])
    found = next(streaming.batches(there.train, 0, own=own, **DRAW))
    expected = data.batch_at(here.train, 0, **DRAW)
    np.testing.assert_array_equal(found["image"], expected["image"][own])
    asked = []
    counting = dataclasses.replace(there.test, stored=_Counting(there.test.stored, asked))
    parts = list(streaming.eval_batches(counting, 4, own=np.array([3])))
    assert [part["valid"].tolist() for part in parts] == [[True], [True], [False]]
    assert sorted(asked) == [3, 7]


class _Counting:
    """Stored images that note which rows are asked for."""

    where, label = "counted", None

    def __init__(self, stored, asked):
        self._stored, self._asked = stored, asked

    def __len__(self):
        return len(self._stored)

    def example(self, row):
        self._asked.append(row)
        return self._stored.example(row)


def test_balanced_sampling_and_weights_of_rows_are_those_in_memory(folder):
    here, there = pair(folder)
    weight = np.linspace(0, 1, len(here.train)).astype(np.float32)
    here, there = (dataclasses.replace(x.train, sample_weight=weight) for x in (here, there))
    for step in (0, 3):
        expected = data.batch_at(here, step, sampling="balanced", **DRAW)
        assert "sample_weight" in expected
        assert_rows(streaming.batch_at(there, step, sampling="balanced", **DRAW), expected)


def test_squeezed_rows_bring_the_aspect_of_their_picture(folder):
    train = loading.load(folder, image_size=14, random_resized_crop=True, streaming="on").train
    batch = streaming.batch_at(train, 0, **DRAW)
    assert batch["image"].shape == (BATCH, 16, 16, 3) and batch["aspect"].dtype == np.float32
    for row, aspect in zip(data.rows_at(train, 0, **DRAW), batch["aspect"], strict=True):
        from PIL import Image

        with Image.open(train.stored.path(int(row))) as picture:
            assert aspect == np.float32(picture.width / picture.height)
    assert "aspect" not in next(streaming.eval_batches(train, 4))
    assert next(streaming.eval_batches(train, 4))["image"].shape == (4, 14, 14, 3)


# Damage.


@pytest.fixture
def damaged(tmp_path):
    """A folder of 203 training images, three of which are no images; returns its name and them."""
    name = made_sets.noise_folder(tmp_path, train=(200, 3), size=(9, 9))
    bad = [tmp_path / "train" / "a" / f"{k:03}.png" for k in (7, 80)]
    bad[0].write_bytes(b"no image")
    bad[1].write_bytes(made_sets.huge_png())
    (tmp_path / "train" / "b" / "001.png").write_bytes(b"")
    return name, [7, 80, 201]


def test_damaged_images_are_rows_of_zeros_that_do_not_count(damaged, capsys):
    name, bad = damaged
    train = loading.load(name, streaming="on", damaged="skip").train
    found = list(streaming.eval_batches(train, 29))
    valid = np.concatenate([batch["valid"] for batch in found])
    image = np.concatenate([batch["image"] for batch in found])
    label = np.concatenate([batch["label"] for batch in found])
    assert np.flatnonzero(~valid).tolist() == bad
    assert not image[bad].any() and label[201] == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith("warning: left out, ") for line in said)
    assert streaming.in_memory(train).image.shape == (200, 9, 9, 3)


def test_in_memory_damaged_images_are_left_out_and_never_kept(damaged, tmp_path, capsys):
    name, _ = damaged
    for _ in range(2):  # said again by the next run: such data is not kept
        found = loading.load(name, damaged="skip", cache=str(tmp_path / "cache"))
        assert (len(found.train), np.bincount(found.train.label).tolist()) == (200, [198, 2])
        assert len(capsys.readouterr().err.splitlines()) == 3
    for way in ("on", "off"):
        with pytest.raises(DataError, match="--damaged_images=skip leaves such images out"):
            loading.load(name, damaged="refuse", streaming=way)


def test_too_many_damaged_images_end_a_run(damaged, tmp_path):
    name, _ = damaged
    (tmp_path / "train" / "a" / "100.png").write_bytes(b"no image")
    for way in ("on", "off"):
        with pytest.raises(DataError, match=r"4 of 203 images cannot be decoded, more than one in"):
            loading.load(name, damaged="skip", streaming=way)


def test_a_file_that_is_gone_is_no_damaged_image(tmp_path):
    train = loading.load(made_sets.noise_folder(tmp_path), streaming="on", damaged="skip").train
    (tmp_path / "train" / "a" / "003.png").unlink()
    with pytest.raises(DataError, match=r"003\.png cannot be read: No such file"):
        list(streaming.eval_batches(train, 4))


def test_an_image_of_another_size_and_a_label_that_is_none_are_named(tmp_path):
    train = loading.load(made_sets.noise_folder(tmp_path), streaming="on").train
    other = dataclasses.replace(train, num_classes=1)
    with pytest.raises(DataError, match=r"b/000\.png: label 1 not in \[0, 1\)"):
        list(streaming.eval_batches(other, 4))
    made_sets.noise(1, size=(5, 4))[0].save(tmp_path / "train" / "a" / "003.png")
    with pytest.raises(DataError, match="the image is 4x5x3 but others are 12x16x3; set image"):
        list(streaming.eval_batches(train, 4))


# Processes.

PROGRAM = """
import hashlib, multiprocessing, sys
from experiments.datasets import loading, streaming

def main():
    name, first, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    train = loading.load(name, image_size=9, streaming="on").train
    import dataclasses
    train = dataclasses.replace(train, workers=workers)
    for batch in streaming.batches(train, first, batch_size=6, seed=11):
        found = hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch)))
        children = [child.pid for child in multiprocessing.active_children()]
        print(found.hexdigest(), *children, flush=True)

if __name__ == "__main__":
    main()
"""


def served(script, name, first, workers, count):
    """The digests of some batches from a step on, and the processes that read; then kill -9."""
    process = subprocess.Popen(
        [sys.executable, str(script), name, str(first), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    timer = _kill_after(process, 120)
    try:
        lines = [process.stdout.readline().split() for _ in range(count)]
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
        timer.cancel()
    return [line[0] for line in lines], {int(pid) for line in lines for pid in line[1:]}


def _kill_after(process, seconds):
    import threading

    timer = threading.Timer(seconds, process.kill)
    timer.start()
    return timer


def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_killed_and_resumed_it_serves_the_same_rows_and_leaves_no_process(folder, tmp_path):
    """Killed without warning at some step while two processes read; then threads read on."""
    script = tmp_path / "serve.py"
    script.write_text(PROGRAM)
    train = loading.load(folder, image_size=9, streaming="on").train

    def expected(step):
        batch = streaming.batch_at(train, step, **DRAW)
        content = b"".join(batch[name].tobytes() for name in sorted(batch))
        return hashlib.sha256(content).hexdigest()

    count = int(np.random.default_rng().integers(3, 9))
    first, children = served(script, folder, 0, 2, count)
    second, _ = served(script, folder, count, 0, 4)
    assert first + second == [expected(step) for step in range(count + 4)]
    assert len(children) == 2
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = [pid for pid in children if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
