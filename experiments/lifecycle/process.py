"""What a program sets for its whole process before JAX looks for its devices, and how it leaves."""

import contextlib
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from experiments.lifecycle import compile_cache, exit_codes
from semjax import cpu


def run(main: Callable[[], None], *, cache: str) -> None:
    """Runs a program in a process that is its own.

    A program that stops early, by a signal or an error, may leave computations behind; then the
    process ends without Python's tidying up, in which XLA's CPU client can wait for its threads for
    ever. What is to be closed must be closed when `main` is left.

    Args:
      main: the program; it raises SystemExit with a code to stop early. Another error is shown
        with its traceback, and the code is FAILED.
      cache: where compiled programs are kept, as `compile_cache.enable` takes it.
    """
    cpu.set_flags()
    compile_cache.enable(cache)
    try:
        main()
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        _leave(stop.code)
    except BaseException:
        traceback.print_exc()
        _leave(exit_codes.FAILED)


def _leave(code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # whoever read them may be gone
        sys.stdout.flush()
        sys.stderr.flush()
    exit_codes.leave(code)
