"""The numbers a run is known by, read from its report, and how people read them."""

import dataclasses
import math
import numbers
from collections.abc import Collection, Iterable, Mapping
from typing import Any

Report = Mapping[str, Any]
# The layer whose gap is the headline's: what the sem loss compares.
GAP_LAYER = "representation"


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of the headline.

    Attributes:
      name: its key in `headline`.
      label: for people.
      part: the part of the report it comes from.
      better: "higher" or "lower".
      percent: whether it is shown times 100.
    """

    name: str
    label: str
    part: str
    better: str
    percent: bool = True

    @property
    def arrow(self) -> str:
        """An arrow in the direction that is better."""
        return "↑" if self.better == "higher" else "↓"

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label}, %" if self.percent else self.label

    def show(self, value: float | None, *, sign: bool = False) -> str:
        """The number as people read it.

        Args:
          value: the number; None is shown as a dash.
          sign: whether a plus is shown.

        Returns:
          Two decimals of a percentage, four of anything else.

        Example:
          >>> METRICS[0].show(0.12345), METRICS[1].show(0.12345, sign=True)
          ('12.35', '+0.1235')
        """
        if value is None:
            return "-"
        shown = 100 * value if self.percent else value
        return f"{shown:{'+' if sign else ''}.{2 if self.percent else 4}f}"


METRICS = (
    Metric("accuracy", "accuracy", "clean", "higher"),
    Metric("nll", "NLL", "clean", "lower", percent=False),
    Metric("ece", "ECE", "clean", "lower"),
    Metric("ece_calibrated", "ECE, temperature-scaled", "clean", "lower"),
    Metric("brier", "Brier score", "clean", "lower", percent=False),
    Metric("mce", "mean corruption error", "corruptions", "lower"),
    Metric("mce_held_out", "mean corruption error, held out", "corruptions", "lower"),
    Metric("worst_corruption_error", "error at the worst corruption", "corruptions", "lower"),
    Metric("auroc_msp", "OOD AUROC (MSP)", "ood", "higher"),
    Metric("fpr95_msp", "OOD FPR at 95 % TPR (MSP)", "ood", "lower"),
    Metric("fgsm_accuracy", "FGSM accuracy", "attacks", "higher"),
    Metric("pgd_accuracy", "PGD accuracy", "attacks", "higher"),
    Metric("normalised_gap", "normalised gap", "equivariance", "lower", percent=False),
    Metric("probe_score", "mean probe score above chance", "probes", "higher", percent=False),
    Metric("worst_group", "worst-group accuracy", "groups", "higher"),
)


def result(report: Report, part: str) -> Mapping[str, Any] | None:
    """What a part measured.

    Args:
      report: a report.
      part: its name.

    Returns:
      The result; None if the part was not done.
    """
    found = report["parts"].get(part, {})
    return found.get("result") if found.get("status") == "done" else None


def status(report: Report, part: str) -> str | None:
    """Why a part has no result.

    Args:
      report: a report.
      part: its name.

    Returns:
      "not measured", "failed: REASON" or "skipped: REASON"; None if the part was done.
    """
    found = report["parts"].get(part)
    if found is None:
        return "not measured"
    if found.get("status") == "done":
        return None
    return f"{found.get('status')}: {found.get('reason', 'no reason was given')}"


def number(value: Any) -> float | None:
    """A number of a report, where null stands for what was not finite.

    Args:
      value: anything.

    Returns:
      The number; None for anything that is not a finite one.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        found = float(value)
    except OverflowError:  # an integer of more than 308 digits
        return None
    return found if math.isfinite(found) else None


def look_up(tree: Any, *path: Any) -> Any:
    """What stands at a path of keys and places.

    Args:
      tree: nested mappings and sequences.
      *path: a key or a place for each level.

    Returns:
      The value; None if the path does not lead anywhere.

    Example:
      >>> look_up({"fgsm": [0.5, 0.25]}, "fgsm", -1), look_up({}, "fgsm", -1)
      (0.25, None)
    """
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def mean(values: Any) -> float | None:
    """The mean of numbers of a report.

    Args:
      values: numbers, or what stands for a missing one; anything but a row of them is nothing.

    Returns:
      The mean; None if there is nothing, or if one is missing: half a mean is another quantity.
    """
    found = [number(value) for value in values] if isinstance(values, Iterable) else []
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def items(value: Any) -> list[tuple[str, Any]]:
    """The items of a mapping that may be missing.

    Args:
      value: anything.

    Returns:
      The items; none for anything but a mapping.
    """
    return list(value.items()) if isinstance(value, Mapping) else []


def largest_epsilon(attacks: Any) -> int | None:
    """The place of the largest epsilon: the accuracies there are the headline's.

    Args:
      attacks: the result of that part.

    Returns:
      The place; None without any.
    """
    found = [number(value) for value in look_up(attacks, "epsilons") or []]
    known = [value for value in found if value is not None]
    return found.index(max(known)) if known else None


def headline(report: Report, *, policies: Collection[str] | None = None) -> dict[str, float | None]:
    """The numbers a run is known by.

    `auroc_msp` and `fpr95_msp` are means over the out-of-distribution sets. `fgsm_accuracy` and
    `pgd_accuracy` are those at the largest epsilon measured. `normalised_gap` is that of the layer
    "representation", averaged over the policies. A mean of which one term is missing is missing.

    Args:
      report: a report.
      policies: those the gap is averaged over; None for all that were measured.

    Returns:
      A number for each of METRICS, in [0, 1] where it is a rate; None where it was not measured.
    """
    clean, attacks = result(report, "clean"), result(report, "attacks")
    corruptions = result(report, "corruptions")
    sets = items(look_up(result(report, "ood"), "sets"))
    measured = dict(items(look_up(result(report, "equivariance"), "policies")))
    policies = measured if policies is None else policies
    place = largest_epsilon(attacks)
    found: dict[str, Any] = {
        "accuracy": look_up(clean, "accuracy"),
        "nll": look_up(clean, "nll"),
        "ece": look_up(clean, "ece"),
        "ece_calibrated": look_up(clean, "calibrated", "ece"),
        "brier": look_up(clean, "brier"),
        "mce": look_up(corruptions, "mce"),
        "mce_held_out": look_up(corruptions, "mce_held_out"),
        "worst_corruption_error": look_up(corruptions, "worst", "error"),
        "auroc_msp": mean(look_up(one, "scores", "msp", "auroc") for _, one in sets),
        "fpr95_msp": mean(look_up(one, "scores", "msp", "fpr95") for _, one in sets),
        "fgsm_accuracy": look_up(attacks, "fgsm", place),
        "pgd_accuracy": look_up(attacks, "pgd", place),
        "normalised_gap": mean(
            look_up(measured, policy, "layers", GAP_LAYER, "mean_normalised_gap")
            for policy in policies
        ),
        "probe_score": look_up(result(report, "probes"), "mean_score"),
        "worst_group": look_up(result(report, "groups"), "worst"),
    }
    return {metric.name: number(found[metric.name]) for metric in METRICS}
