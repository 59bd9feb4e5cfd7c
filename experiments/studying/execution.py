"""Runs the cells of a study side by side: training, evaluation, and what is kept of both.

Each cell is an ordinary run directory, trained and evaluated by the ordinary programs in processes
of their own. A study that is stopped, or killed, goes on from the results that are there, and each
run from its checkpoint.
"""

import contextlib
import dataclasses
import fcntl
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from experiments import untrusted
from experiments.lifecycle import children, exit_codes
from experiments.lifecycle.signals import Stop
from experiments.reporting.headline import look_up, number
from experiments.studying import plan, results
from experiments.studying.plan import Cell, Study, StudyError

#: What trains a cell and what evaluates it; flags follow.
TRAIN = (sys.executable, "-m", "experiments.train")
EVALUATE = (sys.executable, "-m", "experiments.evaluate")

_POLL = 0.2  # seconds between looks at the processes
# Seconds that a run's log may be held by a study that was killed, whose process is still ending.
_PATIENCE = 10.0
# What would end the same way again: wrong flags, and a loss that is not finite.
_FINAL = (exit_codes.REFUSED, exit_codes.NOT_FINITE)
# Of a log, what says why its program has failed, other things may be said after it.
_TELLS = re.compile(r"error: |[a-z]+ failed: ")
_LAST_BYTES = 2**16


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one cell at a time runs.

    Attributes:
      cores: the CPU cores it has; none for all.
      device: the accelerator it sees; empty for the CPU.
    """

    cores: tuple[int, ...] = ()
    device: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        if not self.device:
            # Several processes cannot share an accelerator that happens to be there.
            return {"JAX_PLATFORMS": "cpu", **os.environ}
        return {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": self.device,
            "TPU_VISIBLE_CHIPS": self.device,
            # A chip for each process, which together are no slice.
            "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_BOUNDS": "1,1,1",
        }


def places(jobs: int, devices: Sequence[str], *, runs: int) -> list[Place]:
    """Where cells run side by side.

    Args:
      jobs: how many on the CPU; 0: one for each core.
      devices: the accelerators, each for one cell at a time; none to divide the cores.
      runs: how many there are to run: no more places are made, so that each has more cores.

    Returns:
      The places, at least one. On Linux each has cores of its own: two cells on a core each are
      quicker than one after the other on both, since a step of a small network does not divide
      well.

    Raises:
      StudyError: more jobs than cores, a device that is named twice, or jobs and devices.
    """
    if devices:
        named = ",".join(devices)
        if jobs:
            raise StudyError(f"--jobs={jobs}: --devices={named} says already how many run at once")
        if len(set(devices)) < len(devices) or not all(devices):
            raise StudyError(f"--devices={named}: must name different devices, joined by commas")
        return [Place(device=device) for device in devices[: max(runs, 1)]]
    cores = (
        sorted(os.sched_getaffinity(0))
        if sys.platform == "linux"
        else list(range(os.cpu_count() or 1))
    )
    if jobs > len(cores):
        raise StudyError(f"--jobs={jobs}: must be at most {len(cores)}, the cores there are")
    jobs = max(1, min(jobs or len(cores), runs))
    if jobs == 1 or sys.platform != "linux":
        return [Place() for _ in range(jobs)]
    ends = [len(cores) * job // jobs for job in range(jobs + 1)]
    return [Place(tuple(cores[ends[job] : ends[job + 1]])) for job in range(jobs)]


class Pace:
    """How long the cells that are left will take, by the rows of those that are done.

    Example:
      >>> now = [0.0]
      >>> pace = Pace({"a": 100.0, "b": 100.0, "c": 100.0}, clock=lambda: now[0])
      >>> pace.begins("a")
      >>> pace.left(places=2) is None
      True
      >>> pace.begins("b")
      >>> now[0] = 60.0
      >>> pace.ends("a", seconds=60.0)
      >>> pace.left(places=2)  # of b nothing, of c a minute
      60.0
    """

    def __init__(
        self, rows: Mapping[str, float], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes the rows that each cell forwards; none has begun."""
        self._clock = clock
        self._waiting = dict(rows)
        self._running: dict[str, tuple[float, float]] = {}
        self._rows = self._seconds = 0.0

    def begins(self, name: str) -> None:
        """A cell begins now."""
        self._running[name] = (self._waiting.pop(name), self._clock())

    def ends(self, name: str, *, seconds: float | None) -> None:
        """A cell has ended, and took so long; None if it failed, which says nothing of others."""
        rows, _ = self._running.pop(name)
        if seconds is not None:
            self._rows += rows
            self._seconds += seconds

    def left(self, *, places: int) -> float | None:
        """Seconds until all cells are done on so many places; None before one is."""
        if not self._rows:
            return None
        each, now = self._seconds / self._rows, self._clock()
        running = [max(0.0, rows * each - (now - began)) for rows, began in self._running.values()]
        every = [*running, *(rows * each for rows in self._waiting.values())]
        return max([sum(every) / places, *every], default=0.0)


