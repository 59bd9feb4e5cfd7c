"""Memory in huge pages: a process that starts itself anew with what glibc reads at its start.

A training step gets the memory of its feature maps from the system, anew each time, in pages of
4 KiB, which the processor's address tables are too small for. In pages of 2 MiB the same memory is
faster to get and to reach.
"""

import os
import sys
from pathlib import Path

_TUNABLES = "GLIBC_TUNABLES"
_IN_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart() -> None:
    """Replaces the process by itself with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in its environment.

    To be called before anything heavy is imported: then only the interpreter's own start is lost.
    Nothing happens, so that the call returns, where

    - the system is not Linux, or has huge pages switched off;
    - the environment chooses an allocator or its options already (LD_PRELOAD, MALLOC_...,
      GLIBC_TUNABLES), which is so in the second process too;
    - JAX is told to use other platforms than the CPU.

    A glibc before 2.35 does not know the setting and goes on as before.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or os.environ.get("LD_PRELOAD") or os.environ.get(_TUNABLES):
        return
    platforms = os.environ.get("JAX_PLATFORMS")
    if sys.platform != "linux" or (platforms and "cpu" not in platforms.split(",")):
        return
    try:
        if "[never]" in _ENABLED.read_text(encoding="ascii"):
            return
    except OSError:
        return
    os.environ[_TUNABLES] = _IN_HUGE_PAGES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
