"""Data sets in memory, and the order in which training sees them.

Batches are a pure function of (seed, step): whichever process asks, after whatever history, on
however many hosts, gets the same rows, so a resumed run sees what an uninterrupted one would have
seen.

Dimension letters: N rows of a split, B batch, H W C image, K classes.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Mapping
from typing import Generic, Literal, Protocol, TypeVar, get_args

import numpy as np

from experiments.datasets import order

Sampling = Literal["uniform", "balanced"]
SAMPLINGS: tuple[str, ...] = get_args(Sampling)
# No run's seed can be this large (see `rows_at`), so no run shuffles as the hold-out was drawn.
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
      group: int32[N], at least 0: the attribute or domain of each row, such as its colour; None
        where rows have none.
      factors: what each row shows apart from its label, by name: integers[N] are classes,
        floats[N] are real numbers. None where nothing is known.
      source: int32[N], the original that each row was made from: rows of one original are held
        out together. None where every row is an original.
    """

    image: np.ndarray
    label: np.ndarray
    sample_weight: np.ndarray | None = None
    group: np.ndarray | None = None
    factors: Mapping[str, np.ndarray] | None = None
    source: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for another dtype, rank or number of rows."""
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
        for name, ids in (("group", self.group), ("source", self.source)):
            if ids is not None and (ids.dtype != np.int32 or ids.shape != self.label.shape):
                raise ValueError(f"{name} must be int32[{len(self.image)}], got {_signature(ids)}")
        if self.group is not None and (self.group < 0).any():
            raise ValueError(f"group must be at least 0, got {self.group.min()}")
        for name, values in (self.factors or {}).items():
            if values.shape != self.label.shape or values.dtype.kind not in "if":
                raise ValueError(
                    f"factors[{name!r}] must be integers or floats of shape [{len(self.image)}],"
                    f" got {_signature(values)}"
                )

    def __len__(self) -> int:
        """Returns N."""
        return len(self.label)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every row."""
        height, width, channels = self.image.shape[1:]
        return height, width, channels

    @functools.cached_property
    def cell(self) -> np.ndarray:
        """int32[N], the number of each row's (label, group) pair among the pairs that occur.

        Pairs are in the order of label, then group; without groups a cell is a label.
        """
        pair = self.label.astype(np.int64)
        if self.group is not None:
            pair = pair * (int(self.group.max(initial=0)) + 1) + self.group
        return np.unique(pair, return_inverse=True)[1].astype(np.int32)

    @functools.cached_property
    def by_cell(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The rows cell by cell, and how many each cell has."""
        return sorted_by(self.cell)

    def columns(self) -> dict[str, np.ndarray]:
        """What training sees of the rows: `image`, `label`; `sample_weight`, `group` if known."""
        found = {
            "image": self.image,
            "label": self.label,
            "sample_weight": self.sample_weight,
            "group": self.group,
        }
        return {name: values for name, values in found.items() if values is not None}

    def take(self, rows: np.ndarray) -> "Split":
        """The split of some rows, bool[N] or indices, with everything known of them."""

        def of(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        factors = self.factors and {name: values[rows] for name, values in self.factors.items()}
        return Split(
            self.image[rows],
            self.label[rows],
            of(self.sample_weight),
            of(self.group),
            factors,
            of(self.source),
        )


class Labelled(Protocol):
    """What a `Split` and a stream of `experiments.datasets.streaming` have in common."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every row."""

    @property
    def by_cell(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The rows cell by cell, cells being pairs of label and group; how many each cell has."""

    def __len__(self) -> int:
        """Returns N."""


RowsT = TypeVar("RowsT", bound=Labelled)


@dataclasses.dataclass(frozen=True, eq=False)
class Data(Generic[RowsT]):
    """A data set, split for training, model selection and the final figure.

    Its splits lie in memory, or all of them are streams of `experiments.datasets.streaming`.

    Attributes:
      name: what `load` was asked for.
      num_classes: K; labels are in [0, K).
      train: What the parameters are fitted to.
      validation: What decides between models; disjoint from the other two. None if not asked for.
      test: What the reported figure is of; never used to decide anything.
      mean: f32[C], per-channel mean of the train images scaled to [0, 1].
      std: f32[C], their standard deviation; 1 for a constant channel, so that dividing is safe.
      num_groups: G; groups are in [0, G). None for a data set without groups.
      attribute: What a group is, in a word, such as colour.
    """

    name: str
    num_classes: int
    train: RowsT
    validation: RowsT | None
    test: RowsT
    mean: np.ndarray
    std: np.ndarray
    num_groups: int | None = None
    attribute: str = "group"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) as the model sees it; rows of a streamed train split may be larger."""
        return self.test.image_shape


def group_names(num_classes: int, num_groups: int, *, attribute: str = "group") -> list[str]:
    """Names the (label, group) pairs; a row's pair is `label * num_groups + group`.

    Args:
      num_classes: K.
      num_groups: G.
      attribute: what a group is, `Data.attribute`.

    Returns:
      K * G names.

    Example:
      >>> group_names(2, 2, attribute="colour")[1:3]
      ['label 0, colour 1', 'label 1, colour 0']
    """
    return [
        f"label {label}, {attribute} {group}"
        for label in range(num_classes)
        for group in range(num_groups)
    ]


def sorted_by(cell: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the rows in the order of their cell, and how many each cell has.

    Args:
      cell: integers[N], each value up to the largest taken by some row.

    Returns:
      i64[N] and the sizes.

    Example:
      >>> rows, sizes = sorted_by(np.array([1, 0, 1]))
      >>> rows.tolist(), sizes
      ([1, 0, 2], (1, 2))
    """
    return np.argsort(cell, kind="stable"), tuple(int(size) for size in np.bincount(cell))


def steps_per_epoch(split: Labelled, batch_size: int) -> int:
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


def rows_at(
    split: Labelled, step: int, *, batch_size: int, seed: int, sampling: str = "uniform"
) -> np.ndarray:
    """Returns the rows that training sees at a step: a pure function of (seed, step).

    Epoch e depends on (seed, e) alone and is cut into N // B batches. Steps can be asked for in any
    order.

    | sampling | epoch |
    |---|---|
    | uniform | a permutation of the split; the N % B rows left over are others in each epoch |
    | balanced | each (label, group) pair that occurs equally often (each label, without groups) |

    Of a balanced epoch's S = (N // B) * B places each of the M pairs has S // M, and S % M of them,
    drawn anew, one more; the rows of a pair come equally often too, up to one. So each place holds
    each pair with probability 1 / M. This is the resampling that gains of selective pairing are to
    be compared with (Hwang et al. 2023, arXiv:2305.16817).

    Args:
      split: The rows to draw from, N of them.
      step: Counted from 0 over all epochs.
      batch_size: B, the global one.
      seed: In [0, 2**63).
      sampling: One of SAMPLINGS.

    Returns:
      i32[B], owned by the caller.

    Raises:
      DataError: The split is smaller than one batch.
      ValueError: `step`, `batch_size` or `seed` is out of range, or `sampling` unknown.

    Example:
      >>> split = Split(np.zeros((5, 1, 1, 1), np.uint8), np.zeros(5, np.int32))
      >>> [rows_at(split, step, batch_size=2, seed=0).tolist() for step in range(4)]
      [[0, 2], [1, 4], [3, 2], [4, 1]]
    """
    step, seed = operator.index(step), operator.index(seed)
    if step < 0:
        raise ValueError(f"step must be 0 or positive, got {step}")
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed must be in [0, 2**63), got {seed}")
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
    steps = steps_per_epoch(split, batch_size)
    epoch, batch = divmod(step, steps)
    place = slice(batch * batch_size, (batch + 1) * batch_size)
    if sampling == "balanced":
        by_cell, sizes = split.by_cell
        rows = by_cell[order.balanced(sizes, steps * batch_size, seed, epoch)[place]]
    else:
        rows = order.uniform(len(split), seed, epoch)[place]
    return rows.astype(np.int32)


def batch_at(
    split: Split, step: int, *, batch_size: int, seed: int, sampling: str = "uniform"
) -> dict[str, np.ndarray]:
    """Returns the training batch of a step: the rows of `rows_at`, which explains the arguments.

    Args:
      split: The rows to draw from.
      step: Counted from 0 over all epochs.
      batch_size: B, the global one.
      seed: In [0, 2**63).
      sampling: One of SAMPLINGS.

    Returns:
      `image` u8[B,H,W,C], `label` i32[B] and, where the split has them, `sample_weight` f32[B] and
      `group` i32[B], owned by the caller.

    Raises:
      DataError: As `rows_at`.
      ValueError: As `rows_at`.

    Example:
      >>> split = Split(np.zeros((5, 1, 1, 1), np.uint8), np.arange(5, dtype=np.int32))
      >>> batch_at(split, 1, batch_size=2, seed=0)["label"].tolist()
      [1, 4]
    """
    rows = rows_at(split, step, batch_size=batch_size, seed=seed, sampling=sampling)
    return {name: values[rows] for name, values in split.columns().items()}


def eval_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns batches that hold each row once, in order, the last one padded with zero rows.

    Args:
      split: The rows.
      batch_size: B.

    Returns:
      Iterator of `image` u8[B,H,W,C], `label` i32[B], `valid` bool[B], False for padding, and
      `group` i32[B] where the split has it.

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
    shuffled = fixed_order(len(label))
    marked = np.zeros(len(label), bool)
    for value, rows in zip(classes, take, strict=True):
        marked[shuffled[label[shuffled] == value][:rows]] = True
    return marked


def fixed_order(count: int) -> np.ndarray:
    """A shuffled order of `count` rows that no run shuffles by: for splits made once and for all.

    Args:
      count: N.

    Returns:
      i64[N], read-only.

    Example:
      >>> fixed_order(5).tolist()
      [4, 1, 2, 3, 0]
    """
    return order.uniform(count, _HOLD_OUT_SEED, 0)


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
    if split.group is not None:
        batch["group"] = np.zeros(batch_size, np.int32)
        batch["group"][: len(label)] = split.group[start:][:batch_size]
    return batch


def _signature(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
