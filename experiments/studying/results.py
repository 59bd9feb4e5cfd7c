"""What is kept of each run of a study: a small JSON that tables and figures are made from.

It lies beside study.toml, so that it can be kept with the project while run directories are not: a
study goes on from the results that are there, on whatever machine.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import program, records, untrusted
from experiments.config import Config
from experiments.reporting.headline import headline, items, look_up, result
from experiments.studying.plan import Cell, Study, StudyError

SCHEMA = 1
_DIGITS = 6
# What says where a run was made, not what it is.
_PLACES = ("workdir", "data_dir", "data_cache", "compile_cache", "download")
_GAP = "mixup"  # of every model, whatever it was trained with


def path_of(study: Study, cell: Cell) -> Path:
    """Where the result of a run is kept.

    Args:
      study: the study.
      cell: the run.

    Returns:
      The path of its JSON.
    """
    return study.folder / "results" / f"{cell.name}.json"


def of_run(study: Study, cell: Cell, workdir: Path) -> dict[str, Any]:
    """What is kept of a run that was trained and evaluated.

    Args:
      study: the study.
      cell: the run.
      workdir: its directory.

    Returns:
      The result.

    Raises:
      StudyError: a part of the evaluation failed.
      OSError: a file is missing.
      ValueError: a file is damaged.
    """
    report = untrusted.read_json(workdir / "report.json")
    summary = untrusted.read_json(workdir / "summary.json")
    for name, part in items(report.get("parts")):
        if part.get("status") == "failed":
            raise StudyError(f"{cell.name}: {name} failed: {part.get('reason')}")
    corruptions, ood = result(report, "corruptions"), result(report, "ood")
    gaps = look_up(result(report, "equivariance"), "policies", _GAP)
    first = cell.seed == study.seeds[0]
    kept = {
        "schema": SCHEMA,
        "cell": cell.name,
        "method": cell.method,
        "seed": cell.seed,
        "steps": cell.steps,
        "rows_per_step": program.rows_per_step(cell.config),
        "rows_forwarded": cell.rows,
        "flags": _told(cell.config),
        "evaluate": dict(study.evaluate),
        "seconds": {
            "train": summary.get("wall_time"),
            "evaluate": sum(part["seconds"] for _, part in items(report["parts"])),
        },
        "images_per_second": summary.get("images_per_second"),
        "environment": report["run"]["environment"],
        "metrics": headline(report, policies={_GAP}),
        "corruptions": look_up(corruptions, "accuracy"),
        "ood": {
            name: look_up(one, "scores", "msp", "auroc")
            for name, one in items(look_up(ood, "sets"))
        },
        "gap_by_weight": look_up(gaps, "layers", "representation"),
        "probes": look_up(result(report, "probes"), "factors"),
        "groups": result(report, "groups"),
        "projection": result(report, "projection") if first else None,
        "curve": _curve(workdir),
    }
    return {key: _rounded(value) for key, value in kept.items() if value not in (None, {})}


def write(study: Study, cell: Cell, kept: Mapping[str, Any]) -> Path:
    """Keeps a result.

    Args:
      study: the study.
      cell: the run.
      kept: as `of_run` returns it.

    Returns:
      The path.

    Raises:
      OSError: it cannot be written.
    """
    path = path_of(study, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in kept.items()
    ]
    records.write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def read(study: Study, cell: Cell) -> dict[str, Any] | None:
    """Reads the result of a run.

    Args:
      study: the study.
      cell: the run.

    Returns:
      The result; None where there is none yet.

    Raises:
      StudyError: it is damaged, or of a run with other flags than the study has now.
    """
    path = path_of(study, cell)
    try:
        found = untrusted.read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} is damaged: {untrusted.one_line(error)}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise StudyError(f"{path} is no result of schema {SCHEMA}")
    for key in ("metrics", "flags", "evaluate", "environment"):
        if not isinstance(found.get(key), dict):
            raise StudyError(f"{path} is damaged: {key} is {found.get(key)!r}")
    for key, wanted in (("flags", _told(cell.config)), ("evaluate", dict(study.evaluate))):
        then = found[key]
        differ = sorted(name for name in then.keys() | wanted if then.get(name) != wanted.get(name))
        if differ:
            name = differ[0]
            raise StudyError(
                f"{path} is of --{name}={then.get(name, 'its default')}, the study has "
                f"{wanted.get(name, 'its default')}: a result is measured once; name the method "
                "anew, or remove the file"
            )
    return found


def read_all(study: Study) -> dict[str, dict[str, Any]]:
    """Reads all results of a study.

    Args:
      study: the study.

    Returns:
      Results by the name of the run, in the order of the study.

    Raises:
      StudyError: as `read`.
    """
    found = ((cell.name, read(study, cell)) for cell in study.cells())
    return {name: kept for name, kept in found if kept is not None}


def _told(config: Config) -> dict[str, Any]:
    """The flags that are not at their defaults, but for places."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _PLACES and getattr(config, field.name) != field.default
    }


def _curve(workdir: Path) -> dict[str, list[Any]]:
    """What each evaluation while training found, and the mean gap of the steps before it."""
    found: dict[str, list[Any]] = {"step": [], "accuracy": [], "nll": [], "normalised_gap": []}
    gap = None
    for line in records.read_metrics(workdir):
        gap = line.get("normalised_gap", gap)
        if "test_accuracy" in line:
            found["step"].append(line["step"])
            found["accuracy"].append(line["test_accuracy"])
            found["nll"].append(line["test_nll"])
            found["normalised_gap"].append(gap)
    return found


def _rounded(value: Any) -> Any:
    """Numbers to six digits, so that a result stays small; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
