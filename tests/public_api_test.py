"""The interface changes on purpose or not at all: public names, their parameters and defaults."""

import difflib
import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path

import public_api
import pytest

ADVICE = (
    "The public interface is no longer that of tests/public_api.txt (+ now, - before). If this is "
    "meant, run `python tests/public_api.py`, commit the list, and say it in CHANGELOG.md under "
    "Unreleased; a name or parameter that is gone breaks the code of others."
)


def difference(before: list[str], now: list[str]) -> str:
    """What to tell of two lists; empty if they are the same."""
    lines = difflib.unified_diff(before, now, n=0, lineterm="")
    changed = [line for line in lines if line[:3] not in ("---", "+++") and line[0] in "+-"]
    return "\n".join([ADVICE, *changed]) if changed else ""


def test_the_interface_is_the_one_that_was_agreed(lines: Callable[[str], list[str]]) -> None:
    agreed = public_api.LIST.read_text("utf-8").splitlines()
    assert not (told := difference(agreed, public_api.listed())), told


@pytest.fixture
def lines(tmp_path: Path) -> Callable[[str], list[str]]:
    """The interface of a module, from its source."""
    number = itertools.count()

    def of(source: str) -> list[str]:
        path = tmp_path / f"made_{next(number)}.py"
        path.write_text(source, "utf-8")
        spec = importlib.util.spec_from_file_location("semjax.made", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return sorted(public_api.of_module(module))

    return of


BEFORE = "def f(x, *, size=2, act=print): pass\ndef _hidden(): pass\n"


def test_a_name_a_parameter_a_kind_and_a_default_are_each_seen(
    lines: Callable[[str], list[str]],
) -> None:
    before = lines(BEFORE)
    assert before == ["semjax.made.f(x, *, size=2, act=print)"]
    for change in (
        BEFORE.replace("def f", "def g"),
        BEFORE.replace("size=2", "side=2"),
        BEFORE.replace("size=2", "size=3"),
        BEFORE.replace("size=2", "size"),
        BEFORE.replace("*, ", ""),
        BEFORE + "def more(): pass\n",
    ):
        told = difference(before, lines(change))
        assert told.startswith(ADVICE) and "\n+semjax.made." in told, change


def test_what_is_private_annotated_or_written_inside_is_no_part_of_it(
    lines: Callable[[str], list[str]],
) -> None:
    for change in (
        BEFORE + "def _more(): pass\n",
        BEFORE.replace("x,", "x: int,"),
        BEFORE.replace("size=2, act=print): pass", "size=2, act=print): return 1"),
    ):
        assert difference(lines(BEFORE), lines(change)) == ""


def test_fields_and_methods_of_a_class_are_part_of_it(lines: Callable[[str], list[str]]) -> None:
    source = (
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class C:\n"
        "    a: int\n"
        "    b: int = 1\n"
        "    def m(self, k=0): pass\n"
        "    @property\n"
        "    def p(self): pass\n"
        "    @classmethod\n"
        "    def made(cls, text): pass\n"
        "    def _own(self): pass\n"
    )
    assert set(lines(source)) == {
        "class semjax.made.C(a, b=1)",
        "semjax.made.C.a",
        "semjax.made.C.b",
        "semjax.made.C.m(self, k=0)",
        "semjax.made.C.made(cls, text)",
        "semjax.made.C.p",
    }
