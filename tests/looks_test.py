"""How the figures of a study look: methods that differ, and files that do not."""

import io

import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.studying import looks


def figure(names: list[str]) -> Figure:
    made = Figure(figsize=(looks.WIDTH, 2 + looks.legend_height(names)), layout="constrained")
    axis = made.subplots()
    lines = [axis.plot([0, 1], [0, at], **looks.of_method(at))[0] for at in range(len(names))]
    looks.add_legend(made, dict(zip(names, lines, strict=True)))
    return made


def test_more_methods_than_colours_differ_in_marker():
    found = [looks.of_method(place) for place in range(28)]
    assert len({(look["color"], look["marker"]) for look in found}) == 28


def test_the_same_figure_is_the_same_file_without_the_version_of_what_drew_it():
    one, other = (looks.png(figure(["erm", "sem"])) for _ in range(2))
    assert one == other and b"Matplotlib" not in one
    assert Image.open(io.BytesIO(one)).width == 998


@pytest.mark.parametrize("count", [1, 6, 40])
def test_a_legend_leaves_the_panel_its_place(count: int):
    made = figure([f"a method of some length, number {number}" for number in range(count)])
    looks.png(made)  # lays it out
    (axis,) = made.axes
    inches = axis.get_window_extent().height / made.dpi
    assert inches > 1.2
    left, right = made.legends[0].get_window_extent().intervalx / made.dpi
    assert left >= 0 and right <= looks.WIDTH
