"""A frozen dataclass whose fields are flags: their defaults, help and bounds stand with the field.

Each program has one such dataclass. What is wrong with a value is said by the name of its flag, on
the command line and from Python alike.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from experiments import untrusted
from experiments.command_line import suggestions
from experiments.command_line.flagfiles import ConfigError, expand_flag_files

# What a step counter, an int32, can hold.
_BELOW = 2**31
_LONGEST = 4096  # characters; as long as a path can be
_LONGEST_NAME = 64
# absl's own, which would let mistakes in a file pass without a word.
_SPECIAL = frozenset(("undefok",))


def flag(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    keeps_result: bool = False,
) -> Any:
    """A field that is a flag.

    Args:
      default: of the type of the field: bool, int, float or str.
      help: one phrase.
      choices: the values allowed; without them any.
      at_least: the smallest value allowed.
      above: all values above this are allowed.
      at_most: the largest value allowed.
      below: all values below this are allowed; without a largest value, an int must be below 2**31.
      keeps_result: whether the result is the same with another value.

    Returns:
      A dataclass field.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Options:
      ...     rows: int = flag(8, "rows to read", at_least=1)
      >>> check(Options(rows=0))
      Traceback (most recent call last):
      ...
      experiments.command_line.flagfiles.ConfigError: --rows=0: must be at least 1
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "choices": tuple(choices),
            "bounds": (at_least, above, at_most, below),
            "keeps_result": keeps_result,
        },
    )


def check(values: Any) -> None:
    """Checks every field by its own choices and bounds.

    Args:
      values: an instance of a dataclass of flags.

    Raises:
      ConfigError: a value that is not allowed; the message names the flag.
    """
    for field in dataclasses.fields(values):
        _check_field(field, getattr(values, field.name))


def define(cls: type, values: flags.FlagValues) -> None:
    """Defines one absl flag for each field.

    Args:
      cls: a dataclass of flags.
      values: the flags to define them in, `flags.FLAGS` for a program.
    """
    kinds: dict[Any, Callable[..., Any]] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(cls):
        define_one, choices = kinds[field.type], field.metadata["choices"]
        if choices:
            define_one = functools.partial(flags.DEFINE, _Choice(field))
        define_one(
            name=field.name,
            default=field.default,
            help=field.metadata["help"],
            flag_values=values,
        )


def parse(cls: type, argv: Sequence[str], values: flags.FlagValues) -> tuple[Any, list[str]]:
    """Reads a command line, flag files included; the last setting of a flag wins.

    Flag files set the fields of `cls` alone: the flags of absl, some of which start a debugger or
    write files, belong on the command line.

    Args:
      cls: a dataclass of flags, defined in `values`.
      argv: the program's name and its arguments.
      values: the flags.

    Returns:
      An instance of cls, and the names of the flag files named on the command line.

    Raises:
      ConfigError: an unknown flag, an argument left over, an impossible value or a missing flag
        file.
    """
    own = {field.name for field in dataclasses.fields(cls)}
    expanded, names = expand_flag_files(argv[1:], foreign=(set(values) - own) | _SPECIAL)
    for arg in expanded:
        name = arg.lstrip("-").partition("=")[0]
        # absl looks for names alike by a recursion as deep as the name is long.
        if arg.startswith("-") and len(name) > _LONGEST_NAME:
            raise ConfigError(f"unknown flag --{untrusted.one_line(name[:_LONGEST_NAME])}...")
    try:
        rest = values([argv[0], *expanded])
    except flags.UnrecognizedFlagError as error:
        # absl's own guesses know no "--no" and no initials.
        off = [f"no{field.name}" for field in dataclasses.fields(cls) if field.type is bool]
        name = untrusted.one_line(error.flagname)
        hint = suggestions.hint(name, [*own, *off, *values], prefix="--")
        raise ConfigError(
            f"Unknown command line flag '{name}'{hint or '; --helpfull shows all'}"
        ) from error
    except flags.IllegalFlagValueError as error:
        raise ConfigError(untrusted.one_line(error).removeprefix("flag ")) from error
    except (flags.Error, ValueError) as error:  # ValueError: --noNAME with a value
        raise ConfigError(untrusted.one_line(error)) from error
    if rest[1:]:
        raise ConfigError(
            f"arguments left over: {untrusted.one_line(' '.join(rest[1:]))}; write every flag as "
            "--name=value"
        )
    return cls(**{f.name: values[f.name].value for f in dataclasses.fields(cls)}), names


def allowed(field: dataclasses.Field) -> str:
    """Which values a flag may have, in words.

    Args:
      field: of a dataclass of flags.

    Returns:
      The words; empty where every value of its type may be.

    Example:
      >>> @dataclasses.dataclass
      ... class Options:
      ...     rows: int = flag(8, "rows to read", at_least=1, below=9000)
      >>> allowed(dataclasses.fields(Options)[0])
      'at least 1 and below 9,000'
    """
    if choices := field.metadata["choices"]:
        return f"one of {', '.join(choices)}"
    return " and ".join(f"{words} {_number(bound)}" for words, bound, _ in _limits(field))


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


class _Choice(flags.ArgumentParser[str]):
    """Takes one of the choices of a field, and says which there are."""

    syntactic_help = ""

    def __init__(self, field: dataclasses.Field) -> None:
        super().__init__()
        self._field = field

    def parse(self, argument: str) -> str:
        choices = self._field.metadata["choices"]
        if argument not in choices:
            raise ValueError(f"must be {allowed(self._field)}{suggestions.hint(argument, choices)}")
        return argument

    def flag_type(self) -> str:
        return "string enum"


def _limits(
    field: dataclasses.Field,
) -> list[tuple[str, float, Callable[[float, float], bool]]]:
    """The bounds of a field in words and numbers, each with what tells whether it is kept."""
    tests: tuple[tuple[str, Callable[[float, float], bool]], ...] = (
        ("at least", lambda x, bound: x >= bound),
        ("above", lambda x, bound: x > bound),
        ("at most", lambda x, bound: x <= bound),
        ("below", lambda x, bound: x < bound),
    )
    return [
        (words, bound, test)
        for (words, test), bound in zip(tests, field.metadata["bounds"], strict=True)
        if bound is not None
    ]


def _check_field(field: dataclasses.Field, value: Any) -> None:
    # Only what has the right size is turned into digits: Python refuses to for thousands of them.
    size = value.bit_length() if isinstance(value, int) else 0
    shown = f"--{field.name}={f'(a number of {size} bits)' if size > 64 else _shown(value)}"
    choices = field.metadata["choices"]
    if choices and value not in choices:
        hint = suggestions.hint(value, choices) if isinstance(value, str) else ""
        raise ConfigError(f"{shown}: must be {allowed(field)}{hint}")
    if isinstance(value, str):
        _check_text(shown, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{shown}: must be finite")
    if not all(kept(value, bound) for _, bound, kept in _limits(field)):
        raise ConfigError(f"{shown}: must be {allowed(field)}")
    limits = field.metadata["bounds"]
    if field.type is int and limits[2:] == (None, None) and abs(value) >= _BELOW:
        raise ConfigError(f"{shown}: must be below {_BELOW:,}")


def _check_text(shown: str, value: str) -> None:
    """A text must come back from a flag file as it was, and be a name that a file can have."""
    if len(value) > _LONGEST:
        raise ConfigError(f"{shown}: must have at most {_LONGEST:,} characters")
    if untrusted.unprintable(value) or value != value.strip():
        raise ConfigError(
            f"{shown}: must be one line without control characters, and without spaces at its ends"
        )


def _shown(value: Any) -> str:
    text = untrusted.one_line(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
