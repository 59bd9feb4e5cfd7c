"""The launcher: one run in several processes, which begin and end together."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from waiting import alive, until

from experiments import launch
from experiments.lifecycle import exit_codes

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 30.0  # seconds that anything is waited for
# What stands in for the training program: it knows its number and leaves its process id.
PROGRAM = """
import os, signal, subprocess, sys, time
number = int(sys.argv[-1].partition("=")[2])
def leave(code):
    return lambda *_: os._exit(code)
def ready():
    with open(f"ready.{number}.part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"ready.{number}.part", f"ready.{number}")
def others():
    while len([name for name in os.listdir() if name in ("ready.0", "ready.1")]) < 2:
        time.sleep(0.01)
"""


def program(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", PROGRAM + text]


def started(folder: Path, text: str, *, grace: float) -> subprocess.Popen:
    """The launcher as a process of its own, with two stand-ins that are ready."""
    call = f"launch.launch({program(text)!r}, processes=2, grace={grace})"
    launcher = subprocess.Popen(
        [sys.executable, "-c", f"import sys; from experiments import launch; sys.exit({call})"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: all((folder / f"ready.{number}").exists() for number in (0, 1)))
    return launcher


def ids(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(folder.glob("ready.*"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_process_gets_its_number_and_only_process_0_speaks_as_if_alone(
    folder: Path, capfd: pytest.CaptureFixture[str]
):
    text = "print(*sys.argv[1:], flush=True); print('for', number, file=sys.stderr)"
    assert launch.launch(program(text), processes=3, devices_per_process=4) == 0
    out, err = capfd.readouterr()
    address, count, own = out.split()
    assert address.startswith("--coordinator_address=localhost:")
    assert (count, own) == ("--num_processes=3", "--process_id=0")
    assert sorted(err.splitlines()) == ["[1] for 1", "[2] for 2", "for 0"]


def test_each_process_has_so_many_devices(folder: Path, capfd: pytest.CaptureFixture[str]):
    text = "print(os.environ['JAX_NUM_CPU_DEVICES'])"
    assert launch.launch(program(text), processes=1, devices_per_process=4) == 0
    assert capfd.readouterr().out == "4\n"


def test_the_first_that_ends_badly_stops_the_others_and_gives_the_code(folder: Path):
    text = """
signal.signal(signal.SIGTERM, leave(75))
ready(); others()
time.sleep(60) if number == 0 else os._exit(3)
"""
    assert launch.launch(program(text), processes=2) == 3
    assert not any(alive(process) for process in ids(folder))


def test_one_that_does_not_stop_is_killed_with_what_it_has_started(
    folder: Path, capfd: pytest.CaptureFixture[str]
):
    text = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if number == 0:
    reader = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    open("ready.reader", "w").write(str(reader.pid))
ready(); others()
time.sleep(60) if number == 0 else os.kill(os.getpid(), signal.SIGKILL)
"""
    assert launch.launch(program(text), processes=2, grace=0.2) == 128 + signal.SIGKILL
    assert len(ids(folder)) == 3
    until(lambda: not any(alive(process) for process in ids(folder)))
    assert "1 processes killed" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_processes_may_save(folder: Path, number: signal.Signals):
    text = f"signal.signal({int(number)}, leave(75)); ready(); time.sleep(60)"
    with started(folder, text, grace=LIMIT) as launcher:
        launcher.send_signal(number)
        assert launcher.wait(LIMIT) == 75
    assert not any(alive(process) for process in ids(folder))


def test_processes_that_tell_each_other_to_stop_are_not_told_again(folder: Path):
    # A second signal would end one that is still saving.
    text = """
signal.signal(signal.SIGTERM, leave(4))
ready(); others()
time.sleep(0.3 * number)
open(f"saved.{number}", "w")
os._exit(75)
"""
    assert launch.launch(program(text), processes=2) == 75
    assert len(list(folder.glob("saved.*"))) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="a launcher's death is told on Linux only")
def test_no_process_stays_behind_a_launcher_that_is_killed(folder: Path):
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN); ready(); time.sleep(60)"
    with started(folder, text, grace=LIMIT) as launcher:
        assert all(alive(process) for process in ids(folder))
        launcher.kill()
    until(lambda: not any(alive(process) for process in ids(folder)))


def test_the_code_is_rather_that_of_the_cause_than_of_one_that_misses_it():
    ended = [subprocess.Popen([sys.executable, "-S", "-c", ""]) for _ in range(3)]
    for process, code in zip(ended, (exit_codes.PEER_LOST, 0, -signal.SIGKILL), strict=True):
        process.wait(LIMIT)
        process.returncode = code
    assert launch._first_bad(ended) == 128 + signal.SIGKILL
    assert launch._first_bad(ended[:2]) == exit_codes.PEER_LOST
    assert launch._first_bad(ended[1:2]) == 0


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--processes=0", "--", "--seed=0"], "--processes=0: must be at least 1"),
        (["--processes=2"], "write -- and then the flags of experiments.train"),
        (["--seed=0", "--", "--seed=0"], "Unknown command line flag 'seed'"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(args: Sequence[str], found: str):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.launch", *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=LIMIT,
    )
    assert done.returncode == exit_codes.REFUSED
    assert found in done.stderr and len(done.stderr.splitlines()) == 1
