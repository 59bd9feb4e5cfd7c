"""Processes of one run: who joins whom, what is refused, and how others end when one is gone."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from experiments import hosts
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.lifecycle import exit_codes

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 100.0  # seconds after which a process is killed
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_NTASKS": "2",
}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
TOLD = {"coordinator_address": None, "num_processes": None, "process_id": None}
BY_FLAGS = {"coordinator_address": "node1:1234", "num_processes": 2, "process_id": 1}


@pytest.mark.parametrize(
    ("environ", "processes"),
    [
        ({}, 0),
        (SLURM, 2),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, 1),  # a step of one task in a job for two
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 0),  # the batch script
        (OPEN_MPI, 2),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, 4),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "localhost"}, 2),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, 2),
    ],
)
def test_a_cluster_of_several_processes_is_joined_and_one_process_stays_alone(environ, processes):
    assert hosts._in_cluster(environ) == processes
    found = hosts._options(Config(), environ)
    assert found == (TOLD if processes > 1 else None)


@pytest.mark.parametrize(
    ("flags", "environ", "found"),
    [
        ({}, {}, None),
        ({"num_processes": 1, "process_id": 0}, {}, None),
        ({"num_processes": 1}, SLURM, None),
        ({"distributed": "off"}, SLURM, None),
        ({"distributed": "on"}, {}, TOLD),
        (BY_FLAGS, {}, BY_FLAGS | {"cluster_detection_method": "deactivate"}),
        (BY_FLAGS, SLURM, BY_FLAGS | {"cluster_detection_method": "deactivate"}),
        ({"coordinator_address": "a:1"}, SLURM, TOLD | {"coordinator_address": "a:1"}),
    ],
)
def test_flags_come_before_what_the_cluster_tells(flags, environ, found):
    assert hosts._options(Config(**flags), environ) == found


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({"distributed": "off", "num_processes": 2}, {}, "--distributed=off: excludes --num_proc"),
        ({"num_processes": 2, "process_id": 2}, {}, "--process_id=2: must be below --num_proc"),
        ({"num_processes": 2}, {}, "--num_processes=2: without a cluster"),
        ({"process_id": 1}, {}, "--process_id=1: without a cluster"),
        ({"coordinator_address": "node1"}, {}, "--coordinator_address=node1: must be host:port"),
        ({"coordinator_address": "node1:0"}, {}, "--coordinator_address=node1:0: must be host"),
        ({}, SLURM | {"SLURM_NTASKS": "2x"}, "SLURM_NTASKS=2x in the environment"),
        ({"distributed": "on"}, {}, "--distributed=on: coordinator_address should be defined"),
    ],
)
def test_flags_that_cannot_be_are_named(flags, environ, named, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", {**os.environ, **environ})
    # As in a process that has not looked for its devices; none of these gets as far as that.
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    monkeypatch.setattr(hosts, "_on_abort", lambda patience: None)
    with pytest.raises(ConfigError, match=r"^[^\n]*$") as refused:
        hosts.initialise(Config(**flags))
    assert named in str(refused.value)


def test_a_process_that_has_used_its_devices_cannot_join(monkeypatch: pytest.MonkeyPatch):
    jax.devices()
    monkeypatch.setattr(hosts, "_reach", lambda *args: None)
    monkeypatch.setattr(hosts, "_on_abort", lambda patience: None)
    with pytest.raises(ConfigError, match="must be called before any JAX calls"):
        hosts.initialise(Config(**BY_FLAGS))


@pytest.fixture
def port() -> Iterator[int]:
    """A port that something else listens at."""
    with socket.create_server(("", 0), family=socket.AF_INET) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_named(port: int):
    options = {"num_processes": 2, "process_id": 0}
    with pytest.raises(ConfigError, match=f"localhost:{port}: port {port} of this machine"):
        hosts.initialise(Config(coordinator_address=f"localhost:{port}", **options))


def test_a_coordinator_that_is_not_there_is_named():
    with socket.socket() as silent:
        silent.bind(("localhost", 0))  # and does not listen
        address = f"localhost:{silent.getsockname()[1]}"
        config = Config(coordinator_address=address, num_processes=2, process_id=1)
        with pytest.raises(ConfigError, match=f"--coordinator_address={address}: not reached wi"):
            hosts.initialise(config, patience=0)


@pytest.mark.parametrize(
    "message",
    [
        # As a collective, one that begins, and a barrier of two processes said it.
        "UNKNOWN: Gloo all-reduce failed: [external/gloo/gloo/transport/tcp/pair.cc:547] Connection"
        " closed by peer [127.0.0.1]:23448",
        "UNKNOWN: Gloo context initialization failed: DEADLINE_EXCEEDED: GetKeyValue() timed out "
        "with key: cpu:gloo/0,2048/1 and duration: 29.999999967s",
        "DEADLINE_EXCEEDED: Barrier timed out. Id: x::0. This usually happens because a task "
        "triggered the barrier too early or too slowly.",
        "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1",
    ],
)
def test_errors_that_come_of_another_process_are_known(message: str):
    lost = jax.errors.JaxRuntimeError(message)
    assert hosts.lost_peer(lost) and hosts.lost_peer(ValueError(message))
    wrapped = OSError("the checkpoint could not be written")
    wrapped.__cause__ = lost
    assert hosts.lost_peer(wrapped)
    wrapped.__cause__ = wrapped  # a ring is no reason to hang
    assert not hosts.lost_peer(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 64 bytes."),
        ValueError("operands could not be broadcast together"),
        FileNotFoundError("data/barrier timed out.png"),
        ConfigError("--distributed=on: Barrier timed out"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not_taken_for_a_lost_peer(error: BaseException):
    assert not hosts.lost_peer(error)


# --- Two processes, one of which goes --------------------------------------------------------

PROGRAM = """
import os, signal, sys, time
import jax
import numpy as np
from experiments import hosts, sharding
from experiments.lifecycle import exit_codes
from experiments.config import Config

