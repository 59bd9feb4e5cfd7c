"""A dataclass of flags: what is defined, read and refused."""

import dataclasses
from pathlib import Path

import pytest
from absl import flags

from experiments import flagfields
from experiments.flagfields import flag
from experiments.flagfiles import ConfigError


@dataclasses.dataclass(frozen=True)
class Options:
    name: str = flag("a", "a name", choices=("a", "b"))
    rows: int = flag(4, "how many rows", at_least=1, at_most=8)
    share: float = flag(0.5, "which share", above=0, below=1)
    loud: bool = flag(False, "whether to shout")

    def __post_init__(self) -> None:
        """Checks."""
        flagfields.check(self)


def parse(*args: str) -> tuple[Options, list[str]]:
    values = flags.FlagValues()
    flagfields.define(Options, values)
    return flagfields.parse(Options, ["program", *args], values)


def test_every_kind_of_flag_is_read():
    found, files = parse("--name=b", "--rows=8", "--share=0.25", "--loud")
    assert found == Options("b", 8, 0.25, True)
    assert files == []
    assert parse()[0] == Options()


def test_flag_files_are_read_and_named(tmp_path: Path):
    (tmp_path / "some.flags").write_text("# a remark\n--rows=2\n")
    assert parse(f"--flagfile={tmp_path / 'some.flags'}", "--name=b") == (Options("b", 2), ["some"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rows=0"], "--rows=0: must be at least 1 and at most 8"),
        (["--rows=9"], "--rows=9: must be at least 1 and at most 8"),
        (["--share=0"], "--share=0.0: must be above 0 and below 1"),
        (["--share=1"], "--share=1.0: must be above 0 and below 1"),
        (["--share=nan"], "--share=nan: must be finite"),
        (["--name=c"], "name"),
        (["--rows=x"], "rows"),
        (["--rows=2.5"], "rows"),
        (["--row=2"], "row"),
        (["rows=2"], "arguments left over: rows=2"),
        (["--flagfile=none.flags"], "none.flags"),
    ],
)
def test_what_is_wrong_is_named(args: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        parse(*args)


def test_choices_hold_in_python_too():
    with pytest.raises(ConfigError, match="--name=c: must be one of a, b"):
        Options(name="c")
