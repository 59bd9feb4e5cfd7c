"""The loop over steps: what happens in which order, seen with made programs and a made clock."""

import dataclasses
import functools
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sharding
from experiments.config import Config
from experiments.datasets import data as data_lib
from experiments.datasets.data import DataError
from experiments.lifecycle.signals import Stop
from experiments.lifecycle.startup import Startup
from experiments.lifecycle.watchdog import Watchdog
from experiments.training import flight, loop, owed
from experiments.training.flight import IN_FLIGHT
from experiments.training.loop import DataLostError, Plan, Stopped, Trainer, TrainingError
from experiments.training.owed import Owed
from semjax import metrics

BATCH = 8


class Value:
    """A number that a device is still computing until somebody waits for it."""

    def __init__(self, value: float, done) -> None:
        """Keeps the value, and whom to tell."""
        self._value, self._done = value, done

    def block_until_ready(self) -> "Value":
        self._done()
        return self

    def __array__(self, *_, **__) -> np.ndarray:
        """Fetches it, which waits too."""
        self._done()
        return np.float32(self._value)


class Asked(Stop):
    """Somebody who asks the run to stop, at a certain moment."""

    def __init__(self, moment: int) -> None:
        """Counts the moments at which the loop looks, from 1."""
        super().__init__()
        self._left = moment

    def asked(self) -> bool:
        self._left -= 1
        return self._left <= 0


class World:
    """Everything the loop touches, made; what happens to it is written down in order."""

    def __init__(
        self,
        plan: Plan,
        *,
        losses=None,
        clock=None,
        stop=None,
        owed=None,
        validated=False,
        **options,
    ) -> None:
        """Makes a trainer; options are flags."""
        self.events: list[tuple] = []
        self.lines: list[tuple[int, dict]] = []
        self.clock = clock if clock is not None else [0.0]
        self.losses = losses or (lambda step: float(step))
        self.waited: set[int] = set()
        self.gaps: list[int] = []
        self.config = Config(model="mlp", batch_size=BATCH, **options)
        label = np.zeros(16, np.int32)
        split = data_lib.Split(np.zeros((16, 2, 2, 1), np.uint8), label)
        half = np.full(1, 0.5, np.float32)
        data = data_lib.Data("made", 2, split, split if validated else None, split, half, half)
        plain = functools.partial(self.step, "plain") if self.config.sem_every > 1 else None
        whole = functools.partial(self.step, "whole")
        self.program = types.SimpleNamespace(
            step=whole,
            plain_step=plain,
            step_at=lambda step: plain if plain and step % self.config.sem_every else whole,
            evaluate=self.evaluate,
            gap=self.gap,
            learning_rate=lambda step: 0.1,
            rng=None,
        )
        self.startup = Startup()
        named = types.SimpleNamespace
        self.trainer = Trainer(
            self.config,
            data,
            plan,
            self.program,
            sharding.make_mesh(),
            named(save=self.save, rank=self.rank, check=lambda: None),
            named(write=self.write),
            named(update=lambda step: None, log=self.show),
            self.startup,
            stop=stop or Stop(),
            watchdog=Watchdog(0),
            owed=owed or Owed(),
        )

    def step(self, kind, state, batch, rng):
        """Takes a second, ten if its program has to be compiled."""
        compiles = ("compiles", kind) not in self.events
        if compiles:
            self.events.append(("compiles", kind))
        self.clock[0] += 10.0 if compiles else 1.0
        self.events.append((kind, state + 1))
        loss = self.losses(state + 1)
        done = functools.partial(self.done, state + 1)
        gap = float(state + 1) if kind == "whole" else 0.0
        logs = {
            "loss": loss,
            "gap": gap,
            "accuracy": 0.5,
            "skipped": float(not np.isfinite(loss)),
        }
        return state + 1, {name: Value(value, done) for name, value in logs.items()}

    def done(self, step):
        if step not in self.waited:
            self.waited.add(step)
            self.events.append(("waits", step))

    def evaluate(self, state, batch):
        self.clock[0] += 1000.0
        self.events.append(("evaluates", state))
        count = jnp.asarray(batch["valid"]).sum().astype(jnp.float32)
        return dataclasses.replace(metrics.zeros(), count=count, correct=count)

    def gap(self, state, batch):
        """1 over 6 rows, then 4 over 2."""
        self.gaps.append(state)
        return (np.float32(4.0), 2) if len(self.gaps) % 2 == 0 else (np.float32(1.0), 6)

    def save(self, step, state, metrics=None):
        self.clock[0] += 500.0
        self.events.append(("saves", step))

    def rank(self, step, metrics):
        self.events.append(("ranks", step))

    def write(self, step, line):
        self.events.append(("line" if "loss" in line else "evaluation", step))
        self.lines.append((step, dict(line)))

    def show(self, step, line):
        self.events.append(("shows", step))

    def run(self, step=0):
        self.trainer.train(step, step)
        return self

    def at(self, *event) -> int:
        return self.events.index(event)


