"""What the figures of a study show, read from their artists, and what they leave out."""

import dataclasses
import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from study_results_example import changed, make_results, make_study, of_seeds, titles

from experiments.reporting.report_svg import COLOURS
from experiments.studying import figures, intervals, looks, measures

ALL = ["trade_off.png", "differences.png", "corruptions.png", "gap.png", "projection.png"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("figures") / "study")


@pytest.fixture(scope="module")
def results(study):
    return make_results(study)


@pytest.fixture(scope="module")
def blocks(study, results):
    return measures.blocks(study, results)


def legend(figure):
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def test_all_figures_are_files_of_1000_pixels_on_white(study, blocks):
    found = figures.draw(study, blocks)
    assert list(found) == ALL
    for picture in found.values():
        content = looks.png(picture.figure)
        image = Image.open(io.BytesIO(content))
        assert image.format == "PNG" and abs(image.width - 1000) < 5
        assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        assert picture.alt and picture.caption
        assert b"Matplotlib" not in content


def test_the_same_results_give_the_same_file(study, blocks):
    one, other = (looks.png(figures.trade_off(study, blocks).figure) for _ in range(2))
    assert one == other


def test_nothing_is_drawn_of_nothing(study):
    assert figures.draw(study, measures.blocks(study, {})) == {}


def test_only_figures_with_data_are_drawn(study, results):
    def change(_, kept):
        for key in ("corruptions", "curve", "projection"):
            kept.pop(key, None)
        kept["metrics"]["mce"] = None

    assert list(figures.draw(study, changed(study, results, change))) == ["differences.png"]


def test_the_trade_off_has_a_point_per_method_and_joins_weights(study, blocks, results):
    figure = figures.trade_off(study, blocks).figure
    assert titles(figure) == [block.title for block in blocks]
    by_steps, by_rows = figure.axes
    lines = {line.get_color(): line for line in by_steps.lines if line.get_marker() != "None"}
    assert sorted(len(line.get_xdata()) for line in lines.values()) == [1, 1, 3]
    (joined,) = (line for line in lines.values() if len(line.get_xdata()) == 3)
    for place, slug in enumerate(("mixup", "sem", "heavy_sem")):  # in order of the weight
        clean, error = (
            of_seeds(results, slug, 100, lambda kept, k=key: kept["metrics"][k]).mean()
            for key in ("accuracy", "mce")
        )
        assert joined.get_xydata()[place] == pytest.approx([100 * clean, 100 - 100 * error])
    assert [text.get_text() for text in by_steps.texts] == ["0", "1", "10"]
    assert legend(figure) == ["erm", "mixup … heavy sem", "sem, l1"]
    mixup = of_seeds(results, "mixup", 200, lambda kept: kept["metrics"]["accuracy"])
    (joined,) = (line for line in by_rows.lines if len(line.get_xdata()) == 3)
    assert joined.get_xdata()[0] == pytest.approx(100 * mixup.mean())


def test_the_bars_of_the_trade_off_are_standard_deviations(study, blocks, results):
    axis = figures.trade_off(study, blocks).figure.axes[0]
    erm = 100 * of_seeds(results, "erm", 100, lambda kept: kept["metrics"]["accuracy"])
    lengths = [
        np.ptp(segment[:, 0])
        for found in axis.collections
        for segment in found.get_segments()
        if np.ptp(segment[:, 0])
    ]
    assert min(abs(length - 2 * erm.std(ddof=1)) for length in lengths) < 1e-6


def test_a_method_looks_the_same_in_all_figures(study, blocks):
    # "shown" is mixup, sem, heavy sem: they have the first colours.
    trade_off, forest, _, gap, _ = (one.figure for one in figures.draw(study, blocks).values())
    assert legend(gap) == ["mixup", "sem", "heavy sem", "erm", "sem, l1"]
    colours = [to_hex(line.get_color()) for line in gap.legends[0].get_lines()]
    assert colours == [colour.lower() for colour in COLOURS[:5]]
    points = [line for line in forest.axes[0].lines if len(line.get_xdata()) == 1]
    by_row = {int(line.get_ydata()[0]): to_hex(line.get_color()) for line in points}
    assert by_row == {0: colours[3], 1: colours[0], 2: colours[2], 3: colours[4]}
    assert to_hex(trade_off.axes[0].texts[0].get_color()) == colours[0]


def test_curves_are_means_over_seeds_with_bands(study, blocks, results):
    figure = figures.gap(study, blocks).figure
    gap, accuracy, rows_gap, _ = figure.axes
    assert titles(figure) == [blocks[0].title] * 2 + [blocks[1].title] * 2
    assert (gap.get_xlabel(), rows_gap.get_xlabel()) == ("step", "forwarded rows, thousands")
    assert accuracy.get_ylabel() == "accuracy on validation rows, % ↑"
    # Neither erm nor mixup measures a gap.
    assert (len(gap.lines), len(accuracy.lines)) == (3, 5)
    sem = gap.lines[0]
    curves = of_seeds(results, "sem", 100, lambda kept: kept["curve"]["normalised_gap"])
    np.testing.assert_array_equal(sem.get_xdata(), [20, 40, 60, 80, 100])
    np.testing.assert_allclose(sem.get_ydata(), curves.mean(0))
    corners = gap.collections[0].get_paths()[0].vertices
    at_last = corners[corners[:, 0] == 100, 1]
    assert np.ptp(at_last) == pytest.approx(2 * curves[:, -1].std(ddof=1))
    np.testing.assert_allclose(rows_gap.lines[0].get_xdata(), np.arange(1, 6) * 20 * 64 / 1000)


