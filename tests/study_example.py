"""A small study, and programs that stand in for training and evaluation: nothing is compiled."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.lifecycle.signals import Stop
from experiments.studying import execution, plan
from experiments.studying.plan import Study

TOML = """
title = "Does the gap help?"
split = "validation"
seeds = [0, 1]
reference = "erm"

[budgets]
steps = 10

[train]
model = "mlp"
batch_size = 32
validation_fraction = 0.2

[evaluate]
parts = "clean"

[methods.erm]
policy = "none"
sem_weight = 0.0

[methods.sem]
sem_weight = [0.5, 1.0]

[methods."sem, l1"]
like = "sem, sem_weight=0.5"
distance = "l1"
"""
# One method, so that two seeds make two runs.
SHORT = TOML[: TOML.index("[methods.sem]")]

# What the stand-ins begin with: each leaves its process id and its arguments in WORKDIR/PROGRAM.N,
# N = 1 for the first time.
_BEGIN = """
import json, os, pathlib, signal, sys, time
program = sys.argv[1]
flags = dict(arg[2:].partition("=")[::2] for arg in sys.argv[2:])
workdir = pathlib.Path(flags["workdir"])
workdir.mkdir(parents=True, exist_ok=True)
time_of = 1 + len(list(workdir.glob(f"{program}.[0-9]")))
def note(name, text=""):
    (workdir / f".{name}").write_text(text)
    (workdir / f".{name}").rename(workdir / name)
def end(line, code):
    print(line, file=sys.stderr, flush=True)
    os._exit(code)
"""
_STARTED = """
note(f"{program}.{time_of}", json.dumps([os.getpid(), sys.argv[2:]]))
"""
_TRAINED = """
note("summary.json", json.dumps({"images_per_second": 100.0, "wall_time": 2.0}))
note("metrics.jsonl", json.dumps({"step": 5, "test_accuracy": 0.5, "test_nll": 1.25}) + chr(10))
"""
_EVALUATED = """
clean = {"status": "done", "seconds": 1.0, "result": {"accuracy": 0.75, "nll": 0.5}}
run = {"environment": {"python": "3"}}
note("report.json", json.dumps({"run": run, "parts": {"clean": clean}}))
"""


def make_study(folder: Path, text: str = TOML) -> Study:
    """Writes a study.toml.

    Args:
      folder: of the study; made if it is not there.
      text: of the file.

    Returns:
      The study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(text)
    return plan.read(folder)


def stand_ins(*, train: str = "", evaluate: str = "") -> dict[str, tuple[str, ...]]:
    """Programs that do at once what the real ones take minutes for.

    Args:
      train: Python that the training program runs before it leaves a summary; it can use
        `time_of` (1 for the first time in this directory), `end(line, code)`, `note(file, text)`.
      evaluate: the same of the evaluation.

    Returns:
      What `execution.TRAIN` and `execution.EVALUATE` are to be.
    """
    made = {
        "TRAIN": ("experiments.train", train + _TRAINED),
        "EVALUATE": ("experiments.evaluate", evaluate + _EVALUATED),
    }
    return {
        name: (sys.executable, "-S", "-c", _BEGIN + _STARTED + text, program)
        for name, (program, text) in made.items()
    }


def starts(workdir: Path, program: str = "experiments.train") -> list[tuple[int, list[str]]]:
    """The process id and the arguments of each time that a stand-in was started.

    Args:
      workdir: of the run.
      program: the program that it stands in for.

    Returns:
      A pair for each time, the first one first.
    """
    return [
        tuple(json.loads(path.read_text())) for path in sorted(workdir.glob(f"{program}.[0-9]"))
    ]


class Asked(Stop):
    """A stop that a test asks for, without a signal."""

    def ask(self) -> None:
        """Asks as SIGTERM does."""
        self._heard = "SIGTERM"


def execute(
    study: Study, workdir: Path, *, jobs: int = 1, said: list[str] | None = None, **options: Any
) -> execution.Execution:
    """Runs a study in this process.

    Args:
      study: the study.
      workdir: of the run directories.
      jobs: side by side.
      said: takes the lines that are shown.
      **options: of `execution.Execution`.

    Returns:
      The execution, which has ended.
    """
    lines = [] if said is None else said
    defaults: dict[str, Any] = {"retries": 0, "stop": Stop(), "say": lines.append}
    cells = options.pop("cells", study.cells())
    made = execution.Execution(study, cells, workdir=workdir, **{**defaults, **options})
    made.run([execution.Place()] * jobs)
    return made


def put_stand_ins(monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Puts programs that do almost nothing in place of the real ones.

    Args:
      monkeypatch: takes them away again.
      **texts: as for `stand_ins`.
    """
    monkeypatch.setattr(execution, "_POLL", 0.01)
    for name, command in stand_ins(**texts).items():
        monkeypatch.setattr(execution, name, command)
