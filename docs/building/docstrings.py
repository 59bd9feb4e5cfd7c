"""How the docstrings of semjax are read for the reference.

They are Markdown with Google's sections. Some habits of theirs need a word: an `Example` is one
section of prompts, and a table may hold |x|, whose bars are no borders of cells. And x[a][b] is no
link of Markdown.
"""

from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring as the parser of the site wants it.

    Args:
      text: the docstring.

    Returns:
      The same with `Examples:` for `Example:`, and with as many cells in each row of a table as in
      its head.
    """
    text, heading, example = text.partition("\nExample:\n")
    lines = _without_references(text).split("\n")
    columns = 0
    for place, line in enumerate(lines):
        if not line.strip().startswith("|"):
            columns = 0
            continue
        cells = line.strip().strip("|").split("|")
        columns = columns or len(cells)
        if len(cells) > columns:
            *first, rest = [*cells[: columns - 1], "&#124;".join(cells[columns - 1 :])]
            indent = line[: len(line) - len(line.lstrip())]
            lines[place] = f"{indent}|{'|'.join([*first, rest])}|"
    text = "\n".join(lines)
    return text + "\nExamples:\n" + example if heading else text


def _without_references(text: str) -> str:
    """x[a][b] outside backticks is two subscripts, not a link."""
    parts = text.split("`")
    parts[::2] = [part.replace("][", "]&#91;") for part in parts[::2]]
    return "`".join(parts)
