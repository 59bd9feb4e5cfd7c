"""The documents keep their word: their code runs, and what they name exists."""

import configparser
import doctest
import importlib.util
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from experiments import config, evaluate
from experiments.command_line import flagfields

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)

each_document = pytest.mark.parametrize("document", DOCUMENTS)


def _blocks(document: str, *languages: str) -> list[tuple[int, str]]:
    """The fenced blocks of the languages: their first line's number and their text."""
    text = (ROOT / document).read_text("utf-8")
    fences = re.finditer(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL)
    return [
        (text.count("\n", 0, fence.start(3)) + 1, textwrap.dedent(fence.group(3)))
        for fence in fences
        if fence.group(2) in languages
    ]


def _commands(document: str) -> list[str]:
    """The commands of the shell blocks, without prompts, comments and line continuations."""
    lines = [
        line.removeprefix("$ ").partition("  #")[0].strip()
        for _, block in _blocks(document, "sh", "bash", "shell", "console")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def _run(document: str, line: int, block: str, names: dict[str, Any]) -> None:
    """Runs one block; a failure points at its line in the document."""
    if ">>> " in block:
        example = doctest.DocTestParser().get_doctest(block, names, document, document, line - 1)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        report: list[str] = []
        failed, _ = runner.run(example, out=report.append, clear_globs=False)
        assert not failed, "".join(report)
        names.update(example.globs)
    else:
        exec(compile("\n" * (line - 1) + block, str(ROOT / document), "exec"), names)


def test_the_readme_shows_code() -> None:
    assert _blocks("README.md", "python")


@each_document
def test_every_python_block_runs_one_after_the_other(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # what the code writes is not left in the checkout
    names: dict[str, Any] = {"__name__": document}
    for line, block in _blocks(document, "python"):
        _run(document, line, block, names)


@each_document
def test_every_local_link_and_flag_file_exists(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    beside = Path(document).parent
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    links = [str(beside / link) for link in links]
    named = re.findall(r"(?:--flagfile=|experiments/flags/)([\w-]+\.flags)", text)
    flag_files = [f"experiments/flags/{name}" for name in named]
    assert [path for path in links + flag_files if not (ROOT / path).exists()] == []


@each_document
def test_every_module_that_is_run_exists(document: str) -> None:
    modules = re.findall(r"\bpython\S* -m ([\w.]+)", "\n".join(_commands(document)))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@each_document
def test_every_training_command_is_accepted(document: str) -> None:
    for command in _commands(document):
        program, _, arguments = command.partition("-m experiments.train")
        if program != command:
            values = flags.FlagValues()
            config.define_flags(values)
            config.parse(["train", *shlex.split(arguments)], values)  # raises ConfigError


@each_document
def test_every_evaluation_command_is_accepted(document: str) -> None:
    for command in _commands(document):
        program, _, arguments = command.partition("-m experiments.evaluate")
        if program != command:
            values = flags.FlagValues()
            flagfields.define(evaluate.Command, values)
            argv = ["evaluate", *shlex.split(arguments)]
            flagfields.parse(evaluate.Command, argv, values)  # raises ConfigError


@each_document
def test_every_extra_that_is_installed_exists(document: str) -> None:
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg", encoding="utf-8")
    # Those of this project: documents install jax with extras of its own too.
    commands = " ".join(c for c in _commands(document) if "install" in c or "pip wheel" in c)
    named = re.findall(r"""(?:["' /]semjax|["' ]\.)\[([\w,]+)\]""", commands)
    assert {extra for group in named for extra in group.split(",")} <= set(
        metadata["options.extras_require"]
    )


def test_continuous_integration_runs_the_commands_for_developers() -> None:
    commands = [
        part.strip()
        for document in DOCUMENTS
        for command in _commands(document)
        if re.search(r"\[test\]|pytest|ruff|mypy", command)
        for part in command.split("&&")
    ]
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert commands
    assert [command for command in commands if command not in script] == []
