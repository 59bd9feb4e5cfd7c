"""Compiled programs kept on disk, so that only the first run of a kind waits for the compiler.

JAX keys each program by what it computes, the version of jaxlib, the compiler's flags and the kind
of machine, so a folder serves all runs, and a changed run compiles anew.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

HELP = (
    "folder that keeps compiled programs for later runs; auto: semjax/compiled in the user's cache "
    "folder; none: nothing is kept. A folder that JAX is told of, such as by "
    "JAX_COMPILATION_CACHE_DIR, stands"
)
_AT_MOST = 2 * 2**30  # bytes; a program of a large network has about ten million
_MIN_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def enable(folder: str) -> Path | None:
    """Lets JAX keep what it compiles; to be called before the first program is compiled.

    What the user has told JAX stands: its own folder, or that nothing is to be kept. A folder that
    cannot be written gives one line on stderr and no cache. The oldest programs go when the folder
    has grown beyond 2 GiB.

    Args:
      folder: a path, `auto` or `none`, as `HELP` says.

    Returns:
      The folder that was set, or None where nothing was.

    Example:
      >>> enable("none")
    """
    config: Any = jax.config  # its attributes are made when it is run
    if folder == "none" or not config.jax_enable_compilation_cache:
        return None
    if config.jax_compilation_cache_dir:
        return None
    path = default() if folder == "auto" else Path(folder).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permissions alone do not tell
            pass
    except OSError as error:
        print(
            f"warning: compiled programs are not kept: cannot write in {path} ({error.strerror}); "
            "--compile_cache=FOLDER chooses another, --compile_cache=none keeps none",
            file=sys.stderr,
        )
        return None
    _tidy(path, _AT_MOST)
    config.update("jax_compilation_cache_dir", str(path))
    if _MIN_SECONDS.upper() not in os.environ:
        # A run compiles dozens of programs of milliseconds; reading them is faster.
        config.update(_MIN_SECONDS, 0.0)
    return path


def default() -> Path:
    """The folder that `auto` stands for: $XDG_CACHE_HOME/semjax/compiled, or below ~/.cache.

    Returns:
      An absolute path.

    Example:
      >>> default().parts[-2:]
      ('semjax', 'compiled')
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored, says the standard.
    base = base if base.is_absolute() else Path("~/.cache").expanduser()
    return base.absolute() / "semjax" / "compiled"


def _tidy(folder: Path, at_most: int) -> None:
    """Removes the oldest files until the rest has at most so many bytes."""
    found = []
    for entry in folder.glob("*-cache"):
        try:
            found.append((entry.stat().st_mtime, entry.stat().st_size, entry))
        except OSError:  # another run was faster
            continue
    total = sum(size for _, size, _ in found)
    for _, size, entry in sorted(found):
        if total <= at_most:
            return
        entry.unlink(missing_ok=True)
        total -= size