port, number, victim, fault, patience = sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:]
goes = number == victim
if fault == "never_came" and goes:
    # Long enough for the other to have begun to wait.
    time.sleep(2); os._exit(2)
config = Config(coordinator_address=f"localhost:{port}", num_processes=2, process_id=number)
assert hosts.initialise(config, patience=int(patience), silence=10)
assert hosts.is_first() == (number == 0)
if fault == "refused" and goes:
    os._exit(2)
mesh = sharding.make_mesh()
own = sharding.own_rows(mesh, 4)
assert own.tolist() == [[0, 1], [2, 3]][number]
batch = sharding.put_own_rows({"x": own.astype(np.float32)}, mesh)
step = jax.jit(lambda x: x.sum(), out_shardings=sharding.replicated(mesh))
whole = sharding.put_everywhere({"key": jax.random.key(0), "n": np.arange(3)}, mesh)
assert whole["n"].tolist() == [0, 1, 2]
assert hosts.of_first(number + 5) == 5
try:
    for taken in range(20 if fault == "late" else 10**6):
        assert float(step(batch["x"])) == 6
        if taken == 10 and goes:
            if fault == "killed": os.kill(os.getpid(), signal.SIGKILL)
            if fault == "stopped": os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "aborted": os.abort()
except BaseException as error:
    assert hosts.lost_peer(error), error
    exit_codes.leave(exit_codes.PEER_LOST)
if fault == "late" and goes:
    os._exit(3)
print("parted", hosts.leave(patience=30), flush=True)
exit_codes.leave(0)
"""


def code_of_the_other(fault: str, victim: int, patience: int = 60) -> tuple[int, str]:
    """The exit code and the output of the process that is left when its peer has gone."""
    with socket.socket() as held:
        held.bind(("localhost", 0))
        port = held.getsockname()[1]
    with contextlib.ExitStack() as stack:
        processes, files = [], []
        for number in (0, 1):
            files.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            command = [port, number, victim, fault, patience]
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, command)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
                stdout=files[-1],
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        code = processes[1 - victim].wait(LIMIT)
        files[1 - victim].seek(0)
        return code, files[1 - victim].read()


FAULTS = [("stopped", 1), ("killed", 0), ("killed", 1), ("aborted", 1), ("refused", 1)]
long = pytest.mark.long


@pytest.mark.parametrize(
    ("fault", "victim"), [("stopped", 0), *(pytest.param(*case, marks=long) for case in FAULTS)]
)
def test_who_loses_a_peer_ends_by_itself_with_the_code_for_it(fault: str, victim: int):
    code, output = code_of_the_other(fault, victim)
    assert code == exit_codes.PEER_LOST, output
    # A collective may say it first.
    assert fault == "killed" or fault == "aborted" or "error: another process of this" in output


@pytest.mark.long
def test_who_waits_in_vain_for_the_others_says_so():
    code, output = code_of_the_other("never_came", 1, patience=8)
    assert code == exit_codes.PEER_LOST and "not all processes of this run came" in output


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_peer_that_is_gone_when_all_is_done_holds_up_nobody(victim: int):
    code, output = code_of_the_other("late", victim)
    assert code == 0 and "parted False" in output


def test_an_abort_of_another_cause_stays_one():
    text = "from experiments import hosts; import os; hosts._moment = 'together'; "
    done = subprocess.run(
        [sys.executable, "-c", text + "hosts._on_abort(1); os.abort()"],
        cwd=ROOT,
        timeout=LIMIT,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGABRT
