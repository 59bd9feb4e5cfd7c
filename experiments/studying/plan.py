"""A study as a value: its methods, budgets and seeds, and the runs that they make.

title = "Does the gap help?"
split = "validation"            # or test: whose rows the figures are of
seeds = [0, 1, 2]
reference = "sem"               # what the others are compared with

[budgets]
steps = 600                     # equal steps
rows = 150_000                  # equal forwarded rows

[train]                         # flags of experiments.train, the same for all
flagfile = "digits.flags"
validation_fraction = 0.2

[evaluate]                      # flags of experiments.evaluate, the same for all
parts = "clean,corruptions"

[methods.mixup]
sem_weight = 0

[methods.sem]
sem_weight = [1, 10]            # a list stands for a method each

[methods."sem, l1"]
like = "sem, sem_weight=10"     # the flags of another method, and others on top
distance = "l1"
"""

import dataclasses
import functools
import itertools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import config as config_lib
from experiments import program, untrusted
from experiments.config import Config
from experiments.evaluation.plan import Plan
from experiments.flagfiles import ConfigError
from experiments.studying import fairness

FILE = "study.toml"
SPLITS = ("validation", "test")
BUDGETS = ("steps", "rows")
_KEYS = {
    "title": str,
    "split": str,
    "seeds": list,
    "reference": str,
    "evaluations": int,
    "shown": list,
    "varies": list,
    "budgets": dict,
    "train": dict,
    "evaluate": dict,
    "methods": dict,
}
_MOST_CELLS = 10_000


class StudyError(ValueError):
    """A study, or a result of it, is not right; the message names the file and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
      method: its method.
      seed: its seed.
      steps: of training.
      flags: those of `experiments.train` that are set, but for directories.
    """

    method: str
    seed: int
    steps: int
    flags: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of its run directory and its result."""
        return f"{slug(self.method)}@{self.steps}-{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The flags as a command line has them."""
        return arguments(self.flags)

    @functools.cached_property
    def config(self) -> Config:
        """What the run is."""
        return _config(self.flags)

    @property
    def rows(self) -> float:
        """Rows forwarded in the whole run."""
        return self.steps * program.rows_per_step(self.config)


