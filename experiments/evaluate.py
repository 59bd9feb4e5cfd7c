"""Measures how robust a trained model is: `python -m experiments.evaluate --workdir=RUN`.

Writes RUN/report.json and RUN/report.html. The same command again goes on where it was interrupted;
`--parts` chooses what is measured, and what was measured before with the same options stays.

Exit codes: 0 everything asked for was measured or does not apply; 1 a part failed, the report says
which and why; 2 the command, the data or the run directory is not right; 75 stopped by SIGTERM; 130
stopped by Ctrl-C.
"""

if __name__ == "__main__":
    # Before all other imports, which it would throw away.
    from experiments.lifecycle import allocator, signals

    allocator.restart()
    # What was measured is on disk: there is never anything to save.
    signals.Stop().listen()

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments import records, trained, untrusted
from experiments.command_line import flagfields, usage
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError
from experiments.datasets import loading
from experiments.datasets.data import Data, DataError
from experiments.evaluation import runner
from experiments.evaluation.plan import Plan
from experiments.evaluation.subject import Subject
from experiments.lifecycle import compile_cache, exit_codes, process
from experiments.reporting import comparison
from experiments.trained import Trained

_START = """\
Measures how robust a trained model is, and writes RUN/report.html and RUN/report.json.

  python -m experiments.evaluate --workdir=RUN
  python -m experiments.evaluate --workdir=RUN --parts=clean,equivariance
  python -m experiments.evaluate --helpfull           all flags, and the exit codes

The same command again goes on where it was interrupted.

Flags that are set first, with their defaults:
"""
_FIRST = ("workdir", "parts", "weights", "limit", "batch_size", "seed", "ood_sets", "data_dir")
# Headings of --helpfull by the first flag of each group.
GROUPS = {"parts": "What is measured", "workdir": "Of what, and with what"}


@dataclasses.dataclass(frozen=True)
class Command(Plan):
    """A plan for a run directory.

    Raises:
      ConfigError: a value out of range, or no run directory.
    """

    workdir: str = flag("", "directory of the run to evaluate")
    weights: str = flag(
        "final", "the final weights, or the best on validation", choices=trained.WEIGHTS
    )
    data_dir: str = flag("", "where TFDS keeps prepared data; without it that of the run")
    download: bool = flag(False, "download and prepare data sets that are missing")
    compile_cache: str = flag("auto", compile_cache.HELP, keeps_result=True)

    def __post_init__(self) -> None:
        """Checks every flag."""
        super().__post_init__()
        if not self.workdir:
            raise ConfigError("--workdir: must name the directory of a run; found none")


def run(command: Command) -> dict[str, Any]:
    """Evaluates a run and writes its report.

    Args:
      command: what to evaluate and how.

    Returns:
      The report.

    Raises:
      ConfigError: the run directory is not right.
      DataError: the data is missing or damaged.
    """
    data = _data(command)
    model = trained.load(command.workdir, weights=command.weights, data=data)
    subject = Subject(model.apply_fn, model.params, command.batch_size)
    about = _about(command, model)
    records.print_table(
        {
            "run": command.workdir,
            "model": f"{model.config.model}, step {model.step:,}, {model.weights} weights",
            "data": f"{data.name}: {len(data.test):,} test rows",
            "parts": ", ".join(command.listed("parts")),
        },
        title="evaluating",
    )
    fields = (field.name for field in dataclasses.fields(Plan))
    report = runner.evaluate(
        subject,
        data,
        plan=Plan(**{name: getattr(command, name) for name in fields}),
        output=command.workdir,
        run=about,
        load=functools.partial(
            loading.load_like,
            data,
            data_dir=command.data_dir or model.config.data_dir,
            download=command.download,
            cache=model.config.data_cache,
        ),
    )
    records.print_table(comparison.headline(report), title="robustness")
    print(Path(command.workdir) / "report.html")
    return report


def _data(command: Command) -> Data:
    config = trained.config_of(command.workdir)
    if command.official and config.test_split != "test":
        raise ConfigError(
            f"--official={command.official}: holds test images, and the run chooses on "
            f"--test_split={config.test_split}; allowed: the corruptions made here, without "
            "--official"
        )
    data_dir = command.data_dir or config.data_dir
    data = loading.of_run(config, data_dir=data_dir, download=command.download)
    return loading.in_memory(data, command.bank_rows)


def _about(command: Command, model: Trained) -> dict[str, Any]:
    config = model.config
    name = Path(command.workdir).resolve().name
    return {
        "name": name,
        # Runs of one method differ in their seed alone, which is how their directories are named.
        "method": name.removesuffix(f"-{config.seed}"),
        "seed": config.seed,
        "model": config.model,
        "step": model.step,
        "weights": model.weights,
        "flags": dataclasses.asdict(config),
    }


def main(command: Command) -> None:
    """Runs the program and turns its errors into one line and an exit code."""
    try:
        report = run(command)
    except (ConfigError, DataError, OSError) as error:
        print(untrusted.error_line(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from None
    asked = (report["parts"][name] for name in command.listed("parts"))
    if any(part["status"] == "failed" for part in asked):
        raise SystemExit(exit_codes.FAILED)


def _own_process(command: Command) -> None:
    process.run(lambda: main(command), cache=command.compile_cache)


def _help(argv: Sequence[str]) -> str | None:
    """What the command line asks to be shown instead of an evaluation."""
    asked = usage.asked(argv)
    if asked == "help":
        return f"{_START}\n{usage.some(Command, _FIRST)}"
    if asked == "helpfull":
        own = {field.name for field in dataclasses.fields(Command)}
        libraries = usage.of_libraries(set(flags.FLAGS) - own)
        return "\n\n".join(((__doc__ or "").strip(), usage.everything(Command, GROUPS), libraries))
    return None


def _parse(argv: Sequence[str]) -> Command:
    if shown := _help(argv):
        usage.show(shown)
        raise SystemExit(exit_codes.FINISHED)
    try:
        quiet = [argv[0], "--verbosity=-1", *argv[1:]]
        return flagfields.parse(Command, quiet, flags.FLAGS)[0]
    except ConfigError as error:
        print(untrusted.error_line(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from None


if __name__ == "__main__":
    flagfields.define(Command, flags.FLAGS)
    app.run(_own_process, flags_parser=_parse)
