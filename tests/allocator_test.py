"""A process that starts itself anew, once and as itself, and gives back what it does not need."""

import os
import subprocess
import sys

import pytest

from experiments.lifecycle import allocator

PROGRAM = """
import os, re, sys
from pathlib import Path
from experiments.lifecycle import allocator
allocator.restart()
import numpy as np
array = np.ones(2**26, np.uint8)
found = re.search(r"AnonHugePages: +([0-9]+)", Path("/proc/self/smaps_rollup").read_text())
print(os.getpid(), sys.argv[1:], os.environ["GLIBC_TUNABLES"], int(found[1]) >= 2**15)
"""


@pytest.fixture
def environment():
    """That of a user who has chosen nothing."""
    chosen = ("LD_PRELOAD", "GLIBC_TUNABLES", "JAX_PLATFORMS")
    return {n: v for n, v in os.environ.items() if n not in chosen and n[:7] != "MALLOC_"}


@pytest.mark.skipif(
    not allocator._ENABLED.exists() or "[never]" in allocator._ENABLED.read_text(),
    reason="no huge pages on this system",
)
def test_the_process_goes_on_as_itself_in_huge_pages(environment):
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--x=1 2", "y"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = started.communicate(timeout=60)
    if os.confstr("CS_GNU_LIBC_VERSION") < "glibc 2.35":
        pytest.skip("this glibc does not know the setting")
    assert out == f"{started.pid} ['--x=1 2', 'y'] {allocator.TUNABLES} True\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LD_PRELOAD", "libjemalloc.so"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=1"),
        ("MALLOC_ARENA_MAX", "1"),
        ("JAX_PLATFORMS", "tpu"),
    ],
)
def test_what_the_user_has_chosen_stands(monkeypatch, environment, name, value):
    monkeypatch.setattr(allocator.os, "environ", {**environment, name: value})
    monkeypatch.setattr(allocator.os, "execv", lambda *_: pytest.fail("started anew"))
    allocator.restart()


def test_a_system_without_huge_pages_is_left_alone(monkeypatch, environment, tmp_path):
    monkeypatch.setattr(allocator.os, "environ", environment)
    monkeypatch.setattr(allocator.os, "execv", lambda *_: pytest.fail("started anew"))
    monkeypatch.setattr(allocator, "_ENABLED", tmp_path / "enabled")
    allocator.restart()
    allocator._ENABLED.write_text("always madvise [never]", encoding="ascii")
    allocator.restart()


def test_free_memory_goes_back_to_the_system(environment):
    program = """
import re
from pathlib import Path
from experiments.lifecycle import allocator
def resident():
    return int(re.search("VmRSS:[^0-9]+([0-9]+)", Path("/proc/self/status").read_text())[1])
blocks = [bytearray(10**5) for _ in range(1000)]
last = bytearray(10**5)
before = resident()
del blocks
allocator.give_back()
print(before - resident() > 5 * 10**4)
"""
    # One heap and no mapped blocks: what is freed in the middle stays, unless it is asked for.
    given = {**environment, "GLIBC_TUNABLES": allocator.TUNABLES}
    done = subprocess.run(
        [sys.executable, "-c", program], env=given, capture_output=True, text=True
    )
    assert done.stdout == "True\n", done.stderr


def test_without_glibc_nothing_is_given_back(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    allocator.give_back()
