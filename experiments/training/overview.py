"""What a person is told of a run before its first step and after its last, as rows of a table."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from experiments import program as program_lib
from experiments.config import Config
from experiments.datasets.data import Data
from experiments.datasets.streaming import Stream
from experiments.program import Program
from experiments.training.loop import Plan

_PARTS = {"first_step": "the step itself"}  # where the key alone would not tell


def before(
    config: Config, data: Data, plan: Plan, program: Program, first_step: int
) -> dict[str, str]:
    """What is about to be trained.

    Args:
      config: what the run is.
      data: what it is trained on.
      plan: its steps.
      program: its program.
      first_step: the step it goes on from, 0 for a new run.

    Returns:
      The rows.
    """
    device = jax.devices()[0]
    shape = "x".join(str(size) for size in data.image_shape)
    held_out = 0 if data.validation is None else len(data.validation)
    epochs = plan.total * config.batch_size / len(data.train)
    parameters = program_lib.parameter_count(program.state_shape)
    forwarded = round(program_lib.rows_per_step(config), 1)
    every = f" in 1 of {config.sem_every} steps" if config.sem_every > 1 else ""
    rows = {
        "run directory": config.workdir,
        "devices": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
        "data": f"{config.dataset}: {len(data.train):,} train, {held_out:,} validation, "
        f"{len(data.test):,} test, {shape}, {data.num_classes} classes"
        + (f", {data.num_groups} groups" if data.num_groups else "")
        + (", balanced sampling" if config.sampling == "balanced" else "")
        + (", streamed" if isinstance(data.train, Stream) else ""),
        "model": f"{config.model}, {parameters:,} parameters, {config.compute_dtype}",
        "method": f"policy {config.policy}, sem_weight {config.sem_weight:g}{every}, "
        f"clean_weight {config.clean_weight:g}",
        "steps": f"{plan.total:,} ({epochs:.1f} epochs)",
        "rows per step": f"{config.batch_size} trained on, {forwarded:.12g} forwarded"
        + (" on average" if config.sem_every > 1 else ""),
        "seed": str(config.seed),
    }
    if idle := config.without_effect():
        rows["without effect"] = ", ".join(idle)
    if first_step:
        rows["resumed from"] = f"step {first_step:,}"
    return rows


def after(summary: Mapping[str, Any]) -> dict[str, str]:
    """How a run ended.

    Args:
      summary: as `experiments.train.run` returns it, or an earlier version wrote it.

    Returns:
      The rows.

    Example:
      >>> figures = {"test_accuracy": 0.5, "test_nll": 1.0, "test_ece": 0.1, "skipped_steps": 0}
      >>> after({**figures, "images_per_second": 1234.0, "wall_time": 9.0})["images/s"]
      '1,234'
    """
    rows = {
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
    start = dict(summary.get("startup", {}))
    if "first_step" in start:
        total = start.pop("total")
        parts = ", ".join(f"{_PARTS.get(name, name)} {part:.1f}" for name, part in start.items())
        rows["to the first step"] = f"{total:.1f} s ({parts})"
    return rows


def where(workdir: str | os.PathLike[str], curves: str | os.PathLike[str] | None) -> dict[str, str]:
    """Where a run that has ended is to be looked at, and how it is measured further.

    Args:
      workdir: directory of the run.
      curves: its picture; None for none.

    Returns:
      The rows; those of `after` come before them.

    Example:
      >>> where("runs/no such run", None)
      {'robustness': "python -m experiments.evaluate --workdir='runs/no such run'"}
    """
    rows = {} if curves is None else {"curves": str(curves)}
    report, summary = Path(workdir) / "report.html", Path(workdir) / "summary.json"
    if report.is_file():
        if summary.is_file() and summary.stat().st_mtime <= report.stat().st_mtime:
            return {**rows, "report": str(report)}
        rows["report"] = f"{report} (of an earlier end of this run)"
    command = f"python -m experiments.evaluate --workdir={shlex.quote(str(workdir))}"
    return {**rows, "robustness": command}
