"""The page of one run: its report as one HTML document that needs nothing else."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from experiments.reporting import report_sections, representation_sections
from experiments.reporting.comparison_page import render_comparison
from experiments.reporting.headline import (
    METRICS,
    Report,
    headline,
    items,
    largest_epsilon,
    look_up,
    result,
    status,
)
from experiments.reporting.report_html import (
    Markup,
    attempt,
    count,
    decimal,
    details,
    epsilon,
    escape,
    join,
    page,
    table,
    tag,
)

__all__ = ["render", "render_comparison"]

_SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Markup]]] = {
    "clean": ("Accuracy and calibration", report_sections.clean),
    "corruptions": ("Corruptions", report_sections.corruptions),
    "ood": ("Out-of-distribution detection", report_sections.ood),
    "attacks": ("Adversarial attacks", report_sections.attacks),
    "equivariance": ("Semantic equivariance", representation_sections.equivariance),
    "probes": ("Probes of label-independent factors", representation_sections.probes),
    "groups": ("Groups", representation_sections.groups),
    "pictures": ("Pictures", representation_sections.pictures),
    "projection": ("The representation in the plane", representation_sections.projection),
}


def render(report: Report) -> str:
    """The page of one run.

    Args:
      report: as `experiments.evaluate` writes it (report.json, schema 1).

    Returns:
      The HTML document; the same report gives the same text. A part that failed, was skipped or was
      not measured says so, and so does one whose result cannot be read.
    """
    run = report["run"]
    facts = {
        "method": run.get("method"),
        "seed": run.get("seed"),
        "data set": run.get("dataset"),
        "model": run.get("model"),
        "parameters": count(run.get("parameters")),
        "training steps": count(run.get("step")),
        "weights": run.get("weights"),
    }
    shown = [
        ("headline", "Headline", _headline(report)),
        *((name, title, _section(report, name, body)) for name, (title, body) in _SECTIONS.items()),
        ("made", "How this was made", _made(report)),
    ]
    return page(str(run.get("name")), facts, shown, kind="Robustness report")


def _section(report: Report, name: str, body: Callable[[Mapping[str, Any]], Markup]) -> Markup:
    why = status(report, name)
    if why is not None:
        return _why(why)
    return attempt(lambda: body(result(report, name) or {}))


def _why(why: str, element: str = "p") -> Markup:
    """Why there is no result: in red if it failed."""
    return tag(element, why, class_="failed" if why.startswith("failed") else "absent")


def _headline(report: Report) -> Markup:
    values = headline(report)
    rows = []
    for metric in METRICS:
        value = values[metric.name]
        # A part may be done and still lack a number, such as a corruption set that was left out.
        why = status(report, metric.part) or "not measured"
        if value is None:
            state, _, reason = why.partition(": ")
            told = tag("td", reason, class_="failed" if state == "failed" else "absent")
            rows.append([metric.title, metric.arrow, _why(state, "td"), told])
        else:
            told = attempt(functools.partial(_note, report, metric.name))
            shown = metric.show(value)
            rows.append([metric.title, metric.arrow, shown, tag("td", told, class_="long")])
    head = ["measure", "better", "value", tag("th", "what it is", scope="col")]
    return table(head, rows, words=2)


def _note(report: Report, name: str) -> Markup:
    """How a number of the headline came about."""
    clean, attacks = result(report, "clean"), result(report, "attacks")
    groups, corrupted = result(report, "groups"), result(report, "corruptions")
    sets = [set_name for set_name, _ in items(look_up(result(report, "ood"), "sets"))]
    policies = [p for p, _ in items(look_up(result(report, "equivariance"), "policies"))]
    factors = [factor for factor, _ in items(look_up(result(report, "probes"), "factors"))]
    size = epsilon(look_up(attacks, "epsilons", largest_epsilon(attacks)))
    attacked = f"ε = {size}, {count(look_up(attacks, 'count'))} images"
    temperature = f"{decimal(look_up(clean, 'temperature'))}"
    notes = {
        "accuracy": f"{count(look_up(clean, 'count'))} test images, "
        f"{count(look_up(clean, 'num_classes'))} classes",
        "nll": "mean negative log-likelihood, in nats",
        "ece": "15 bins of equal width of the largest probability",
        "ece_calibrated": f"T = {temperature} from {look_up(clean, 'temperature_from')}",
        "brier": "squared distance of the probabilities from the label, summed over classes",
        "mce": _corruption_note(corrupted, "benchmark"),
        "mce_held_out": _corruption_note(corrupted, "held_out"),
        "worst_corruption_error": f"{look_up(corrupted, 'worst', 'name')}, mean over severities",
        "auroc_msp": f"largest softmax probability; mean over {', '.join(sets)}",
        "fpr95_msp": f"largest softmax probability; mean over {', '.join(sets)}",
        "fgsm_accuracy": attacked,
        "pgd_accuracy": f"{attacked}, {count(look_up(attacks, 'steps'))} steps, "
        f"{count(look_up(attacks, 'restarts'))} restart(s)",
        "normalised_gap": f"of the representation; mean over {', '.join(policies)}",
        "probe_score": f"accuracy or R²; mean over {', '.join(factors)}",
        "worst_group": f"{look_up(groups, 'worst_group')}; {look_up(groups, 'source')}",
    }
    return escape(notes[name])


def _corruption_note(corrupted: Any, kind: str) -> str:
    wanted = look_up(corrupted, kind) or []
    measured = [name for name in wanted if look_up(corrupted, "accuracy", name) is not None]
    part = "" if len(measured) == len(wanted) else f" of {len(wanted)}"
    severities = len(look_up(corrupted, "severities") or [])
    return (
        f"1 - mean accuracy over {len(measured)}{part} corruptions at {severities} severities: "
        f"{', '.join(map(str, measured))}; source: {look_up(corrupted, 'source')}"
    )


def _made(report: Report) -> Markup:
    run = report["run"]
    rows = []
    for name in [*_SECTIONS, *(name for name in report["parts"] if name not in _SECTIONS)]:
        why = status(report, name)
        state = "done" if why is None else _why(why, "td")
        rows.append([name, state, decimal(look_up(report, "parts", name, "seconds"), 1)])
    tables = {
        "Flags of the run": run.get("flags"),
        "Options of the evaluation": report.get("options"),
        "Environment": run.get("environment"),
    }
    return join(
        table(["part", "status", "seconds"], rows, words=2),
        *(
            details(
                title, table(["name", "value"], [_pair(*pair) for pair in items(values)], words=2)
            )
            for title, values in tables.items()
        ),
    )


def _pair(name: str, value: Any) -> list[Markup]:
    return [tag("code", name), tag("code", value)]
