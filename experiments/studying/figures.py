"""The figures of a study.

A method has the same colour and marker in all of them. A row of panels, or a panel, belongs to one
budget. What was not measured is not drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.reporting.headline import look_up
from experiments.reporting.report_svg import COLOURS, in_style, short
from experiments.studying import intervals, looks, measures
from experiments.studying.looks import Picture
from experiments.studying.measures import Block, Row
from experiments.studying.plan import Study
from experiments.studying.statistics import spread

_MOST_LINES = 10


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
        "differences.png": intervals.differences,
        "corruptions.png": intervals.corruptions,
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
    said = ""
    if max(map(len, panels.values())) > _MOST_LINES and study.shown:
        few = {measures.by_look(study).index(name) for name in (study.reference, *study.shown)}
        panels = {
            title: [line for line in lines if any(place in few for _, place, _ in line)]
            for title, lines in panels.items()
        }
        drawn = max(sum(map(len, lines)) for lines in panels.values())
        said = f" {drawn} of the {len(study.methods)} methods are shown."
    return Picture(
        _trade_off(panels, measures.by_look(study)),
        "Accuracy on clean images against accuracy on corrupted images, a point per method",
        "Mean over seeds, bars of one standard deviation: the upper right corner is best. A line "
        f"joins methods that differ in `--sem_weight` only; the numbers are that weight.{said}",
    )


def _point(row: Row) -> list[Any] | None:
    """Clean accuracy and accuracy under corruption as spreads of percentages."""
    clean, corrupted = (
        spread(100 * sign * value + 100 * (sign < 0) for value in found.values())
        for sign, found in (
            (1, measures.values(row, measures.by_name("accuracy"))),
            (-1, measures.values(row, measures.by_name("mce"))),
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
    held_out = any(
        look_up(run, "curve", "rows") == "validation"
        for block in blocks
        for row in block.rows
        for run in row.runs.values()
    )
    looked_at = "validation" if held_out else study.split
    for block in blocks:
        by_rows = block.budget == "rows"
        for key, ylabel in (
            ("normalised_gap", "normalised gap ↓"),
            ("accuracy", f"accuracy on {looked_at} rows, % ↑"),
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
        of = f"that of mixup on the {looked_at} rows, whatever the method"
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
            panels = dict(list(panels.items())[: looks.MOST_PANELS])
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
    columns = len(panels) if len(panels) < looks.MOST_PANELS else 2
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
