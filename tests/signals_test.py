"""SIGTERM and Ctrl-C: heard at every moment, and nothing of the run is lost."""

import pathlib
import re
import signal
import subprocess
import sys

import pytest
import runs

from experiments.lifecycle import exit_codes
from experiments.lifecycle.signals import Stop

LISTENING = """
import hashlib, sys, time
from experiments.lifecycle.signals import Stop
stop = Stop()
stop.listen()
{waits}
print("listens", flush=True)
{rest}
"""


def listening(rest: str, *, waits: bool = False) -> runs.Running:
    """A process that only listens; it is there in a moment."""
    text = LISTENING.format(rest=rest, waits="stop.waits()" if waits else "")
    process = runs.Running([sys.executable, "-c", text])
    runs.wait_for("listens", process)
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, exit_codes.PREEMPTED), (signal.SIGINT, exit_codes.INTERRUPTED)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_with_nothing_to_save_a_signal_ends_the_process_even_inside_c(number, code: int):
    # Minutes in one call of C, in which Python's own handlers would wait.
    process = listening("hashlib.pbkdf2_hmac('sha512', b'', b'', 10**9)")
    process.send_signal(number)
    said = runs.finish(process, code, limit=20)
    assert said.endswith(
        f"stopped by {number.name} at once: the same command goes on from what is saved\n"
    )


def test_a_first_signal_is_noted_where_there_is_something_to_save_and_a_second_one_ends():
    rest = """
while not stop.asked():
    time.sleep(0.01)
print("asked", stop.name, stop.code, flush=True)
time.sleep(100)
"""
    process = listening(rest, waits=True)
    process.send_signal(signal.SIGTERM)
    runs.wait_for("asked SIGTERM 75", process)
    assert "SIGTERM: the run stops after the step in flight, and saves" in process.said()
    process.send_signal(signal.SIGINT)
    assert "stopped by SIGINT at once" in runs.finish(process, exit_codes.INTERRUPTED, limit=20)


def test_a_signal_that_is_ignored_stays_ignored():
    text = LISTENING.format(rest="time.sleep(100)", waits="")
    ignoring = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{text}"
    process = runs.Running([sys.executable, "-c", ignoring])
    runs.wait_for("listens", process)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGTERM)
    runs.finish(process, exit_codes.PREEMPTED, limit=20)


def test_nobody_asks_before_somebody_does():
    stop = Stop()
    stop.waits()
    assert not stop.asked() and (stop.name, stop.code) == ("SIGTERM", exit_codes.PREEMPTED)


def test_processes_that_train_together_stop_at_the_moment_that_all_agree_on(
    monkeypatch: pytest.MonkeyPatch,
):
    from jax.experimental import multihost_utils

    moments = []
    monkeypatch.setattr(
        multihost_utils,
        "reached_preemption_sync_point",
        lambda moment: moments.append(moment) or moment == 3,
    )
    stop = Stop()
    stop.waits(together=True)
    assert [stop.asked() for _ in range(5)] == [False, False, True, True, True]
    assert moments == [1, 2, 3]  # it is reached at one moment alone, and remembered


# --- The program -------------------------------------------------------------------------------

# Quick steps; rows are evaluated two by two, which takes a moment; saves fall between lines.
FLAGS = (
    "--model=mlp",
    "--policy=mixup",
    "--crop_padding=0",
    "--steps=600",
    "--log_every=150",
    "--checkpoint_every=200",
    "--eval_every=500",
    "--eval_batch_size=2",
    "--validation_fraction=0.2",
    "--record_errors",
)


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: pathlib.Path):
    for moment, number, code in (
        (runs.at_start, signal.SIGINT, exit_codes.INTERRUPTED),
        (runs.in_compilation, signal.SIGTERM, exit_codes.PREEMPTED),
    ):
        # Nothing compiled before is read, so that the compiler is at work for a while.
        with runs.spawn(tmp_path, *FLAGS, JAX_ENABLE_COMPILATION_CACHE="false") as process:
            moment(process)
            process.send_signal(number)
            assert f"stopped by {number.name} at once" in runs.finish(process, code)
    assert not (tmp_path / "checkpoints").exists()


def test_stopped_in_a_step_in_a_save_and_in_an_evaluation_a_run_ends_as_if_never_stopped(
    tmp_path: pathlib.Path,
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    uninterrupted = runs.spawn(whole, *FLAGS)
    steps = []
    for moment, number, code in (
        (lambda process: runs.in_step(process, 150), signal.SIGTERM, exit_codes.PREEMPTED),
        (lambda process: runs.in_save(process, stopped), signal.SIGINT, exit_codes.INTERRUPTED),
        (lambda process: runs.in_evaluation(process, stopped, 500), signal.SIGTERM, 75),
    ):
        with runs.spawn(stopped, *FLAGS) as process:
            moment(process)
            process.send_signal(number)
            said = runs.finish(process, code)
        found = re.search(rf"stopped by {number.name} at step (\d+): the same command", said)
        assert found and "Traceback" not in said, said
        steps.append(int(found[1]))
        # What it says is there is whole: it was waited for.
        assert (stopped / "checkpoints" / found[1] / "_CHECKPOINT_METADATA").exists()
    assert 150 <= steps[0] < steps[1] < steps[2] == 500
    assert "resumed from" in runs.finish(runs.spawn(stopped, *FLAGS))
    runs.finish(uninterrupted)
    runs.assert_same_bits(stopped, whole)
    for name in ("best_step", "best_validation_accuracy", "best_test_accuracy"):
        assert runs.summary(stopped)[name] == runs.summary(whole)[name]
    assert runs.snapshot(stopped / "errors") == runs.snapshot(whole / "errors")
