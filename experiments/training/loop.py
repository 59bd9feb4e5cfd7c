"""The loop over steps: what is dispatched, fetched, logged, evaluated and saved, and when.

The host stays ahead of the devices. It dispatches the next steps, and the copies of their batches,
before a step is finished; what a step reports is fetched once later ones are on their way, so that
no device waits for the host. Only an evaluation or a checkpoint lets the devices run empty.

A run that is asked to stop does so after the steps in flight, or in the middle of an evaluation,
and saves its state with what it owes to the metrics. Several processes run the same loop.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import hosts, uncertainty
from experiments import program as program_lib
from experiments.checkpoint import Checkpoints
from experiments.config import Config
from experiments.datasets.data import Data, DataError, Labelled
from experiments.lifecycle import allocator
from experiments.lifecycle.signals import Stop
from experiments.lifecycle.startup import Startup
from experiments.lifecycle.watchdog import Watchdog
from experiments.program import Program
from experiments.training import owed as owed_lib
from experiments.training.feed import evaluation_batches, feed
from experiments.training.flight import IN_FLIGHT, Clock, one_by_one, wait_for
from experiments.training.owed import Owed
from experiments.training.progress import Progress
from semjax import metrics
from semjax.training import TrainState

# What the progress line has room for; metrics.jsonl has the rest.
_LOST = "The same command resumes once the data can be read again"
_SHOWN = ("loss", "accuracy", "gap", "learning_rate", "validation_accuracy", "test_accuracy")


class TrainingError(RuntimeError):
    """The run cannot go on; the message says at which step and why."""


class DataLostError(TrainingError):
    """The data set became unreadable while it was trained on."""


class Stopped(Exception):
    """The run was asked to stop, and its state is saved.

    Attributes:
      code: the exit code that goes with the signal.
    """

    def __init__(self, stop: Stop, step: int) -> None:
        """Says what has stopped the run, and where."""
        super().__init__(f"stopped by {stop.name} at step {step}: the same command resumes")
        self.code = stop.code


class Log(Protocol):
    """Where metrics go."""

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        """Writes one line."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The steps of a run, and what happens after which."""

    total: int
    eval_every: int
    checkpoint_every: int
    log_every: int

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation follows the step; one follows the last."""
        return step % self.eval_every == 0 or step == self.total

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows the step; one follows every evaluation."""
        return step % self.checkpoint_every == 0 or self.evaluates(step)

    def logs(self, step: int) -> bool:
        """Whether the means since the last line are written.

        They are at every checkpoint, so that the lines of a resumed run average the same steps as
        those of an uninterrupted one.
        """
        return step % self.log_every == 0 or self.saves(step)


