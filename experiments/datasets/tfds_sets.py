"""TFDS image classification sets in array_record files, which are read without TensorFlow."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets import cifar, decoding, feature_names
from experiments.datasets.data import DataError
from experiments.datasets.decoding import Example

_NAME = re.compile(r"(\w+(?:/\w[\w.-]*)?)(?::(\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_READ_ROWS = 1024
# Sets whose every row says how it was made, and the feature that is the label here.
_FACTOR_SETS = {"dsprites": "label_shape", "shapes3d": "label_shape"}
_FACTOR = re.compile(r"(?:label|value)_(\w+)", re.ASCII)


@dataclasses.dataclass(frozen=True, eq=False)
class Tfds:
    """A prepared set.

    Attributes:
      directory: where its files lie.
      builder: TFDS's, which describes it.
      image: the feature that is the image.
      label: the feature that is the label.
      factors: the features that say how a row was made; empty for most sets.
    """

    directory: Path
    builder: Any
    image: str
    label: str
    factors: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.builder.info.features[self.label].num_classes

    @property
    def mode(self) -> str:
        """How images are decoded."""
        return decoding.MODES[self.builder.info.features[self.image].shape[-1]]

    @property
    def has_factors(self) -> bool:
        """Whether it is one of the sets whose rows come with their factors."""
        return self.directory.parent.name in _FACTOR_SETS

    @property
    def splits(self) -> list[str]:
        """Their names, sorted."""
        return sorted(self.builder.info.splits)

    @property
    def test(self) -> str:
        """The split that is tested on: validation where there is no test."""
        return next((split for split in ("test", "validation") if split in self.splits), "test")

    def where(self, split: str) -> str:
        """Names a split in messages."""
        return f"{self.directory}, split {split},"

    def count(self, split: str) -> int:
        """The rows of a split."""
        return self.builder.info.splits[split].num_examples

    def check_splits(self, *needed: str) -> None:
        """Raises DataError unless it has the splits."""
        if not set(needed) <= set(self.splits):
            raise DataError(f"{self.directory} has the splits {self.splits}: needs train and test")


def find(name: str, root: Path, *, download: bool) -> Path:
    """The directory of a set, prepared first where that is asked for and possible.

    Args:
      name: NAME, NAME/CONFIG or either with :VERSION.
      root: TFDS's root directory.
      download: whether a missing one may be fetched.

    Returns:
      The directory of the version asked for, else of the newest.

    Raises:
      DataError: the set is unknown or not prepared.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise DataError(
            f"unknown data set {name!r}: use digits, folder:PATH or a TFDS name such as cifar100,"
            " NAME/CONFIG or NAME:1.0.0"
        )
    name, version = match[1], match[2] or ""
    directory = _prepared(name, version, root)
    if directory is None:
        _prepare(name, version, root, download)
        directory = _prepared(name, version, root)
    if directory is None:
        raise DataError(f"{root / name} was prepared, but not in version {version}: leave it out")
    return directory


def describe(directory: Path) -> Tfds:
    """What a prepared set says of itself.

    Args:
      directory: as `find` gives it.

    Returns:
      The set.

    Raises:
      DataError: it is damaged, stored in another format, or not image classification.
    """
    import tensorflow_datasets

    try:
        feature_names.check(directory)
        builder = tensorflow_datasets.builder_from_directory(directory)
        file_format = builder.info.file_format.value
        for split in builder.info.splits.values():
            # Names are put together when they are asked for.
            list(zip(split.filepaths, split.shard_lengths, strict=True))
    # A damaged JSON file, a missing features.json: each with an error class of its own.
    except Exception as error:
        raise DataError(
            f"{directory}: dataset_info.json or features.json is damaged ({error}); delete the"
            " directory and prepare the data set again"
        ) from error
    if file_format != "array_record":
        raise DataError(
            f"{directory} is stored as {file_format}, which cannot be read without TensorFlow;"
            " prepare it with file_format='array_record'"
        )
    # A set lies in NAME/VERSION or NAME/CONFIG/VERSION; those with factors have no configurations.
    factor_label = _FACTOR_SETS.get(directory.parent.name)
    image, label = _feature_keys(directory, builder.info, factor_label)
    factors = _factor_keys(builder.info.features, label) if factor_label else ()
    return Tfds(directory, builder, image, label, factors)


