"""CIFAR-10 and CIFAR-100 prepared for TFDS without TensorFlow.

TFDS's own builders use TensorFlow for three small things: unpacking the archive, reading its files
and encoding the images as PNG. Here `tarfile` and Pillow do them, inside subclasses of those very
builders, so that what lands on disk is what TFDS would have written: the same examples, in the same
order, under the same name and version, readable by any TFDS.

The archive is read member by member, within limits, and never unpacked to disk. TFDS writes into a
temporary directory and renames it at the end: a data set is either whole or absent.
"""

import functools
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import untrusted
from experiments.datasets.data import DataError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# Each data set's official archive, by the exact file name that is looked for.
ARCHIVES = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
# The official archives have fewer than ten members and unpack to 185 MB.
_MOST_MEMBERS = 64
_MOST_BYTES = 2**29


def prepare(name: str, data_dir: Path, *, download: bool = False) -> None:
    """Prepares CIFAR-10 or CIFAR-100 in `data_dir`, from its official archive.

    The archive is `<data_dir>/downloads/manual/<ARCHIVES[name]>` when that file is there, else,
    with `download`, what TFDS fetches (or fetched before). Its size and SHA-256 are checked in
    every case before a row is read, and a failure leaves no part of a data set behind.

    Args:
      name: "cifar10" or "cifar100".
      data_dir: TFDS's root directory; the result is `<data_dir>/<name>/<version>`.
      download: Whether the archive may be fetched from its authors' site.

    Raises:
      DataError: There is no archive and none may or can be fetched, the archive is damaged, or
        `data_dir` cannot be written to.

    Example:
      >>> from pathlib import Path
      >>> prepare("cifar10", Path("/nowhere"))
      Traceback (most recent call last):
        ...
      experiments.datasets.data.DataError: cifar10 is not prepared in /nowhere ...
    """
    manual = data_dir / "downloads" / "manual" / ARCHIVES[name]
    if not manual.is_file() and not download:
        raise DataError(
            f"{name} is not prepared in {data_dir} (no {data_dir / name}/<version>/"
            "dataset_info.json): pass --download to fetch and prepare it, or put the official"
            f" archive, unchanged, at {manual}, or name with --data_dir a directory that holds it"
        )
    builder_class = builder(name)
    if manual.is_file():
        _verify(manual, builder_class)
    elif not _downloaded(data_dir, builder_class):
        check_reachable(next(iter(builder_class.url_infos)))
    _write(name, data_dir, builder_class)


@functools.cache
def builder(name: str) -> "type[tfds.core.GeneratorBasedBuilder]":
    """Returns TFDS's builder class of `name` ("cifar10" or "cifar100"), freed of TensorFlow.

    Its class attribute `url_infos` holds the archive's address, size and SHA-256 as TFDS knows
    them.
    """
    from tensorflow_datasets.core import registered
    from tensorflow_datasets.image_classification import cifar as genuine

    base: Any = {"cifar10": genuine.Cifar10, "cifar100": genuine.Cifar100}[name]

    # The genuine class keeps its place in TFDS's registry.
    with registered.skip_registration():

        class CifarBuilder(base):
            # Otherwise derived from the name of this class and the folder of this module.
            name = base.name
            url_infos = base.url_infos

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
                info = self._cifar_info
                archive = Path(dl_manager.download(info.url))
                # TFDS takes a file it fetched earlier on trust.
                _verify(archive, type(self))
                names = [*info.label_files, *info.train_files, *info.test_files]
                files = _members(archive, info.prefix, names)
                for key, file in zip(info.label_keys, info.label_files, strict=True):
                    self.info.features[key].names = files[file].decode().split()
                train = [files[file] for file in info.train_files]
                test = [files[file] for file in info.test_files]
                return {
                    "train": _examples("train_", train, info.label_keys),
                    "test": _examples("test_", test, info.label_keys),
                }

    return CifarBuilder


def check_reachable(url: str) -> None:
    """Raises DataError within seconds if no server answers at an http(s) address.

    TFDS retries a download for over three minutes before it says that there is no network.
    """
    import requests

    if not url.startswith("http"):
        return
    try:
        answer = requests.head(url, timeout=10, allow_redirects=True)
    except requests.RequestException as error:
        raise DataError(f"cannot reach {url}: {error}") from error
    if answer.status_code >= 500:
        raise DataError(f"cannot fetch {url}: the server answers {answer.status_code}")


