"""Differences from the reference as points with intervals: in each measure, at each corruption."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.reporting.headline import Metric
from experiments.reporting.report_svg import floats, in_style, short
from experiments.studying import looks, measures, tables
from experiments.studying.looks import Picture
from experiments.studying.measures import Block, Row
from experiments.studying.plan import Study
from experiments.studying.statistics import Difference, difference

_FOREST = ("accuracy", "mce", "probe_score", "worst_group", "nll", "ece")
# Longer than elsewhere: names stand below each other.
_LABEL = 44
# A difference so many times that of the nearer three quarters is written, not drawn.
_FAR, _USUAL = 3.0, 0.75


def corruptions(study: Study, blocks: Sequence[Block]) -> Picture | None:
    """The difference from the reference at each corruption, for a few methods.

    Args:
      study: the plan; its `shown` names the methods.
      blocks: a row of panels each.

    Returns:
      The picture; None if no method can be compared with the reference.
    """
    chosen = [name for name in study.shown or study.methods if name != study.reference]
    panels: list[tuple[str, dict[str, list[str]], list[tuple[str, int, list[Difference]]]]] = []
    for block in blocks:
        kinds = measures.corruptions(block)
        names = [name for listed in kinds.values() for name in listed]
        rows = {row.method: row for row in block.others if row.runs}
        found = [
            (row.method, row.place, [_error_difference(block, row, name) for name in names])
            for row in (rows[name] for name in chosen if name in rows)
        ]
        found = [one for one in found if any(d.mean is not None for d in one[2])]
        if found:
            panels.append((block.title, kinds, found[: looks.MOST_PANELS]))
    if not panels:
        return None
    return Picture(
        _corruptions(panels, study.reference),
        f"Difference in accuracy from {study.reference} at each corruption, a panel per method",
        f"Method minus {tables.escaped(study.reference)}, mean over severities and paired seeds, "
        "with 95 % t intervals that are not corrected for their number: right of zero is better.",
    )


def _error_difference(block: Block, row: Row, name: str) -> Difference:
    """Of accuracies in percentage points: more is better."""
    mine, theirs = (
        {seed: -100 * value for seed, value in measures.error(one, [name]).items()}
        for one in (row, block.reference_row)
    )
    return difference(mine, theirs)


@in_style
def _corruptions(
    panels: Sequence[tuple[str, dict[str, list[str]], list[tuple[str, int, list[Difference]]]]],
    reference: str,
) -> Figure:
    columns = max(len(found) for _, _, found in panels)
    counts = [sum(map(len, kinds.values())) for _, kinds, _ in panels]
    heights = [0.2 * count + 0.8 for count in counts]
    figure = Figure(figsize=(looks.WIDTH, sum(heights) + 0.4), layout="constrained")
    grid = figure.add_gridspec(len(panels), columns, height_ratios=heights)
    for line, (title, kinds, found) in enumerate(panels):
        names = [name.replace("_", " ") for listed in kinds.values() for name in listed]
        first: Any = None
        for column, (method, place, points) in enumerate(found):
            axis = figure.add_subplot(grid[line, column], sharex=first, sharey=first)
            first = first or axis
            axis.axvline(0, color=looks.GREY, linewidth=1, zorder=1)
            _intervals(axis, points, np.arange(len(names)), looks.of_method(place))
            start = 0.0
            for order, listed in enumerate(kinds.values()):
                if order % 2 == 0:
                    ends = (start - 0.5, start + len(listed) - 0.5)
                    axis.axhspan(*ends, color="#f3f5f7", zorder=0)
                start += len(listed)
            axis.set_title(
                f"{title}\n{short(method)}" if column == 0 else short(method), loc="left"
            )
            axis.tick_params(labelleft=column == 0)
        first.set_yticks(np.arange(len(names)), labels=names)
        first.set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"accuracy minus that of {short(reference)}, percentage points →", size=9)
    return figure


def differences(study: Study, blocks: Sequence[Block]) -> Picture | None:
    """The differences from the reference in a few measures, as a forest plot.

    Args:
      study: the plan.
      blocks: a row of panels each.

    Returns:
      The picture; None if no method can be compared with the reference.
    """
    panels = []
    for block in blocks:
        found = tables.differences(block)
        for name in _FOREST:
            points = {
                row.method: found[row.method, name]
                for row in block.others
                if (row.method, name) in found
            }
            known = any(one.mean is not None for one in points.values())
            panels.append((block, measures.by_name(name), points if known else {}))
    shown = [name for name in _FOREST if any(points for _, m, points in panels if m.name == name)]
    if not shown:
        return None
    labels = ", ".join(measures.by_name(name).label for name in shown)
    return Picture(
        _differences([panel for panel in panels if panel[1].name in shown], len(shown), study),
        f"Differences from {study.reference} in {labels}",
        f"Method minus {tables.escaped(study.reference)}, mean over paired seeds with 95 % t "
        "intervals. Filled: significant at 0.05 after Holm's correction over the table of "
        "differences; hollow: not. The arrow shows which side is better. What lies far outside is "
        "written at the edge.",
    )


@in_style
def _differences(
    panels: Sequence[tuple[Block, Metric, Mapping[str, Difference]]], columns: int, study: Study
) -> Figure:
    lines = len(panels) // columns
    methods = [name for name in study.methods if name != study.reference]
    height = lines * (0.24 * len(methods) + 0.9)
    figure = Figure(figsize=(looks.WIDTH, height + 0.1), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex="col")
    places = measures.by_look(study)
    reach = {
        name: _reach([points for _, metric, points in panels if metric.name == name])
        for name in {metric.name for _, metric, _ in panels}
    }
    for axis, (block, metric, points) in zip(axes.ravel(), panels, strict=True):
        scale = 100 if metric.percent else 1
        edge = scale * reach[metric.name]
        for order, method in enumerate(methods):
            if method not in points:
                continue
            one = _scaled(points[method], scale)
            if one.mean is not None and abs(one.mean) > edge:
                side = "right" if one.mean > 0 else "left"
                arrow = f"{one.mean:+.3g} →" if side == "right" else f"← {one.mean:+.3g}"
                place = (math.copysign(edge, one.mean), order)
                axis.annotate(arrow, place, ha=side, va="center", size=8, color=looks.INK)
                continue
            look = looks.of_method(places.index(method))
            hollow = not points[method].significant
            _intervals(axis, [one], np.asarray([order]), look, hollow=hollow)
        if math.isfinite(edge):
            axis.set_xlim(-1.05 * edge, 1.05 * edge)
        axis.axvline(0, color=looks.GREY, linewidth=1, zorder=1)
        if metric is panels[0][1]:
            axis.set_title(block.title, loc="left")
        unit = "points" if metric.percent else ""
        arrow = "→" if metric.better == "higher" else "←"
        axis.set_xlabel(f"{metric.label}{', ' if unit else ''}{unit} {arrow}")
    axes[0, 0].set_yticks(
        np.arange(len(methods)), labels=[short(name, longest=_LABEL) for name in methods]
    )
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


def _reach(panels: Sequence[Mapping[str, Difference]]) -> float:
    """How far from zero differences are drawn; infinite unless a few would squash the others."""
    found = sorted(
        abs(one.mean) for points in panels for one in points.values() if one.mean is not None
    )
    if not found:
        return math.inf
    most = _FAR * found[int(_USUAL * (len(found) - 1))]
    return most if 0 < most < found[-1] else math.inf


def _scaled(one: Difference, scale: float) -> Difference:
    mean, low, high = (
        None if end is None else scale * end for end in (one.mean, one.low, one.high)
    )
    return dataclasses.replace(one, mean=mean, low=low, high=high)


def _intervals(
    axis: Any,
    points: Sequence[Difference],
    y: np.ndarray,
    look: Mapping[str, Any],
    *,
    hollow: bool = False,
) -> None:
    """Points with the intervals that they have."""
    mean, low, high = (
        floats([getattr(one, name) for one in points]) for name in ("mean", "low", "high")
    )
    axis.hlines(y, low, high, color=look["color"], linewidth=1.6, zorder=2)
    face = "white" if hollow else look["color"]
    axis.plot(
        mean, y, **{**look, "linestyle": "none", "markersize": 5}, markerfacecolor=face, zorder=3
    )
