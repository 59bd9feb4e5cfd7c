"""From what stopped a run to the one line and the exit code that it ends with."""

import dataclasses

from experiments import hosts, untrusted
from experiments.checkpoint import CheckpointDamaged, CheckpointError, CheckpointMismatch
from experiments.config import Config, ConfigError
from experiments.datasets.data import DataError
from experiments.lifecycle import exit_codes
from experiments.training import out_of_memory
from experiments.training.loop import DataLostError, Stopped, TrainingError


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run ends.

    Attributes:
      code: one of `experiments.lifecycle.exit_codes`.
      line: what a person reads.
      together: whether all processes of the run end so, at the same step.
    """

    code: int
    line: str
    together: bool = False


def of(error: BaseException, config: Config) -> Ending | None:
    """The ending that goes with an error; None for one that nobody has thought of.

    Args:
      error: what `experiments.train.run` has raised.
      config: what the run is.

    Returns:
      The ending. For None the error should keep its traceback, and the code is FAILED.

    Example:
      >>> of(DataError("no such data set"), Config())
      Ending(code=2, line='error: no such data set', together=False)
    """
    if isinstance(error, Stopped):
        return Ending(error.code, str(error), together=True)
    if isinstance(error, KeyboardInterrupt):
        line = "interrupted: the same command resumes from the last checkpoint"
        return Ending(exit_codes.INTERRUPTED, line)
    if hosts.lost_peer(error):
        line = (
            "another process of the run ended or stopped answering; the same command resumes from "
            "the last checkpoint"
        )
        return _error(exit_codes.PEER_LOST, line, error)
    if out_of_memory.is_meant(error):
        line = f"out of memory; less is needed with {out_of_memory.advice(config)}"
        return _error(exit_codes.OUT_OF_MEMORY, line, error)
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return Ending(code, untrusted.error_line(error), together=code == exit_codes.NOT_FINITE)
    return None


# The first that fits.
_CODES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    (DataLostError, exit_codes.DATA_LOST),
    (TrainingError, exit_codes.NOT_FINITE),
    ((ConfigError, DataError), exit_codes.REFUSED),
    ((CheckpointDamaged, CheckpointMismatch), exit_codes.FAILED),
    ((CheckpointError, OSError), exit_codes.NOT_SAVED),
)


def _error(code: int, line: str, error: BaseException) -> Ending:
    return Ending(code, f"error: {line} ({untrusted.one_line(error) or type(error).__name__})")
