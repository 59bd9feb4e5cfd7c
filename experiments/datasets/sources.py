"""Where images come from: scikit-learn's digits, a folder, or TFDS; all end as arrays in memory.

Each source yields images not yet decoded, with a name for error messages; one function has them
decoded, on several threads, and checks that they fit together. What is decoded from files can be
kept, see `experiments.datasets.decoded`. Sources that need not come into memory:
`experiments.datasets.streaming`.

Dimension letters: N rows of a split, H W C image, K classes.
"""

import hashlib
import importlib.util
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets import decoded, decoding, folders, tfds_sets
from experiments.datasets.damage import Damaged, DamagedImage
from experiments.datasets.data import DataError, Split, fixed_order, stratified
from experiments.datasets.decoding import Example, View

_DIGITS_TEST_ROWS = 360
_READ_ROWS = 1024
# Pillow decodes without Python's lock; a task of fewer images costs more than it saves, and more
# threads than this wait for the lock.
_TASK_ROWS = 64
_MOST_THREADS = 8
# Sets with factors have one split of all combinations, of which as many rows are read at most,
# drawn once for all.
_FACTOR_ROWS = {"train": 60_000, "test": 10_000}


def digits(image_size: int) -> tuple[int, dict[str, Split]]:
    """Returns (10, splits) of scikit-learn's digits, 360 stratified rows of them for testing."""
    from PIL import Image

    grey, target = _scikit_learn_digits()
    images = np.rint(grey * (255 / 16)).astype(np.uint8)
    label = target.astype(np.int32)
    test = stratified(label, _DIGITS_TEST_ROWS)

    def read(rows: np.ndarray) -> Split:
        examples = (
            Example(f"digit {row}", Image.fromarray(images[row]), int(label[row])) for row in rows
        )
        damaged = Damaged("refuse", len(rows))
        return _stack("digits", examples, damaged, mode="L", num_classes=10, size=image_size)

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


def folder(
    root: Path, image_size: int, *, cache: str = "none", damaged: str = "refuse"
) -> tuple[int, dict[str, Split]]:
    """Returns (K, splits) of `root`/SPLIT/CLASS/*.{png,jpg,jpeg}, see `datasets.folders`.

    `cache` is that of `decoded.through`, `damaged` one of `damage.RULES`.

    Raises:
      DataError: A split, its classes or its images are missing, unreadable or do not fit together.
    """
    left_out: list[Damaged] = []

    def describe() -> dict[str, Any]:
        rows = folders.splits(root)[1].values()
        return {
            "folder": str(root.absolute()),
            "files": decoded.digest(sorted(path for split in rows for path in split.paths())),
            **_how_read(image_size, left_out),
        }

    return decoded.through(
        cache, describe, lambda: _read_folder(root, image_size, damaged, left_out)
    )


def tfds(
    name: str,
    root: Path,
    image_size: int,
    download: bool,
    *,
    cache: str = "none",
    damaged: str = "refuse",
) -> tuple[int, dict[str, Split]]:
    """Returns (K, splits) of a TFDS image classification set under the directory `root`.

    `dsprites` and `shapes3d` are read with the shape as label and every other `label_*` and
    `value_*` feature as a factor, classes and real numbers. They come in one split, so 60,000 rows
    of it are train and 10,000 others test (of a smaller one a seventh is), always the same; they
    are drawn at random, which leaves the classes of a full factorial design nearly equal.

    `cache` is that of `decoded.through`, `damaged` one of `damage.RULES`.

    Raises:
      DataError: The set is unknown, not prepared, damaged, or not image classification.
    """
    directory = tfds_sets.find(name, root, download=download)
    left_out: list[Damaged] = []

    def describe() -> dict[str, Any]:
        return {
            "tfds": str(directory),
            "files": decoded.digest(sorted(directory.iterdir())),
            "descriptions": [
                hashlib.sha256((directory / file).read_bytes()).hexdigest()
                for file in ("dataset_info.json", "features.json")
            ],
            **_how_read(image_size, left_out),
        }

    return decoded.through(
        cache, describe, lambda: _read_tfds(directory, image_size, damaged, left_out)
    )


def _how_read(image_size: int, left_out: Sequence[Damaged]) -> dict[str, Any]:
    """What the pixels depend on apart from the files: these modules, and who decodes for them."""
    import PIL
    from PIL import features

    modules = (__file__, decoding.__file__, folders.__file__, tfds_sets.__file__)
    return {
        "image_size": image_size,
        "reader": [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in modules],
        "pillow": [PIL.__version__, *(features.version(name) for name in ("jpg", "libjpeg_turbo"))],
        # Data of which something is missing is not kept, so that every run says what is missing.
        "damaged": sum(len(damaged) for damaged in left_out),
    }


