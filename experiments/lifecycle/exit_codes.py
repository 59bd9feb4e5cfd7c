"""How a program ends, as a number that the shell or a scheduler acts on.

A scheduler should start the same command again after `PREEMPTED`, `PEER_LOST` and `STUCK`; the
others need a person.
"""

import contextlib
import multiprocessing
import os
from typing import NoReturn

FINISHED = 0
FAILED = 1  # none of the below; the message says what
REFUSED = 2  # the command, the data or the run directory is not right; nothing was changed
NOT_FINITE = 3  # loss or weights were not finite for too many steps in a row
OUT_OF_MEMORY = 4
NOT_SAVED = 5  # a checkpoint or another file of the run could not be written: disk full, read-only
DATA_LOST = 6  # the data set became unreadable while training
STUCK = 7  # no progress within --stuck_after
PEER_LOST = 8  # another process of the run ended or stopped answering
PREEMPTED = 75  # SIGTERM: saved, the same command resumes (EX_TEMPFAIL of sysexits.h)
INTERRUPTED = 130  # SIGINT, Ctrl-C: saved, the same command resumes

_STDERR = 2


def say(line: str) -> None:
    """Writes a line on stderr from any thread: past Python's buffers, whose locks may be held.

    Args:
      line: the text; it replaces the living line of a terminal.
    """
    with contextlib.suppress(OSError):  # nobody may be listening any more
        start = "\r\x1b[K" if os.isatty(_STDERR) else ""
        os.write(_STDERR, f"{start}{line}\n".encode())


def leave(code: int) -> NoReturn:
    """Ends the process at once, whatever its threads do, with the worker processes it has started.

    Nothing is closed and no buffer is written out: that is for the caller to do.

    Args:
      code: one of the above.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)
