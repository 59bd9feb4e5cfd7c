"""Remembers finished pieces of an evaluation, so that interrupted work goes on where it stopped."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import records, untrusted


class Store:
    """Pieces of work by key, a line each in `folder/PART.jsonl`.

    The first line of a file holds the fingerprint of what the pieces depend on; with another one
    the file is begun anew. A line is on disk when its piece is done; a last line torn by a kill is
    made again, and so is every line whose checksum shows that it is not as it was written.

    Args:
      folder: where the files lie; None remembers nothing.
      fingerprint: a text that changes whenever a piece would come out differently.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     store = Store(Path(folder), "weights of step 10")
      ...     first = store.remember("ood", "fog", lambda: 0.5)
      ...     again = store.remember("ood", "fog", lambda: 1 / 0)
      >>> first, again
      (0.5, 0.5)
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        """Reads nothing yet."""
        self._folder, self._fingerprint = folder, fingerprint
        self._pieces: dict[str, dict[str, Any]] = {}

    def has(self, part: str, key: str) -> bool:
        """Whether a piece is done."""
        return key in self._read(part)

    def remember(self, part: str, key: str, make: Callable[[], Any]) -> Any:
        """Returns a piece, made now if it was not made before.

        Args:
          part: the file.
          key: the piece.
          make: makes it; a JSON value.

        Returns:
          The piece, as JSON gives it back.

        Raises:
          OSError: it cannot be written.
        """
        pieces = self._read(part)
        if key not in pieces:
            # Through JSON at once, so that a piece is the same now and when it is read again.
            pieces[key] = json.loads(json.dumps(make()))
            if self._folder is not None:
                with open(self._folder / f"{part}.jsonl", "a", encoding="utf-8") as file:
                    file.write(_line(key, pieces[key]) + "\n")
        return pieces[key]

    def _read(self, part: str) -> dict[str, Any]:
        if part not in self._pieces:
            self._pieces[part] = pieces = {}
            if self._folder is not None:
                path = self._folder / f"{part}.jsonl"
                pieces.update(_pieces(path, self._fingerprint))
                head = json.dumps({"fingerprint": self._fingerprint})
                lines = [_line(key, value) for key, value in pieces.items()]
                records.write_atomically(path, "\n".join([head, *lines]) + "\n")
        return self._pieces[part]


def _line(key: str, value: Any) -> str:
    content = {"key": key, "value": value}
    return json.dumps({**content, "crc32": _checksum(content)})


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def _pieces(path: Path, fingerprint: str) -> dict[str, Any]:
    if not path.exists():
        return {}
    # A line torn by a kill may end inside a character.
    first, *rest = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    if _parsed(first).get("fingerprint") != fingerprint:
        return {}
    pieces = {}
    for line in rest:
        found = _parsed(line)
        checksum = found.pop("crc32", None)
        if found.keys() == {"key", "value"} and checksum == _checksum(found):
            pieces[found["key"]] = found["value"]
    return pieces


def _parsed(line: str) -> dict[str, Any]:
    """The object in a line; an empty one where there is none."""
    try:
        found = untrusted.parse_json(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
