"""A process that starts itself anew: once, as itself, and only where it helps."""

import os
import subprocess
import sys

import pytest

from experiments import huge_pages

PROGRAM = """
import os, re, sys
from pathlib import Path
from experiments import huge_pages
huge_pages.restart()
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
    not huge_pages._ENABLED.exists() or "[never]" in huge_pages._ENABLED.read_text(),
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
    assert out == f"{started.pid} ['--x=1 2', 'y'] {huge_pages.TUNABLES} True\n"


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
    monkeypatch.setattr(huge_pages.os, "environ", {**environment, name: value})
    monkeypatch.setattr(huge_pages.os, "execv", lambda *_: pytest.fail("started anew"))
    huge_pages.restart()


def test_a_system_without_huge_pages_is_left_alone(monkeypatch, environment, tmp_path):
    monkeypatch.setattr(huge_pages.os, "environ", environment)
    monkeypatch.setattr(huge_pages.os, "execv", lambda *_: pytest.fail("started anew"))
    monkeypatch.setattr(huge_pages, "_ENABLED", tmp_path / "enabled")
    huge_pages.restart()
    huge_pages._ENABLED.write_text("always madvise [never]", encoding="ascii")
    huge_pages.restart()
