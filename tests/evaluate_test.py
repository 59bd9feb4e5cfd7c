"""The program: a run's own figures come out again, and a wrong command says what is wrong."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from experiments import evaluate, train
from experiments.command_line import flagfields
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.evaluate import Command

# One policy, few rows, one corruption: what the parts measure stands in their own tests.
QUICK = (
    "--corruptions=contrast",
    "--severities=5",
    "--attack_rows=20",
    "--attack_steps=1",
    "--epsilons=8/255",
    "--gap_policies=mixup",
    "--gap_rows=64",
    "--ood_sets=noise",
    "--bank_rows=200",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    workdir = tmp_path_factory.mktemp("run") / "tiny-3"
    config = Config(workdir=str(workdir), model="mlp", batch_size=32, steps=30, seed=3)
    return workdir, train.run(config)


def parse(*args: str) -> Command:
    values = flags.FlagValues()
    flagfields.define(Command, values)
    return flagfields.parse(Command, ["evaluate", *args], values)[0]


def test_every_part_comes_out_and_agrees_with_the_run(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
):
    workdir, summary = finished
    report = evaluate.run(parse(f"--workdir={workdir}", *QUICK))
    status = {name: part["status"] for name, part in report["parts"].items()}
    skipped = [name for name in status if status[name] == "skipped"]
    assert skipped == ["probes", "groups"]  # digits are small, and have no groups
    assert "failed" not in status.values(), report["parts"]
    clean = report["parts"]["clean"]["result"]
    for name in ("accuracy", "nll", "ece"):
        assert clean[name] == pytest.approx(summary[f"test_{name}"], abs=1e-5)
    run = report["run"]
    assert (run["name"], run["method"], run["seed"], run["step"]) == ("tiny-3", "tiny", 3, 30)
    assert run["flags"]["model"] == "mlp"
    assert json.loads((workdir / "report.json").read_text()) == report
    assert str(workdir / "report.html") in capsys.readouterr().out


def test_the_program_ends_with_an_exit_code(
    finished: tuple[Path, dict], capsys: pytest.CaptureFixture[str]
):
    evaluate.main(parse(f"--workdir={finished[0]}", "--parts=groups"))  # skipped is no failure
    with pytest.raises(SystemExit) as failed:
        evaluate.main(parse(f"--workdir={finished[0]}", "--parts=ood", "--ood_sets=nothing"))
    assert failed.value.code == 1
    # What failed before and was not asked for again does not fail this command.
    evaluate.main(parse(f"--workdir={finished[0]}", "--parts=groups", "--ood_sets=nothing"))
    assert "ood failed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        evaluate.main(parse("--workdir=/nowhere"))
    assert wrong.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_program_itself_refuses_a_wrong_command_in_one_line():
    command = [sys.executable, "-m", "experiments.evaluate", "--workdir=x", "--parts=all,x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--workdir: must name the directory of a run"),
        (["--workdir=x", "--parts=y"], "--parts=y: no 'y'"),
        (["--workdir=x", "--weights=y"], "weights"),
        (["--workdir=x", "y"], "arguments left over: y"),
        (["--workdir=x", "--limt=3"], "limt"),
    ],
)
def test_a_wrong_command_is_named(args: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        parse(*args)


def test_a_directory_that_is_no_run_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no run there"):
        evaluate.run(parse(f"--workdir={tmp_path}"))


def test_an_unknown_archive_fails_its_part_alone(finished: tuple[Path, dict]):
    args = ("--parts=corruptions,groups", "--official=/nowhere")
    report = evaluate.run(parse(f"--workdir={finished[0]}", *args))
    assert report["parts"]["corruptions"]["status"] == "failed"
    assert "--official=/nowhere: cannot read labels.npy" in report["parts"]["corruptions"]["reason"]
    assert report["parts"]["groups"]["status"] == "skipped"


def test_an_archive_of_test_images_is_not_for_a_run_that_chooses(
    finished: tuple[Path, dict], tmp_path: Path
):
    flags = (finished[0] / "config.flags").read_text()
    assert "--test_split=test\n" in flags and "--validation_fraction=0.0\n" in flags
    flags = flags.replace("--test_split=test\n", "--test_split=validation\n")
    flags = flags.replace("--validation_fraction=0.0\n", "--validation_fraction=0.2\n")
    (tmp_path / "config.flags").write_text(flags)
    with pytest.raises(ConfigError, match="--official=C: holds test images, and the run chooses"):
        evaluate.run(parse(f"--workdir={tmp_path}", "--official=C"))


def test_help_is_short_the_full_help_is_whole_and_an_evaluation_is_neither():
    short, full = (evaluate._help(["evaluate", asked]) or "" for asked in ("--help", "--helpfull"))
    assert len(short.splitlines()) < 45 and "--workdir=RUN" in short and "--helpfull" in short
    for field in dataclasses.fields(Command):
        assert f"  --{field.name}" in full
    assert {line for line in full.splitlines() if line in evaluate.GROUPS.values()} == set(
        evaluate.GROUPS.values()
    )
    assert "75 stopped by SIGTERM" in full
    assert evaluate._help(["evaluate", "--workdir=x"]) is None