def test_a_plan_evaluates_saves_and_logs_at_the_end_and_together():
    plan = Plan(total=11, eval_every=6, checkpoint_every=4, log_every=3)
    assert [step for step in range(1, 12) if plan.evaluates(step)] == [6, 11]
    assert [step for step in range(1, 12) if plan.saves(step)] == [4, 6, 8, 11]
    assert [step for step in range(1, 12) if plan.logs(step)] == [3, 4, 6, 8, 9, 11]


PLAN = Plan(total=14, eval_every=14, checkpoint_every=7, log_every=1)


def test_a_line_is_fetched_once_later_steps_are_on_their_way_unless_its_step_is_saved():
    world = World(PLAN).run()
    for step in range(1, 15):
        if PLAN.saves(step):
            following = world.events[world.at("line", step) :]
            assert following.index(("line", step)) < following.index(("saves", step))
            assert ("whole", step + 1) not in world.events[: world.at("saves", step)]
        else:
            assert world.at("line", step) > world.at("whole", step + 1)
    assert world.at("line", 14) < world.at("evaluates", 14) < world.at("evaluation", 14)
    assert world.at("evaluation", 14) < world.at("shows", 14) < world.at("saves", 14)


def test_an_evaluation_has_the_gap_if_asked_as_a_mean_over_rows():
    plan = Plan(total=4, eval_every=2, checkpoint_every=2, log_every=1)
    asked, plain = World(plan, eval_gap=True).run(), World(plan).run()
    found = [line["test_normalised_gap"] for _, line in asked.lines if "test_accuracy" in line]
    assert found == [1.75, 1.75] and asked.gaps == [2, 2, 4, 4]
    assert not plain.gaps and not any("test_normalised_gap" in line for _, line in plain.lines)


def test_no_more_steps_are_in_flight_than_are_allowed():
    world = World(PLAN).run()
    most = flying = 0
    for kind, _ in world.events:
        flying += (kind == "whole") - (kind == "waits")
        most = max(most, flying)
    assert most == IN_FLIGHT > 1


def test_lines_are_those_of_every_step_in_order_whatever_is_in_flight():
    world = World(PLAN).run()
    assert [step for step, line in world.lines if "loss" in line] == list(range(1, 15))
    assert [line["loss"] for _, line in world.lines if "loss" in line] == list(range(1, 15))
    assert {step for kind, step in world.events if kind == "shows"} == set(range(1, 15))
    later = World(PLAN).run(7)
    assert [step for step, line in later.lines if "loss" in line] == list(range(8, 15))


def test_a_line_is_the_mean_over_the_steps_since_the_last():
    world = World(Plan(total=10, eval_every=10, checkpoint_every=5, log_every=4)).run()
    means = {step: line["loss"] for step, line in world.lines if "loss" in line}
    assert means == {4: 2.5, 5: 5.0, 8: 7.0, 10: 9.5}


def test_the_gap_is_the_mean_over_the_steps_that_have_one():
    plan = Plan(total=9, eval_every=9, checkpoint_every=9, log_every=2)
    world = World(plan, sem_every=4).run()
    kinds = [kind for kind, _ in world.events if kind in ("whole", "plain")]
    assert kinds == [*("whole", "plain", "plain", "plain") * 2, "whole"]
    lines = {step: line for step, line in world.lines if "loss" in line}
    assert {step: line["gap"] for step, line in lines.items() if "gap" in line} == {
        2: 1.0,
        6: 5.0,
        9: 9.0,
    }
    assert all(line["accuracy"] == 0.5 for line in lines.values())
    assert lines[4]["loss"] == 3.5