def _read_folder(
    root: Path, image_size: int, rule: str, left_out: list[Damaged]
) -> tuple[int, dict[str, Split]]:
    classes, files = folders.splits(root)
    mode = folders.mode(files)

    def read(split: str) -> Split:
        rows = files[split]
        left_out.append(Damaged(rule, len(rows), rows.where))
        return _stack(
            rows.where,
            (rows.example(row) for row in range(len(rows))),
            left_out[-1],
            mode=mode,
            num_classes=len(classes),
            size=image_size,
        )

    return len(classes), {split: read(split) for split in files}


def _read_tfds(
    directory: Path, image_size: int, rule: str, left_out: list[Damaged]
) -> tuple[int, dict[str, Split]]:
    found = tfds_sets.describe(directory)
    alone = found.has_factors and found.splits == ["train"]
    test = "train" if alone else found.test
    found.check_splits("train", test)
    for split in ("train", test):
        tfds_sets.check_shards(found, split)  # before anything is as large as they are said to be
    chosen = _fixed_split(found.count("train")) if alone else {}

    def read(name: str, split: str) -> Split:
        rows = chosen.get(name)
        count = found.count(split) if rows is None else len(rows)
        left_out.append(Damaged(rule, count, found.where(split)))
        return _stack(
            found.where(split),
            tfds_sets.examples(found, split, rows),
            left_out[-1],
            mode=found.mode,
            num_classes=found.num_classes,
            size=image_size,
        )

    return found.num_classes, {"train": read("train", "train"), "test": read("test", test)}


def _fixed_split(count: int) -> dict[str, np.ndarray]:
    """Disjoint rows for train and test, each in order, of one split of `count` rows."""
    order = fixed_order(count)
    test = min(_FACTOR_ROWS["test"], count // 7)
    train = min(_FACTOR_ROWS["train"], count - test)
    return {"test": np.sort(order[:test]), "train": np.sort(order[test : test + train])}


def _stack(
    where: str,
    examples: Iterable[Example],
    damaged: Damaged,
    *,
    mode: str,
    num_classes: int,
    size: int,
) -> Split:
    """Fills one array with the examples: decoded, resized if `size`, compared, checked."""
    count = damaged.total
    image: np.ndarray | None = None
    label = np.empty(count, np.int32)
    factors: dict[str, list[Any]] = {}
    row = 0
    for example, pixels in _decoded(examples, mode, size):
        if isinstance(pixels, DamagedImage):
            damaged.add(example.where, str(pixels))
            continue
        if image is None:
            image = np.empty((count, *pixels.shape), np.uint8)
        if pixels.shape != image.shape[1:]:
            raise DataError(
                f"{example.where}: the image is {_times(pixels.shape)} but the first of its split"
                f" is {_times(image.shape[1:])}; set image_size to resize all of them"
            )
        decoding.check_label(example, num_classes)
        image[row], label[row] = pixels, example.label
        for name, value in example.factors.items():
            factors.setdefault(name, []).append(value)
        row += 1
    damaged.finish()
    if image is None:
        raise DataError(f"{where} holds no image")
    image, label = image[:row], label[:row]
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
    examples: Iterable[Example], mode: str, size: int
) -> Iterator[tuple[Example, np.ndarray | DamagedImage]]:
    """Yields the examples in order, each with its pixels, decoded on several threads."""

    def one(example: Example) -> np.ndarray | DamagedImage:
        try:
            return decoding.pixels(example, mode, View(size))[0]
        except DamagedImage as error:
            return error

    def pixels(task: Sequence[Example]) -> list[np.ndarray | DamagedImage]:
        return [one(example) for example in task]

    threads = min(os.cpu_count() or 1, _MOST_THREADS)
    examples = iter(examples)
    with ThreadPoolExecutor(threads) as pool:
        # Some rows at a time, so that no more than these are in memory twice.
        while some := list(itertools.islice(examples, _READ_ROWS)):
            tasks = [some[first : first + _TASK_ROWS] for first in range(0, len(some), _TASK_ROWS)]
            yield from zip(
                some, itertools.chain.from_iterable(pool.map(pixels, tasks)), strict=True
            )
