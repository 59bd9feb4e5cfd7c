"""The table of flag files: each says what it trains and what to expect, by its data set."""

from pathlib import Path

import pytest

from experiments.command_line import listing
from experiments.command_line.flagfiles import FLAG_DIR, ConfigError

FOUND = listing.entries()


def test_every_flag_file_is_there_once_sorted_by_data_set():
    assert sorted(entry.name for entry in FOUND) == sorted(
        path.name for path in FLAG_DIR.glob("*.flags")
    )
    assert [(e.data_set, e.name) for e in FOUND] == sorted((e.data_set, e.name) for e in FOUND)


@pytest.mark.parametrize("entry", FOUND, ids=lambda entry: entry.name)
def test_every_flag_file_begins_with_what_it_trains_and_what_to_expect(entry: listing.Entry):
    assert entry.description and len(entry.description) <= 100
    # A figure with what it is of, or that there is none.
    measured = "%" in entry.expected and "(n=" in entry.expected
    assert measured or entry.expected.startswith("not measured"), "# What it trains. Measured: ..."
    assert entry.data_set != "-"


def test_an_entry_is_the_first_line_and_the_data_set_of_the_files_it_names(tmp_path: Path):
    (tmp_path / "base.flags").write_text(
        "# The base, 3.5 epochs. Measured: 12.5 % test (n=2).\n# More.\n--dataset=cifar10\n"
    )
    (tmp_path / "a.flags").write_text("# A. Not measured yet; B has 1 %.\n--flagfile=base.flags\n")
    (tmp_path / "b.flags").write_text("# No form\n--dataset=cifar10\n--dataset=mine\n")
    (tmp_path / "c.txt").write_text("# No flag file. Measured: 1 %.\n")
    assert listing.entries(tmp_path) == [
        listing.Entry("a.flags", "cifar10", "A", "not measured yet; B has 1 %"),
        listing.Entry("base.flags", "cifar10", "The base, 3.5 epochs", "12.5 % test (n=2)"),
        listing.Entry("b.flags", "mine", "No form", ""),
    ]


def test_a_file_that_names_none_is_named(tmp_path: Path):
    (tmp_path / "a.flags").write_text("--flagfile=gone.flags\n")
    with pytest.raises(ConfigError, match=r"gone.flags: no such file"):
        listing.entries(tmp_path)


def test_without_a_width_an_entry_is_one_line():
    lines = listing.table(FOUND).splitlines()
    assert len(lines) == len(FOUND) + len({entry.data_set for entry in FOUND})
    for entry in FOUND:
        (line,) = [line for line in lines if line.split()[0] == entry.name]
        assert line.startswith("  ") and entry.description in line
        assert line.endswith(entry.expected)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_in_a_terminal_no_line_is_longer_and_no_word_is_lost(width: int):
    text = listing.table(FOUND, width)
    longest = max(len(entry.name) for entry in FOUND)
    assert max(map(len, text.splitlines())) <= max(width, longest + 60)
    for entry in FOUND:
        assert set(entry.description.replace("-", " ").split()) <= set(
            text.replace("-", " ").split()
        )
