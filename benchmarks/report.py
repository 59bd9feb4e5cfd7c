"""What was measured, as JSON and as a Markdown table."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.ratios import Spread


@dataclasses.dataclass(frozen=True)
class Result:
    """A figure, or why there is none.

    Attributes:
      name: of the figure.
      title: what it is.
      spread: over rounds; None if it was skipped or failed.
      target: what the median is to stay below, or above; None if it is only shown.
      at_least: whether it is to stay above.
      unit: s for seconds; empty for a ratio.
      skipped: why it was not measured.
      failed: why it could not be.
      parts: what is divided by what, such as "2.31 s / 2.05 s", medians of all rounds.
      details: more about it, as JSON can hold it.
    """

    name: str
    title: str
    spread: Spread | None = None
    target: float | None = None
    at_least: bool = False
    unit: str = ""
    skipped: str = ""
    failed: str = ""
    parts: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    def met(self) -> bool | None:
        """Whether the median meets the target; None where there is none of the two."""
        if self.spread is None or self.target is None:
            return None
        median = self.spread.median
        return median >= self.target if self.at_least else median <= self.target

    def to_json(self) -> dict[str, Any]:
        """The figure as JSON can hold it."""
        return {**dataclasses.asdict(self), "met": self.met()}


def table(results: Sequence[Result]) -> str:
    """The figures as a Markdown table, and lines for what was skipped or failed.

    Args:
      results: in order.

    Returns:
      The text, without a newline at its end.

    Example:
      >>> from benchmarks import ratios
      >>> print(table([Result("a", "x / y", ratios.spread([1.0, 1.1, 0.9]), 1.05)]))
      | figure | | median | least to greatest | rounds | target | met | parts |
      |---|---|---|---|---|---|---|---|
      | a | x / y | 1.000 | 0.900 to 1.100 | 3 | <= 1.05 | yes | - |
    """
    lines = [
        "| figure | | median | least to greatest | rounds | target | met | parts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        spread = result.spread
        found = ["-", "-", "-"]
        if spread is not None:
            ends = f"{_number(spread.least, result)} to {_number(spread.greatest, result)}"
            found = [_number(spread.median, result), ends, str(len(spread.rounds))]
        met = {None: "-", True: "yes", False: "no"}[result.met()]
        cells = (result.name, result.title, *found, _target(result), met, result.parts or "-")
        lines.append(f"| {' | '.join(cells)} |")
    for result in results:
        reasons = (("Skipped", result.skipped), ("Failed", result.failed))
        lines += [f"\n{word}: {result.name}: {why}." for word, why in reasons if why]
    return "\n".join(lines)


def processes(results: Sequence[Result]) -> str:
    """What the processes of the subjects said of themselves, in a line.

    Args:
      results: in order.

    Returns:
      XLA's flags and where convolutions come from; empty where no subject took steps.
    """
    found: dict[str, list[str]] = {"convolutions": [], "xla_flags": []}
    for result in results:
        for subject in result.details.get("subjects", {}).values():
            for name, values in found.items():
                if subject.get(name) and subject[name] not in values:
                    values.append(subject[name])
    lines = [
        f"{name} of semjax: {' and '.join(values)}" for name, values in found.items() if values
    ]
    return "; ".join(lines)


def _number(value: float, result: Result) -> str:
    return f"{value:.2f} s" if result.unit == "s" else f"{value:.{3 if value < 10 else 1}f}"


def _target(result: Result) -> str:
    if result.target is None:
        return "-"
    sign = ">=" if result.at_least else "<="
    unit = " s" if result.unit == "s" else ""
    # A target that is itself measured has more digits than one that was set.
    return f"{sign} {round(result.target, 3):g}{unit}"


def save(
    stem: str,
    results: Sequence[Result],
    *,
    where: dict[str, Any],
    settings: dict[str, Any],
    command: str,
) -> None:
    """Writes STEM.json and STEM.md, each of them whole at every moment.

    Args:
      stem: of the two files.
      results: in order.
      where: `machine.facts()`.
      settings: of the run.
      command: what repeats it.
    """
    found = {
        "command": command,
        "machine": where,
        "settings": settings,
        "figures": [result.to_json() for result in results],
    }
    parts = (f"`{command}`", machine.line(where), processes(results), table(results))
    text = "\n\n".join(part for part in parts if part) + "\n"
    for name, content in (
        (f"{stem}.json", json.dumps(found, indent=2) + "\n"),
        (f"{stem}.md", text),
    ):
        path = Path(name)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
