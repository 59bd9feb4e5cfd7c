"""Processes that train together: how they find each other, what they agree on, and how they part.

A run of one process calls the same functions, which then do nothing. Devices are the business of
`experiments.sharding`, this module's is the processes: process 0 writes what a person reads, and
what one process has found out, such as the step to go on from, is told to all. When one is gone,
the others end too, by themselves and with an exit code that says so.
"""

import ctypes
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.lifecycle import exit_codes

# Seconds that processes wait for each other at the start. A cluster starts them minutes apart.
PATIENCE = 300
# Seconds without a sign of life after which a process counts as gone, a stopped one too. They are
# given by a thread that no computation holds up.
SILENCE = 40
# Seconds for the others to come to the end of the run, after which a process leaves without them.
_PARTING = 60
# What errors say that come of another process, in small letters: of gloo, which adds up over CPUs;
# of NCCL, which does over GPUs; of the coordination service, by which processes find each other,
# meet, and are missed.
_SIGNS_OF_A_LOST_PEER = (
    *("gloo all-", "gloo reduce", "gloo broadcast", "gloo context initialization failed"),
    *("closed by peer", "reset by peer", "remote process exited", "nccl operation"),
    *("coordinationservice", "coordination service", "barrier timed out", "unhealthy"),
)

_moment = ""  # "", "meeting", "together" or "parting"
_left_behind = threading.Event()
_handlers: list[Any] = []  # kept, since C holds a pointer


def initialise(config: Config, *, patience: int = PATIENCE, silence: int = SILENCE) -> bool:
    """Joins the other processes of the run, if there are any.

    To be called before JAX looks for its devices. Whether there are others is said by
    --distributed; with `auto` by --num_processes and --coordinator_address, or by the environment
    that SLURM, Open MPI or a TPU pod makes. A run of one process stays as it is.

    From then on each process shows every few seconds that it is alive. When one is gone, the others
    get an error that `lost_peer` knows, or, where they wait in vain, end with
    `exit_codes.PEER_LOST`: the coordination service of JAX would abort them.

    Args:
      config: its flags distributed, coordinator_address, num_processes and process_id.
      patience: seconds to wait for the others.
      silence: seconds after which a process that shows no sign of life counts as gone.

    Returns:
      Whether this is one of several processes.

    Raises:
      ConfigError: flags that contradict each other or do not suffice, or a coordinator that cannot
        be reached.

    Example:
      >>> initialise(Config())
      False
    """
    global _moment
    options = _options(config, os.environ)
    if options is None:
        return False
    if jax.distributed.is_initialized():
        return jax.process_count() > 1
    address = options.get("coordinator_address") or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address:
        _reach(address, options.get("process_id"), patience)
    _moment = "meeting"
    _on_abort(patience)
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=silence,
            shutdown_timeout_seconds=_PARTING,
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed={config.distributed}: {_one_line(error)} Give --coordinator_address, "
            "--num_processes and --process_id where no cluster tells them, or --distributed=off "
            "for a run of this process alone"
        ) from error
    _moment = "together"
    return jax.process_count() > 1


def leave(*, patience: float = _PARTING + 10) -> bool:
    """Parts from the other processes when the run has come to its end.

    Each waits for the others, so that none takes an end for a loss. To be called when everything is
    written; where it returns False the process has to end by `exit_codes.leave`, and may do so
    anyway. A process that ends because of an error does not call it: its silence tells the others.

    Args:
      patience: seconds to wait for the others.

    Returns:
      Whether all have parted; True in a run of one process.

    Example:
      >>> leave()
      True
    """
    global _moment
    if not jax.distributed.is_initialized():
        return True
    _moment = "parting"
    parted = threading.Event()

    def part() -> None:
        try:
            jax.distributed.shutdown()
            parted.set()
        finally:
            _left_behind.set()

    # A daemon: what holds it up must not hold up the end of the process.
    threading.Thread(target=part, daemon=True).start()
    _left_behind.wait(patience)
    return parted.is_set()


def lost_peer(error: BaseException) -> bool:
    """Whether an error came up because another process of the run ended or does not answer.

    Args:
      error: of a step, a collective or a barrier.

    Returns:
      Whether it, or what it was raised from, says so.

    Example:
      >>> lost_peer(ValueError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer"))
      True
      >>> lost_peer(ValueError("RESOURCE_EXHAUSTED: Out of memory"))
      False
    """
    if isinstance(error, ConfigError):
        return False  # its message is for a person, whatever it was raised from
    return any(
        isinstance(link, (jax.errors.JaxRuntimeError, ValueError, RuntimeError))
        and any(sign in str(link).lower() for sign in _SIGNS_OF_A_LOST_PEER)
        for link in _chain(error)
    )


