"""The tables of docs/architecture.md, from the source: `python docs/building/architecture.py`.

What a package imports is read from its files, inside functions too. Imports for annotations alone
(`if TYPE_CHECKING:`) are left out, since nothing runs by them.
"""

import ast
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
_BLOCK = re.compile(r"(<!-- packages -->\n).*?(<!-- end of packages -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Package:
    """A package and what it is to the others.

    Attributes:
      name: in full.
      what: the first line of its docstring.
      modules: how many, itself left out.
      lines: of all its modules.
      largest: lines of the largest one.
      imports: the other packages of the repository that it imports.
    """

    name: str
    what: str
    modules: int
    lines: int
    largest: int
    imports: tuple[str, ...]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """The modules of the repository.

    Args:
      root: of the checkout.

    Returns:
      The file of each module by its full name; of a package, its `__init__.py`.
    """
    found = {}
    for folder in ("semjax", "experiments"):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(known: dict[str, Path], *, when_loaded: bool = False) -> dict[str, set[str]]:
    """Which modules of the repository each of them imports.

    Args:
      known: what `modules` found.
      when_loaded: leave out what is imported inside functions, as late as it is needed.

    Returns:
      The names by the name of the module that imports them.
    """
    return {name: set(_imported(path, known, when_loaded)) for name, path in known.items()}


def _imported(path: Path, known: dict[str, Path], when_loaded: bool) -> Iterator[str]:
    todo: list[ast.AST] = [ast.parse(path.read_text("utf-8"), str(path))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if when_loaded and isinstance(node, ast.FunctionDef):
            continue
        named = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be one of its modules.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                named.append(full if full in known else node.module)
        yield from (name for name in named if name in known)
        todo += ast.iter_child_nodes(node)


def packages(root: Path = ROOT) -> list[Package]:
    """The packages in the order of their names.

    Args:
      root: of the checkout.

    Returns:
      One Package each.
    """
    known = modules(root)
    names = [name for name, path in known.items() if path.name == "__init__.py"]

    def home(module: str) -> str:
        return module if module in names else module.rpartition(".")[0]

    found, graph = [], imports(known)
    for package in sorted(names):
        own = [name for name in known if home(name) == package]
        sizes = [len(known[name].read_text("utf-8").splitlines()) for name in own]
        used = {home(other) for name in own for other in graph[name]} - {package}
        docstring = ast.get_docstring(ast.parse(known[package].read_text("utf-8"))) or ""
        what = docstring.partition("\n")[0]
        size = (len(own) - 1, sum(sizes), max(sizes))
        found.append(Package(package, what, *size, tuple(sorted(used))))
    return found


def table(found: list[Package]) -> str:
    """The packages as a table.

    Args:
      found: in order.

    Returns:
      Markdown, lines rounded.
    """
    rows = [
        "| package | what | modules | lines | largest module | imports |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        used = ", ".join(f"`{name}`" for name in each.imports) or "nothing of these"
        what = each.what.rstrip(".").replace("|", "\\|")
        sizes = f"{each.modules} | {_rounded(each.lines)} | {_rounded(each.largest)}"
        rows.append(f"| `{each.name}` | {what} | {sizes} | {used} |")
    return "\n".join(rows)


def _rounded(lines: int) -> str:
    """Lines to two digits: the page is about size, and need not change with each of them."""
    unit = 10 ** max(len(str(lines)) - 2, 0)
    return f"{round(lines / unit) * unit:,}"


def rendered(page: str, root: Path = ROOT) -> str:
    """The page with its table as the source has it now.

    Args:
      page: the text of docs/architecture.md.
      root: of the checkout.

    Returns:
      The text.

    Raises:
      ValueError: the page has no place for the table, or several.
    """
    text = table(packages(root))
    page, number = _BLOCK.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)
    if number != 1:
        raise ValueError(
            "the page must hold one table, between <!-- packages --> and "
            f"<!-- end of packages -->; found {number}"
        )
    return page


def main() -> int:
    """Rewrites the page.

    Returns:
      The exit code, 0.
    """
    PAGE.write_text(rendered(PAGE.read_text("utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