def test_a_curve_goes_over_the_steps_of_all_seeds(study, results):
    def change(name, kept):
        if name == "sem@100-1":
            kept["curve"] = {
                "step": [20, 60],
                "normalised_gap": [0.5, None],
                "accuracy": [0.5, 0.6],
            }
        if name == "heavy_sem@100-1":
            del kept["curve"]

    gap, accuracy, *_ = figures.gap(study, changed(study, results, change)).figure.axes
    assert [len(line.get_xdata()) for line in gap.lines] == [1, 5, 5]
    by_method = dict(zip(("erm", "mixup", "sem"), accuracy.lines, strict=False))
    np.testing.assert_array_equal(by_method["sem"].get_xdata(), [20, 60])


def test_of_many_methods_the_shown_ones_have_curves(study, blocks, monkeypatch):
    monkeypatch.setattr(figures, "_MOST_LINES", 4)
    picture = figures.gap(study, blocks)
    assert legend(picture.figure) == ["mixup", "sem", "heavy sem"]
    assert "3 of the 5 methods are shown" in picture.caption


def test_without_the_reference_nothing_is_compared(study, results):
    rest = {name: kept for name, kept in results.items() if kept["method"] != "sem"}
    found = figures.draw(study, measures.blocks(study, rest))
    assert set(found) == {"trade_off.png", "gap.png", "projection.png"}


def test_one_seed_gives_points_without_intervals(tmp_path):
    study = make_study(tmp_path / "one", seeds=(1,))
    blocks = measures.blocks(study, make_results(study))
    found = figures.draw(study, blocks)
    assert list(found) == ALL
    axis = found["corruptions.png"].figure.axes[0]
    (intervals,) = (lines for lines in axis.collections if hasattr(lines, "get_segments"))
    assert not any(len(segment) for segment in intervals.get_segments())
    assert np.isfinite(axis.lines[-1].get_xdata()).all()
    for picture in found.values():
        looks.png(picture.figure)


def test_without_a_choice_up_to_four_methods_have_panels(study, blocks):
    all_alike = type(study)(**{**vars(study), "shown": ()})
    assert len(intervals.corruptions(all_alike, blocks[:1]).figure.axes) == 4
    assert titles(figures.projection(all_alike, blocks).figure) == [
        "erm",
        "mixup",
        "sem",
        "heavy sem",
    ]


def test_the_projection_joins_each_mix_to_its_interpolation(study, blocks, results):
    picture = figures.projection(study, blocks)
    assert titles(picture.figure) == ["mixup", "sem", "heavy sem"]
    assert picture.caption.startswith("At equal steps: 100; one seed;")
    axis = picture.figure.axes[2]
    found = results["heavy_sem@100-0"]["projection"]
    ends = [line.get_xydata() for line in axis.lines]
    np.testing.assert_allclose([end[0] for end in ends], found["interpolated"])
    np.testing.assert_allclose([end[1] for end in ends], found["mixed"])
    np.testing.assert_allclose(axis.collections[0].get_offsets(), found["clean"])
    assert axis.get_xlabel() == "first component (40 %)"


def test_the_legend_of_many_methods_stays_inside_and_leaves_room(study, blocks):
    names = [f"a rather long method name {place}" for place in range(30)]
    curve = (np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.zeros(2))
    panels = {
        ("t", "x", label): dict.fromkeys(range(30), curve) for label in ("normalised gap", "y")
    }
    figure = figures._curves(panels, names)
    looks.png(figure)  # lays the figure out
    assert figure.legends[0].get_window_extent().width <= figure.bbox.width
    assert figure.axes[0].get_window_extent().height > 2.2 * figure.dpi


def test_the_caption_says_where_the_gap_is_from(study, blocks):
    assert "the one that training measures" in figures.gap(study, blocks).caption
    evaluated = dataclasses.replace(study, train={**study.train, "eval_gap": True})
    assert f"that of mixup on the {study.split} rows" in figures.gap(evaluated, blocks).caption


def test_of_many_methods_the_trade_off_has_those_shown_with_weights(study, blocks, monkeypatch):
    monkeypatch.setattr(figures, "_MOST_LINES", 2)
    picture = figures.trade_off(study, blocks)
    assert legend(picture.figure) == ["mixup … heavy sem"]
    assert "3 of the 5 methods are shown" in picture.caption


def test_curves_say_which_rows_they_are_of(study, results):
    def change(_, kept):
        kept["curve"]["rows"] = "validation"

    tested = dataclasses.replace(study, split="test", train={**study.train, "eval_gap": True})
    assert figures.gap(tested, measures.blocks(study, results)).figure.axes[1].get_ylabel() == (
        "accuracy on test rows, % ↑"
    )
    picture = figures.gap(tested, changed(study, results, change))
    assert picture.figure.axes[1].get_ylabel() == "accuracy on validation rows, % ↑"
    assert "that of mixup on the validation rows" in picture.caption