def is_first() -> bool:
    """Whether this process is the one that writes the run directory and talks to the person.

    Returns:
      True in a run of one process.

    Example:
      >>> is_first()
      True
    """
    return jax.process_index() == 0


def of_first(value: int) -> int:
    """The number that process 0 has; every process has to call this, in the same order.

    Args:
      value: this process's number; what the others pass is ignored.

    Returns:
      That of process 0.

    Example:
      >>> of_first(3)
      3
    """
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))


def _options(config: Config, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told; None for a run of one process."""
    address, count, number = config.coordinator_address, config.num_processes, config.process_id
    given = {
        f"--coordinator_address={address}": bool(address),
        f"--num_processes={count}": count > 1,
        f"--process_id={number}": number > 0,
    }
    named = " ".join(name for name, is_given in given.items() if is_given)
    if config.distributed == "off":
        if named:
            raise ConfigError(f"--distributed=off: excludes {named}")
        return None
    if 0 < count <= number:
        raise ConfigError(f"--process_id={number}: must be below --num_processes={count}")
    if address:
        _host_and_port(address)
    if count == 1:
        return None
    if config.distributed == "auto" and not named and _in_cluster(environ) <= 1:
        return None
    if address and count and number >= 0:
        # Said in full: nothing is left to detect, not even which GPUs belong to this process.
        return {
            "coordinator_address": address,
            "num_processes": count,
            "process_id": number,
            "cluster_detection_method": "deactivate",
        }
    if named and _in_cluster(environ) <= 1 and config.distributed == "auto":
        raise ConfigError(
            f"{named}: without a cluster that tells the rest, all of --coordinator_address, "
            "--num_processes and --process_id are needed"
        )
    return {
        "coordinator_address": address or None,
        "num_processes": count or None,
        "process_id": number if number >= 0 else None,
    }


def _in_cluster(environ: Mapping[str, str]) -> int:
    """The processes of the cluster that has started this one; 0 where none says so."""
    if {"SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"} <= set(environ):
        # Of the step: a job for many tasks may run a step of one.
        return _number(environ, "SLURM_STEP_NUM_TASKS") or _number(environ, "SLURM_NTASKS")
    if "OMPI_COMM_WORLD_RANK" in environ:
        return _number(environ, "OMPI_COMM_WORLD_SIZE")
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES") or ""
    slices = _number(environ, "MEGASCALE_NUM_SLICES") or 1
    return len([host for host in hosts.split(",") if host]) * slices


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "0")
    if not text.isdecimal():
        raise ConfigError(f"--distributed=auto: {name}={text} in the environment is not a number")
    return int(text)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"--coordinator_address={address}: must be host:port, such as node1:1234")
    return host.strip("[]"), int(port)


def _reach(address: str, number: int | None, patience: float) -> None:
    """Refuses a coordinator that cannot be had: JAX would end the process, by a signal."""
    host, port = _host_and_port(address)
    if number == 0:
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        with socket.socket(family) as taken:
            # As the service itself does: ports of connections that have ended may be used.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("", port))
            except OSError as error:
                raise ConfigError(
                    f"--coordinator_address={address}: port {port} of this machine, which "
                    f"--process_id=0 serves: {error.strerror}; choose another port"
                ) from error
    end = time.monotonic() + patience
    while number:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"--coordinator_address={address}: not reached within {patience:g} s: "
                    f"{error.strerror or error}; is process 0 running there, and can this machine "
                    "connect to it?"
                ) from error
        time.sleep(0.2)


def _on_abort(patience: float) -> None:
    """Ends the process as the program does where JAX's coordination service would abort it.

    The service logs what happened and calls abort, from a thread of its own, as soon as it misses a
    process. (Its callback for this, which JAX offers no way to set, cannot be called from Python.)
    A signal handler of Python would run too late, so C calls this one. It runs in the thread that
    aborts, which may take Python's lock like any other.
    """

    def ended(number: int) -> None:
        known = {thread.ident for thread in threading.enumerate()}
        if _moment == "parting":
            # The run is over; the process goes on to its end, this thread does not.
            _left_behind.set()
            threading.Event().wait()
        if _moment == "together" and threading.get_ident() in known:
            return  # some other fault: abort does what it does
        text = (
            f"not all processes of this run came within {patience:g} s: has one ended, and do "
            "their --num_processes and --coordinator_address agree?"
            if _moment == "meeting"
            else "another process of this run ended or does not answer; the same command resumes "
            "from the last checkpoint"
        )
        exit_codes.say(f"error: {text}")
        exit_codes.leave(exit_codes.PEER_LOST)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(ended)
    _handlers.append(handler)
    libc_signal = ctypes.CDLL(None).signal
    libc_signal.argtypes = (ctypes.c_int, type(handler))
    libc_signal.restype = ctypes.c_void_p
    libc_signal(signal.SIGABRT, handler)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
