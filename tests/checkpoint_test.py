"""One writer, whole steps, the latest and the best kept, the same bits on any number of devices."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_example import assert_same, like, make_state, save_steps, steps_on_disk
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.checkpoint import CheckpointError, Checkpoints


class Usage(NamedTuple):
    """What `shutil.disk_usage` says."""

    free: int


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with steps 1 and 2, to be copied, not touched."""
    workdir = tmp_path_factory.mktemp("written")
    save_steps(workdir, {1: None, 2: None})
    return workdir


@pytest.fixture
def workdir(written: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be broken."""
    return Path(shutil.copytree(written, tmp_path / "run"))


# Saving and restoring


def test_a_state_comes_back_bit_for_bit_with_its_structure(tmp_path: Path) -> None:
    state = make_state(7)
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (None, None)
        checkpoints.save(7, state)
        assert_same(checkpoints.restore(like(state)), state)  # the save may still be under way
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 7
        assert_same(checkpoints.restore(state), state)  # arrays do as a template


def test_nan_infinity_and_minus_zero_come_back(tmp_path: Path) -> None:
    state = {"x": jnp.array([jnp.nan, -jnp.inf, -0.0])}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        assert_same(checkpoints.restore(like(state)), state)


def test_an_older_step_is_restored_on_request(workdir: Path) -> None:
    with Checkpoints(workdir) as checkpoints:
        assert_same(checkpoints.restore(like(make_state()), step=1), make_state(1))
        assert_same(checkpoints.restore(like(make_state())), make_state(2))


def test_the_saved_state_may_be_donated_at_once(tmp_path: Path) -> None:
    state = make_state(3, width=4096)
    expected = jax.tree.map(np.array, state)
    template = like(state)
    add = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state)
        for _ in range(3):
            state = add(state)
        assert_same(checkpoints.restore(template), expected)


@pytest.mark.parametrize(("saved_on", "restored_on"), [(1, 8), (8, 1), (8, 2)])
def test_a_state_is_restored_onto_another_number_of_devices(
    tmp_path: Path, saved_on: int, restored_on: int
) -> None:
    def sharding(count: int, *axes: str) -> NamedSharding:
        mesh = jax.make_mesh((count,), ("data",), (AxisType.Auto,), devices=jax.devices()[:count])
        return NamedSharding(mesh, PartitionSpec(*axes))

    state = {"split": jnp.arange(16.0), "copied": jnp.arange(3.0)}
    source = {"split": sharding(saved_on, "data"), "copied": sharding(saved_on)}
    target = {"split": sharding(restored_on, "data"), "copied": sharding(restored_on)}
    template = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, target
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jax.device_put(state, source))
        restored = checkpoints.restore(template)
    assert_same(restored, state)
    assert jax.tree.map(lambda x: x.sharding, restored) == target
    assert len(restored["split"].addressable_shards) == restored_on


def test_only_arrays_of_numbers_are_saved(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match=r"state leaf a/n must be .* got int: "):
            checkpoints.save(1, {"a": {"n": 3}})
        with pytest.raises(TypeError, match=r"state leaf n must be .* got ndarray: "):
            checkpoints.save(1, {"n": np.zeros(3)})
        with pytest.raises(TypeError, match=r"state leaf rng .* got key<.*key_data"):
            checkpoints.save(1, {"rng": jax.random.key(0)})
        with pytest.raises(TypeError, match=r"state leaf x .* got an empty one, float32\[0,3\]"):
            checkpoints.save(1, {"x": jnp.zeros((0, 3))})
        assert checkpoints.latest_step() is None


def test_a_template_without_shardings_is_refused_by_name(workdir: Path) -> None:
    template = jax.eval_shape(lambda: make_state())
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(ValueError, match=r"leaf step .*no shard"),
    ):
        checkpoints.restore(template)


# What is kept


def test_the_latest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.2, 5: 0.4})
    assert steps_on_disk(tmp_path) == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 5)
        assert_same(checkpoints.restore(like(make_state()), step=2), make_state(2))


def test_keep_counts_the_latest_ones(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: None, 2: None, 3: None, 4: None}, keep=3)
    assert steps_on_disk(tmp_path) == [2, 3, 4]
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)


def test_the_best_of_equals_is_the_latest_and_a_restart_remembers_it(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: 0.5, 2: 0.5, 3: 0.1})
    save_steps(tmp_path, {4: 0.2, 5: 0.3})
    assert steps_on_disk(tmp_path) == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 2


def test_a_metric_that_is_not_finite_is_never_best(tmp_path: Path) -> None:
    value = float("nan")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), metrics={"validation_accuracy": value})
        assert checkpoints.best_step() is None
    save_steps(tmp_path, {2: 0.2, 3: value, 4: value, 5: value})
    assert steps_on_disk(tmp_path) == [2, 4, 5]
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best_step() == 2


def test_other_metrics_do_not_rank(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), metrics={"loss": 0.1})
        assert checkpoints.best_step() is None
        values = {"validation_accuracy": jnp.float32(0.5), "loss": float("nan")}
        checkpoints.save(2, make_state(2), metrics=values)
        assert checkpoints.best_step() == 2


@pytest.mark.parametrize("step", [1, 2])
def test_saving_a_step_that_is_not_new_is_an_error(workdir: Path, step: int) -> None:
    with Checkpoints(workdir) as checkpoints:
        with pytest.raises(CheckpointError, match=rf"step {step} was not saved .* step 2 is there"):
            checkpoints.save(step, make_state(9))
        assert_same(checkpoints.restore(like(make_state())), make_state(2))


# Kills, other writers, full disks


def test_a_half_written_checkpoint_is_not_there_and_is_cleaned_away(workdir: Path) -> None:
    complete = workdir / "checkpoints" / "2"
    torn = workdir / "checkpoints" / "4.orbax-checkpoint-tmp"
    shutil.copytree(complete, torn)
    for path in (torn / "commit_success.txt", torn / "state" / "manifest.ocdbt"):
        path.unlink()
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.latest_step() == 2
        assert_same(checkpoints.restore(like(make_state())), make_state(2))
        checkpoints.save(3, make_state(3))
    assert steps_on_disk(workdir) == [2, 3]


WRITER = """
import os, sys, time
import jax.numpy as jnp
from experiments.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": jnp.arange(3.0)})
checkpoints.wait()
print("saved", flush=True)
for step in range(2, 10**6):
    checkpoints.save(step, {"x": jnp.arange(3.0) * step})
"""


def test_a_second_writer_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "saved\n"
            with pytest.raises(CheckpointError, match=f"another process writes in {tmp_path}:"):
                Checkpoints(tmp_path)
            time.sleep(0.2)  # so that it is killed amid its saves
        finally:
            writer.send_signal(signal.SIGKILL)
    with Checkpoints(tmp_path) as checkpoints:
        step = checkpoints.latest_step()
        assert step is not None
        template = like({"x": jnp.zeros(3)})
        assert_same(checkpoints.restore(template), {"x": jnp.arange(3.0) * step})
        checkpoints.save(step + 1, {"x": jnp.arange(3.0)})


def test_the_lock_is_freed_by_close_and_by_a_failed_opening(tmp_path: Path) -> None:
    with Checkpoints(tmp_path), pytest.raises(CheckpointError, match="another process writes"):
        Checkpoints(tmp_path)
    (tmp_path / "checkpoints").write_text("a file")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"there is no directory .*/checkpoints"):
            Checkpoints(tmp_path)
    (tmp_path / "checkpoints").unlink()
    Checkpoints(tmp_path).close()


def test_a_new_run_has_no_checkpoint_and_no_directory_for_them_till_the_first_save(
    tmp_path: Path,
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.wait()
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (None, None)
        assert not (tmp_path / "checkpoints").exists()
        checkpoints.save(1, {"x": jnp.arange(3.0)})
        assert checkpoints.latest_step() == 1
    assert steps_on_disk(tmp_path) == [1]


def test_closing_ends_every_thread_and_is_harmless_twice(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1))
        checkpoints.close()
    deadline = time.monotonic() + 30  # a thread may take a moment to leave
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == set()
    assert steps_on_disk(tmp_path) == [1]


def test_a_reader_beside_the_writer_sees_the_run_and_changes_nothing(workdir: Path) -> None:
    half_written = workdir / "checkpoints" / "3.orbax-checkpoint-tmp"
    half_written.mkdir()
    with Checkpoints(workdir, read_only=True) as reader:
        before = sorted(workdir.rglob("*"))
        with Checkpoints(workdir, read_only=True) as other:
            assert_same(other.restore(like(make_state())), make_state(2))
        assert reader.latest_step() == 2
        with pytest.raises(CheckpointError, match="read-only: step 3 not saved"):
            reader.save(3, make_state(3))
    assert sorted(workdir.rglob("*")) == before
    assert half_written.exists()
    with Checkpoints(workdir), Checkpoints(workdir, read_only=True) as reader:
        assert reader.latest_step() == 2


def test_reading_where_there_is_no_run_says_so_and_makes_no_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no directory .*nowhere/checkpoints"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointError, match=f"cannot write in {tmp_path}/run .*choose another"):
        Checkpoints(tmp_path / "run")


def test_a_directory_without_the_right_to_write_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:  # root may write anywhere: be nobody for a while
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match=r"cannot write in .*run \(Permission denied\)"):
            Checkpoints(tmp_path / "run")
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)


@contextlib.contextmanager
def disk_full() -> Iterator[None]:
    """No file can grow beyond a size that metadata stay below."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_error_in_few_words_and_earlier_steps_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state(1, width=16384)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.wait()
    with disk_full():
        checkpoints.save(2, state)
        with pytest.raises(CheckpointError, match=r"could not be written in .*File too large") as e:
            checkpoints.close()
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 1000
    assert e.value.__cause__ is not None
    assert (capfd.readouterr().err, caplog.text) == ("", "")
    with Checkpoints(tmp_path) as checkpoints:  # the lock is free, step 1 is whole
        assert steps_on_disk(tmp_path) == [1]
        assert_same(checkpoints.restore(like(state)), state)


def test_a_failed_write_is_found_by_the_next_check_and_told_once(tmp_path: Path) -> None:
    state = make_state(1, width=16384)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.check()
        checkpoints.save(1, state, metrics={"validation_accuracy": 0.5})
        checkpoints.wait()
        with disk_full():
            checkpoints.save(2, state, metrics={"validation_accuracy": 0.9})
            with pytest.raises(CheckpointError, match="File too large"):
                checks_for(checkpoints, seconds=30)
        checkpoints.check()
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (1, 1)
        checkpoints.save(2, state, metrics={"validation_accuracy": 0.9})
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (2, 2)
    assert steps_on_disk(tmp_path) == [1, 2]


def checks_for(checkpoints: Checkpoints, *, seconds: float) -> None:
    """Checks as a training loop does, but for so long only."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        checkpoints.check()
        time.sleep(0.01)


def test_too_little_room_is_an_error_before_anything_is_written(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(workdir) as checkpoints:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free=2**20))
        with pytest.raises(
            CheckpointError, match=r"it needs 16 MiB and the disk has 1 left\. The e"
        ):
            checkpoints.save(3, make_state(3))
        monkeypatch.undo()
        checkpoints.save(3, make_state(3))
    assert steps_on_disk(workdir) == [2, 3]


# Measured after it was saved


def test_a_step_is_ranked_after_it_was_saved(tmp_path: Path) -> None:
    save_steps(tmp_path, {1: None, 2: 0.5, 3: None})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.rank(3, {"validation_accuracy": 0.75, "loss": float("nan")})
        assert checkpoints.best_step() == 3
        checkpoints.rank(3, {"validation_accuracy": 0.75})  # again, after a kill in between
        for step in (4, 5, 6):
            checkpoints.save(step, make_state(step), metrics={"validation_accuracy": 0.1})
            checkpoints.rank(step, {"validation_accuracy": 0.2})
        with pytest.raises(CheckpointError, match="no checkpoint of step 9"):
            checkpoints.rank(9, {"validation_accuracy": 1.0})
    assert steps_on_disk(tmp_path) == [3, 5, 6]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 3
        assert_same(checkpoints.restore(like(make_state()), step=3), make_state(3))


def test_a_metric_that_is_not_finite_ranks_no_step(workdir: Path) -> None:
    with Checkpoints(workdir) as checkpoints:
        checkpoints.rank(2, {"validation_accuracy": float("nan")})
        assert checkpoints.best_step() is None
