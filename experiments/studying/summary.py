"""A study's report: one Markdown text with its figures, in a folder and inside a README."""

import collections
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import records, untrusted
from experiments.reporting.headline import look_up
from experiments.studying import figures, looks, measures, plan, results, tables
from experiments.studying.looks import Picture
from experiments.studying.measures import Block
from experiments.studying.plan import Study, StudyError
from experiments.studying.tables import code, escaped, markdown

PAGE = "tables.md"
_LEVEL_IN_README = 3


class OutdatedError(ValueError):
    """A README is not what the results give; the message says how to make it."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a study says so far.

    Attributes:
      study: the plan.
      results: of the runs that are done, by name.
      blocks: the same by budget and method.
      pictures: what could be drawn, by the name of the file.
    """

    study: Study
    results: Mapping[str, Mapping[str, Any]]
    blocks: tuple[Block, ...]
    pictures: Mapping[str, Picture]


def is_study(path: str) -> bool:
    """Whether a path is a study rather than a run.

    Args:
      path: of anything.

    Returns:
      Whether it is a study.toml, or a folder that holds one.

    Example:
      >>> is_study("runs/digits-0")
      False
    """
    found = Path(path)
    return (found.name == plan.FILE and found.is_file()) or (found / plan.FILE).is_file()


def read(path: str) -> Summary:
    """Reads a study and its results.

    Args:
      path: of its folder, or of its study.toml.

    Returns:
      What it says so far.

    Raises:
      StudyError: the study, or a result, is not right.
    """
    study = plan.read(path)
    # Commands are written down as they are started from the folder one is in: the text must not
    # depend on how the path was given.
    study = dataclasses.replace(study, folder=Path(os.path.relpath(study.folder)))
    found = results.read_all(study)
    blocks = measures.blocks(study, found)
    return Summary(study, found, blocks, figures.draw(study, blocks))


def headline(summary: Summary) -> str:
    """The headline for a terminal.

    Args:
      summary: of the study.

    Returns:
      For each budget a line that says how much of it is done, and the tables.
    """
    pieces = [f"{summary.study.name}: {summary.study.title}"]
    for block in summary.blocks:
        found = "\n\n".join(map(tables.aligned, tables.headline(block)))
        pieces.append(f"{block.title} ({_done(*block.done)}); mean ± sd over seeds\n{found}")
    return "\n\n".join(pieces)


def write(summary: Summary, folder: Path) -> list[Path]:
    """Writes the page and the figures.

    Args:
      summary: of the study.
      folder: to write to.

    Returns:
      The paths written.

    Raises:
      OSError: a file cannot be written.
    """
    files: dict[Path, str | bytes] = {folder / PAGE: page(summary)}
    for name, picture in summary.pictures.items():
        files[folder / name] = looks.png(picture.figure)
    for path, content in files.items():
        records.write_atomically(path, content)
    return list(files)


def page(summary: Summary) -> str:
    """The page that lies beside the figures.

    Args:
      summary: of the study.

    Returns:
      The Markdown; the same results give the same text.
    """
    return f"# {escaped(summary.study.title)}\n\n{render(summary, level=2)}\n"


def render(summary: Summary, *, level: int = 2, folder: str = "") -> str:
    """Everything that a study says.

    Args:
      summary: of the study.
      level: of the headings, 1 to 5.
      folder: where the figures lie, seen from the text; empty for beside it.

    Returns:
      The Markdown, without a newline at the end; the same results give the same text.
    """
    mark = "#" * level
    pieces = [_introduction(summary)]
    for block in summary.blocks:
        pieces += [f"{mark} {block.title}", *_budget(block, mark)]
    if summary.pictures:
        pieces.append(f"{mark} Figures")
        for name, picture in summary.pictures.items():
            path = f"{folder}/{name}" if folder else name
            pieces += [f"![{escaped(picture.alt)}]({path})", picture.caption]
    pieces += [f"{mark} How it was made", *_conditions(summary)]
    return "\n\n".join(pieces)


