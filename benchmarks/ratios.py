"""Ratios of times taken in turn: what is reported of two subjects measured side by side."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest, over rounds.

    Attributes:
      median: of the rounds.
      least: of the rounds.
      greatest: of the rounds.
      rounds: the values, in the order in which they were measured.
    """

    median: float
    least: float
    greatest: float
    rounds: tuple[float, ...]


def spread(values: Sequence[float]) -> Spread:
    """The spread of values.

    Args:
      values: one a round, at least one.

    Returns:
      A Spread.

    Example:
      >>> spread([3.0, 1.0, 2.0, 4.0]).median
      2.5
    """
    return Spread(statistics.median(values), min(values), max(values), tuple(values))


def paired(over: Sequence[float], under: Sequence[float]) -> Spread:
    """The spread of the ratios round by round, not the ratio of the medians.

    A machine that slows down for a while slows both subjects of a round, so the ratio of that round
    still holds; medians of each may be of different rounds.

    Args:
      over: one value a round.
      under: as many, each of the same round.

    Returns:
      A Spread of over / under.

    Raises:
      ValueError: other numbers of rounds.

    Example:
      >>> paired([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]).median
      2.0
    """
    return spread([a / b for a, b in zip(over, under, strict=True)])


def in_turn(items: Sequence[T], round_number: int) -> list[T]:
    """The order of a round: as given, in the next one reversed, so that none is always first.

    Args:
      items: what is measured.
      round_number: counted from 0.

    Returns:
      The items in order.

    Example:
      >>> in_turn("abc", 0), in_turn("abc", 1)
      (['a', 'b', 'c'], ['c', 'b', 'a'])
    """
    return list(items) if round_number % 2 == 0 else list(reversed(items))