class Execution:
    """The cells that are to be run, and how far that is.

    Attributes:
      failed: why each cell that failed did, by name.
      speeds: training rows a second, by method.
    """

    def __init__(
        self,
        study: Study,
        cells: Sequence[Cell],
        *,
        workdir: Path,
        train_flags: Sequence[str] = (),
        evaluate_flags: Sequence[str] = (),
        retries: int,
        stop: Stop,
        say: Callable[[str], None],
        keeps: bool = True,
    ) -> None:
        """Takes what to run; nothing starts before `run`.

        Args:
          study: the study.
          cells: the runs of it that have no result yet, each with a name of its own.
          workdir: folder of the run directories.
          train_flags: further flags of the training program, such as where the data lies.
          evaluate_flags: further flags of the evaluation.
          retries: how often a program that fails is started again.
          stop: asks for an end.
          say: shows a line.
          keeps: whether runs are evaluated and kept; else they are trained and removed.
        """
        self.failed: dict[str, str] = {}
        self.speeds: dict[str, float] = {}
        self._study, self._workdir = study, workdir
        self._train_flags, self._evaluate_flags = list(train_flags), list(evaluate_flags)
        self._retries, self._stop, self._say, self._keeps = retries, stop, say, keeps
        self._queue = queue.SimpleQueue[tuple[int, Cell]]()
        for numbered in enumerate(cells, start=1):
            self._queue.put(numbered)
        self._total = len(cells)
        self._done = 0
        self._places = 1
        self._pace = Pace({cell.name: cell.rows for cell in cells})
        self._lock = threading.Lock()

    def commands(self, cell: Cell) -> list[list[str]]:
        """What makes a cell, one after the other.

        Args:
          cell: a run of the study.

        Returns:
          Programs with their arguments.
        """
        workdir = f"--workdir={self._workdir / cell.name}"
        # Each run is one process, whatever cluster the study itself was started on.
        own = [*self._train_flags, "--distributed=off", workdir]
        made = [[*TRAIN, *cell.arguments, *own]]
        if self._keeps:
            asked = plan.arguments(self._study.evaluate)
            made.append([*EVALUATE, *asked, *self._evaluate_flags, workdir])
        return made

    def run(self, where: Sequence[Place]) -> None:
        """Runs all cells, or as many as were begun when the study is stopped.

        Args:
          where: a thread each, which takes one cell after the other.
        """
        self._places = len(where)
        # A thread outlives the processes that it starts, or Linux would kill them with it.
        threads = [threading.Thread(target=self._work, args=(place,)) for place in where]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, place: Place) -> None:
        while not self._stop.asked():
            try:
                number, cell = self._queue.get_nowait()
            except queue.Empty:
                return
            with self._lock:
                self._pace.begins(cell.name)
                self._say(f"[{number}/{self._total}] {cell.name}: {cell.steps:,} steps")
            began = time.monotonic()
            why, seconds = "", 0.0
            try:
                told = self._cell(cell, place)
                if told is None:
                    return
                # A run that was resumed, or was there already, took longer than was seen here.
                seconds = max(told, time.monotonic() - began)
            except (StudyError, OSError) as error:
                why = untrusted.one_line(error)
            # Whatever goes wrong with one cell must not take the others with it.
            except Exception as error:
                why = untrusted.one_line(f"{type(error).__name__}: {error}")
            with self._lock:
                self._ends(cell, why, seconds)

    def _ends(self, cell: Cell, why: str, seconds: float) -> None:
        self._pace.ends(cell.name, seconds=None if why else seconds)
        if why:
            self.failed[cell.name] = why
            self._say(f"{cell.name} failed: {why}")
        else:
            self._done += 1
        left = self._pace.left(places=self._places)
        pieces = [f"{self._done} of {self._total} done"]
        pieces += [f"{len(self.failed)} failed"] if self.failed else []
        pieces += [] if why else [f"{cell.name} in {shown_time(seconds)}"]
        pieces += [] if left is None else [f"ETA {shown_time(left)}"]
        self._say("; ".join(pieces))

    def _cell(self, cell: Cell, place: Place) -> float | None:
        """Makes a cell; the seconds that it says it took, None where the study was stopped."""
        workdir = self._workdir / cell.name
        # Not with_suffix: names have points in them.
        path = self._workdir / f"{cell.name}.log"
        with _alone(path, self._stop) as log, self._tidied(workdir, path):
            if self._keeps and results.read(self._study, cell) is not None:
                return 0.0  # another study has made it meanwhile
            for command in self.commands(cell):
                if not self._program(cell, command, log, path, place):
                    return None
            return self._outcome(cell, workdir)

    @contextlib.contextmanager
    def _tidied(self, workdir: Path, log: Path) -> Iterator[None]:
        """Where nothing is to be kept, nothing is: but for the log of what has failed."""
        if self._keeps:
            yield
            return
        shutil.rmtree(workdir, ignore_errors=True)
        try:
            yield
            log.unlink()
        finally:
            shutil.rmtree(workdir, ignore_errors=True)

    def _outcome(self, cell: Cell, workdir: Path) -> float:
        summary = untrusted.read_json(workdir / "summary.json")
        speed = number(look_up(summary, "images_per_second"))
        if speed:
            self.speeds[cell.method] = speed
        if not self._keeps:
            return 0.0
        kept = results.of_run(self._study, cell, workdir)
        results.write(self._study, cell, kept)
        return sum(number(took) or 0.0 for took in kept["seconds"].values())

    def _program(
        self, cell: Cell, command: Sequence[str], log: IO[bytes], path: Path, place: Place
    ) -> bool:
        """Runs a program, again if it fails; False where the study was stopped."""
        retries = self._retries
        while not self._stop.asked():
            start = log.seek(0, os.SEEK_END)
            code = self._process(command, log, place)
            if code == exit_codes.FINISHED:
                return True
            if self._stop.asked():
                break
            name = next((arg for arg in command if arg.startswith("experiments.")), command[0])
            why = f"{name} {_ending(code)}: {_last_line(path, start)} (more in {path})"
            if code in _FINAL or not retries:
                raise StudyError(why)
            retries -= 1
            with self._lock:
                self._say(f"{cell.name}: {why}; it is tried again")
        return False

    def _process(self, command: Sequence[str], log: IO[bytes], place: Place) -> int:
        process = subprocess.Popen(
            children.bound(command, cores=place.cores),
            env=place.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C is for the study, which passes it on, once.
            start_new_session=True,
        )
        try:
            told = False
            while process.poll() is None:
                if self._stop.asked() and not told:
                    process.send_signal(signal.SIGTERM)
                    told = True
                time.sleep(_POLL)
        finally:
            children.kill_with_its_own(process)
        return process.returncode


def shown_time(seconds: float) -> str:
    """A time as people say it.

    Args:
      seconds: how long.

    Returns:
      In seconds, minutes or hours.

    Example:
      >>> shown_time(42.3), shown_time(600), shown_time(9000)
      ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


@contextlib.contextmanager
def _alone(path: Path, stop: Stop) -> Iterator[IO[bytes]]:
    """The log of a run, to be written to by one study at a time, and the processes it starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _PATIENCE
    with path.open("ab") as log:
        while True:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if stop.asked() or time.monotonic() > end:
                    raise StudyError(f"another study makes this run now: {path} is held") from None
                time.sleep(_POLL)
        yield log


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal has a number only
        name = f"signal {-code}"
    hint = ", perhaps for lack of memory" if -code == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


def _last_line(path: Path, start: int) -> str:
    """Of what was written to a log since it had so many bytes, the line that says what is wrong."""
    with path.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - _LAST_BYTES))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    telling = [line for line in lines if _TELLS.match(line)]
    return untrusted.one_line((telling or lines or ["it said nothing"])[-1])
