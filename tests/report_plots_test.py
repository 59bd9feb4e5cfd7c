"""What the figures show, read from their artists."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from report_example import example

from experiments.reporting import report_plots as plots
from experiments.reporting.report_plots import Curve
from experiments.reporting.report_svg import COLOURS, svg


def part(name):
    return example()["parts"][name]["result"]


def legend(figure):
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def test_curves_hold_every_line_in_its_panel():
    panels = {
        "first": {"a": Curve([1, 2, 3], [0.5, None, 0.25]), "b": Curve([1, 2], [1.0, 0.0])},
        "second": {"b": Curve([1, 2], [0.2, 0.3], [0.1, None])},
    }
    figure = plots.curves(panels, xlabel="across", ylabel="up", columns=2, unit=True, ticks=[1, 3])
    one, two = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["first", "second"]
    np.testing.assert_array_equal(one.lines[0].get_ydata(), [0.5, np.nan, 0.25])
    np.testing.assert_array_equal(two.lines[0].get_xdata(), [1, 2])
    # "b" looks the same in both panels, and unlike "a" in colour and in marker.
    look = [(to_hex(line.get_color()), line.get_marker()) for line in (*one.lines, *two.lines)]
    assert look[1] == look[2] == (COLOURS[1].lower(), "s") and look[0] == (COLOURS[0].lower(), "o")
    assert (len(one.collections), len(two.collections)) == (0, 1)
    assert two.get_ylim() == (0, 1) and list(one.get_xticks()) == [1, 3]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("across", "up")
    assert legend(figure) == ["a", "b"]


def test_curves_without_limits_hold_zero_and_share_an_axis():
    panels = {"p": {"a": Curve([0, 1], [5, 6])}, "q": {"a": Curve([0, 1], [1, 20])}}
    figure = plots.curves(panels, xlabel="", ylabel="", columns=1)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert figure.axes[0].get_ylim()[0] == 0 and figure.axes[0].get_ylim()[1] >= 20
    assert legend(figure) == []  # one line needs no name
    places = [axis.get_subplotspec().colspan.start for axis in figure.axes]
    assert places == [0, 0]


def test_more_lines_than_colours_differ_in_dash():
    lines = {str(n): Curve([0, 1], [n, n]) for n in range(9)}
    (axis,) = plots.curves({"": lines}, xlabel="", ylabel="").axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    assert len(looks) == 9


def test_a_band_is_as_wide_as_twice_the_spread():
    curve = Curve([0, 1], [0.5, 0.5], [0.1, 0.2])
    (axis,) = plots.curves({"": {"a": curve}}, xlabel="", ylabel="", height=1.0).axes
    corners = axis.collections[0].get_paths()[0].vertices
    heights = [np.ptp(corners[corners[:, 0] == x, 1]) for x in (0, 1)]
    assert heights == pytest.approx([0.2, 0.4])


def test_reliability_leaves_empty_bins_out_and_shows_shares():
    bins = {
        "count": [0, 30, 10],
        "accuracy": [None, 0.5, 0.75],
        "confidence": [None, 0.5, 0.9],
    }
    figure = plots.reliability({"raw": {"m": bins}, "scaled": {"m": bins, "n": bins}})
    above, _, below, _ = figure.axes
    np.testing.assert_array_equal(above.lines[1].get_xydata(), [[0.5, 0.5], [0.9, 0.75]])
    np.testing.assert_array_equal(above.lines[0].get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(below.patches[0].get_data().values, [0, 0.75, 0.25])
    assert [axis.get_title(loc="left") for axis in figure.axes[:2]] == ["raw", "scaled"]
    assert legend(figure) == ["m", "n"]


def test_histograms_show_both_sides_of_every_set_and_score():
    sets = {name: found["histograms"] for name, found in part("ood")["sets"].items()}
    del sets["svhn"]["knn"]
    sets["textures"]["knn"]["edges"][0] = None  # no finite score to count
    figure = plots.histograms(sets)
    assert len(figure.axes) == 15
    assert [axis.get_title(loc="left") for axis in figure.axes[:2]] == ["msp", "entropy"]
    assert [figure.axes[n].get_ylabel() for n in (0, 5, 10)] == list(sets)
    counts = [len(axis.patches) for axis in figure.axes]
    assert counts == [4, 4, 4, 4, 0, 4, 4, 4, 4, 0, 4, 4, 4, 4, 4]
    shown = figure.axes[0].patches[0].get_data()
    np.testing.assert_array_equal(shown.values, sets["svhn"]["msp"]["in"])
    np.testing.assert_array_equal(shown.edges, sets["svhn"]["msp"]["edges"])
    np.testing.assert_array_equal(
        figure.axes[0].patches[2].get_data().values, sets["svhn"]["msp"]["out"]
    )


def test_bars_have_the_lengths_of_the_rates_and_marks_at_chance():
    figure = plots.bars(
        ["x", "y"],
        {"a": [0.5, None], "b": [-0.25, 1.0]},
        xlabel="score",
        chance=[0.1, 0.2],
        spread={"a": [0.05, None], "b": [None, 0.1]},
        line=("average", 0.75),
    )
    (axis,) = figure.axes
    widths = [[bar.get_width() for bar in found] for found in axis.containers if len(found) == 2]
    assert [0.5, 0.0] in widths and [-0.25, 1.0] in widths
    marks = [line[0][0] for line in axis.collections[-1].get_segments()]
    assert marks == [0.1, 0.2]
    assert axis.lines[-1].get_xdata()[0] == 0.75
    assert [label.get_text() for label in axis.get_yticklabels()] == ["x", "y"]
    assert axis.get_xlim()[0] == -0.25
    assert legend(figure) == ["a", "b", "chance", "average"]


def test_bars_of_one_kind_carry_their_numbers():
    (axis,) = plots.bars(["x", "y"], {"a": [0.5, None]}, xlabel="").axes
    assert [text.get_text() for text in axis.texts] == ["0.500", "-"]


def test_the_projection_joins_each_mix_to_its_interpolation():
    found = part("projection")
    figure = plots.projection(found)
    axis = figure.axes[0]
    ends = [line.get_xydata() for line in axis.lines]
    np.testing.assert_allclose([end[0] for end in ends], found["mixed"])
    np.testing.assert_allclose([end[1] for end in ends], found["interpolated"])
    np.testing.assert_allclose(axis.collections[0].get_offsets(), found["clean"])
    np.testing.assert_array_equal(axis.collections[0].get_array(), found["label"])
    assert axis.get_xlabel() == "first component (41 %)"


@pytest.mark.parametrize("count", [1, 9])
def test_a_legend_stays_inside_its_figure(count):
    lines = {f"a rather long method name {n}": Curve([0, 1], [0, n]) for n in range(count + 1)}
    figure = plots.curves({"": lines}, xlabel="", ylabel="")
    svg(figure, "a", "alt")  # lays the figure out
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width
