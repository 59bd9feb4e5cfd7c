"""What a run is refused for, before anything is changed: flags, devices, an earlier run.

Each function raises ConfigError, whose message names the flag, what was found and what is allowed.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax

from experiments import config as config_lib
from experiments import policies, records, untrusted
from experiments.config import Config, ConfigError
from experiments.datasets import data as data_lib
from experiments.datasets.data import Data, DataError, Split
from experiments.training.loop import Plan


def check_extras(config: Config) -> None:
    """Refuses --tensorboard where the package that writes for it is not installed."""
    if config.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("--tensorboard: needs tensorboardX: pip install 'semjax[tensorboard]'")


def check_devices(config: Config) -> None:
    """Refuses batches that cannot be split evenly over the devices."""
    devices = jax.device_count()
    for name in ("batch_size", "eval_batch_size"):
        if getattr(config, name) % devices:
            raise ConfigError(
                f"--{name}={getattr(config, name)}: must be a multiple of the {devices} devices"
            )


def check_data(config: Config, data: Data) -> None:
    """Refuses what the data set does not offer: groups of its rows, or weights for them."""
    asked = policies.needs_groups(dataclasses.asdict(config))
    if asked and data.num_groups is None:
        raise ConfigError(
            f"{asked}: looks at the group of a row, and --dataset={config.dataset} has no groups; "
            "allowed: a data set with groups, such as coloured_digits"
        )
    if config.umix_from and not isinstance(data.train, Split):
        raise ConfigError(
            f"--umix_from={config.umix_from}: weights rows in memory, and --dataset="
            f"{config.dataset} is streamed; allowed with --streaming=off"
        )


def earlier_config(workdir: Path, config: Config) -> Config | None:
    """The config that the run directory was made with; refuses one whose results would differ.

    Args:
      workdir: the run directory, which may not be there yet.
      config: what the run is to be.

    Returns:
      What it was; None for a new run.

    Raises:
      ConfigError: it cannot be gone on with.
    """
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


def check_metrics(workdir: Path) -> None:
    """Refuses a metrics.jsonl that is damaged elsewhere than in its last line.

    Args:
      workdir: the run directory.

    Raises:
      ConfigError: it is damaged, or cannot be read.
    """
    try:
        records.read_metrics(workdir)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--workdir={workdir}: {untrusted.one_line(error)}") from error


def plan(config: Config, data: Data, earlier: Config | None) -> Plan:
    """The steps of the run.

    Args:
      config: what the run is.
      data: what it is trained on.
      earlier: what it was before, None for a new one.

    Returns:
      A Plan.

    Raises:
      ConfigError: the batch is larger than the split, or fewer steps than before are asked for.
    """
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


def finished(workdir: Path, plan: Plan) -> dict[str, Any] | None:
    """The summary of a run that has all its steps.

    Args:
      workdir: the run directory.
      plan: its steps.

    Returns:
      What summary.json holds, None for a run that has steps to take.

    Raises:
      ConfigError: summary.json is damaged.
    """
    try:
        summary = untrusted.read_json(workdir / "summary.json")
        return summary if summary["steps"] == plan.total else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"--workdir={workdir}: summary.json is damaged: {untrusted.one_line(error)}"
        ) from error
