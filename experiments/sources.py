"""Where images come from: scikit-learn's digits, a folder, or TFDS; all end as arrays in memory.

Each source yields images not yet decoded, with a name for error messages; one function decodes,
converts and checks them all, on several threads. What is decoded from files can be kept, see
`experiments.decoded`.

Dimension letters: N rows of a split, H W C image, K classes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import cifar, decoded
from experiments.data import DataError, Split, fixed_order, stratified

if TYPE_CHECKING:
    import PIL.Image

_TFDS_NAME = re.compile(r"(\w+(?:/\w[\w.-]*)?)(?::(\d+\.\d+\.\d+))?", re.ASCII)
_VERSION = re.compile(r"\d+\.\d+\.\d+", re.ASCII)
_SUFFIXES = (".png", ".jpg", ".jpeg")
_GREY = frozenset(("1", "L", "LA"))
_COLOUR = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"))
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_DIGITS_TEST_ROWS = 360
_READ_ROWS = 1024
# Pillow decodes without Python's lock; a task of fewer images costs more than it saves, and more
# threads than this wait for the lock.
_TASK_ROWS = 64
_MOST_THREADS = 8
# Sets of TFDS whose every row says how it was made, and the feature that is the label here. They
# have one split of all combinations, of which as many rows are read at most, drawn once for all.
_FACTOR_SETS = {"dsprites": "label_shape", "shapes3d": "label_shape"}
_FACTOR = re.compile(r"(?:label|value)_(\w+)", re.ASCII)
_FACTOR_ROWS = {"train": 60_000, "test": 10_000}


@dataclasses.dataclass(frozen=True)
class _Example:
    where: str  # for error messages
    source: "Path | bytes | PIL.Image.Image"
    label: int
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def digits(image_size: int) -> tuple[int, dict[str, Split]]:
    """Returns (10, splits) of scikit-learn's digits, 360 stratified rows of them for testing."""
    from PIL import Image

    grey, target = _scikit_learn_digits()
    images = np.rint(grey * (255 / 16)).astype(np.uint8)
    label = target.astype(np.int32)
    test = stratified(label, _DIGITS_TEST_ROWS)

    def read(rows: np.ndarray) -> Split:
        examples = (
            _Example(f"digit {row}", Image.fromarray(images[row]), int(label[row])) for row in rows
        )
        return _stack("digits", examples, len(rows), mode="L", num_classes=10, size=image_size)

    return 10, {"train": read(np.flatnonzero(~test)), "test": read(np.flatnonzero(test))}


def _scikit_learn_digits() -> tuple[np.ndarray, np.ndarray]:
    """The images f64[1797,8,8] in [0, 16] and their labels, from the file that comes with it."""
    found = importlib.util.find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    # Where it keeps the file elsewhere it knows so itself; importing it takes a second.
    from sklearn import datasets

    bunch = datasets.load_digits()
    return bunch.images, bunch.target


def folder(root: Path, image_size: int, *, cache: str = "none") -> tuple[int, dict[str, Split]]:
    """Returns (K, splits) of `root`/SPLIT/CLASS/*.{png,jpg,jpeg}, the layout of TFDS ImageFolder.

    `cache` is that of `decoded.through`.

    Raises:
      DataError: A split, its classes or its images are missing, unreadable or do not fit together.
    """

    def describe() -> dict[str, Any]:
        files = _folder_files(root).values()
        paths = sorted(path for split in files for some in split.values() for path in some)
        return {
            "folder": str(root.absolute()),
            "files": decoded.digest(paths),
            **_how_read(image_size),
        }

    return decoded.through(cache, describe, lambda: _read_folder(root, image_size))


