"""The results of a study sorted for a reader: a block for each budget, a row for each method.

Methods of two budgets never meet: a table and a panel are made of one block.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import untrusted
from experiments.reporting.headline import METRICS, Metric, items, look_up, mean, number
from experiments.studying.plan import Cell, Study, StudyError
from semjax.corruptions import HELD_OUT

NOISE = Metric("noise_error", "error under noise", "corruptions", "lower")
_AFTER = [metric.name for metric in METRICS].index("worst_corruption_error") + 1
#: Everything a table can have a column of.
MEASURES = (*METRICS[:_AFTER], NOISE, *METRICS[_AFTER:])
#: What methods are compared with the reference in.
COMPARED = tuple(
    next(metric for metric in MEASURES if metric.name == name)
    for name in (
        *("accuracy", "nll", "ece", "mce", "worst_corruption_error", "noise_error"),
        *("pgd_accuracy", "auroc_msp", "normalised_gap", "probe_score", "worst_group"),
    )
)
#: The kinds of corruptions, as Hendrycks & Dietterich sort them.
CORRUPTIONS: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "held out": HELD_OUT,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A method within a budget.

    Attributes:
      method: its name.
      place: in `by_look`: what it looks like in figures.
      cell: its run with the first seed.
      planned: number of seeds.
      runs: results by seed; a seed without one was not run yet.
    """

    method: str
    place: int
    cell: Cell
    planned: int
    runs: Mapping[int, Mapping[str, Any]]

    @property
    def rows_per_step(self) -> float:
        """Rows forwarded in a step, by the plan: known before anything has run."""
        return self.cell.rows / self.cell.steps


@dataclasses.dataclass(frozen=True)
class Block:
    """Methods that may be compared: those of one budget.

    Attributes:
      budget: `steps` or `rows`.
      amount: how much of it.
      reference: the method that the others are compared with.
      rows: of all methods, in the order of the study.
    """

    budget: str
    amount: int
    reference: str
    rows: tuple[Row, ...]

    @property
    def title(self) -> str:
        """What is alike in all rows."""
        what = {"steps": "steps", "rows": "forwarded rows"}.get(self.budget, self.budget)
        return f"At equal {what}: {self.amount:,}"

    @property
    def done(self) -> tuple[int, int]:
        """Runs that have a result, and all of them."""
        return sum(len(row.runs) for row in self.rows), sum(row.planned for row in self.rows)

    @property
    def reference_row(self) -> Row:
        """The reference's."""
        return next(row for row in self.rows if row.method == self.reference)

    @property
    def others(self) -> tuple[Row, ...]:
        """All rows but the reference's."""
        return tuple(row for row in self.rows if row.method != self.reference)


def by_name(name: str) -> Metric:
    """A measure.

    Args:
      name: its name.

    Returns:
      The one of MEASURES.

    Example:
      >>> by_name("mce").better
      'lower'
    """
    return next(metric for metric in MEASURES if metric.name == name)


def blocks(study: Study, results: Mapping[str, Mapping[str, Any]]) -> tuple[Block, ...]:
    """Sorts results by budget and method.

    Args:
      study: the plan.
      results: by the name of the run, as `results.read_all` returns them.

    Returns:
      A block for each budget, with a row for each method, run or not.
    """
    found = []
    looks = by_look(study)
    for budget, amount in study.budgets.items():
        rows = []
        for method in study.methods:
            cells = {seed: study.cell(method, budget, seed) for seed in study.seeds}
            runs = {
                seed: results[cell.name] for seed, cell in cells.items() if cell.name in results
            }
            place = looks.index(method)
            rows.append(Row(method, place, cells[study.seeds[0]], len(cells), runs))
        found.append(Block(budget, amount, study.reference, tuple(rows)))
    return tuple(found)


def by_look(study: Study) -> list[str]:
    """The methods in the order in which they are given colours.

    Args:
      study: the plan.

    Returns:
      Their names, those of `shown` first: where there is room for a few, all differ in colour.
    """
    return list(dict.fromkeys((*study.shown, *study.methods)))


def values(row: Row, metric: Metric) -> dict[int, float]:
    """A measure of a method.

    Args:
      row: the method's.
      metric: one of MEASURES.

    Returns:
      Numbers by seed; a seed whose run did not measure it is left out.
    """
    if metric is NOISE:
        return error(row, CORRUPTIONS["noise"])
    return by_seed(row, lambda run: look_up(run, "metrics", metric.name))


def error(row: Row, names: Sequence[str]) -> dict[int, float]:
    """The error under corruptions, a mean over them and their severities.

    Args:
      row: the method's.
      names: of the corruptions.

    Returns:
      Errors by seed; a seed whose run did not measure all of them is left out.
    """

    def of_run(run: Mapping[str, Any]) -> float | None:
        accuracy = mean([mean(look_up(run, "corruptions", name)) for name in names])
        return None if accuracy is None else 1 - accuracy

    return by_seed(row, of_run)


def corruptions(block: Block) -> dict[str, list[str]]:
    """The corruptions that any run of a block measured.

    Args:
      block: the block.

    Returns:
      Names by kind; `other` are those of no kind.
    """
    seen = parts(block, lambda run: look_up(run, "corruptions"))
    known = {name for names in CORRUPTIONS.values() for name in names}
    kinds = {kind: [n for n in names if n in seen] for kind, names in CORRUPTIONS.items()}
    kinds["other"] = [name for name in seen if name not in known]
    return {kind: names for kind, names in kinds.items() if names}


