"""Settings of XLA's CPU back end that a program makes before it touches a device.

By default XLA hands convolutions on a CPU to YNN, whose kernels for them are slower than XLA's own,
most of all in the gradient of the filter; and it orders a program so that parts of it could run at
the same time, which keeps more of them in memory. XLA reads its flags once, when the first device
is looked for, so they are set before that; importing JAX or semjax is not too early.

The one module of semjax that touches the process it runs in: it computes nothing, and nothing else
in semjax calls it.
"""

import importlib.util
import mmap
import os
import pathlib
import warnings
from typing import Any

import jax

# Name and value of each flag, and how XLA writes the value in the description of its options.
_FLAGS = (
    # The default list without this entry.
    (
        "xla_cpu_experimental_ynn_fusion_type",
        "-individual_convolution",
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    ),
    (
        "xla_cpu_scheduler_type",
        "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
        "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    ),
)
_config: Any = jax.config  # its options are unknown to type checkers
_LIBRARIES = frozenset((".so", ".dylib", ".dll", ".pyd"))


def set_flags() -> bool:
    """Lets XLA compile convolutions on a CPU by itself, and order programs to save memory.

    Puts `--xla_cpu_experimental_ynn_fusion_type=-individual_convolution` and
    `--xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED` behind what XLA_FLAGS holds
    already, for this process and those it starts. A flag is left out where

    - XLA_FLAGS has it with another value: the user's word stands;
    - the installed jaxlib does not know it. XLA ends the process over an unknown one, so the flag
      and its value are looked for in jaxlib's library itself: 10 ms, 30 ms from a disk.

    Nothing is changed where XLA_FLAGS is the name of a file of flags, where JAX is told to use
    other platforms than the CPU, or where JAX has looked for its devices already. Then a warning
    says what to do. Calling it again changes nothing. Results are the same up to rounding.

    Returns:
      Whether XLA_FLAGS holds both flags with these values.

    Example:
      >>> import semjax
      >>> semjax.cpu.set_flags()  # doctest: +SKIP
      True
    """
    given = os.environ.get("XLA_FLAGS", "")
    if given.strip() and not given.lstrip().startswith("-"):
        return False  # a file of flags, as XLA reads it
    platforms = _config.jax_platforms
    if platforms and "cpu" not in platforms.split(","):
        return False
    missing = [
        f"--{name}={value}"
        for name, value, in_xla in _FLAGS
        if name not in given and _jaxlib_knows(f"\0{name}\0", in_xla)
    ]
    if missing and _backend_runs():
        flags = " ".join(missing)
        warnings.warn(
            "JAX has looked for its devices already, so that programs on a CPU stay slower and "
            "larger than they need be: call semjax.cpu.set_flags() before the first use of "
            f"jax.devices() or of an array, or start the program with XLA_FLAGS={flags}",
            stacklevel=2,
        )
    elif missing:
        given = os.environ["XLA_FLAGS"] = " ".join([*given.split(), *missing])
    return all(f"--{name}={value}" in given.split() for name, value, _ in _FLAGS)


def _jaxlib_knows(*texts: str) -> bool:
    """Whether each text stands in the library that holds XLA."""
    found = importlib.util.find_spec("jaxlib")
    folders = (found and found.submodule_search_locations) or ()
    files = (path for folder in folders for path in pathlib.Path(folder).iterdir())
    libraries = [path for path in files if path.suffix in _LIBRARIES]
    if not libraries:
        return False
    # XLA is all but a few kilobytes of them. Asked in any other way it would read its flags.
    largest = max(libraries, key=lambda path: path.stat().st_size)
    with (
        largest.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return all(content.find(text.encode()) >= 0 for text in texts)


def _backend_runs() -> bool:
    # JAX has no public question for it, but refuses another number of CPU devices from then on.
    number = _config.jax_num_cpu_devices
    try:
        _config.update("jax_num_cpu_devices", number + 2)
    except RuntimeError:
        return True
    _config.update("jax_num_cpu_devices", number)
    return False
