"""Memory that was not enough: how an error says so, and what a run can do with less."""

import dataclasses
from typing import Any

from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config


def is_meant(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a device.

    Args:
      error: what a step, a copy or the compiler has raised.

    Returns:
      Whether it does.

    Example:
      >>> is_meant(MemoryError()), is_meant(ValueError("too large"))
      (True, False)
    """
    # JAX knows one class of errors for all that goes wrong in its runtime.
    runtime = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (runtime and "RESOURCE_EXHAUSTED" in str(error))


def advice(config: Config) -> str:
    """Flags that make the run need less memory, those that change no result first.

    Args:
      config: what the run is.

    Returns:
      A line.

    Example:
      >>> advice(Config(model="resnet18", batch_size=128, sem_weight=0.0))
      '--remat, --device_data_mib=0, --compute_dtype=bfloat16, --batch_size=64'
    """
    sem = config.sem_weight > 0
    wanted: list[tuple[str, Any, bool]] = [
        ("remat", True, True),
        ("device_data_mib", 0, True),
        ("compute_dtype", "bfloat16", True),
        # With a label loss of the clean rows their pass is differentiated anyway.
        (
            *("stop_gradient", "clean"),
            sem and config.clean_weight == 0 and config.stop_gradient == "none",
        ),
        ("sem_fraction", 0.5, sem and config.sem_fraction == 1),
        ("accumulate", 2 * config.accumulate, True),
        ("batch_size", config.batch_size // 2, config.batch_size > 1),
    ]
    return ", ".join(
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value, applies in wanted
        if applies and getattr(config, name) != value and _is_possible(config, name, value)
    )


def _is_possible(config: Config, name: str, value: Any) -> bool:
    try:
        dataclasses.replace(config, **{name: value})
    except ConfigError:
        return False
    return True
