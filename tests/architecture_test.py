"""docs/architecture.md says what the source is: packages, sizes, and who imports whom."""

import graphlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python docs/building/architecture.py"


def _load() -> ModuleType:
    path = ROOT / "docs" / "building" / "architecture.py"
    spec = importlib.util.spec_from_file_location("architecture", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["architecture"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


architecture = _load()
MODULES = architecture.modules()
IMPORTS = architecture.imports(MODULES)
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}
PROGRAMS = {
    name for name, path in MODULES.items() if 'if __name__ == "__main__":' in path.read_text()
}
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def _rows(page: str) -> dict[str, list[str]]:
    """The other cells of the table by package."""
    rows = re.findall(r"^\| `(semjax[\w.]*|experiments[\w.]*)` \| (.+) \|$", page, re.MULTILINE)
    return {name: re.split(r"(?<!\\) \| ", cells) for name, cells in rows}


def _numbers(cells: list[str]) -> list[int]:
    return [int(cell.replace(",", "")) for cell in cells]


def test_the_table_is_of_the_source() -> None:
    found, expected = _rows(PAGE), _rows(architecture.rendered(PAGE))
    assert sorted(found) == sorted(expected) == sorted(PACKAGES)
    for name, (what, modules, lines, largest, imports) in expected.items():
        advice = f"{name}: if this is meant, run {COMMAND}"
        assert [found[name][0], found[name][1], found[name][4]] == [what, modules, imports], advice
        # Of lines a tenth, so that the page need not change with every function.
        stated, actual = _numbers(found[name][2:4]), _numbers([lines, largest])
        assert stated == pytest.approx(actual, rel=0.1), advice


def test_modules_import_each_other_in_one_direction() -> None:
    graph = architecture.imports(MODULES, when_loaded=True)
    order = graphlib.TopologicalSorter(
        {name: graph[name] - PACKAGES for name in MODULES if name not in PACKAGES}
    )
    assert len(list(order.static_order())) == len(MODULES) - len(PACKAGES)  # raises at a cycle


def test_the_method_never_uses_the_study() -> None:
    for name, used in IMPORTS.items():
        if name.startswith("semjax"):
            assert not {other for other in used if other.startswith("experiments")}, name


def test_programs_are_those_that_the_page_names_and_nothing_below_uses_one() -> None:
    listed = re.search(r"\*\*Programs are at the top of experiments\*\*: ([^.]+)\.", PAGE)
    assert listed
    named = {f"experiments.{name}" for name in re.findall(r"`(\w+)`", listed.group(1))}
    # The reader of an export is a file that is copied into it, and a program there.
    assert named == PROGRAMS - {"experiments.read_export"}
    assert {name: used & named for name, used in IMPORTS.items() if used & named} == {}


def test_networks_know_layers_and_layers_nothing() -> None:
    of = {row: cells[4] for row, cells in _rows(PAGE).items()}
    assert of["experiments.networks"] == "`experiments.layers`"
    assert of["experiments.layers"] == of["semjax.corruptions"] == "nothing of these"


def test_pages_know_no_runs() -> None:
    used = set().union(
        *(used for name, used in IMPORTS.items() if name.startswith("experiments.reporting"))
    )
    outside = {name for name in used if not name.startswith("experiments.reporting")}
    assert outside == {"experiments.records"}  # the line format of metrics


def test_every_module_that_the_page_names_exists() -> None:
    names = set(re.findall(r"`((?:semjax|experiments)\.[\w.]+)`", PAGE))
    assert names <= set(MODULES)
    flow = PAGE.partition("## From disk to checkpoint")[2]
    assert len(re.findall(r"^\| \d+ \|", flow, re.MULTILINE)) == 10


# --- The table is made right ---------------------------------------------------------------------


def test_packages_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "semjax" / "inner").mkdir(parents=True)
    (tmp_path / "experiments").mkdir()
    files = {
        "semjax/__init__.py": '"""The method | all of it.\n\nMore.\n"""\n',
        "semjax/alone.py": "x = 1\n" * 149,
        "semjax/inner/__init__.py": '"""Inside."""\n',
        "semjax/inner/part.py": "def f():\n    from semjax import alone\n    return alone\n",
        "experiments/__init__.py": '"""The study."""\n',
        "experiments/top.py": (
            "from typing import TYPE_CHECKING\nimport semjax.inner.part\n"
            "if TYPE_CHECKING:\n    from semjax import alone\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    study, method, inner = architecture.packages(tmp_path)
    assert (study.imports, method.imports, inner.imports) == (("semjax.inner",), (), ("semjax",))
    assert (method.modules, method.lines, method.largest) == (1, 153, 149)
    known = architecture.modules(tmp_path)
    assert architecture.imports(known, when_loaded=True)["semjax.inner.part"] == set()
    page = "Before\n<!-- packages -->\nold\n<!-- end of packages -->\nafter"
    text = architecture.rendered(page, tmp_path)
    assert "| `semjax` | The method \\| all of it | 1 | 150 | 150 | nothing of these |" in text
    assert text.startswith("Before\n") and text.endswith("\nafter") and "old" not in text


def test_a_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the page must hold one table.*found 0"):
        architecture.rendered("# Architecture")
