"""The page that sets runs side by side: means over seeds, paired intervals, shared figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reporting.comparability import shared_policies
from experiments.reporting.comparison import CONFIDENCE, Group, compare, grouped
from experiments.reporting.comparison_curves import curves
from experiments.reporting.headline import METRICS, Metric, Report, headline
from experiments.reporting.report_html import Markup, details, join, page, shaded, table, tag


def render_comparison(reports: Sequence[Report], *, baseline: str | None = None) -> str:
    """The page of many runs.

    Args:
      reports: as `experiments.evaluate` writes them.
      baseline: the method the others are compared with; None for the first run's.

    Returns:
      The HTML document; the same reports give the same text.

    Raises:
      ValueError: as `comparison.compare`.
    """
    found = compare(reports, baseline=baseline)
    by_dataset = grouped(reports)
    facts = {
        "runs": len(reports),
        "data sets": ", ".join(map(str, by_dataset)),
        "methods": ", ".join(dict.fromkeys(str(r["run"]["method"]) for r in reports)),
        "baseline": found["baseline"],
    }
    sections = [("comparable", "Are the runs comparable?", _warnings(found["warnings"]))]
    for place, entry in enumerate(found["datasets"]):
        name, groups = str(entry["dataset"]), by_dataset[entry["dataset"]]
        sections += [
            (f"headline-{place}", f"{name}: headline", _headline(entry["groups"])),
            (
                f"differences-{place}",
                f"{name}: differences from {found['baseline']}",
                _differences(entry, found["baseline"]),
            ),
            (f"curves-{place}", f"{name}: curves", curves(groups, place)),
            (f"corruptions-{place}", f"{name}: corruptions", _corruptions(entry["groups"])),
            (f"runs-{place}", f"{name}: every run", _runs(groups)),
        ]
    return page("Robustness of " + facts["methods"], facts, sections, kind="Comparison of runs")


def _warnings(warnings: Sequence[str]) -> Markup:
    if not warnings:
        return tag("p", "Yes: same data, models, steps, weights and options, and no part failed.")
    listed = join(*(tag("li", text) for text in warnings))
    return tag(
        "div",
        join(
            tag("p", tag("strong", "Careful: read this before comparing.")),
            tag("ul", listed),
        ),
        class_="warnings",
        role="alert",
    )


def _headline(groups: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [
        [metric.title, metric.arrow, *(spread(metric, g["metrics"][metric.name]) for g in groups)]
        for metric in METRICS
    ]
    note = "Mean ± standard deviation over seeds (number of seeds); one seed has no deviation."
    return join(
        table(["measure", "better", *(group["label"] for group in groups)], rows, words=2),
        tag("p", note),
    )


def spread(metric: Metric, summary: Mapping[str, Any]) -> str:
    """Mean, standard deviation and number of seeds.

    Args:
      metric: of the headline.
      summary: `mean`, `sd` and `n` as `comparison.compare` gives them.

    Returns:
      The three in a few characters; without the deviation where there is none.

    Example:
      >>> spread(METRICS[0], {"mean": 0.75, "sd": 0.0125, "n": 3})
      '75.00 ± 1.25 (3)'
    """
    if summary["mean"] is None:
        return "-"
    deviation = "" if summary["sd"] is None else f" ± {metric.show(summary['sd'])}"
    return f"{metric.show(summary['mean'])}{deviation} ({summary['n']})"


def _differences(entry: Mapping[str, Any], baseline: str) -> Markup:
    found = {(d["model"], d["method"], d["metric"]): d for d in entry["differences"]}
    others = [
        group
        for group in entry["groups"]
        if (group["model"], group["method"], METRICS[0].name) in found
    ]
    if not others:
        return tag("p", "There is no other method to compare with.", class_="absent")
    rows = [
        [
            metric.title,
            metric.arrow,
            *(_difference(metric, found[g["model"], g["method"], metric.name]) for g in others),
        ]
        for metric in METRICS
    ]
    return join(
        table(["measure", "better", *(group["label"] for group in others)], rows, words=2),
        tag(
            "p",
            f"Method minus {baseline}, mean over the seeds that both have, with the "
            f"{100 * CONFIDENCE:.0f} % t interval of the paired differences (number of pairs; "
            "one seed gives no interval). “better” and “worse” mark intervals that exclude 0. They "
            "are not corrected for the number of measures: of 20 that change nothing, one is "
            "marked on average.",
        ),
    )


def _difference(metric: Metric, found: Mapping[str, Any]) -> Markup:
    if found["n"] == 0:
        return tag("td", "not measured", class_="absent")
    shown = metric.show(found["difference"], sign=True)
    if found["n"] == 1:
        return tag("td", f"{shown} (one seed)", class_="n")
    interval = f"[{metric.show(found['low'], sign=True)}, {metric.show(found['high'], sign=True)}]"
    verdict = found["verdict"]
    text = f"{shown} {interval} ({found['n']})"
    if verdict == "unclear":
        return tag("td", text, class_="n")
    return tag("td", join(tag("strong", verdict), text), class_=f"n {verdict}")


def _corruptions(groups: Sequence[Mapping[str, Any]]) -> Markup:
    names = list(dict.fromkeys(name for group in groups for name in group["corruptions"]))
    if not names:
        return tag("p", "not measured", class_="absent")
    rows = [[name, *(shaded(g["corruptions"].get(name)) for g in groups)] for name in names]
    errors = [group["metrics"]["mce"]["mean"] for group in groups]
    rows.append(
        ["mean over the benchmark", *(shaded(None if e is None else 1 - e) for e in errors)]
    )
    caption = (
        "Accuracy in %, mean over severities and seeds: darker is better; good is a column without "
        "light cells."
    )
    body = table(["corruption", *(group["label"] for group in groups)], rows)
    return tag("figure", join(body, tag("figcaption", caption)))


def _runs(groups: Sequence[Group]) -> Markup:
    rows = []
    policies = shared_policies([run for group in groups for run in group.runs.values()])
    for group in groups:
        for seed, report in group.runs.items():
            run, values = report["run"], headline(report, policies=policies)
            facts = [run["name"], group.method, group.model, run.get("weights", "-")]
            rows.append(
                [*facts, seed, run.get("step", "-")]
                + [metric.show(values[metric.name]) for metric in METRICS]
            )
    head = ["run", "method", "model", "weights", "seed", "steps"]
    numbers = table([*head, *(metric.title for metric in METRICS)], rows, words=4)
    return details(f"The headline of {len(rows)} runs", numbers)
