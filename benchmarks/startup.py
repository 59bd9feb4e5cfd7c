"""From the command to the first step of the trainer, seen from outside: warm and cold caches.

A run is started as a person starts it, and watched through the file that it writes its metrics to.
Cold means an empty cache folder of the user's ($XDG_CACHE_HOME): no compiled program and no decoded
data set. What the system has read of files before stays in memory in both cases.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import ratios
from benchmarks.report import Result

NAMES = ("startup_cold", "startup_warm")
_TARGETS = {"startup_cold": 15.0, "startup_warm": 4.0}
# The first one, and two whose rate tells how long a step takes.
_STEPS = 3
_ROOT = Path(__file__).resolve().parents[1]


def measure(
    flags: Sequence[str],
    title: str,
    *,
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Result]:
    """Starts runs, each round one with cold and then one with warm caches.

    Args:
      flags: of the trainer.
      title: what is trained.
      rounds: counted rounds.
      say: is told how far it is.

    Returns:
      The seconds to the first step less those of a step, cold and warm; in the details the split
      that the first run of each kind wrote into its summary.
    """
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    details: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    failed = ""
    try:
        for number in range(rounds):
            with tempfile.TemporaryDirectory() as cache:
                for name in NAMES:
                    found, split = first_step(flags, cache, finish=number == 0)
                    seconds[name].append(found)
                    details[name] |= split
            say(f"round {number + 1} of {rounds}")
    except RuntimeError as error:
        failed = str(error)
    return [
        Result(
            name,
            f"command to first step less the step, {title}, {name.removeprefix('startup_')} caches",
            ratios.spread(seconds[name]) if not failed else None,
            target=_TARGETS[name],
            unit="s",
            failed=failed,
            details=details[name],
        )
        for name in NAMES
    ]


def first_step(flags: Sequence[str], cache: str, *, finish: bool) -> tuple[float, dict[str, Any]]:
    """Starts a run and waits for its first steps.

    Args:
      flags: of the trainer.
      cache: the user's cache folder.
      finish: whether the run is let to its end, which evaluates the test split.

    Returns:
      Seconds from the command to the first step, less those of a step; and, of a run that came to
      its end, how it splits them itself.

    Raises:
      RuntimeError: the run ended before its first steps did.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        workdir = Path(folder) / "run"
        command = [
            *(sys.executable, "-m", "experiments.train", *flags),
            *(f"--workdir={workdir}", f"--steps={_STEPS}", "--log_every=1"),
        ]
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        # It would stand before the user's cache folder.
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        start = time.monotonic()
        process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT
        )

        def steps(count: int) -> list[dict[str, Any]]:
            """What the run says of so many steps, once it does."""
            while True:
                ended = process.poll() is not None
                lines = _lines(workdir / "metrics.jsonl")
                if len(lines) >= count:
                    return lines
                if ended:
                    said.seek(0)
                    last = said.read().decode(errors="replace").strip().splitlines()[-3:]
                    raise RuntimeError(f"{' '.join(command)}: {' | '.join(last)}")
                time.sleep(0.01)

        try:
            steps(1)
            seconds = time.monotonic() - start
            lines = steps(_STEPS)
            split = {}
            if finish:
                process.wait()
                summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
                split = {"split_in_seconds": summary["startup"]}
        finally:
            process.kill()
            process.wait()
    return seconds - (lines[-1]["wall_time"] - lines[-2]["wall_time"]), split


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the training steps so far."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]
    return [each for each in map(json.loads, whole) if "loss" in each]
