"""Data sets in memory, and the order in which training sees them.

Every source ends as the same value, `Data`: uint8 images and int32 labels, checked once, here, so
that nothing after this file meets a missing file, a stray size or an impossible label. Batches
are then a pure function of (seed, step): whichever process asks, after whatever history, on however
many hosts, gets the same rows, so a resumed run sees what an uninterrupted one would have seen.

TensorFlow Datasets (TFDS) defines, prepares and describes all but the two simplest sources; its
array_record files are read without TensorFlow.

Dimension letters: N rows of a split, B batch, H W C image, K classes.
"""

import contextlib
import dataclasses
import functools
import io
import operator
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import PIL.Image

# No run's seed can be this large (see `batch_at`), so no run shuffles as the hold-out was drawn.
_HOLD_OUT_SEED = 2**63
_TFDS_NAME = re.compile(r"(\w+(?:/\w[\w.-]*)?)(?::(\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY = frozenset(("1", "L", "LA"))
_COLOUR = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"))
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DIGITS_TEST_ROWS = 360
_READ_ROWS = 1024


class DataError(ValueError):
    """The data asked for is missing or damaged; the message says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Labelled images in memory.

    Attributes:
      image: uint8[N,H,W,C].
      label: int32[N].
    """

    image: np.ndarray
    label: np.ndarray

    def __post_init__(self) -> None:
        """Raises ValueError for another dtype, rank or number of labels."""
        if self.image.dtype != np.uint8 or self.image.ndim != 4:
            raise ValueError(f"image must be uint8[N,H,W,C], got {_signature(self.image)}")
        if self.label.dtype != np.int32 or self.label.shape != self.image.shape[:1]:
            raise ValueError(
                f"label must be int32[{len(self.image)}], one for each image, got"
                f" {_signature(self.label)}"
            )

    def __len__(self) -> int:
        """Returns N."""
        return len(self.label)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set, split for training, model selection and the final figure.

    Attributes:
      name: What `load` was asked for.
      num_classes: K; labels are in [0, K).
      train: What the parameters are fitted to.
      validation: What decides between models; disjoint from the other two. None if not asked for.
      test: What the reported figure is of; never used to decide anything.
      mean: f32[C], per-channel mean of the train images scaled to [0, 1].
      std: f32[C], their standard deviation; 1 for a constant channel, so that dividing is safe.
    """

    name: str
    num_classes: int
    train: Split
    validation: Split | None
    test: Split
    mean: np.ndarray
    std: np.ndarray


def load(
    name: str,
    *,
    data_dir: str = "",
    validation_fraction: float = 0.0,
    image_size: int = 0,
    download: bool = False,
) -> Data:
    """Reads a data set into memory.

    | name | source | train, test | validation, `validation_fraction` 0 |
    |---|---|---|---|
    | `digits` | scikit-learn's 1,797 8x8 digits | 1,437 and 360 rows, always the same | None |
    | `folder:PATH` | images PATH/SPLIT/CLASS/*.{png,jpg,jpeg} | train, test | validation or val |
    | `NAME[/CONFIG][:VERSION]` | TFDS | train, test (without one: validation) | None |

    With a positive `validation_fraction` validation is that fraction of the train rows instead,
    stratified, and train is the rest. Which rows depends on the data set alone, so that
    runs which differ in their seed are selected on the same rows.

    A folder's images have one channel if all of them are greyscale, else three. Its classes are the
    folders of the train split, in the order of their names.

    Args:
      name: As in the table.
      data_dir: TFDS's root directory. Empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      validation_fraction: In [0, 1).
      image_size: If positive, every image is resized (bilinear, anti-aliased, aspect ratio not
        kept) to image_size x image_size; if 0, all images must be of one size already.
      download: Whether a TFDS set that is not prepared yet may be fetched and prepared. CIFAR-10
        and CIFAR-100 are also prepared from their official archive, without the network, when it
        lies in <data_dir>/downloads/manual/.

    Returns:
      The data, every image and label checked.

    Raises:
      DataError: The data is missing, damaged or not image classification.
      ValueError: An option is out of range.

    Example:
      >>> digits = load("digits", validation_fraction=0.2)
      >>> len(digits.train), len(digits.validation), len(digits.test)
      (1150, 287, 360)
      >>> digits.train.image.shape, digits.num_classes
      ((1150, 8, 8, 1), 10)
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}")
    if image_size < 0:
        raise ValueError(f"image_size must be 0 or positive, got {image_size}")
    num_classes, splits = _read(name, data_dir, image_size, download)
    if validation_fraction:
        splits["train"], splits["validation"] = _hold_out(splits["train"], validation_fraction)
    _check_same_size(name, splits)
    mean, std = _moments(splits["train"].image)
    return Data(
        name=name,
        num_classes=num_classes,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits["test"],
        mean=mean,
        std=std,
    )


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Returns N // B, the full batches in one pass over the split.

    Raises:
      DataError: The split is smaller than one batch.
      ValueError: `batch_size` is not positive.
    """
    _check_batch_size(batch_size)
    if len(split) < batch_size:
        raise DataError(
            f"batch_size is {batch_size} but the split has {len(split)} rows: not one full batch"
        )
    return len(split) // batch_size


def batch_at(split: Split, step: int, *, batch_size: int, seed: int) -> dict[str, np.ndarray]:
    """Returns the training batch of a step: a pure function of (seed, step).

    Epoch e is a permutation of the split that depends on (seed, e) alone, cut into N // B batches;
    the N % B rows left over are others in each epoch. Steps can be asked for in any order.

    Args:
      split: The rows to draw from, N of them.
      step: Counted from 0 over all epochs.
      batch_size: B, the global one.
      seed: In [0, 2**63).

    Returns:
      `image` u8[B,H,W,C] and `label` i32[B], owned by the caller.

    Raises:
      DataError: The split is smaller than one batch.
      ValueError: `step`, `batch_size` or `seed` is out of range.

    Example:
      >>> split = Split(np.zeros((5, 1, 1, 1), np.uint8), np.arange(5, dtype=np.int32))
      >>> [batch_at(split, step, batch_size=2, seed=0)["label"].tolist() for step in range(4)]
      [[0, 2], [1, 4], [3, 2], [4, 1]]
    """
    step, seed = operator.index(step), operator.index(seed)
    if step < 0:
        raise ValueError(f"step must be 0 or positive, got {step}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}")
    epoch, batch = divmod(step, steps_per_epoch(split, batch_size))
    rows = _order(len(split), seed, epoch)[batch * batch_size :][:batch_size]
    return {"image": split.image[rows], "label": split.label[rows]}


def eval_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns batches that hold each row once, in order, the last one padded with zero rows.

    Args:
      split: The rows.
      batch_size: B.

    Returns:
      Iterator of `image` u8[B,H,W,C], `label` i32[B] and `valid` bool[B], False for padding.

    Raises:
      ValueError: `batch_size` is not positive.

    Example:
      >>> split = Split(np.ones((3, 1, 1, 1), np.uint8), np.arange(1, 4, dtype=np.int32))
      >>> [(b["label"].tolist(), b["valid"].tolist()) for b in eval_batches(split, 2)]
      [([1, 2], [True, True]), ([3, 0], [True, False])]
    """
    _check_batch_size(batch_size)
    return (_padded(split, start, batch_size) for start in range(0, len(split), batch_size))


def stratified(label: np.ndarray, count: int) -> np.ndarray:
    """Marks `count` of N rows, each class in proportion (by largest remainders).

    The choice depends on the arguments alone, never on a run's seed. No class is emptied: where one
    would lose its last row, a row fewer is marked.

    Args:
      label: i32[N].
      count: How many rows to mark, at most N.

    Returns:
      bool[N].

    Example:
      >>> marked = stratified(np.array([0, 0, 0, 0, 1, 1], np.int32), 3)
      >>> int(marked[:4].sum()), int(marked[4:].sum())
      (2, 1)
    """
    classes, sizes = np.unique(label, return_counts=True)
    take, remainder = np.divmod(sizes * count, len(label))
    take[np.argsort(-remainder, kind="stable")[: count - take.sum()]] += 1
    take = np.minimum(take, sizes - 1)
    order = _order(len(label), _HOLD_OUT_SEED, 0)
    marked = np.zeros(len(label), bool)
    for value, rows in zip(classes, take, strict=True):
        marked[order[label[order] == value][:rows]] = True
    return marked


# ------------------------------------------------------------------------------- order and batches


@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of `count` rows that depends on the arguments alone.

    It sorts the raw words of a counter-based generator keyed by (seed, epoch): NumPy promises that
    stream for ever, which it does not for `Generator.permutation`.
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(count)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)  # the cache hands the same array to every caller
    return order


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")


def _padded(split: Split, start: int, batch_size: int) -> dict[str, np.ndarray]:
    image, label = split.image[start:][:batch_size], split.label[start:][:batch_size]
    batch = {
        "image": np.zeros((batch_size, *image.shape[1:]), np.uint8),
        "label": np.zeros(batch_size, np.int32),
        "valid": np.arange(batch_size) < len(label),
    }
    batch["image"][: len(image)] = image
    batch["label"][: len(label)] = label
    return batch


# ------------------------------------------------------------------------ splits and their checks


def _signature(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Returns (the rest, `fraction` of the rows), stratified, the same in every run."""
    held = stratified(split.label, round(fraction * len(split)))
    if not held.any():
        raise DataError(f"validation_fraction {fraction} of {len(split)} train rows is no row")
    return (
        Split(split.image[~held], split.label[~held]),
        Split(split.image[held], split.label[held]),
    )


def _check_same_size(name: str, splits: dict[str, Split]) -> None:
    shapes = {split: rows.image.shape[1:] for split, rows in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: images differ in size between splits, {shapes}; set image_size")


def _moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns per-channel mean and std of images scaled to [0, 1], from exact counts of values."""
    pixels = image.reshape(-1, image.shape[-1])
    counts = np.zeros((pixels.shape[1], 256), np.int64)
    # In blocks: counting widens each value to 8 bytes, 1.2 GB for 50,000 CIFAR images.
    for start in range(0, len(pixels), 2**20):
        for channel, values in enumerate(pixels[start : start + 2**20].T):
            counts[channel] += np.bincount(values, minlength=256)
    values = np.arange(256)
    mean = counts @ values / len(pixels)
    variance = (counts * np.square(values - mean[:, None])).sum(axis=1) / len(pixels)
    std = np.where(variance > 0, np.sqrt(variance), 255)
    return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)


# ----------------------------------------------------------------------------------------- sources


@dataclasses.dataclass(frozen=True)
class _Example:
    where: str  # for error messages
    image: "PIL.Image.Image"
    label: int


def _read(
    name: str, data_dir: str, image_size: int, download: bool
) -> tuple[int, dict[str, Split]]:
    if name == "digits":
        return _digits(image_size)
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")).expanduser(), image_size)
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return _tfds(name, root.expanduser().absolute(), image_size, download)


def _digits(image_size: int) -> tuple[int, dict[str, Split]]:
    """Returns (10, splits) of scikit-learn's digits, 360 stratified rows of them for testing."""
    from PIL import Image
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    label = bunch.target.astype(np.int32)
    test = stratified(label, _DIGITS_TEST_ROWS)

    def read(rows: np.ndarray) -> Split:
        examples = (
            _Example(f"digit {row}", Image.fromarray(images[row]), int(label[row])) for row in rows
        )
        return _stack("digits", examples, len(rows), mode="L", num_classes=10, size=image_size)

    return 10, {"train": read(np.flatnonzero(~test)), "test": read(np.flatnonzero(test))}


def _folder(root: Path, image_size: int) -> tuple[int, dict[str, Split]]:
    """Returns (K, splits) of `root`/SPLIT/CLASS/*.{png,jpg,jpeg}, the layout of TFDS ImageFolder.

    Raises:
      DataError: A split, its classes or its images are missing, unreadable or do not fit together.
    """
    names = {"train": "train", "test": "test"}
    if validation := [name for name in ("validation", "val") if (root / name).is_dir()]:
        names["validation"] = validation[0]
    if len(validation) > 1:
        raise DataError(f"{root} has both validation and val: keep one of them")
    files = {split: _class_files(root / name) for split, name in names.items()}
    classes = sorted(files["train"])
    for split, name in names.items():
        if unknown := sorted(set(files[split]) - set(classes)):
            raise DataError(f"{root / name}: no folder in train for the classes {unknown}")
    paths = [path for split in files.values() for some in split.values() for path in some]
    mode = "L" if all(_stored_mode(path) in _GREY for path in paths) else "RGB"

    def read(split: str) -> Split:
        labelled = [(path, k) for k, c in enumerate(classes) for path in files[split].get(c, ())]
        examples = (_Example(str(path), _open(str(path), path), k) for path, k in labelled)
        where = str(root / names[split])
        return _stack(
            where, examples, len(labelled), mode=mode, num_classes=len(classes), size=image_size
        )

    return len(classes), {split: read(split) for split in files}


def _tfds(name: str, root: Path, image_size: int, download: bool) -> tuple[int, dict[str, Split]]:
    """Returns (K, splits) of a TFDS image classification set under the directory `root`.

    Raises:
      DataError: The set is unknown, not prepared, damaged, or not image classification.
    """
    match = _TFDS_NAME.fullmatch(name)
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
    return _read_tfds(directory, image_size)


# ----------------------------------------------------------------------------------------- folders


def _class_files(split: Path) -> dict[str, list[Path]]:
    """Returns the image files of a split by class name."""
    if not split.is_dir():
        raise DataError(
            f"no directory {split}: a folder data set is PATH/train/CLASS/*.png (or .jpg, .jpeg)"
            " and PATH/test/CLASS/*"
        )
    folders = [path for path in split.iterdir() if path.is_dir() and path.name[0] != "."]
    if not folders:
        raise DataError(f"{split} holds no class folders: images belong in {split}/CLASS/")
    files = {path.name: _images(path) for path in folders}
    if empty := sorted(name for name in files if not files[name]):
        raise DataError(
            f"{split}: no {', '.join(_SUFFIXES)} file in the class folders {empty};"
            " add images or remove the folders"
        )
    return files


def _images(path: Path) -> list[Path]:
    # Archives made on a Mac carry a hidden ._NAME.png, which is no image, beside each NAME.png.
    return sorted(f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES and f.name[0] != ".")


def _stored_mode(path: Path) -> str:
    with _open(str(path), path) as image:
        return image.mode


# -------------------------------------------------------------------------------------------- TFDS


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
    # Not above: it raises the error that this module defines.
    from experiments import cifar

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


def _read_tfds(directory: Path, image_size: int) -> tuple[int, dict[str, Split]]:
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(directory)
        available = sorted(builder.info.splits)
        file_format = builder.info.file_format.value
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
    test = "test" if "test" in available else "validation"
    if not {"train", test} <= set(available):
        raise DataError(f"{directory} has the splits {available}: needs train and test")
    keys = _feature_keys(directory, builder.info)
    features = builder.info.features

    def read(split: str) -> Split:
        return _stack(
            f"{directory}, split {split},",
            _tfds_examples(builder, split, *keys),
            builder.info.splits[split].num_examples,
            mode=_MODES[features[keys[0]].shape[-1]],
            num_classes=features[keys[1]].num_classes,
            size=image_size,
        )

    return features[keys[1]].num_classes, {"train": read("train"), "test": read(test)}


def _feature_keys(directory: Path, info: Any) -> tuple[str, str]:
    """Returns the names of the image and of the label, as the data set itself declares them."""
    from tensorflow_datasets import features

    keys = info.supervised_keys
    if not (isinstance(keys, tuple) and len(keys) == 2 and all(isinstance(k, str) for k in keys)):
        keys = ("image", "label")
    declared = dict(info.features)
    image, label = (declared.get(key) for key in keys)
    if (
        not isinstance(image, features.Image)
        or image.np_dtype != np.uint8
        or image.shape[-1] not in _MODES
        or not isinstance(label, features.ClassLabel)
        or not label.num_classes
    ):
        raise DataError(
            f"{directory} is not image classification: it needs a uint8 image and a class label"
            f" under {keys}, and has {declared}"
        )
    return keys


def _tfds_examples(builder: Any, split: str, image: str, label: str) -> Iterator[_Example]:
    """Yields a split's examples shard by shard, so that an error can name the file."""
    from tensorflow_datasets import decode

    info = builder.info.splits[split]
    start = 0
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        _check_shard(Path(path), length)
        source = builder.as_data_source(
            f"{split}[{start}:{start + length}]", decoders={image: decode.SkipDecoding()}
        )
        for first in range(0, length, _READ_ROWS):
            rows = range(first, min(first + _READ_ROWS, length))
            for row, example in zip(rows, _records(Path(path), source, rows), strict=True):
                where = f"{path}, record {row}"
                yield _Example(where, _open(where, io.BytesIO(example[image])), example[label])
        start += length


def _check_shard(path: Path, length: int) -> None:
    """Raises DataError unless a file has as many records as dataset_info.json says."""
    from array_record.python import array_record_module

    if not path.is_file():
        raise DataError(f"{path} is missing: prepare the data set again")
    # A file that is cut short has lost its index: the reader says that it has no records.
    found = array_record_module.ArrayRecordReader(str(path)).num_records()
    if found != length:
        raise DataError(
            f"{path} holds {found} readable records, not the {length} of dataset_info.json:"
            " it is damaged, prepare the data set again"
        )


def _records(path: Path, source: Any, rows: range) -> list[dict[str, Any]]:
    try:
        return source.__getitems__(rows)
    # The reader's RuntimeError for a wrong checksum, or whatever parsing wrong bytes runs into.
    except Exception as error:
        raise DataError(
            f"{path} is damaged near record {rows.start}: {error}; prepare the data set again"
        ) from error


# ----------------------------------------------------------------------------------------- decoding


def _stack(
    where: str,
    examples: Iterable[_Example],
    count: int,
    *,
    mode: str,
    num_classes: int,
    size: int,
) -> Split:
    """Fills one array with `count` examples: decoded, resized if `size`, compared, checked."""
    image: np.ndarray | None = None
    label = np.empty(count, np.int32)
    for row, example in enumerate(examples):
        pixels = _pixels(example, mode, size)
        if image is None:
            image = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != image.shape[1:]:
            raise DataError(
                f"{example.where}: the image is {_times(pixels.shape)} but the first of its split"
                f" is {_times(image.shape[1:])}; set image_size to resize all of them"
            )
        if not 0 <= example.label < num_classes:
            raise DataError(f"{example.where}: label {example.label} not in [0, {num_classes})")
        image[row], label[row] = pixels, example.label
    if image is None:
        raise DataError(f"{where} holds no image")
    image.setflags(write=False)
    label.setflags(write=False)
    return Split(image, label)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _pixels(example: _Example, mode: str, size: int) -> np.ndarray:
    """Returns u8[H,W,C] of an example; Pillow decodes only now."""
    from PIL import Image

    with example.image as image:
        if image.mode not in _GREY | _COLOUR:
            # Pillow would clip 16-bit and float pixels to 8 bits without a word.
            raise DataError(f"{example.where}: pixels of mode {image.mode}; save it with 8 bits")
        with _readable(example.where):
            # A palette with transparency is converted without a warning only by this way round.
            whole = image.convert("RGBA") if image.mode in ("P", "PA") else image
            whole = whole.convert(mode)
            if size:
                whole = whole.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(whole)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    # What a decoder raises for a damaged file is anything from OSError to struct.error.
    try:
        yield
    except Exception as error:
        raise DataError(f"{where} is not a readable image: {error}") from error


def _open(where: str, source: Path | io.BytesIO) -> "PIL.Image.Image":
    from PIL import Image

    with _readable(where):
        return Image.open(source)