def probes(run: Mapping[str, Any]) -> dict[str, float | None]:
    """What linear probes found in a representation.

    Args:
      run: a result.

    Returns:
      By factor, the score above chance as a share of what can be above it: 0 is chance, 1 perfect.

    Example:
      >>> probes({"probes": {"hue": {"score": 0.75, "chance": 0.5}, "angle": 0.25}})
      {'hue': 0.5, 'angle': 0.25}
    """
    found = {}
    for name, factor in items(run.get("probes")):
        score, chance = number(look_up(factor, "score")), number(look_up(factor, "chance"))
        if score is None or chance is None:
            found[name] = number(factor)
        else:
            found[name] = (score - chance) / (1 - chance) if chance < 1 else 0.0
    return found


def groups(run: Mapping[str, Any]) -> dict[str, float | None]:
    """The accuracy on each group.

    Args:
      run: a result.

    Returns:
      Accuracies by the name of the group.

    Example:
      >>> groups({"groups": {"groups": [{"name": "3, red", "count": 9, "accuracy": 0.5}]}})
      {'3, red': 0.5}
    """
    listed = look_up(run, "groups", "groups")
    return {
        str(look_up(one, "name")): number(look_up(one, "accuracy"))
        for one in (listed if isinstance(listed, list) else [])
    }


def curve(run: Mapping[str, Any], name: str) -> dict[int, float]:
    """What the evaluations while training found.

    Args:
      run: a result.
      name: `accuracy` or `normalised_gap`.

    Returns:
      Numbers by step; steps without one are left out.

    Raises:
      StudyError: the result is damaged there.

    Example:
      >>> curve({"curve": {"step": [10, 20], "normalised_gap": [None, 0.5]}}, "normalised_gap")
      {20: 0.5}
    """
    steps, heights = (look_up(run, "curve", key) for key in ("step", name))
    if heights is None:
        return {}
    if not (isinstance(steps, list) and isinstance(heights, list) and len(steps) == len(heights)):
        raise _damaged(run, f"curve.{name} must be a list as long as curve.step")
    if wrong := [step for step in steps if type(step) is not int]:
        raise _damaged(run, f"curve.step must hold whole numbers; found {wrong[0]!r}")
    found = zip(steps, map(number, heights), strict=True)
    return {step: height for step, height in found if height is not None}


def projection(run: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Clean, mixed and interpolated representations in the plane.

    Args:
      run: a result.

    Returns:
      `clean` [N, 2], `label` [N], `mixed` and `interpolated` [M, 2], and `explained` [2], the share
      of the variance of each component; None if it was not measured.

    Raises:
      StudyError: the result is damaged there.
    """
    found = run.get("projection")
    if found is None:
        return None
    arrays = {}
    for name in ("clean", "label", "mixed", "interpolated", "explained"):
        try:
            arrays[name] = np.asarray(look_up(found, name), float)
        except (TypeError, ValueError) as error:
            raise _damaged(run, f"projection.{name} must be numbers") from error
    clean, label, mixed, interpolated, explained = (array.shape for array in arrays.values())
    if not (
        clean == (*label, 2) and mixed == interpolated == (*mixed[:1], 2) and explained == (2,)
    ):
        raise _damaged(run, "projection must hold points of the plane, as many labels, pairs")
    return arrays


def _damaged(run: Mapping[str, Any], why: str) -> StudyError:
    name = untrusted.one_line(run.get("cell"))
    return StudyError(f"the result of {name} is damaged: {untrusted.one_line(why)}")


def parts(block: Block, of_run: Callable[[Mapping[str, Any]], Any]) -> list[str]:
    """The names that any run of a block has a number for.

    Args:
      block: the block.
      of_run: gives numbers by name, such as `probes` and `groups`.

    Returns:
      The names, in the order of first sight.
    """
    runs = [run for row in block.rows for run in row.runs.values()]
    return list(dict.fromkeys(name for run in runs for name, _ in items(of_run(run))))


def by_seed(row: Row, of_run: Callable[[Mapping[str, Any]], Any]) -> dict[int, float]:
    """Reads a number from every run of a method.

    Args:
      row: the method's.
      of_run: reads it; what it gives that is no finite number counts as missing.

    Returns:
      Numbers by seed.
    """
    found = {seed: number(of_run(run)) for seed, run in row.runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def series(block: Block) -> list[list[tuple[float, Row]]]:
    """Sorts methods into those that differ in nothing but the weight of the gap.

    Args:
      block: the block.

    Returns:
      Series in the order of the study, each of weights and rows, the weights ascending.
    """
    found: dict[str, list[tuple[float, Row]]] = {}
    for row in block.rows:
        own = dataclasses.asdict(row.cell.config)
        weight = own.pop("sem_weight")
        # Within a budget of rows the weight 0 has more steps, since it forwards fewer rows.
        for name in ("steps", "eval_every"):
            own.pop(name)
        found.setdefault(repr(own), []).append((weight, row))
    return [sorted(rows, key=lambda pair: pair[0]) for rows in found.values()]