def examples(found: Tfds, split: str, rows: np.ndarray | None = None) -> Iterator[Example]:
    """A split's examples, or some rows of them, in order; `check_shards` comes first.

    Args:
      found: the set.
      split: the name of the split.
      rows: ascending; None for all.

    Yields:
      The examples, not decoded, read shard by shard, so that an error can name the shard.

    Raises:
      DataError: a record is damaged.
    """
    from tensorflow_datasets import decode

    info = found.builder.info.splits[split]
    parse = _parser(found, (found.image, found.label, *found.factors))
    start = 0
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        source = found.builder.as_data_source(
            f"{split}[{start}:{start + length}]",
            deserialize_method=decode.DeserializeMethod.RAW_BYTES,
        )
        wanted: Sequence[int] = range(length)
        if rows is not None:
            wanted = (rows[(start <= rows) & (rows < start + length)] - start).tolist()
        for first in range(0, len(wanted), _READ_ROWS):
            some = wanted[first : first + _READ_ROWS]
            for row, example in zip(some, _records(Path(path), source, parse, some), strict=True):
                yield Example(
                    f"{path}, record {row}",
                    example[found.image],
                    example[found.label],
                    {name: example[name] for name in found.factors},
                )
        start += length


class TfdsRows:
    """The rows of one split as records that have not been read, in any order and by any thread.

    A copy in another process opens the files anew.
    """

    label = None  # not known before every record is read

    def __init__(self, found: Tfds, split: str) -> None:
        """Checks that the files of the split are there and whole; DataError where not."""
        check_shards(found, split)
        info = found.builder.info.splits[split]
        self.where = found.where(split)
        self._directory, self._keys = found.directory, (found.image, found.label)
        self._paths = [str(path) for path in info.filepaths]
        self._lengths = list(info.shard_lengths)
        self._start = np.concatenate([[0], np.cumsum(self._lengths)])

    def __len__(self) -> int:
        """Returns N."""
        return int(self._start[-1])

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: neither open files nor parsers."""
        kept = dict(self.__dict__)
        for name in ("_records", "_parse"):
            kept.pop(name, None)
        return kept

    def example(self, row: int) -> Example:
        """A row, not decoded; DataError where its record cannot be read."""
        shard = int(np.searchsorted(self._start, row, side="right")) - 1
        where = f"{self._paths[shard]}, record {row - self._start[shard]}"
        try:
            found = self._parse(self._records[row])
        # The reader's RuntimeError for a wrong checksum, or whatever parsing wrong bytes runs into.
        except Exception as error:
            raise DataError(f"{where} cannot be read: {error}") from error
        image, label = (found[key] for key in self._keys)
        return Example(where, image, int(label))

    @functools.cached_property
    def _records(self) -> Any:
        import grain

        # With its length in its name a file is not opened before it is read.
        return grain.sources.ArrayRecordDataSource(
            [f"{path}[0:{n}]" for path, n in zip(self._paths, self._lengths, strict=True)]
        )

    @functools.cached_property
    def _parse(self) -> Callable[[bytes], dict[str, Any]]:
        return _parser(describe(self._directory), self._keys)


def _parser(found: Tfds, names: Sequence[str]) -> Callable[[bytes], dict[str, Any]]:
    """Takes a record apart, and of it only what is asked for."""
    from tensorflow_datasets import decode, features

    # Pillow decodes, here as for folders: TFDS would take OpenCV where it finds it, and the two
    # need not agree on the pixels of a JPEG.
    asked = features.FeaturesDict({name: found.builder.info.features[name] for name in names})
    return functools.partial(
        asked.deserialize_example_np, decoders={found.image: decode.SkipDecoding()}
    )


def check_shards(found: Tfds, split: str) -> None:
    """Looks whether each file of a split has as many records as it should.

    Args:
      found: the set.
      split: the name of the split.

    Raises:
      DataError: a file is missing or has not.
    """
    from array_record.python import array_record_module

    info = found.builder.info.splits[split]
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        if not Path(path).is_file():
            raise DataError(f"{path} is missing: prepare the data set again")
        # A file that is cut short has lost its index: the reader says that it has no records.
        records = array_record_module.ArrayRecordReader(str(path)).num_records()
        if records != length:
            raise DataError(
                f"{path} holds {records} readable records, not the {length} of dataset_info.json:"
                " it is damaged, prepare the data set again"
            )


def _factor_keys(features: Any, label: str) -> tuple[str, ...]:
    """The features that say how a row was made, apart from its label under any name."""
    own = _FACTOR.fullmatch(label)
    matches = ((name, _FACTOR.fullmatch(name)) for name in sorted(features))
    return tuple(name for name, match in matches if match and own and match[1] != own[1])


def _feature_keys(directory: Path, info: Any, factor_label: str | None) -> tuple[str, str]:
    """Returns the names of the image and of the label, as the data set itself declares them."""
    from tensorflow_datasets import features

    keys = ("image", factor_label) if factor_label else info.supervised_keys
    if not (isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) for k in keys)):
        keys = ("image", "label")
    declared = dict(info.features)
    image, label = (declared.get(key) for key in keys)
    if (
        not isinstance(image, features.Image)
        or image.np_dtype != np.uint8
        or image.shape[-1] not in decoding.MODES
        or not isinstance(label, features.ClassLabel)
        or not label.num_classes
    ):
        raise DataError(
            f"{directory} is not image classification: it needs a uint8 image and a class label"
            f" under {keys}, and has {declared}"
        )
    return keys


def _records(
    path: Path, source: Any, parse: Callable[[bytes], dict[str, Any]], rows: Sequence[int]
) -> list[dict[str, Any]]:
    try:
        return [parse(record) for record in source.__getitems__(rows)]
    # The reader's RuntimeError for a wrong checksum, or whatever parsing wrong bytes runs into.
    except Exception as error:
        raise DataError(
            f"{path} is damaged near record {rows[0]}: {error}; prepare the data set again"
        ) from error


def _prepared(name: str, version: str, root: Path) -> Path | None:
    """Returns the directory of the requested, else the newest prepared version; None if none is."""
    found = [d for d in (root / name).glob("*") if _VERSION.fullmatch(d.name) and d.is_dir()]
    found = [directory for directory in found if version in ("", directory.name)]
    if not found:
        return None
    newest = max(found, key=lambda directory: [int(part) for part in directory.name.split(".")])
    if not (newest / "dataset_info.json").is_file():
        raise DataError(f"{newest} has no dataset_info.json: delete it and prepare {name} again")
    return newest


def _prepare(name: str, version: str, root: Path, download: bool) -> None:
    if name in cifar.ARCHIVES:
        cifar.prepare(name, root, download=download)
        return
    if not download:
        raise DataError(
            f"{name} is not prepared in {root} (no {root / name}/{version or '<version>'}/"
            "dataset_info.json): pass --download to fetch and prepare it, or name with --data_dir"
            " a directory that holds it"
        )
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(
            f"{name}:{version}" if version else name, data_dir=root, file_format="array_record"
        )
    # An unknown name is one class of error, an unknown version or configuration are others.
    except Exception as error:
        summary = str(error).partition("\n")[0]
        raise DataError(f"TFDS knows no data set {name} {version}: {summary}") from error
    if builder.builder_config and "/" not in name:
        raise DataError(f"{name} needs a configuration: {name}/{builder.builder_config.name}, ...")
    for url in list(builder.url_infos or ())[:1]:
        cifar.check_reachable(url)
    try:
        builder.download_and_prepare()
    except Exception as error:
        needs = " (its TFDS code needs TensorFlow)" if "tensorflow" in str(error).lower() else ""
        raise DataError(
            f"TFDS could not prepare {name} in {root}: {error}{needs}; prepare it in array_record"
            " format where that works and copy the directory"
        ) from error
