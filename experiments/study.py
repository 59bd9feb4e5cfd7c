"""Runs a study, a grid of methods, options and seeds: `python -m experiments.study STUDY`.

STUDY is a folder with a study.toml, as `experiments.studying.plan` explains it; the project's own
are in experiments/studies. Each run is an ordinary run directory below --workdir, and what is kept
of it is STUDY/results/RUN.json. The same command again goes on where it stopped: finished runs are
not made again, and one that was interrupted resumes from its checkpoint.

`python -m experiments.report STUDY` then makes the tables and figures.

Exit codes: 0 every run of the study has its result; 1 some runs failed, which are named; 2 the
command, the study or a result is not right; 75 stopped by SIGTERM; 130 stopped by Ctrl-C.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments import flagfields, records, untrusted
from experiments.flagfields import flag
from experiments.flagfiles import ConfigError
from experiments.lifecycle import exit_codes
from experiments.lifecycle.signals import Stop
from experiments.studying import execution, plan, results
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
    methods: str = flag("", "run only these methods, joined by ;")
    seeds: str = flag("", "run only these seeds, joined by commas")
    retries: int = flag(1, "how often a run that fails is tried again", at_least=0)
    dry_run: bool = flag(False, "show the runs, and run none")
    trial_steps: int = flag(
        0,
        "train every run for so many steps only, in WORKDIR/trial, measure and keep nothing: shows "
        "that they start, and what they will cost; 0: the whole study",
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
    methods = [name.strip() for name in options.methods.split(";") if name.strip()]
    seeds = [seed.strip() for seed in options.seeds.split(",") if seed.strip()]
    known = {"methods": list(study.methods), "seeds": [str(seed) for seed in study.seeds]}
    for name, asked in (("methods", methods), ("seeds", seeds)):
        if unknown := [one for one in asked if one not in known[name]]:
            raise ConfigError(
                f"--{name}={getattr(options, name)}: the study has no {unknown[0]!r}; it has "
                f"{', '.join(known[name])}"
            )
    return [
        cell
        for cell in study.cells()
        if (not methods or cell.method in methods) and (not seeds or str(cell.seed) in seeds)
    ]


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
      StudyError: a result is not right.
      OSError: a result cannot be written.
    """
    cells = chosen(study, options)
    left = [cell for cell in cells if results.read(study, cell) is None]
    where = execution.places(options.jobs, [d for d in options.devices.split(",") if d])
    workdir = Path(options.workdir or f"runs/{study.name}")
    records.print_table(
        {
            "question": study.title,
            "figures of": f"the {study.split} split",
            "methods": f"{len({cell.method for cell in cells})}",
            "seeds": ", ".join(str(seed) for seed in study.seeds),
            "runs": f"{len(cells)}, {len(cells) - len(left)} of them done",
            "rows to forward": f"{sum(cell.rows for cell in left):,.0f}",
            "side by side": str(len(where)),
            "run directories": str(workdir),
        },
        title=f"study {study.name}",
    )
    if options.dry_run:
        for cell in left:
            print(f"{cell.name}: python -m experiments.train {' '.join(cell.arguments)}")
        return exit_codes.FINISHED
    if options.trial_steps:
        left, workdir = _trial(cells, options.trial_steps), workdir / "trial"
    places = [f"--data_dir={options.data_dir}"] if options.data_dir else []
    if options.download:
        places.append("--download")
    work = execution.Execution(
        study,
        left,
        workdir=workdir,
        train_flags=places,
        evaluate_flags=places,
        retries=options.retries,
        stop=stop,
        say=_say,
        keeps=not options.trial_steps,
    )
    work.run(where)
    if stop.asked():
        return stop.code
    for name, why in work.failed.items():
        print(f"failed: {name}: {untrusted.one_line(why)}", file=sys.stderr)
    if options.trial_steps:
        _cost(cells, work.speeds)
    else:
        print(
            f"python -m experiments.report {study.folder.as_posix()} makes the tables and figures"
        )
    return exit_codes.FAILED if work.failed else exit_codes.FINISHED


def _trial(cells: Sequence[Cell], steps: int) -> list[Cell]:
    """The runs of the first seed, cut short."""
    return [
        dataclasses.replace(cell, flags={**cell.flags, "steps": steps, "eval_every": steps})
        for cell in cells
        if cell.seed == cells[0].seed
    ]


def _cost(cells: Sequence[Cell], speeds: dict[str, float]) -> None:
    """What all runs will cost at the speeds of the trial, compilation and evaluations left out."""
    rows, total = {}, 0.0
    for cell in cells:
        speed = next(
            (speeds[c.name] for c in cells if c.method == cell.method and c.name in speeds), 0
        )
        if speed:
            hours = cell.steps * cell.config.batch_size / speed / 3600
            rows[cell.name] = f"{hours:,.1f} h ({speed:,.0f} images/s)"
            total += hours
    records.print_table({**rows, "all": f"{total:,.1f} h"}, title="expected training time here")


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main(parsed: tuple[str, Options]) -> None:
    """Runs the program and turns its errors into one line and an exit code."""
    path, options = parsed
    stop = Stop()
    try:
        study = plan.read(path)
        stop.listen()
        stop.waits()
        code = run(study, options, stop)
    except (ConfigError, StudyError, OSError) as error:
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
    if len(paths) != 1:
        raise ConfigError(f"write python -m experiments.study STUDY; found the studies {paths}")
    rest = [arg for arg in argv if arg not in paths]
    return paths[0], flagfields.parse(Options, rest, values)[0]


def _parse(argv: Sequence[str]) -> tuple[str, Options]:
    try:
        return parse(argv)
    except ConfigError as error:
        print(untrusted.error_line(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from None


if __name__ == "__main__":
    flagfields.define(Options, flags.FLAGS)
    app.run(main, flags_parser=_parse)