@pytest.mark.parametrize("every", [1, 3])
def test_the_rate_leaves_out_compilation_evaluation_and_checkpoints(
    every: int, monkeypatch: pytest.MonkeyPatch
):
    clock = [0.0]
    monkeypatch.setattr(flight.time, "monotonic", lambda: clock[0])
    world = World(PLAN, clock=clock, sem_every=every).run()
    assert world.trainer.images_per_second == BATCH
    # The first program's compilation is the start's, a second one's is not.
    assert world.startup.seconds["compile"] == 10.0


def test_steps_that_are_not_finite_in_a_row_stop_the_run():
    plan = Plan(total=40, eval_every=40, checkpoint_every=40, log_every=1)

    def losses(step):
        return np.nan if step in (2, 3) or step >= 10 else 0.0

    world = World(plan, losses=losses, skip_limit=3)
    with pytest.raises(TrainingError, match=r"3 steps in a row, up to step 12 .*skip_limit=3"):
        world.run()
    # Those in flight by then were taken, no more, and have come to their end.
    last = 12 + IN_FLIGHT - 1
    assert max(step for kind, step in world.events if kind == "whole") == last
    assert world.waited == set(range(1, last + 1))


# --- Asked to stop -----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(1, 14))
def test_a_run_that_is_asked_to_stop_saves_after_the_step_in_flight(moment: int, tmp_path: Path):
    plan = Plan(total=14, eval_every=14, checkpoint_every=7, log_every=3)
    world = World(plan, stop=Asked(moment), workdir=str(tmp_path))
    with pytest.raises(Stopped, match=f"stopped by SIGTERM at step {moment}: the same command"):
        world.run()
    assert world.events[-1] == ("saves", moment)
    assert max(step for kind, step in world.events if kind == "whole") == moment
    # What the line under way has of it goes on where it was left.
    rest = World(plan, workdir=str(tmp_path), owed=owed.read(tmp_path, moment)).run(moment)
    whole = World(plan).run()
    assert _lines(world) + _lines(rest) == _lines(whole)


def _lines(world: World) -> list[tuple[int, dict]]:
    return [
        (step, {name: value for name, value in line.items() if name != "images_per_second"})
        for step, line in world.lines
    ]


def test_an_evaluation_that_is_stopped_is_made_again_and_ranks_its_checkpoint(tmp_path: Path):
    plan = Plan(total=6, eval_every=3, checkpoint_every=3, log_every=2)
    # The third step has been taken: the next moment is the first batch of its evaluation.
    world = World(plan, stop=Asked(4), validated=True, workdir=str(tmp_path))
    with pytest.raises(Stopped, match="at step 3"):
        world.run()
    assert world.events[-2:] == [("line", 3), ("saves", 3)]
    rest = World(plan, validated=True, workdir=str(tmp_path), owed=owed.read(tmp_path, 3)).run(3)
    kinds = ["evaluates", "evaluates", "evaluation", "shows", "ranks"]
    assert rest.events[:5] == [(kind, 3) for kind in kinds]
    assert _lines(world) + _lines(rest) == _lines(World(plan, validated=True).run())
    assert owed.read(tmp_path, 3) == Owed()


def test_data_that_is_gone_is_told_apart_from_data_that_was_never_there(
    monkeypatch: pytest.MonkeyPatch,
):
    def batch_at(step):
        if step == 4:
            raise DataError("images/7.png: there is no such file")
        return {}

    batch_at.close = lambda: world.events.append(("closes", 0))
    monkeypatch.setattr(loop, "feed", lambda *_: batch_at)
    world = World(PLAN)
    with pytest.raises(DataLostError, match=r"images/7.png: there is no such file\. .*resumes"):
        world.run()
    # What was taken has come to its end.
    assert world.waited == {1, 2, 3, 4} and world.events[-1] == ("closes", 0)
