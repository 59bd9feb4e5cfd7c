"""A policy is one file, one reference, one row: each public one has all three, or is told.

Policies made of other ones (`choose`, `scheduled`, `lisa`) mix by those, and need no reference of
their own: the overview of the reference names them.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import every_policy_test
import parity
import pytest

import experiments.policies
import semjax

ROOT = Path(__file__).resolve().parents[1]
METHODS = (ROOT / "docs" / "methods.md").read_text("utf-8")
REFERENCE_PAGE = (ROOT / "docs" / "reference" / "policies.md").read_text("utf-8")
# The files of references: NumPy and SciPy alone, nothing of the library.
REFERENCES = ("reference", "policy_reference", "saliency_reference", "solver_reference")
FACTORIES = {
    name: getattr(semjax.policies, name)
    for name in semjax.policies.__all__
    if inspect.isfunction(getattr(semjax.policies, name))
}
MADE_OF_OTHERS = {
    name
    for name, factory in FACTORIES.items()
    # Its first argument is the policy it changes, or policies; lisa chooses between two of mixup's.
    if name == "lisa"
    or next(iter(inspect.signature(factory).parameters.values())).kind
    is inspect.Parameter.POSITIONAL_OR_KEYWORD
}


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a policy must be found, so that a test can take one away.

    Attributes:
      rows: of docs/parity.md.
      methods: the text of docs/methods.md.
      reference: the text of docs/reference/policies.md.
      program: the policies that --policy names.
      trained: the policies that every_policy_test trains with.
    """

    rows: tuple[parity.Row, ...] = tuple(parity.ROWS)
    methods: str = METHODS
    reference: str = REFERENCE_PAGE
    program: frozenset[str] = frozenset(experiments.policies.POLICIES)
    trained: frozenset[str] = frozenset(every_policy_test.POLICIES)


def lacks(name: str, factory: Callable[..., object], places: Places) -> list[str]:
    """What is still to be done for a policy, as a person would be told."""
    module = factory.__module__
    found = []
    if not module.startswith("semjax.policies."):
        found.append(f"{name}: move it into a file of semjax/policies; it is in {module}")
    rows = [row for row in places.rows if row.policy.partition(",")[0] == name]
    if not rows:
        found.append(f"{name}: add a Row to ROWS in tests/parity.py, run `python tests/parity.py`")
    found += [
        f"{row.policy}: its row compares with no reference; write one in NumPy in "
        "tests/policy_reference.py"
        for row in rows
        if not compares(row.deviation)
    ]
    if not re.search(rf"^\| `{name}` \|", places.methods, re.MULTILINE):
        found.append(f"{name}: add its row to the table of docs/methods.md")
    if f"::: {module}\n" not in places.reference + "\n":
        found.append(f"{name}: add `::: {module}` to docs/reference/policies.md")
    if name not in places.program:
        found.append(f"{name}: add it to POLICIES in experiments/policies.py, for --policy={name}")
    if name not in places.trained:
        found.append(f"{name}: add it to POLICIES in tests/every_policy_test.py")
    return found


def compares(deviation: Callable[..., object]) -> bool:
    """Whether a row's function compares what the library does with something written apart."""
    source = inspect.getsource(deviation)
    used = re.findall(r"\b(\w+)\.\w+\(", source)
    loops = "np.ndindex" in source  # the reference stands in the function itself
    called = re.findall(r"lambda: (\w+)\(", source)  # a row with options of another one
    return bool(
        set(used) & set(REFERENCES)
        or loops
        or any(compares(getattr(parity, name)) for name in called)
    )


SIMPLE = {name: factory for name, factory in FACTORIES.items() if name not in MADE_OF_OTHERS}


@pytest.mark.parametrize("name", SIMPLE)
def test_every_policy_has_its_file_its_reference_and_its_rows(name: str) -> None:
    assert lacks(name, SIMPLE[name], Places()) == []


def test_every_policy_made_of_others_is_in_the_overview() -> None:
    assert {"choose", "scheduled", "lisa", "at_layers", "with_noise"} == MADE_OF_OTHERS
    page = (ROOT / "docs" / "reference" / "index.md").read_text("utf-8")
    assert {name for name in MADE_OF_OTHERS if f"[{name}][" in page} == MADE_OF_OTHERS


def test_the_references_take_nothing_from_the_library() -> None:
    for name in REFERENCES:
        tree = ast.parse((ROOT / "tests" / f"{name}.py").read_text("utf-8"))
        imported = {
            module.partition(".")[0]
            for node in ast.walk(tree)
            for module in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        # The solvers' reference has the library solve a problem and compares the answers' worth.
        allowed = {"semjax", "jax"} if name == "solver_reference" else set()
        assert imported & {"semjax", "jax", "experiments"} <= allowed, name


def _newmix(*, alpha: float = 1.0) -> object:
    """A policy that somebody has begun."""
    return alpha


def test_a_policy_that_is_only_written_down_is_told_all_that_is_missing() -> None:
    _newmix.__module__ = "semjax.policies.newmix"
    assert lacks("newmix", _newmix, Places()) == [
        "newmix: add a Row to ROWS in tests/parity.py, run `python tests/parity.py`",
        "newmix: add its row to the table of docs/methods.md",
        "newmix: add `::: semjax.policies.newmix` to docs/reference/policies.md",
        "newmix: add it to POLICIES in experiments/policies.py, for --policy=newmix",
        "newmix: add it to POLICIES in tests/every_policy_test.py",
    ]


def _same_twice() -> float:
    """Compares the library with itself."""
    return parity._gap(semjax.mixup(), semjax.mixup())


def test_each_missing_part_of_a_policy_is_found() -> None:
    whole, name = Places(), "cutmix"
    others = tuple(row for row in whole.rows if not row.policy.startswith(name))
    row = next(row for row in whole.rows if row.policy == name)
    alone = dataclasses.replace(row, deviation=_same_twice)
    line = next(line for line in METHODS.splitlines() if line.startswith(f"| `{name}` |"))
    taken = {
        "add a Row to ROWS": dataclasses.replace(whole, rows=others),
        "compares with no reference": dataclasses.replace(whole, rows=(*others, alone)),
        "docs/methods.md": dataclasses.replace(whole, methods=METHODS.replace(line, "")),
        "docs/reference/policies.md": dataclasses.replace(
            whole, reference=REFERENCE_PAGE.replace("::: semjax.policies.cutmix", "")
        ),
        "experiments/policies.py": dataclasses.replace(whole, program=whole.program - {name}),
        "tests/every_policy_test.py": dataclasses.replace(whole, trained=whole.trained - {name}),
    }
    for told, places in taken.items():
        (missing,) = lacks(name, semjax.cutmix, places)
        assert missing.startswith(name) and told in missing
