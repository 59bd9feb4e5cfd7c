"""What is kept of each run of a study: a small JSON that tables and figures are made from.

It lies beside study.toml, so that it can be kept with the project while run directories are not: a
study goes on from the results that are there, on whatever machine.
"""

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import program, records, untrusted
from experiments.config import Config
from experiments.evaluation.plan import Plan
from experiments.reporting.headline import headline, items, look_up, number, result, status
from experiments.studying.plan import GAP, Cell, Study, StudyError

SCHEMA = 1
_DIGITS = 6
_MOST_BYTES = 2**24
# Kept as they are, to be compared with the study; everything else is rounded.
_EXACT = ("flags", "evaluate")
_ALWAYS = (*_EXACT, "metrics", "environment")
# What says where a run was made, not what it is.
_PLACES = ("workdir", "data_dir", "data_cache", "compile_cache", "download")


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
      StudyError: a part of the evaluation failed, or was not made.
      OSError: a file is missing.
      ValueError: a file is damaged.
    """
    report = untrusted.read_json(workdir / "report.json")
    summary = untrusted.read_json(workdir / "summary.json")
    for name in Plan(**study.evaluate).listed("parts"):
        wrong = status(report, name)
        if wrong is not None and not wrong.startswith("skipped"):
            raise StudyError(f"{cell.name}: {name} {wrong}")
    corruptions, ood = result(report, "corruptions"), result(report, "ood")
    gaps = look_up(result(report, "equivariance"), "policies", GAP)
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
        "metrics": headline(report, policies={GAP}),
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
    return {
        key: value if key in _EXACT else _rounded(value)
        for key, value in kept.items()
        if key in _ALWAYS or value not in (None, {})
    }


def write(study: Study, cell: Cell, kept: Mapping[str, Any]) -> Path:
    """Keeps a result, where there is none: what was measured once is never written over.

    Args:
      study: the study.
      cell: the run.
      kept: as `of_run` returns it.

    Returns:
      The path.

    Raises:
      StudyError: there is one.
      OSError: it cannot be written.
    """
    path = path_of(study, cell)
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in kept.items()
    ]
    whole = path.with_name(f".{path.name}.{os.getpid()}")
    records.write_atomically(whole, "{\n" + ",\n".join(lines) + "\n}\n")
    try:
        # Unlike a new name by replacement, a link fails where there is a file, whoever made it.
        os.link(whole, path)
    except FileExistsError as error:
        raise StudyError(f"{path} is there already: it is kept, a run is measured once") from error
    except OSError:  # a file system without links
        if path.exists():
            raise StudyError(f"{path} is there already: a run is measured once") from None
        os.replace(whole, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            whole.unlink()
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
        found = untrusted.read_json(path, at_most=_MOST_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, untrusted.one_line(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it is no JSON object")
    if found.get("schema") != SCHEMA:
        raise StudyError(
            f"{path} has the schema {untrusted.one_line(found.get('schema'))}; this version reads "
            f"{SCHEMA}"
        )
    if found.get("cell") != cell.name:
        raise StudyError(
            f"{path} is of the run {untrusted.one_line(found.get('cell'))}: it must have the name "
            "of its run"
        )
    found.setdefault("evaluate", {})
    for key in _ALWAYS:
        if not isinstance(found.get(key), dict):
            raise _damaged(path, f"{key} is {untrusted.one_line(found.get(key), at_most=100)}")
    for name, value in found["metrics"].items():
        if value is not None and number(value) is None:
            raise _damaged(path, f"{name} is {untrusted.one_line(value, at_most=100)}, no number")
    _check_same(path, found["flags"], _told(cell.config), Config)
    _check_same(path, found["evaluate"], study.evaluate, Plan)
    return found


def _damaged(path: Path, why: str) -> StudyError:
    return StudyError(f"{path} is damaged: {why}; without the file the run is measured anew")


def _check_same(
    path: Path, then: Mapping[str, Any], now: Mapping[str, Any], flags: type[Config | Plan]
) -> None:
    """Refuses a result of other flags than the study has, but for those that keep results."""
    fields = {field.name: field for field in dataclasses.fields(flags)}
    for name in sorted(then.keys() | now.keys()):
        field = fields.get(name)
        if field is not None and field.metadata["keeps_result"]:
            continue
        default = None if field is None else field.default
        was, wanted = then.get(name, default), now.get(name, default)
        if was != wanted:
            raise StudyError(
                f"{path} is of --{untrusted.one_line(name)}={untrusted.one_line(was)}, the study "
                f"has {wanted}: a result is measured once; name the method anew, or remove the file"
            )


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
    """The flags but for places, those at their defaults too: a default may change later."""
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in _PLACES
    }


def _curve(workdir: Path) -> dict[str, Any]:
    """What each evaluation found; without --eval_gap the mean gap of the steps before it."""
    lines = list(records.read_metrics(workdir))
    # A run that holds rows out looks at those while it trains, whatever its figures are of.
    held_out = any("validation_accuracy" in line for line in lines)
    rows = "validation" if held_out else "test"
    found: dict[str, Any] = {"step": [], "accuracy": [], "nll": [], "normalised_gap": []}
    gap = None
    for line in lines:
        gap = line.get("normalised_gap", gap)
        if f"{rows}_accuracy" in line:
            found["step"].append(line["step"])
            found["accuracy"].append(line[f"{rows}_accuracy"])
            found["nll"].append(line[f"{rows}_nll"])
            found["normalised_gap"].append(line.get(f"{rows}_normalised_gap", gap))
    return {**found, "rows": rows} if held_out else found


def _rounded(value: Any) -> Any:
    """Numbers to six digits, so that a result stays small; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    return value
