"""The directory of a run as files: who writes in it, which steps are there, what is set aside."""

import contextlib
import errno
import fcntl
import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from experiments import records, untrusted
from experiments.checkpointing.errors import CheckpointDamaged, CheckpointError

__all__ = [
    "DAMAGED",
    "lock",
    "qualities",
    "quality",
    "remove_half_written",
    "require_files",
    "require_room",
    "set_aside",
    "steps",
    "unlistable",
    "write_metrics",
]

DAMAGED = "damaged"  # beside `checkpoints`: what could not be read, never deleted by this program

_HALF_WRITTEN = ".orbax-checkpoint-tmp"  # in the name, till it is whole

# After a write that failed, the other threads of this process may still make files for a moment.
_LATE_WRITES = 10.0  # seconds

# What a checkpoint takes on disk besides its arrays: metadata, and whole blocks of small files.
_MARGIN = 16 * 2**20


def lock(workdir: Path) -> int:
    """A descriptor that holds the directory for this process; the kernel frees it with it.

    Args:
      workdir: directory of the run; made if it is not there.

    Returns:
      The descriptor: closing it lets the directory go.

    Raises:
      CheckpointError: another process holds it, or it cannot be written.
    """
    descriptor = None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise CheckpointError(
                f"another process writes in {workdir}: wait for it or choose another directory"
            ) from error
        raise CheckpointError(
            f"cannot write in {workdir} ({error.strerror}): choose another directory"
        ) from error


def remove_half_written(directory: Path) -> None:
    """Removes what a killed writer has left; only for one who holds the lock.

    Args:
      directory: the checkpoints of a run; it need not be there.

    Raises:
      CheckpointError: it cannot be removed.
    """
    for path in directory.glob(f"*{_HALF_WRITTEN}*"):
        deadline = time.monotonic() + _LATE_WRITES
        while os.path.lexists(path):
            try:
                shutil.rmtree(path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.ENOENT) and time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                raise CheckpointError(
                    f"the half-written checkpoint {path} cannot be removed ({error.strerror}): "
                    f"remove it, then start again"
                ) from error


def steps(directory: Path) -> list[int]:
    """The steps that something is named after, in order, whatever it is.

    Args:
      directory: the checkpoints of a run; it need not be there.
    """
    # What is half written has another name, and gets this one when it is whole.
    try:
        names = [entry.name for entry in os.scandir(directory)]
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]*", name))


def require_files(checkpoint: Path) -> None:
    """Raises ValueError for what is neither a file nor a directory: a pipe would be waited for."""
    for path in checkpoint.rglob("*"):
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.relative_to(checkpoint)} is not a regular file")


def quality(checkpoint: Path, metric: str) -> float | None:
    """The metric that a checkpoint is ranked by; None for one that is not ranked.

    Raises:
      ValueError: what stands there is damaged.
    """
    path = checkpoint / "metrics"
    if not os.path.lexists(path):
        return None
    try:
        value = untrusted.read_json(path / "metrics")[metric]
        if type(value) is not float or not math.isfinite(value):
            raise ValueError(f"{metric} is {value!r}")
        return value
    except (ValueError, KeyError, TypeError, OSError) as error:
        shown = untrusted.one_line(repr(error), at_most=200)
        raise ValueError(f"its file metrics/metrics is damaged: {shown}") from None


def qualities(directory: Path, metric: str) -> dict[int, float]:
    """The metric of every step that is ranked.

    Args:
      directory: the checkpoints of a run; it need not be there.
      metric: its name.

    Raises:
      CheckpointDamaged: that of a step is damaged, so that the best cannot be told.
    """
    found = {}
    for step in steps(directory):
        try:
            value = quality(directory / str(step), metric)
        except ValueError as error:
            raise CheckpointDamaged(
                f"the best step cannot be told: of {directory / str(step)} {error}"
            ) from error
        if value is not None:
            found[step] = value
    return found


def write_metrics(checkpoint: Path, metrics: Mapping[str, float]) -> None:
    """Writes what a checkpoint is ranked by; at no moment is it there in part.

    Args:
      checkpoint: directory of a step.
      metrics: finite numbers by name.

    Raises:
      OSError: it cannot be written.
    """
    item = checkpoint / "metrics"
    folder = item if item.exists() else checkpoint / f"metrics{_HALF_WRITTEN}"
    records.write_atomically(folder / "metrics", json.dumps(dict(metrics)))
    if folder != item:
        folder.rename(item)


def unlistable(checkpoint: Path, metric: str) -> str:
    """Why a checkpoint cannot even be listed by Orbax; empty if it can."""
    if not checkpoint.is_dir():
        return "it is not a directory"
    try:
        quality(checkpoint, metric)
    except ValueError as error:
        return str(error)
    return ""


def set_aside(directory: Path, damaged: Iterable[int]) -> dict[int, Path]:
    """Moves steps out of the checkpoints, into `damaged` beside them.

    Args:
      directory: the checkpoints of a run.
      damaged: steps.

    Returns:
      Where each of them lies now.

    Raises:
      CheckpointError: it cannot be moved.
    """
    moved = {}
    try:
        for step in damaged:
            target = directory.parent / DAMAGED / str(step)
            target.parent.mkdir(exist_ok=True)
            count = 0
            while os.path.lexists(target):
                count += 1
                target = target.with_name(f"{step}.{count}")
            (directory / str(step)).rename(target)
            moved[step] = target
    except OSError as error:
        raise CheckpointError(
            f"the damaged checkpoint {directory / str(step)} cannot be moved to {target} "
            f"({error.strerror}): move it away, then start again"
        ) from error
    return moved


def require_room(directory: Path, size: int) -> None:
    """Raises CheckpointError where the disk has no room for a checkpoint.

    Args:
      directory: where it will be written; it need not be there.
      size: bytes of its arrays.
    """
    while not directory.exists():
        directory = directory.parent
    needed = size + _MARGIN
    free = needed
    with contextlib.suppress(OSError):  # a file system that does not tell
        free = shutil.disk_usage(directory).free
    if free < needed:
        raise CheckpointError(
            f"a checkpoint cannot be written in {directory}: it needs {_mib(needed)} MiB and the "
            f"disk has {_mib(free)} left. The earlier ones are untouched: make room, then start "
            f"again"
        )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"
