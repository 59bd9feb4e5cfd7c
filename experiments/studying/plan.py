"""A study as a value: its methods, budgets and seeds, and the runs that they make.

title = "Does the gap help?"
split = "validation"            # or test: whose rows the figures are of
seeds = [0, 1, 2]
reference = "sem, sem_weight=10" # what the others are compared with

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
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from experiments import config as config_lib
from experiments import program, untrusted
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.evaluation.plan import Plan
from experiments.studying import fairness, study_file

FILE = "study.toml"
SPLITS = ("validation", "test")
BUDGETS = ("steps", "rows")
#: The policy whose gap is kept of every run, whatever it was trained with.
GAP = "mixup"
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
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
_MOST_CELLS = 10_000
_MOST_METHODS = 1_000
# Of a method's name in the name of a file.
_LONGEST_NAME = 150
# How far the rows of a run may be from a budget of rows that a step does not divide.
_MOST_OFF = 0.01


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
        found = study_file.read(path)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read: {untrusted.one_line(error)}") from error
    try:
        return _study(path.absolute().parent.name, path.parent, found)
    except ValueError as error:
        raise StudyError(f"{path}: {untrusted.one_line(error)}") from error


def _study(name: str, folder: Path, found: Mapping[str, Any]) -> Study:
    study_file.check_values(found)
    for key, value in found.items():
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; allowed are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise ValueError(f"{key} must be {_WORDS[_KEYS[key]]}; found {value!r}")
    for key in ("shown", "varies"):
        if not all(isinstance(name, str) for name in found.get(key, ())):
            raise ValueError(f"{key} must be a list of names; found {found[key]!r}")
    for key in ("split", "seeds", "reference", "budgets", "methods"):
        if key not in found or found[key] in ("", [], {}):
            raise ValueError(f"{key} is {'empty' if key in found else 'missing'}")
    if found["split"] not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; found {found['split']!r}")
    seeds, budgets = found["seeds"], found["budgets"]
    if any(type(s) is not int or not 0 <= s < 2**32 for s in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds must be different whole numbers of at least 0, below 2**32; found {seeds}"
        )
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
        if "like" in own:
            like = own.pop("like")
            if not isinstance(like, str) or like not in methods:
                raise ValueError(
                    f"methods.{name}: like = {like!r} is no method above it; they are "
                    f"{'; '.join(methods) or 'none'}"
                )
            own = {**methods[like], **own}
        lists = {key: value for key, value in own.items() if isinstance(value, list)}
        for key, value in own.items():
            if value == [] or isinstance(value, dict):
                raise ValueError(
                    f"methods.{name}.{key} must be one value, or a list of some; found {value!r}"
                )
        if len(methods) + math.prod(map(len, lists.values())) > _MOST_METHODS:
            raise ValueError(f"methods.{name}: at most {_MOST_METHODS:,} methods make a study")
        for values in itertools.product(*lists.values()):
            chosen = dict(zip(lists, values, strict=True))
            full = ", ".join([name, *(f"{key}={value}" for key, value in chosen.items())])
            if full in methods:
                raise ValueError(f"methods.{full} is there twice")
            methods[full] = {**own, **chosen}
    return methods


def _check(study: Study) -> None:
    known = {field.name for field in dataclasses.fields(Config)}
    for place, found in [("train", study.train), *study.methods.items()]:
        place = place if found is study.train else f"methods.{place}"
        for key, value in found.items():
            if isinstance(value, dict | list):
                raise ValueError(f"{place}.{key} must be one value; found {value!r}")
            if key not in known | {"flagfile"}:
                raise ValueError(f"{place}.{key} is no flag of experiments.train")
    if unknown := [name for name in study.varies if name not in known]:
        raise ValueError(f"varies: {unknown[0]!r} is no flag of experiments.train")
    if wrong := fairness.broken(train=study.train, methods=study.methods, varies=study.varies):
        raise ValueError(wrong)
    if study.evaluations < 1:
        raise ValueError(f"evaluations must be at least 1; found {study.evaluations}")
    for key, names in (("reference", [study.reference]), ("shown", study.shown)):
        if unknown := [name for name in names if name not in study.methods]:
            raise ValueError(
                f"{key}: {unknown[0]!r} is no method; they are {'; '.join(study.methods)}"
            )
    _check_names(study)
    _check_evaluation(study.evaluate)
    for method in study.methods:
        try:
            _check_method(study, method)
        except ValueError as error:
            raise ValueError(f"methods.{method}: {error}") from error


def _check_names(study: Study) -> None:
    taken: dict[str, str] = {}
    for method in study.methods:
        short = slug(method)
        if not 0 < len(short) <= _LONGEST_NAME or method != method.strip():
            raise ValueError(
                f"methods.{method}: a name has 1 to {_LONGEST_NAME} letters a to z and digits, and "
                "no spaces at its ends"
            )
        if short in taken:
            raise ValueError(
                f"methods.{method}: must differ from {taken[short]!r} in letters and digits; both "
                f"are {short} as the name of a file"
            )
        taken[short] = method
    if len(study.seeds) * len(study.budgets) * len(taken) > _MOST_CELLS:
        raise ValueError(f"at most {_MOST_CELLS:,} runs make a study")


def _check_evaluation(found: Mapping[str, Any]) -> None:
    defaults = {field.name: field.default for field in dataclasses.fields(Plan)}
    for key, value in found.items():
        if key not in defaults:
            raise ValueError(
                f"evaluate.{key} is no flag of experiments.evaluate that a study sets; they are "
                f"{', '.join(defaults)}"
            )
        if type(value) is not type(defaults[key]):
            kind = _WORDS[type(defaults[key])]
            raise ValueError(f"evaluate.{key} must be {kind}; found {value!r}")
    try:
        asked = Plan(**found)
    except ConfigError as error:
        raise ValueError(f"evaluate: {error}") from error
    if "equivariance" in asked.listed("parts") and GAP not in asked.listed("gap_policies"):
        raise ValueError(
            f"evaluate.gap_policies must hold {GAP}, whose gap is kept of every run; found "
            f"{asked.gap_policies!r}"
        )


def _check_method(study: Study, method: str) -> None:
    plain = _config({**study.train, **study.methods[method]})
    if wrong := fairness.wrong_rows(study.split, plain):
        raise ValueError(wrong)
    for budget, amount in study.budgets.items():
        cell = study.cell(method, budget, study.seeds[0])
        idle = cell.config.without_effect()
        own = [text for text in idle if text[2:].partition(" ")[0] in study.methods[method]]
        if own:
            raise ValueError(f"without effect: {', '.join(own)}")
        if budget == "rows" and abs(cell.rows / amount - 1) > _MOST_OFF:
            raise ValueError(
                f"budgets.rows = {amount:,} is no whole number of steps, not even to "
                f"{_MOST_OFF:.0%}: a step forwards {cell.rows / cell.steps:,.5g} rows"
            )


def _rows_per_step(options: Mapping[str, Any]) -> float:
    return program.rows_per_step(_config(options))


def _config(options: Mapping[str, Any]) -> Config:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["train", *arguments(options)], values)
