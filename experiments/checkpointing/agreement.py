"""What the processes of a run tell each other around a checkpoint, so that none waits alone.

Reading and writing must end in the same way in all of them: a process that went on with another
step, or that raised while the others wait for it, would hang or spoil the run.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments import hosts
from experiments.checkpointing import errors

__all__ = ["by_first", "raise_together"]


def by_first(action: Callable[[], Any]) -> Any:
    """Does something in process 0 alone; every process has to call this.

    Args:
      action: what process 0 does; its result is of JSON values.

    Returns:
      The result, in all of them.

    Raises:
      Exception: what the action raises, in process 0; a CheckpointError in the others.

    Example:
      >>> by_first(lambda: [1, 2])
      [1, 2]
    """
    result, error = None, None
    if hosts.is_first():
        try:
            result = action()
        except Exception as found:
            error = found
    raise_together(error)
    return json.loads(_tell_all(json.dumps(result))[0])


def raise_together(error: Exception | None) -> None:
    """Raises in every process if one of them has an error; every process has to call this.

    Args:
      error: this process's, or None.

    Raises:
      Exception: the error of the first process that has one: itself there, and in the others a
        CheckpointError of the same class and text.
    """
    told = "" if error is None else f"{type(error).__name__}: {error}"
    for process, text in enumerate(_tell_all(told)):
        if not text:
            continue
        if process == jax.process_index() and error is not None:
            raise error
        name, _, message = text.partition(": ")
        if name in ("CheckpointError", "CheckpointMismatch", "CheckpointDamaged"):
            raise getattr(errors, name)(message)
        raise errors.CheckpointError(f"process {process} has failed: {text}")


def _tell_all(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    if jax.process_count() == 1:
        return [text]
    from jax.experimental import multihost_utils

    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.int32(own.size)))
    if not (longest := int(lengths.max())):
        return [""] * len(lengths)
    # One length in all processes, rounded up so that few programs are compiled.
    padded = np.zeros(-(-longest // 256) * 256, np.uint8)
    padded[: own.size] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:size]).decode() for row, size in zip(rows, lengths, strict=True)]
