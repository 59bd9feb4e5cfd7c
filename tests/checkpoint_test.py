"""Checkpoints survive kills, refuse what does not fit, and notice damage."""

import dataclasses
import functools
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments import checkpoint
from experiments.checkpoint import CheckpointError, Checkpoints


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "ema_params"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    params: Any
    opt_state: Any
    ema_params: Any = None


def make_state(step: int = 0, *, seed: int = 0, width: int = 16, ema: bool = False) -> State:
    """A state like a trainer's: NamedTuples, an empty part, two dtypes, a scalar, no EMA."""
    draw = np.random.default_rng(seed)
    kernel = jnp.asarray(draw.normal(size=(8, width)), jnp.float32)
    params = {"dense": {"kernel": kernel, "bias": jnp.full((width,), step, jnp.bfloat16)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return State(
        step=jnp.full((), step, jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=params if ema else None,
    )


def like(state: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


def steps_on_disk(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def save_steps(workdir: Path, accuracies: dict[int, float | None], **options: Any) -> None:
    with Checkpoints(workdir, **options) as checkpoints:
        for step, accuracy in accuracies.items():
            metrics = None if accuracy is None else {"validation_accuracy": accuracy}
            checkpoints.save(step, make_state(step), metrics=metrics)


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


def files(workdir: Path, step: int, pattern: str = "*") -> list[Path]:
    found = (workdir / "checkpoints" / str(step) / "state").rglob(pattern)
    return [path for path in found if path.is_file()]


def biggest(workdir: Path, step: int) -> Path:
    """The file that holds the arrays."""
    return max(files(workdir, step), key=lambda path: path.stat().st_size)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_a_metric_that_is_not_finite_is_never_best(tmp_path: Path, value: float | None) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_state(1), metrics={"validation_accuracy": value} if value else {})
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


def test_a_full_disk_is_one_error_in_few_words_and_earlier_steps_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state(1, width=16384)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state)
    checkpoints.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))  # longer files cannot be written
    try:
        checkpoints.save(2, state)
        with pytest.raises(CheckpointError, match=r"could not be written in .*File too large") as e:
            checkpoints.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 1000
    assert e.value.__cause__ is not None
    assert (capfd.readouterr().err, caplog.text) == ("", "")
    with Checkpoints(tmp_path) as checkpoints:  # the lock is free, step 1 is whole
        assert checkpoints.latest_step() == 1
        assert_same(checkpoints.restore(like(state)), state)


# What does not fit


def mismatch(workdir: Path, template: Any) -> str:
    with Checkpoints(workdir) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(template)
        assert_same(checkpoints.restore(like(make_state())), make_state(2))
    message = str(error.value)
    assert f"{workdir}/checkpoints/2 does not fit" in message
    assert "\n" not in message
    return message


def test_a_part_only_the_template_has_is_named(workdir: Path) -> None:
    message = mismatch(workdir, like(make_state(ema=True)))
    assert "ema_params/dense/bias is missing (bfloat16[16] expected)" in message
    assert "ema_params/dense/kernel is missing (float32[8,16] expected)" in message
    assert message.count(" is ") == 2


def test_a_part_only_the_checkpoint_has_is_named(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, make_state(2, ema=True))
        with pytest.raises(
            CheckpointError, match=r"ema_params/dense/bias \(bfloat16\[16\]\) is not"
        ):
            checkpoints.restore(like(make_state()))


def test_another_shape_is_named(workdir: Path) -> None:
    message = mismatch(workdir, like(make_state(width=17)))
    assert "params/dense/kernel is float32[8,16] (float32[8,17] expected)" in message


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float16, jnp.bfloat16])
def test_another_dtype_is_named_and_never_cast(workdir: Path, dtype: Any) -> None:
    template = like(make_state())
    kernel = template.params["dense"]["kernel"]
    other = jax.ShapeDtypeStruct(kernel.shape, dtype, sharding=kernel.sharding)
    template.params["dense"]["kernel"] = other
    name = jnp.dtype(dtype).name
    expected = f"params/dense/kernel is float32[8,16] ({name}[8,16] expected)"
    assert expected in mismatch(workdir, template)


def test_many_differences_are_cut_short_and_counted(tmp_path: Path) -> None:
    state = {f"w{i:02}": jnp.zeros(2) for i in range(20)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        with pytest.raises(
            CheckpointError, match=r"w06 \(float32\[2\]\).*; and 13 more\."
        ) as error:
            checkpoints.restore(like({"other": jnp.zeros(2)}))
    assert "w07" not in str(error.value)


def test_a_missing_step_lists_the_steps_there_are(workdir: Path, tmp_path: Path) -> None:
    template = like(make_state())
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(CheckpointError, match=r"no checkpoint of step 7 in .*only of \[1, 2\]"),
    ):
        checkpoints.restore(template, step=7)
    with (
        Checkpoints(tmp_path / "empty") as checkpoints,
        pytest.raises(CheckpointError, match=r"there is no checkpoint in .*/empty/checkpoints"),
    ):
        checkpoints.restore(template)


