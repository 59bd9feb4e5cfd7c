"""The project's flag files as a table: what each trains, and what to expect of it.

Both stand in the first line of a file: `# What it trains. Measured: ...` or `... Not measured ...`.
"""

import dataclasses
import itertools
import re
import textwrap
from pathlib import Path

from experiments import untrusted
from experiments.command_line.flagfiles import FLAG_DIR, expand_flag_files

_FIRST_LINE = re.compile(r"# (?P<description>\S.*?)\. (?P<expected>(?:Measured|Not measured)\b.*)")
_NARROWEST = 24  # a column of text is wrapped at no fewer characters


@dataclasses.dataclass(frozen=True)
class Entry:
    """A flag file.

    Attributes:
      name: of the file, as --flagfile takes it.
      data_set: what it trains on.
      description: what it trains, one phrase.
      expected: what was measured, or that nothing was; empty where the file does not say.
    """

    name: str
    data_set: str
    description: str
    expected: str


def entries(folder: Path = FLAG_DIR) -> list[Entry]:
    """The flag files of a folder.

    Args:
      folder: where they lie.

    Returns:
      An entry a file, sorted by data set, then by name.

    Raises:
      ConfigError: a file cannot be read, or names another that cannot.

    Example:
      >>> [entry.expected for entry in entries() if entry.name == "digits_erm.flags"]
      ['99.17 % test (n=1)']
    """
    found = [_entry(path) for path in sorted(folder.glob("*.flags"))]
    return sorted(found, key=lambda entry: (entry.data_set, entry.name))


def table(found: list[Entry], width: int | None = None) -> str:
    """The entries as text, those of a data set under its name.

    Args:
      found: sorted by data set.
      width: characters that a line may have; None for one line an entry, however long.

    Returns:
      The lines, without a newline at the end.

    Example:
      >>> print(table([Entry("a.flags", "digits", "Mixup", "99 % test (n=1)")]))
      digits
        a.flags  Mixup  99 % test (n=1)
    """
    name = max((len(entry.name) for entry in found), default=0)
    text = max((len(entry.description) for entry in found), default=0)
    if width is not None:
        left = max(width - name - 6, 2 * _NARROWEST)  # two columns of text and what parts them
        text = min(text, left // 2)
    lines: list[str] = []
    for data_set, group in itertools.groupby(found, lambda entry: entry.data_set):
        lines.append(data_set)
        for entry in group:
            columns = [entry.description], [entry.expected]
            if width is not None:
                columns = (
                    textwrap.wrap(entry.description, text),
                    textwrap.wrap(entry.expected, left - text),
                )
            rows = itertools.zip_longest([entry.name], *columns, fillvalue="")
            lines += [f"  {a:<{name}}  {b:<{text}}  {c}".rstrip() for a, b, c in rows]
    return "\n".join(lines)


def _entry(path: Path) -> Entry:
    args, _ = expand_flag_files([f"--flagfile={path}"])
    named = [arg.partition("=")[2] for arg in args if arg.startswith("--dataset=")]
    first = untrusted.read_text(path).partition("\n")[0].strip()
    match = _FIRST_LINE.fullmatch(first)
    description = match["description"] if match else first.lstrip("# ")
    expected = match["expected"].rstrip(".") if match else ""
    expected = expected.removeprefix("Measured: ")
    return Entry(path.name, named[-1] if named else "-", description, _lowered(expected))


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if text.startswith("Not ") else text
