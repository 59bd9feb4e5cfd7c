"""Several processes train as one does: same steps, same files, and each goes on where others were.

Whole programs, started by the launcher. One pair runs in CI; the others are marked `long`.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

import compiling
import jax
import numpy as np
import pytest
import runs
from jax.sharding import AxisType, Mesh

from experiments import program, sharding
from experiments.checkpoint import Checkpoints
from experiments.lifecycle import exit_codes

# With BatchNorm over the whole batch, partners from the other process, and a gap.
FLAGS = (
    *("--model=cnn", "--policy=mixup", "--pairing=permutation", "--flip"),
    *("--batch_size=16", "--eval_batch_size=64", "--decay=constant", "--learning_rate=0.05"),
    *("--log_every=1", "--eval_every=4", "--checkpoint_every=2"),
)
# As this process compiles, so that both add up in the same order.
SAME = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true", "XLA_FLAGS": compiling.flags()}


def launched(workdir: Path, *args: str, processes: int = 2) -> runs.Running:
    """The launcher, with the trainer in several processes of one device."""
    launcher = [sys.executable, "-m", "experiments.launch", f"--processes={processes}", "--"]
    return runs.Running([*launcher, f"--workdir={workdir}", *FLAGS, *args], **SAME)


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trains on two of its devices, and compiles once for all runs of a test."""
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",), axis_types=(AxisType.Auto,))
    monkeypatch.setattr(sharding, "make_mesh", lambda: mesh)
    built, build = [], program.build

    def build_once(*args):
        if not built:
            built.append(build(*args))
        return built[0]

    monkeypatch.setattr(program, "build", build_once)


def trained(workdir: Path, *args: str) -> Path:
    """A run in this process."""
    runs.train.run(runs.parse(f"--workdir={workdir}", *FLAGS, *args))
    return workdir


def state(workdir: Path, step: int) -> list[np.ndarray]:
    """The arrays of the checkpoint of a step."""
    config = runs.parse(f"--workdir={workdir}", *FLAGS)
    template = program.state_template(config, (8, 8, 1), 10, sharding.make_mesh())
    with Checkpoints(workdir, read_only=True) as checkpoints:
        restored = checkpoints.restore(template, step=step)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restored)]


def assert_same(workdir: Path, other: Path, step: int) -> None:
    """The same state and metrics up to a step, but for the order in which numbers are added."""
    states = state(workdir, step), state(other, step)
    for a, b in zip(*states, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    found, expected = (
        [line for line in runs.lines(folder) if line["step"] <= step] for folder in (workdir, other)
    )
    assert [line.keys() for line in found] == [line.keys() for line in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=1e-5, atol=1e-6)


def test_two_processes_are_one_with_two_devices_and_one_goes_on_from_their_checkpoint(
    tmp_path: Path, two_devices: None
):
    together = tmp_path / "together"
    said = runs.finish(launched(together, "--steps=4"))
    assert said.count("rows per step") == said.count("test accuracy") == 1  # one process speaks
    assert "2 x cpu" in said and runs.summary(together)["steps"] == 4
    alone = trained(tmp_path / "alone", "--steps=6")
    assert_same(together, alone, 4)
    assert_same(trained(together, "--steps=6"), alone, 6)


@pytest.mark.long
def test_two_processes_go_on_from_the_checkpoint_of_one(tmp_path: Path, two_devices: None):
    alone = trained(tmp_path / "alone", "--steps=4")
    together = Path(shutil.copytree(alone, tmp_path / "together"))
    runs.finish(launched(together, "--steps=6"))
    assert_same(together, trained(alone, "--steps=6"), 6)


@pytest.mark.long
def test_four_processes_are_one(tmp_path: Path, two_devices: None):
    runs.finish(launched(tmp_path / "four", "--steps=4", processes=4))
    assert_same(tmp_path / "four", trained(tmp_path / "alone", "--steps=4"), 4)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_at_the_same_step_and_they_resume_to_the_same_bits(
    tmp_path: Path, number: signal.Signals
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    args = ("--steps=300", "--eval_every=100", "--checkpoint_every=100", "--record_errors")
    runs.finish(launched(whole, *args))
    first = launched(stopped, *args)
    runs.in_step(first, 20)
    first.send_signal(number)
    code = {signal.SIGTERM: exit_codes.PREEMPTED, signal.SIGINT: exit_codes.INTERRUPTED}[number]
    said = runs.finish(first, code)
    assert "killed" not in said
    assert not (stopped / "summary.json").exists()
    runs.finish(launched(stopped, *args))
    runs.assert_same_bits(stopped, whole)


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_ends_the_run_and_the_same_command_resumes_it(
    tmp_path: Path, victim: int
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    args = ("--steps=200", "--eval_every=100", "--checkpoint_every=20")
    runs.finish(launched(whole, *args))
    first = launched(killed, *args)
    runs.in_step(first, 50)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(children[victim]), signal.SIGKILL)
    runs.finish(first, 128 + signal.SIGKILL)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    runs.finish(launched(killed, *args))
    runs.assert_same_bits(killed, whole)


@pytest.mark.long
def test_a_process_that_is_refused_ends_all_with_its_code(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    said = runs.finish(launched(tmp_path / "file", "--steps=2"), exit_codes.REFUSED)
    assert "is not a directory" in said