class Trainer:
    """The steps of a run and what happens around them."""

    def __init__(
        self,
        config: Config,
        data: Data,
        plan: Plan,
        program: Program,
        mesh: Mesh,
        checkpoints: Checkpoints,
        log: Log,
        progress: Progress,
        startup: Startup,
        *,
        stop: Stop,
        watchdog: Watchdog,
        owed: Owed,
    ) -> None:
        """Takes what the run has made; nothing is put on a device before `train`."""
        self.config, self.data, self.plan = config, data, plan
        self.program, self.mesh = program, mesh
        self.checkpoints, self.log = checkpoints, log
        self._progress, self._startup = progress, startup
        self._stop, self._watchdog = stop, watchdog
        self._clock = Clock()
        self._compiled: list[Any] = []
        self._flight = collections.deque[tuple[int, dict[str, jax.Array], Any]]()
        # Of the steps since the last line: what they reported, and the names of it to leave out.
        self._reported: list[owed_lib.Report] = list(owed.reported)
        self._owes_evaluation = owed.evaluation
        self._absent = _absent_terms(config)
        self._absent_in_plain = _absent_terms(program_lib.without_gap(config))
        self._skipped_in_a_row = 0
        self._line: dict[str, float] = {}
        # Without a validation split nothing is selected, so the test curve can be shown as
        # published work shows it.
        self._watched = "test" if data.validation is None else "validation"
        self._watched_split = data.test if data.validation is None else data.validation
        self._last: dict[str, float] = {}
        self._step = 0  # of the state that is evaluated

    @property
    def images_per_second(self) -> float:
        """Training rows per second, compilation, evaluation and checkpoints left out."""
        return self._clock.steps_per_second * self.config.batch_size

    def train(self, state: TrainState, step: int) -> TrainState:
        """Takes the steps that are left; what happens after each stands in the plan.

        Args:
          state: what a run begins or goes on with.
          step: its step.

        Returns:
          The state after the last step.

        Raises:
          Stopped: the run was asked to stop; its state is saved.
          TrainingError: it cannot go on.
          CheckpointError: a checkpoint could not be written.
        """
        batch_at = feed(self.config, self.data.train, self.mesh)
        try:
            if self._owes_evaluation and self.plan.evaluates(step):
                self._save(step, state)
                if hosts.is_first():
                    owed_lib.settle(self.config.workdir)
            self._owes_evaluation = False
            self._clock.starts(step)
            while step < self.plan.total:
                self.checkpoints.check()
                self._watchdog.expects(f"the input of step {step + 1}")
                batch = batch_at(step)
                state, logs = self._take(step, state, batch)
                step += 1
                # Asked for now: later it would stand behind the steps that follow.
                rate = self.program.learning_rate(step - 1) if self.plan.logs(step) else None
                self._flight.append((step, logs, rate))
                stops = self._stop.asked()
                if self.plan.saves(step):
                    self._finish(leaving=0)
                    self._save(step, state)
                    self._clock.starts(step)
                elif stops:
                    self._finish(leaving=0)
                    self._put_down(step, state)
                else:
                    self._finish(leaving=IN_FLIGHT - 1)
                if stops:
                    raise Stopped(self._stop, step)
        except DataError as error:
            raise DataLostError(f"{error}. {_LOST}") from error
        finally:
            wait_for(logs for _, logs, _ in self._flight)
            if close := getattr(batch_at, "close", None):
                close()
        return state

    def evaluate(self, state: TrainState, split: Labelled) -> dict[str, float]:
        """Accuracy, NLL and ECE of the weights on a whole split, and the gap if asked for."""
        parts = self._over(split, self.program.evaluate, state)
        # Added on the host, where they are: no program, no copy back.
        total = functools.reduce(functools.partial(jax.tree.map, np.add), parts)
        summary = jax.device_get(metrics.summarise(total))
        found = {name: float(summary[name]) for name in ("accuracy", "nll", "ece", "brier")}
        if self.config.eval_gap:
            gaps, rows = zip(*self._over(split, self.program.gap, state), strict=True)
            found["normalised_gap"] = float(np.average(gaps, weights=rows))
        return found

    def wrong(self, state: TrainState) -> np.ndarray:
        """Which rows of the training split are misclassified, bool[N]."""
        parts = self._over(self.data.train, self.program.correct, state)
        return np.concatenate(list(parts))[: len(self.data.train)] == 0

    def result(self, state: TrainState) -> dict[str, Any]:
        """Test figures of the final weights; apart from them, of the best on validation.

        Args:
          state: what `train` has returned.

        Returns:
          The figures by name.

        Raises:
          Stopped: the run was asked to stop.
          DataLostError: the data set cannot be read any more.
          CheckpointError: the best checkpoint cannot be restored.
        """
        self._step = self.plan.total
        try:
            return self._result(state)
        except DataError as error:
            raise DataLostError(f"{error}. {_LOST}") from error

    def _result(self, state: TrainState) -> dict[str, Any]:
        if self._watched == "test" and self._last:
            return {**self._last, "skipped_steps": int(state.skipped)}
        result: dict[str, Any] = _named("test", self.evaluate(state, self.data.test))
        result["skipped_steps"] = int(state.skipped)
        best = self.checkpoints.best_step()
        if self.data.validation is not None and best is not None:
            self._watchdog.expects(f"the restored checkpoint of step {best}")
            state = self.checkpoints.restore(self.program.state_shape, step=best)
            result["best_step"] = best
            result |= _named("best_validation", self.evaluate(state, self.data.validation))
            result |= _named("best_test", self.evaluate(state, self.data.test))
        return result

    @property
    def _eval_size(self) -> int:
        return self.config.eval_batch_size or self.config.batch_size

    def _over(
        self, split: Labelled, function: Callable[..., Any], state: TrainState
    ) -> Iterator[Any]:
        """What a function of state and batch says of each batch of a split."""
        step = self._step

        def results() -> Iterator[Any]:
            for rows in evaluation_batches(split, self._eval_size, self.mesh):
                if self._stop.asked():
                    raise Stopped(self._stop, step)
                yield function(state, rows)
                self._watchdog.expects(f"the evaluation after step {step}")

        self._watchdog.expects(f"the evaluation after step {step}")
        return one_by_one(results())

    def _take(
        self, step: int, state: TrainState, batch: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Dispatches a step. One whose program is not compiled yet is finished too."""
        function = self.program.step_at(step)
        if function in self._compiled:
            return function(state, batch, self.program.rng)
        self._finish(leaving=0)
        self._clock.stops(step)
        first = not self._compiled
        self._compiled.append(function)
        if first:
            self._startup.ends("build")
        self._watchdog.expects(f"the compilation of step {step + 1}")
        result = function(state, batch, self.program.rng)  # returns when it is compiled
        if first:
            self._startup.ends("compile")
        self._watchdog.expects(f"step {step + 1}")
        jax.block_until_ready(result)
        allocator.give_back()  # what the compiler has left behind
        if first:
            self._startup.ends("first_step")
            self._stop.waits(together=jax.process_count() > 1)
        self._clock.starts(step + 1)
        return result

    def _save(self, step: int, state: TrainState) -> None:
        """What follows the line of a step: its evaluation, if one is due, and its checkpoint."""
        self._step = step
        line, chosen_by = self._line, None
        if self.plan.evaluates(step):
            try:
                self._last = _named(self._watched, self.evaluate(state, self._watched_split))
                wrong = self.wrong(state) if self.config.record_errors else None
            except Stopped:
                self._put_down(step, state, evaluation=True)
                raise
            self.log.write(step, self._last)
            if wrong is not None and hosts.is_first():
                uncertainty.record(self.config.workdir, step, wrong)
            line = line | self._last
            chosen_by = None if self.data.validation is None else self._last
        self._show(step, line)
        self._watchdog.expects(f"the checkpoint of step {step}")
        if not self._owes_evaluation:
            self.checkpoints.save(step, state, metrics=chosen_by)
        elif chosen_by:  # it is saved, but without what ranks it
            self.checkpoints.rank(step, chosen_by)

    def _put_down(self, step: int, state: TrainState, *, evaluation: bool = False) -> None:
        """Saves the state between two lines of metrics, and what is owed to them."""
        self._watchdog.expects(f"the checkpoint of step {step}")
        reported = [(jax.device_get(logs), absent) for logs, absent in self._reported]
        if hosts.is_first():
            owed_lib.write(self.config.workdir, step, reported, evaluation=evaluation)
        self.checkpoints.save(step, state)

    def _finish(self, *, leaving: int) -> None:
        """Waits until no more steps are in flight, and writes the lines that are due."""
        while len(self._flight) > leaving:
            step, logs, learning_rate = self._flight[0]
            self._watchdog.expects(f"step {step}")
            jax.block_until_ready(logs)
            self._flight.popleft()
            self._progress.update(step)
            plain = self.program.step_at(step - 1) is self.program.plain_step
            self._reported.append((logs, self._absent_in_plain if plain else self._absent))
            if not self.plan.logs(step):
                continue
            self._clock.stops(step)
            self._line = {
                "epoch": step * self.config.batch_size / len(self.data.train),
                **self._means(step),
                "learning_rate": float(learning_rate),
                "images_per_second": self.images_per_second,
            }
            self.log.write(step, self._line)
            if not self.plan.saves(step):
                self._show(step, self._line)

    def _show(self, step: int, line: Mapping[str, float]) -> None:
        self._progress.log(step, {name: line[name] for name in _SHOWN if name in line})

    def _means(self, step: int) -> dict[str, float]:
        """The means over the steps since the last line, each over the steps that measured it."""
        fetched = jax.device_get([logs for logs, _ in self._reported])
        absent = [names for _, names in self._reported]
        self._reported.clear()
        columns = collections.defaultdict(list)
        for logs, names in zip(fetched, absent, strict=True):
            self._count_skipped(logs["skipped"], step)
            for name in logs.keys() - names:
                columns[name].append(logs[name])
        # In the order in which a step reports them.
        return {name: float(np.mean(columns[name])) for name in fetched[0] if name in columns}

    def _count_skipped(self, skipped: Any, step: int) -> None:
        self._skipped_in_a_row = (self._skipped_in_a_row + 1) if skipped else 0
        if self._skipped_in_a_row >= self.config.skip_limit:
            raise TrainingError(
                f"the loss or the new weights were not finite for {self._skipped_in_a_row} "
                f"steps in a row, up to step {step} (--skip_limit={self.config.skip_limit}). A "
                "lower --learning_rate, --warmup_steps or --clip_norm may help; the same "
                "command resumes from the last checkpoint"
            )


def _absent_terms(config: Config) -> set[str]:
    """Logs that would only be the 0 of a term that is not part of the program."""
    absent = set()
    if not config.sem_weight:
        absent |= {"gap", "normalised_gap"}
    if not config.clean_weight:
        absent |= {"clean_loss"}
    if not config.consistency_weight:
        absent |= {"consistency"}
    views_need_clean = config.consistency_weight and config.policy != "none"
    if not (config.sem_weight or config.clean_weight or views_need_clean):
        absent |= {"clean_accuracy"}
    return absent


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}
