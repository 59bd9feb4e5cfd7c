"""Processes that end with the one that started them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import alive, until

from experiments.lifecycle import children

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 30.0  # seconds that anything is waited for

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a parent's death")


def python(text: str, *args: str) -> list[str]:
    return [sys.executable, "-S", "-c", text, *args]


def test_a_command_keeps_its_arguments_its_output_and_its_code():
    text = "import sys; print(sys.argv[1:]); sys.exit(7)"
    command = children.bound(python(text, "a b", "", "--c=d;e"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("['a b', '', '--c=d;e']\n", "", 7)


@linux_only
def test_a_command_has_the_cores_it_is_given_and_else_all_of_its_parent():
    text = "import os; print(*sorted(os.sched_getaffinity(0)))"
    every = sorted(os.sched_getaffinity(0))
    for cores in ((), tuple(every), (every[-1],)):
        command = children.bound(python(text), cores=cores)
        found = subprocess.run(command, capture_output=True, text=True).stdout
        assert found.split() == [str(core) for core in cores or every]


@linux_only
def test_a_command_that_is_not_there_says_so():
    command = children.bound(["no-such-program"])
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: cannot start no-such-program: No such file or directory\n"


@linux_only
def test_a_killed_parent_takes_its_command_along(tmp_path: Path):
    # What becomes another program by exec, as training does, is still bound.
    again = (
        "import os, sys; os.execv(sys.executable, [sys.executable, '-S', '-c', sys.argv[1]])",
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "open('part', 'w').write(str(os.getpid())); os.rename('part', 'id'); time.sleep(60)",
    )
    text = (
        "import subprocess; from experiments.lifecycle import children; "
        f"subprocess.Popen(children.bound({python(*again)!r}), start_new_session=True).wait()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", text], cwd=tmp_path, env=environment) as parent:
        until((tmp_path / "id").exists)
        child = int((tmp_path / "id").read_text())
        assert alive(child)
        parent.kill()
    until(lambda: not alive(child))


@linux_only
def test_a_command_whose_parent_is_gone_already_never_starts(tmp_path: Path):
    command = children.bound(["touch", str(tmp_path / "started")])
    place = command.index(str(os.getpid()))
    command[place] = "999999999"  # nobody's
    assert subprocess.run(command).returncode == 128 + signal.SIGKILL
    assert not (tmp_path / "started").exists()


def test_what_a_process_has_started_is_killed_with_it_though_it_has_ended():
    text = (
        "import subprocess, sys; sleeps = [sys.executable, '-S', '-c', 'import time; "
        "time.sleep(60)']; print(subprocess.Popen(sleeps, stdout=2).pid)"
    )
    process = subprocess.Popen(
        python(text), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        left = int(process.communicate(timeout=LIMIT)[0])
        assert process.returncode == 0 and alive(left)
        children.kill_with_its_own(process)
        assert process.returncode == 0
    until(lambda: not alive(left))
