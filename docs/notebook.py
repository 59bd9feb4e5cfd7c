"""Makes docs/tour.ipynb of docs/tour.md: `python docs/notebook.py`.

Blocks of Python become cells, run one after the other, with what they print; everything else is
text. The page is the source, so that there is one tour and not two.
"""

import code
import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "tour.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def cells(text: str) -> list[dict[str, Any]]:
    """The page as cells of a notebook, not run yet."""
    found, end = [], 0
    for block in _BLOCK.finditer(text):
        found += [_cell("markdown", text[end : block.start()]), _cell("code", block.group(1))]
        end = block.end()
    found = [cell for cell in [*found, _cell("markdown", text[end:])] if cell["source"]]
    return [{"id": f"cell-{place}", **cell} for place, cell in enumerate(found)]


def run(notebook: list[dict[str, Any]]) -> None:
    """Runs the cells of code in order and keeps what they print; the first that fails ends it."""
    python = code.InteractiveInterpreter({"__name__": "__main__"})
    count = 0
    for cell in notebook:
        if cell["cell_type"] != "code":
            continue
        count += 1
        printed, failed = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(failed):
            python.runsource("".join(cell["source"]) + "\n", str(PAGE), "exec")
        if "Traceback" in failed.getvalue():
            sys.exit(failed.getvalue())
        cell["execution_count"] = count
        lines = printed.getvalue().splitlines(keepends=True)
        if lines:
            cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}]


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return {**cell, "source": text.strip().splitlines(keepends=True)}


def main() -> None:
    """Writes the notebook."""
    text = PAGE.read_text("utf-8")
    text = text.replace(" This page is also a [notebook](tour.ipynb), with its outputs.", "")
    notebook = cells(text)
    run(notebook)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": notebook,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    PAGE.with_suffix(".ipynb").write_text(
        json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )


if __name__ == "__main__":
    main()
