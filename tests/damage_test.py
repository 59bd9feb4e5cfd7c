"""Damaged images: what is said of them, and when they are too many."""

import pytest

from experiments.datasets.damage import Damaged, DamagedImage
from experiments.datasets.data import DataError


def found(count, total, rule="skip"):
    """The lines that are printed about so many damaged images."""
    lines = []
    damaged = Damaged(rule, total, "the split", say=lines.append)
    for number in range(count):
        damaged.add(f"{number}.png", f"{number}.png is empty")
    return damaged, lines


def test_the_first_eight_are_named_and_the_count_when_it_doubles():
    damaged, lines = found(40, 10_000)
    assert lines[:2] == [
        "warning: left out, 1 so far: 0.png is empty",
        "warning: left out, 2 so far: 1.png is empty",
    ]
    assert len(lines) == 10
    assert lines[8:] == [f"warning: {n} damaged images were left out so far" for n in (16, 32)]
    damaged.finish()
    assert lines[10:] == ["warning: the split: 40 damaged images were left out"]


def test_what_was_named_whole_is_not_summed_up():
    damaged, lines = found(8, 10_000)
    damaged.finish()
    assert len(lines) == 8


def test_an_image_that_is_met_again_counts_once():
    damaged, lines = found(2, 200)
    damaged.add("1.png", "1.png is empty")
    assert (len(damaged), len(lines)) == (2, 2)


@pytest.mark.parametrize(("allowed", "total"), [(3, 4), (3, 399), (4, 400), (10, 1000)])
def test_up_to_one_in_a_hundred_are_left_out_and_three_always(allowed, total):
    damaged, _ = found(allowed, total)
    with pytest.raises(DataError, match=rf"the split: {allowed + 1} of {total} images cannot be"):
        damaged.add("one more", "one more is empty")


def test_too_many_are_named_up_to_eight():
    with pytest.raises(DataError, match=r"0\.png, 1\.png, .*, 7\.png and 3 more"):
        found(11, 1000)


def test_refuse_stops_at_the_first_and_says_how_not_to():
    with pytest.raises(DataError, match=r"0\.png is empty; --damaged_images=skip leaves"):
        found(1, 1000, rule="refuse")


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="damaged must be one of skip, refuse; got 'ignore'"):
        Damaged("ignore", 1)


def test_lines_go_to_stderr(capsys):
    Damaged("skip", 9).add("a.png", "a.png is empty")
    assert capsys.readouterr().err == "warning: left out, 1 so far: a.png is empty\n"


def test_a_damaged_image_is_an_error_of_the_data():
    assert issubclass(DamagedImage, DataError)


def test_a_line_is_a_line_whatever_the_name_of_a_file():
    lines = []
    Damaged("skip", 9, say=lines.append).add("a", "a\nb\x1b[2J.png is empty")
    assert len(lines) == 1 and lines[0].isprintable()
