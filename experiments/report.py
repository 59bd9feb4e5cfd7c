"""Shows and compares evaluated runs, or studies: `python -m experiments.report RUN [RUN ...]`.

A RUN is the directory of a run that `python -m experiments.evaluate` has evaluated, or the path of
its report.json. One RUN: its headline is printed and its report.html written again. Several: the
headline table is printed, comparison.json and comparison.html are written to --output.

`python -m experiments.report STUDY [STUDY ...]`, with folders that hold a study.toml, prints the
headline of each study and writes its tables and figures to STUDY/report; --readme writes them into
a README too, and with --check only looks whether it holds them.

Exit codes: 0 done; 1 --check found the README to be another; 2 the command or a report is not
right, and nothing was written.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags

from experiments import records, untrusted
from experiments.lifecycle import exit_codes
from experiments.reporting import comparison, report_page
from experiments.reporting.comparison_page import spread
from experiments.reporting.headline import METRICS, Report, headline, status
from experiments.reporting.report_html import plain
from experiments.studying import summary
from experiments.studying.plan import StudyError
from experiments.studying.summary import OutdatedError

SCHEMA = 1
_STATES = ("done", "failed", "skipped")
_TEXTS = ("output", "baseline", "readme")


class ReportError(ValueError):
    """The command or a report is not right; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command asks for.

    Attributes:
      runs: run directories, or paths of their reports; or studies.
      output: folder to write to; empty for the default.
      baseline: method the others are compared with; empty for the first run's.
      readme: README to write studies into; empty for none.
      check: whether to compare the README only.
    """

    runs: tuple[str, ...]
    output: str = ""
    baseline: str = ""
    readme: str = ""
    check: bool = False

    @property
    def studies(self) -> bool:
        """Whether it asks for studies rather than runs."""
        return any(map(summary.is_study, self.runs))


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of the command.

    Args:
      values: the flags to define them in, `flags.FLAGS` for a program.
    """
    flags.DEFINE_string(
        "output",
        "",
        "folder to write to; without it a run's own directory, report/ for several runs, or "
        "STUDY/report",
        flag_values=values,
    )
    flags.DEFINE_string(
        "baseline",
        "",
        "method the others are compared with; without it the first run's",
        flag_values=values,
    )
    flags.DEFINE_string(
        "readme",
        "",
        "file to write studies into, between <!-- study NAME --> and <!-- end of study NAME -->",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "check",
        False,
        "write nothing; fail if --readme does not hold what the studies' results give",
        flag_values=values,
    )


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> Request:
    """Reads a command line.

    Args:
      argv: the program's name and its arguments.
      values: the flags, defined by `define_flags`.

    Returns:
      What it asks for.

    Raises:
      ReportError: an unknown flag, no run, a baseline for a single run, runs beside studies, or a
        flag of one of them with the other.

    Example:
      >>> values = flags.FlagValues()
      >>> define_flags(values)
      >>> parse(["report", "runs/a", "runs/b", "--baseline=erm"], values).runs
      ('runs/a', 'runs/b')
    """
    try:
        _, *runs = values(list(argv))
    except flags.Error as error:
        raise ReportError(str(error)) from error
    output, baseline, readme = (str(values[name].value) for name in _TEXTS)
    request = Request(tuple(runs), output, baseline, readme, bool(values["check"].value))
    if not runs:
        raise ReportError("no run: write python -m experiments.report RUN [RUN ...]")
    if request.check and not request.readme:
        raise ReportError("--check: needs --readme, the file to look at")
    if request.studies:
        _require_studies(request)
        return request
    if request.readme:
        raise ReportError(
            f"--readme={request.readme}: only studies are written into a README; {runs[0]} is a "
            "run, or holds no study.toml"
        )
    if len(runs) == 1 and request.baseline:
        raise ReportError(f"--baseline={request.baseline}: one run has nothing to compare with")
    return request


def _require_studies(request: Request) -> None:
    """Refuses what does not go with studies."""
    if others := [run for run in request.runs if not summary.is_study(run)]:
        raise ReportError(
            f"{others[0]} is no study, {next(filter(summary.is_study, request.runs))} is one: "
            "report on runs and on studies by two commands"
        )
    if request.baseline:
        raise ReportError(
            f"--baseline={request.baseline}: a study names its reference itself, in study.toml"
        )


def locate(run: str) -> Path:
    """Where the report of a run lies.

    Args:
      run: the run directory, or the path of the report.

    Returns:
      The path of the report.

    Raises:
      ReportError: there is none.
    """
    path = Path(run)
    found = path / "report.json" if path.is_dir() or path.suffix != ".json" else path
    if not found.is_file():
        raise ReportError(f"{run}: there is no report.json; {_make(found)}")
    return found


