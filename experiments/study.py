"""Runs a study, a grid of methods, options and seeds: `python -m experiments.study STUDY`.

STUDY is a folder with a study.toml, as `experiments.studying.plan` explains it; the project's own
are in experiments/studies. Each run is an ordinary run directory below --workdir, and what is kept
of it is STUDY/results/RUN.json. The same command again goes on where it stopped: finished runs are
not made again, and one that was interrupted resumes from its checkpoint.

`python -m experiments.report STUDY` then makes the tables and figures.

Exit codes: 0 every run of the study has its result; 1 some runs failed, which are named; 2 the
command, the study or a result is not right; 75 stopped by SIGTERM; 130 stopped by Ctrl-C.
"""

if __name__ == "__main__":
    # Before what takes seconds to import.
    from experiments.lifecycle import signals

    _stop = signals.Stop()
    _stop.listen()

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags

from experiments import records, untrusted
from experiments.command_line import flagfields
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError
from experiments.datasets import loading
from experiments.datasets.data import DataError
from experiments.lifecycle import exit_codes
from experiments.lifecycle.signals import Stop
from experiments.studying import execution, plan, results
from experiments.studying.execution import Place
from experiments.studying.plan import Cell, Study, StudyError


@dataclasses.dataclass(frozen=True)
class Options:
    """How a study is run.

    Raises:
      ConfigError: a value out of range.
    """

    workdir: str = flag("", "folder of the run directories; without it runs/STUDY")
    jobs: int = flag(
        0, "runs side by side on CPU cores of their own; 0: one for each core", at_least=0
    )
    devices: str = flag(
        "", "accelerators, such as 0,1,2,3, each for one run at a time; without it the CPU"
    )
    methods: str = flag("", "run only these methods of the study, joined by ;")
    seeds: str = flag("", "run only these seeds of the study, joined by commas")
    retries: int = flag(1, "how often a run that fails is tried again", at_least=0)
    dry_run: bool = flag(False, "show the runs, and run none")
    trial_steps: int = flag(
        0,
        "train a run of every method for so many steps only, and keep nothing of it: shows that "
        "they start, and what the study will cost; 0: the whole study",
        at_least=0,
    )
    data_dir: str = flag("", "where TFDS keeps prepared data")
    download: bool = flag(False, "download and prepare data sets that are missing")

    def __post_init__(self) -> None:
        """Checks every field by its own bounds."""
        flagfields.check(self)


def chosen(study: Study, options: Options) -> list[Cell]:
    """The runs of a study that are asked for.

    Args:
      study: the study.
      options: with `methods` and `seeds`.

    Returns:
      The runs, in the order of the study.

    Raises:
      ConfigError: a method or seed that the study does not have.
    """
    # A name that a list of options has made can have a ; in it.
    one = options.methods.strip() in study.methods
    methods = [options.methods.strip()] if one else _listed(options.methods, ";")
    seeds = _listed(options.seeds, ",")
    known = {"methods": list(study.methods), "seeds": [str(seed) for seed in study.seeds]}
    for name, asked in (("methods", methods), ("seeds", seeds)):
        if unknown := [item for item in asked if item not in known[name]]:
            raise ConfigError(
                f"--{name}={getattr(options, name)}: the study has no {unknown[0]!r}; it has "
                f"{'; '.join(known[name])}"
            )
    return [
        cell
        for cell in study.cells()
        if (not methods or cell.method in methods) and (not seeds or str(cell.seed) in seeds)
    ]


def _listed(text: str, between: str) -> list[str]:
    return [item.strip() for item in text.split(between) if item.strip()]


def run(study: Study, options: Options, stop: Stop) -> int:
    """Runs what is left of a study.

    Args:
      study: the study.
      options: how.
      stop: asks for an end.

    Returns:
      The exit code.

    Raises:
      ConfigError: options that do not fit the study.
      StudyError: a result is not right, or there are not so many cores.
      DataError: a data set cannot be downloaded or prepared.
      OSError: a folder cannot be written.
    """
    cells = chosen(study, options)
    left = [cell for cell in cells if results.read(study, cell) is None]
    to_run = _trial(left, options.trial_steps) if options.trial_steps else left
    where = execution.places(options.jobs, _devices(options.devices), runs=len(to_run))
    workdir = Path(options.workdir or f"runs/{study.name}")
    _tell(study, cells, left, where, workdir)
    work = execution.Execution(
        study,
        to_run,
        workdir=workdir / "trial" if options.trial_steps else workdir,
        train_flags=_of_the_machine(options),
        evaluate_flags=_of_the_machine(options, download=options.download),
        retries=options.retries,
        stop=stop,
        say=_say,
        keeps=not options.trial_steps,
    )
    if options.dry_run:
        for cell in to_run:
            for command in work.commands(cell):
                print(shlex.join(["python", *command[1:]]))
        return exit_codes.FINISHED
    if options.download:
        _prepare(to_run, options.data_dir)
    work.run(where)
    for name, why in work.failed.items():
        print(untrusted.error_line(f"{name} failed: {why}"), file=sys.stderr)
    if options.trial_steps:
        with contextlib.suppress(OSError):  # logs of what has failed stay
            (workdir / "trial").rmdir()
        _cost(left, work.speeds, side_by_side=len(where))
    if stop.asked():
        return stop.code
    if work.failed:
        return exit_codes.FAILED
    if not options.trial_steps:
        print(
            f"python -m experiments.report {shlex.quote(study.folder.as_posix())} makes the tables "
            "and figures"
        )
    return exit_codes.FINISHED


