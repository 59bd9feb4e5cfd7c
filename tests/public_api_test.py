"""The interface changes on purpose or not at all: public names, their parameters and defaults."""

import difflib
import types

import public_api

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


def test_the_interface_is_the_one_that_was_agreed() -> None:
    agreed = public_api.LIST.read_text("utf-8").splitlines()
    assert not (told := difference(agreed, public_api.listed())), told


def _module(source: str) -> types.ModuleType:
    module = types.ModuleType("semjax.made")
    module.__dict__["__name__"] = "semjax.made"
    exec(source, module.__dict__)
    return module


def _lines(source: str) -> list[str]:
    return sorted(public_api.of_module(_module(source)))


BEFORE = "def f(x, *, size=2, act=print): pass\ndef _hidden(): pass\n"


def test_a_name_a_parameter_a_kind_and_a_default_are_each_seen() -> None:
    before = _lines(BEFORE)
    assert before == ["semjax.made.f(x, *, size=2, act=print)"]
    for change in (
        BEFORE.replace("def f", "def g"),
        BEFORE.replace("size=2", "side=2"),
        BEFORE.replace("size=2", "size=3"),
        BEFORE.replace("size=2", "size"),
        BEFORE.replace("*, ", ""),
        BEFORE + "def more(): pass\n",
    ):
        told = difference(before, _lines(change))
        assert told.startswith(ADVICE) and "\n+semjax.made." in told, change


def test_what_is_private_annotated_or_written_inside_is_no_part_of_it() -> None:
    for change in (
        BEFORE + "def _more(): pass\n",
        BEFORE.replace("x,", "x: int,"),
        BEFORE.replace("size=2, act=print): pass", "size=2, act=print): return 1"),
    ):
        assert difference(_lines(BEFORE), _lines(change)) == ""


def test_fields_and_methods_of_a_class_are_part_of_it() -> None:
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
    assert set(_lines(source)) == {
        "class semjax.made.C(a, b=1)",
        "semjax.made.C.a",
        "semjax.made.C.b",
        "semjax.made.C.m(self, k=0)",
        "semjax.made.C.made(cls, text)",
        "semjax.made.C.p",
    }
