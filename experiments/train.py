"""Trains a model: `python -m experiments.train --flagfile=digits.flags`.

The same command again resumes the run; a finished run says so. Flag files are found by name in
experiments/flags, which --list shows, and every flag of --helpfull can follow one. --dry_run says
what a run would cost. SIGTERM and Ctrl-C stop a run after the step in flight, with its state saved;
a second one at once.

Exit codes, by which a scheduler decides:

    0  finished
    1  the run failed; the message says why, the last good checkpoint stays
    2  the command, the data or the run directory is not right; nothing was changed
    3  the loss or the weights were not finite for too many steps in a row
    4  out of memory; the message names flags that need less
    5  a checkpoint or another file could not be written: disk full, read-only
    6  the data set became unreadable while training
    7  no progress within --stuck_after; where it hangs is on stderr
    8  another process of the run ended or stopped answering
   75  stopped by SIGTERM; the same command resumes
  130  stopped by Ctrl-C; the same command resumes
"""

if __name__ == "__main__":
    # Before all other imports, which it would throw away.
    from experiments.lifecycle import allocator, signals

    allocator.restart()
    _stop = signals.Stop()
    _stop.listen()

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
from absl import app, flags

from experiments import config as config_lib
from experiments import hosts, records, sharding, uncertainty, untrusted
from experiments import program as program_lib
from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.checkpointing import directory
from experiments.command_line import flagfields, guide, suggestions, usage
from experiments.config import Config, ConfigError
from experiments.datasets import loading
from experiments.datasets.data import Data
from experiments.lifecycle import exit_codes, process
from experiments.lifecycle.signals import Stop
from experiments.lifecycle.startup import Startup, process_start
from experiments.lifecycle.watchdog import Watchdog
from experiments.program import Program
from experiments.trained import Inputs
from experiments.training import endings, overview, owed, refusals
from experiments.training.loop import Plan, Trainer
from experiments.training.progress import Progress
from semjax.training import TrainState


def run(config: Config, startup: Startup | None = None, stop: Stop | None = None) -> dict[str, Any]:
    """Trains up to the last step, from the newest good checkpoint if there is one.

    The whole story stands here: check, load, build, resume, train, report. Where several processes
    train together each of them tells it; process 0 alone writes and speaks.

    Args:
      config: what the run is.
      startup: what the start of the run took so far; None begins to count here.
      stop: what signals ask for; None hears none.

    Returns:
      The summary, as written to summary.json.

    Raises:
      ConfigError: the devices or the run directory do not fit the flags.
      DataError: the data is missing or damaged.
      CheckpointError: a checkpoint could not be written.
      OSError: another file of the run could not be written.
      TrainingError: too many steps in a row were not finite, or the data set is gone.
      Stopped: a signal asked for it; the state is saved.
    """
    if startup is None:
        startup = Startup()
    else:
        startup.ends("imports")
    stop = stop or Stop()

    # ---------------------------------------------------------------- the data, on the host
    workdir = Path(config.workdir)
    data, plan = _prepared(config)
    if (finished := refusals.finished(workdir, plan)) is not None:
        _tell(f"{workdir} is finished: {plan.total} steps. A higher --steps goes on from there.")
        curves = workdir / "curves.png"
        where = overview.where(workdir, curves if curves.is_file() else None)
        rows = overview.after(finished) | where
        _tell_table(rows, title="result of the final weights")
        return finished
    startup.ends("data")

    # ---------------------------------------------------------------- the program, on the devices
    mesh = sharding.make_mesh()
    program = program_lib.build(config, data, plan.total, mesh)
    with Watchdog(config.stuck_after) as watchdog, _checkpoints(config) as checkpoints:
        watchdog.expects("the first state, or the restored one,")
        state, first_step = _initial_state(program, checkpoints, config)
        to_do = owed.read(workdir, first_step)
        if hosts.is_first():
            records.write_atomically(workdir / "config.flags", config.to_flags())
            records.write_atomically(workdir / "inputs.json", Inputs.of(data).to_json())
        rows = overview.before(config, data, plan, program, first_step)
        _tell_table(rows, title="training")

        # ------------------------------------------------------------ training
        with (
            _Log(config, resume_step=first_step, evaluated=not to_do.evaluation) as log,
            Progress(
                plan.total, images_per_step=config.batch_size, silent=not hosts.is_first()
            ) as progress,
        ):
            trainer = Trainer(
                config,
                data,
                plan,
                program,
                mesh,
                checkpoints,
                log,
                progress,
                startup,
                stop=stop,
                watchdog=watchdog,
                owed=to_do,
            )
            state = trainer.train(state, first_step)
        watchdog.expects("the last checkpoint")
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
        if hosts.is_first():
            text = json.dumps(summary, indent=2) + "\n"
            records.write_atomically(workdir / "summary.json", text)
    if hosts.is_first():
        rows = overview.after(summary) | overview.where(workdir, _curves(workdir))
        records.print_table(rows, title="result of the final weights")
    return summary


def dry_run(config: Config) -> None:
    """Says what a run would be and would cost; trains nothing, leaves its directory as it is.

    The data is read and the programs are compiled, as a run does: what would refuse a run at its
    start refuses it here.

    Args:
      config: what the run is.

    Raises:
      ConfigError: the devices or the run directory do not fit the flags.
      DataError: the data is missing or damaged.
    """
    from experiments import cost

    data, plan = _prepared(config)
    if refusals.finished(Path(config.workdir), plan) is not None:
        _tell(f"{config.workdir} is finished: {plan.total} steps, none would be taken")
    mesh = sharding.make_mesh()
    program = program_lib.build(config, data, plan.total, mesh)
    steps = directory.steps(Path(config.workdir) / "checkpoints")
    rows = overview.before(config, data, plan, program, max(steps, default=0))
    _tell_table(rows, title="would be trained")
    _tell_table(cost.of_run(config, data, plan, program, mesh), title="would cost")
    _tell("nothing was trained: --dry_run")


