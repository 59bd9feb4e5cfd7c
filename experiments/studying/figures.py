"""The figures of a study.

A method has the same colour and marker in all of them. A row of panels, or a panel, belongs to one
budget. What was not measured is not drawn.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.reporting.headline import Metric
from experiments.reporting.report_svg import COLOURS, floats, in_style, short
from experiments.studying import looks, measures, tables
from experiments.studying.looks import Picture
from experiments.studying.measures import Block, Row
from experiments.studying.plan import Study
from experiments.studying.statistics import Difference, difference, spread

_MOST_PANELS = 4
_MOST_LINES = 10
_FOREST = ("accuracy", "mce", "nll", "ece")


def draw(study: Study, blocks: Sequence[Block]) -> dict[str, Picture]:
    """Draws what the results have data for.

    Args:
      study: the plan.
      blocks: of the results, as `measures.blocks` sorts them.

    Returns:
      Pictures by the name of their file.
    """
    makers: Mapping[str, Callable[[Study, Sequence[Block]], Picture | None]] = {
        "trade_off.png": trade_off,
        "differences.png": differences,
        "corruptions.png": corruptions,
        "gap.png": gap,
        "projection.png": projection,
    }
    found = {name: make(study, blocks) for name, make in makers.items()}
    return {name: picture for name, picture in found.items() if picture is not None}


def trade_off(study: Study, blocks: Sequence[Block]) -> Picture | None:
    """Accuracy on clean images against accuracy on corrupted ones.

    Args:
      study: the plan.
      blocks: a panel each.

    Returns:
      The picture; None if no run measured both.
    """
    panels = {
        block.title: [
            [(weight, row.place, point) for weight, row in line if (point := _point(row))]
            for line in measures.series(block)
        ]
        for block in blocks
    }
    if not any(line for lines in panels.values() for line in lines):
        return None
    return Picture(
        _trade_off(panels, measures.by_look(study)),
        "Accuracy on clean images against accuracy on corrupted images, a point per method",
        "Mean over seeds, bars of one standard deviation: the upper right corner is best. A line "
        "joins methods that differ in `--sem_weight` only; the numbers are that weight.",
    )


def _point(row: Row) -> list[Any] | None:
    """Clean accuracy and accuracy under corruption as spreads of percentages."""
    clean, corrupted = (
        spread(100 * sign * value + 100 * (sign < 0) for value in found.values())
        for sign, found in (
            (1, measures.values(row, _metric("accuracy"))),
            (-1, measures.values(row, _metric("mce"))),
        )
    )
    return None if clean.mean is None or corrupted.mean is None else [clean, corrupted]


@in_style
def _trade_off(
    panels: Mapping[str, Sequence[Sequence[tuple[float, int, Any]]]], names: Sequence[str]
) -> Figure:
    # A series may have fewer points in one panel than in another: named in each by its own.
    labels = {_label(line, names) for lines in panels.values() for line in lines if line}
    height = 4.8 + looks.legend_height(labels)
    figure = Figure(figsize=(looks.WIDTH, height), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    handles: dict[str, Any] = {}
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for line in filter(None, lines):
            first, name = min(place for _, place, _ in line), _label(line, names)
            look = looks.of_method(first) | {"linestyle": "-", "linewidth": 1.1, "markersize": 6.5}
            clean, corrupted = zip(*(point for _, _, point in line), strict=True)
            x, y = ([one.mean for one in found] for found in (clean, corrupted))
            error = [[one.sd or 0.0 for one in found] for found in (clean, corrupted)]
            axis.errorbar(
                x, y, xerr=error[0], yerr=error[1], fmt="none", ecolor=look["color"], alpha=0.45
            )
            (handles[name],) = axis.plot(x, y, **look)
            if len(line) > 1:
                for (weight, _, _), *place in zip(line, x, y, strict=True):
                    axis.annotate(
                        f"{weight:g}",
                        place,
                        xytext=(6, 6),
                        textcoords="offset points",
                        color=look["color"],
                        size=8,
                        path_effects=[withStroke(linewidth=2, foreground="white")],
                        zorder=1.5,  # the white around it must not hide another point
                    )
        axis.set_title(title, loc="left")
        axis.set_xlabel("accuracy on clean images, % →")
        axis.margins(0.12)
    axes[0].set_ylabel("accuracy on corrupted images, % →")
    looks.add_legend(figure, handles)
    return figure


def _label(line: Sequence[tuple[float, int, Any]], names: Sequence[str]) -> str:
    """What a series is called: its method, or those of the least and the largest weight."""
    first, last = line[0][1], line[-1][1]
    return short(names[first]) + ("" if first == last else f" … {short(names[last])}")


def gap(study: Study, blocks: Sequence[Block]) -> Picture | None:
    """The gap and the accuracy while training.

    Args:
      study: the plan.
      blocks: a row of two panels each.

    Returns:
      The picture; None if no run with a gap was recorded.
    """
    panels: dict[tuple[str, str, str], dict[int, Any]] = {}
    methods = list(study.methods)
    left_out = len(methods) > _MOST_LINES
    if left_out:
        methods = list(study.shown) or methods[:_MOST_LINES]
    for block in blocks:
        by_rows = block.budget == "rows"
        for key, ylabel in (
            ("normalised_gap", "normalised gap ↓"),
            ("accuracy", f"accuracy on {study.split} rows, % ↑"),
        ):
            rows = [row for row in block.rows if row.method in methods]
            curves = {row.place: _curve(row, key, by_rows=by_rows) for row in rows}
            xlabel = "forwarded rows, thousands" if by_rows else "step"
            panels[block.title, xlabel, ylabel] = {
                place: curve for place, curve in curves.items() if curve is not None
            }
    if not any(lines for (_, _, label), lines in panels.items() if label.startswith("normalised")):
        return None
    of = "the one that training measures, on the method's own mixes, where it does"
    if study.train.get("eval_gap"):
        of = f"that of mixup on the {study.split} rows, whatever the method"
    some = f" {len(methods)} of the {len(study.methods)} methods are shown." if left_out else ""
    return Picture(
        _curves(panels, measures.by_look(study)),
        "The normalised gap and the accuracy over training, a line per method",
        f"Mean over seeds, with a band of one standard deviation. The gap is {of}.{some}",
    )


def _curve(row: Row, key: str, *, by_rows: bool) -> Any:
    """Places, means and deviations at the steps at which every seed has a number."""
    scale = 100 if key == "accuracy" else 1
    read = (measures.curve(run, key) for run in row.runs.values())
    found = [{step: scale * y for step, y in curve.items()} for curve in read if curve]
    shared = sorted(set.intersection(*map(set, found))) if found else []
    if not shared:
        return None
    at = [spread(curve[step] for curve in found) for step in shared]
    x = np.asarray(shared, float) * (row.rows_per_step / 1000 if by_rows else 1)
    return x, np.asarray([one.mean for one in at]), np.asarray([one.sd or 0.0 for one in at])


@in_style
def _curves(
    panels: Mapping[tuple[str, str, str], Mapping[int, Any]], names: Sequence[str]
) -> Figure:
    rows = len(panels) // 2
    drawn = {place for lines in panels.values() for place in lines}
    height = 3.4 * rows + 0.2 + looks.legend_height({short(names[place]) for place in drawn})
    figure = Figure(figsize=(looks.WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, ((title, xlabel, ylabel), lines) in zip(axes, panels.items(), strict=True):
        for place, (x, y, deviation) in lines.items():
            look = looks.of_method(place)
            (handles[short(names[place])],) = axis.plot(x, y, **look)
            axis.fill_between(
                x, y - deviation, y + deviation, color=look["color"], alpha=0.13, lw=0
            )
        axis.set_title(title, loc="left")
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        axis.set_xlim(left=0)
        if ylabel.startswith("normalised"):
            axis.set_ylim(bottom=0)
    # Not in the order of the first panel, which lacks methods without a gap.
    looks.add_legend(figure, {short(n): handles[short(n)] for n in names if short(n) in handles})
    return figure


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
        found = [one for one in found if any(d.mean is not None for d in one[2])][:_MOST_PANELS]
        if found:
            panels.append((block.title, kinds, found))
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
            panels.append((block, _metric(name), points if known else {}))
    shown = [name for name in _FOREST if any(points for _, m, points in panels if m.name == name)]
    if not shown:
        return None
    return Picture(
        _differences([panel for panel in panels if panel[1].name in shown], len(shown), study),
        f"Differences from {study.reference} in " + ", ".join(_metric(n).label for n in shown),
        f"Method minus {tables.escaped(study.reference)}, mean over paired seeds with 95 % t "
        "intervals. Filled: significant at 0.05 after Holm's correction over the table of "
        "differences; hollow: not. The arrow shows which side is better.",
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
    for axis, (block, metric, points) in zip(axes.ravel(), panels, strict=True):
        scale = 100 if metric.percent else 1
        for order, method in enumerate(methods):
            if method in points:
                _intervals(
                    axis,
                    [_scaled(points[method], scale)],
                    np.asarray([order]),
                    looks.of_method(places.index(method)),
                    hollow=not points[method].significant,
                )
        axis.axvline(0, color=looks.GREY, linewidth=1, zorder=1)
        if metric is panels[0][1]:
            axis.set_title(block.title, loc="left")
        unit = "points" if metric.percent else ""
        arrow = "→" if metric.better == "higher" else "←"
        axis.set_xlabel(f"{metric.label}{', ' if unit else ''}{unit} {arrow}")
    axes[0, 0].set_yticks(np.arange(len(methods)), labels=[short(name) for name in methods])
    axes[0, 0].set_ylim(len(methods) - 0.5, -0.5)
    return figure


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


def projection(study: Study, blocks: Sequence[Block]) -> Picture | None:
    """Clean and mixed representations in the plane, for a few methods.

    Args:
      study: the plan; its `shown` names the methods.
      blocks: the first that has projections is drawn.

    Returns:
      The picture; None if no run was projected.
    """
    for block in blocks:
        rows = {row.method: row for row in block.rows}
        found = [(name, _projected(rows[name])) for name in study.shown or study.methods]
        panels = {name: one for name, one in found if one is not None}
        if panels:
            panels = dict(list(panels.items())[:_MOST_PANELS])
            return Picture(
                _projection(panels),
                "Representations of clean and mixed images in the plane, a panel per method",
                f"{block.title}; one seed; the two principal components of each method's own clean "
                "representations. A line joins the representation of a mixed image to the mix of "
                "the two clean representations: the shorter the lines, the smaller the gap.",
            )
    return None


def _projected(row: Row) -> dict[str, np.ndarray] | None:
    found = (measures.projection(row.runs[seed]) for seed in sorted(row.runs))
    return next((one for one in found if one is not None), None)


@in_style
def _projection(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    columns = len(panels) if len(panels) < _MOST_PANELS else 2
    lines = -(-len(panels) // columns)
    side = looks.WIDTH / max(columns, 2)
    figure = Figure(figsize=(looks.WIDTH, lines * 0.9 * side + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axis, (method, found) in zip(axes, panels.items(), strict=True):
        clean, mixed, interpolated = (found[key] for key in ("clean", "mixed", "interpolated"))
        handles["clean image, coloured by label"] = axis.scatter(
            *clean.T, c=found["label"], cmap="viridis", s=9, alpha=0.35, linewidths=0
        )
        for pair in zip(interpolated, mixed, strict=True):
            axis.plot(*np.stack(pair).T, color=looks.INK, linewidth=0.8, zorder=2)
        for name, points, place in (
            ("representation of a mixed image", mixed, 1),
            ("mix of the two clean representations", interpolated, 0),
        ):
            handles[name] = axis.scatter(
                *points.T,
                color=COLOURS[place],
                marker=looks.MARKERS[place],
                s=20,
                zorder=3,
                linewidths=0.5,
                edgecolors="#fff",
            )
        axis.set_title(short(method), loc="left")
        axis.set_aspect("equal", adjustable="datalim")
        first, second = found["explained"]
        axis.set_xlabel(f"first component ({100 * first:.0f} %)")
        axis.set_ylabel(f"second component ({100 * second:.0f} %)")
    looks.add_legend(figure, handles)
    return figure


def _metric(name: str) -> Metric:
    return next(metric for metric in measures.MEASURES if metric.name == name)
