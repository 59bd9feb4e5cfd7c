"""The figures of the report pages.

One set of figures serves one run and many: a panel holds a curve for each method, or for each
quantity of one run. Colours are those that colour-blind readers tell apart; lines differ in marker
and dash as well.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.reporting.report_svg import COLOURS, floats, in_style, short

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")
# In inches; at 96 pixels an inch a figure fills the page.
_WIDTH = 10.4


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a panel; None breaks it.

    Attributes:
      x: places.
      y: heights.
      spread: half the height of a band around it; empty for none.
    """

    x: Sequence[float | None]
    y: Sequence[float | None]
    spread: Sequence[float | None] = ()


def _look(place: int) -> dict[str, Any]:
    """Colour, marker and dash of the line at a place."""
    around = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _DASHES[around % len(_DASHES)],
    }


def _legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """One legend for all panels, above them; none if a single line needs no name."""
    if len(handles) > 1:
        # A letter is about 5 points wide, a handle with its margins about 50.
        widest = 50 + 5 * max(map(len, handles))
        columns = int(72 * figure.get_figwidth() // widest)
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",
            ncols=max(1, min(len(handles), columns)),
        )


def _grid(panels: int, columns: int, height: float) -> tuple[Figure, Any]:
    """A figure with a place for each panel, all with one y axis; places left over are blank."""
    columns = max(1, min(columns, panels))
    rows = max(1, math.ceil(panels / columns))
    width = min(_WIDTH, 4.2 * columns)
    figure = Figure(figsize=(width, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[panels:]:
        axis.set_axis_off()
    return figure, axes


@in_style
def curves(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    xlabel: str,
    ylabel: str,
    columns: int = 3,
    height: float = 2.6,
    unit: bool = False,
    ticks: Sequence[float] | None = None,
) -> Figure:
    """Panels of curves; a name has the same look in every panel.

    Args:
      panels: curves by name, by title of the panel.
      xlabel: below the panels.
      ylabel: at the left.
      columns: panels in a row.
      height: of a panel, in inches.
      unit: whether the y axis runs from 0 to 1; otherwise it holds 0 and every curve.
      ticks: places marked on the x axis; matplotlib's choice if None.

    Returns:
      The figure.
    """
    figure, axes = _grid(len(panels), columns, height)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    handles: dict[str, Any] = {}
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for name, curve in lines.items():
            look = _look(names.index(name))
            x, y = floats(curve.x), floats(curve.y)
            if len(x) > 30:
                look["marker"] = None
            (handles[short(name)],) = axis.plot(x, y, label=short(name), **look)
            if len(curve.spread):
                spread = np.nan_to_num(floats(curve.spread))
                axis.fill_between(x, y - spread, y + spread, color=look["color"], alpha=0.15, lw=0)
        axis.set_title(short(title), loc="left")
        if ticks is not None:
            axis.set_xticks(list(ticks))
    if unit:
        axes[0].set_ylim(0, 1)
    else:
        axes[0].set_ylim(bottom=min(0.0, axes[0].get_ylim()[0]))
    figure.supxlabel(xlabel, size=9)
    figure.supylabel(ylabel, size=9)
    _legend(figure, handles)
    return figure


@in_style
def reliability(panels: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Reliability diagrams side by side, the share of images in each bin below.

    Args:
      panels: bins (`count`, `accuracy`, `confidence`) by name, by title of the panel.

    Returns:
      The figure.
    """
    width = min(_WIDTH, 4.6 * max(len(panels), 1))
    figure = Figure(figsize=(width, 5.4), layout="constrained")
    axes = figure.subplots(
        2, max(len(panels), 1), squeeze=False, sharex=True, height_ratios=(3.2, 1)
    )
    handles: dict[str, Any] = {}
    for (above, below), (title, lines) in zip(axes.T, panels.items(), strict=True):
        above.plot([0, 1], [0, 1], color="#7b8794", linewidth=1, linestyle=(0, (4, 3)))
        for place, (name, bins) in enumerate(lines.items()):
            look = _look(place)
            confidence, accuracy = floats(bins["confidence"]), floats(bins["accuracy"])
            known = np.isfinite(confidence) & np.isfinite(accuracy)
            (handles[short(name)],) = above.plot(confidence[known], accuracy[known], **look)
            if len(lines) == 1:
                above.fill_between(
                    confidence[known],
                    confidence[known],
                    accuracy[known],
                    color=look["color"],
                    alpha=0.15,
                    lw=0,
                )
            count = floats(bins["count"])
            share = count / max(float(np.nansum(count)), 1.0)
            edges = np.linspace(0, 1, len(count) + 1)
            below.stairs(share, edges, color=look["color"], fill=len(lines) == 1, linewidth=1.4)
        above.set_title(short(title), loc="left")
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        below.set_ylim(bottom=0)
        below.set_xlabel("confidence")
    axes[0, 0].set_ylabel("accuracy")
    axes[1, 0].set_ylabel("share of images")
    _legend(figure, handles)
    return figure


@in_style
def histograms(sets: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """Densities of scores inside and outside the distribution: a row a set, a column a score.

    Args:
      sets: histograms (`edges`, `in`, `out`) by score, by set.

    Returns:
      The figure.
    """
    scores = list(dict.fromkeys(score for found in sets.values() for score in found))
    rows, columns = max(len(sets), 1), max(len(scores), 1)
    size = (min(_WIDTH, 3.2 * columns + 0.6), 1.7 * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for place, (name, found) in enumerate(sets.items()):
        line = axes[place]
        for axis, score in zip(line, scores, strict=True):
            axis.set_yticks([])
            axis.tick_params(labelsize=7)
            axis.locator_params(axis="x", nbins=4)
            axis.grid(visible=False)
            if place == 0:
                axis.set_title(short(score), loc="left")
            if score not in found:
                continue
            edges = floats(found[score]["edges"])
            if not np.isfinite(edges).all():  # there was no finite score to count
                continue
            for side, colour, label in (
                ("in", COLOURS[0], "in distribution"),
                ("out", COLOURS[1], "out of distribution"),
            ):
                density = np.nan_to_num(floats(found[score][side]))
                axis.stairs(density, edges, color=colour, fill=True, alpha=0.25)
                handles[label] = axis.stairs(density, edges, color=colour, linewidth=1.3)
        line[0].set_ylabel(short(name), rotation=0, ha="right", va="center")
    _legend(figure, handles)
    return figure


@in_style
def bars(
    labels: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
    *,
    xlabel: str,
    chance: Sequence[float | None] = (),
    spread: Mapping[str, Sequence[float | None]] | None = None,
    line: tuple[str, float] | None = None,
) -> Figure:
    """Horizontal bars of rates, a bar for each name at each label.

    Args:
      labels: what is rated, from the top.
      values: rates by name, one a label; None leaves a bar out.
      xlabel: below.
      chance: what guessing gets, marked by a black tick; none if empty.
      spread: half the length of an error bar, by name.
      line: the name and place of a vertical line.

    Returns:
      The figure.
    """
    each = max(0.24, 0.15 * len(values))
    figure = Figure(figsize=(7.2, 0.9 + (each + 0.12) * max(len(labels), 1)), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(labels), dtype=float)
    thick = 0.8 / max(len(values), 1)
    handles: dict[str, Any] = {}
    lowest = 0.0
    for order, (name, row) in enumerate(values.items()):
        lengths = floats(row)
        y = place - 0.4 + thick * (order + 0.5)
        error = None if spread is None else np.nan_to_num(floats(spread[name]))
        handles[short(name)] = axis.barh(
            y,
            np.nan_to_num(lengths),
            height=thick * 0.9,
            color=COLOURS[order % len(COLOURS)],
            xerr=error,
            error_kw={"elinewidth": 1, "ecolor": "#1c2733"},
        )
        if len(values) == 1:
            for where, length in zip(y, lengths, strict=True):
                text = f"{length:.3f}" if math.isfinite(length) else "-"
                end = max(float(np.nan_to_num(length)), 0.0) + 0.01
                axis.text(end, where, text, va="center", size=8)
        lowest = min(lowest, float(np.nan_to_num(lengths).min(initial=0.0)))
    if len(chance):
        marks = floats(chance)
        handles["chance"] = axis.vlines(marks, place - 0.45, place + 0.45, color="#000", lw=2)
    if line is not None:
        handles[line[0]] = axis.axvline(line[1], color="#44515e", linestyle="--", linewidth=1.2)
    axis.set_yticks(place, labels=[short(label) for label in labels])
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlim(max(lowest, -1.0), 1.08 if len(values) == 1 else 1.0)
    axis.set_xticks([tick for tick in np.linspace(-1, 1, 11) if tick >= max(lowest, -1.0)])
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(xlabel)
    _legend(figure, handles)
    return figure


@in_style
def projection(found: Mapping[str, Any]) -> Figure:
    """Representations in the plane: clean rows, and mixed ones joined to their interpolation.

    Args:
      found: the result of the part.

    Returns:
      The figure; the clean rows are coloured by label.
    """
    figure = Figure(figsize=(8.4, 6.2), layout="constrained")
    axis = figure.subplots()
    clean, mixed, interpolated = (
        floats(found[key]).reshape(-1, 2) for key in ("clean", "mixed", "interpolated")
    )
    label = np.asarray(found["label"])
    # Points are drawn as a picture: thousands of them as SVG would make the page heavy.
    cloud = axis.scatter(
        clean[:, 0], clean[:, 1], c=label, cmap="viridis", s=14, alpha=0.55, lw=0, rasterized=True
    )
    for one, other in zip(mixed, interpolated, strict=True):
        axis.plot(*np.stack([one, other]).T, color="#7b8794", linewidth=0.9, zorder=2)
    pair: dict[str, Any] = {"s": 24, "zorder": 3, "linewidths": 0.5, "edgecolors": "#fff"}
    a = axis.scatter(mixed[:, 0], mixed[:, 1], color=COLOURS[1], marker="o", **pair)
    b = axis.scatter(interpolated[:, 0], interpolated[:, 1], color=COLOURS[0], marker="s", **pair)
    figure.colorbar(cloud, ax=axis, label="label of a clean image", shrink=0.7)
    axis.set_aspect("equal", adjustable="datalim")
    explained = [f" ({100 * share:.0f} %)" for share in floats(found["explained"])]
    axis.set_xlabel("first component" + (explained[0] if explained else ""))
    axis.set_ylabel("second component" + (explained[1] if len(explained) > 1 else ""))
    _legend(
        figure,
        {"representation of a mixed image": a, "mix of the two clean representations": b},
    )
    return figure
