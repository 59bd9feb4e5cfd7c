"""What a run that a signal has stopped still owes to its metrics, kept beside its checkpoint.

A signal comes at any step, in the middle of a line of metrics or of an evaluation. The run that
goes on completes both, so that its files are those of a run that was not stopped.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import records, untrusted
from experiments.command_line.flagfiles import ConfigError

# What a step has reported, and the names of it that no line shows.
Report = tuple[Mapping[str, Any], set[str]]


@dataclasses.dataclass(frozen=True)
class Owed:
    """What is still to be done at the step a run goes on from.

    Attributes:
      reported: of the steps since the last line of metrics, in order; numbers are NumPy's.
      evaluation: whether the evaluation after that step was stopped.
    """

    reported: tuple[Report, ...] = ()
    evaluation: bool = False


def write(workdir: str | Path, step: int, reported: Iterable[Report], *, evaluation: bool) -> None:
    """Writes what is owed at a step, in place of what was owed before.

    Args:
      workdir: the run directory.
      step: the step of the checkpoint that is saved next.
      reported: of each step since the last line, f32[] or i32[] by name, on the host.
      evaluation: whether the evaluation after the step is missing.

    Raises:
      OSError: the file cannot be written.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as workdir:
      ...     write(workdir, 7, [({"skipped": np.int32(0)}, {"gap"})], evaluation=False)
      ...     read(workdir, 7).reported, read(workdir, 8).reported
      ((({'skipped': np.int32(0)}, {'gap'}),), ())
    """
    steps = [
        {
            "logs": {name: np.asarray(value).item() for name, value in logs.items()},
            "hidden": [*sorted(hidden)],
        }
        for logs, hidden in reported
    ]
    content = {"step": step, "evaluation": evaluation, "reported": steps}
    records.write_atomically(_path(workdir), json.dumps(content) + "\n")


def read(workdir: str | Path, step: int) -> Owed:
    """Reads what is owed at the step of a checkpoint; nothing where another step was meant.

    Args:
      workdir: the run directory.
      step: the step the run goes on from.

    Returns:
      What is owed.

    Raises:
      ConfigError: the file is damaged.
    """
    path = _path(workdir)
    try:
        found = untrusted.read_json(path)
        if found["step"] != step:
            return Owed()
        reported = tuple(
            ({name: _number(value) for name, value in entry["logs"].items()}, set(entry["hidden"]))
            for entry in found["reported"]
        )
        if not all("skipped" in logs for logs, _ in reported):
            raise ValueError("a step that does not say whether it was skipped")
        return Owed(reported, bool(found["evaluation"]))
    except FileNotFoundError:
        return Owed()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"{path} is damaged: {untrusted.one_line(error)}. Without it the run resumes too; the "
            "first line of its metrics then averages fewer steps"
        ) from error


def settle(workdir: str | Path) -> None:
    """Removes what was owed.

    Args:
      workdir: the run directory.
    """
    _path(workdir).unlink(missing_ok=True)


def _path(workdir: str | Path) -> Path:
    return Path(workdir) / "owed.json"


def _number(value: Any) -> Any:
    """As the step reported it: float32, or an int32 that counts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"a metric must be a number; found {value!r}")
    return np.int32(value) if isinstance(value, int) else np.float32(value)
