"""Subjects are measured in processes of their own, and a process that dies says why."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import workers
from benchmarks.workers import Subject, Worker, WorkerError

MAKERS = """
import os, time
from benchmarks.work import Work

def sleeps(options):
    return Work(lambda steps: time.sleep(1e-3 * steps), {"options": list(options)})

def clocks_itself(options):
    return Work(lambda steps: 10.0 * steps)

def cannot_be_built(options):
    raise ValueError(f"no such thing as {options[0]}")

def _second_time(options, does):
    calls = []
    def run(steps):
        calls.append(steps)
        if len(calls) == 2:
            does()
    return Work(run)

def raises(options):
    return _second_time(options, lambda: 1 / 0)

def dies(options):
    def end():
        os.write(2, b"out of luck")
        os._exit(7)
    return _second_time(options, end)

def never_ends(options):
    return _second_time(options, lambda: time.sleep(1000))

def prints(options):
    print("a library says hello")
    return Work(lambda steps: None)
"""


@pytest.fixture(autouse=True)
def makers(tmp_path, monkeypatch):
    (tmp_path / "bench_makers.py").write_text(MAKERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def _subject(name: str, *options: str, **rest) -> Subject:
    return Subject(f"bench_makers:{name}", options, **rest)


@pytest.mark.parametrize("share", [False, True])
def test_subjects_are_measured_round_by_round_and_the_others_go_on_when_one_fails(share):
    names = ("sleeps", "clocks_itself", "cannot_be_built", "raises", "prints")
    said: list[str] = []
    found = workers.measure(
        {name: _subject(name, "a=1") for name in names},
        rounds=3,
        turn_seconds=0.005,
        pause=0,
        share=share,
        say=said.append,
    )
    assert list(found.seconds) == ["sleeps", "clocks_itself", "prints"]
    assert all(len(rounds) == 3 for rounds in found.seconds.values())
    assert min(found.seconds["sleeps"]) >= 1e-3
    assert set(found.seconds["clocks_itself"]) == {10.0 * 1}
    assert found.failed == {
        "cannot_be_built": "ValueError: no such thing as a=1",
        "raises": "ZeroDivisionError: division by zero",
    }
    assert found.facts["sleeps"]["options"] == ["a=1"]
    assert found.facts["sleeps"]["peak_mib"] > 1
    assert found.facts["clocks_itself"]["steps_a_turn"] == 1
    assert said[-1] == "round 3 of 3"


def test_a_worker_that_dies_is_named_with_what_it_said_last():
    found = workers.measure(
        {"good": _subject("sleeps"), "bad": _subject("dies")}, rounds=1, turn_seconds=0, pause=0
    )
    assert list(found.seconds) == ["good"]
    expected = "the worker ended with exit code 7 while taking steps of bad, saying: out of luck"
    assert found.failed == {"bad": expected}


def test_a_module_that_cannot_be_imported_is_an_error_of_that_subject_alone():
    found = workers.measure({"x": Subject("no_such_module:step")}, rounds=1, turn_seconds=0)
    assert found.failed == {"x": "ModuleNotFoundError: No module named 'no_such_module'"}


def test_steps_are_taken_in_multiples_of_the_period():
    subject = _subject("clocks_itself", period=4)
    found = workers.measure({"x": subject}, rounds=1, turn_seconds=1, pause=0)
    # A step of 40 seconds fills a turn by itself; all four of a period are taken nevertheless.
    assert found.facts["x"]["steps_a_turn"] == 4
    assert found.seconds["x"] == [40.0]


def test_what_is_not_installed_is_skipped_and_named():
    found = workers.measure(
        {
            "package": _subject("sleeps", needs="no_such_package"),
            "tool": _subject("sleeps", tool="no_such_tool"),
        },
        rounds=1,
        turn_seconds=0,
    )
    assert found.skipped == {
        "package": "no_such_package is not installed: pip install 'semjax[peers]'",
        "tool": "no_such_tool is not installed",
    }
    assert not found.seconds and not found.failed


def test_a_worker_ends_with_its_parent_whatever_it_is_doing():
    given = json.dumps([["bench_makers:never_ends", [], 1]])
    root = Path(workers.__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", given],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert json.loads(process.stdout.readline())[0].keys() == {"facts"}
        process.stdin.write("go 0 1\n")
        process.stdin.flush()
        time.sleep(0.1)
        process.stdin.close()  # as the system does when the parent is gone
        assert process.wait(timeout=60) == 1


def test_a_worker_can_be_closed_twice_and_asked_for_nothing_more():
    worker = Worker({"x": _subject("sleeps")})
    worker.ready()
    worker.close()
    worker.close()
    with pytest.raises((WorkerError, ValueError)):
        worker.go("x", 1)
