"""What a program says of itself: in short to who meets it first, and every flag to who asks.

Names, defaults, allowed values and phrases come from the dataclass of the flags, so that what is
shown is what is checked.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.command_line import flagfields

_WIDEST = 100
_NAMES = {"help": ("help", "helpshort", "h", "?"), "helpfull": ("helpfull",)}


def asked(argv: Sequence[str], *others: str) -> str | None:
    """What a command line asks to be shown instead of running the program.

    Looked for before the flags are read: who asks for help may have a mistake elsewhere.

    Args:
      argv: the program's name and its arguments.
      others: names of further flags that show something.

    Returns:
      `help`, `helpfull` or one of `others`; None if nothing is asked for.

    Example:
      >>> asked(["train", "--seed=1", "-h"]), asked(["train", "--list"], "list")
      ('help', 'list')
    """
    given = {argument.lstrip("-") for argument in argv[1:] if argument.startswith("-")}
    for name, spellings in (*_NAMES.items(), *((other, (other,)) for other in others)):
        if given & set(spellings):
            return name
    return None


def show(text: str) -> None:
    """Prints a text for people, who may have seen enough before it ends (as with `| head`).

    Args:
      text: without a newline at its end.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python tries again at exit, which would be an error message.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def width() -> int:
    """The characters a line of help may have: as many as the terminal has, at most 100."""
    return max(40, min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST))


def some(cls: type, names: Iterable[str]) -> str:
    """A few flags with their defaults.

    Args:
      cls: a dataclass of flags.
      names: which.

    Returns:
      The lines, without a newline at the end.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    return "\n".join(_lines(fields[name]) for name in names)


def everything(cls: type, groups: Mapping[str, str]) -> str:
    """All flags with their defaults and allowed values, under headings.

    Args:
      cls: a dataclass of flags.
      groups: headings by the first field of each group, in the order of the fields.

    Returns:
      The lines, without a newline at the end.

    Example:
      >>> @dataclasses.dataclass
      ... class Options:
      ...     rows: int = flagfields.flag(8, "rows to read", at_least=1)
      >>> print(everything(Options, {"rows": "The data"}))
      The data
      <BLANKLINE>
        --rows=8
            rows to read; at least 1
    """
    blocks = []
    for field in dataclasses.fields(cls):
        if field.name in groups:
            blocks.append(groups[field.name] + "\n")
        blocks.append(_lines(field) + "\n" * (_next(cls, field) in groups))
    return "\n".join(blocks)


def of_libraries(names: Iterable[str]) -> str:
    """The flags that come with libraries, by name alone.

    Args:
      names: of the flags.

    Returns:
      The lines, without a newline at the end.
    """
    listed = ", ".join(f"--{name}" for name in sorted(names) if len(name) > 1)
    text = f"Of libraries, explained by --helpxml: {listed}"
    return textwrap.fill(text, width(), break_on_hyphens=False)


def _next(cls: type, field: dataclasses.Field) -> str | None:
    names = [each.name for each in dataclasses.fields(cls)]
    return (*names, None)[names.index(field.name) + 1]


def _lines(field: dataclasses.Field) -> str:
    """A flag as it is written with its default, and below what it is."""
    allowed = flagfields.allowed(field)
    phrase = "; ".join(part for part in (field.metadata["help"], allowed) if part)
    text = textwrap.fill(
        phrase,
        width(),
        initial_indent=" " * 6,
        subsequent_indent=" " * 6,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return f"  {_written(field.name, field.default)}\n{text}"


def _written(name: str, default: Any) -> str:
    if isinstance(default, bool):
        return f"--[no]{name}  (on)" if default else f"--{name}  (off)"
    return f"--{name}  (unset)" if default is None else f"--{name}={default}"
