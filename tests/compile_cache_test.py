"""Where compiled programs are kept: where the user said, else where it can be."""

import os
import types
from pathlib import Path

import pytest

from experiments.lifecycle import compile_cache


class Settings(types.SimpleNamespace):
    """Stands in for jax.config, which belongs to the whole process."""

    def update(self, name: str, value: object) -> None:
        setattr(self, name, value)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    made = Settings(
        jax_enable_compilation_cache=True,
        jax_compilation_cache_dir=None,
        jax_persistent_cache_min_compile_time_secs=1.0,
    )
    monkeypatch.setattr(compile_cache.jax, "config", made)
    return made


def test_auto_is_in_the_users_cache_folder_and_keeps_small_programs_too(
    settings: Settings, tmp_path: Path
):
    assert compile_cache.enable("auto") == tmp_path / "semjax" / "compiled"
    assert settings.jax_compilation_cache_dir == str(tmp_path / "semjax" / "compiled")
    assert settings.jax_persistent_cache_min_compile_time_secs == 0
    assert list((tmp_path / "semjax" / "compiled").iterdir()) == []


@pytest.mark.parametrize("home", ["", "relative"])
def test_without_a_cache_folder_it_is_below_the_home(home: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", "/home/someone")
    assert compile_cache.default() == Path("/home/someone/.cache/semjax/compiled")


def test_a_path_is_made(settings: Settings, tmp_path: Path):
    assert compile_cache.enable(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b"
    assert settings.jax_compilation_cache_dir == str(tmp_path / "a" / "b")


@pytest.mark.parametrize(
    "said",
    [{"jax_compilation_cache_dir": "/users/own"}, {"jax_enable_compilation_cache": False}],
    ids=lambda said: next(iter(said)),
)
@pytest.mark.parametrize("folder", ["auto", "elsewhere"])
def test_what_the_user_has_told_jax_stands(
    said: dict, folder: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name, value in said.items():
        settings.update(name, value)
    before = vars(settings).copy()
    assert compile_cache.enable(folder) is None
    assert vars(settings) == before and list(tmp_path.iterdir()) == []


def test_the_least_time_that_the_user_gave_stands(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1.0")
    compile_cache.enable("auto")
    assert settings.jax_persistent_cache_min_compile_time_secs == 1.0


def test_none_keeps_nothing(settings: Settings, tmp_path: Path):
    assert compile_cache.enable("none") is None
    assert settings.jax_compilation_cache_dir is None and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line_and_no_error(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "file").write_text("mine")
    assert compile_cache.enable(str(tmp_path / "file" / "below")) is None
    assert settings.jax_compilation_cache_dir is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: compiled programs are not kept") and "file/below" in line


def test_the_oldest_programs_go_when_there_are_too_many(tmp_path: Path):
    for age, name in enumerate(("new-cache", "old-cache", "older-cache")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "mine").write_bytes(bytes(100))
    compile_cache._tidy(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"new-cache", "old-cache", "mine"}
