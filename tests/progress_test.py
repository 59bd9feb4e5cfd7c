"""How far a run is: one living line on a terminal, plain lines elsewhere."""

import io

import pytest

from experiments.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_elsewhere_than_on_a_terminal_only_log_points_are_printed_as_plain_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(8, images_per_step=128, stream=stream, clock=clock) as progress:
        clock.now += 100  # the first step compiles, and is left out of the rate
        for step in range(1, 9):
            progress.update(step)
            if step % 4 == 0:
                progress.log(step, {"loss": 0.123456})
            clock.now += 1
    assert stream.getvalue().splitlines() == [
        "step 4/8 (50 %)  128 images/s  ETA 0:00:04  loss 0.1235",
        "step 8/8 (100 %)  128 images/s  ETA 0:00:00  loss 0.1235",
    ]


def test_a_terminal_gets_one_living_line_not_redrawn_too_often() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(100, images_per_step=2, stream=stream, clock=clock, interval=1.0)
    for step in range(1, 41):
        progress.update(step)
        clock.now += 0.25
    drawn = stream.getvalue().split("\r\x1b[K")[1:]
    assert len(drawn) == 10
    assert "\n" not in stream.getvalue()
    assert drawn[-1].startswith("step 37/100 (37 %)  8 images/s  ETA 0:00:16")
    progress.close()
    assert stream.getvalue().endswith("\n")


def test_the_living_line_shows_the_last_metrics_and_fits_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    stream, clock = Terminal(), Clock()
    progress = Progress(10, images_per_step=2, stream=stream, clock=clock)
    progress.log(1, {"loss": 0.5, "accuracy": 0.25})
    assert stream.getvalue().split("\r\x1b[K")[-1] == "step 1/10 (10 %)  loss "


def test_said_lines_stay_above_the_living_one() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress(10, images_per_step=2, stream=stream, clock=clock)
    progress.update(1)
    progress.say("saved step 1")
    assert "\r\x1b[Ksaved step 1\n\r\x1b[Kstep 1/10" in stream.getvalue()


def test_the_rate_forgets_how_slow_the_machine_was() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(100, images_per_step=1, stream=stream, clock=clock)
    for step in range(1, 41):
        clock.now += 10 if step < 20 else 1
        progress.log(step, {})
    rates = [line.split()[4] for line in stream.getvalue().splitlines()[1:]]
    assert (rates[0], rates[-1]) == ("0", "1")


def test_long_runs_show_hours_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(40_000, images_per_step=1, stream=stream, clock=clock)
    progress.update(1)
    clock.now += 1
    progress.log(2, {})
    assert "ETA 11:06:38" in stream.getvalue()
