"""What seeds say of a method: means, paired differences, and tests corrected for their number."""

import dataclasses
import math
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

import numpy as np
from scipy import stats

from experiments.reporting.comparison import CONFIDENCE, paired

LEVEL = 1 - CONFIDENCE
# Differences that vary less than this share of the values are alike but for rounding.
_ROUNDING = 1e-12
_Name = TypeVar("_Name", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Where values lie.

    Attributes:
      n: how many there are.
      mean: None for none.
      sd: their standard deviation (n - 1); None for fewer than two.
    """

    n: int
    mean: float | None
    sd: float | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a method is from the reference in one measure.

    Attributes:
      n: seeds that both have.
      mean: of the method's value minus the reference's; None for n = 0.
      low: the lower end of the interval of the mean; None where there is no interval.
      high: the upper end.
      p: of the two-sided paired t test; None where there is no interval.
      adjusted: p after Holm's correction over the family.
    """

    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the corrected test rejects that there is no difference."""
        return self.adjusted is not None and self.adjusted < LEVEL


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation.

    Args:
      values: one a seed.

    Returns:
      Both, and their number.

    Example:
      >>> spread([1.0, 3.0])
      Spread(n=2, mean=2.0, sd=1.4142135623730951)
      >>> spread([1.0])
      Spread(n=1, mean=1.0, sd=None)
    """
    known = np.asarray(list(values), float)
    return Spread(
        n=len(known),
        mean=float(known.mean()) if len(known) else None,
        sd=float(known.std(ddof=1)) if len(known) > 1 else None,
    )


def difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference:
    """The mean paired difference, its interval and its test, before any correction.

    With d_i the differences of the seeds that both have, s their standard deviation (n - 1) and
    t = mean(d) √n / s, p is the probability that a t variable with n - 1 degrees of freedom is
    farther from 0 than t. Differences that are all alike give neither an interval nor a test: the
    few seeds say nothing of how much differences vary.

    Args:
      values: the method's values by seed.
      reference: the reference's.

    Returns:
      The difference; `adjusted` is None.

    Example:
      >>> found = difference({0: 3.0, 1: 5.0}, {0: 1.0, 1: 1.0, 2: 7.0})  # 2 and 4: t = 3
      >>> found.n, found.mean, round(found.p, 4)
      (2, 3.0, 0.2048)
    """
    seeds = sorted(values.keys() & reference.keys())
    mine, theirs = ([of[seed] for seed in seeds] for of in (values, reference))
    found = paired(mine, theirs)
    one = Difference(n=found["n"], mean=found["difference"])
    if found["low"] is None:
        return one
    deviation = float((np.asarray(mine) - np.asarray(theirs)).std(ddof=1))
    if deviation <= _ROUNDING * max(map(abs, (*mine, *theirs))):
        return one
    t = found["difference"] * math.sqrt(one.n) / deviation
    p = float(2 * stats.t.sf(abs(t), one.n - 1))
    return dataclasses.replace(one, low=found["low"], high=found["high"], p=p)


def holm(p_values: Mapping[_Name, float]) -> dict[_Name, float]:
    """Corrects p values for their number, so that one false rejection in the family is rare.

    With p_(1) ≤ ... ≤ p_(m), the i-th becomes max over j ≤ i of min(1, (m - j + 1) p_(j)): below a
    level for exactly those that Holm's step-down procedure rejects at it, whatever depends on what.

    Args:
      p_values: of the whole family, by name.

    Returns:
      The corrected ones, in the same order.

    Example:
      >>> holm({"a": 0.25, "b": 0.125, "c": 0.5})
      {'a': 0.5, 'b': 0.375, 'c': 0.5}

    References:
      Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    largest, adjusted = 0.0, {}
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def family(differences: Mapping[_Name, Difference]) -> dict[_Name, Difference]:
    """Corrects the tests of one table for their number.

    Args:
      differences: all of the table; those without a test are no part of the family.

    Returns:
      The same, with `adjusted`.

    Example:
      >>> alone = Difference(n=3, mean=0.5, low=0.25, high=0.75, p=0.03125)
      >>> both = family({"accuracy": alone, "nll": alone, "ece": Difference(n=1, mean=0.5)})
      >>> [one.adjusted for one in both.values()]
      [0.0625, 0.0625, None]
    """
    adjusted = holm({name: one.p for name, one in differences.items() if one.p is not None})
    return {
        name: dataclasses.replace(one, adjusted=adjusted.get(name))
        for name, one in differences.items()
    }
