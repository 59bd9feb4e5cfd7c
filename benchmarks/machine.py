"""The machine that figures are of, in a line."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "onednn-cpu-gomp"),
    *("torch", "imagecorruptions-imaug"),
)


def facts() -> dict[str, Any]:
    """What figures depend on besides the command: processor, memory, versions, load.

    Returns:
      Values as JSON can hold them; None for what is not known or not installed.

    Example:
      >>> facts()["cores"] >= 1
      True
    """
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "revision": _revision(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "load_at_start": round(os.getloadavg()[0], 2),
        "date": datetime.date.today().isoformat(),
    }


def line(found: dict[str, Any]) -> str:
    """One line for a person.

    Args:
      found: as `facts` gives it.

    Returns:
      The processor, the versions and the load.

    Example:
      >>> "Python" in line(facts())
      True
    """
    versions = [f"{name} {found[name]}" for name in _PACKAGES if found.get(name)]
    memory = f", {found['memory_gib']:.0f} GiB" if found["memory_gib"] else ""
    flags = f"; XLA_FLAGS={found['xla_flags']}" if found["xla_flags"] else ""
    return (
        f"{found['processor']}, {found['cores']} cores{memory}; {found['system']}, Python "
        f"{found['python']}, {', '.join(versions)}; revision {found['revision']}, "
        f"{found['date']}, load {found['load_at_start']:.2f} at the start{flags}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    fields = [each.partition(":") for each in text.splitlines()]
    known = {name.strip(): value.strip() for name, _, value in reversed(fields)}
    matrix = [
        name for name in ("amx_bf16", "avx512_bf16") if name in known.get("flags", "").split()
    ]
    model = known.get("model name", platform.machine())
    where = [known[name] for name in ("cpu family", "model") if name in known]
    family = f" (family {', model '.join(where)})" if where else ""
    return f"{model}{family}{' with ' + ', '.join(matrix) if matrix else ''}"


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