@dataclasses.dataclass(frozen=True)
class Study:
    """A question, and the runs that answer it; see the module.

    Attributes:
      name: of its folder.
      folder: where study.toml lies.
      title: the question.
      split: whose rows the figures are of.
      seeds: of every method.
      reference: the method that the others are compared with.
      budgets: `steps`, and rows forwarded, by name.
      train: flags of all runs.
      evaluate: flags of all evaluations.
      methods: each method's own flags.
      evaluations: times a run is evaluated while it is trained.
      shown: the methods of the figures that have room for a few.
      varies: flags, other than a method's, in which methods differ.
    """

    name: str
    folder: Path
    title: str
    split: str
    seeds: tuple[int, ...]
    reference: str
    budgets: Mapping[str, int]
    train: Mapping[str, Any]
    evaluate: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    evaluations: int = 5
    shown: tuple[str, ...] = ()
    varies: tuple[str, ...] = ()

    def cell(self, method: str, budget: str, seed: int) -> Cell:
        """The run of a method within a budget.

        Args:
          method: its name.
          budget: `steps` or `rows`.
          seed: one of the study's.

        Returns:
          The run. Within a budget of rows it has as many steps as come nearest to them.
        """
        own = {**self.train, **self.methods[method]}
        if self.split == "validation":
            own["test_split"] = "validation"
        amount = self.budgets[budget]
        steps = amount if budget == "steps" else max(1, round(amount / _rows_per_step(own)))
        own |= {"steps": steps, "eval_every": -(-steps // self.evaluations), "seed": seed}
        return Cell(method, seed, steps, own)

    def cells(self) -> tuple[Cell, ...]:
        """Every run once, all methods with the first seed before any with the second."""
        every = itertools.product(self.seeds, self.budgets, self.methods)
        found = {cell.name: cell for seed, b, m in every for cell in [self.cell(m, b, seed)]}
        return tuple(found.values())

    def command(self) -> str:
        """The command that runs it."""
        return f"python -m experiments.study {self.folder.as_posix()}"


def slug(method: str) -> str:
    """A method's name as a part of a file's name.

    Args:
      method: its name.

    Returns:
      Small letters, digits, points and underscores.

    Example:
      >>> slug("sem, sem_weight=0.5")
      'sem_sem_weight_0.5'
    """
    return re.sub(r"[^a-z0-9.]+", "_", method.lower()).strip("_.")


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Flags as a command line has them.

    Args:
      options: values by name.

    Returns:
      `--name=value`, a flag file first.

    Example:
      >>> arguments({"flip": True, "flagfile": "digits.flags"})
      ['--flagfile=digits.flags', '--flip=true']
    """
    first = sorted(options.items(), key=lambda item: item[0] != "flagfile")
    return [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in first
    ]


def read(path: str | Path) -> Study:
    """Reads a study.

    Args:
      path: of study.toml, or of its folder.

    Returns:
      The study; every run of it has flags that go together.

    Raises:
      StudyError: it cannot be read, has unknown keys or values that cannot be, or compares unfairly
        (`experiments.studying.fairness`).
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        found = tomllib.loads(untrusted.read_text(path))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {untrusted.one_line(error)}") from error
    try:
        return _study(path.absolute().parent.name, path.parent, found)
    except (ConfigError, ValueError) as error:
        raise StudyError(f"{path}: {untrusted.one_line(error)}") from error


def _study(name: str, folder: Path, found: Mapping[str, Any]) -> Study:
    for key, value in found.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; allowed are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise ValueError(f"{key} must be of type {_KEYS[key].__name__}; found {value!r}")
    for key in ("split", "seeds", "reference", "budgets", "methods"):
        if not found.get(key):
            raise ValueError(f"{key} is missing")
    if found["split"] not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; found {found['split']!r}")
    seeds, budgets = found["seeds"], found["budgets"]
    if any(type(seed) is not int or seed < 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be different whole numbers of at least 0; found {seeds}")
    for key, value in budgets.items():
        if key not in BUDGETS or type(value) is not int or value < 1:
            raise ValueError(
                f"budgets must be some of {', '.join(BUDGETS)}, whole numbers of at least 1; found "
                f"{key} = {value!r}"
            )
    study = Study(
        name=name,
        folder=folder,
        title=found.get("title", name),
        split=found["split"],
        seeds=tuple(seeds),
        reference=found["reference"],
        budgets=dict(budgets),
        train=dict(found.get("train", {})),
        evaluate=dict(found.get("evaluate", {})),
        methods=_methods(found["methods"]),
        evaluations=found.get("evaluations", 5),
        shown=tuple(found.get("shown", ())),
        varies=tuple(found.get("varies", ())),
    )
    _check(study)
    return study


def _methods(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The flags of each method: what it is like, its own, and one method for each of a list."""
    methods: dict[str, dict[str, Any]] = {}
    for name, own in found.items():
        if not isinstance(own, dict):
            raise ValueError(f"methods.{name} must be a table of flags; found {own!r}")
        own = dict(own)
        like = own.pop("like", None)
        if like is not None and like not in methods:
            raise ValueError(
                f"methods.{name}: like = {like!r} is no method above it; they are "
                f"{', '.join(methods) or 'none'}"
            )
        if like is not None:
            own = {**methods[like], **own}
        lists = {key: value for key, value in own.items() if isinstance(value, list)}
        for values in itertools.product(*lists.values()):
            chosen = dict(zip(lists, values, strict=True))
            full = ", ".join([name, *(f"{key}={value}" for key, value in chosen.items())])
            methods[full] = {**own, **chosen}
    return methods


def _check(study: Study) -> None:
    if wrong := fairness.broken(
        split=study.split, train=study.train, methods=study.methods, varies=study.varies
    ):
        raise ValueError(wrong)
    if study.evaluations < 1:
        raise ValueError(f"evaluations must be at least 1; found {study.evaluations}")
    for key, names in (("reference", [study.reference]), ("shown", study.shown)):
        if unknown := [name for name in names if name not in study.methods]:
            raise ValueError(
                f"{key}: {unknown[0]!r} is no method; they are {', '.join(study.methods)}"
            )
    slugs = [slug(name) for name in study.methods]
    if len(set(slugs)) < len(slugs) or "" in slugs:
        raise ValueError(f"methods must differ in their letters and digits; found {slugs}")
    if len(study.seeds) * len(slugs) > _MOST_CELLS:
        raise ValueError(f"at most {_MOST_CELLS:,} runs make a study")
    fields = {field.name: field.default for field in dataclasses.fields(Plan)}
    for key, value in study.evaluate.items():
        if key not in fields or type(value) is not type(fields[key]):
            raise ValueError(f"evaluate.{key} = {value!r} is no flag of experiments.evaluate")
    Plan(**study.evaluate)
    for method in study.methods:
        for budget in study.budgets:
            try:
                cell = study.cell(method, budget, study.seeds[0])
                idle = cell.config.without_effect()
            except ConfigError as error:
                raise ValueError(f"methods.{method}: {error}") from error
            own = [text for text in idle if text[2:].partition(" ")[0] in study.methods[method]]
            if own:
                raise ValueError(f"methods.{method}: without effect: {', '.join(own)}")


def _rows_per_step(options: Mapping[str, Any]) -> float:
    return program.rows_per_step(_config(options))


def _config(options: Mapping[str, Any]) -> Config:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["train", *arguments(options)], values)
