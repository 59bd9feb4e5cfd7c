"""The program: what it runs and says, how it ends, and that a run alone gives the same figures."""

import configparser
import functools
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
from absl import flags
from study_example import SHORT, TOML, Asked, make_study, put_stand_ins, stand_ins, starts
from waiting import alive, until

from experiments import evaluate, study, train
from experiments.command_line import flagfields
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.datasets import loading
from experiments.datasets.data import DataError
from experiments.evaluate import Command
from experiments.lifecycle import exit_codes
from experiments.lifecycle.signals import Stop
from experiments.study import Options
from experiments.studying import execution, results
from experiments.studying.plan import Study, StudyError

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300.0  # seconds that anything is waited for


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return functools.partial(put_stand_ins, monkeypatch)


def parse(*args: str) -> tuple[str, Options]:
    values = flags.FlagValues()
    flagfields.define(Options, values)
    return study.parse(["study", *args], values)


# --- The command ---------------------------------------------------------------------------------


def test_a_command_is_the_folder_of_a_study_and_flags():
    assert parse("S") == ("S", Options())
    options = Options(workdir="W", jobs=2, retries=0, dry_run=True, seeds="0,1")
    args = ("--workdir=W", "--jobs=2", "S", "--retries=0", "--dry_run", "--seeds=0,1")
    assert parse(*args) == ("S", options)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "write python -m experiments.study STUDY, the folder of one study, .* found none"),
        (["a", "b"], "found a, b"),
        (["a", "--workdir", "b"], "every flag as --name=value|workdir"),
        (["a", "--jobs=-1"], "--jobs=-1: must be at least 0"),
        (["a", "--trial_steps=-1"], "--trial_steps=-1: must be at least 0"),
        (["a", "--job=1"], "job"),
    ],
)
def test_a_wrong_command_is_refused(args: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        parse(*args)


def test_runs_can_be_chosen_by_method_and_seed(tmp_path: Path):
    plan = make_study(tmp_path)
    options = Options(methods="sem, l1; erm", seeds="1")
    assert [cell.name for cell in study.chosen(plan, options)] == ["erm@10-1", "sem_l1@10-1"]
    assert study.chosen(plan, Options()) == list(plan.cells())
    with pytest.raises(ConfigError, match="--methods=sem: the study has no 'sem'; it has erm; sem"):
        study.chosen(plan, Options(methods="sem"))
    with pytest.raises(ConfigError, match="--seeds=0,2: the study has no '2'; it has 0; 1"):
        study.chosen(plan, Options(seeds="0,2"))


def test_a_method_whose_name_holds_the_separator_can_be_chosen(tmp_path: Path):
    name = "x, policy_options=mixup.noise=(0.4,0.2);mixup.probability=0.5"
    option = name.removeprefix("x, policy_options=")
    plan = make_study(tmp_path, SHORT + f'[methods.x]\npolicy_options = ["{option}"]\n')
    assert [cell.method for cell in study.chosen(plan, Options(methods=name))] == [name] * 2


def test_a_dry_run_shows_commands_for_a_shell_and_runs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = SHORT + '[methods.x]\npolicy_options = "mixup.noise=(0.4,0.2)"\n'
    plan = make_study(tmp_path / "study", text)
    options = Options(dry_run=True, workdir=str(tmp_path / "a b"), data_dir="D", jobs=1)
    assert study.run(plan, options, Stop()) == exit_codes.FINISHED
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
    assert len(lines) == 2 * len(plan.cells())
    for line, cell in zip(lines[::2], plan.cells(), strict=True):
        places = ["--data_dir=D", "--distributed=off", f"--workdir={tmp_path}/a b/{cell.name}"]
        program = ["python", "-m", "experiments.train"]
        assert shlex.split(line) == [*program, *cell.arguments, *places]
    assert shlex.split(lines[1])[2:4] == ["experiments.evaluate", "--parts=clean"]
    assert not (tmp_path / "a b").exists()


# --- The runs ------------------------------------------------------------------------------------


def test_a_study_is_run_once(
    tmp_path: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    stand_in()
    plan = make_study(tmp_path / "study")
    options = Options(workdir=str(tmp_path / "runs"), jobs=2)
    assert study.run(plan, Options(**{**vars(options), "seeds": "1"}), Stop()) == 0
    assert len(results.read_all(plan)) == 4
    out = capsys.readouterr().out
    assert "runs             4, 0 of them done" in out and "seeds            1\n" in out
    assert "4 of 4 done" in out and "makes the tables and figures" in out
    assert study.run(plan, options, Stop()) == 0
    assert study.run(plan, options, Stop()) == 0
    assert "runs             8, 8 of them done" in capsys.readouterr().out
    assert len(results.read_all(plan)) == 8
    for cell in plan.cells():
        assert len(starts(tmp_path / "runs" / cell.name)) == 1


def test_what_fails_is_named_at_the_end_and_made_by_the_next_command(
    tmp_path: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    stand_in(train="workdir.name == 'erm@10-0' and time_of == 1 and end('error: odd', 2)")
    plan = make_study(tmp_path / "study", SHORT)
    options = Options(workdir=str(tmp_path / "runs"), jobs=1)
    assert study.run(plan, options, Stop()) == exit_codes.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: erm@10-0 failed: experiments.train ended with exit code 2: error: odd (more in "
    )
    assert study.run(plan, options, Stop()) == exit_codes.FINISHED
    assert list(results.read_all(plan)) == ["erm@10-0", "erm@10-1"]


def test_a_trial_says_what_the_study_will_cost_and_leaves_nothing(
    tmp_path: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    stand_in(
        train="seen = open(flags['workdir'] + '/../../seen', 'a'); print(flags['steps'], file=seen)"
    )
    text = TOML.replace("steps = 10", "steps = 45_000\nrows = 2_880_000")
    plan = make_study(tmp_path / "study", text)
    options = Options(workdir=str(tmp_path / "runs"), jobs=2, trial_steps=7)
    assert study.run(plan, options, Stop()) == exit_codes.FINISHED
    # A run of each of four methods, for so many steps.
    assert (tmp_path / "runs" / "seen").read_text().split() == ["7"] * 4
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["seen"]
    assert results.read_all(plan) == {}
    out = capsys.readouterr().out
    # 100 rows a second: 45,000 steps of 32 rows are four hours, 90,000 eight.
    assert "erm, 45,000 steps                  4.0 h a run (100 images/s)" in out
    assert "erm, 90,000 steps                  8.0 h a run (100 images/s)" in out
    # At equal steps four methods take four hours; at equal rows erm has the steps of two.
    assert "all, one after the other           48.0 h (10 runs)" in out
    assert "all, 2 side by side                24.0 h" in out


def test_a_trial_that_fails_says_so_and_counts_the_others(
    tmp_path: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    stand_in(train="workdir.name.startswith('erm') and end('error: no', 2)")
    plan = make_study(tmp_path / "study")
    options = Options(workdir=str(tmp_path / "runs"), jobs=1, trial_steps=3)
    assert study.run(plan, options, Stop()) == exit_codes.FAILED
    out, err = capsys.readouterr()
    assert "erm@3-0 failed" in err and "(6 runs, 2 unknown)" in out
    assert [path.name for path in (tmp_path / "runs" / "trial").iterdir()] == ["erm@3-0.log"]


def test_data_is_downloaded_once_before_runs_that_would_all_do_so(
    tmp_path: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    stand_in()
    asked = []

    def of_run(config: Config, **changes: Any) -> None:
        asked.append((config.dataset, changes))

    monkeypatch.setattr(loading, "of_run", of_run)
    plan = make_study(tmp_path / "study", SHORT)
    options = Options(workdir=str(tmp_path / "runs"), data_dir="D", download=True, jobs=2)
    assert study.run(plan, options, Stop()) == exit_codes.FINISHED
    assert asked == [("digits", {"data_dir": "D", "download": True})]
    ((_, trained),) = starts(tmp_path / "runs" / "erm@10-0")
    ((_, evaluated),) = starts(tmp_path / "runs" / "erm@10-0", "experiments.evaluate")
    assert "--download" not in trained  # and an evaluation may need other sets
    assert "--download" in evaluated and {"--data_dir=D"} <= {*trained} & {*evaluated}


# --- How it ends ---------------------------------------------------------------------------------


def ends(path: Path | str, stop: Stop | None = None, **options: Any) -> int:
    with pytest.raises(SystemExit) as ended:
        study.main((str(path), Options(**options)), stop)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "x"}, "--methods=x: the study has no 'x'"),
        ({"jobs": 4096}, "--jobs=4096: must be at most"),
        ({"devices": "0,0"}, "--devices=0,0: must name different devices"),
        ({"devices": "0", "jobs": 1}, "--jobs=1: --devices=0 says already"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, Any], said: str
):
    make_study(tmp_path, SHORT)
    assert ends(tmp_path, **options) == exit_codes.REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_wrong_study_or_result_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert ends(tmp_path / "nowhere") == exit_codes.REFUSED
    assert "nowhere cannot be read" in capsys.readouterr().err
    plan = make_study(tmp_path, SHORT)
    path = results.path_of(plan, plan.cells()[1])
    path.parent.mkdir()
    path.write_text("{")
    assert ends(tmp_path) == exit_codes.REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert "erm@10-1.json is damaged" in line
    assert isinstance(StudyError("x"), ValueError)


def test_a_data_set_that_cannot_be_had_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def of_run(*_: Any, **__: Any) -> None:
        raise DataError("no such data set")

    monkeypatch.setattr(loading, "of_run", of_run)
    make_study(tmp_path, SHORT)
    assert ends(tmp_path, download=True, workdir=str(tmp_path / "runs")) == exit_codes.REFUSED
    assert capsys.readouterr().err == "error: no such data set\n"


def test_a_stop_has_its_code_and_failures_are_named_all_the_same(
    tmp_path: Path, stand_in: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    stop = Asked()

    class AtTheSecond(Stop):
        def asked(self) -> bool:
            return (tmp_path / "runs" / "erm@10-1").exists()

    stand_in(train="workdir.name == 'erm@10-0' and end('error: odd', 2); time.sleep(60)")
    make_study(tmp_path / "study", SHORT)
    runs = str(tmp_path / "runs")
    assert ends(tmp_path / "study", AtTheSecond(), workdir=runs, jobs=1) == exit_codes.PREEMPTED
    assert "erm@10-0 failed" in capsys.readouterr().err
    stop.ask()
    assert ends(tmp_path / "study", stop, workdir=str(tmp_path / "no"), jobs=1) == 75
    assert not (tmp_path / "no").exists()


# What runs in a process of its own: the program, with stand-ins that sleep the first time.
_SLEEPS = """
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
note("ready")
while time_of == 1 and not heard:
    time.sleep(0.01)
if heard:
    note("told", str(len(heard)))
    os._exit(75)
"""


def started(folder: Path) -> subprocess.Popen:
    """The program in a process of its own, with both runs of the study under way."""
    program = f"""
from experiments.lifecycle.signals import Stop
stop = Stop()
stop.listen()
from experiments import study
from experiments.studying import execution
execution._POLL = 0.01
vars(execution).update({stand_ins(train=_SLEEPS)!r})
options = study.Options(workdir={str(folder / "runs")!r}, devices="0,1")
study.main(({str(folder / "study")!r}, options), stop)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ready = [folder / "runs" / f"erm@10-{seed}" / "ready" for seed in (0, 1)]
    until(lambda: all(path.exists() for path in ready) or process.poll() is not None)
    return process


def resumed(plan: Study, folder: Path) -> None:
    """The same command again makes what is left."""
    assert not results.read_all(plan)
    assert study.run(plan, Options(workdir=str(folder / "runs"), devices="0,1"), Stop()) == 0
    assert len(results.read_all(plan)) == 2
    assert all(len(starts(folder / "runs" / cell.name)) == 2 for cell in plan.cells())


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_stopped_by_a_signal_runs_save_and_the_same_command_resumes(
    tmp_path: Path, stand_in: Callable[..., None], number: signal.Signals, code: int
):
    plan = make_study(tmp_path / "study", SHORT)
    with started(tmp_path) as process:
        process.send_signal(number)
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == code, said
    for cell in plan.cells():
        workdir = tmp_path / "runs" / cell.name
        assert (workdir / "told").read_text() == "1"
        assert not alive(starts(workdir)[0][0])
    stand_in()
    resumed(plan, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a parent's death")
def test_killed_it_takes_its_runs_along_and_the_same_command_resumes(
    tmp_path: Path, stand_in: Callable[..., None]
):
    plan = make_study(tmp_path / "study", SHORT)
    with started(tmp_path) as process:
        process.kill()
    for cell in plan.cells():
        (child, _), *_ = starts(tmp_path / "runs" / cell.name)
        until(lambda child=child: not alive(child))
    stand_in()
    resumed(plan, tmp_path)


# --- The real programs ---------------------------------------------------------------------------


def real(folder: Path, more: str = "") -> tuple[Study, dict[str, Any]]:
    """A study of one seed, run as a person runs it, and what is kept of it."""
    plan = make_study(folder / "study", SHORT.replace("[0, 1]", "[3]") + more)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.study", plan.folder, f"--workdir={folder / 'runs'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return plan, results.read_all(plan)


def test_a_study_of_real_runs_keeps_what_they_measured(tmp_path: Path):
    _, kept = real(tmp_path)
    assert list(kept) == ["erm@10-3"]
    found = kept["erm@10-3"]
    summary = runs.summary(tmp_path / "runs" / "erm@10-3")
    for name in ("accuracy", "nll", "ece"):
        assert found["metrics"][name] == pytest.approx(summary[f"test_{name}"], rel=1e-4)
    assert found["curve"]["step"] == [2, 4, 6, 8, 10]
    assert found["curve"]["accuracy"][-1] == pytest.approx(summary["test_accuracy"], rel=1e-4)
    assert found["images_per_second"] > 0 and found["seconds"]["train"] > 0


@pytest.mark.long
def test_a_run_of_a_study_gives_what_it_gives_alone(tmp_path: Path):
    plan, kept = real(tmp_path, '[methods.sem]\npolicy = "mixup"\n')
    assert list(kept) == ["erm@10-3", "sem@10-3"]
    # Of erm nothing is mixed, of sem twice the rows are forwarded.
    assert [found["rows_forwarded"] for found in kept.values()] == [320, 640]
    (_, cell), alone = plan.cells(), str(tmp_path / "alone")
    train.run(runs.parse(*cell.arguments, f"--workdir={alone}"))
    evaluate.run(Command(workdir=alone, parts="clean"))
    again, found = results.of_run(plan, cell, Path(alone)), kept[cell.name]
    # Compiled and spread over devices otherwise here: numbers are added in another order.
    assert again["metrics"].keys() == found["metrics"].keys()
    for name, value in found["metrics"].items():
        if value is not None:
            assert again["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for name, values in found["curve"].items():
        assert again["curve"][name] == pytest.approx(values, rel=1e-3, abs=1e-5), name
    same = ("schema", "cell", "method", "seed", "steps", "rows_forwarded", "flags", "evaluate")
    assert [again[name] for name in same] == [found[name] for name in same]


def test_a_run_directory_of_other_flags_is_named(tmp_path: Path):
    plan = make_study(tmp_path / "study", SHORT.replace("[0, 1]", "[0]"))
    (cell,) = plan.cells()
    other = Config(model="mlp", batch_size=16, steps=10)
    workdir = tmp_path / "runs" / cell.name
    workdir.mkdir(parents=True)
    (workdir / "config.flags").write_text(other.to_flags())
    said: list[str] = []
    made = execution.Execution(
        plan, [cell], workdir=tmp_path / "runs", retries=1, stop=Stop(), say=said.append
    )
    made.run([execution.Place()])
    assert "belongs to a run with other flags: " in made.failed[cell.name]
    assert "--batch_size=32 (the run has 16)" in made.failed[cell.name]


# --- The package ---------------------------------------------------------------------------------


def test_a_wheel_has_every_package_and_the_studies():
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = metadata["options"]["packages"].split()
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("semjax", "experiments")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)
    (pattern,) = metadata["options.package_data"]["experiments"].split()
    shipped = set((ROOT / "experiments").glob(pattern))
    assert shipped == set((ROOT / "experiments" / "studies").glob("*/study.toml"))