def _devices(text: str) -> list[str]:
    return [device.strip() for device in text.split(",")] if text else []


def _of_the_machine(options: Options, *, download: bool = False) -> list[str]:
    found = [f"--data_dir={options.data_dir}"] if options.data_dir else []
    return [*found, "--download"] if download else found


def _tell(
    study: Study,
    cells: Sequence[Cell],
    left: Sequence[Cell],
    where: Sequence[Place],
    workdir: Path,
) -> None:
    devices = [place.device for place in where if place.device]
    places = f"on the devices {', '.join(devices)}" if devices else "on the CPU"
    records.print_table(
        {
            "question": study.title,
            "figures of": f"the {study.split} split",
            "methods": f"{len({cell.method for cell in cells})}",
            "seeds": ", ".join(str(seed) for seed in dict.fromkeys(cell.seed for cell in cells)),
            "runs": f"{len(cells)}, {len(cells) - len(left)} of them done",
            "rows to forward": f"{sum(cell.rows for cell in left):,.0f}",
            "side by side": f"{len(where)} {places}",
            "run directories": str(workdir),
        },
        title=f"study {study.name}",
    )


def _prepare(cells: Sequence[Cell], data_dir: str) -> None:
    """Downloads what the runs train on: several that start together would do so at once."""
    for config in {cell.config.dataset: cell.config for cell in cells}.values():
        loading.of_run(config, data_dir=data_dir or config.data_dir, download=True)


def _trial(cells: Sequence[Cell], steps: int) -> list[Cell]:
    """A run of each method, cut short."""
    first = {cell.method: cell for cell in reversed(cells)}
    return [
        dataclasses.replace(
            cell, steps=steps, flags={**cell.flags, "steps": steps, "eval_every": steps}
        )
        for cell in reversed(first.values())
    ]


def _cost(cells: Sequence[Cell], speeds: Mapping[str, float], *, side_by_side: int) -> None:
    """What the runs will cost at the speeds of the trial, compilation and evaluations left out."""
    rows, total, unknown = {}, 0.0, 0
    for cell in cells:
        speed = speeds.get(cell.method, 0.0)
        unknown += not speed
        seconds = cell.steps * cell.config.batch_size / speed if speed else 0.0
        total += seconds
        shown = f"{execution.shown_time(seconds)} a run ({speed:,.0f} images/s)" if speed else None
        rows[f"{cell.method}, {cell.steps:,} steps"] = shown
    runs = f"{len(cells) - unknown} runs" + (f", {unknown} unknown" if unknown else "")
    rows["all, one after the other"] = f"{execution.shown_time(total)} ({runs})"
    rows[f"all, {side_by_side} side by side"] = execution.shown_time(total / side_by_side)
    records.print_table(rows, title="training time to expect, without compilation and evaluation")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main(parsed: tuple[str, Options], stop: Stop | None = None) -> NoReturn:
    """Runs the program and turns its errors into one line and an exit code."""
    path, options = parsed
    stop = stop or Stop()
    try:
        study = plan.read(path)
        stop.waits()
        code = run(study, options, stop)
    except (ConfigError, StudyError, DataError, OSError) as error:
        print(untrusted.error_line(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from None
    raise SystemExit(code)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> tuple[str, Options]:
    """Reads a command line.

    Args:
      argv: the program's name and its arguments.
      values: the flags, defined by `flagfields.define`.

    Returns:
      The path of the study, and how to run it.

    Raises:
      ConfigError: no study or several, or a flag that cannot be.
    """
    paths = [arg for arg in argv[1:] if not arg.startswith("-")]
    rest = [argv[0], *(arg for arg in argv[1:] if arg.startswith("-"))]
    options = flagfields.parse(Options, rest, values)[0]
    if len(paths) != 1:
        found = untrusted.one_line(", ".join(paths)) if paths else "none"
        raise ConfigError(
            "write python -m experiments.study STUDY, the folder of one study, and every flag as "
            f"--name=value; found {found}"
        )
    return paths[0], options


def _parse(argv: Sequence[str]) -> tuple[str, Options]:
    try:
        return parse(argv)
    except ConfigError as error:
        print(untrusted.error_line(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from None


if __name__ == "__main__":
    flagfields.define(Options, flags.FLAGS)
    app.run(lambda parsed: main(parsed, _stop), flags_parser=_parse)