def tfds(
    name: str, root: Path, image_size: int, download: bool, *, cache: str = "none"
) -> tuple[int, dict[str, Split]]:
    """Returns (K, splits) of a TFDS image classification set under the directory `root`.

    `dsprites` and `shapes3d` are read with the shape as label and every other `label_*` and
    `value_*` feature as a factor, classes and real numbers. They come in one split, so 60,000 rows
    of it are train and 10,000 others test (of a smaller one a seventh is), always the same; they
    are drawn at random, which leaves the classes of a full factorial design nearly equal.

    `cache` is that of `decoded.through`.

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

    def describe() -> dict[str, Any]:
        return {
            "tfds": str(directory),
            "files": decoded.digest(sorted(directory.iterdir())),
            "descriptions": [
                hashlib.sha256((directory / file).read_bytes()).hexdigest()
                for file in ("dataset_info.json", "features.json")
            ],
            **_how_read(image_size),
        }

    return decoded.through(cache, describe, lambda: _read_tfds(directory, image_size))


def _how_read(image_size: int) -> dict[str, Any]:
    """What the pixels depend on apart from the files: this module, and who decodes for it."""
    import PIL
    from PIL import features

    return {
        "image_size": image_size,
        "reader": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "pillow": [PIL.__version__, *(features.version(name) for name in ("jpg", "libjpeg_turbo"))],
    }


# ----------------------------------------------------------------------------------------- folders


def _read_folder(root: Path, image_size: int) -> tuple[int, dict[str, Split]]:
    files = _folder_files(root)
    classes = sorted(files["train"])
    paths = [path for split in files.values() for some in split.values() for path in some]
    mode = "L" if all(_stored_mode(path) in _GREY for path in paths) else "RGB"

    def read(split: str) -> Split:
        labelled = [(path, k) for k, c in enumerate(classes) for path in files[split].get(c, ())]
        examples = (_Example(str(path), path, k) for path, k in labelled)
        where = f"{root}, split {split},"
        return _stack(
            where, examples, len(labelled), mode=mode, num_classes=len(classes), size=image_size
        )

    return len(classes), {split: read(split) for split in files}


def _folder_files(root: Path) -> dict[str, dict[str, list[Path]]]:
    """Returns the image files of each split by class name."""
    names = {"train": "train", "test": "test"}
    if validation := [name for name in ("validation", "val") if (root / name).is_dir()]:
        names["validation"] = validation[0]
    if len(validation) > 1:
        raise DataError(f"{root} has both validation and val: keep one of them")
    files = {split: _class_files(root / name) for split, name in names.items()}
    for split, name in names.items():
        if unknown := sorted(set(files[split]) - set(files["train"])):
            raise DataError(f"{root / name}: no folder in train for the classes {unknown}")
    return files


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
    # A set lies in NAME/VERSION or NAME/CONFIG/VERSION; those with factors have no configurations.
    factor_label = _FACTOR_SETS.get(directory.parent.name)
    test = next((split for split in ("test", "validation") if split in available), "test")
    chosen: dict[str, np.ndarray] = {}
    if factor_label and available == ["train"]:
        test, chosen = "train", _fixed_split(builder.info.splits["train"].num_examples)
    if not {"train", test} <= set(available):
        raise DataError(f"{directory} has the splits {available}: needs train and test")
    keys = _feature_keys(directory, builder.info, factor_label)
    features = builder.info.features
    factors = _factor_keys(features, keys[1]) if factor_label else ()

    def read(name: str, split: str) -> Split:
        rows = chosen.get(name)
        return _stack(
            f"{directory}, split {split},",
            _tfds_examples(builder, split, *keys, factors=factors, rows=rows),
            builder.info.splits[split].num_examples if rows is None else len(rows),
            mode=_MODES[features[keys[0]].shape[-1]],
            num_classes=features[keys[1]].num_classes,
            size=image_size,
        )

    return features[keys[1]].num_classes, {
        "train": read("train", "train"),
        "test": read("test", test),
    }


def _fixed_split(count: int) -> dict[str, np.ndarray]:
    """Disjoint rows for train and test, each in order, of one split of `count` rows."""
    order = fixed_order(count)
    test = min(_FACTOR_ROWS["test"], count // 7)
    train = min(_FACTOR_ROWS["train"], count - test)
    return {"test": np.sort(order[:test]), "train": np.sort(order[test : test + train])}


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
        or image.shape[-1] not in _MODES
        or not isinstance(label, features.ClassLabel)
        or not label.num_classes
    ):
        raise DataError(
            f"{directory} is not image classification: it needs a uint8 image and a class label"
            f" under {keys}, and has {declared}"
        )
    return keys


def _tfds_examples(
    builder: Any,
    split: str,
    image: str,
    label: str,
    *,
    factors: Sequence[str] = (),
    rows: np.ndarray | None = None,
) -> Iterator[_Example]:
    """Yields a split's examples, or some rows of them, by shard, so that an error can name it."""
    from tensorflow_datasets import decode, features

    info = builder.info.splits[split]
    # Of a record only what is asked for is taken apart. Pillow decodes, here as for folders: TFDS
    # would take OpenCV where it finds it, and the two need not agree on the pixels of a JPEG.
    asked = features.FeaturesDict(
        {name: builder.info.features[name] for name in (image, label, *factors)}
    )
    parse = functools.partial(asked.deserialize_example_np, decoders={image: decode.SkipDecoding()})
    start = 0
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        _check_shard(Path(path), length)
        source = builder.as_data_source(
            f"{split}[{start}:{start + length}]",
            deserialize_method=decode.DeserializeMethod.RAW_BYTES,
        )
        wanted: Sequence[int] = range(length)
        if rows is not None:
            wanted = (rows[(start <= rows) & (rows < start + length)] - start).tolist()
        for first in range(0, len(wanted), _READ_ROWS):
            some = wanted[first : first + _READ_ROWS]
            for row, example in zip(some, _records(Path(path), source, parse, some), strict=True):
                yield _Example(
                    f"{path}, record {row}",
                    example[image],
                    example[label],
                    {name: example[name] for name in factors},
                )
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
    factors: dict[str, list[Any]] = {}
    for row, (example, pixels) in enumerate(_decoded(examples, mode, size)):
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
        for name, value in example.factors.items():
            factors.setdefault(name, []).append(value)
    if image is None:
        raise DataError(f"{where} holds no image")
    if factors and image.max() == 1:
        image *= 255  # dSprites are masks of zeros and ones
    columns = {name: _column(values) for name, values in factors.items()}
    for array in (image, label, *columns.values()):
        array.setflags(write=False)
    return Split(image, label, factors=columns or None)


