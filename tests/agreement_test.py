"""Two processes end alike in whatever happens to one of them, and none waits for ever."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoint_example import assert_same, like, make_state, save_steps, steps_on_disk

from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.checkpointing import agreement

LIMIT = 120.0  # seconds

# What both processes do; what they saw is written to a file, by name.
TOGETHER = """
import contextlib, json, os, resource, shutil, sys
import jax
rank, port, workdir, result = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(f"localhost:{port}", 2, rank)
import numpy as np
from checkpoint_example import like, make_state, truncate, biggest
from pathlib import Path
from experiments import sharding
from experiments.checkpoint import CheckpointDamaged, CheckpointError, Checkpoints
from experiments.checkpointing import agreement, reading

saw = {}

@contextlib.contextmanager
def seen(name):
    try:
        yield
    except Exception as error:
        saw[name] = f"{type(error).__name__}: {error}"

mesh = sharding.make_mesh()
def state(step, **options):
    return sharding.put_everywhere(jax.tree.map(np.asarray, make_state(step, **options)), mesh)

def bits(tree):
    return [np.asarray(leaf).tobytes().hex() for leaf in jax.tree.leaves(tree)]

def restored(checkpoints):
    found = checkpoints.restore_latest(template)
    same = bits(found.state) == bits(state(found.step))
    return [found.step, same, [[a.step, str(a.moved_to), a.reason] for a in found.set_aside]]

template = like(state(0))

with seen("locked"):
    Checkpoints(os.path.join(workdir, "locked"))
with Checkpoints(os.path.join(workdir, "new")) as checkpoints:
    saw["none"] = checkpoints.restore_latest(template)
with Checkpoints(os.path.join(workdir, "run")) as checkpoints:
    saw["of one process"] = restored(checkpoints)
    for step in (2, 3, 4):
        checkpoints.save(step, state(step), metrics={"validation_accuracy": 1 / step})
        checkpoints.check()
    checkpoints.wait()
    saw["steps"] = [checkpoints.latest_step(), checkpoints.best_step()]

    # Process 0 cannot write.
    usage = shutil.disk_usage
    if rank == 0:
        shutil.disk_usage = lambda path: type(usage("/"))(0, 0, 0)
    with seen("no room"):
        checkpoints.save(5, state(5))
    shutil.disk_usage = usage
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    with seen("write fails"):
        checkpoints.save(5, state(5, width=16384))
        checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with seen("not new"):
        checkpoints.save(4, state(4))

    # A step is damaged for all of them, another one for process 1 alone.
    if rank == 0:
        truncate(biggest(Path(workdir) / "run", 4))
    read = reading.read
    def read_alone(path, *args, **options):
        if rank == 1 and path.name == "3":
            raise CheckpointDamaged("it is damaged in process 1")
        return read(path, *args, **options)
    reading.read = read_alone
    saw["damaged"] = restored(checkpoints)
    with seen("explicit"):
        checkpoints.restore(template, step=4)
    with seen("mismatch"):
        checkpoints.restore_latest(like(state(0, width=17)))

    def fail():
        raise ValueError("of process 0")
    with seen("another error"):
        agreement.by_first(fail)
    with seen("alone"):
        agreement.raise_together(OSError("of process 1") if rank == 1 else None)
    saw["told"] = agreement.by_first(lambda: {"rank": rank})
    checkpoints.save(3, state(3))
    checkpoints.wait()

with open(result, "w") as file:
    json.dump(saw, file)
os._exit(0)  # workers may hang as the interpreter ends
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The directory of the processes, and what each of them saw."""
    workdir = tmp_path_factory.mktemp("together")
    save_steps(workdir / "run", {1: 0.125})  # on eight devices
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "JAX_PLATFORMS": "cpu"}
    results = [workdir / f"{rank}.json" for rank in range(2)]
    with Checkpoints(workdir / "locked"):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", TOGETHER, str(rank), port, str(workdir), str(result)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, result in enumerate(results)
        ]
        deadline = time.monotonic() + LIMIT
        try:
            said = [
                process.communicate(timeout=max(deadline - time.monotonic(), 1))[0]
                for process in running
            ]
        finally:
            for process in running:
                process.kill()
                process.wait()
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return workdir, [json.loads(result.read_text()) for result in results]


def test_both_processes_saw_the_same(seen: tuple[Path, list[dict]]):
    _, (first, second) = seen
    told = first.pop("another error"), second.pop("another error")
    assert told == (
        "ValueError: of process 0",
        "CheckpointError: process 0 has failed: ValueError: of process 0",
    )
    told = first.pop("alone"), second.pop("alone")
    assert told == (
        "CheckpointError: process 1 has failed: OSError: of process 1",
        "OSError: of process 1",
    )
    assert first == second


def test_another_writer_is_refused_by_all(seen: tuple[Path, list[dict]]):
    assert seen[1][1]["locked"].startswith("CheckpointError: another process writes in ")


def test_a_new_run_has_no_checkpoint(seen: tuple[Path, list[dict]]):
    assert seen[1][1]["none"] is None


def test_a_checkpoint_of_one_process_is_restored_by_two(seen: tuple[Path, list[dict]]):
    assert seen[1][1]["of one process"] == [1, True, []]
    assert seen[1][1]["steps"] == [4, 2]


def test_what_process_0_cannot_write_is_raised_by_all(seen: tuple[Path, list[dict]]):
    assert "the disk has 0 left" in seen[1][1]["no room"]
    assert "File too large" in seen[1][1]["write fails"]
    assert "step 4 is there already" in seen[1][1]["not new"]


def test_all_go_on_from_a_step_that_is_whole_in_all(seen: tuple[Path, list[dict]]):
    workdir, (_, second) = seen
    step, same, aside = second["damaged"]
    assert (step, same) == (2, True)
    assert [(step, moved_to) for step, moved_to, _ in aside] == [
        (step, str(workdir / "run" / "damaged" / str(step))) for step in (4, 3)
    ]
    assert aside[1][2] == "it is damaged in process 1"
    assert second["explicit"].startswith("CheckpointError: there is no checkpoint of step 4")
    assert second["mismatch"].startswith("CheckpointMismatch: checkpoint ")


def test_process_0_tells_the_others(seen: tuple[Path, list[dict]]):
    assert seen[1][1]["told"] == {"rank": 0}


def test_a_checkpoint_of_two_processes_is_restored_by_one(seen: tuple[Path, list[dict]]):
    workdir = Path(shutil.copytree(seen[0] / "run", seen[0] / "copy"))
    with Checkpoints(workdir) as checkpoints:
        assert steps_on_disk(workdir) == [2, 3]  # without what was half written
        found = checkpoints.restore_latest(like(make_state()))
        assert found is not None
        assert found.step == 3
        assert_same(found.state, make_state(3))


def test_one_process_raises_its_own_error():
    agreement.raise_together(None)
    with pytest.raises(ZeroDivisionError):
        agreement.by_first(lambda: 1 // 0)
    with pytest.raises(CheckpointError, match="mine"):
        agreement.raise_together(CheckpointError("mine"))
