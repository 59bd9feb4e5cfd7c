"""Which runs belong together, and why some may not be compared.

Runs are grouped by data set, model and method; the seeds stand inside a group.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reporting.headline import Report, look_up, result, status

# Options of evaluate that say where things lie and how much is done at once, or what the results
# tell better.
_NO_MATTER = {"workdir", "output", "data_dir", "official", "batch_size", "parts", "weights"}

_OF_RUN = (
    ("model", "model"),
    ("number of parameters", "parameters"),
    ("number of training steps", "step"),
    ("choice of weights", "weights"),
)
# Flags of training that say which rows are measured and learned from.
_OF_DATA = ("test_split", "classes", "validation_fraction", "image_size")
# What must be alike: in words, and where it stands in the result of a part.
_ALIKE: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("number of test images", "clean", ("count",)),
    ("number of classes", "clean", ("num_classes",)),
    ("source of the temperature", "clean", ("temperature_from",)),
    ("source of the corruptions", "corruptions", ("source",)),
    ("severities", "corruptions", ("severities",)),
    ("number of corrupted images", "corruptions", ("count",)),
    ("number of images in distribution", "ood", ("count",)),
    ("number of attacked images", "attacks", ("count",)),
    ("epsilons", "attacks", ("epsilons",)),
    ("steps of PGD", "attacks", ("steps",)),
    ("restarts of PGD", "attacks", ("restarts",)),
    ("number of mixed images", "equivariance", ("count",)),
    ("source of the probes", "probes", ("source",)),
    ("number of probe images", "probes", ("test",)),
    ("source of the groups", "groups", ("source",)),
)
# What must have the same keys.
_SAME_KEYS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("corruption list", "corruptions", ("accuracy",)),
    ("out-of-distribution sets", "ood", ("sets",)),
    ("probed factors", "probes", ("factors",)),
)


@dataclasses.dataclass(frozen=True)
class Group:
    """The runs of one method on one data set with one model, by seed.

    Attributes:
      label: the method, and the model where the data set has several.
      method: of the runs.
      model: of the runs.
      runs: the reports by seed.
    """

    label: str
    method: str
    model: str
    runs: Mapping[int, Report]


def grouped(reports: Sequence[Report], names: Sequence[str] = ()) -> dict[str, list[Group]]:
    """Sorts runs: by data set, then into groups of one model and one method.

    Args:
      reports: the reports, in any order.
      names: what to call each in an error; their own names if left out.

    Returns:
      Groups by data set, both in the order of first sight; seeds ascending.

    Raises:
      ValueError: two runs of the same data set, model, method and seed.
    """
    names = names or [str(report["run"]["name"]) for report in reports]
    seen: dict[tuple[Any, ...], str] = {}
    runs: dict[str, dict[tuple[str, str], dict[int, Report]]] = {}
    for report, name in zip(reports, names, strict=True):
        run = report["run"]
        key = (run["dataset"], run["model"], run["method"], run["seed"])
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {name} are both method {run['method']!r}, seed {run['seed']} "
                f"({run['dataset']}, {run['model']}); leave one of them out"
            )
        seen[key] = name
        of_dataset = runs.setdefault(run["dataset"], {})
        of_dataset.setdefault((run["model"], run["method"]), {})[run["seed"]] = report
    return {
        dataset: [
            Group(
                method if len({model for model, _ in found}) == 1 else f"{method} ({model})",
                method,
                model,
                dict(sorted(seeds.items())),
            )
            for (model, method), seeds in found.items()
        ]
        for dataset, found in runs.items()
    }


def shared_policies(reports: Sequence[Report]) -> frozenset[str]:
    """The policies whose gap was measured in every run that measured any.

    An evaluation measures the run's own policy besides the usual ones; a mean over other policies
    would be another quantity.

    Args:
      reports: the runs on one data set.

    Returns:
      Their names.
    """
    found = [look_up(result(report, "equivariance"), "policies") for report in reports]
    names = [frozenset(policies) for policies in found if isinstance(policies, Mapping)]
    return frozenset.intersection(*names) if names else frozenset()


def warnings_of(reports: Sequence[Report], baseline: str) -> list[str]:
    """Why the runs may not be comparable.

    Args:
      reports: the reports.
      baseline: the method the others are compared with.

    Returns:
      A sentence for each difference: of data sets, and inside a data set of models, training steps,
      weights, options and of what was measured on what; parts that failed; a missing baseline.
    """
    datasets = [report["run"]["dataset"] for report in reports]
    found = _disagreement("data set", reports, datasets, "; they are shown apart")
    for dataset, groups in grouped(reports).items():
        runs = [report for group in groups for report in group.runs.values()]
        values: list[tuple[str, list[Any]]] = [
            (what, [report["run"].get(key) for report in runs]) for what, key in _OF_RUN
        ]
        values += [
            (f"option --{name} of train", [look_up(r["run"], "flags", name) for r in runs])
            for name in _OF_DATA
        ]
        values += [
            (what, [look_up(result(r, part), *path) for r in runs]) for what, part, path in _ALIKE
        ]
        values += [
            (what, [_keys(result(r, part), path) for r in runs]) for what, part, path in _SAME_KEYS
        ]
        values += [
            (f"option --{name} of evaluate", [r["options"].get(name, "unset") for r in runs])
            for name in sorted({name for r in runs for name in r["options"]} - _NO_MATTER)
        ]
        texts = [text for what, row in values for text in _disagreement(what, runs, row)]
        policies = [_keys(result(report, "equivariance"), ("policies",)) for report in runs]
        shared = ", ".join(sorted(shared_policies(runs))) or "none"
        then = f"; the normalised gap is averaged over those that all have: {shared}"
        texts += _disagreement("policies of the gap", runs, policies, then)
        texts += [
            f"{part} of {run['run']['name']} {status(run, part)}"
            for part in dict.fromkeys(part for run in runs for part in run["parts"])
            # What applies to no run, for one and the same reason, makes no difference between them.
            if len({status(run, part) for run in runs}) > 1
            or str(status(runs[0], part)).startswith("failed")
            for run in runs
            if status(run, part) is not None
        ]
        for model in dict.fromkeys(group.model for group in groups):
            if baseline not in {group.method for group in groups if group.model == model}:
                texts.append(f"no run of the baseline {baseline} with {model}: no differences")
        found += [f"{dataset}: {text}" for text in texts]
    return found


def _keys(tree: Any, path: tuple[Any, ...]) -> str | None:
    found = look_up(tree, *path)
    return ", ".join(sorted(found)) if isinstance(found, Mapping) else None


def _disagreement(
    what: str, reports: Sequence[Report], values: Sequence[Any], then: str = ""
) -> list[str]:
    """One sentence if the runs that have a value differ in it, else none."""
    names: dict[str, list[str]] = collections.defaultdict(list)
    for report, value in zip(reports, values, strict=True):
        if value is not None:
            names[str(value)].append(str(report["run"]["name"]))
    if len(names) < 2:
        return []
    told = "; ".join(f"{value} ({', '.join(runs)})" for value, runs in names.items())
    return [f"different {what}: {told}{then}"]
