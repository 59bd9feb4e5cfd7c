"""What does not fit is refused by name, and what is damaged is never restored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoint_example as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_example import assert_same, biggest, files, flip, like, make_state, truncate
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from experiments.checkpoint import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointMismatch,
    Checkpoints,
)
from experiments.checkpointing import reading, seal


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with steps 1 and 2, to be copied, not touched."""
    workdir = tmp_path_factory.mktemp("written")
    example.save_steps(workdir, {1: None, 2: None})
    return workdir


@pytest.fixture
def workdir(written: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be broken."""
    return Path(shutil.copytree(written, tmp_path / "run"))


# What does not fit


def mismatch(workdir: Path, template: Any) -> str:
    with Checkpoints(workdir) as checkpoints:
        with pytest.raises(CheckpointMismatch) as error:
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


@pytest.mark.parametrize("damage", [truncate, Path.unlink, flip])
def test_any_damaged_file_is_damage_or_harmless_but_never_wrong(
    workdir: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
) -> None:
    raised = 0
    with Checkpoints(workdir, read_only=True) as checkpoints:
        for path in files(workdir, 2):
            content = path.read_bytes()
            if content:
                damage(path)
            try:
                assert_same(checkpoints.restore(like(make_state())), make_state(2))
            except CheckpointDamaged as error:
                assert "(step 2)" in str(error)
                raised += 1
            path.write_bytes(content)
    assert raised >= 4
    assert capfd.readouterr().err == ""


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


@pytest.mark.parametrize("item", ["checksums", "state"])
def test_a_missing_item_is_damage(workdir: Path, item: str) -> None:
    shutil.rmtree(workdir / "checkpoints/2" / item)
    with (
        Checkpoints(workdir) as checkpoints,
        pytest.raises(CheckpointDamaged, match=rf"\(step 2\) .*its directory {item} is missing"),
    ):
        checkpoints.restore(like(make_state()))


def test_a_damaged_list_of_arrays_is_not_taken_for_another_run(workdir: Path) -> None:
    path = workdir / "checkpoints/2/state/_METADATA"
    listing = json.loads(path.read_text())
    del listing["tree_metadata"]["('params', 'dense', 'bias')"]
    path.write_text(json.dumps(listing))
    message = r"is not the one that was saved: params/dense/bias is missing \(bfloat16\[16\] exp"
    with Checkpoints(workdir) as checkpoints, pytest.raises(CheckpointDamaged, match=message):
        checkpoints.restore(like(make_state()))


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (PermissionError(13, "Permission denied"), CheckpointError),
        (ValueError("PERMISSION_DENIED: x"), CheckpointError),
        (OSError(24, "Too many open files"), CheckpointError),
        (MemoryError(), MemoryError),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x"), jax.errors.JaxRuntimeError),
    ],
    ids=str,
)
def test_what_says_nothing_of_the_files_is_no_damage(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, raised: type[Exception]
) -> None:
    def fail(*unused: Any) -> None:
        raise failure

    monkeypatch.setattr(seal, "verify", fail)
    with pytest.raises(raised) as error:
        reading.read(workdir / "checkpoints/2", like(make_state()), metric="accuracy")
    assert not isinstance(error.value, CheckpointDamaged)


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