def _make(path: Path) -> str:
    return f"make it by python -m experiments.evaluate --workdir={path.parent}"


def read(path: Path) -> dict[str, Any]:
    """Reads a report.

    Args:
      path: of report.json.

    Returns:
      The report.

    Raises:
      ReportError: it cannot be read, is damaged, or is of another schema.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path} is damaged: {error}; {_make(path)}") from error
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise ReportError(f"{path} is of schema {schema!r}; this version reads {SCHEMA}")
    if wrong := _fault(report):
        raise ReportError(f"{path} is damaged: {wrong}; {_make(path)}")
    return report


def _fault(report: Mapping[str, Any]) -> str:
    """What is wrong with the frame of a report; the page looks at the parts by itself."""
    for name in ("run", "options", "parts"):
        if not isinstance(report.get(name), dict):
            return f"{name!r} is not an object"
    run = report["run"]
    for name in ("name", "method", "dataset", "model"):
        if not isinstance(run.get(name), str):
            return f"run.{name} must be a text; found {run.get(name)!r}"
    if not isinstance(run.get("seed"), int):
        return f"run.seed must be a whole number; found {run.get('seed')!r}"
    for name, part in report["parts"].items():
        state = part.get("status") if isinstance(part, dict) else None
        if state not in _STATES:
            return f"the status of {name!r} must be one of {', '.join(_STATES)}; found {state!r}"
    return ""


def show(report: Report) -> str:
    """The headline of one run, for a terminal.

    Args:
      report: the report.

    Returns:
      A line for each measure.
    """
    values = headline(report)
    rows = {}
    for metric in METRICS:
        value = values[metric.name]
        why = status(report, metric.part) or "not measured"
        shown = why if value is None else metric.show(value)
        rows[f"{metric.title} {metric.arrow}"] = shown
    run = report["run"]
    title = f"{run['name']}: {run['method']}, seed {run['seed']}, {run['dataset']}, {run['model']}"
    return plain(records.format_table(rows, title=title))


def show_comparison(found: Mapping[str, Any]) -> str:
    """The headline of many runs, for a terminal.

    Args:
      found: what `comparison.compare` found.

    Returns:
      A table for each data set, a column for each method, and the warnings.
    """
    lines = []
    for entry in found["datasets"]:
        groups = entry["groups"]
        table = [["", *(group["label"] for group in groups)]]
        for metric in METRICS:
            cells = [spread(metric, group["metrics"][metric.name]) for group in groups]
            table.append([f"{metric.title} {metric.arrow}", *cells])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines.append(f"{entry['dataset']}: mean ± sd (seeds)")
        for first, *others in table:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join(["", first.ljust(widths[0]), *cells]).rstrip())
    lines += [f"careful: {text}" for text in found["warnings"]]
    return plain("\n".join(lines))


def main(request: Request) -> None:
    """Shows the runs and writes the pages, or reports on studies.

    Args:
      request: what the command asks for.

    Raises:
      ReportError: a report is not right, two runs are of one method and seed, or the baseline is
        unknown.
      StudyError: a study, a result of one or the README is not right.
      OutdatedError: --check finds the README to be another than the results give.
      OSError: a page cannot be written.
    """
    if request.studies:
        told = summary.report(
            request.runs, output=request.output, readme=request.readme, check=request.check
        )
        print(*told, sep="\n")
        return
    paths = [locate(run) for run in request.runs]
    reports = [read(path) for path in paths]
    if len(reports) == 1:
        page = Path(request.output or paths[0].parent) / "report.html"
        pages = {page: report_page.render(reports[0])}
        shown = show(reports[0])
    else:
        try:
            # With paths for names: the runs of two folders may be called the same.
            comparison.grouped(reports, [str(path) for path in paths])
            found = comparison.compare(reports, baseline=request.baseline or None)
        except ValueError as error:
            raise ReportError(str(error)) from error
        folder = Path(request.output or "report")
        pages = {
            folder / "comparison.json": json.dumps(found, indent=2, allow_nan=False) + "\n",
            folder / "comparison.html": report_page.render_comparison(
                reports, baseline=request.baseline or None
            ),
        }
        shown = show_comparison(found)
    for path, text in pages.items():
        records.write_atomically(path, text)
    print(shown, *pages, sep="\n")


def _parse(argv: Sequence[str]) -> Request:
    try:
        return parse(argv)
    except ReportError as error:
        _fail(error)


def _run(request: Request) -> None:
    try:
        main(request)
    except OutdatedError as error:
        _fail(error, code=exit_codes.FAILED)
    except (ReportError, StudyError, OSError) as error:
        _fail(error)


def _fail(error: Exception, *, code: int = exit_codes.REFUSED) -> NoReturn:
    print(untrusted.error_line(error), file=sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(_run, flags_parser=_parse)
