"""Reads one step from disk and holds it against what was saved and against what is expected.

The item handlers of Orbax are called directly: its manager lists, deletes and waits for other
processes, while reading is the business of each process alone.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from experiments.checkpointing import arrays, directory, seal
from experiments.checkpointing.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointMismatch,
    digest,
    listed,
)

__all__ = ["CHECKSUMS", "STATE", "read"]

STATE, CHECKSUMS = "state", "checksums"  # the two items of a checkpoint

# What a failed read says where the fault is not in the files: to go on without them would be wrong.
_NO_DAMAGE = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "Permission denied", "Too many open files")


def read(path: Path, template: Any, *, metric: str) -> Any:
    """The state of one step, bit for bit as it was saved.

    Args:
      path: directory of the step.
      template: pytree of arrays or `jax.ShapeDtypeStruct`s that say where each leaf is to lie.
      metric: what checkpoints are ranked by; that file must be sound as well.

    Returns:
      A pytree like `template`.

    Raises:
      CheckpointMismatch: other arrays than those of the template, or a newer format.
      CheckpointDamaged: files are missing, cannot be read, or are not what was saved; the text is
        the reason alone.
      CheckpointError: the files may not be read.
    """
    with _told_apart(path):
        import orbax.checkpoint as ocp

        if not path.is_dir():
            raise NotADirectoryError("it is not a directory")
        directory.require_files(path)
        directory.quality(path, metric)
        items = ocp.JsonCheckpointHandler(), ocp.StandardCheckpointHandler()
        with contextlib.ExitStack() as handlers:
            json_item, state_item = (handlers.enter_context(contextlib.closing(i)) for i in items)
            found = _seal(path, json_item.restore(_there(path / CHECKSUMS)))
            kinds = arrays.kinds(state_item.metadata(_there(path / STATE)).tree)
            # First against what was saved: else a damaged list would pass for another run's.
            if changes := _changes(kinds, found):
                raise ValueError(f"the list of its arrays is not the one that was saved: {changes}")
            _require_fit(path, kinds, arrays.kinds(template))
            args = ocp.args.StandardRestore(template)
            state = state_item.restore(path / STATE, args=args)
            seal.verify(state, found)
    return state


def _there(path: Path) -> Path:
    if not path.is_dir():
        raise FileNotFoundError(f"its directory {path.name} is missing")
    return path


def _seal(path: Path, content: Any) -> seal.Seal:
    try:
        return seal.read(content)
    except CheckpointMismatch as error:
        raise CheckpointMismatch(f"checkpoint {path} cannot be read: {error}") from error


def _changes(kinds: dict[str, str], found: seal.Seal) -> str:
    if found.kinds is None:  # an early format keeps the names only
        return listed(sorted(kinds.keys() ^ found.crc32.keys()))
    return listed(arrays.differences(kinds, found.kinds))


def _require_fit(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    """Compares before Orbax reads: it would cast, and fail in hundreds of lines."""
    if differences := arrays.differences(found, expected):
        raise CheckpointMismatch(
            f"checkpoint {path} does not fit this run: {listed(differences)}. Resume with the "
            f"settings it was written with, or choose another directory"
        )


@contextlib.contextmanager
def _told_apart(path: Path) -> Iterator[None]:
    """Calls damage what is damage."""
    try:
        yield
    except CheckpointMismatch:
        raise
    except MemoryError:
        raise
    except Exception as error:
        text = digest(error)
        if not isinstance(error, PermissionError) and not any(m in text for m in _NO_DAMAGE):
            raise CheckpointDamaged(text) from error
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise  # a device without room for it
        raise CheckpointError(
            f"checkpoint {path} cannot be read: {text}. Its files may be in order: see to the cause"
        ) from error
