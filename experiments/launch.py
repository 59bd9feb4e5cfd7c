"""Several processes of one run on this machine.

    python -m experiments.launch --processes=2 -- --flagfile=digits.flags --workdir=RUN

What follows `--` is for `experiments.train`; that each process gets its number and the address of
process 0 is seen to. Process 0 speaks as if it were alone. Of the others what they write to stderr
is shown, each line behind the number of its process.

The exit code is that of the first process that ended with another than 0; it stops the others, and
a signal that stops the launcher is passed on to all. No process stays behind. On Linux that holds
when the launcher itself is killed too; elsewhere its processes then go on.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any, NoReturn

from absl import app, flags

from experiments import untrusted
from experiments.command_line import flagfields
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError
from experiments.lifecycle import children, exit_codes

_POLL = 0.05  # seconds between looks at the processes


@dataclasses.dataclass(frozen=True)
class Options:
    """The launcher's own flags.

    Raises:
      ConfigError: a value out of range.
    """

    processes: int = flag(2, "processes that train together", at_least=1)
    devices_per_process: int = flag(1, "devices of each process where there is only a CPU", above=0)
    grace: float = flag(
        60.0,
        "seconds for the others to save and end, once one has ended, before they are killed",
        at_least=0,
    )

    def __post_init__(self) -> None:
        """Checks every field by its own bounds."""
        flagfields.check(self)


def launch(
    command: Sequence[str], *, processes: int, devices_per_process: int = 1, grace: float = 60.0
) -> int:
    """Starts the processes and stays until all have ended.

    Args:
      command: a program and its arguments; --coordinator_address, --num_processes and --process_id
        are added.
      processes: how many.
      devices_per_process: JAX_NUM_CPU_DEVICES of each.
      grace: seconds for the others to end, once one has ended badly or a signal has come, before
        they are killed.

    Returns:
      The exit code of the first that ended with another than 0, 128 and its number where a signal
      ended it; 0 if there is none.
    """
    with _Group() as group:
        flags_of_all = [f"--coordinator_address=localhost:{_free_port()}"]
        for number in range(processes):
            own = [f"--num_processes={processes}", f"--process_id={number}"]
            group.start(
                [*command, *flags_of_all, *own],
                {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices_per_process)},
                prefix=f"[{number}] " if number else "",
            )
        return group.wait(grace)


class _Group:
    """Processes that end together."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen] = []
        self._readers: list[threading.Thread] = []
        self._signals: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "_Group":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                handler = signal.signal(number, lambda it, _: self._signals.append(it))
                self._previous[number] = handler
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._running:
            children.kill_with_its_own(process)
        for reader in self._readers:
            reader.join(timeout=5)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: dict[str, str], *, prefix: str) -> None:
        """Starts one more; one with a prefix is heard on stderr alone."""
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            children.bound(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            # A terminal's Ctrl-C is for the launcher, which passes it on, once.
            start_new_session=True,
            **(quiet if prefix else {}),
        )
        self._running.append(process)
        if process.stderr is not None:
            pipe = (process.stderr, prefix)
            self._readers.append(threading.Thread(target=_pass_on, args=pipe, daemon=True))
            self._readers[-1].start()

    def wait(self, grace: float) -> int:
        """Stays until all have ended; see `launch`."""
        code, end, told = exit_codes.FINISHED, float("inf"), False
        while running := [process for process in self._running if process.poll() is None]:
            while self._signals:
                number = self._signals.pop(0)
                # To a program a terminal that hangs up is one more reason to save and stop.
                self._tell(running, signal.SIGTERM if number == signal.SIGHUP else number)
                told, end = True, min(end, time.monotonic() + grace)
            code = code or _first_bad(self._running)
            if code and not told:
                # One that was told to stop may have told the others, who are saving.
                if code not in (exit_codes.PREEMPTED, exit_codes.INTERRUPTED):
                    self._tell(running, signal.SIGTERM)
                told, end = True, min(end, time.monotonic() + grace)
            if time.monotonic() > end:
                print(f"error: {len(running)} processes killed: they did not end", file=sys.stderr)
                for process in running:
                    children.kill_with_its_own(process)
            time.sleep(_POLL)
        return code or _first_bad(self._running)

    def _tell(self, processes: Sequence[subprocess.Popen], number: int) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def _first_bad(processes: Sequence[subprocess.Popen]) -> int:
    """The code of one that ended badly; rather not of one that only misses another."""
    codes = [process.returncode for process in processes if process.returncode]
    codes.sort(key=lambda code: code == exit_codes.PEER_LOST)
    return (codes[0] if codes[0] > 0 else 128 - codes[0]) if codes else 0


def _pass_on(pipe: IO[bytes], prefix: str) -> None:
    with pipe:
        for line in pipe:
            text = line.decode(errors="replace").rstrip("\n").rpartition("\r")[2]
            print(f"{prefix}{text}", file=sys.stderr, flush=True)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("localhost", 0))
        return held.getsockname()[1]


def _parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    own, rest = list(argv), []
    if "--" in own:
        place = own.index("--")
        own, rest = own[:place], own[place + 1 :]
    try:
        options, _ = flagfields.parse(Options, own, flags.FLAGS)
        if not rest:
            raise ConfigError("nothing to launch: write -- and then the flags of experiments.train")
    except ConfigError as error:
        print(untrusted.error_line(error), file=sys.stderr)
        raise SystemExit(exit_codes.REFUSED) from error
    return options, rest


def main(parsed: tuple[Options, list[str]]) -> NoReturn:
    """Runs the program; its exit code is that of `launch`."""
    options, rest = parsed
    program = [sys.executable, "-m", "experiments.train", *rest]
    raise SystemExit(launch(program, **dataclasses.asdict(options)))


if __name__ == "__main__":
    flagfields.define(Options, flags.FLAGS)
    app.run(main, flags_parser=_parse)
