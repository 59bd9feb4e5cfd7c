"""What the training program shows instead of training: help, the flag files, every flag."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Sequence

from absl import flags

from experiments.command_line import listing, usage
from experiments.command_line.flagfields import flag
from experiments.config import Config

_START = """\
Trains a model by semantic equivariant mixup or another method, and tests it.

  python -m experiments.train --flagfile=digits.flags              embedded data, no download
  python -m experiments.train --flagfile=cifar100.flags --download
  python -m experiments.train --flagfile=digits.flags --dry_run    what it would cost
  python -m experiments.train --list                               all flag files
  python -m experiments.train --helpfull                           all flags, and the exit codes

The same command again resumes a run. What follows a flag file overrides it.

Flags that are set first, with their defaults:

  --flagfile=
      settings by name, one of --list, or a file of your own with a flag a line"""
_FIRST = (
    *("workdir", "seed", "dataset", "data_dir", "model", "policy", "alpha", "sem_weight"),
    *("batch_size", "epochs", "learning_rate"),
)
_LIST_END = """\
test: accuracy of the final weights on the test split. n: seeds; ± is their standard deviation.
To start one: python -m experiments.train --flagfile=NAME"""
# Headings of --helpfull by the first flag of each group, in the order of `Config`.
GROUPS = {
    "workdir": "Where the run lives",
    "dataset": "The data",
    "model": "The model",
    "policy": "The method",
    "crop_padding": "Augmentation, before mixing",
    "batch_size": "Optimisation",
    "device_data_mib": "Where it runs",
    "eval_batch_size": "What is written and shown",
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of the program and is no part of what a run is: never in its config.flags."""

    list: bool = flag(False, "show the flag files, what each trains and what to expect, and end")
    dry_run: bool = flag(
        False,
        "show what would be trained and what it would cost (memory, work, time to compile), and "
        "end: nothing is trained, and nothing is written into the run directory",
    )


def text(argv: Sequence[str], values: flags.FlagValues, about: str) -> str | None:
    """What a command line asks to be shown instead of a run.

    Args:
      argv: the program's name and its arguments.
      values: all flags of the program, those of libraries included.
      about: what --helpfull begins with.

    Returns:
      The text; None where a run is asked for.

    Example:
      >>> text(["train", "--help"], flags.FlagValues(), "").splitlines()[0]
      'Trains a model by semantic equivariant mixup or another method, and tests it.'
    """
    shown: dict[str | None, Callable[[], str]] = {
        "help": _short,
        "helpfull": lambda: _full(values, about),
        "list": _flag_files,
    }
    found = shown.get(usage.asked(argv, "list"))
    return found() if found else None


def _short() -> str:
    return f"{_START}\n{usage.some(Config, _FIRST)}"


def _full(values: flags.FlagValues, about: str) -> str:
    own = {field.name for cls in (Config, Asked) for field in dataclasses.fields(cls)}
    return "\n\n".join(
        (
            about.strip(),
            "Every flag with its default; the last setting of a flag wins.",
            usage.everything(Config, GROUPS),
            usage.everything(Asked, {"list": "Instead of a run"}),
            usage.of_libraries(set(values) - own),
        )
    )


def _flag_files() -> str:
    # In columns for a terminal; one line a flag file for whatever else reads it.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return f"{listing.table(listing.entries(), width)}\n\n{_LIST_END}"
