"""What others may have written: read within limits, checked, and shown in one line.

A run directory, a flag file or a data set can come from anybody and can be damaged. Nothing here
runs what it reads, allocates by what a file says of itself, or lets a file speak to the terminal.
"""

import json
import stat
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

_MOST_BYTES = 2**28
_SHOWN = 1000
_LONGEST = 4000
_STANDS_FOR = ("\N{REPLACEMENT CHARACTER}", " ")
_MAGIC = b"\x93NUMPY"
# Control characters, line and paragraph separators, halves of surrogate pairs.
_UNPRINTABLE = frozenset(("Cc", "Zl", "Zp", "Cs"))


def read_text(path: Path, *, at_most: int = _MOST_BYTES) -> str:
    """Reads a text file.

    Args:
      path: a regular file; a pipe or a device could make a reader wait for ever.
      at_most: bytes the file may have.

    Returns:
      The text.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no regular file, too long, or not UTF-8 text; NUL is no text.

    Example:
      >>> read_text(Path("/dev/null"))
      Traceback (most recent call last):
      ...
      ValueError: it is not a regular file
    """
    _require_regular(path)
    with path.open("rb") as file:
        content = file.read(at_most + 1)
    if len(content) > at_most:
        raise ValueError(f"it has more than {at_most:,} bytes")
    text = content.decode("utf-8")
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so it is not text")
    return text


def parse_json(text: str) -> Any:
    """Parses JSON.

    Args:
      text: the whole of it.

    Returns:
      The value. NaN and infinities are taken, as Python writes them: whoever needs finite numbers
      checks for them.

    Raises:
      ValueError: it is not JSON, or nested too deeply.

    Example:
      >>> parse_json('{"step": 10}')
      {'step': 10}
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path, *, at_most: int = _MOST_BYTES) -> Any:
    """Reads a JSON file.

    Args:
      path: as for `read_text`.
      at_most: as for `read_text`.

    Returns:
      As `parse_json`.

    Raises:
      OSError: as `read_text`.
      ValueError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, at_most=at_most))


def read_array(path: Path) -> np.ndarray:
    """Maps a .npy file into memory.

    Mapping compares what the header says with the size of the file before anything is allocated.

    Args:
      path: the file.

    Returns:
      The array, read-only, its rows read when they are looked at.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no .npy file, holds Python objects, or is cut short.
    """
    _require_regular(path)
    with path.open("rb") as file:
        # NumPy takes zip files too, and leaves a damaged one open.
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is not an array in .npy format")
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    # Wrong bytes make NumPy stumble over anything from EOFError to tokenize.TokenError.
    except Exception as error:
        raise ValueError(f"it is not an array in .npy format ({one_line(error)})") from error
    # An array like any other from here on: the subclass makes every slice slower.
    return found.view(np.ndarray)


def error_line(error: object) -> str:
    """The line that a program ends with, whatever the error quotes.

    Args:
      error: the error, or its message.

    Returns:
      `error: ` and the message, as by `one_line`, which may be long.

    Example:
      >>> error_line(ValueError("--seed=-1: must be at least 0"))
      'error: --seed=-1: must be at least 0'
    """
    return f"error: {one_line(error, at_most=_LONGEST)}"


def one_line(value: Any, *, at_most: int = _SHOWN) -> str:
    r"""A text for a message: one line that a terminal only shows.

    Args:
      value: anything, such as an error whose message holds a name from a file.
      at_most: characters that are shown; of a longer text the middle is left out.

    Returns:
      Its text, with lines joined and unprintable characters replaced.

    Example:
      >>> one_line("two\nlines, \x1b[2J")
      'two lines, �[2J'
    """
    text = str(value)
    if len(text) > at_most:
        text = f"{text[: at_most // 2]} ... {text[-at_most // 2 :]}"
    joined = " ".join(part for part in (line.strip() for line in text.splitlines()) if part)
    return "".join(c if c.isprintable() else _STANDS_FOR[c.isspace()] for c in joined)


def unprintable(text: str) -> bool:
    r"""Whether a text holds what cannot be shown in a line, such as NUL or a line break.

    Args:
      text: any.

    Returns:
      Whether it does.

    Example:
      >>> unprintable("a\tb"), unprintable("Straße 1")
      (True, False)
    """
    return any(unicodedata.category(character) in _UNPRINTABLE for character in text)


def _require_regular(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
