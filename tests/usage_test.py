"""Help made of a dataclass of flags: nothing is left out, and lines fit."""

import dataclasses
import os
import subprocess
import sys

import pytest

from experiments.command_line import usage
from experiments.command_line.flagfields import flag


@dataclasses.dataclass(frozen=True)
class Options:
    rows: int = flag(8, "rows to read", at_least=1, below=2**20)
    name: str = flag("a", "a name", choices=("a", "b"))
    loud: bool = flag(False, "whether to shout")
    quick: bool = flag(True, "whether to hurry, " + "which has much to be said for it, " * 8)


GROUPS = {"rows": "The data", "loud": "The tone"}


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["--help"], "help"),
        (["-help"], "help"),
        (["-h"], "help"),
        (["-?"], "help"),
        (["--helpshort"], "help"),
        (["--helpfull"], "helpfull"),
        (["--rows=x", "--no_such", "--help"], "help"),
        (["--list"], "list"),
        (["--list", "--help"], "help"),
        (["--rows=1"], None),
        (["help"], None),
        (["--name=--help"], None),
        (["--helper"], None),
    ],
    ids=str,
)
def test_what_is_asked_for(args: list[str], asked: str | None):
    assert usage.asked(["program", *args], "list") == asked


def test_every_flag_stands_below_its_heading_with_its_default_and_what_is_allowed():
    lines = usage.everything(Options, GROUPS).splitlines()
    flags = ["  --rows=8", "  --name=a", "  --loud  (off)", "  --[no]quick  (on)"]
    kept = [line for line in lines if line in ("The data", "The tone") or line in flags]
    assert kept == ["The data", *flags[:2], "The tone", *flags[2:]]
    assert "      rows to read; at least 1 and below 1,048,576" in lines
    assert "      a name; one of a, b" in lines


def test_a_few_flags_come_in_the_order_asked_for():
    lines = usage.some(Options, ("name", "rows")).splitlines()
    assert [line for line in lines if line.startswith("  --")] == ["  --name=a", "  --rows=8"]


@pytest.mark.parametrize("columns", ["20", "60", "300"])
def test_lines_are_as_wide_as_the_terminal_within_reason(
    columns: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", columns)
    longest = max(map(len, usage.everything(Options, GROUPS).splitlines()))
    assert longest <= max(40, min(100, int(columns)))
    assert longest > 30


def test_flags_of_libraries_are_named():
    text = usage.of_libraries({"verbosity", "help", "?"})
    assert "--help, --verbosity" in text and "?" not in text


CLOSED = """
from experiments.command_line import usage
usage.show("line\\n" * 100000)
"""


def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-c", CLOSED], stdout=write, stderr=subprocess.PIPE, timeout=100
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (0, b"")
