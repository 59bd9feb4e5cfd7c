"""What a worker repeats, and the options that say what it is made of."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Work:
    """Something that is done in steps.

    Attributes:
      run: takes so many steps and returns when the last is done: None, or the seconds of one step
        where not all of the call is to be timed.
      facts: what the report says of it, as JSON can hold it.
    """

    run: Callable[[int], float | None]
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def seconds(self, steps: int) -> float:
        """Takes steps.

        Args:
          steps: at least 1.

        Returns:
          The seconds of one, on average.

        Example:
          >>> Work(lambda steps: 0.5).seconds(3)
          0.5
        """
        start = time.perf_counter()
        own = self.run(steps)
        return (time.perf_counter() - start) / steps if own is None else own


def take(options: Sequence[str], **defaults: Any) -> tuple[dict[str, Any], list[str]]:
    """Takes some of the options out of all.

    Args:
      options: `name=value` each.
      **defaults: the names to take; a value is of the type of its default.

    Returns:
      The values by name, and the other options, in order.

    Raises:
      ValueError: an option that is not `name=value`.

    Example:
      >>> take(["model=cnn", "pixels=8"], pixels=32, classes=10)
      ({'pixels': 8, 'classes': 10}, ['model=cnn'])
    """
    values, rest = dict(defaults), []
    for option in options:
        name, equals, text = option.partition("=")
        if not equals:
            raise ValueError(f"an option must be name=value; found {option!r}")
        if name in defaults:
            values[name] = type(defaults[name])(text)
        else:
            rest.append(option)
    return values, rest