def _prepared(config: Config) -> tuple[Data, Plan]:
    """What is trained on and in which steps, once nothing speaks against it; changes nothing."""
    workdir = Path(config.workdir)
    refusals.check_extras(config)
    hosts.initialise(config)
    refusals.check_devices(config)
    earlier = refusals.earlier_config(workdir, config)
    refusals.check_metrics(workdir)
    hosts.of_first(0)  # none looks there once the first has begun to write

    data = loading.of_run(config)
    refusals.check_data(config, data)
    if config.umix_from:
        weight = uncertainty.sample_weights(
            config.umix_from,
            len(data.train),
            eta=config.umix_eta,
            first_step=config.umix_first_step,
        )
        train = dataclasses.replace(data.train, sample_weight=weight)
        data = dataclasses.replace(data, train=train)
    return data, refusals.plan(config, data, earlier)


def _curves(workdir: Path) -> Path | None:
    """Draws the curves of a run that has ended; whatever is wrong with that, the run is good."""
    try:
        from experiments.reporting import training_curves

        return training_curves.write(workdir)
    except Exception as error:
        _tell(f"careful: no curves.png: {untrusted.one_line(error)}", sys.stderr)
        return None


class _Log(contextlib.ExitStack):
    """Where the metrics of a run go: metrics.jsonl, and TensorBoard if asked for.

    Of several processes the first alone writes.
    """

    def __init__(self, config: Config, *, resume_step: int, evaluated: bool) -> None:
        super().__init__()
        workdir = config.workdir
        self._writes: list[Callable[[int, Mapping[str, Any]], None]] = []
        if hosts.is_first():
            lines = self.enter_context(
                records.MetricsLog(workdir, resume_step=resume_step, evaluated=evaluated)
            )
            self._writes.append(lines.write)
            if config.tensorboard:
                board = self.enter_context(records.TensorBoard(workdir, resume_step=resume_step))
                self._writes.append(board.write)
        written = records.read_metrics(config.workdir) if hosts.is_first() else []
        self._earlier = (written[-1].get("wall_time") if written else None) or 0.0
        self._started = time.monotonic()

    def wall_time(self) -> float:
        """Seconds since the run started, those before it was resumed included."""
        return self._earlier + time.monotonic() - self._started

    def write(self, step: int, line: Mapping[str, Any]) -> None:
        for write in self._writes:
            write(step, {**line, "wall_time": self.wall_time()})


def _checkpoints(config: Config) -> Checkpoints:
    try:
        return Checkpoints(config.workdir)
    except (CheckpointError, OSError) as error:
        raise ConfigError(f"--workdir={config.workdir}: {error}") from error


def _initial_state(
    program: Program, checkpoints: Checkpoints, config: Config
) -> tuple[TrainState, int]:
    try:
        restored = checkpoints.restore_latest(program.state_shape)
    except CheckpointError as error:
        raise ConfigError(f"--workdir={config.workdir}: {error}") from error
    if restored is None:
        return program.init(), 0
    for passed in restored.set_aside:
        _tell(
            f"careful: the checkpoint of step {passed.step} is damaged and was moved to "
            f"{passed.moved_to}; the run goes on from step {restored.step}: {passed.reason}",
            sys.stderr,
        )
    return restored.state, restored.step


def _tell(line: str, stream: TextIO | None = None) -> None:
    if hosts.is_first():
        print(line, file=stream or sys.stdout, flush=True)


def _tell_table(rows: Mapping[str, Any], *, title: str) -> None:
    if hosts.is_first():
        records.print_table(rows, title=title)


def _parse(argv: Sequence[str]) -> Config:
    if shown := guide.text(argv, flags.FLAGS, __doc__ or ""):
        usage.show(shown)
        raise SystemExit(exit_codes.FINISHED)
    # Warnings only, unless the command says otherwise: Orbax tells the story of every file at info.
    quiet = [argv[0], "--verbosity=-1", *argv[1:]]
    try:
        return config_lib.parse(quiet)
    except ConfigError as error:
        print(untrusted.error_line(error) + suggestions.of_error(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from None


def main(
    config: Config,
    startup: Startup | None = None,
    stop: Stop | None = None,
    *,
    dry: bool = False,
) -> None:
    """Runs the program and turns its errors into one line and an exit code."""
    try:
        if dry:
            dry_run(config)
        else:
            run(config, startup, stop)
    except (Exception, KeyboardInterrupt) as error:
        ending = endings.of(error, config)
        if ending is None:
            raise
        if not ending.together or hosts.is_first():
            print(ending.line + suggestions.of_error(error), file=sys.stderr)
        if ending.together:
            hosts.leave()
        raise SystemExit(ending.code) from None
    if jax.process_count() > 1:
        hosts.leave()
        # Not by the way of Python, on which one process of several can wait for another for ever.
        raise SystemExit(exit_codes.FINISHED)


def _own_process(config: Config) -> None:
    dry = bool(flags.FLAGS["dry_run"].value)
    process.run(
        lambda: main(config, Startup(process_start()), _stop, dry=dry), cache=config.compile_cache
    )


if __name__ == "__main__":
    config_lib.define_flags(flags.FLAGS)
    flagfields.define(guide.Asked, flags.FLAGS)
    app.run(_own_process, flags_parser=_parse)
