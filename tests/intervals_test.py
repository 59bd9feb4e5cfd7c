"""What the figures of differences show, read from their artists."""

import numpy as np
import pytest
from study_results_example import changed, make_results, make_study, of_seeds, titles

from experiments.studying import intervals, measures, tables


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("intervals") / "study")


@pytest.fixture(scope="module")
def results(study):
    return make_results(study)


@pytest.fixture(scope="module")
def blocks(study, results):
    return measures.blocks(study, results)


def test_the_forest_shows_the_differences_of_the_table(study, blocks):
    figure = intervals.differences(study, blocks).figure
    assert len(figure.axes) == 8
    assert [axis.get_xlabel() for axis in figure.axes[:4]] == [
        "accuracy, points →",
        "mean corruption error, points ←",
        "NLL ←",
        "ECE, points ←",
    ]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["erm", "mixup", "heavy sem", "sem, l1"]
    found = tables.differences(blocks[1])
    for axis, name, scale in ((figure.axes[4], "accuracy", 100), (figure.axes[6], "nll", 1)):
        points = {
            labels[int(line.get_ydata()[0])]: line
            for line in axis.lines
            if len(line.get_xdata()) == 1
        }
        segments = {
            labels[int(segment[0, 1])]: segment[:, 0]
            for lines in axis.collections
            for segment in lines.get_segments()
        }
        for method in labels:
            one = found[method, name]
            assert points[method].get_xdata()[0] == pytest.approx(scale * one.mean)
            assert segments[method] == pytest.approx([scale * one.low, scale * one.high])
            hollow = points[method].get_markerfacecolor() == "white"
            assert hollow is not one.significant
        assert any(one.significant for one in found.values())


def test_a_measure_nobody_has_gets_no_panel(study, results):
    def change(_, kept):
        kept["metrics"] |= {"ece": None, "mce": None}

    figure = intervals.differences(study, changed(study, results, change)).figure
    assert [axis.get_xlabel() for axis in figure.axes[:2]] == ["accuracy, points →", "NLL ←"]
    assert len(figure.axes) == 4


def test_corruptions_show_the_chosen_methods_against_the_reference(study, blocks, results):
    figure = intervals.corruptions(study, blocks).figure
    assert titles(figure) == [
        f"{blocks[0].title}\nmixup",
        "heavy sem",
        f"{blocks[1].title}\nmixup",
        "heavy sem",
    ]
    axis = figure.axes[1]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["gaussian noise", "shot noise", "impulse noise"] and len(labels) == 19
    points = axis.lines[-1].get_xdata()
    for name in ("fog", "speckle_noise"):
        mine, theirs = (
            of_seeds(results, slug, 100, lambda kept, n=name: np.mean(kept["corruptions"][n]))
            for slug in ("heavy_sem", "sem")
        )
        place = labels.index(name.replace("_", " "))
        assert points[place] == pytest.approx(100 * (mine - theirs).mean())
    assert figure.get_supxlabel() == "accuracy minus that of sem, percentage points →"


def test_what_lies_far_outside_is_written_and_the_others_keep_their_room(study, results):
    def change(name, kept):
        if name.startswith("erm@"):
            kept["metrics"]["accuracy"] -= 0.4

    blocks = changed(study, results, change)
    axis = intervals.differences(study, blocks).figure.axes[0]
    found = tables.differences(blocks[0])["erm", "accuracy"]
    assert [text.get_text() for text in axis.texts] == [f"← {100 * found.mean:+.3g}"]
    assert [text.xy[1] for text in axis.texts] == [0]
    points = [line for line in axis.lines if len(line.get_xdata()) == 1]
    assert sorted(int(line.get_ydata()[0]) for line in points) == [1, 2, 3]
    assert -axis.get_xlim()[0] < 0.5 * abs(100 * found.mean)
    assert all(axis.get_xlim()[0] < line.get_xdata()[0] < axis.get_xlim()[1] for line in points)


def test_without_such_a_method_nothing_is_written(study, blocks):
    assert not any(axis.texts for axis in intervals.differences(study, blocks).figure.axes)
