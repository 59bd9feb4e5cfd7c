"""What the parts of an evaluation share: the model, its data, what is remembered and said."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from experiments.datasets.data import Data, Split
from experiments.evaluation.plan import Plan
from experiments.evaluation.store import Store
from experiments.evaluation.subject import Answers, Subject, some_rows


class Skipped(Exception):
    """A part that cannot be measured here, which is no fault; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """One evaluation.

    Attributes:
      subject: the model.
      data: its data set.
      plan: what is measured.
      store: remembers finished pieces.
      load: `load(name) -> Data`, reads another data set, its images of the size and channels of the
        subject's.
      own_policy: the policy the model was trained with, to measure the gap of, or None.
    """

    subject: Subject
    data: Data
    plan: Plan
    store: Store
    load: Callable[[str], Data]
    own_policy: str | None = None
    stream: TextIO = dataclasses.field(default_factory=lambda: sys.stderr)

    @functools.cached_property
    def test(self) -> Split:
        """The rows that figures are of."""
        return some_rows(self.data.test, self.plan.limit)

    @functools.cached_property
    def clean(self) -> Answers:
        """What the model says about them as they are."""
        return self.subject.answers(self.test.image)

    @functools.cached_property
    def bank(self) -> tuple[Answers, np.ndarray]:
        """What it says about training rows, and their labels."""
        split = some_rows(self.data.train, self.plan.bank_rows)
        return self.subject.answers(split.image), split.label

    def say(self, text: str) -> None:
        """A line of progress."""
        print(text, file=self.stream, flush=True)

    def pieces(self, part: str, keys: list[str]) -> "Pieces":
        """The pieces of a part, with their progress."""
        return Pieces(self, part, keys)


def features(answers: Answers) -> np.ndarray:
    """The representation, f32[N,D], of what a model said; Skipped where it has none."""
    if answers.representation is None:
        raise Skipped("the apply function returns no representation")
    return answers.representation


class Pieces:
    """Makes the pieces of a part one by one; says how far it is and how long it will take."""

    def __init__(self, context: Context, part: str, keys: list[str]) -> None:
        """Counts what is left to do."""
        self._context, self._part = context, part
        self._left = sum(not context.store.has(part, key) for key in keys)
        self._count, self._made, self._started = len(keys), 0, time.monotonic()
        if keys and self._left < len(keys):
            context.say(f"{part}: {len(keys) - self._left} of {len(keys)} are done already")

    def make(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the piece of a key: numbers, or lists of which the mean is shown."""
        if self._context.store.has(self._part, key):
            return self._context.store.remember(self._part, key, make)
        found = self._context.store.remember(self._part, key, make)
        self._made += 1
        seconds = time.monotonic() - self._started
        left = seconds / self._made * (self._left - self._made)
        shown = "  ".join(f"{name} {np.mean(value):.4g}" for name, value in found.items())
        done = self._count - self._left + self._made
        self._context.say(f"{self._part} {done}/{self._count}  {key}  {shown}  ETA {left:,.0f} s")
        return found
