"""What a failure prints besides its error is kept off stderr, and nothing else is."""

import logging
import sys
import types
from typing import Any

import pytest

from experiments.checkpointing import echoes


def test_other_voices_are_still_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    echoes.drop_echoes()
    try:
        raise RuntimeError("not of a checkpoint")
    except RuntimeError:
        logging.getLogger("absl").exception("one")
    logging.getLogger("absl").warning("two")
    logging.getLogger("asyncio").error("three")
    assert [record.message for record in caplog.records] == ["one", "two", "three"]


def test_errors_nobody_can_catch_are_told_apart_by_their_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def __del__(self) -> None:
            raise RuntimeError("Event loop is closed")  # the text of an echo, not its origin

    heard: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda entry: heard.append(entry.exc_value))
    for name in ("absl", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    echoes.drop_echoes.__wrapped__()  # installs itself once; here once more
    echo = types.SimpleNamespace(exc_value=RuntimeError("Event loop is closed"), object=None)
    sys.unraisablehook(echo)  # as a thread of TensorStore reports
    assert heard == []
    Broken()
    assert [str(error) for error in heard] == ["Event loop is closed"]


@pytest.mark.parametrize(
    ("path", "message", "failed", "kept"),
    [
        ("site-packages/orbax/x.py", "Save failed.", True, False),  # raised as well
        ("site-packages/orbax/x.py", "Requested y; did not provide metrics.", False, False),
        ("site-packages/orbax/x.py", "Something else.", False, True),
        ("site-packages/orbax/x.py", "Metadata file does not exist: y", False, False),
        ("experiments/x.py", "Save failed.", True, True),
    ],
)
def test_logs_of_orbax_are_dropped_if_they_echo_what_is_raised(
    path: str, message: str, failed: bool, kept: bool
) -> None:
    echoes.drop_echoes()
    trace = (ValueError, ValueError("no"), None) if failed else None
    record = logging.LogRecord("absl", logging.ERROR, path, 1, message, (), trace)
    assert bool(logging.getLogger("absl").filter(record)) == kept
