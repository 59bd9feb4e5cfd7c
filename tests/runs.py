"""Runs of the training program for tests: small ones, in this process or in one of their own."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import program, records, sharding, train
from experiments.checkpoint import Checkpoints
from experiments.config import Config
from experiments.datasets import loading

# Small enough to compile in a second, with BatchNorm, a mask policy, a gap and augmentation.
TINY = (
    "--model=cnn",
    "--policy=cutmix",
    "--crop_padding=1",
    "--batch_size=16",
    "--steps=6",
    "--checkpoint_every=2",
    "--log_every=1",
    "--eval_every=100",
    "--eval_batch_size=64",
)
LIMIT = 300.0  # seconds that any process or file is waited for


def parse(*args: str) -> Config:
    """The config of a command line."""
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["train", *args], values)


def run(workdir: pathlib.Path, *args: str) -> dict:
    """Trains in this process."""
    return train.run(parse(f"--workdir={workdir}", *TINY, *args))


class Running(subprocess.Popen):
    """A process whose output goes to files, so that it can be looked at while it runs."""

    def __init__(self, command: list[str], **environment: str) -> None:
        """Starts it on one device, unless the environment says otherwise."""
        with contextlib.ExitStack() as files:
            self._out, self._err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            self._close = files.pop_all()
        super().__init__(
            command,
            env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", **environment},
            stdout=self._out,
            stderr=self._err,
        )

    def said(self) -> str:
        """What it has written so far, to stdout and then to stderr."""
        read = b""
        for file in (self._out, self._err):
            # Not file.read: the process writes where this file stands.
            read += os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
        return read.decode()

    def __exit__(self, *error: object) -> None:
        """Leaves no process behind, whatever the test did."""
        self.kill()
        self.wait(timeout=60)
        self._close.close()


def spawn(workdir: pathlib.Path, *args: str, seed: str = "--seed=0", **environment: str) -> Running:
    """The program as a person starts it; to be ended by `finish` or a `with` block."""
    command = [sys.executable, "-m", "experiments.train", f"--workdir={workdir}", *TINY, seed]
    return Running([*command, *args], **environment)


def finish(process: Running, code: int = 0, limit: float = LIMIT) -> str:
    """Waits for the end of a process, which must have this exit code; returns what it said."""
    with process:
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {limit} s: {process.said()}") from None
        said = process.said()
    assert process.returncode == code, f"exit code {process.returncode}: {said}"
    return said


def wait_until(
    true: Callable[[], Any], process: Running, what: object = "", limit: float = LIMIT
) -> None:
    """Waits until something is true of a process that must not end before."""
    deadline = time.monotonic() + limit
    while not true():
        assert process.poll() is None, f"ended before {what}: {process.said()}"
        assert time.monotonic() < deadline, f"{what} is not there: {process.said()}"
        time.sleep(0.002)


def wait_for(happened: pathlib.Path | str, process: Running, limit: float = LIMIT) -> None:
    """Waits until a process has made a file or a directory, or has written a text."""

    def has_happened() -> bool:
        if isinstance(happened, pathlib.Path):
            return happened.exists()
        return happened in process.said()

    wait_until(has_happened, process, happened, limit)


# --- Moments of a run that has been spawned ------------------------------------------------------


def at_start(process: Running) -> None:
    """Python has started the program, which imports what it needs: it has a handler for SIGTERM."""
    status = pathlib.Path(f"/proc/{process.pid}/status")

    def listens() -> bool:
        caught = next(line for line in status.read_text().splitlines() if "SigCgt" in line)
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(listens, process, "a handler for SIGTERM")


def in_compilation(process: Running) -> None:
    """What is trained has been said, and the step is not compiled yet."""
    wait_for("rows per step", process)


def in_step(process: Running, step: int) -> None:
    """The line of this step has been said; others follow."""
    wait_for(f"step {step}/", process)


def in_save(process: Running, workdir: pathlib.Path) -> None:
    """A checkpoint is being written."""
    folder = workdir / "checkpoints"
    wait_until(lambda: list(folder.glob("*tmp*")), process, "a checkpoint under way")


def in_evaluation(process: Running, workdir: pathlib.Path, step: int) -> None:
    """The means of this step, after which the run evaluates, have been written."""

    def is_written() -> bool:
        found = (workdir / "metrics.jsonl").exists() and records.read_metrics(workdir)
        return bool(found) and found[-1]["step"] == step

    wait_until(is_written, process, f"a line of step {step}")


# --- What a run leaves ---------------------------------------------------------------------------


def final_state(workdir: pathlib.Path) -> list[np.ndarray]:
    """The arrays of the newest checkpoint."""
    config = config_lib.read(workdir / "config.flags")
    data = loading.load(config.dataset)
    template = program.build(config, data, config.steps, sharding.make_mesh()).state_shape
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoints.restore(template))]


def assert_same_bits(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """Two runs have ended in the same state, and have written the same metrics."""
    for a, b in zip(final_state(workdir), final_state(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert lines(workdir) == lines(other)


def lines(workdir: pathlib.Path) -> list[dict]:
    """The metrics of a run, without those of the clock."""
    clocks = ("wall_time", "images_per_second")
    return [
        {name: value for name, value in line.items() if name not in clocks}
        for line in records.read_metrics(workdir)
    ]


def summary(workdir: pathlib.Path) -> dict:
    """What a run has ended with."""
    return json.loads((workdir / "summary.json").read_text())


def snapshot(directory: pathlib.Path) -> dict[str, bytes]:
    """The files of a directory with their content, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