def _introduction(summary: Summary) -> str:
    study = summary.study
    rows = {
        "validation": "validation rows, on which options are chosen; the test split was not used",
        "test": "test rows; nothing was chosen on them",
    }[study.split]
    return (
        f"{_done(len(summary.results), len(study.cells()))}. All numbers are of {rows}. "
        f"Seeds: {', '.join(map(str, study.seeds))}. Numbers are mean ± standard deviation (n - 1) "
        f"over seeds; methods are compared with {escaped(study.reference)} on the seeds that both "
        "have, and never across budgets."
    )


def _done(done: int, planned: int) -> str:
    return f"{done} of {planned} cells"


def _budget(block: Block, mark: str) -> list[str]:
    """All tables of a budget."""
    pieces = [_done(*block.done) + ".", *map(markdown, tables.headline(block))]
    pieces.append(f"{mark}# Differences from {escaped(block.reference)}")
    if not block.reference_row.runs:
        pieces.append(
            f"The reference, {escaped(block.reference)}, has no result yet: no differences."
        )
    else:
        pieces += [markdown(tables.difference_table(block)), tables.family_of(block)]
    for title, table in tables.factor_tables(block).items():
        pieces += [f"{mark}# {title}", markdown(table)]
    if found := tables.corruption_tables(block):
        pieces.append(
            "<details>\n<summary>Error at each corruption, mean over severities and seeds</summary>"
        )
        pieces += [markdown(table) for table in found.values()]
        pieces.append("</details>")
    return pieces


def _conditions(summary: Summary) -> list[str]:
    """What all runs share, what each method sets, what made the results and what they cost."""
    study = summary.study
    pieces = [
        f"All runs share the training flags {_flags(study.train)} and the evaluation flags "
        f"{_flags(study.evaluate)}. Each method sets:",
        markdown(tables.methods(study), words=2),
    ]
    if study.varies:
        pieces.append(
            f"Careful: methods also differ in {', '.join(map(code, study.varies))}, which is no "
            "part of how rows are mixed or of the loss. A difference between methods that differ "
            "in it may come from it alone."
        )
    commands = [study.command(), f"python -m experiments.report {study.folder.as_posix()}"]
    pieces += ["Made by", "```sh\n" + "\n".join(commands) + "\n```"]
    if summary.results:
        pieces.append(
            f"The results are of revision {_versions(summary, 'revision')}; "
            f"JAX {_versions(summary, 'jax')}; device {_versions(summary, 'device_kind')}."
        )
        for block in summary.blocks:
            pieces += [
                f"What a run costs, {block.title[0].lower()}{block.title[1:]}:",
                markdown(tables.cost(block)),
            ]
        pieces.append(
            "Times are only indicative: the machine may have been shared with other work, and "
            "compilation counts."
        )
    return pieces


def _flags(options: Mapping[str, Any]) -> str:
    return code(" ".join(plan.arguments(options))) if options else "of the defaults"


def _versions(summary: Summary, key: str) -> str:
    """What made the results; how many of each, where there are several."""
    found = collections.Counter(
        str(look_up(run, "environment", key) or "unknown") for run in summary.results.values()
    )
    if len(found) == 1:
        return code(next(iter(found)))
    return ", ".join(
        f"{code(name)} ({count} run{'s' * (count > 1)})" for name, count in sorted(found.items())
    )


def marks(name: str) -> tuple[str, str]:
    """The lines between which a README holds a study.

    Args:
      name: of the study.

    Returns:
      The first and the last.

    Example:
      >>> marks("ablation")
      ('<!-- study ablation -->', '<!-- end of study ablation -->')
    """
    return f"<!-- study {name} -->", f"<!-- end of study {name} -->"


