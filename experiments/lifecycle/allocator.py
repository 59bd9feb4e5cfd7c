"""How a process of training gets its memory: in huge pages, kept from one step to the next.

A training step gets the memory of its feature maps from the system, anew each time, in pages of
4 KiB, which the processor's address tables are too small for. In pages of 2 MiB the same memory is
faster to get and to reach. And blocks of up to half a GiB stay with the process from one step to
the next; larger ones go back to the system, since a heap of such blocks would grow with its gaps.
"""

import ctypes
import os
import sys
from pathlib import Path

_VARIABLE = "GLIBC_TUNABLES"
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 2**29,
        "trim_threshold": 2**31,
        # One heap for all threads: that of another thread than the first holds 64 MiB at most.
        "arena_max": 1,
    }.items()
)
_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart() -> None:
    """Replaces the process by itself, with `TUNABLES` as GLIBC_TUNABLES in its environment.

    To be called before anything heavy is imported: then only the interpreter's own start is lost.
    Nothing happens, so that the call returns, where

    - the system is not Linux, or has huge pages switched off;
    - the environment chooses an allocator or its options already (LD_PRELOAD, MALLOC_...,
      GLIBC_TUNABLES), which is so in the second process too;
    - JAX is told to use other platforms than the CPU.

    A glibc before 2.35 does not know the setting and goes on as before.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or os.environ.get("LD_PRELOAD") or os.environ.get(_VARIABLE):
        return
    platforms = os.environ.get("JAX_PLATFORMS")
    if sys.platform != "linux" or (platforms and "cpu" not in platforms.split(",")):
        return
    try:
        if "[never]" in _ENABLED.read_text(encoding="ascii"):
            return
    except OSError:
        return
    os.environ[_VARIABLE] = TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def give_back() -> None:
    """Gives free memory back to the system, such as what the compiler has left behind.

    Does nothing where the C library is not glibc.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):
        return
    trim(0)
