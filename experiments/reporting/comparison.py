"""Statistics over runs: means over seeds and paired differences between methods.

Methods are compared on the seeds they share, so that what a seed decides (initialisation, data
order) cancels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.reporting.comparability import Group, grouped, shared_policies, warnings_of
from experiments.reporting.headline import (
    METRICS,
    Metric,
    Report,
    headline,
    items,
    look_up,
    mean,
    result,
)

__all__ = ["CONFIDENCE", "Group", "compare", "grouped", "headline", "paired"]

CONFIDENCE = 0.95


def paired(values: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """The mean difference of pairs and its interval.

    With d_i the differences, s their standard deviation (n - 1) and n their number, the interval is
    mean(d) ± t(0.975, n - 1) s / √n.

    Args:
      values: one value a seed.
      baseline: the other method's, of the same seeds in the same order.

    Returns:
      `n`, `difference` (None for n = 0), `low` and `high` (None for n < 2: one difference says
      nothing of how much differences vary).

    Raises:
      ValueError: the two differ in length.

    Example:
      >>> found = paired([3.0, 5.0], [1.0, 1.0])  # differences 2 and 4: 3 ± 12.706 · 1
      >>> found["n"], found["difference"], round(found["low"], 3), round(found["high"], 3)
      (2, 3.0, -9.706, 15.706)
    """
    if len(values) != len(baseline):
        raise ValueError(f"pairs need as many values: found {len(values)} and {len(baseline)}")
    n = len(values)
    difference = np.asarray(values, float) - np.asarray(baseline, float)
    mean = float(difference.mean()) if n else None
    if mean is None or n < 2:
        return {"n": n, "difference": mean, "low": None, "high": None}
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * difference.std(ddof=1) / math.sqrt(n)
    return {"n": n, "difference": mean, "low": float(mean - half), "high": float(mean + half)}


def _verdict(metric: Metric, found: Mapping[str, Any]) -> str:
    """What a difference says: "better" or "worse" if the interval excludes 0, else "unclear"."""
    if found["low"] is None or found["low"] <= 0 <= found["high"]:
        return "unclear"
    return "better" if (found["low"] > 0) == (metric.better == "higher") else "worse"


def _summary(values: Mapping[int, float | None]) -> dict[str, Any]:
    known = [value for value in values.values() if value is not None]
    return {
        "n": len(known),
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": {str(seed): value for seed, value in values.items()},
    }


def compare(reports: Sequence[Report], *, baseline: str | None = None) -> dict[str, Any]:
    """Compares runs: means over seeds, and paired differences from a baseline.

    Args:
      reports: the reports of at least one run.
      baseline: the method the others are compared with; None for the first run's.

    Returns:
      Plain JSON: `baseline`, `confidence`, `metrics` (label and better direction by name),
      `warnings`, and `datasets`, each with `groups` (label, method, model, seeds, runs; `metrics`:
      n, mean, sd and values by seed; `corruptions`: mean accuracy over severities and seeds) and
      `differences` inside a model (method, model, metric, n, seeds, difference, low, high,
      verdict).

    Raises:
      ValueError: no report, an unknown baseline, or two runs of the same method and seed.
    """
    if not reports:
        raise ValueError("there is no run to compare")
    methods = list(dict.fromkeys(report["run"]["method"] for report in reports))
    baseline = methods[0] if baseline is None else baseline
    if baseline not in methods:
        raise ValueError(f"baseline {baseline!r}: no run has that method; found {methods}")
    datasets = []
    for dataset, groups in grouped(reports).items():
        policies = shared_policies([run for group in groups for run in group.runs.values()])
        entries = [_entry(group, policies) for group in groups]
        bases = {e["model"]: e for e in entries if e["method"] == baseline}
        differences = [
            _difference(metric, entry, bases[entry["model"]])
            for entry in entries
            if entry["method"] != baseline and entry["model"] in bases
            for metric in METRICS
        ]
        datasets.append({"dataset": dataset, "groups": entries, "differences": differences})
    return {
        "schema": 1,
        "baseline": baseline,
        "confidence": CONFIDENCE,
        "metrics": {m.name: {"label": m.title, "better": m.better} for m in METRICS},
        "warnings": warnings_of(reports, baseline),
        "datasets": datasets,
    }


def _entry(group: Group, policies: frozenset[str]) -> dict[str, Any]:
    headlines = {seed: headline(report, policies=policies) for seed, report in group.runs.items()}
    return {
        "label": group.label,
        "method": group.method,
        "model": group.model,
        "seeds": list(group.runs),
        "runs": [report["run"]["name"] for report in group.runs.values()],
        "metrics": {
            metric.name: _summary({seed: found[metric.name] for seed, found in headlines.items()})
            for metric in METRICS
        },
        "corruptions": _corruption_means(list(group.runs.values())),
    }


def _corruption_means(reports: Sequence[Report]) -> dict[str, float | None]:
    """The accuracy at each corruption, averaged over severities, then over the runs."""
    rows: dict[str, list[Any]] = {}
    for report in reports:
        for name, row in items(look_up(result(report, "corruptions"), "accuracy")):
            rows.setdefault(name, []).append(mean(row))
    return {name: mean(means) for name, means in rows.items()}


def _difference(
    metric: Metric, entry: Mapping[str, Any], base: Mapping[str, Any]
) -> dict[str, Any]:
    mine, theirs = entry["metrics"][metric.name]["values"], base["metrics"][metric.name]["values"]
    seeds = [s for s in mine if mine[s] is not None and theirs.get(s) is not None]
    found = paired([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds])
    return {
        "method": entry["method"],
        "model": entry["model"],
        "metric": metric.name,
        "seeds": [int(seed) for seed in seeds],
        **found,
        "verdict": _verdict(metric, found),
    }
