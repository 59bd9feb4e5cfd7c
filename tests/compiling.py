"""How the tests' own programs are compiled: sooner, and to slower ones."""

import os

import jax
import pytest

from semjax import cpu

# Half of what a small program takes to compile: the newer emitters of fused loops, and code
# generation in several parts. Values are the same up to rounding.
_FLAGS = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


def flags() -> str:
    """XLA_FLAGS for it. XLA ends the process over a flag that it does not know."""
    given = os.environ.get("XLA_FLAGS", "")
    if given.strip() and not given.lstrip().startswith("-"):
        return given  # a file of flags
    known = [name for name in _FLAGS if cpu._jaxlib_knows(f"\0{name}\0")]
    # Those of the user come last, and stand.
    return " ".join([*(f"--{name}={_FLAGS[name]}" for name in known), given]).strip()


def start_backend() -> None:
    """Lets XLA read the flags, which it does once. Programs that tests start inherit none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", flags())
        jax.devices()
