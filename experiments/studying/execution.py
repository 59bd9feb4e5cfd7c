"""Runs the cells of a study side by side: training, evaluation, and what is kept of both.

Each cell is an ordinary run directory, trained and evaluated by the ordinary programs in processes
of their own. A study that is stopped, or killed, goes on from the results that are there, and each
run from its checkpoint.
"""

import dataclasses
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import untrusted
from experiments.lifecycle import children, exit_codes
from experiments.lifecycle.signals import Stop
from experiments.studying import plan, results
from experiments.studying.plan import Cell, Study, StudyError

_POLL = 0.2  # seconds between looks at the processes
_STOPS = (exit_codes.PREEMPTED, exit_codes.INTERRUPTED)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one cell at a time runs.

    Attributes:
      cores: the CPU cores it has; none for all.
      device: the accelerator it sees; empty for all there are.
    """

    cores: tuple[int, ...] = ()
    device: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        names = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS") if self.device else ()
        return {**os.environ, **dict.fromkeys(names, self.device)}


def places(jobs: int, devices: Sequence[str]) -> list[Place]:
    """Where cells run side by side.

    Args:
      jobs: how many; 0: one for each device, without devices one for each core.
      devices: the accelerators, each for one cell at a time; none to divide the cores.

    Returns:
      The places. On Linux each has cores of its own: two cells on a core each are quicker than one
      after the other on both, since a step of a small network does not divide well.

    Raises:
      StudyError: more jobs than cores.
    """
    if devices:
        return [Place(device=device) for device in devices]
    cores = (
        sorted(os.sched_getaffinity(0))
        if sys.platform == "linux"
        else list(range(os.cpu_count() or 1))
    )
    jobs = jobs or len(cores)
    if jobs > len(cores):
        raise StudyError(f"--jobs={jobs}: there are {len(cores)} cores")
    if jobs == 1 or sys.platform != "linux":
        return [Place() for _ in range(jobs)]
    each = len(cores) // jobs
    return [Place(tuple(cores[job * each : (job + 1) * each])) for job in range(jobs)]


class Execution:
    """The cells that are to be run, and how far that is."""

    def __init__(
        self,
        study: Study,
        cells: Sequence[Cell],
        *,
        workdir: Path,
        train_flags: Sequence[str],
        evaluate_flags: Sequence[str],
        retries: int,
        stop: Stop,
        say: Callable[[str], None],
        keeps: bool = True,
    ) -> None:
        """Takes what to run; nothing starts before `run`."""
        self._study, self._workdir = study, workdir
        self._train_flags, self._evaluate_flags = list(train_flags), list(evaluate_flags)
        self._retries, self._stop, self._say, self._keeps = retries, stop, say, keeps
        self._queue = queue.SimpleQueue[tuple[int, Cell]]()
        for numbered in enumerate(cells, start=1):
            self._queue.put(numbered)
        self._total = len(cells)
        self._rows = sum(cell.rows for cell in cells)
        self._rows_done = 0.0
        self._done: list[str] = []
        self._started = time.monotonic()
        #: Why each cell failed, by name.
        self.failed: dict[str, str] = {}
        #: Training rows a second of each cell, by name.
        self.speeds: dict[str, float] = {}
        self._lock = threading.Lock()

    def run(self, where: Sequence[Place]) -> None:
        """Runs all cells, or as many as were begun when the study is stopped.

        Args:
          where: a thread each, which takes one cell after the other.
        """
        self._started = time.monotonic()
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
            self._say(f"[{number}/{self._total}] {cell.name}: {cell.steps:,} steps")
            began = time.monotonic()
            try:
                why = self._cell(cell, place)
            except (StudyError, OSError, ValueError) as error:
                why = str(error)
            if self._stop.asked():
                return
            with self._lock:
                self._ends(cell, why, time.monotonic() - began)

    def _ends(self, cell: Cell, why: str, seconds: float) -> None:
        if why:
            self.failed[cell.name] = why
            self._say(f"{cell.name} failed: {why}")
        self._rows_done += cell.rows
        self._done.append(cell.name)
        spent = time.monotonic() - self._started
        left = spent * (self._rows / self._rows_done - 1)
        self._say(
            f"{len(self._done)} of {self._total} done, {cell.name} in {seconds:,.0f} s; "
            f"ETA {left / 3600:.1f} h"
        )

    def _cell(self, cell: Cell, place: Place) -> str:
        """Trains, evaluates and keeps a cell; says why where that failed."""
        workdir = self._workdir / cell.name
        train = [*cell.arguments, *self._train_flags, f"--workdir={workdir}"]
        evaluate = [*plan.arguments(self._study.evaluate), *self._evaluate_flags]
        programs = [("experiments.train", train)]
        if self._keeps:
            programs.append(("experiments.evaluate", [*evaluate, f"--workdir={workdir}"]))
        for program, flags in programs:
            code = self._program(program, flags, workdir.with_suffix(".log"), place)
            if self._stop.asked():
                return "stopped"
            if code:
                return f"{program} ended with {code}; {workdir.with_suffix('.log')} says why"
        self.speeds[cell.name] = untrusted.read_json(workdir / "summary.json")["images_per_second"]
        if self._keeps:
            results.write(self._study, cell, results.of_run(self._study, cell, workdir))
        return ""

    def _program(self, program: str, flags: Sequence[str], log: Path, place: Place) -> int:
        code = 0
        for _ in range(1 + self._retries):
            code = self._process([sys.executable, "-m", program, *flags], log, place)
            if code in (exit_codes.FINISHED, exit_codes.REFUSED) or self._stop.asked():
                break
        return code

    def _process(self, command: Sequence[str], log: Path, place: Place) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as out:
            process = subprocess.Popen(
                children.bound(command, cores=place.cores),
                env=place.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
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
