"""The tables of a study, as Markdown and for a terminal."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.reporting.headline import Metric, look_up, number
from experiments.reporting.report_html import plain
from experiments.studying import measures
from experiments.studying.measures import Block, Row
from experiments.studying.plan import Study, arguments
from experiments.studying.statistics import Difference, Spread, difference, family, spread

MISSING = "-"
NOT_RUN = "not run"
STAR = "★"
# GitHub shows about twelve columns without a scroll bar; four of a headline are not measures.
_MEASURES_IN_A_TABLE = 8
_RATE = Metric("", "", "", "higher")
_SCORE = Metric("", "", "", "higher", percent=False)


class Code(str):
    """A text that Markdown shows as code."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: the first column names the rows.

    Attributes:
      head: the titles of the columns.
      rows: the cells.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def markdown(table: Table, *, words: int = 1) -> str:
    r"""A table as Markdown.

    Args:
      table: the table; the texts of its head and of columns of words are shown as they are.
      words: columns of words, aligned left; the others hold figures and are aligned right.

    Returns:
      The lines, without a newline at the end.

    Example:
      >>> print(markdown(Table(("method", "accuracy"), (("a|b", "75.0"),))))
      | method | accuracy |
      | :--- | ---: |
      | a\|b | 75.0 |
    """
    marks = [":---" if place < words else "---:" for place in range(len(table.head))]
    lines = [
        [_cell(text) if place < words else text for place, text in enumerate(row)]
        for row in table.rows
    ]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in (map(escaped, table.head), marks, *lines)
    )


def _cell(text: str) -> str:
    # A table is cut at its bars before code is looked for.
    return code(text).replace("|", r"\|") if isinstance(text, Code) else escaped(text)


def escaped(text: str) -> str:
    r"""A text as Markdown that shows it.

    Args:
      text: in one line.

    Returns:
      The Markdown.

    Example:
      >>> escaped("sem_mixup *new* <b>")
      'sem_mixup \\*new\\* \\<b\\>'
    """
    shown = " ".join(plain(text).split())
    # An underscore inside a word is no mark.
    return re.sub(r"[\\|*`<>\[\]~$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", shown)


