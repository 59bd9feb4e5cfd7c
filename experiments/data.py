"""Data sets in memory, and the order in which training sees them.

Every source ends as the same value, `Data`: uint8 images and int32 labels, checked once, here, so
that nothing after this file meets a missing file, a stray size or an impossible label. Batches
are then a pure function of (seed, step): whichever process asks, after whatever history, on however
many hosts, gets the same rows, so a resumed run sees what an uninterrupted one would have seen.

TensorFlow Datasets (TFDS) defines, prepares and describes all but the two simplest sources; its
array_record files are read without TensorFlow.

Dimension letters: N rows of a split, B batch, H W C image, K classes.
"""

import dataclasses
import functools
import operator
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

# No run's seed can be this large (see `batch_at`), so no run shuffles as the hold-out was drawn.
_HOLD_OUT_SEED = 2**63


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


def _read(
    name: str, data_dir: str, image_size: int, download: bool
) -> tuple[int, dict[str, Split]]:
    # Not above: the sources build the values that this module defines.
    from experiments import sources

    if name == "digits":
        return sources.digits(image_size)
    if name.startswith("folder:"):
        return sources.folder(Path(name.removeprefix("folder:")).expanduser(), image_size)
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return sources.tfds(name, root.expanduser().absolute(), image_size, download)
