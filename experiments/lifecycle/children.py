"""Commands as processes that do not outlive the one that starts them."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence

# What becomes the command: takes its cores, and asks Linux to kill it when its parent is gone. The
# parent is told by its number, since it can be gone before Linux is asked.
# (Between fork and exec it would be quicker, but a program that has loaded JAX must not fork.)
_DIES_WITH = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):  # gone already
    os._exit(128 + signal.SIGKILL)
if sys.argv[2]:
    os.sched_setaffinity(0, map(int, sys.argv[2].split(",")))
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as error:
    sys.exit(f"error: cannot start {sys.argv[3]}: {error.strerror}")
"""


def bound(command: Sequence[str], *, cores: Collection[int] = ()) -> list[str]:
    """A command that Linux kills when this process ends; elsewhere the command as it is.

    To Linux the parent is the thread that starts the command: it must stay for as long.

    Args:
      command: a program and its arguments.
      cores: the CPU cores it may use; none for all that this process may.

    Returns:
      What to start instead, from this process itself.

    Example:
      >>> subprocess.run(bound(["true"])).returncode
      0
    """
    if sys.platform != "linux":
        return list(command)
    wrapper = [sys.executable, "-I", "-S", "-c", _DIES_WITH, str(os.getpid())]
    return [*wrapper, ",".join(map(str, sorted(cores))), *command]


def kill_with_its_own(process: subprocess.Popen) -> None:
    """Kills a process that leads a session, with those that it has started, and waits for it.

    Args:
      process: started with `start_new_session`; it may have ended and left others behind.

    Example:
      >>> process = subprocess.Popen(bound(["sleep", "60"]), start_new_session=True)
      >>> kill_with_its_own(process)
      >>> process.returncode == -signal.SIGKILL
      True
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
