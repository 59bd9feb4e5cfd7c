"""A study.toml as values that can be compared, shown and be a flag, whatever stands in it."""

import math
import tomllib
from pathlib import Path
from typing import Any

from experiments import untrusted

# A file of this size and lines of this length are read in a moment, whatever stands in them.
_MOST_BYTES = 2**16
_LONGEST_LINE = 4096
# The whole, a table, a table of methods, a list in it.
_MOST_DEEP = 4


def read(path: Path) -> dict[str, Any]:
    """Reads the tables of a file.

    Args:
      path: of it.

    Returns:
      The values by key, not checked yet.

    Raises:
      OSError: it cannot be read.
      ValueError: it is too large, nested too deeply, or no TOML.
    """
    text = untrusted.read_text(path, at_most=_MOST_BYTES)
    if max(map(len, text.split("\n"))) > _LONGEST_LINE:
        raise ValueError(f"it has a line of more than {_LONGEST_LINE:,} characters")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_values(found: Any) -> None:
    """Refuses what no study can hold.

    Args:
      found: as `read` returns it.

    Raises:
      ValueError: a value that cannot be shown, compared or be a flag; the message names its place.

    Example:
      >>> check_values({"train": {"steps": float("nan")}})
      Traceback (most recent call last):
      ...
      ValueError: train.steps must be a text, a finite number, true or false; found nan
    """
    _check(found, "")


def _check(value: Any, place: str, *, deep: int = 0) -> None:
    """Refuses what no study can hold, so that the rest can be compared, shown and be a flag."""
    if isinstance(value, dict | list):
        if deep == _MOST_DEEP:
            raise ValueError(f"{place} is nested too deeply")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if untrusted.unprintable(str(key)):
                raise ValueError(f"the name {key!r} must be one line without control characters")
            _check(item, f"{place}.{key}".lstrip("."), deep=deep + 1)
    elif isinstance(value, str):
        if untrusted.unprintable(value):
            raise ValueError(f"{place} must be one line without control characters")
    elif isinstance(value, int):
        if value.bit_length() > 63:
            raise ValueError(f"{place} is too large: a number of {value.bit_length()} bits")
    elif not (isinstance(value, float) and math.isfinite(value)):
        raise ValueError(f"{place} must be a text, a finite number, true or false; found {value}")
