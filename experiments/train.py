"""Trains a model: `python -m experiments.train --flagfile=digits.flags`.

The same command again resumes the run; a finished run says so. Flag files are found by name in
experiments/flags, and every flag below can follow one.

Exit codes: 0 finished; 1 the run failed; 2 the command, the data or the run directory is not right,
and nothing was changed; 130 interrupted, the same command resumes.
"""

if __name__ == "__main__":
    # Before all other imports, which it would throw away.
    from experiments import allocator

    allocator.restart()

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
from absl import app, flags

from experiments import config as config_lib
from experiments import data as data_lib
from experiments import loading, overview, policies, process, records, sharding, uncertainty
from experiments import program as program_lib
from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.config import Config, ConfigError
from experiments.data import Data, DataError
from experiments.loop import Plan, Trainer, TrainingError
from experiments.program import Program
from experiments.progress import Progress
from experiments.startup import Startup, process_start
from experiments.trained import Inputs
from semjax.training import TrainState


def run(config: Config, startup: Startup | None = None) -> dict[str, Any]:
    """Trains up to the last step, from the newest checkpoint if there is one.

    The whole story stands here: check, load, build, resume, train, report.

    Args:
      config: what the run is.
      startup: what the start of the run took so far; None begins to count here.

    Returns:
      The summary, as written to summary.json.

    Raises:
      ConfigError: the devices or the run directory do not fit the flags.
      DataError: the data is missing or damaged.
      CheckpointError: a checkpoint could not be written.
      TrainingError: too many steps in a row were not finite.
    """
    if startup is None:
        startup = Startup()
    else:
        startup.ends("imports")
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
        cache=config.data_cache,
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
    startup.ends("data")

    # ---------------------------------------------------------------- the program, on the devices
    mesh = sharding.make_mesh()
    program = program_lib.build(config, data, plan.total, mesh)
    with _checkpoints(config) as checkpoints:
        state, first_step = _initial_state(program, checkpoints, config)
        records.write_atomically(workdir / "config.flags", config.to_flags())
        records.write_atomically(workdir / "inputs.json", Inputs.of(data).to_json())
        rows = overview.before(config, data, plan, program, first_step)
        records.print_table(rows, title="training")

        # ------------------------------------------------------------ training
        with (
            _Log(config, resume_step=first_step) as log,
            Progress(plan.total, images_per_step=config.batch_size) as progress,
        ):
            trainer = Trainer(
                config, data, plan, program, mesh, checkpoints, log, progress, startup
            )
            state = trainer.train(state, first_step)
        checkpoints.wait()

        # ------------------------------------------------------------ the result
        summary = {
            **trainer.result(state),
            "steps": plan.total,
            "images_per_second": trainer.images_per_second,
            "wall_time": log.wall_time(),
            "startup": {**startup.seconds, "total": startup.total()},
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


def _print_results(summary: Mapping[str, Any]) -> None:
    records.print_table(overview.after(summary), title="result of the final weights")


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


def main(config: Config, startup: Startup | None = None) -> None:
    """Runs the program and turns its errors into one line and an exit code."""
    try:
        run(config, startup)
    except (ConfigError, DataError) as error:
        _fail(error, 2)
    except (TrainingError, CheckpointError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def _own_process(config: Config) -> None:
    process.run(lambda: main(config, Startup(process_start())), cache=config.compile_cache)


if __name__ == "__main__":
    config_lib.define_flags(flags.FLAGS)
    flags.adopt_module_key_flags(config_lib)
    app.run(_own_process, flags_parser=_parse)