def with_block(text: str, summary: Summary, *, readme: Path, folder: Path) -> str:
    """A README that holds what a study says between its marks.

    Args:
      text: of the README.
      summary: of the study.
      readme: where the README lies.
      folder: where the figures lie.

    Returns:
      The new text; nothing outside the marks is changed.

    Raises:
      StudyError: the marks are missing, there twice, or in the wrong order.
    """
    first, last = marks(summary.study.name)
    for mark in (first, last):
        if (count := text.count(mark)) != 1:
            there = "is missing" if count == 0 else f"is there {count} times"
            raise StudyError(
                f"{readme}: the mark {mark} {there}: write {first} and {last} once each, on lines "
                "of their own, where the tables belong"
            )
    start, end = text.index(first) + len(first), text.index(last)
    if end < start:
        raise StudyError(f"{readme}: the mark {last} stands before {first}")
    seen_from = Path(os.path.relpath(folder, readme.parent)).as_posix()
    block = render(summary, level=_LEVEL_IN_README, folder=seen_from)
    return f"{text[:start]}\n\n{block}\n\n{text[end:]}"


def read_readme(readme: Path) -> str:
    """Reads a README.

    Args:
      readme: its path.

    Returns:
      The text.

    Raises:
      StudyError: it cannot be read.
    """
    try:
        return untrusted.read_text(readme)
    except (OSError, ValueError) as error:
        raise StudyError(f"{readme} cannot be read: {untrusted.one_line(error)}") from error


def outdated(summaries: Sequence[Summary], folders: Sequence[Path], *, readme: Path) -> list[str]:
    """What a README says of studies that their results do not say.

    Args:
      summaries: of the studies.
      folders: where the figures of each lie.
      readme: path of the README.

    Returns:
      A sentence for each study whose block is another one or whose figures are missing.

    Raises:
      StudyError: the README cannot be read, or has no marks.
    """
    text = read_readme(readme)
    found = []
    for summary, folder in zip(summaries, folders, strict=True):
        name = summary.study.name
        again = f"make it by python -m experiments.report {summary.study.folder.as_posix()}"
        again = f"{again} --readme={readme.as_posix()}"
        if wrong := _first_difference(
            text, with_block(text, summary, readme=readme, folder=folder)
        ):
            found.append(f"{readme}: study {name} is not what its results give: {wrong}; {again}")
        for picture in summary.pictures:
            if not (folder / picture).is_file():
                found.append(f"{readme}: the figure {folder / picture} is missing; {again}")
    return found


def _first_difference(then: str, now: str) -> str:
    """Where two texts begin to differ; "" if they do not."""
    if then == now:
        return ""
    old, new = then.splitlines(), now.splitlines()
    place = next(
        (i for i, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), -1
    )
    if place < 0:
        return f"it has {len(old)} lines, and should have {len(new)}"
    line = re.sub(r"\s+", " ", new[place])
    return f"line {place + 1} should be {line[:80]!r}"


def report(
    paths: Sequence[str], *, output: str = "", readme: str = "", check: bool = False
) -> list[str]:
    """Writes the reports of studies, or looks whether a README holds them.

    Args:
      paths: of the studies.
      output: folder to write to, one in it for each of several studies; empty for report/ in each
        study's own.
      readme: path of a README to write the studies into; empty for none.
      check: whether to write nothing, and only to compare the README.

    Returns:
      What to tell: the headlines and the paths written.

    Raises:
      StudyError: a study, a result or the README is not right; nothing was written.
      OutdatedError: `check` finds the README to be another.
      OSError: a file cannot be written.
    """
    summaries = [read(path) for path in paths]
    names = [summary.study.name for summary in summaries]
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise StudyError(f"two studies are called {twice[0]}: report on one at a time")
    folders = [
        summary.study.folder / "report"
        if not output
        else Path(output, summary.study.name)
        if len(summaries) > 1
        else Path(output)
        for summary in summaries
    ]
    if check:
        if wrong := outdated(summaries, folders, readme=Path(readme)):
            raise OutdatedError("\n".join(wrong))
        return [f"{readme} says what the results of {', '.join(names)} give"]
    text = read_readme(Path(readme)) if readme else ""
    for summary, folder in zip(summaries, folders, strict=True):
        if readme:
            text = with_block(text, summary, readme=Path(readme), folder=folder)
    told = []
    for summary, folder in zip(summaries, folders, strict=True):
        told += [headline(summary), *map(str, write(summary, folder))]
    if readme:
        records.write_atomically(readme, text)
        told.append(readme)
    return told