def code(text: str) -> str:
    """A text as Markdown code.

    Args:
      text: in one line.

    Returns:
      The Markdown.

    Example:
      >>> code("--policy=mixup")
      '`--policy=mixup`'
    """
    shown = " ".join(plain(text).split())
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def aligned(table: Table) -> str:
    """A table for a terminal.

    Args:
      table: the table.

    Returns:
      The lines, without a newline at the end.

    Example:
      >>> print(aligned(Table(("method", "accuracy"), (("erm", "75.0"),))))
      method  accuracy
      erm         75.0
    """
    lines = [[plain(cell) for cell in line] for line in (table.head, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def headline(block: Block) -> list[Table]:
    """Every measure that at least one run has: mean ± sd over seeds.

    Args:
      block: a budget's.

    Returns:
      One table, or several with the same rows where one would be too wide.
    """
    found = [m for m in measures.MEASURES if any(measures.values(row, m) for row in block.rows)]
    size = _MEASURES_IN_A_TABLE
    pieces = [found[start : start + size] for start in range(0, len(found), size)] or [[]]
    return [_headline(block, piece) for piece in pieces]


def _headline(block: Block, metrics: Sequence[Metric]) -> Table:
    head = ("method", "n", "rows/step", "steps", *(f"{m.title} {m.arrow}" for m in metrics))
    rows = tuple(
        (
            row.method,
            _number_of(row),
            f"{row.rows_per_step:.5g}",
            str(row.cell.steps),
            *(_spread(m, spread(measures.values(row, m).values()), row) for m in metrics),
        )
        for row in block.rows
    )
    return Table(head, rows)


def differences(block: Block) -> dict[tuple[str, str], Difference]:
    """The differences of all methods from the reference in all compared measures.

    Args:
      block: a budget's.

    Returns:
      By method and name of the measure, for the measures that any run has; corrected by Holm as one
      family.
    """
    found = [m for m in measures.COMPARED if any(measures.values(row, m) for row in block.rows)]
    reference = {m.name: measures.values(block.reference_row, m) for m in found}
    return family(
        {
            (row.method, m.name): difference(measures.values(row, m), reference[m.name])
            for row in block.others
            for m in found
        }
    )


def difference_table(block: Block) -> Table:
    """Differences from the reference: a mean, its interval, and a star if it is significant.

    Args:
      block: a budget's.

    Returns:
      The table: a row for each method but the reference.
    """
    found = differences(block)
    metrics = [m for m in measures.COMPARED if any(name == m.name for _, name in found)]
    rows = tuple(
        (row.method, *(_difference(m, found[row.method, m.name], row.planned) for m in metrics))
        for row in block.others
    )
    return Table(("method", *(f"{m.title} {m.arrow}" for m in metrics)), rows)


def family_of(block: Block) -> str:
    """The sentences below a table of differences: what they are and what they are corrected for.

    Args:
      block: a budget's.

    Returns:
      The sentences, as Markdown.
    """
    found = differences(block)
    tested = [name for name, one in found.items() if one.p is not None]
    methods = len({method for method, _ in tested})
    names = [m.label for m in measures.COMPARED if any(name == m.name for _, name in tested)]
    told = (
        f"Method minus {escaped(block.reference)}: the mean of the paired differences over the "
        "seeds that both have, with its 95 % t interval; percentages differ in percentage points. "
        "(k): only k pairs; one pair, or pairs that do not vary, give no interval. "
    )
    if not tested:
        return told + "Nothing could be tested."
    return told + (
        f"{STAR}: significant at 0.05 by the two-sided paired t test after Holm's correction over "
        f"the family of all {len(tested)} tests of this table ({methods} methods; "
        f"{', '.join(names)}). The intervals are not corrected."
    )


def corruption_tables(block: Block) -> dict[str, Table]:
    """The error at each corruption, mean over severities and seeds.

    Args:
      block: a budget's.

    Returns:
      By kind of corruption, a table; the last of several columns is the mean of the others.
    """
    found = {}
    for kind, names in measures.corruptions(block).items():
        columns = {name: [name] for name in names}
        if len(names) > 1:
            columns[f"mean: {kind}"] = names
        head = ("method", *(f"{name.replace('_', ' ')}, % ↓" for name in columns))
        rows = tuple(
            (
                row.method,
                *(_mean(_RATE, measures.error(row, names).values()) for names in columns.values()),
            )
            for row in block.rows
        )
        found[kind] = Table(head, rows)
    return found


def factor_tables(block: Block) -> dict[str, Table]:
    """What probes found of each factor, and the accuracy on each group: mean ± sd over seeds.

    Args:
      block: a budget's.

    Returns:
      Tables by title, of what was measured.
    """
    found = {}
    for title, of_run, metric in (
        ("Probe score above chance, of what is above it ↑", measures.probes, _SCORE),
        ("Accuracy on each group, % ↑", measures.groups, _RATE),
    ):
        if names := measures.parts(block, of_run):
            rows = tuple(_factors(row, names, of_run, metric) for row in block.rows)
            found[title] = Table(("method", *names), rows)
    return found


def _factors(
    row: Row, names: Sequence[str], of_run: Callable[[Mapping[str, Any]], Any], metric: Metric
) -> tuple[str, ...]:
    found = [
        spread(measures.by_seed(row, functools.partial(_of, of_run, name)).values())
        for name in names
    ]
    return row.method, *(_spread(metric, one, row) for one in found)


def _of(of_run: Callable[[Mapping[str, Any]], Any], name: str, run: Mapping[str, Any]) -> Any:
    return of_run(run).get(name)


def methods(study: Study) -> Table:
    """What each method sets.

    Args:
      study: the plan.

    Returns:
      The table.
    """
    rows = tuple(
        (name, Code(" ".join(arguments(own))) if own else MISSING)
        for name, own in study.methods.items()
    )
    return Table(("method", "flags"), rows)


def cost(block: Block) -> Table:
    """What a run costs: rows and time.

    Args:
      block: a budget's.

    Returns:
      The table.
    """
    rows = []
    for row in block.rows:
        second = measures.by_seed(row, _seconds_per_step)
        speed = measures.by_seed(row, lambda run: look_up(run, "images_per_second"))
        rows.append(
            (
                row.method,
                f"{row.cell.rows:,.0f}",
                _plain(spread(second.values()), 3),
                _plain(spread(speed.values()), 0),
            )
        )
    return Table(("method", "rows forwarded", "s/step", "images/s"), tuple(rows))


def _seconds_per_step(run: Mapping[str, Any]) -> float | None:
    seconds, steps = number(look_up(run, "seconds", "train")), number(look_up(run, "steps"))
    return seconds / steps if seconds is not None and steps else None


def _number_of(row: Row) -> str:
    """How many seeds have run; of how many, if some have not."""
    if not row.runs:
        return NOT_RUN
    return str(row.planned) if len(row.runs) == row.planned else f"{len(row.runs)} of {row.planned}"


def _show(metric: Metric, value: float, *, sign: bool = False) -> str:
    """One decimal of a percentage: more would be noise of the seeds."""
    digits, scale = (1, 100) if metric.percent else (3, 1)
    text = f"{scale * value:{'+' if sign else ''}.{digits}f}"
    # What rounds to zero has no sign.
    return text.replace("-", "+" if sign else "") if not text.strip("+-0.") else text


def _spread(metric: Metric, found: Spread, row: Row) -> str:
    if found.mean is None:
        return MISSING
    deviation = MISSING if found.sd is None else _show(metric, found.sd)
    # Seeds that lack this measure only; those that have not run stand in the column n.
    count = "" if found.n == len(row.runs) else f" ({found.n})"
    return f"{_show(metric, found.mean)} ± {deviation}{count}"


def _mean(metric: Metric, values: Any) -> str:
    mean = spread(values).mean
    return MISSING if mean is None else _show(metric, mean)


def _plain(found: Spread, digits: int) -> str:
    if found.mean is None:
        return MISSING
    deviation = MISSING if found.sd is None else f"{found.sd:.{digits}f}"
    return f"{found.mean:.{digits}f} ± {deviation}"


def _difference(metric: Metric, found: Difference, planned: int) -> str:
    if found.mean is None:
        return MISSING
    interval = MISSING
    if found.low is not None and found.high is not None:
        interval = f"[{_show(metric, found.low)}, {_show(metric, found.high)}]"
    count = "" if found.n == planned else f" ({found.n})"
    star = f" {STAR}" if found.significant else ""
    return f"{_show(metric, found.mean, sign=True)} {interval}{count}{star}"
