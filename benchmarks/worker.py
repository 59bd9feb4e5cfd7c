"""A process that takes steps when it is told to: `python -m benchmarks.worker`.

`benchmarks.run` starts one for each subject, since environment variables, thread pools and peak
memory belong to a process. Line by line, each answer one JSON value:

| on standard input | on standard output |
|---|---|
| | `[{"facts": {...}}, ...]`, one a subject, once all are built and warm |
| `go I N` | `{"seconds": S}`: subject I took N steps, each of S seconds |
| `stop` | `{"facts": {...}}` of the process, peak memory among them; then it ends |

In place of an answer stands `{"error": TEXT}` where something was raised. What libraries print goes
to standard error. When standard input ends the worker ends at once, whatever it is doing, so that
none outlives its parent.
"""

import importlib
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.work import Work


def make(maker: str, options: Sequence[str], period: int) -> Work:
    """Builds a subject and takes its first steps.

    Args:
      maker: MODULE:FUNCTION; the function takes the options and returns a Work.
      options: `name=value` each.
      period: steps until all programs of the subject have run.

    Returns:
      The subject, warm.
    """
    module, _, name = maker.partition(":")
    start = time.perf_counter()
    work: Work = getattr(importlib.import_module(module), name)(options)
    built, held = time.perf_counter(), _status("VmRSS")
    work.seconds(period)
    work.facts.update(
        build_seconds=built - start,
        first_steps_seconds=time.perf_counter() - built,
        mib_before_first_steps=held,
    )
    return work


def peak_mib() -> float:
    """The most memory that this process ever held, in MiB.

    Returns:
      At least what it holds now.

    Example:
      >>> 1 < peak_mib() < 1e6
      True
    """
    # On Linux the resource usage of a process begins with that of the one it was started from.
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status(name: str) -> float | None:
    """What Linux says of this process, in MiB; None elsewhere."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines[name].split()[0]) / 1024
    except (OSError, KeyError):
        return None


def _told(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or what it raised as an answer."""
    try:
        return function(*arguments)
    # Whatever it is, the parent is told; the other subjects go on.
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _listen(commands: "queue.Queue[list[str]]") -> None:
    for line in sys.stdin:
        commands.put(line.split())
    os._exit(1)


def main() -> None:
    """Builds the subjects given as JSON in the first argument, and does what it is told."""
    # The terminal's interrupt is for the parent, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(value: Any) -> None:
        print(json.dumps(value), file=replies, flush=True)

    commands: queue.Queue[list[str]] = queue.Queue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    works = [_told(make, *given) for given in json.loads(sys.argv[1])]
    reply([work if isinstance(work, dict) else {"facts": work.facts} for work in works])
    while (command := commands.get())[0] == "go":
        work, steps = works[int(command[1])], int(command[2])
        seconds = _told(work.seconds, steps)
        reply(seconds if isinstance(seconds, dict) else {"seconds": seconds})
    reply({"facts": {"peak_mib": peak_mib(), "xla_flags": os.environ.get("XLA_FLAGS", "")}})


if __name__ == "__main__":
    main()
