"""The parent of workers: starts them, has them take steps in turn, and ends them.

Nothing here loads JAX or PyTorch: the parent must neither compete with its workers for cores nor
hold memory that they would inherit.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import ratios

T = TypeVar("T")

PEERS = "pip install 'semjax[peers]'"
_ROOT = Path(__file__).resolve().parents[1]


class WorkerError(RuntimeError):
    """A subject cannot be measured; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
      maker: MODULE:FUNCTION, see `benchmarks.worker.make`.
      options: `name=value` each.
      needs: a package without which it is skipped.
      period: steps are taken in multiples of it, for a subject whose steps are not all alike.
      tool: a command of the system without which it is skipped.
      environment: (name, value) of variables that its process has beside those of the parent.
    """

    maker: str
    options: tuple[str, ...] = ()
    needs: str = ""
    period: int = 1
    tool: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    def missing(self) -> str | None:
        """Why it cannot be started here; None if it can."""
        if self.needs and not importlib.util.find_spec(self.needs):
            return f"{self.needs} is not installed: {PEERS}"
        if self.tool and not shutil.which(self.tool):
            return f"{self.tool} is not installed"
        return None


class Worker:
    """A process that holds one subject, or several that share it."""

    def __init__(
        self, subjects: Mapping[str, Subject], environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it; it builds its subjects meanwhile.

        Args:
          subjects: by name.
          environment: variables beside those of this process.
        """
        self._names = list(subjects)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        given = [(each.maker, each.options, each.period) for each in subjects.values()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            # Both the checkout's modules and those of the folder it was started in are found.
            env={**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(_paths())},
        )

    def ready(self) -> dict[str, dict[str, Any]]:
        """Waits until all is built; for each subject `facts` or an `error`."""
        return dict(zip(self._names, self._answer("building"), strict=True))

    def go(self, name: str, steps: int) -> float:
        """Has a subject take steps.

        Args:
          name: of the subject.
          steps: at least 1.

        Returns:
          Seconds a step.

        Raises:
          WorkerError: it raised something, or the process ended.
        """
        answer = self._ask(f"go {self._names.index(name)} {steps}", f"taking steps of {name}")
        if "error" in answer:
            raise WorkerError(answer["error"])
        return float(answer["seconds"])

    def stop(self) -> dict[str, Any]:
        """Ends it in good order; the facts of the process."""
        facts: dict[str, Any] = self._ask("stop", "ending")["facts"]
        self.close()
        return facts

    def close(self) -> None:
        """Ends it at once; calling it again does nothing."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                # A process that is gone takes no more commands.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process.wait()

    def _ask(self, command: str, doing: str) -> Any:
        if self._process.stdin is None:
            raise ValueError("the process was started without a pipe to its standard input")
        # One that is gone is found out by its answer.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        return self._answer(doing)

    def _answer(self, doing: str) -> Any:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-5:]
        said = f", saying: {' | '.join(last)}" if last else ""
        raise WorkerError(f"the worker ended with exit code {code} while {doing}{said}")


def _paths() -> list[str]:
    given = os.environ.get("PYTHONPATH", "")
    return [str(_ROOT), *(path for path in given.split(os.pathsep) if path)]


@dataclasses.dataclass
class Measured:
    """What was found out about the subjects of a group.

    Attributes:
      seconds: a step's seconds in each round, by subject, for those that could be measured.
      facts: of each of these.
      skipped: why, by subject.
      failed: why, by subject.
    """

    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)

    def named(self, names: Mapping[str, str]) -> "Measured":
        """What was found out about some of the subjects, under other names.

        Args:
          names: new name -> the name here.

        Returns:
          The same values.
        """

        def of(column: dict[str, T]) -> dict[str, T]:
            return {new: column[old] for new, old in names.items() if old in column}

        return Measured(of(self.seconds), of(self.facts), of(self.skipped), of(self.failed))


class _Team(contextlib.ExitStack):
    """The workers of a group; each subject that fails leaves it."""

    def __init__(
        self, subjects: Mapping[str, Subject], *, share: bool, environment: Mapping[str, str]
    ) -> None:
        super().__init__()
        self.measured = Measured()
        able = {}
        for name, subject in subjects.items():
            if reason := subject.missing():
                self.measured.skipped[name] = reason
            else:
                able[name] = subject
        together: dict[Any, dict[str, Subject]] = {}
        for name, subject in able.items():
            kind = (subject.needs, subject.environment) if share else name
            together.setdefault(kind, {})[name] = subject
        shares = list(together.values())
        self._workers: dict[str, Worker] = {}
        for members in shares:
            own = dict(next(iter(members.values())).environment)
            worker = Worker(members, {**environment, **own})
            self.callback(worker.close)
            self._workers.update(dict.fromkeys(members, worker))
        self.names = list(self._workers)
        for worker, members in zip(self._distinct(), shares, strict=True):
            self._collect(worker, list(members))

    def _distinct(self) -> list[Worker]:
        return list(dict.fromkeys(self._workers.values()))

    def _collect(self, worker: Worker, members: Sequence[str]) -> None:
        try:
            answers = worker.ready()
        except WorkerError as error:
            answers = {name: {"error": str(error)} for name in members}
        for name, answer in answers.items():
            if "error" in answer:
                self._drop(name, answer["error"])
            else:
                self.measured.facts[name] = answer["facts"]

    def _drop(self, name: str, reason: str) -> None:
        self.names.remove(name)
        self.measured.failed[name] = reason
        self.measured.facts.pop(name, None)
        self.measured.seconds.pop(name, None)

    def go(self, name: str, steps: int) -> float | None:
        try:
            return self._workers[name].go(name, steps)
        except WorkerError as error:
            self._drop(name, str(error))
            return None

    def stop(self) -> Measured:
        """Ends them all; peak memory joins the facts."""
        for worker in self._distinct():
            names = [name for name in self.names if self._workers[name] is worker]
            try:
                facts = worker.stop() if names else {}
            except WorkerError as error:
                for name in names:
                    self._drop(name, str(error))
                continue
            for name in names:
                self.measured.facts[name].update(facts)
        return self.measured


def measure(
    subjects: Mapping[str, Subject],
    *,
    rounds: int,
    turn_seconds: float,
    pause: float = 0.1,
    share: bool = False,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Measured:
    """Has all subjects take steps in turn, round after round, each order the last one reversed.

    Args:
      subjects: by name.
      rounds: counted rounds, after one that is not and that finds out how long a step takes.
      turn_seconds: a turn is as many steps as take about so long, at least one period; 0: no more,
        and no round that is not counted.
      pause: seconds between turns, in which the threads of the last one go to sleep.
      share: whether subjects of one package and environment share a process: quicker to start, for
        a check that all works; peak memory then means nothing.
      environment: variables of the processes, beside those of this one.
      say: is told how far it is.

    Returns:
      What was found out; a subject that fails does not stop the others.
    """
    say(f"building {len(subjects)}: {', '.join(subjects)}")
    with _Team(subjects, share=share, environment=environment or {}) as team:
        counts: dict[str, int] = {}
        for name in list(team.names):
            period = subjects[name].period
            once = team.go(name, period) if turn_seconds else 1.0
            if once is not None:
                turns = math.ceil(turn_seconds / max(once * period, 1e-9))
                counts[name] = period * max(turns, 1)
                team.measured.seconds[name] = []
        for number in range(rounds):
            for name in ratios.in_turn(list(team.names), number):
                time.sleep(pause)
                seconds = team.go(name, counts[name])
                if seconds is not None:
                    team.measured.seconds[name].append(seconds)
            say(f"round {number + 1} of {rounds}")
        for name in team.names:
            team.measured.facts[name]["steps_a_turn"] = counts[name]
        return team.stop()
