"""What the training program shows instead of training: all flags, in the groups of the config."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from absl import flags

from experiments import config as config_lib
from experiments import train
from experiments.command_line import flagfields, guide, listing
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config


def shown(*args: str) -> str | None:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    flagfields.define(guide.Asked, values)
    flags.DEFINE_string("of_a_library", None, "noise", flag_values=values)
    return guide.text(["train", *args], values, train.__doc__ or "")


def test_help_is_short_and_says_how_to_start_and_where_the_rest_is():
    text = shown("--help")
    assert text is not None
    assert len(text.splitlines()) < 50 and max(map(len, text.splitlines())) <= 100
    for named in ("--flagfile=digits.flags", "--dry_run", "--list", "--helpfull", "--sem_weight="):
        assert named in text
    assert 8 <= len(re.findall(r"^  --\w+=", text, re.MULTILINE)) <= 14
    assert "--of_a_library" not in text


def test_the_flags_named_first_have_the_defaults_of_the_config():
    text = shown("--help") or ""
    found = dict(re.findall(r"^  --(\w+)=(\S*)$", text, re.MULTILINE))
    assert found.pop("flagfile") == ""
    defaults = {field.name: str(field.default) for field in dataclasses.fields(Config)}
    assert found == {name: defaults[name] for name in found}


def test_all_of_the_flags_are_in_the_full_help_and_those_of_libraries_at_its_end():
    text = shown("--helpfull") or ""
    own = [field.name for cls in (Config, guide.Asked) for field in dataclasses.fields(cls)]
    found = re.findall(r"^  --(?:\[no\])?(\w+)(?:=|  \((?:o|unset))", text, re.MULTILINE)
    assert found == own
    assert text.index("--of_a_library") > text.index("--dry_run  (off)")
    assert "75  stopped by SIGTERM" in text


def test_the_groups_are_those_of_the_config():
    source = inspect.getsource(Config)
    groups = re.findall(r"^    # ([A-Z][^\n]*)\.\n    (\w+):", source, re.MULTILINE)
    assert {name: heading for heading, name in groups} == guide.GROUPS


def test_the_list_names_every_flag_file():
    text = shown("--list") or ""
    assert all(entry.name in text for entry in listing.entries())
    assert "--flagfile=NAME" in text


def test_a_command_that_trains_is_shown_nothing():
    assert shown("--flagfile=digits.flags", "--dry_run") is None


def test_what_is_asked_of_the_program_is_no_part_of_a_run(tmp_path: Path):
    run = {field.name for field in dataclasses.fields(Config)}
    asked = {field.name for field in dataclasses.fields(guide.Asked)}
    assert asked == {"list", "dry_run"} and not run & asked
    values = flags.FlagValues()
    config_lib.define_flags(values)
    flagfields.define(guide.Asked, values)
    config = config_lib.parse(["train", "--dry_run", f"--workdir={tmp_path}"], values)
    assert values["dry_run"].value is True
    assert "dry_run" not in config.to_flags()
    path = tmp_path / "mine.flags"
    path.write_text("--dry_run\n")
    with pytest.raises(ConfigError, match="--dry_run is not for flag files"):
        config_lib.parse(["train", f"--flagfile={path}"], values)


@pytest.mark.parametrize("asked", ["--help", "--helpfull", "--list"])
def test_the_program_shows_it_on_stdout_and_ends_well(asked: str):
    program = [sys.executable, "-m", "experiments.train", "--no_such_flag", asked]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() and "Traceback" not in done.stdout


def test_the_program_says_nothing_more_to_who_has_closed_the_pipe():
    read, write = os.pipe()
    os.close(read)
    program = [sys.executable, "-m", "experiments.train", "--helpfull"]
    with tempfile.TemporaryFile() as errors:
        code = subprocess.run(program, stdout=write, stderr=errors, timeout=300).returncode
        os.close(write)
        errors.seek(0)
        assert (code, errors.read()) == (0, b"")
