"""The measure of `import semjax`: in turn, with bytecode, and a failure by its reason."""

import statistics

import pytest

from benchmarks import imports, report

QUICK = "import json"


def test_both_imports_are_timed_in_as_many_rounds_as_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imports, "_UNDER", QUICK)
    said: list[str] = []
    (found,) = imports.measure(rounds=3, statement="import math", say=said.append)
    over, under = found.details["seconds"]["import math"], found.details["seconds"][QUICK]
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    assert found.spread is not None and list(found.spread.rounds) == ratios
    assert len(ratios) == 3 and found.spread.median == statistics.median(ratios)
    assert found.target == 1.10
    assert said == ["bytecode written", *(f"round {number} of 3" for number in (1, 2, 3))]
    row = f"| imports | `import math` / `{QUICK}`, bytecode cached |"
    assert row in report.table([found])


def test_bytecode_is_kept_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imports, "_UNDER", QUICK)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    checks = "import sys; assert sys.pycache_prefix and not sys.dont_write_bytecode"
    (found,) = imports.measure(rounds=1, statement=checks)
    assert not found.failed and found.spread is not None


def test_an_import_that_fails_is_told_by_its_last_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imports, "_UNDER", QUICK)
    (found,) = imports.measure(rounds=1, statement="import no_such_module")
    assert found.spread is None
    assert found.failed == (
        "import no_such_module: ModuleNotFoundError: No module named 'no_such_module'"
    )
