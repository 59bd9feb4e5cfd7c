"""What is refused before anything is changed: the run directory stays as it is, to the byte."""

import os
import pathlib
import shutil

import numpy as np
import pytest
import runs

from experiments import train
from experiments.checkpoint import Checkpoints
from experiments.config import ConfigError
from experiments.datasets.data import Data
from experiments.lifecycle import exit_codes
from experiments.training import refusals
from experiments.training.loop import Plan

FLAGS = (
    *("--model=mlp", "--policy=mixup", "--crop_padding=0"),
    *("--steps=2", "--checkpoint_every=1", "--eval_batch_size=360"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("finished") / "run"
    runs.run(workdir, *FLAGS)
    return workdir


@pytest.fixture
def refused(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """Runs a command that must be refused: its exit code, one message, nothing trained."""

    def command(workdir: pathlib.Path, *args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            train.main(runs.parse(f"--workdir={workdir}", *runs.TINY, *FLAGS, *args))
        assert stop.value.code == exit_codes.REFUSED
        return capsys.readouterr().err

    def reached(*_: object, **__: object) -> None:
        pytest.fail("training was reached before the mistake was found")

    monkeypatch.setattr(train, "Trainer", reached)
    return command


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--dataset=cifar1000",), "cifar1000"),
        (("--dataset=cifar100", "--data_dir={tmp}/empty"), "{tmp}/empty"),
        (("--dataset=folder:{tmp}/nowhere",), "{tmp}/nowhere"),
        (("--dataset=folder:{tmp}/empty",), "{tmp}/empty"),
        (("--dataset=coloured_digits:red",), "coloured_digits:red: STRENGTH must be"),
        (("--policy=lisa",), "--policy=lisa: looks at the group of a row, and --dataset=digits"),
        (
            ("--pairing=same_class_other_group",),
            "--pairing=same_class_other_group: looks at the group of a row",
        ),
        (("--batch_size=1600",), "--batch_size=1600"),
        (("--batch_size=12",), "--batch_size=12: must be a multiple of the 8 devices"),
        (("--eval_batch_size=12",), "--eval_batch_size=12: must be a multiple of the 8 devices"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_wrong_data_or_devices_leave_no_run_directory(
    args: tuple[str, ...], message: str, refused, tmp_path: pathlib.Path
):
    (tmp_path / "empty").mkdir()
    filled = [arg.replace("{tmp}", str(tmp_path)) for arg in args]
    assert message.replace("{tmp}", str(tmp_path)) in refused(tmp_path / "run", *filled)
    assert not (tmp_path / "run").exists()


def test_weights_for_rows_that_are_streamed_are_refused():
    config = runs.parse("--umix_from=elsewhere", "--dataset=folder:pictures")
    half = np.full(3, 0.5, np.float32)
    streamed = Data("folder:pictures", 2, "a stream", None, "a stream", half, half)
    with pytest.raises(ConfigError, match=r"--umix_from=elsewhere: .* with --streaming=off"):
        refusals.check_data(config, streamed)


def test_other_flags_are_refused_by_name(finished: pathlib.Path, refused):
    before = runs.snapshot(finished)
    message = refused(finished, "--learning_rate=0.2", "--seed=3")
    assert "--learning_rate=0.2 (the run has 0.1)" in message
    assert "--seed=3 (the run has 0)" in message
    assert "--steps=1" in refused(finished, "--steps=1")
    assert runs.snapshot(finished) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.flags", "--seed=x", "config.flags is damaged"),
        ("config.flags", None, "no config.flags"),
        ("summary.json", '{"steps": 6', "summary.json is damaged"),
        ("summary.json", "[1]", "summary.json is damaged"),
        ("owed.json", "[1]", "owed.json is damaged"),
    ],
)
def test_a_damaged_run_directory_is_refused_and_left_as_it_is(
    name: str, content: str | None, message: str, finished: pathlib.Path, refused, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    if name != "summary.json":
        (workdir / "summary.json").unlink()
    (workdir / name).unlink(missing_ok=True)
    if content is not None:
        (workdir / name).write_text(content)
    before = runs.snapshot(workdir)
    assert message in refused(workdir)
    assert runs.snapshot(workdir) == before


def test_a_run_without_a_single_good_checkpoint_is_refused_and_left_as_it_is(
    finished: pathlib.Path, refused, tmp_path: pathlib.Path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-100])
    before = runs.snapshot(workdir)
    message = refused(workdir)
    assert "none of the checkpoints" in message and "step 1" in message and "step 2" in message
    assert runs.snapshot(workdir) == before


def test_a_run_directory_in_use_is_refused(finished: pathlib.Path, refused, tmp_path: pathlib.Path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    with Checkpoints(workdir):
        assert str(workdir) in refused(workdir, "--steps=9")


def test_a_file_is_no_run_directory(refused, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("mine")
    assert "is not a directory" in refused(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_is_finished_with_all_its_steps_and_no_fewer(finished: pathlib.Path):
    plans = [Plan(total, 100, 100, 100) for total in (2, 3)]
    summary, none = (refusals.finished(finished, plan) for plan in plans)
    assert summary is not None and summary["steps"] == 2 and none is None
    assert refusals.finished(finished / "elsewhere", plans[0]) is None


@pytest.mark.parametrize(
    "line",
    ['{"step": 1, "loss', '{"step": 1, "loss": "low"}', '{"step": true}', '{"step": NaN}', "[]"],
)
def test_metrics_that_are_damaged_before_the_last_line_are_refused(
    line: str, finished: pathlib.Path, refused, tmp_path: pathlib.Path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    path = workdir / "metrics.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    before = runs.snapshot(workdir)
    assert f"line 1 of {path} is not a record" in refused(workdir, "--steps=9")
    assert runs.snapshot(workdir) == before


def test_a_pipe_in_the_place_of_the_metrics_is_refused(refused, tmp_path: pathlib.Path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert "metrics.jsonl is not a file" in refused(tmp_path)
