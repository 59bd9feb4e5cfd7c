"""What a run leaves on disk and what it shows a person: metrics, tables, provenance.

The files are written so that a run that was killed and resumed leaves the same ones as a run that
was not, and so that whoever reads them finds them whole.
"""

import collections
import contextlib
import importlib.metadata
import json
import math
import numbers
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

import jax

from experiments import untrusted

__all__ = [
    "Closing",
    "MetricsLog",
    "TensorBoard",
    "environment",
    "format_table",
    "print_table",
    "read_metrics",
    "shown",
    "write_atomically",
]

_PACKAGES = ("semjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_BLANK = "-"


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file that is whole at every moment: the old content or the new, never a part.

    Args:
        path: File to write; its directory is made if it is not there.
        content: The whole of the new content; text is written as UTF-8.

    Raises:
        OSError: If it cannot be written; the old file stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as workdir:
        ...     write_atomically(Path(workdir) / "run.flags", "--seed=1")
        ...     (Path(workdir) / "run.flags").read_text()
        '--seed=1'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name on no content
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> OSError:
    """Returns the same kind of error, told from the side of the person who chose the directory."""
    advice = "choose another directory or free the disk"
    return type(error)(
        error.errno, f"cannot write {path.name} ({error.strerror}): {advice}", str(path)
    )


class Closing:
    """A context manager that closes itself."""

    def close(self) -> None:
        """Ends the record."""

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()


class MetricsLog(Closing):
    r"""Appends to `workdir/metrics.jsonl`: one JSON object a line, `{"step": 10, "loss": 0.5}`.

    Guarantees, each of them tested:

    * opened to go on from a step, the file holds the lines up to that step, whatever was written
      after it: a run killed and resumed leaves the lines of a run that was never stopped, if each
      line is written before its step is checkpointed;
    * a last line torn by a kill is dropped;
    * every line is valid JSON: NaN and infinities are written as null;
    * a line is in the hands of the system when `write` returns, so that killing the process loses
      none.

    Args:
        workdir: Directory of the run; made if it is not there.
        resume_step: Step of the checkpoint the run goes on from; None for a run that starts
            anew, which empties the file.
        evaluated: Whether the evaluation after that step is kept; without it a line of that step
            that holds one goes too, since it is made again.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a line other than the last is not a record.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as workdir:
        ...     with MetricsLog(workdir, resume_step=None) as log:
        ...         log.write(10, {"loss": 0.5})
        ...         log.write(20, {"loss": float("nan")})
        ...     with MetricsLog(workdir, resume_step=10) as log:
        ...         log.write(20, {"loss": 0.25})
        ...     print((Path(workdir) / "metrics.jsonl").read_text(), end="")
        {"step": 10, "loss": 0.5}
        {"step": 20, "loss": 0.25}
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        *,
        resume_step: int | None,
        evaluated: bool = True,
    ) -> None:
        """Opens the file; see the class."""
        path = Path(workdir) / "metrics.jsonl"
        last = -1 if resume_step is None else resume_step
        kept = [
            line
            for line, record in _records(path)
            if record["step"] <= last and (evaluated or record["step"] < last or "loss" in record)
        ]
        text = "".join(f"{line}\n" for line in kept)
        if not path.exists() or text != _text(path):
            write_atomically(path, text)
        try:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one line.

        Args:
            step: The step the metrics belong to.
            metrics: Numbers by name, Python's, NumPy's or JAX's.

        Raises:
            ValueError: If one of them is called "step".
            TypeError: If one of them is not a number.
            OSError: If the line cannot be written.
        """
        if "step" in metrics:
            raise ValueError('a metric must not be called "step": that is the first key of a line')
        values = {name: _number(name, value) for name, value in metrics.items()}
        try:
            self._file.write(json.dumps({"step": int(step), **values}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise _unwritable(Path(self._file.name), error) from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the records of `workdir/metrics.jsonl` in order, without a torn last line.

    Args:
        workdir: Directory of a run, running or ended.

    Returns:
        One dict per line; null has become None.

    Raises:
        ValueError: If a line other than the last is not a record.
    """
    return [record for _, record in _records(Path(workdir) / "metrics.jsonl")]


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is not a file. Remove it")
    # A torn last line may end inside a character.
    return path.read_text(encoding="utf-8", errors="replace")


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Returns each line with what it says."""
    lines = _text(path).splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = untrusted.parse_json(line)
            if type(record["step"]) is not int:
                raise TypeError("step is not a whole number")
            if not all(value is None or _is_finite(value) for value in record.values()):
                raise TypeError("a metric is not a number")
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f'line {number} of {path} is not a record {{"step": ...}}: {line[:80]!r}. Remove '
                f"that line, or the file"
            ) from error
        records.append((line, record))
    return records


def _is_finite(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _scalar(value: Any) -> Any:
    """Returns an array of one number as Python's number, anything else as it is."""
    return value.item() if getattr(value, "size", None) == 1 else value


def _number(name: str, value: Any) -> float | int | None:
    value = _scalar(value)
    if not isinstance(value, numbers.Real):
        raise TypeError(f"metric {name!r} must be a number, got {type(value).__name__}: {value!r}")
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if math.isfinite(value) else None


class TensorBoard(Closing):
    """Writes the same scalars for TensorBoard, in `workdir/tensorboard`.

    Args:
        workdir: Directory of the run.
        resume_step: As for `MetricsLog`: what was written after that step is hidden.

    Raises:
        ValueError: If tensorboardX is not installed.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, resume_step: int | None) -> None:
        """Opens the writer; see the class."""
        try:
            import tensorboardX
        except ImportError as error:
            raise ValueError(
                "--tensorboard needs tensorboardX, which is not installed: "
                "pip install 'semjax[tensorboard]', or leave the flag out"
            ) from error
        first = 0 if resume_step is None else resume_step + 1
        self._writer = tensorboardX.SummaryWriter(
            str(Path(workdir) / "tensorboard"), purge_step=first
        )

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes the finite metrics of one step; arguments as for `MetricsLog.write`."""
        for name, value in metrics.items():
            number = _number(name, value)
            if number is not None:
                self._writer.add_scalar(name, number, int(step))

    def close(self) -> None:
        """Writes out what is buffered and closes."""
        self._writer.close()


def format_table(rows: Mapping[str, object], *, title: str = "") -> str:
    """Returns aligned lines, one per row; numbers are rounded to four digits.

    Args:
        rows: Values by label. None is shown as "-"; a mapping is shown indented.
        title: Shown above, if there is one.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> print(format_table({"steps": 5000, "test accuracy": 0.81234567}, title="Final"))
        Final
          steps          5000
          test accuracy  0.8123
    """
    flat = list(_flattened(rows))
    width = max((len(label) for label, _ in flat), default=0)
    lines = [f"  {label:<{width}}  {value}".rstrip() for label, value in flat]
    return "\n".join([title, *lines] if title else lines)


def print_table(
    rows: Mapping[str, object], *, title: str = "", stream: TextIO | None = None
) -> None:
    """Prints `format_table`, to stdout if no stream is given."""
    print(format_table(rows, title=title), file=stream or sys.stdout, flush=True)


def _flattened(rows: Mapping[str, object], indent: str = "") -> collections.abc.Iterator[Any]:
    for label, value in rows.items():
        if isinstance(value, Mapping):
            yield f"{indent}{label}", ""
            yield from _flattened(value, indent + "  ")
        else:
            yield f"{indent}{label}", shown(value)


def shown(value: object) -> str:
    """Returns a value as tables and the progress line show it: numbers to four digits."""
    value = _scalar(value)
    if value is None:
        return _BLANK
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if 1000 <= abs(value) < math.inf else f"{value:.4g}"


def environment() -> dict[str, Any]:
    """Returns what the numbers of a run depend on besides its flags.

    Returns:
        `revision` (the commit of the checkout the code runs from, with "-dirty" if it was changed;
        None where the code is not in a checkout, or there is no git), `python`, a version for each
        package ("unknown" if it is not installed), `platform`, `device_kind`, `device_count`.

    Example:
        >>> environment()["platform"] in ("cpu", "gpu", "tpu")
        True
    """
    devices = jax.devices()
    return {
        "revision": _revision(Path(__file__)),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _revision(file: Path) -> str | None:
    # A package installed below somebody else's checkout is not part of it: the file must be.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
