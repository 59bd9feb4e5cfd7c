"""Work that is on its way to the devices: how much at a time, waiting for it, and its rate."""

import collections
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax

# Steps, or batches of an evaluation, that are dispatched and not known to be finished. One runs and
# two wait: enough to hide a slow moment of the host, few enough for a signal to be heard, for a
# limit to stop the run in time, and for the batches in flight to be no burden on memory.
IN_FLIGHT = 3


def one_by_one(results: Iterable[Any]) -> Iterator[Any]:
    """The results, fetched; so many are dispatched ahead of the one that is waited for.

    Args:
      results: trees of device arrays; taking the next one dispatches it.

    Returns:
      The same on the host, in order.

    Example:
      >>> [int(x) for x in one_by_one(jax.numpy.square(n) for n in range(4))]
      [0, 1, 4, 9]
    """
    flight = collections.deque[Any]()
    try:
        for result in results:
            flight.append(result)
            if len(flight) >= IN_FLIGHT:
                yield jax.device_get(flight[0])
                flight.popleft()
        yield from (jax.device_get(result) for result in flight)
    finally:
        wait_for(flight)


def wait_for(flight: Iterable[Any]) -> None:
    """Lets what is in flight come to its end, whatever has stopped the loop.

    A Python that exits while XLA's CPU client still computes may wait for its threads for ever.

    Args:
      flight: trees of device arrays.
    """
    jax.block_until_ready(list(flight))


class Clock:
    """The rate of the steps that were timed."""

    def __init__(self) -> None:
        """Starts at step 0."""
        self._steps, self._seconds = 0, 0.0
        self.starts(0)

    @property
    def steps_per_second(self) -> float:
        """0 before a step was timed."""
        return self._steps / self._seconds if self._seconds else 0.0

    def starts(self, step: int) -> None:
        """So many steps are finished now: those that follow are timed from here."""
        self._since = time.monotonic(), step

    def stops(self, step: int) -> None:
        """So many steps are finished now; those since the start are counted, and it starts anew."""
        seconds, first = self._since
        if step > first:
            self.starts(step)
            self._steps += step - first
            self._seconds += self._since[0] - seconds
