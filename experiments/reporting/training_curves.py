"""The curves of one run as a picture: `WORKDIR/curves.png`, drawn from its metrics.jsonl."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import records
from experiments.reporting.report_svg import COLOURS, floats, in_style, short

NAME = "curves.png"
# Panels by title; in each the metrics that are drawn, with the name of their line. A metric that a
# run did not measure is left out, and a panel without any too.
_PANELS: dict[str, dict[str, str]] = {
    "loss": {
        "loss": "training, all terms",
        "validation_nll": "validation, cross-entropy",
        "test_nll": "test, cross-entropy",
    },
    "accuracy": {
        "accuracy": "training rows as trained on",
        "clean_accuracy": "training rows before mixing",
        "validation_accuracy": "validation",
        "test_accuracy": "test",
    },
    "gap between representations": {"gap": "gap"},
    "learning rate": {"learning_rate": "learning rate"},
}
# The same split has the same colour in every panel.
_COLOURS = {
    "validation_nll": COLOURS[2],
    "validation_accuracy": COLOURS[2],
    "test_nll": COLOURS[1],
    "test_accuracy": COLOURS[1],
    "clean_accuracy": COLOURS[5],
}
_FEW = 30  # points of a line that are marked


def write(workdir: str | os.PathLike[str]) -> Path | None:
    """Draws the curves of a run into its directory.

    Args:
      workdir: directory of the run, with its metrics.jsonl.

    Returns:
      The picture; None where nothing was measured.

    Raises:
      OSError: it cannot be written, or the metrics cannot be read.
      ValueError: metrics.jsonl is damaged.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as workdir:
      ...     with records.MetricsLog(workdir, resume_step=None) as log:
      ...         log.write(10, {"loss": 0.5})
      ...     write(workdir).name
      'curves.png'
    """
    lines = records.read_metrics(workdir)
    if not lines or not (panels := _panels(lines)):
        return None
    content = io.BytesIO()
    # No version of matplotlib in it: the same metrics give the same picture.
    _drawn(panels, Path(workdir).resolve().name).savefig(
        content, format="png", dpi=110, facecolor="white", metadata={"Software": None}
    )
    path = Path(workdir) / NAME
    records.write_atomically(path, content.getvalue())
    return path


def _panels(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lines of each panel: steps and values by metric."""
    found: dict[str, dict[str, Any]] = {}
    for title, metrics in _PANELS.items():
        for metric in metrics:
            points = [(line["step"], line[metric]) for line in lines if metric in line]
            if any(value is not None for _, value in points):
                found.setdefault(title, {})[metric] = floats(points).T
    return found


@in_style
def _drawn(panels: Mapping[str, Mapping[str, Any]], name: str) -> Figure:
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns, 2.9 * rows), layout="constrained")
    figure.suptitle(short(name), x=0.01, ha="left", fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for metric, (steps, values) in curves.items():
            axis.plot(
                steps,
                values,
                color=_COLOURS.get(metric, COLOURS[0]),
                marker="o" if len(steps) <= _FEW else None,
                label=_PANELS[title][metric],
            )
        axis.set_title(title, loc="left")
        axis.set_xlabel("step")
        axis.set_xlim(left=0)
        if len(curves) > 1:
            axis.legend(fontsize=8)
        if title == "accuracy":
            # From the lowest on: near 1 little things matter. The line at 1 is not cut.
            axis.set_ylim(max(0.0, axis.get_ylim()[0]), 1.02)
        elif all(np.nanmin(values) >= 0 for _, values in curves.values()):
            axis.set_ylim(bottom=0)
    return figure
