"""The figures of a comparison: the mean over seeds of each method, all methods in one figure."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.reporting import report_plots as plots
from experiments.reporting.comparability import Group
from experiments.reporting.headline import GAP_LAYER, Report, items, look_up, mean, result
from experiments.reporting.report_html import Markup, attempt, figure, join, tag
from experiments.reporting.report_plots import Curve
from experiments.reporting.report_sections import benchmark_mean
from experiments.reporting.report_svg import floats, svg

Heights = Callable[[Any], Any]
Panels = dict[str, dict[str, Curve]]


def mean_curve(reports: Sequence[Report], part: str, x: Heights, y: Heights) -> Curve | None:
    """The mean over seeds of a curve, with its standard deviation.

    Args:
      reports: the runs of one method.
      part: the part of the report.
      x: finds the places in its result.
      y: finds the heights.

    Returns:
      The curve over the runs that measured the first one's places; None if none did. A place that
      one of them lacks is left out: the mean of the others would be another quantity.
    """
    results = [found for r in reports if (found := result(r, part)) is not None]
    pairs = [(x(found), y(found)) for found in results]
    pairs = [(a, b) for a, b in pairs if a and b and len(a) == len(b)]
    if not pairs:
        return None
    place = pairs[0][0]
    heights = np.stack([floats(b) for a, b in pairs if a == place])
    deviation = heights.std(0, ddof=1).tolist() if len(heights) > 1 else ()
    return Curve(place, heights.mean(0).tolist(), deviation)


def _at(*path: Any) -> Heights:
    return lambda found: look_up(found, *path)


def _panels(
    groups: Sequence[Group], part: str, x: Heights, wanted: Mapping[str, Heights]
) -> Panels:
    """A panel for each curve wanted, in it one for each method that has it."""
    panels: Panels = {}
    for title, y in wanted.items():
        drawn = {g.label: mean_curve(list(g.runs.values()), part, x, y) for g in groups}
        lines = {label: curve for label, curve in drawn.items() if curve is not None}
        if lines:
            panels[title] = lines
    return panels


def _names(groups: Sequence[Group], part: str, *path: Any) -> list[str]:
    """The keys that any run has at a path of a part's result, in the order of first sight."""
    runs = [report for group in groups for report in group.runs.values()]
    return list(dict.fromkeys(k for r in runs for k, _ in items(look_up(result(r, part), *path))))


def curves(groups: Sequence[Group], place: int) -> Markup:
    """The figures of one data set, a line or bar for each method.

    Args:
      groups: the runs of each method.
      place: of the data set on the page; tells its figures from another's.

    Returns:
      The HTML.
    """
    drawings: Sequence[Callable[[Sequence[Group], int], Markup]] = (
        _reliability,
        _severity,
        _attacks,
        _gaps,
        _probes,
    )
    return join(*(attempt(functools.partial(draw, groups, place)) for draw in drawings))


def _titled(title: str, picture: Any) -> Markup:
    return join(tag("h3", title), picture or tag("p", "not measured", class_="absent"))


def _reliability(groups: Sequence[Group], place: int) -> Markup:
    panels = {}
    for title, key in (("as trained", "bins"), ("temperature-scaled", "calibrated_bins")):
        pooled = {g.label: pooled_bins(list(g.runs.values()), key) for g in groups}
        if lines := {label: bins for label, bins in pooled.items() if bins is not None}:
            panels[title] = lines
    picture = panels and figure(
        svg(plots.reliability(panels), f"reliability-{place}", "Reliability diagrams"),
        "Good is a line on the dashed diagonal; below it a model is overconfident. The bins of all "
        "seeds are pooled.",
    )
    return _titled("Reliability", picture)


def pooled_bins(reports: Sequence[Report], key: str) -> dict[str, Any] | None:
    """Reliability bins of all seeds together.

    Args:
      reports: the runs of one method.
      key: of the bins in the part "clean".

    Returns:
      `count`, `accuracy` and `confidence`, NaN in bins that are empty; None if no run has bins.
    """
    found = [bins for r in reports if (bins := look_up(result(r, "clean"), key)) is not None]
    if not found:
        return None
    count = np.stack([floats(bins["count"]) for bins in found])
    total = count.sum(0)
    pooled: dict[str, Any] = {"count": total.tolist()}
    for name in ("accuracy", "confidence"):
        sums = (count * np.nan_to_num(np.stack([floats(bins[name]) for bins in found]))).sum(0)
        pooled[name] = np.where(total > 0, sums / np.maximum(total, 1), np.nan).tolist()
    return pooled