def _verify(archive: Path, builder_class: Any) -> None:
    """Raises DataError unless `archive` has the size and the hash TFDS knows for it."""
    from tensorflow_datasets.core.download import checksums

    ((url, expected),) = builder_class.url_infos.items()
    found = checksums.compute_url_info(archive)
    if found != expected:
        raise DataError(
            f"{archive} is not the official archive: {int(found.size)} bytes with SHA-256"
            f" {found.checksum}, not {int(expected.size)} bytes with SHA-256 {expected.checksum};"
            f" delete it and fetch it again from {url}"
        )


def _downloaded(data_dir: Path, builder_class: Any) -> bool:
    """Returns whether TFDS has fetched the archive before, so that no network is needed."""
    from tensorflow_datasets.core.download import resource

    ((url, info),) = builder_class.url_infos.items()
    file_name = resource.get_dl_fname(url, info.checksum)
    return any((data_dir / "downloads").glob(f"**/{file_name}"))


def _write(name: str, data_dir: Path, builder_class: Any) -> None:
    import tensorflow_datasets as tfds

    # Any other file format needs TensorFlow or, as Parquet does here, loses examples.
    dataset = builder_class(data_dir=str(data_dir), file_format="array_record")
    try:
        dataset.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except DataError:
        raise
    # TFDS, requests and the file system share no base class for "it could not be done".
    except Exception as error:
        # Another process with the same disk may have been faster; its rename then made ours fail.
        if not Path(dataset.data_dir, "dataset_info.json").is_file():
            raise DataError(f"could not prepare {name} in {data_dir}: {error}") from error


def _members(archive: Path, prefix: str, names: Sequence[str]) -> dict[str, bytes]:
    """Returns the contents of the regular files `prefix + name` of a .tar.gz, by name.

    What the archive says of itself is not believed: it is read from front to back, up to a limit.
    """
    wanted = {prefix + name: name for name in names}
    found: dict[str, bytes] = {}
    try:
        with (
            gzip.open(archive) as stream,
            tarfile.open(fileobj=_Limited(stream, _MOST_BYTES), mode="r|") as tar,
        ):
            for count, member in enumerate(tar, start=1):
                _check_member(member, count)
                if member.name in wanted:
                    found[wanted[member.name]] = _content(tar, member)
    # A chain of headers inside headers makes tarfile recurse.
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, zlib.error) as error:
        reason = untrusted.one_line(error)
        raise DataError(f"{archive} is damaged: {reason}; fetch it again") from error
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{archive} is damaged: it holds no {', '.join(missing)}; fetch it again")
    return found


def _check_member(member: tarfile.TarInfo, count: int) -> None:
    if count > _MOST_MEMBERS:
        raise ValueError(f"it has more than {_MOST_MEMBERS} members")
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"its member {member.name} lies outside of it")
    if member.size > _MOST_BYTES:
        raise ValueError(f"its member {member.name} has {member.size:,} bytes")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    # Of a file with holes the size is what it says, not what is there.
    file = tar.extractfile(member) if member.isreg() and not member.issparse() else None
    if file is None:
        raise ValueError(f"{member.name} is not a regular file")
    return file.read()


class _Limited(io.BufferedIOBase):
    """A stream of which no more is read than a limit, however much a few bytes may unpack to."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream, self._left = stream, limit

    def read(self, size: int | None = -1, /) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_MOST_BYTES:,} bytes")
        return content


def _examples(
    prefix: str, files: Sequence[bytes], label_keys: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (key, example) as TFDS does: a record is one byte a label, then RGB planes."""
    from PIL import Image

    index = 0
    for data in files:
        if len(data) % (len(label_keys) + _PIXELS):
            raise DataError(f"a CIFAR file of {len(data)} bytes is not a whole number of records")
        for row in np.frombuffer(data, np.uint8).reshape(-1, len(label_keys) + _PIXELS):
            planes = row[len(label_keys) :].reshape(3, _SIDE, _SIDE)
            example = dict(zip(label_keys, row[: len(label_keys)].tolist(), strict=True))
            example["id"] = f"{prefix}{index:05d}"
            # Given as an array it would be encoded by TensorFlow.
            example["image"] = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
            yield index, example
            index += 1
