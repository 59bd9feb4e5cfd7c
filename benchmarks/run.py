"""Measures all figures: `python -m benchmarks.run --output=STEM [--data_dir=DIR] [--only=NAMES]`.

Every subject runs in a process of its own. The processes take turns, round after round, each order
the last one reversed, and a figure is the median of the ratios of each round, with the least and
the greatest. On a machine that does other work too even these mean little: watch the load that is
printed. What cannot be measured here is named with the reason; the exit code is 1 if something that
should have worked did not.
"""

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks import figures, imports, machine, ratios, report, startup, throughput, workers
from benchmarks.figures import Figure, Group, Settings
from benchmarks.report import Result
from benchmarks.workers import Measured, Subject

# Measured in ways of their own, after the groups.
_FURTHER = ("startup", "imports", "corruptions")


def results(
    settings: Settings, names: set[str], say: Callable[[str], None]
) -> Iterator[list[Result]]:
    """Measures group by group.

    Args:
      settings: what a person chose.
      names: of groups and figures.
      say: is told how far it is.

    Yields:
      The results of a group.
    """
    groups = [each.only(names) for each in figures.groups(settings)]
    groups = [group for group in groups if group.figures]
    if settings.smoke:
        yield at_once(groups, say)
    else:
        for group in groups:
            say(f"== {group.name}")
            yield of_group(group, settings, say)
    for name, measure in zip(_FURTHER, (_startup, _imports, _corruptions), strict=True):
        if name in names:
            say(f"== {name}")
            yield measure(settings, say)


def of_group(group: Group, settings: Settings, say: Callable[[str], None]) -> list[Result]:
    """Measures the subjects of a group and draws its figures.

    Args:
      group: what takes turns.
      settings: what a person chose.
      say: is told how far it is.

    Returns:
      One result a figure.
    """
    measured = workers.measure(
        group.subjects,
        rounds=settings.rounds,
        turn_seconds=settings.turn_seconds * group.turn_seconds,
        say=say,
    )
    return [drawn(figure, measured) for figure in group.figures]


def at_once(groups: Sequence[Group], say: Callable[[str], None]) -> list[Result]:
    """One round of all groups in as few processes as there can be, each subject once.

    Args:
      groups: what takes turns.
      say: is told how far it is.

    Returns:
      One result a figure.
    """
    names: dict[Subject, str] = {}
    for group in groups:
        for name, subject in group.subjects.items():
            names.setdefault(subject, f"{group.name}: {name}")
    measured = workers.measure(
        {name: subject for subject, name in names.items()},
        rounds=1,
        turn_seconds=0,
        pause=0,
        share=True,
        environment={"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"},
        say=say,
    )
    found = []
    for group in groups:
        own = measured.named({name: names[subject] for name, subject in group.subjects.items()})
        found += [drawn(figure, own) for figure in group.figures]
    return found


def drawn(figure: Figure, measured: Measured) -> Result:
    """A figure from what was measured.

    Args:
      figure: of which subjects.
      measured: these, or why not.

    Returns:
      The result.
    """
    used = figure.subjects()
    result = Result(figure.name, figure.title, target=figure.target)
    failed, skipped = (
        "; ".join(f"{name}: {reasons[name]}" for name in used if name in reasons)
        for reasons in (measured.failed, measured.skipped)
    )
    if failed or skipped:
        return dataclasses.replace(result, failed=failed, skipped=skipped)
    facts = {name: measured.facts[name] for name in used}
    where = {name: facts[name].get("platform") for name in used}
    if len(set(where.values())) > 1:
        return dataclasses.replace(result, failed=f"not all run on the same device: {where}")
    if figure.quantity == "peak_mib":
        peaks = [facts[name]["peak_mib"] for name in used]
        found = ratios.paired(peaks[:1], peaks[1:])
        parts = " / ".join(f"{peak:.0f} MiB" for peak in peaks)
    else:
        pair = [measured.seconds[name] for name in (figure.over, figure.under)]
        found = ratios.paired(*pair)
        parts = " / ".join(f"{ratios.spread(seconds).median:.4g} s" for seconds in pair)
    free = None
    if figure.free:
        free = ratios.paired(measured.seconds[figure.free], measured.seconds[figure.under]).median
    subjects = {name: {**facts[name], "seconds": measured.seconds[name]} for name in used}
    details = {"over": figure.over, "under": figure.under, "subjects": subjects}
    return dataclasses.replace(
        result, spread=found, target=figure.bound(free), parts=parts, details=details
    )


def _startup(settings: Settings, say: Callable[[str], None]) -> list[Result]:
    if settings.smoke:
        flags = ("--dataset=digits", "--model=mlp", "--sem_weight=0")
        return startup.measure(flags, "digits", rounds=settings.rounds, say=say)
    title = "CIFAR-100, ResNet-18"
    if not settings.data_dir:
        reason = "it reads CIFAR-100: give its folder with --data_dir"
        return [Result(name, title, skipped=reason) for name in startup.NAMES]
    flags = (
        "--flagfile=cifar100_mixup.flags",
        f"--data_dir={settings.data_dir}",
        f"--batch_size={settings.batch_size}",
    )
    return startup.measure(flags, title, rounds=settings.rounds, say=say)


def _imports(settings: Settings, say: Callable[[str], None]) -> list[Result]:
    return imports.measure(rounds=settings.rounds, say=say)


def _corruptions(settings: Settings, say: Callable[[str], None]) -> list[Result]:
    options = ["--images=1000"]
    if settings.smoke:
        options = ["--images=4", "--names=contrast", "--processes=1"]
    if settings.data_dir:
        options.append(f"--data_dir={settings.data_dir}")
    return throughput.measure(options, rounds=settings.rounds, say=say)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes what it has after each group.

    Args:
      argv: the command line without the program's name; None for this process's.

    Returns:
      The exit code: 0; 1 if a figure failed; 2 for a wrong command.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Settings()
    parser.add_argument("--output", help="stem of two files, .json and .md")
    parser.add_argument("--only", default="", help="names of groups and figures, joined by commas")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--batch_size", type=int, default=default.batch_size)
    parser.add_argument(
        "--turn_seconds",
        type=float,
        default=default.turn_seconds,
        help="a turn is as many steps as take about so long, at least one",
    )
    parser.add_argument("--data_dir", default="", help="root of TFDS with CIFAR-100")
    parser.add_argument(
        "--smoke", action="store_true", help="small stand-ins, one round: does everything run?"
    )
    options = vars(parser.parse_args(argv))
    output, only = options.pop("output"), options.pop("only")
    if options["smoke"]:
        options["rounds"] = 1
    settings = Settings(**options)
    try:
        names = figures.checked_names(figures.groups(settings), _FURTHER, only)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    where = machine.facts()
    print(machine.line(where), flush=True)
    started, found = time.monotonic(), list[Result]()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.0f} s] {text}", file=sys.stderr, flush=True)

    for part in results(settings, names, say):
        if settings.smoke:  # no target applies to stand-ins
            part = [dataclasses.replace(result, target=None) for result in part]
        found += part
        print("\n".join(filter(None, (report.processes(part), report.table(part)))), flush=True)
        print(flush=True)
        if output:
            given = sys.argv[1:] if argv is None else argv
            report.save(
                output,
                found,
                where=where,
                settings=dataclasses.asdict(settings),
                command=shlex.join(["python", "-m", "benchmarks.run", *given]),
            )
    return int(any(result.failed for result in found))


if __name__ == "__main__":
    sys.exit(main())