def _severity(groups: Sequence[Group], place: int) -> Markup:
    severities = _at("severities")
    names = _names(groups, "corruptions", "accuracy")
    means: dict[str, Heights] = {
        "mean accuracy": functools.partial(benchmark_mean, key="accuracy"),
        "mean ECE": functools.partial(benchmark_mean, key="ece"),
    }
    each = {name: _at("accuracy", name) for name in names}
    pictures = []
    for name, wanted, ylabel, columns, height in (
        ("mean-severity", means, "rate", 2, 2.6),
        ("severity", each, "accuracy", 5, 1.75),
    ):
        panels = _panels(groups, "corruptions", severities, wanted)
        if not panels:
            continue
        ticks = {x for lines in panels.values() for curve in lines.values() for x in known(curve.x)}
        drawn = plots.curves(
            panels,
            xlabel="severity",
            ylabel=ylabel,
            columns=columns,
            height=height,
            unit=True,
            ticks=sorted(ticks),
        )
        caption = "Means over the benchmark corruptions: good is a high accuracy and a low ECE"
        if wanted is each:
            caption = "Good is a line that stays high"
        pictures.append(
            figure(
                svg(drawn, f"{name}-{place}", "Rates against severity"),
                f"{caption}; the band is one standard deviation over seeds.",
            )
        )
    return _titled("Corruptions, by severity", pictures and join(*pictures))


def _attacks(groups: Sequence[Group], place: int) -> Markup:
    def sizes(found: Any) -> list[float]:
        return [0.0, *(255 * floats(look_up(found, "epsilons") or []))]

    def accuracy(key: str) -> Heights:
        # The clean accuracy is the one at no perturbation.
        return lambda found: [look_up(found, "clean_accuracy"), *(look_up(found, key) or [])]

    panels = _panels(groups, "attacks", sizes, {"FGSM": accuracy("fgsm"), "PGD": accuracy("pgd")})
    picture = panels and figure(
        svg(
            plots.curves(
                panels,
                xlabel="ε in steps of a pixel, of 255",
                ylabel="accuracy",
                columns=2,
                unit=True,
            ),
            f"attacks-{place}",
            "Accuracy against the size of the perturbation",
        ),
        "Good is a line that stays high; the band is one standard deviation over seeds.",
    )
    return _titled("Adversarial attacks", picture)


def _gaps(groups: Sequence[Group], place: int) -> Markup:
    pictures = []
    for key, label in (("gap", "gap"), ("normalised_gap", "normalised gap")):
        wanted = {
            policy: _at("policies", policy, "layers", GAP_LAYER, key)
            for policy in _names(groups, "equivariance", "policies")
        }
        if panels := _panels(groups, "equivariance", _at("weight"), wanted):
            free = "free of scale" if key == "normalised_gap" else "raw: depends on the scale"
            pictures.append(
                figure(
                    svg(
                        plots.curves(panels, xlabel="weight of the first image", ylabel=label),
                        f"{key.replace('_', '-')}-{place}",
                        f"{label} against the weight",
                    ),
                    f"Good is low: the representation of a mix is the mix of representations "
                    f"({free}).",
                )
            )
    return _titled("Gap against the weight", pictures and join(*pictures))


def _probes(groups: Sequence[Group], place: int) -> Markup:
    names = _names(groups, "probes", "factors")
    scores = {
        group.label: [
            [look_up(result(r, "probes"), "factors", name, "score") for r in group.runs.values()]
            for name in names
        ]
        for group in groups
    }
    runs = [report for group in groups for report in group.runs.values()]
    chance = [
        next(
            (
                value
                for r in runs
                if (value := look_up(result(r, "probes"), "factors", name, "chance")) is not None
            ),
            None,
        )
        for name in names
    ]
    picture = names and figure(
        svg(
            plots.bars(
                names,
                {label: [mean(known(row)) for row in rows] for label, rows in scores.items()},
                xlabel="score (accuracy or R²)",
                chance=chance,
                spread={label: [_sd(row) for row in rows] for label, rows in scores.items()},
            ),
            f"probes-{place}",
            "Scores of linear probes",
        ),
        "Good is a long bar; the black mark is what guessing gets, the thin line one standard "
        "deviation over seeds.",
    )
    return _titled("Probes of label-independent factors", picture)


def known(values: Sequence[Any]) -> list[Any]:
    """What is not missing.

    Args:
      values: numbers and Nones.

    Returns:
      The numbers.
    """
    return [value for value in values if value is not None]


def _sd(values: Sequence[Any]) -> float | None:
    found = known(values)
    return float(np.std(found, ddof=1)) if len(found) > 1 else None
