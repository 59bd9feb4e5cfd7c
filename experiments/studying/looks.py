"""How the figures of a study look: size, colours, markers, legends, and the file they become."""

import dataclasses
import io
from collections.abc import Collection, Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.reporting.report_svg import COLOURS, in_style

# Inches; 998 pixels wide.
WIDTH = 10.4
_DOTS_PER_INCH = 96
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", ":", "-.")
#: In a row of panels with a method each.
MOST_PANELS = 4
GREY, INK = "#7b8794", "#1c2733"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure and what is to be said of it.

    Attributes:
      figure: the figure.
      alt: what is shown, for those who cannot see it.
      caption: how to read it.
    """

    figure: Figure
    alt: str
    caption: str


def png(figure: Figure) -> bytes:
    """A figure as a file.

    Args:
      figure: the figure.

    Returns:
      The PNG, on white: a page may be dark.
    """
    target = io.BytesIO()
    _save(figure, target)
    return target.getvalue()


@in_style
def _save(figure: Figure, target: io.BytesIO) -> Figure:
    figure.savefig(
        target,
        format="png",
        dpi=_DOTS_PER_INCH,
        facecolor="white",
        metadata={"Software": None},  # the version would change the file
    )
    return figure


def of_method(place: int) -> dict[str, Any]:
    """Colour, marker and dash of a method; after all colours the markers are others.

    Args:
      place: of the method, as `measures.by_look` sorts them.

    Returns:
      Keywords of matplotlib's `plot`.

    Example:
      >>> of_method(0)["marker"], of_method(len(COLOURS))["marker"]
      ('o', 's')
    """
    around = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + around) % len(MARKERS)],
        "linestyle": _DASHES[around % len(_DASHES)],
    }


def _legend_columns(names: Collection[str]) -> int:
    # A letter is about 5 points wide, a handle with its margins about 50.
    widest = 50 + 5 * max(map(len, names))
    return max(1, min(len(names), int(72 * WIDTH // widest)))


def legend_height(names: Collection[str]) -> float:
    """The height of a legend, so that many names do not take the place of the panels.

    Args:
      names: what it tells apart.

    Returns:
      Inches.
    """
    return 0.2 + 0.2 * -(-len(names) // _legend_columns(names))


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Puts one legend for all panels above them.

    Args:
      figure: the figure.
      handles: matplotlib's artists by name.
    """
    columns = _legend_columns(handles)
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=columns)
