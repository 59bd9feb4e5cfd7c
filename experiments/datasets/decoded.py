"""Decoded data sets kept on disk, so that only the first start decodes them.

A data set is a folder of plain .npy files and an index.json, named after a digest of all that its
content depends on. It is mapped into memory rather than read, and its checksums are compared
first, so what is handed out is what was decoded, bit for bit. A folder is written under another
name and then renamed: it is there as a whole or not at all, however many processes write it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import untrusted
from experiments.datasets.data import Split

Decoded = tuple[int, dict[str, Split]]  # the number of classes, and the splits by name
Description = Mapping[str, Any]  # as JSON keeps it

HELP = (
    "folder that keeps decoded data sets for later runs; auto: semjax/datasets in the user's cache "
    "folder; none: nothing is kept"
)
_FORMAT = 1
_INDEX = "index.json"
_PARTIAL = ".partial"
_OWN = re.compile(r"[0-9a-f]{40}(\.[0-9a-f]{32}\.partial)?", re.ASCII)
_DAY = 86_400
_UNUSED_DAYS = 30


def through(
    cache: str, describe: Callable[[], Description], read: Callable[[], Decoded]
) -> Decoded:
    """What `read` returns, from the cache where it is there, else read and put there.

    Nothing that is wrong with the cache stops a run. A damaged data set is read again and replaced;
    where the folder cannot be written or its disk is full, the run goes on without. Both give one
    line on stderr. Data sets of the cache that no run has opened for 30 days are removed.

    Args:
      cache: a path, `auto` or `none`, as `HELP` says.
      describe: tells all that the result of `read` depends on, as JSON keeps it, within moments; a
        source that changes while it is read is not kept. An OSError: it is not kept either.
      read: decodes.

    Returns:
      As `read`; the arrays cannot be written to.

    Example:
      >>> def read():
      ...     return 2, {"test": Split(np.zeros((1, 2, 2, 1), np.uint8), np.zeros(1, np.int32))}
      >>> through("none", dict, read)[1]["test"].image.shape
      (1, 2, 2, 1)
    """
    if cache == "none":
        return read()
    try:
        root = default() if cache == "auto" else Path(cache).expanduser().absolute()
    except RuntimeError as error:
        _warn(f"the decoded data set is not kept ({error}): --data_cache=FOLDER says where to")
        return read()
    try:
        source = _described(describe)
    except OSError:  # a file is not there or may not be read, which `read` explains better
        return read()
    folder = root / hashlib.sha256(source.encode()).hexdigest()[:40]
    try:
        if folder.exists():
            return _open(folder, source)
    # Wrong bytes make NumPy and JSON stumble over anything from OSError to tokenize.TokenError.
    except Exception as error:
        shown = untrusted.one_line(repr(error), at_most=200)
        _warn(f"{folder} cannot be used ({shown}): the data set is decoded again")
    found = read()
    try:
        if _described(describe) == source:
            _write(folder, source, found)
    except OSError as error:
        _warn(
            f"the decoded data set is not kept in {root} ({error.strerror or error}); "
            "--data_cache=FOLDER chooses another, --data_cache=none keeps none"
        )
    return found


def default() -> Path:
    """The folder that `auto` stands for: $XDG_CACHE_HOME/semjax/datasets, or below ~/.cache.

    Returns:
      An absolute path.

    Raises:
      RuntimeError: there is no home directory.

    Example:
      >>> default().parts[-2:]
      ('semjax', 'datasets')
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored, says the standard.
    base = base if base.is_absolute() else Path("~/.cache").expanduser()
    return base.absolute() / "semjax" / "datasets"


def digest(paths: Iterable[Path]) -> str:
    """Tells apart what lies in files, without reading them: their names, sizes and times.

    Args:
      paths: the files; their order counts.

    Returns:
      A hexadecimal number.

    Raises:
      OSError: a file is not there.

    Example:
      >>> digest([Path(__file__)]) == digest([])
      False
    """
    found = hashlib.sha256()
    for path in paths:
        state = path.stat()
        found.update(repr((os.fspath(path), state.st_size, state.st_mtime_ns)).encode())
    return found.hexdigest()


# ------------------------------------------------------------------------------------------ reading


