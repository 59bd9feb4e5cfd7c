"""Flag files: nested, commented, and with errors that name the file."""

import pathlib

import pytest
from absl import flags

from experiments import config as config_lib
from experiments.command_line.flagfiles import ConfigError, expand_flag_files
from experiments.config import Config


def parse(*args: str) -> Config:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["train", *args], values)


def test_arguments_without_a_file_stay_as_they_are():
    assert expand_flag_files(["--seed=1", "rest"]) == (["--seed=1", "rest"], [])


def test_a_file_of_the_project_is_found_by_name():
    args, names = expand_flag_files(["--flagfile=digits_erm.flags", "--seed=1"])
    assert names == ["digits_erm"]
    assert "--policy=none" in args and args[-1] == "--seed=1"


def test_the_last_setting_wins_and_comments_and_nesting_work(tmp_path: pathlib.Path):
    (tmp_path / "base.flags").write_text("# comment\n// another\n\n--seed=1\n--epochs=3\n")
    (tmp_path / "mine.flags").write_text("--flagfile=base.flags\n--seed=2\n")
    config = parse(f"--flagfile={tmp_path / 'mine.flags'}", "--epochs=4")
    assert (config.seed, config.epochs, config.workdir) == (2, 4.0, "runs/mine-2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--flagfile=loop.flags", "names itself"),
        ("seed=3", "not a flag: 'seed=3'"),
        ("--no_such_flag=3", "no_such_flag"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_a_wrong_flag_file_is_one_message(tmp_path: pathlib.Path, text: str, message: str):
    path = tmp_path / "loop.flags"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        parse(f"--flagfile={path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"--seed=1\n\0", "cannot be read: it holds NUL bytes"),
        (b"\x7fELF\x02\x01", "not a flag"),
        (b"#" * (2**20 + 1), "cannot be read: it has more than 1,048,576 bytes"),
        (b"--run_with_pdb", "--run_with_pdb is not for flag files; write it on the command line"),
        (b"--profile_file=/tmp/x", "--profile_file is not for flag files"),
        (b"--undefok=lerning_rate\n--lerning_rate=1", "--undefok is not for flag files"),
        (b"--workdir\n--run_with_pdb", "--run_with_pdb is not for flag files"),
        (b"--flagfile=\x1b[2J.flags", "--flagfile=\ufffd\\[2J.flags: no such file"),
    ],
    ids=["nul", "program", "long", "debugger", "profile", "undefok", "value", "terminal"],
)
def test_a_file_is_text_that_sets_flags_of_the_program(
    tmp_path: pathlib.Path, content: bytes, message: str
):
    path = tmp_path / "some.flags"
    path.write_bytes(content)
    values = flags.FlagValues()
    config_lib.define_flags(values)
    # As absl's own are, in a program.
    flags.DEFINE_bool("run_with_pdb", False, "", flag_values=values)
    flags.DEFINE_string("profile_file", None, "", flag_values=values)
    with pytest.raises(ConfigError, match=message):
        config_lib.parse(["train", f"--flagfile={path}"], values)
    # On the command line they are a person's own.
    config_lib.parse(["train", "--norun_with_pdb", f"--profile_file={path}"], values)


def test_files_that_name_each_other_often_are_not_read_for_ever(tmp_path: pathlib.Path):
    for depth in range(7):
        (tmp_path / f"{depth}.flags").write_text(f"--flagfile={depth + 1}.flags\n" * 1000)
    (tmp_path / "7.flags").write_text("--seed=1\n")
    with pytest.raises(ConfigError, match="at most 8 deep, 64 files and 1,048,576 bytes are read"):
        parse(f"--flagfile={tmp_path / '0.flags'}")


def test_files_may_be_nested_eight_deep(tmp_path: pathlib.Path):
    for depth in range(9):
        (tmp_path / f"{depth}.flags").write_text(f"--flagfile={depth + 1}.flags\n")
    (tmp_path / "9.flags").write_text("--seed=3\n")
    assert parse(f"--flagfile={tmp_path / '2.flags'}").seed == 3
    with pytest.raises(ConfigError, match="at most 8 deep"):
        parse(f"--flagfile={tmp_path / '1.flags'}")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "/dev/zero", ".", "", "a/" * 1000])
def test_what_is_no_file_is_not_found(name: str):
    with pytest.raises(ConfigError, match="no such file"):
        expand_flag_files([f"--flagfile={name}"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("digit.flags", "digits.flags"),
        ("digits", "digits.flags"),
        ("digits.flag", "digits.flags"),
        ("elsewhere/cifar100.flags", "cifar100.flags"),
        ("cifar100-mixup.flags", "cifar100_mixup.flags"),
    ],
)
def test_a_mistyped_name_gets_a_hint(name: str, meant: str):
    with pytest.raises(
        ConfigError, match=f"{name}: no such file; did you mean {meant}[?] .*--list"
    ):
        expand_flag_files([f"--flagfile={name}"])


def test_a_name_like_none_gets_the_names_of_all():
    with pytest.raises(ConfigError, match=r"the project's own are cifar10\.flags, .*imagenet_vit"):
        expand_flag_files(["--flagfile=zzz"])
