"""Data sets in memory, and the order in which training sees them.

Batches are a pure function of (seed, step): whichever process asks, after whatever history, on
however many hosts, gets the same rows, so a resumed run sees what an uninterrupted one would have
seen.

Dimension letters: N rows of a split, B batch, H W C image, K classes.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator

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
      sample_weight: float32[N], how much each row's label counts in training; None for all alike.
    """

    image: np.ndarray
    label: np.ndarray
    sample_weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for another dtype, rank or number of labels."""
        if self.image.dtype != np.uint8 or self.image.ndim != 4:
            raise ValueError(f"image must be uint8[N,H,W,C], got {_signature(self.image)}")
        if self.label.dtype != np.int32 or self.label.shape != self.image.shape[:1]:
            raise ValueError(
                f"label must be int32[{len(self.image)}], one for each image, got"
                f" {_signature(self.label)}"
            )
        weight = self.sample_weight
        if weight is not None and (weight.dtype != np.float32 or weight.shape != self.label.shape):
            raise ValueError(
                f"sample_weight must be float32[{len(self.image)}], got {_signature(weight)}"
            )

    def __len__(self) -> int:
        """Returns N."""
        return len(self.label)


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """A data set, split for training, model selection and the final figure.

    Attributes:
      name: what `load` was asked for.
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
      `image` u8[B,H,W,C], `label` i32[B] and, where the split has it, `sample_weight` f32[B], owned
      by the caller.

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
    found = {"image": split.image[rows], "label": split.label[rows]}
    if split.sample_weight is not None:
        found["sample_weight"] = split.sample_weight[rows]
    return found


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


def _signature(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
