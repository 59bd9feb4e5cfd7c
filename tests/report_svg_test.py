"""Figures inside a page: alone, the same every time, and safe whatever a report calls things."""

import re
import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.reporting import report_svg


@report_svg.in_style
def drawing(title="title"):
    figure = Figure(figsize=(2, 1.5), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1, 2], [0, 1, 0], marker="o", label=report_svg.short(title))
    axis.set_title(report_svg.short(title))
    axis.legend()
    return figure


def test_the_same_figure_gives_the_same_bytes_whatever_the_settings():
    first = report_svg.svg(drawing(), "a", "alt")
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 20, "lines.linewidth": 9}):
        assert report_svg.svg(drawing(), "a", "alt") == first
        assert matplotlib.rcParams["font.size"] == 20


def test_ids_of_two_figures_differ_and_references_follow_them():
    ids = []
    for name in ("one", "two"):
        found = report_svg.svg(drawing(), name, "alt")
        own = set(re.findall(r'\bid="([^"]*)"', found))
        used = set(re.findall(r'(?:url\(|href=")#([^")]*)', found))
        assert used and used <= own
        ids.append(own)
    assert not ids[0] & ids[1]


def test_a_figure_is_one_element_without_prologue_metadata_or_addresses():
    found = report_svg.svg(drawing(), "a", 'an "alt" <b>')
    tree = xml.etree.ElementTree.fromstring(found.replace("xlink:", ""))
    assert tree.tag == "svg" and tree.get("aria-label") == 'an "alt" <b>'
    assert "http" not in found and "metadata" not in found and "<?xml" not in found


@pytest.mark.parametrize("name", ["$x_{$", "a & <b>", "</svg><script>", 'id="x" url(#y)', "日本"])
def test_names_are_shown_as_they_are(name):
    found = report_svg.svg(drawing(name), "a", "alt")
    texts = xml.etree.ElementTree.fromstring(found.replace("xlink:", "")).itertext()
    assert [text for text in texts if text == name] == [name, name]
    assert "<script" not in found


def test_texts_are_cut_to_a_line_and_never_hidden():
    assert report_svg.short("a\n b\x00") == "a b\N{REPLACEMENT CHARACTER}"
    assert report_svg.short("x" * 31) == "x" * 29 + "…"
    assert report_svg.short("x" * 30) == "x" * 30
    hidden = report_svg.short("_nolegend_")
    assert not hidden.startswith("_") and hidden.endswith("_nolegend_")
    assert hidden in report_svg.svg(drawing("_nolegend_"), "a", "alt")


def test_null_is_nan():
    np.testing.assert_array_equal(report_svg.floats([1, None, 0.5]), [1, np.nan, 0.5])
    assert report_svg.floats([[1, None]]).shape == (1, 2)
    assert report_svg.floats([]).shape == (0,)
