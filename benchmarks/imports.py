"""What `import semjax` takes, over the import of what it is made of, seen from outside.

Each import is that of a fresh process, started with nothing else to do. Both kinds find their
bytecode in a folder of their own that an uncounted round fills: a checkout may be without.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import ratios
from benchmarks.report import Result

NAME = "imports"
_TARGET = 1.10
_OVER = "import semjax"
_UNDER = "import jax, optax, chex"
_ROOT = Path(__file__).resolve().parents[1]


def measure(
    *, rounds: int, statement: str = _OVER, say: Callable[[str], None] = lambda text: None
) -> list[Result]:
    """Times the imports in turn.

    Args:
      rounds: counted rounds; the one before them is not.
      statement: what is compared with the import of jax, optax and chex.
      say: is told how far it is.

    Returns:
      The ratio of the seconds of both, in a list as of every measure.
    """
    title = f"`{statement}` / `{_UNDER}`, bytecode cached"
    seconds: dict[str, list[float]] = {statement: [], _UNDER: []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(rounds + 1):
                for each in ratios.in_turn([statement, _UNDER], number):
                    found = _seconds(each, folder)
                    if number:
                        seconds[each].append(found)
                say(f"round {number} of {rounds}" if number else "bytecode written")
        except RuntimeError as error:
            return [Result(NAME, title, target=_TARGET, failed=str(error))]
    over, under = seconds[statement], seconds[_UNDER]
    parts = " / ".join(f"{ratios.spread(each).median:.4g} s" for each in (over, under))
    details = {"seconds": seconds}
    return [Result(NAME, title, ratios.paired(over, under), _TARGET, parts=parts, details=details)]


def _seconds(statement: str, folder: str) -> float:
    """How long a process lives that runs a statement, with its bytecode in a folder.

    Raises:
      RuntimeError: it failed; the message is its last line.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", statement]
    start = time.monotonic()
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True)
    seconds = time.monotonic() - start
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"{statement}: {' '.join(last)}")
    return seconds
