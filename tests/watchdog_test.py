"""The watchdog: ends what hangs, and nothing else."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import runs

from experiments.lifecycle import exit_codes
from experiments.lifecycle.watchdog import Watchdog


@pytest.fixture
def left(tmp_path: Path):
    """A watchdog whose process does not end; `left.codes` is what it would have ended with."""

    class Left(threading.Event):
        codes: list[int] = []  # noqa: RUF012 (made anew for each test)
        stacks = tmp_path / "stacks"

        def watch(self, seconds: float) -> Watchdog:
            self.stream = self.stacks.open("w")
            return Watchdog(seconds, stream=self.stream, leave=self.leave)

        def leave(self, code: int) -> None:
            self.codes.append(code)
            self.set()

    left = Left()
    yield left
    left.stream.close()


def test_what_does_not_finish_is_named_with_the_stacks_of_all_threads(left, capfd):
    with left.watch(0.2) as watchdog:
        watchdog.expects("step 12")
        assert left.wait(20)
    assert left.codes == [exit_codes.STUCK]
    error = capfd.readouterr().err
    assert error.startswith("error: step 12 has not finished for 0.2 s (--stuck_after)")
    stacks = left.stacks.read_text()
    assert "in wait" in stacks and "watchdog_test.py" in stacks


def test_progress_restarts_the_clock_and_an_ended_run_is_not_watched(left):
    with left.watch(0.5) as watchdog:
        for step in range(40):
            watchdog.expects(f"step {step}")
            time.sleep(0.025)
    assert not left.wait(0.7)


def test_no_limit_is_no_thread(left):
    before = threading.active_count()
    with left.watch(0):
        assert threading.active_count() == before


SUSPENDED = """
import time
from experiments.lifecycle.watchdog import Watchdog
with Watchdog(0.8) as watchdog:
    print("watches", flush=True)
    for _ in range(30):
        watchdog.expects("nothing")
        time.sleep(0.02)
print("went on")
"""


def test_a_process_that_was_suspended_is_not_stuck():
    process = runs.Running([sys.executable, "-c", SUSPENDED])
    runs.wait_for("watches", process)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(process.pid, signal.SIGCONT)
    assert "went on" in runs.finish(process, limit=30)


STUCK_IN_C = """
import time, jax
from experiments.lifecycle.watchdog import Watchdog
def hang(x):
    time.sleep(1000)
step = jax.jit(lambda x: jax.pure_callback(hang, x, x)).lower(1.0).compile()
with Watchdog(0.5) as watchdog:
    watchdog.expects("step 12")
    jax.block_until_ready(step(1.0))
"""


def test_a_step_that_hangs_on_a_device_is_ended_though_the_main_thread_is_inside_c():
    process = runs.Running([sys.executable, "-c", STUCK_IN_C])
    said = runs.finish(process, exit_codes.STUCK, limit=60)
    assert "error: step 12 has not finished for 0.5 s" in said and "in hang" in said


STUCK_INPUT = """
import sys, threading
from experiments import train
from experiments.training import loop
from experiments.lifecycle.watchdog import Watchdog
import runs
expects = Watchdog.expects
def impatient(self, what):
    self._seconds = 1.0 if "input" in what else 1000.0
    expects(self, what)
Watchdog.expects = impatient
feed = loop.feed
def hanging(*args):
    batch_at = feed(*args)
    return lambda step: threading.Event().wait() if step == 2 else batch_at(step)
loop.feed = hanging
train.main(runs.parse(*sys.argv[1:]))
"""


def test_a_run_whose_input_hangs_ends_and_leaves_its_last_checkpoint(tmp_path: Path):
    flags = [f"--workdir={tmp_path / 'run'}", *runs.TINY]
    flags += ["--model=mlp", "--policy=mixup", "--crop_padding=0"]
    path = str(Path(runs.__file__).parent)
    process = runs.Running([sys.executable, "-c", STUCK_INPUT, *flags], PYTHONPATH=path)
    said = runs.finish(process, exit_codes.STUCK)
    assert "error: the input of step 3 has not finished for 1 s" in said
    assert "the same command resumes" in said and "in <lambda>" in said
    assert (tmp_path / "run" / "checkpoints" / "2").exists()
