"""The seal of a checkpoint: its format, its arrays and a checksum for each, as one small JSON item.

Orbax restores flipped bytes and casts other dtypes without a word, so every checkpoint carries what
it held when it was saved. A checksum of the seal itself tells a damaged seal from a foreign one.

Formats: 1 is {name: crc32}. 2 is {"format": 2, "crc32": {name: crc32}, "arrays": {name: kind},
"self": crc32 of the rest}. A later format keeps "format" and "self" with these meanings, whatever
else it holds, so that this reader can tell that it is later.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from experiments.checkpointing import arrays
from experiments.checkpointing.errors import CheckpointMismatch, listed

__all__ = ["FORMAT", "Seal", "read", "sealed", "verify"]

FORMAT = 2  # the one that is written; raise it with an entry in _MIGRATIONS


@dataclasses.dataclass(frozen=True)
class Seal:
    """What a checkpoint held when it was saved.

    Attributes:
      crc32: checksum of the bytes of each array, by name.
      kinds: dtype and shape of each array, by name; None where the format did not keep them.
    """

    crc32: Mapping[str, int]
    kinds: Mapping[str, str] | None


def sealed(state: Any) -> dict[str, Any]:
    """The seal of a state, as JSON, in the newest format; one array on the host at a time.

    Args:
      state: pytree of arrays that this process holds whole.

    Returns:
      A dictionary of JSON values.
    """
    crc32 = {name: _crc32(leaf) for name, leaf in arrays.leaves(state).items()}
    content = {"format": FORMAT, "crc32": crc32, "arrays": arrays.kinds(state)}
    return {**content, "self": _own_crc32(content)}


def read(content: Any) -> Seal:
    """Reads a seal of any format up to the newest.

    Args:
      content: what the JSON item holds.

    Returns:
      The seal.

    Raises:
      CheckpointMismatch: it was written by a newer version of this program.
      ValueError: it is damaged.

    Example:
      >>> read({"w": 7})
      Seal(crc32={'w': 7}, kinds=None)
    """
    version = _version(content)
    while version < FORMAT:
        content, version = _MIGRATIONS[version](content), version + 1
    crc32, kinds = content.get("crc32"), content.get("arrays")
    if not _maps(crc32, int) or (kinds is not None and not _maps(kinds, str)):
        raise ValueError("its list of checksums is damaged")
    return Seal(crc32, kinds)


def verify(state: Any, seal: Seal) -> None:
    """Raises ValueError where the bytes of an array are not those that were saved."""
    crc32 = {name: _crc32(leaf) for name, leaf in arrays.leaves(state).items()}
    damaged = [name for name, checksum in crc32.items() if seal.crc32.get(name) != checksum]
    if damaged:
        raise ValueError(f"the bytes do not match their checksum in {listed(damaged)}")


def _version(content: Any) -> int:
    if _maps(content, int) and "format" not in content:
        return 1
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is not int or found < 2:
        raise ValueError("its list of checksums is damaged")
    rest = {name: value for name, value in content.items() if name != "self"}
    # Without one it cannot have been written by this version: believe the number.
    if content.get("self", _own_crc32(rest) if found > FORMAT else None) != _own_crc32(rest):
        raise ValueError("its list of checksums is damaged")
    if found > FORMAT:
        raise CheckpointMismatch(
            f"it was written by a newer semjax, in format {found}, where this one reads formats "
            f"1 to {FORMAT}: use that version"
        )
    return found


def _of_format_1(content: dict[str, int]) -> dict[str, Any]:
    return {"format": 2, "crc32": content}


# From each earlier format to the next one.
_MIGRATIONS: dict[int, Callable[[Any], Any]] = {1: _of_format_1}


def _maps(content: Any, kind: type) -> bool:
    """Whether it is a JSON object of such values; true and false are no numbers."""
    return isinstance(content, dict) and all(type(value) is kind for value in content.values())


def _own_crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _crc32(array: jax.Array) -> int:
    # Not every dtype (bfloat16) offers a buffer, their bytes do.
    flat = np.ascontiguousarray(jax.device_get(array)).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data)
