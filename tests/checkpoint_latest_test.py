"""A run goes on from the newest step that is whole, and nothing that is not is ever deleted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkpoint_example import (
    assert_same,
    biggest,
    files,
    flip,
    like,
    make_state,
    save_steps,
    steps_on_disk,
    truncate,
)

from experiments.checkpoint import (
    CheckpointDamaged,
    CheckpointMismatch,
    Checkpoints,
    Restored,
    SetAside,
)
from experiments.checkpointing import seal

TEMPLATE = like(make_state())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with steps 1, the best, 2 and 3, to be copied, not touched."""
    workdir = tmp_path_factory.mktemp("written")
    save_steps(workdir, {1: 0.75, 2: 0.5, 3: 0.25})
    return workdir


@pytest.fixture
def workdir(written: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be broken."""
    return Path(shutil.copytree(written, tmp_path / "run"))


def restored(workdir: Path, **options: Any) -> Restored | None:
    with Checkpoints(workdir, **options) as checkpoints:
        found = checkpoints.restore_latest(TEMPLATE)
    if found is not None:
        assert_same(found.state, make_state(found.step))
    return found


def every_file(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def step_of(workdir: Path, step: int) -> Path:
    return workdir / "checkpoints" / str(step)


# What may stand at a step.


def truncated(path: Path) -> None:
    truncate(max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))


def bits_flipped(path: Path) -> None:
    flip(next((path / "checksums").glob("metadata")))


def without_state(path: Path) -> None:
    shutil.rmtree(path / "state")


def with_damaged_metrics(path: Path) -> None:
    (path / "metrics/metrics").write_text('{"validation_accuracy": NaN}')


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def foreign_directory(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "notes.txt").write_text("my notes")


def foreign_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("my notes")


DAMAGE = (
    truncated,
    bits_flipped,
    without_state,
    with_damaged_metrics,
    empty,
    foreign_directory,
    foreign_file,
)


def test_the_newest_step_is_restored_and_nothing_moved(workdir: Path) -> None:
    before = every_file(workdir)
    found = restored(workdir)
    assert found is not None
    assert (found.step, found.set_aside) == (3, ())
    assert every_file(workdir) == before
    assert not (workdir / "damaged").exists()


def test_where_there_is_no_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert restored(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert restored(tmp_path) is None
    assert (tmp_path / "checkpoints" / "notes").is_dir()


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_step_is_set_aside_and_can_be_saved_again(
    workdir: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    damage(step_of(workdir, 3))
    content = every_file(step_of(workdir, 3))
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore_latest(TEMPLATE)
        assert found is not None
        assert found.step == 2
        assert_same(found.state, make_state(2))
        (aside,) = found.set_aside
        assert (aside.step, aside.moved_to) == (3, workdir / "damaged" / "3")
        assert "\n" not in aside.reason
        assert len(aside.reason) > 10
        assert every_file(aside.moved_to) == content
        assert checkpoints.latest_step() == 2
        checkpoints.save(3, make_state(3), metrics={"validation_accuracy": 0.9})
        assert checkpoints.best_step() == 3
    assert capfd.readouterr().err == ""
    again = restored(workdir)
    assert again is not None
    assert (again.step, again.set_aside) == (3, ())


def test_several_damaged_steps_are_passed_over_the_newest_first(workdir: Path) -> None:
    for step in (2, 3):
        without_state(step_of(workdir, step))
    foreign_directory(Path(shutil.copytree(step_of(workdir, 1), step_of(workdir, 10**12))))
    (workdir / "damaged" / "3").mkdir(parents=True)  # taken, as is the next
    (workdir / "damaged" / "3.1").write_text("")
    found = restored(workdir)
    assert found is not None
    assert found.step == 1
    names = [(aside.step, aside.moved_to.name) for aside in found.set_aside if aside.moved_to]
    assert names == [(10**12, str(10**12)), (3, "3.2"), (2, "2")]
    assert steps_on_disk(workdir) == [1]


def test_older_steps_that_no_writer_could_list_are_set_aside_too(workdir: Path) -> None:
    with_damaged_metrics(step_of(workdir, 1))
    foreign_file(step_of(workdir, 2))
    with Checkpoints(workdir) as checkpoints:
        found = checkpoints.restore_latest(TEMPLATE)
        assert found is not None
        assert found.step == 3
        assert [(aside.step, aside.reason) for aside in found.set_aside] == [
            (2, "it is not a directory"),
            (1, "its file metrics/metrics is damaged: ValueError('validation_accuracy is nan')"),
        ]
        checkpoints.save(4, make_state(4))
        assert checkpoints.best_step() == 3
    assert steps_on_disk(workdir) == [3, 4]


def test_any_truncated_file_leaves_a_run_that_goes_on(
    written: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = set()
    for index, path in enumerate(files(written, 3)):
        workdir = Path(shutil.copytree(written, tmp_path / str(index)))
        truncate(workdir / path.relative_to(written))
        found = restored(workdir)
        assert found is not None
        steps.add(found.step)
        save_steps(workdir, {4: 0.9})
        again = restored(workdir)
        assert again is not None
        assert (again.step, again.set_aside) == (4, ())
    assert steps == {2, 3}
    assert capfd.readouterr().err == ""


def test_where_none_is_whole_nothing_is_moved(workdir: Path) -> None:
    for step in (1, 2, 3):
        truncate(biggest(workdir, step))
    before = every_file(workdir)
    with pytest.raises(
        CheckpointDamaged, match=r"none of .*/checkpoints can be .*step 3: .*step 1"
    ):
        restored(workdir)
    assert every_file(workdir) == before


def test_a_reader_moves_nothing(workdir: Path) -> None:
    without_state(step_of(workdir, 3))
    before = every_file(workdir)
    found = restored(workdir, read_only=True)
    assert found is not None
    assert found.step == 2
    assert found.set_aside == (
        SetAside(3, None, "FileNotFoundError: its directory state is missing"),
    )
    assert every_file(workdir) == before


def test_a_reader_looks_again_when_its_step_has_made_way_for_newer_ones(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(workdir, read_only=True) as reader:
        listed = reader._steps
        monkeypatch.setattr(reader, "_steps", lambda: monkeypatch.undo() or listed())
        with Checkpoints(workdir) as writer:
            steps = listed()
            monkeypatch.setattr(reader, "_steps", lambda: monkeypatch.undo() or steps)
            for step in (4, 5):
                writer.save(step, make_state(step))
        found = reader.restore_latest(TEMPLATE)
    assert found is not None
    assert (found.step, found.set_aside) == (5, ())


def test_the_best_step_is_not_guessed_where_metrics_are_damaged(workdir: Path) -> None:
    with_damaged_metrics(step_of(workdir, 1))
    with (
        Checkpoints(workdir, read_only=True) as checkpoints,
        pytest.raises(
            CheckpointDamaged, match=r"best step cannot be told: of .*/checkpoints/1 its"
        ),
    ):
        checkpoints.best_step()


# What is whole but does not fit


def test_another_structure_is_no_damage(workdir: Path) -> None:
    without_state(step_of(workdir, 3))
    before = every_file(workdir)
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(CheckpointMismatch, match=r"checkpoints/2 does not fit this run: opt_state"),
    ):
        checkpoints.restore_latest(like(make_state(width=17)))
    assert every_file(workdir) == before


def test_a_newer_format_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_steps(tmp_path, {1: None})
    with monkeypatch.context() as newer:
        newer.setattr(seal, "FORMAT", seal.FORMAT + 1)
        save_steps(tmp_path, {2: None})
    before = every_file(tmp_path)
    with pytest.raises(
        CheckpointMismatch, match=r"/checkpoints/2 .*by a newer semjax, in format 3,"
    ):
        restored(tmp_path)
    assert every_file(tmp_path) == before


def save_in_format_1(workdir: Path, step: int, state: Any) -> None:
    """Writes as the first versions of this program did."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    checksums = {
        jax.tree_util.keystr(path, simple=True, separator="/"): seal._crc32(leaf)
        for path, leaf in leaves
    }
    handlers = {
        "state": ocp.StandardCheckpointHandler(),
        "checksums": ocp.JsonCheckpointHandler(),
    }
    args = {"state": ocp.args.StandardSave(state), "checksums": ocp.args.JsonSave(checksums)}
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["validation_accuracy"])
    with ocp.CheckpointManager(
        workdir / "checkpoints", options=options, item_handlers=handlers
    ) as manager:
        manager.save(
            step, args=ocp.args.Composite(**args), metrics={"validation_accuracy": step / 8}
        )


def test_format_1_is_read_and_verified(tmp_path: Path) -> None:
    for step in (1, 2):
        save_in_format_1(tmp_path, step, make_state(step))
    found = restored(tmp_path)
    assert found is not None
    assert (found.step, found.set_aside) == (2, ())
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 2
        checkpoints.save(3, make_state(3))
    # The checksums of another state stand for flipped bytes.
    other = tmp_path / "other"
    save_in_format_1(other, 2, make_state(7))
    checksums = Path("checkpoints/2/checksums/metadata")
    shutil.copy(other / checksums, tmp_path / checksums)
    shutil.rmtree(step_of(tmp_path, 3))
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointDamaged, match="checksum in"),
    ):
        checkpoints.restore(TEMPLATE)


def test_format_1_tells_damage_by_the_names(tmp_path: Path) -> None:
    save_in_format_1(tmp_path, 1, {"w": jnp.arange(3.0)})
    listing = step_of(tmp_path, 1) / "state/_METADATA"
    listing.write_text(listing.read_text().replace("w", "v"))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointDamaged):
        checkpoints.restore_latest(like({"w": jnp.asarray(np.zeros(3, np.float32))}))
