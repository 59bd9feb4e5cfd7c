"""How long a start takes: parts follow each other without a gap."""

import subprocess
import sys
import time

import pytest

from experiments.lifecycle import startup
from experiments.lifecycle.startup import Startup


def test_parts_follow_each_other_and_sum_to_the_whole(monkeypatch: pytest.MonkeyPatch):
    clock = iter((13.0, 13.5, 17.0))
    monkeypatch.setattr(startup.time, "monotonic", lambda: next(clock))
    start = Startup(began=10.0)
    for part in ("imports", "data", "build"):
        start.ends(part)
    assert start.seconds == {"imports": 3.0, "data": 0.5, "build": 3.5}
    assert start.total() == 7.0


def test_a_process_has_started_before_its_first_line_runs_and_after_it_was_asked_for():
    program = "import time\nprint(time.monotonic())\nfrom experiments.lifecycle import startup\n"
    asked = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program + "print(startup.process_start())"],
        capture_output=True,
        text=True,
        check=True,
    )
    first_line, started = map(float, done.stdout.split())
    # The kernel counts in hundredths of a second; elsewhere the import stands in.
    assert asked - 0.02 <= started
    assert started <= first_line or sys.platform != "linux"


def test_where_the_system_does_not_tell_the_import_counts(monkeypatch: pytest.MonkeyPatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(startup.Path, "read_text", missing)
    assert startup.process_start() == startup._IMPORTED
