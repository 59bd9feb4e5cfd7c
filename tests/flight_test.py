"""Work in flight: dispatched ahead, fetched in order, waited for whatever happens."""

import jax.numpy as jnp
import pytest

from experiments.training import flight
from experiments.training.flight import IN_FLIGHT, Clock, one_by_one


class Result:
    """A tree of one array that tells when it is fetched."""

    def __init__(self, number: int, events: list) -> None:
        """Dispatches it."""
        self.number, self.events = number, events
        events.append(("dispatched", number))

    def block_until_ready(self) -> "Result":
        self.events.append(("waited for", self.number))
        return self

    def __array__(self, *_, **__):
        """Fetches it."""
        self.events.append(("fetched", self.number))
        return jnp.zeros(())


def test_results_are_dispatched_ahead_of_the_one_that_is_fetched():
    events: list = []
    for number, _ in enumerate(one_by_one(Result(number, events) for number in range(6))):
        last = max(n for kind, n in events if kind == "dispatched")
        assert last == min(number + IN_FLIGHT - 1, 5)
    assert [n for kind, n in events if kind == "fetched"] == list(range(6))


def test_what_is_in_flight_comes_to_its_end_when_the_next_cannot_be_dispatched():
    events: list = []

    def results():
        yield Result(0, events)
        yield Result(1, events)
        raise ValueError("no third")

    with pytest.raises(ValueError, match="no third"):
        list(one_by_one(results()))
    assert [n for kind, n in events if kind == "waited for"] == [0, 1]


def test_a_clock_counts_the_steps_between_starts_and_stops_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(flight.time, "monotonic", lambda: now[0])
    clock = Clock()
    assert clock.steps_per_second == 0
    now[0] = 100.0
    clock.starts(10)
    now[0] = 102.0
    clock.stops(14)
    now[0] = 1000.0
    clock.stops(14)  # no step since
    assert clock.steps_per_second == 2.0