def _open(folder: Path, source: str) -> Decoded:
    """The data set in a folder; ValueError and others where anything is not as it was written."""
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    content = index["content"]
    if index["checksum"] != _checksum(_canonical(content).encode()):
        raise ValueError(f"{_INDEX} has another checksum")
    if content["source"] != source:
        raise ValueError(f"{_INDEX} is of another data set")
    splits = {
        name: _split({column: _mapped(folder, *file) for column, file in columns.items()})
        for name, columns in content["splits"].items()
    }
    with contextlib.suppress(OSError):  # the cache may be another user's
        os.utime(folder / _INDEX)
    return content["num_classes"], splits


def _mapped(folder: Path, name: str, dtype: str, shape: list[int], checksum: int) -> np.ndarray:
    mapped = np.load(folder / name, mmap_mode="r", allow_pickle=False)
    if (mapped.dtype.str, list(mapped.shape)) != (dtype, shape):
        raise ValueError(f"{name} is {mapped.dtype.str}{list(mapped.shape)}")
    # An array like any other from here on: the subclass makes every slice slower.
    array = mapped.view(np.ndarray)
    if _checksum(array) != checksum:
        raise ValueError(f"{name} has another checksum")
    return array


def _split(columns: Mapping[str, np.ndarray]) -> Split:
    factors = {
        name.removeprefix("factors."): values
        for name, values in columns.items()
        if name.startswith("factors.")
    }
    rest = {name: values for name, values in columns.items() if not name.startswith("factors.")}
    return Split(**rest, factors=factors or None)


def _columns(split: Split) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a split by name, factors as `factors.NAME`."""
    for field in dataclasses.fields(split):
        value = getattr(split, field.name)
        if isinstance(value, np.ndarray):
            yield field.name, value
    for name, values in (split.factors or {}).items():
        yield f"factors.{name}", values


def _described(describe: Callable[[], Description]) -> str:
    return _canonical({"format": _FORMAT, "source": describe()})


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _checksum(content: Any) -> int:
    """CRC-32 of bytes or of the bytes of an array."""
    return zlib.crc32(content)


# ------------------------------------------------------------------------------------------ writing


def _write(folder: Path, source: str, decoded: Decoded) -> None:
    """Puts a data set into its folder, or nothing; OSError where that cannot be done."""
    num_classes, splits = decoded
    root = folder.parent
    root.mkdir(parents=True, exist_ok=True)
    _tidy(root)
    size = sum(values.nbytes for split in splits.values() for _, values in _columns(split))
    if 2 * size > (free := shutil.disk_usage(root).free):
        raise OSError(f"it takes {size / 2**20:,.0f} MiB of the {free / 2**20:,.0f} MiB left there")
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{_PARTIAL}")
    partial.mkdir()
    try:
        written: dict[str, dict[str, Any]] = {name: {} for name in splits}
        for name, split in splits.items():
            for column, values in _columns(split):
                file = f"{name}.{column}.npy"
                array = np.ascontiguousarray(values)
                with _synced(partial / file) as stream:
                    np.save(stream, array, allow_pickle=False)
                about = [file, array.dtype.str, list(array.shape), _checksum(array)]
                written[name][column] = about
        content = {"source": source, "num_classes": num_classes, "splits": written}
        index = {"checksum": _checksum(_canonical(content).encode()), "content": content}
        with _synced(partial / _INDEX) as stream:
            stream.write(json.dumps(index, indent=1).encode())
        _publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[Any]:
    """A new file, on the disk itself when this ends: the rename must not overtake it."""
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _publish(partial: Path, folder: Path) -> None:
    """Gives a finished folder its name, in the place of a damaged one if need be."""
    if folder.exists():
        # A rename cannot replace a folder that holds files. Who has mapped these keeps them.
        damaged = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{_PARTIAL}")
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process has written the same
            raise


def _tidy(root: Path) -> None:
    """Removes data sets that no run has opened for long, and what killed runs left behind."""
    now = time.time()
    for path in root.iterdir():
        if not _OWN.fullmatch(path.name):
            continue
        partial = path.name.endswith(_PARTIAL)
        try:
            used = (path if partial else path / _INDEX).stat().st_mtime
        except OSError:  # gone, or not a data set
            continue
        if now - used > (1 if partial else _UNUSED_DAYS) * _DAY:
            shutil.rmtree(path, ignore_errors=True)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
