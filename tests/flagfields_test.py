"""A dataclass of flags: what is defined, read and refused."""

import dataclasses
from pathlib import Path

import pytest
from absl import flags

from experiments.command_line import flagfields
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError


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
        (["--row=2"], "Unknown command line flag 'row'; did you mean --rows?"),
        (["--nolod"], "Unknown command line flag 'nolod'; did you mean --noloud?"),
        (["--zzz"], "Unknown command line flag 'zzz'; --helpfull shows all"),
        (["--name=A"], "^--name=A: must be one of a, b$"),
        (["--name="], "^--name=: must be one of a, b$"),
        (["rows=2"], "arguments left over: rows=2"),
        (["--flagfile=none.flags"], "none.flags"),
    ],
)
def test_what_is_wrong_is_named(args: list[str], message: str):
    with pytest.raises(ConfigError, match=message.replace("?", "[?]")):
        parse(*args)


@dataclasses.dataclass(frozen=True)
class Chosen:
    distance: str = flag("mse", "a distance", choices=("mse", "cosine"))

    def __post_init__(self) -> None:
        """Checks."""
        flagfields.check(self)


def test_a_mistyped_choice_gets_a_hint_on_the_command_line_and_in_python():
    message = "^--distance=msee: must be one of mse, cosine; did you mean mse[?]$"
    values = flags.FlagValues()
    flagfields.define(Chosen, values)
    with pytest.raises(ConfigError, match=message):
        flagfields.parse(Chosen, ["program", "--distance=msee"], values)
    with pytest.raises(ConfigError, match=message):
        Chosen("msee")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("name", "one of a, b"),
        ("rows", "at least 1 and at most 8"),
        ("share", "above 0 and below 1"),
        ("loud", ""),
    ],
)
def test_what_is_allowed_is_said_in_words(name: str, words: str):
    (field,) = [field for field in dataclasses.fields(Options) if field.name == name]
    assert flagfields.allowed(field) == words


def test_choices_hold_in_python_too():
    with pytest.raises(ConfigError, match="--name=c: must be one of a, b"):
        Options(name="c")


@dataclasses.dataclass(frozen=True)
class Free:
    text: str = flag("", "any text")
    count: int = flag(0, "any number")
    seed: int = flag(0, "a number with a limit of its own", below=2**32)

    def __post_init__(self) -> None:
        """Checks."""
        flagfields.check(self)


def parse_free(*args: str) -> Free:
    values = flags.FlagValues()
    flagfields.define(Free, values)
    return flagfields.parse(Free, ["program", *args], values)[0]


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("--count=2147483648", "--count=2147483648: must be below 2,147,483,648"),
        ("--count=-99999999999", "--count=-99999999999: must be below"),
        ("--count=0x" + "f" * 5000, "--count=(a number of 20000 bits): must be below"),
        ("--count=" + "9" * 5000, "4300 digits"),
        ("--seed=4294967296", "--seed=4294967296: must be below 4,294,967,296"),
        ("--text=a\0b", "--text=a\ufffdb: must be one line without control characters"),
        ("--text=a\nb", "--text=a b: must be one line"),
        ("--text=\x1b[2J", "--text=\ufffd[2J: must be one line"),
        ("--text=\udcff", "--text=\ufffd: must be one line"),
        ("--text=a ", "without spaces at its ends"),
        ("--text=" + "a" * 5000, "aaa...: must have at most 4,096 characters"),
        ("--" + "a" * 5000, "unknown flag --aaaa"),
        ("--tex\x1b[2J", "\ufffd[2J"),
        ("--noloud=1", "noloud"),
        ("a\x1b", "arguments left over: a\ufffd"),
    ],
    ids=lambda text: text[:16].encode("unicode_escape").decode(),
)
def test_a_value_must_fit_its_kind_and_a_message_is_one_short_line(arg: str, message: str):
    with pytest.raises(ConfigError) as caught:
        parse_free(arg)
    assert message in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1200


def test_texts_of_all_languages_and_large_seeds_are_taken():
    assert parse_free("--text=Straße/\u6570\u636e 1", "--seed=4294967295") == Free(
        "Straße/\u6570\u636e 1", 0, 4294967295
    )
