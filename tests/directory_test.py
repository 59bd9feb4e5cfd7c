"""The directory of a run as files; more of it is tested where a run is, in checkpoint_test."""

import contextlib
import itertools
import os
import shutil
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.checkpointing import directory
from experiments.checkpointing.errors import CheckpointDamaged, CheckpointError


class Usage(NamedTuple):
    """What `shutil.disk_usage` says."""

    free: int


def test_steps_are_what_is_named_like_one(tmp_path: Path):
    for name in ("10", "9", "0", "notes", "-1", "007", "1.5", "11.orbax-checkpoint-tmp", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "12").write_text("a file")
    assert directory.steps(tmp_path) == [0, 9, 10, 12]
    assert directory.steps(tmp_path / "nowhere") == []


def test_one_process_holds_the_directory(tmp_path: Path):
    held = directory.lock(tmp_path / "run")
    with pytest.raises(CheckpointError, match="another process writes in"):
        directory.lock(tmp_path / "run")
    os.close(held)
    os.close(directory.lock(tmp_path / "run"))


def test_what_a_killed_writer_has_left_is_removed(tmp_path: Path):
    (tmp_path / "3.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (tmp_path / "2").mkdir()
    directory.remove_half_written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]
    directory.remove_half_written(tmp_path / "nowhere")
    (tmp_path / "3.orbax-checkpoint-tmp").write_text("a file")
    with pytest.raises(CheckpointError, match=r"3\.orbax-checkpoint-tmp cannot be removed"):
        directory.remove_half_written(tmp_path)


def test_what_another_thread_still_writes_is_waited_for(tmp_path: Path):
    half_written = tmp_path / "3.orbax-checkpoint-tmp"

    def write_late():
        for i in itertools.count():
            if time.monotonic() > end:
                break
            with contextlib.suppress(FileNotFoundError):  # removed between the two
                half_written.mkdir(exist_ok=True)
                (half_written / str(i)).touch()

    end = time.monotonic() + 0.5
    writer = threading.Thread(target=write_late)
    writer.start()
    while not half_written.exists():
        time.sleep(0.001)
    while time.monotonic() < end:
        directory.remove_half_written(tmp_path)
    writer.join()
    directory.remove_half_written(tmp_path)
    assert not half_written.exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"m": null}', '{"m": true}', '{"m": 1}', '{"m": Infinity}', "[" * 100_000],
)
def test_a_damaged_quality_is_an_error(tmp_path: Path, content: str):
    (tmp_path / "metrics").mkdir()
    with pytest.raises(ValueError, match="metrics/metrics is damaged"):
        directory.quality(tmp_path, "m")  # the file is missing
    (tmp_path / "metrics" / "metrics").write_text(content)
    with pytest.raises(ValueError, match="metrics/metrics is damaged"):
        directory.quality(tmp_path, "m")
    assert "metrics/metrics is damaged" in directory.unlistable(tmp_path, "m")


def test_a_quality_is_written_and_written_over(tmp_path: Path):
    assert directory.quality(tmp_path, "m") is None
    for value in (0.5, 0.25):
        directory.write_metrics(tmp_path, {"m": value})
        assert directory.quality(tmp_path, "m") == value
    assert directory.unlistable(tmp_path, "m") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["metrics"]


def test_qualities_are_those_of_the_steps_that_are_ranked(tmp_path: Path):
    for step in (1, 2, 3):
        (tmp_path / str(step)).mkdir()
    directory.write_metrics(tmp_path / "1", {"m": 0.5})
    directory.write_metrics(tmp_path / "3", {"m": 0.25})
    assert directory.qualities(tmp_path, "m") == {1: 0.5, 3: 0.25}
    with pytest.raises(CheckpointDamaged, match=r"best step cannot be told: of .*/1 its file met"):
        directory.qualities(tmp_path, "other")


def test_a_step_that_cannot_be_moved_is_an_error(tmp_path: Path):
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "damaged").write_text("a file")
    with pytest.raises(CheckpointError, match=r"checkpoints/1 cannot be moved to .*damaged/1 \("):
        directory.set_aside(tmp_path / "checkpoints", [1])


def test_room_is_asked_for_where_the_directory_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage(free=2**30)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    directory.require_room(tmp_path / "run" / "checkpoints", 2**29)
    assert asked == [tmp_path]
    with pytest.raises(CheckpointError, match=r"needs 1,040 MiB and the disk has 1,024 left"):
        directory.require_room(tmp_path, 2**30)


def test_a_disk_that_does_not_tell_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(path: Path) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    directory.require_room(tmp_path, 2**60)


def test_a_pipe_and_a_broken_link_are_no_files(tmp_path: Path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0").write_bytes(b"1")
    directory.require_files(tmp_path)
    os.mkfifo(tmp_path / "d" / "1")
    with pytest.raises(ValueError, match="d/1 is not a regular file"):
        directory.require_files(tmp_path)
    (tmp_path / "d" / "1").unlink()
    (tmp_path / "d" / "2").symlink_to("nowhere")
    with pytest.raises(ValueError, match="d/2 is not a regular file"):
        directory.require_files(tmp_path)
