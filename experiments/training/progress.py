"""How far a run is, for a person who watches it."""

import collections
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from experiments.records import Closing, shown


class Progress(Closing):
    """Shows how far a run is: one living line on a terminal, a plain line per log point elsewhere.

    The rate is of the last few moments, so it follows a machine whose load changes; the first step
    is left out of it, because it compiles.

    Args:
        total: Number of steps of the whole run.
        images_per_step: Batch size.
        stream: Where to write; stderr if None.
        interval: Seconds between two redraws on a terminal, at least.
        clock: Returns seconds; for tests.
        silent: Shows nothing at all: for a run in which another process speaks.

    Example:
        >>> with Progress(100, images_per_step=128, stream=sys.stdout) as progress:
        ...     progress.update(10)  # every step; silent where there is no terminal
        ...     progress.log(10, {"loss": 2.30259})
        step 10/100 (10 %)  loss 2.303
    """

    def __init__(
        self,
        total: int,
        *,
        images_per_step: int,
        stream: TextIO | None = None,
        interval: float = 0.2,
        clock: Callable[[], float] = time.monotonic,
        silent: bool = False,
    ) -> None:
        """Shows nothing yet."""
        self._total = total
        self._images_per_step = images_per_step
        self._stream = stream or sys.stderr
        self._silent = silent
        self._live = not silent and self._stream.isatty()
        self._interval = interval
        self._clock = clock
        self._metrics: Mapping[str, Any] = {}
        self._marks: collections.deque[tuple[float, int]] = collections.deque(maxlen=16)

    def update(self, step: int) -> None:
        """Tells that `step` steps are done; redraws on a terminal, not too often."""
        now = self._clock()
        if self._marks and now - self._marks[-1][0] < self._interval:
            return
        self._marks.append((now, step))
        self._redraw()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows metrics: from now on in the living line, or in a line of their own."""
        self._metrics = metrics
        self._marks.append((self._clock(), step))
        if self._live:
            self._redraw()
        elif not self._silent:
            self._stream.write(self._line() + "\n")
            self._stream.flush()

    def say(self, text: str) -> None:
        """Prints a line above the living one."""
        if self._silent:
            return
        self._stream.write(f"\r\x1b[K{text}\n" if self._live else f"{text}\n")
        self._stream.flush()
        self._redraw()

    def close(self) -> None:
        """Leaves the last state of the living line standing."""
        if self._live and self._marks:
            self._redraw()
            self._stream.write("\n")
        self._stream.flush()

    def _redraw(self) -> None:
        if self._live and self._marks:
            columns = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{self._line()[: columns - 1]}")
            self._stream.flush()

    def _line(self) -> str:
        step = self._marks[-1][1]
        parts = [f"step {step}/{self._total} ({100 * step // max(self._total, 1)} %)"]
        rate = self._rate()
        if rate:
            left = (self._total - step) / rate
            parts += [f"{rate * self._images_per_step:,.0f} images/s", f"ETA {_duration(left)}"]
        parts += [f"{name} {shown(value)}" for name, value in self._metrics.items()]
        return "  ".join(parts)

    def _rate(self) -> float:
        """Steps per second, 0 while unknown."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start else 0.0


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
