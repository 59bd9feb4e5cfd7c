"""What a run ends with: each known error has its code and a line, unknown ones keep their own."""

import pytest

from experiments.checkpoint import CheckpointDamaged, CheckpointError, CheckpointMismatch
from experiments.config import Config, ConfigError
from experiments.datasets.data import DataError
from experiments.lifecycle import exit_codes as codes
from experiments.lifecycle.signals import Stop
from experiments.training import endings
from experiments.training.loop import DataLostError, Stopped, TrainingError

LOST = "UNAVAILABLE: Gloo all-reduce failed: Connection closed by peer"


@pytest.mark.parametrize(
    ("error", "code", "together"),
    [
        (ConfigError("told"), codes.REFUSED, False),
        (DataError("told"), codes.REFUSED, False),
        (DataLostError("told"), codes.DATA_LOST, False),
        (TrainingError("told"), codes.NOT_FINITE, True),
        (CheckpointError("told"), codes.NOT_SAVED, False),
        (CheckpointDamaged("told"), codes.FAILED, False),
        (CheckpointMismatch("told"), codes.FAILED, False),
        (OSError(28, "told"), codes.NOT_SAVED, False),
        (PermissionError(13, "told"), codes.NOT_SAVED, False),
        (MemoryError("told"), codes.OUT_OF_MEMORY, False),
        (RuntimeError(f"{LOST} told"), codes.PEER_LOST, False),
        (Stopped(Stop(), 7), codes.PREEMPTED, True),
        (KeyboardInterrupt(), codes.INTERRUPTED, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_known_error_has_its_code_and_one_line(error, code: int, together: bool):
    ending = endings.of(error, Config())
    assert ending is not None
    assert (ending.code, ending.together) == (code, together)
    assert len(ending.line.splitlines()) == 1
    if not isinstance(error, (Stopped, KeyboardInterrupt)):
        assert ending.line.startswith("error: ") and "told" in ending.line


def test_out_of_memory_comes_with_advice():
    ending = endings.of(MemoryError("8 GiB"), Config(batch_size=64))
    assert ending is not None
    assert "less is needed with" in ending.line and "--batch_size=32" in ending.line


def test_nobody_is_told_that_a_bug_is_something_else():
    for error in (ValueError("shapes"), RuntimeError("shapes"), KeyError("shapes")):
        assert endings.of(error, Config()) is None
