"""How figures come into a report page: one style for all, and SVG that stands inside the page.

The figures use no font, id or setting from outside, so the same numbers give the same bytes.
"""

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.reporting.report_html import Markup, escape, plain

# Okabe and Ito's without the yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LONGEST = 30
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and the file is smaller
    "text.parse_math": False,  # a "$" in a name is a dollar
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": "#7b8794",
    "axes.labelcolor": "#1c2733",
    "text.color": "#1c2733",
    "xtick.color": "#44515e",
    "ytick.color": "#44515e",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf0",
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
_P = ParamSpec("_P")


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    """Matplotlib's own defaults and the style of the pages."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The browser has fonts for the letters that matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def in_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Makes a function draw in the style of the pages, whatever the user's settings are.

    Args:
      draw: makes a figure.

    Returns:
      The function.
    """

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with _styled():
            return draw(*args, **kwargs)

    return drawn


def svg(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as SVG for the inside of a page; the same figure gives the same bytes.

    Args:
      figure: the figure.
      name: unlike that of any other figure of the page: every id of the SVG starts with it.
      alt: what is shown, for those who cannot see it.

    Returns:
      The element.
    """
    content = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _styled(), matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(content, format="svg", metadata=nothing, dpi=150)
    text = content.getvalue()
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    head = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", head)
    body = re.sub(r"<[^<>]+>", lambda match: _with_prefix(match[0], name), body)
    return Markup(f'{head} role="img" aria-label="{escape(alt)}">{body.strip()}')


def _with_prefix(element: str, name: str) -> str:
    element = re.sub(r'(\bid=")', rf"\g<1>{name}-", element)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", element)


def short(text: Any, *, longest: int = _LONGEST) -> str:
    """A text as short as a figure needs it.

    Args:
      text: of a report.
      longest: number of characters.

    Returns:
      The text in one line, at most so long; never one that matplotlib hides.
    """
    shown = " ".join(plain(text).split())
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    # Matplotlib leaves labels that start with "_" out of legends.
    return "\N{ZERO WIDTH SPACE}" + shown if shown.startswith("_") else shown


def floats(values: Sequence[Any]) -> np.ndarray:
    """Numbers of a report; null is NaN.

    Args:
      values: numbers and Nones, or rows of them.

    Returns:
      f64 of the same shape.
    """
    return np.asarray(values, dtype=object).astype(float)
