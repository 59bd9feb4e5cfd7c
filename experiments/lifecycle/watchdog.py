"""Ends a run that hangs, and shows where.

A dead disk, a peer that stopped answering or a deadlock raises no error: without a limit the run
would hold its machines for ever.
"""

import faulthandler
import sys
import threading
from collections.abc import Callable
from typing import Self, TextIO

from experiments.lifecycle import exit_codes


class Watchdog:
    """A clock that the run restarts whenever it begins to wait for something else.

    When it has run for `seconds`, a thread writes what was waited for and the stacks of all threads
    to stderr, and ends the process with the exit code STUCK, whatever the main thread does. (A call
    into C that holds Python's lock would stop this thread too; those of JAX let it go.) The time
    that the whole process was suspended (Ctrl-Z) does not count.

    Args:
      seconds: the limit; 0 for none.
      stream: a real file; stderr if None.
      leave: what ends the process; for tests.

    Example:
      >>> with Watchdog(60) as watchdog:
      ...     watchdog.expects("step 1")
      ...     watchdog.expects("the evaluation after step 1")
    """

    def __init__(
        self,
        seconds: float,
        *,
        stream: TextIO | None = None,
        leave: Callable[[int], object] = exit_codes.leave,
    ) -> None:
        """The clock stands until the `with` block is entered."""
        self._seconds = seconds
        self._stream, self._leave = stream, leave
        self._ended = threading.Event()
        self.expects("the start")

    def expects(self, what: str) -> None:
        """Restarts the clock.

        Args:
          what: is waited for from now on.
        """
        self._waiting = (what,)  # a new one each time, by which the thread sees that it is

    def __enter__(self) -> Self:
        """Starts the clock."""
        if self._seconds:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stops it."""
        self._ended.set()

    def _watch(self) -> None:
        tick = min(self._seconds / 10, 1.0)
        seen, waited = self._waiting, 0.0
        while not self._ended.wait(tick):
            if self._waiting is not seen:
                seen, waited = self._waiting, 0.0
            waited += tick
            if waited > self._seconds:
                return self._bark(seen[0])

    def _bark(self, what: str) -> None:
        exit_codes.say(
            f"error: {what} has not finished for {self._seconds:g} s (--stuck_after). Where each "
            "thread is follows; the same command resumes from the last checkpoint"
        )
        faulthandler.dump_traceback(self._stream or sys.stderr, all_threads=True)
        self._leave(exit_codes.STUCK)
