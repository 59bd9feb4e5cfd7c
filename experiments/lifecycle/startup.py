"""How long a command takes to its first step, and what on."""

import os
import time
from pathlib import Path

_STARTED = 21  # of the fields of /proc/PID/stat, from 0: clock ticks from boot to the process
_IMPORTED = time.monotonic()


def process_start() -> float:
    """When this process started, on the clock of `time.monotonic`.

    Returns:
      Seconds. Where the system does not tell (it does on Linux), when this module was imported.

    Example:
      >>> process_start() <= time.monotonic()
      True
    """
    try:
        # The name of the program, in brackets, may hold spaces.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[_STARTED - 2]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return _IMPORTED
    now = time.monotonic()
    # A clock of a container that does not fit the other one would tell anything.
    return now - age if now - age <= _IMPORTED else _IMPORTED


class Startup:
    """The parts of a start, each measured from the end of the one before.

    Attributes:
      seconds: by part, in order.

    Example:
      >>> start = Startup(process_start())
      >>> start.ends("imports")
      >>> start.ends("data")
      >>> list(start.seconds)
      ['imports', 'data']
      >>> start.total() == sum(start.seconds.values())
      True
    """

    def __init__(self, began: float | None = None) -> None:
        """Begins the first part.

        Args:
          began: when, on the clock of `time.monotonic`; None for now.
        """
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic() if began is None else began

    def ends(self, part: str) -> None:
        """Ends a part now, and begins the next."""
        now = time.monotonic()
        self.seconds[part] = now - self._last
        self._last = now

    def total(self) -> float:
        """The seconds of all parts that have ended."""
        return sum(self.seconds.values())
