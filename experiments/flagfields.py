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

from experiments.flagfiles import ConfigError, expand_flag_files


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
      below: all values below this are allowed.
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
      experiments.flagfiles.ConfigError: --rows=0: must be at least 1
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
            define_one = functools.partial(flags.DEFINE_enum, enum_values=choices)
        define_one(
            name=field.name,
            default=field.default,
            help=field.metadata["help"],
            flag_values=values,
        )


def parse(cls: type, argv: Sequence[str], values: flags.FlagValues) -> tuple[Any, list[str]]:
    """Reads a command line, flag files included; the last setting of a flag wins.

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
    expanded, names = expand_flag_files(argv[1:])
    try:
        rest = values([argv[0], *expanded])
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if rest[1:]:
        raise ConfigError(
            f"arguments left over: {' '.join(rest[1:])}; write every flag as --name=value"
        )
    return cls(**{f.name: values[f.name].value for f in dataclasses.fields(cls)}), names


def _check_field(field: dataclasses.Field, value: Any) -> None:
    shown = f"--{field.name}={value}"
    choices = field.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"{shown}: must be one of {', '.join(choices)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{shown}: must be finite")
    tests: tuple[tuple[str, Callable[[float, float], bool]], ...] = (
        ("at least", lambda x, bound: x >= bound),
        ("above", lambda x, bound: x > bound),
        ("at most", lambda x, bound: x <= bound),
        ("below", lambda x, bound: x < bound),
    )
    bounds = [
        (words, bound, test(value, bound))
        for (words, test), bound in zip(tests, field.metadata["bounds"], strict=True)
        if bound is not None
    ]
    if not all(met for *_, met in bounds):
        allowed = " and ".join(f"{words} {bound:g}" for words, bound, _ in bounds)
        raise ConfigError(f"{shown}: must be {allowed}")
