"""Trains a model: `python -m experiments.train --flagfile=digits.flags`.

The same command again resumes the run; a finished run says so. Flag files are found by name in
experiments/flags, and every flag below can follow one.

Exit codes: 0 finished; 1 the run failed; 2 the command, the data or the run directory is not right,
and nothing was changed; 130 interrupted, the same command resumes.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from experiments import config as config_lib
from experiments import data as data_lib
from experiments import loading, policies, records, sharding, uncertainty
from experiments import program as program_lib
from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.config import Config, ConfigError
from experiments.data import Data, DataError, Split
from experiments.program import Program
from experiments.trained import Inputs
from semjax import metrics
from semjax.training import TrainState

# What the progress line has room for; metrics.jsonl has the rest.
_SHOWN = ("loss", "accuracy", "gap", "learning_rate", "validation_accuracy", "test_accuracy")


class TrainingError(RuntimeError):
    """The run cannot go on; the message says at which step and why."""


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


def run(config: Config) -> dict[str, Any]:
    """Trains up to the last step, from the newest checkpoint if there is one.

    The whole story stands here: check, load, build, resume, train, report.

    Args:
      config: what the run is.

    Returns:
      The summary, as written to summary.json.

    Raises:
      ConfigError: the devices or the run directory do not fit the flags.
      DataError: the data is missing or damaged.
      CheckpointError: a checkpoint could not be written.
      TrainingError: too many steps in a row were not finite.
    """
    workdir = Path(config.workdir)
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard: needs tensorboardX: pip install 'semjax[tensorboard]'")
    _check_devices(config)
    earlier = _earlier_config(workdir, config)

    # ---------------------------------------------------------------- the data, on the host
    data = loading.load(
        config.dataset,
        data_dir=config.data_dir,
        validation_fraction=config.validation_fraction,
        image_size=config.image_size,
        download=config.download,
    )
    _check_groups(config, data)
    if config.umix_from:
        weight = uncertainty.sample_weights(
            config.umix_from,
            len(data.train),
            eta=config.umix_eta,
            first_step=config.umix_first_step,
        )
        train = dataclasses.replace(data.train, sample_weight=weight)
        data = dataclasses.replace(data, train=train)
    plan = _plan(config, data, earlier)
    if (finished := _finished(workdir, plan)) is not None:
        print(f"{workdir} is finished: {plan.total} steps. A higher --steps goes on from there.")
        _print_results(finished)
        return finished

    # ---------------------------------------------------------------- the program, on the devices
    mesh = sharding.make_mesh()
    program = program_lib.build(config, data, plan.total, mesh)
    with _checkpoints(config) as checkpoints:
        state, first_step = _initial_state(program, checkpoints, config)
        records.write_atomically(workdir / "config.flags", config.to_flags())
        records.write_atomically(workdir / "inputs.json", Inputs.of(data).to_json())
        _print_start(config, data, plan, program, first_step)

        # ------------------------------------------------------------ training
        with _Log(config, resume_step=first_step) as log:
            trainer = _Trainer(config, data, plan, program, mesh, checkpoints, log)
            with records.Progress(plan.total, images_per_step=config.batch_size) as progress:
                state = trainer.train(state, first_step, progress)
        checkpoints.wait()

        # ------------------------------------------------------------ the result
        summary = {
            **trainer.result(state),
            "steps": plan.total,
            "images_per_second": trainer.images_per_second,
            "wall_time": log.wall_time(),
            "seed": config.seed,
            "flags": dataclasses.asdict(config),
            **records.environment(),
        }
        records.write_atomically(workdir / "summary.json", json.dumps(summary, indent=2) + "\n")
    _print_results(summary)
    return summary


class _Log(contextlib.ExitStack):
    """Where the metrics of a run go: metrics.jsonl, and TensorBoard if asked for."""

    def __init__(self, config: Config, *, resume_step: int) -> None:
        super().__init__()
        workdir = config.workdir
        lines = self.enter_context(records.MetricsLog(workdir, resume_step=resume_step))
        self._writes: list[Callable[[int, Mapping[str, Any]], None]] = [lines.write]
        if config.tensorboard:
            board = self.enter_context(records.TensorBoard(workdir, resume_step=resume_step))
            self._writes.append(board.write)
        written = records.read_metrics(config.workdir)
        self._earlier = written[-1].get("wall_time", 0.0) if written else 0.0
        self._started = time.monotonic()

    def wall_time(self) -> float:
        """Seconds since the run started, those before it was resumed included."""
        return self._earlier + time.monotonic() - self._started

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        for write in self._writes:
            write(step, {**line, "wall_time": self.wall_time()})


class _Trainer:
    """The loop and its clocks: what is fetched, logged, evaluated and saved, and when."""

    def __init__(
        self,
        config: Config,
        data: Data,
        plan: Plan,
        program: Program,
        mesh: Mesh,
        checkpoints: Checkpoints,
        log: _Log,
    ) -> None:
        self.config, self.data, self.plan = config, data, plan
        self.program, self.mesh = program, mesh
        self.checkpoints, self.log = checkpoints, log
        self._images, self._seconds = 0, 0.0
        self._skipped_in_a_row = 0
        # Without a validation split nothing is selected, so the test curve can be shown as
        # published work shows it.
        self._watched = "test" if data.validation is None else "validation"
        self._last: dict[str, float] = {}

    @property
    def images_per_second(self) -> float:
        """Training rows per second, compilation, evaluation and checkpoints left out."""
        return self._images / self._seconds if self._seconds else 0.0

    def train(self, state: TrainState, step: int, progress: records.Progress) -> TrainState:
        """Takes the steps that are left; what happens after each stands in the plan."""
        plan, pending = self.plan, list[dict[str, jax.Array]]()
        clock, counted = None, step  # started when the first step, which compiles, is done
        while step < plan.total:
            rows = data_lib.batch_at(
                self.data.train,
                step,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                sampling=self.config.sampling,
            )
            batch = sharding.put_batch(rows, self.mesh)
            state, logs = self.program.step(state, batch, self.program.rng)
            del batch
            step += 1
            pending.append(logs)
            if clock is None:
                jax.block_until_ready(logs)
                clock, counted = time.monotonic(), step
            progress.update(step)
            if not plan.logs(step):
                continue

            means = self._means(pending, step)
            self._images += (step - counted) * self.config.batch_size
            self._seconds += time.monotonic() - clock
            pending.clear()
            line = {**means, "images_per_second": self.images_per_second}
            self.log.write(step, line)
            if plan.evaluates(step):
                watched = getattr(self.data, self._watched)
                self._last = _named(self._watched, self.evaluate(state, watched))
                self.log.write(step, self._last)
                if self.config.record_errors:
                    uncertainty.record(self.config.workdir, step, self.wrong(state))
                line |= self._last
            progress.log(step, {name: line[name] for name in _SHOWN if name in line})
            if plan.saves(step):
                chosen_by = self._last if plan.evaluates(step) and self.data.validation else None
                self.checkpoints.save(step, state, metrics=chosen_by)
            clock, counted = time.monotonic(), step
        return state

    def evaluate(self, state: TrainState, split: Split) -> dict[str, float]:
        """Accuracy, NLL and ECE of the weights on a whole split."""
        size = self.config.eval_batch_size or self.config.batch_size
        total = metrics.zeros()
        for rows in data_lib.eval_batches(split, size):
            total += self.program.evaluate(state, sharding.put_batch(rows, self.mesh))
        summary = jax.device_get(metrics.summarise(total))
        return {name: float(summary[name]) for name in ("accuracy", "nll", "ece", "brier")}

    def wrong(self, state: TrainState) -> np.ndarray:
        """Which rows of the training split are misclassified, bool[N]."""
        size = self.config.eval_batch_size or self.config.batch_size
        batches = data_lib.eval_batches(self.data.train, size)
        right = [
            jax.device_get(self.program.correct(state, sharding.put_batch(rows, self.mesh)))
            for rows in batches
        ]
        return np.concatenate(right)[: len(self.data.train)] == 0

    def result(self, state: TrainState) -> dict[str, Any]:
        """Test figures of the final weights; apart from them, of the best on validation."""
        if self._watched == "test" and self._last:
            return {**self._last, "skipped_steps": int(state.skipped)}
        result: dict[str, Any] = _named("test", self.evaluate(state, self.data.test))
        result["skipped_steps"] = int(state.skipped)
        best = self.checkpoints.best_step()
        if self.data.validation is not None and best is not None:
            state = self.checkpoints.restore(self.program.state_shape, step=best)
            result["best_step"] = best
            result |= _named("best_validation", self.evaluate(state, self.data.validation))
            result |= _named("best_test", self.evaluate(state, self.data.test))
        return result

    def _means(self, pending: Sequence[Mapping[str, jax.Array]], step: int) -> dict[str, float]:
        fetched = jax.device_get(list(pending))
        for logs in fetched:
            self._skipped_in_a_row = (self._skipped_in_a_row + 1) if logs["skipped"] else 0
            if self._skipped_in_a_row >= self.config.skip_limit:
                raise TrainingError(
                    f"the loss or the new weights were not finite for {self._skipped_in_a_row} "
                    f"steps in a row, up to step {step} (--skip_limit={self.config.skip_limit}). A "
                    "lower --learning_rate, --warmup_steps or --clip_norm may help; the same "
                    "command resumes from the last checkpoint"
                )
        columns = collections.defaultdict(list)
        for logs in fetched:
            for name, value in logs.items():
                columns[name].append(value)
        means = {name: float(np.mean(values)) for name, values in columns.items()}
        learning_rate = float(self.program.learning_rate(step - 1))
        epoch = step * self.config.batch_size / len(self.data.train)
        shown = {name: means[name] for name in means if name not in _absent_terms(self.config)}
        return {"epoch": epoch, **shown, "learning_rate": learning_rate}


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


def _check_devices(config: Config) -> None:
    devices = jax.device_count()
    for name in ("batch_size", "eval_batch_size"):
        if getattr(config, name) % devices:
            raise ConfigError(
                f"--{name}={getattr(config, name)}: must be a multiple of the {devices} devices"
            )


def _check_groups(config: Config, data: Data) -> None:
    asked = policies.needs_groups(dataclasses.asdict(config))
    if asked and data.num_groups is None:
        raise ConfigError(
            f"{asked}: looks at the group of a row, and --dataset={config.dataset} has no groups; "
            "allowed: a data set with groups, such as coloured_digits"
        )


def _earlier_config(workdir: Path, config: Config) -> Config | None:
    """The config that the run directory was made with; refuses one whose results would differ."""
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir={workdir}: is not a directory")
    written = workdir / "config.flags"
    if not written.exists():
        if (workdir / "checkpoints").exists():
            raise ConfigError(
                f"--workdir={workdir}: has checkpoints but no config.flags to resume by"
            )
        return None
    earlier = config_lib.read(written)
    if changed := config_lib.differences(earlier, config):
        raise ConfigError(
            f"--workdir={workdir}: belongs to a run with other flags: {'; '.join(changed)}. Choose "
            "another --workdir, or give the flags of that run to resume it"
        )
    return earlier


def _plan(config: Config, data: Data, earlier: Config | None) -> Plan:
    try:
        epoch = data_lib.steps_per_epoch(data.train, config.batch_size)
    except DataError as error:
        raise ConfigError(f"--batch_size={config.batch_size}: {error}") from error
    total = config.total_steps(epoch)
    if earlier is not None and earlier.total_steps(epoch) > total:
        raise ConfigError(
            f"--steps={total}: the run in --workdir={config.workdir} has "
            f"{earlier.total_steps(epoch)} steps; a resumed run can have more, not fewer"
        )
    eval_every = config.eval_every or epoch
    return Plan(total, eval_every, config.checkpoint_every or eval_every, config.log_every)


def _finished(workdir: Path, plan: Plan) -> dict[str, Any] | None:
    try:
        summary = json.loads((workdir / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"--workdir={workdir}: summary.json is damaged: {error}") from error
    return summary if summary.get("steps") == plan.total else None


def _checkpoints(config: Config) -> Checkpoints:
    try:
        return Checkpoints(config.workdir)
    except (CheckpointError, OSError) as error:
        raise ConfigError(f"--workdir={config.workdir}: {error}") from error


def _initial_state(
    program: Program, checkpoints: Checkpoints, config: Config
) -> tuple[TrainState, int]:
    step = checkpoints.latest_step()
    if step is None:
        return program.init(), 0
    try:
        return checkpoints.restore(program.state_shape, step=step), step
    except CheckpointError as error:
        raise ConfigError(f"--workdir={config.workdir}: {error}") from error


def _print_start(config: Config, data: Data, plan: Plan, program: Program, first_step: int) -> None:
    device = jax.devices()[0]
    shape = "x".join(str(size) for size in data.train.image.shape[1:])
    held_out = 0 if data.validation is None else len(data.validation)
    epochs = plan.total * config.batch_size / len(data.train)
    parameters = program_lib.parameter_count(program.state_shape)
    rows = {
        "run directory": config.workdir,
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "data": f"{config.dataset}: {len(data.train):,} train, {held_out:,} validation, "
        f"{len(data.test):,} test, {shape}, {data.num_classes} classes"
        + (f", {data.num_groups} groups" if data.num_groups else "")
        + (", balanced sampling" if config.sampling == "balanced" else ""),
        "model": f"{config.model}, {parameters:,} parameters, {config.compute_dtype}",
        "method": f"policy {config.policy}, sem_weight {config.sem_weight:g}, "
        f"clean_weight {config.clean_weight:g}",
        "steps": f"{plan.total:,} ({epochs:.1f} epochs)",
        "rows per step": f"{config.batch_size} trained on, "
        f"{program_lib.rows_per_step(config)} forwarded",
        "seed": config.seed,
    }
    if idle := config.without_effect():
        rows["without effect"] = ", ".join(idle)
    if first_step:
        rows["resumed from"] = f"step {first_step:,}"
    records.print_table(rows, title="training")


def _print_results(summary: Mapping[str, Any]) -> None:
    rows: dict[str, Any] = {
        "test accuracy": f"{summary['test_accuracy']:.4f}",
        "test NLL": f"{summary['test_nll']:.4f}",
        "test ECE": f"{summary['test_ece']:.4f}",
    }
    if "best_step" in summary:
        rows["best on validation"] = (
            f"step {summary['best_step']:,}: "
            f"validation {summary['best_validation_accuracy']:.4f}, "
            f"test {summary['best_test_accuracy']:.4f}"
        )
    if summary["skipped_steps"]:
        rows["skipped steps"] = f"{summary['skipped_steps']} (not finite)"
    rows["images/s"] = f"{summary['images_per_second']:,.0f}"
    rows["wall time"] = f"{summary['wall_time']:.1f} s"
    records.print_table(rows, title="result of the final weights")


def _parse(argv: Sequence[str]) -> Config:
    # Warnings only, unless the command says otherwise: Orbax tells the story of every file at info.
    quiet = [argv[0], "--verbosity=-1", *argv[1:]]
    try:
        return config_lib.parse(quiet)
    except ConfigError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(code)


def main(config: Config) -> None:
    """Runs the program and turns its errors into one line and an exit code."""
    try:
        run(config)
    except (ConfigError, DataError) as error:
        _fail(error, 2)
    except (TrainingError, CheckpointError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    config_lib.define_flags(flags.FLAGS)
    flags.adopt_module_key_flags(config_lib)
    app.run(main, flags_parser=_parse)
