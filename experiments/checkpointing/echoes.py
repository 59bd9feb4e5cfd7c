"""Keeps what a failed read or write prints besides its error off stderr."""

import functools
import logging
import sys
import warnings
from typing import Any

__all__ = ["drop_echoes"]

# Of a failed read, of a step without metrics, and of a file that nothing here is read from.
_NO_FAULT = (
    "could not be restored",
    "did not provide metrics",
    "Metadata file",
    "metadata contains unknown key",
)


@functools.cache
def drop_echoes() -> None:
    """Keeps the echoes of a failure off stderr, and nothing else.

    Orbax reads and writes arrays concurrently. When one fails the error is raised, and becomes a
    `CheckpointError`; the others are left to fail alone in their threads, where each prints a
    traceback, hundreds of lines in all, some of them long after the error was handled. Hence
    filters that stay, each of which knows an echo by its origin.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not _is_echo(unraisable.exc_value, unraisable.object):
            report(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: (
            not any(mark in record.getMessage() for mark in ("orbax", "TensorStore", "OCDBT"))
        )
    )
    logging.getLogger("absl").addFilter(
        lambda record: "orbax" not in record.pathname or not _is_raised_as_well(record)
    )
    unread = r"coroutine '(_read_\w+|ArrayHandler\.metadata)' was never awaited"
    warnings.filterwarnings("ignore", unread, RuntimeWarning)


def _is_echo(error: BaseException | None, source: object) -> bool:
    if source is None:  # a thread of TensorStore, whose reader has gone
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    return "orbax" in getattr(getattr(source, "cr_code", None), "co_filename", "")


def _is_raised_as_well(record: logging.LogRecord) -> bool:
    return bool(record.exc_info) or any(remark in record.getMessage() for remark in _NO_FAULT)