def _column(values: list[Any]) -> np.ndarray:
    column = np.asarray(values)
    return column.astype(np.float32 if column.dtype.kind == "f" else np.int32)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _decoded(
    examples: Iterable[_Example], mode: str, size: int
) -> Iterator[tuple[_Example, np.ndarray]]:
    """Yields the examples in order, each with its pixels, decoded on several threads."""

    def pixels(task: Sequence[_Example]) -> list[np.ndarray]:
        return [_pixels(example, mode, size) for example in task]

    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    examples = iter(examples)
    with ThreadPoolExecutor(threads) as pool:
        # Some rows at a time, so that no more than these are in memory twice.
        while some := list(itertools.islice(examples, _READ_ROWS)):
            tasks = [some[first : first + _TASK_ROWS] for first in range(0, len(some), _TASK_ROWS)]
            yield from zip(
                some, itertools.chain.from_iterable(pool.map(pixels, tasks)), strict=True
            )


def _pixels(example: _Example, mode: str, size: int) -> np.ndarray:
    """Returns u8[H,W,C] of an example; Pillow decodes only now."""
    from PIL import Image

    with _opened(example) as image:
        if image.mode not in _GREY | _COLOUR:
            # Pillow would clip 16-bit and float pixels to 8 bits without a word.
            raise DataError(f"{example.where}: pixels of mode {image.mode}; save it with 8 bits")
        with _readable(example.where):
            image.load()
            # A palette with transparency is converted without a warning only by this way round.
            whole = image.convert("RGBA") if image.mode in ("P", "PA") else image
            if whole.mode != mode:
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


def _opened(example: _Example) -> "PIL.Image.Image":
    if isinstance(example.source, bytes):
        return _open(example.where, io.BytesIO(example.source))
    if isinstance(example.source, Path):
        return _open(example.where, example.source)
    return example.source


def _open(where: str, source: Path | io.BytesIO) -> "PIL.Image.Image":
    from PIL import Image

    with _readable(where):
        return Image.open(source)