# Damage


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_file_names_the_step_and_the_way_out(
    workdir: Path,
    damage: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(biggest(workdir, 2))
    with Checkpoints(workdir) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(like(make_state()))
        message = str(error.value)
        assert f"{workdir}/checkpoints/2 (step 2) cannot be restored: " in message
        assert message.endswith("remove that directory to go on from step 1")
        assert error.value.__cause__ is not None
        assert "\n" not in message
        assert len(message) < 1000
        assert_same(checkpoints.restore(like(make_state()), step=1), make_state(1))
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_any_truncated_file_is_an_error_or_harmless_but_never_wrong(
    written: Path, tmp_path: Path
) -> None:
    raised = 0
    for index, path in enumerate(files(written, 2)):
        workdir = Path(shutil.copytree(written, tmp_path / str(index)))
        truncate(workdir / path.relative_to(written))
        with Checkpoints(workdir) as checkpoints:
            try:
                assert_same(checkpoints.restore(like(make_state())), make_state(2))
            except CheckpointError as error:
                assert "(step 2)" in str(error)
                raised += 1
    assert raised >= 3


def test_flipped_bytes_name_the_array(tmp_path: Path) -> None:
    # Random bits do not compress, so that the middle of the file lies within this array, and
    # decompressing finds nothing wrong.
    bits = np.random.default_rng(0).integers(0, 2**32, size=50_000, dtype=np.uint32)
    state = {"noise": jnp.asarray(bits), "zeros": jnp.zeros(4)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        flip(biggest(tmp_path, 1))
        with pytest.raises(CheckpointError, match=r"do not match their checksum in noise\. ") as e:
            checkpoints.restore(like(state))
    assert str(e.value).endswith("remove that directory to start anew")


def test_missing_checksums_are_an_error(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints/2/checksums")
    with Checkpoints(workdir) as checkpoints, pytest.raises(CheckpointError, match=r"\(step 2\)"):
        checkpoints.restore(like(make_state()))


# Noise


def test_a_failed_restore_of_many_arrays_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    state = {f"w{i}": jnp.asarray(rng.normal(size=4000), jnp.float32) for i in range(30)}
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    template = like(state, NamedSharding(mesh, PartitionSpec("data")))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        for path in files(tmp_path, 1):
            if path.stat().st_size > 10_000:
                truncate(path)
        for _ in range(3):
            with pytest.raises(CheckpointError, match=r'Error reading "w\d+') as error:
                checkpoints.restore(template)
            assert len(str(error.value)) < 1000
    assert (capfd.readouterr().err, caplog.text) == ("", "")


def test_other_voices_are_still_heard(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Checkpoints(tmp_path).close()
    try:
        raise RuntimeError("not of a checkpoint")
    except RuntimeError:
        logging.getLogger("absl").exception("one")
    logging.getLogger("absl").warning("two")
    logging.getLogger("asyncio").error("three")
    assert [record.message for record in caplog.records] == ["one", "two", "three"]


def test_errors_nobody_can_catch_are_told_apart_by_their_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def __del__(self) -> None:
            raise RuntimeError("Event loop is closed")  # the text of an echo, not its origin

    heard: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda entry: heard.append(entry.exc_value))
    for name in ("absl", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    checkpoint._drop_echoes.__wrapped__()  # installs itself once; here once more
    echo = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
    sys.unraisablehook(echo)  # as a thread of TensorStore reports
    assert heard == []
    Broken()
    assert [str(error) for error in heard] == ["Event loop is closed"]


@pytest.mark.parametrize(
    ("path", "message", "failed", "kept"),
    [
        ("site-packages/orbax/x.py", "Save failed.", True, False),  # raised as well
        ("site-packages/orbax/x.py", "Requested y; did not provide metrics.", False, False),
        ("site-packages/orbax/x.py", "Something else.", False, True),
        ("experiments/x.py", "Save failed.", True, True),
    ],
)
def test_logs_of_orbax_are_dropped_if_they_echo_what_is_raised(
    tmp_path: Path, path: str, message: str, failed: bool, kept: bool
) -> None:
    Checkpoints(tmp_path).close()
    trace = (ValueError, ValueError("no"), None) if failed else None
    record = logging.LogRecord("absl", logging.ERROR, path, 1, message, (), trace)
    assert bool(logging.getLogger("absl").filter(record)) == kept
