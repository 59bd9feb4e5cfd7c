"""Studies with results as `experiments.study` keeps them, made up: real in shape, not in number."""

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from report_example import BENCHMARK, HELD_OUT

from experiments.studying import measures, plan
from experiments.studying.plan import Cell, Study

TOML = """
title = "Does the gap help?"
split = "validation"
seeds = {seeds}
reference = "sem"
shown = ["mixup", "sem", "heavy sem"]
{more}
[budgets]
steps = 100
rows = 6_400

[train]
dataset = "digits"
model = "mlp"
batch_size = 32
validation_fraction = 0.2
clean_weight = 0.0

[evaluate]
parts = "clean,corruptions"

[methods.erm]
policy = "none"
sem_weight = 0.0

[methods.mixup]
sem_weight = 0.0

[methods.sem]
sem_weight = 1.0

[methods."heavy sem"]
sem_weight = 10.0

[methods."sem, l1"]
sem_weight = 1.0
distance = "l1"
"""
_PLACES = ("workdir", "data_dir", "data_cache", "compile_cache", "download")


def make_study(folder: Path, *, seeds: tuple[int, ...] = (0, 1, 2), more: str = "") -> Study:
    """Writes a study.toml of five methods.

    Args:
      folder: of the study; made if it is not there.
      seeds: of the study.
      more: further lines at the top.

    Returns:
      The study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(TOML.format(seeds=list(seeds), more=more))
    return plan.read(folder)


def make_results(study: Study, *, without: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    """Writes a result for every run.

    Args:
      study: the study.
      without: methods, or names of runs, that have none.
      **changes: keys of all results, replaced; None removes one.

    Returns:
      The results by the name of the run.
    """
    found = {}
    for cell in study.cells():
        if not {cell.method, cell.name} & set(without):
            kept = made_up(study, cell) | changes
            found[cell.name] = {key: value for key, value in kept.items() if value is not None}
            write(study, cell.name, found[cell.name])
    return found


def write(study: Study, name: str, kept: dict[str, Any]) -> None:
    """Writes one result.

    Args:
      study: the study.
      name: of the run.
      kept: the result.
    """
    path = study.folder / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept))


def made_up(study: Study, cell: Cell) -> dict[str, Any]:
    """The result of a run; the same run gives the same one.

    Args:
      study: the study.
      cell: the run.

    Returns:
      As `results.of_run` gives it.
    """
    config = dataclasses.asdict(cell.config)
    defaults = {field.name: field.default for field in dataclasses.fields(cell.config)}
    flags = {k: v for k, v in config.items() if k not in _PLACES and v != defaults[k]}
    rng = np.random.default_rng([cell.seed, cell.steps, zlib.crc32(cell.method.encode())])
    # What a seed decides is alike in all methods, so that pairs differ less than runs do.
    luck = 0.02 * np.random.default_rng(cell.seed).standard_normal()
    weight = config["sem_weight"]
    skill = 0.02 * np.log1p(weight) + luck + 0.003 * rng.standard_normal()
    corruptions = {
        name: np.clip(0.62 + 1.4 * skill - 0.07 * np.arange(3) - 0.004 * place, 0, 1).tolist()
        for place, name in enumerate((*BENCHMARK, *HELD_OUT))
    }
    means = {name: 1 - float(np.mean(row)) for name, row in corruptions.items()}
    steps = np.linspace(cell.steps / 5, cell.steps, 5).round().astype(int)
    curve = np.arange(1, 6) / 5
    angle = 2 * np.pi * np.arange(60) / 10
    clean = 4 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.4 * rng.standard_normal((60, 2))
    middle = (clean[:20] + clean[20:40]) / 2
    kept = {
        "schema": 1,
        "cell": cell.name,
        "method": cell.method,
        "seed": cell.seed,
        "steps": cell.steps,
        "rows_per_step": cell.rows / cell.steps,
        "rows_forwarded": cell.rows,
        "flags": flags,
        "evaluate": dict(study.evaluate),
        "seconds": {"train": 0.05 * cell.steps, "evaluate": 41.0},
        "images_per_second": 391.0 + cell.seed,
        "environment": {"jax": "0.10.0", "revision": "0123abcd", "device_kind": "cpu"},
        "metrics": {
            "accuracy": 0.75 + skill,
            "nll": 0.9 - 2 * skill,
            "ece": 0.08 - skill / 2,
            "ece_calibrated": 0.03,
            "brier": 0.35 - skill,
            "mce": float(np.mean([means[name] for name in BENCHMARK])),
            "mce_held_out": float(np.mean([means[name] for name in HELD_OUT])),
            "worst_corruption_error": max(means.values()),
            "auroc_msp": 0.8 + skill / 2,
            "fpr95_msp": 0.6 - skill,
            "fgsm_accuracy": None,
            "pgd_accuracy": 0.0,
            "normalised_gap": 0.2 / (1 + weight) + abs(0.01 * rng.standard_normal()),
            "probe_score": None,
            "worst_group": None,
        },
        "corruptions": corruptions,
        "probes": {
            "rotation": {"metric": "accuracy", "score": 0.7 + skill, "chance": 0.25},
            "contrast": {"metric": "r2", "score": 0.5 + skill, "chance": 0.0},
        },
        "groups": {"groups": [{"name": "3, red", "count": 9, "accuracy": 0.5 + skill}]},
        "curve": {
            "step": steps.tolist(),
            "accuracy": (0.3 + (0.45 + skill) * curve).tolist(),
            "normalised_gap": (
                (0.3 / (1 + weight) * (1.5 - curve) + luck / 4).tolist() if weight else [None] * 5
            ),
        },
    }
    if cell.seed == study.seeds[0]:
        kept["projection"] = {
            "explained": [0.4, 0.2],
            "clean": clean.tolist(),
            "label": (np.arange(60) % 10).tolist(),
            "mixed": (middle + 0.8 / (1 + weight) * rng.standard_normal((20, 2))).tolist(),
            "interpolated": middle.tolist(),
        }
    return kept


def titles(figure):
    """The titles of the panels of a figure."""
    return [axis.get_title(loc="left") for axis in figure.axes]


def of_seeds(results, slug, steps, read):
    """A number of each run of a method."""
    return np.array([read(results[f"{slug}@{steps}-{seed}"]) for seed in (0, 1, 2)])


def changed(study, results, change):
    """The blocks of results after a change of each."""
    found = json.loads(json.dumps(results))
    for name, kept in found.items():
        change(name, kept)
    return measures.blocks(study, found)
