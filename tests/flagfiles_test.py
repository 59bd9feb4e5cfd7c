"""Flag files: nested, commented, and with errors that name the file."""

import pathlib

import pytest
from absl import flags

from experiments import config as config_lib
from experiments.config import Config
from experiments.flagfiles import ConfigError, expand_flag_files


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
