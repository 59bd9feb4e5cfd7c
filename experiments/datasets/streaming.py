"""Data sets that stay on disk: the rows that `data.rows_at` names, read while training.

A stream stands where a split in memory would: it has a length, an image shape and labels, and the
batch of a step is the same pure function of (seed, step). So a run that is resumed needs no state
of an iterator, and one process of several reads its own rows only.

Dimension letters: N rows of a stream, B batch, H W C image, K classes.
"""

import dataclasses
import functools
from collections.abc import Callable, Generator
from typing import Any, Protocol

import numpy as np

from experiments.datasets import data as data_lib
from experiments.datasets import decoding, read_ahead
from experiments.datasets.damage import Damaged, DamagedImage
from experiments.datasets.data import DataError, Split
from experiments.datasets.decoding import Example, View
from experiments.datasets.read_ahead import Batch

Shape = tuple[int, int, int]


class Stored(Protocol):
    """Images on disk, to be read in any order by any thread or process."""

    @property
    def where(self) -> str:
        """Names them in messages."""

    @property
    def label(self) -> np.ndarray | None:
        """i32[M], or None where labels are known only once a row is read."""

    def __len__(self) -> int:
        """Returns M."""

    def example(self, row: int) -> Example:
        """A row, not decoded; DataError where it cannot be read."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """How rows are decoded.

    Attributes:
      view: what is kept of a picture.
      shape: (H, W, C) of what is kept.
    """

    view: View
    shape: Shape


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Labelled images on disk.

    Attributes:
      stored: all images of which these are some.
      rows: i64[N], which of them.
      mode: how they are decoded, `L`, `RGB` or `RGBA`.
      num_classes: K.
      trained: how training sees them.
      shown: how an evaluation sees them, the same unless training cuts parts out.
      damaged: those that could not be decoded.
      workers: processes that read; 0: threads of this one.
      sample_weight: f32[N], as of a Split, or None.
    """

    stored: Stored
    rows: np.ndarray
    mode: str
    num_classes: int
    trained: Pictures
    shown: Pictures
    damaged: Damaged
    workers: int = 0
    sample_weight: np.ndarray | None = None

    def __len__(self) -> int:
        """Returns N."""
        return len(self.rows)

    @property
    def image_shape(self) -> Shape:
        """(H, W, C) of the rows that training sees."""
        return self.trained.shape

    @functools.cached_property
    def label(self) -> np.ndarray | None:
        """i32[N], or None where labels are known only once a row is read."""
        return None if self.stored.label is None else self.stored.label[self.rows]

    @functools.cached_property
    def by_cell(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """The rows label by label, and how many each label has; DataError where not known."""
        if self.label is None:
            raise DataError(
                f"--sampling=balanced: {self.stored.where} is streamed, and its labels are known "
                "only once a row is read; allowed: --sampling=uniform, --streaming=off or a folder"
            )
        return data_lib.sorted_by(np.unique(self.label, return_inverse=True)[1])

    def take(self, rows: np.ndarray) -> "Stream":
        """The stream of some rows, bool[N] or indices."""
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return dataclasses.replace(self, rows=self.rows[rows], sample_weight=weight)


def batches(
    stream: Stream,
    first: int,
    *,
    batch_size: int,
    seed: int,
    sampling: str = "uniform",
    own: np.ndarray | None = None,
    finish: Callable[[Batch], Any] = dict,
) -> Generator[Any, None, None]:
    """The training batches from a step on, without end, read ahead by a constant number.

    Args:
      stream: the images.
      first: the first step, from 0 over all epochs.
      batch_size: B, the global one.
      seed: as in `data.rows_at`.
      sampling: as in `data.rows_at`.
      own: the places of the global batch that are read; None for all.
      finish: what is done to a batch in the thread that waits for it.

    Returns:
      Generator of `image` u8[b,H,W,C], `label` i32[b], `valid` bool[b], False for a damaged image,
      whose pixels are 0; `aspect` f32[b], width over height of the picture, where training cuts
      parts out; `sample_weight` f32[b] where the stream has it. b is the number of own rows. To be
      closed.

    Raises:
      DataError: a row cannot be read, is of another size or has an impossible label; or too many
        images are damaged.
    """
    rows_at = _Trained(stream, own, {"batch_size": batch_size, "seed": seed, "sampling": sampling})
    read = functools.partial(_read, stream, False)
    parts = read_ahead.parts(rows_at, read, len(rows_at(first)))
    join = functools.partial(_joined, stream)
    return read_ahead.batches(parts, join, finish, first=first, last=None, workers=stream.workers)


def batch_at(
    stream: Stream, step: int, *, batch_size: int, seed: int, sampling: str = "uniform"
) -> Batch:
    """The training batch of one step, as `batches` gives it, read here and now.

    Args:
      stream: the images.
      step: from 0 over all epochs.
      batch_size: B.
      seed: as in `data.rows_at`.
      sampling: as in `data.rows_at`.

    Returns:
      As `batches`.

    Raises:
      DataError: as `batches`.
    """
    rows_at = _Trained(stream, None, {"batch_size": batch_size, "seed": seed, "sampling": sampling})
    return _joined(stream, [_read(stream, False, rows_at(step))])


def eval_batches(
    stream: Stream,
    batch_size: int,
    *,
    own: np.ndarray | None = None,
    finish: Callable[[Batch], Any] = dict,
) -> Generator[Any, None, None]:
    """Batches that hold each row once, in order, as an evaluation sees it; the last one is padded.

    Args:
      stream: the images.
      batch_size: B, the global one.
      own: the places of the global batch that are read; None for all.
      finish: what is done to a batch in the thread that waits for it.

    Returns:
      Generator of `image` u8[b,H,W,C], `label` i32[b] and `valid` bool[b], False for padding and
      for damaged images. To be closed.

    Raises:
      DataError: as `batches`.
    """
    places = np.arange(batch_size) if own is None else own
    read = functools.partial(_read, stream, True)
    return read_ahead.batches(
        read_ahead.parts(_Evaluated(len(stream), batch_size, places), read, len(places)),
        functools.partial(_joined, stream),
        finish,
        first=0,
        last=-(-len(stream) // batch_size),
        workers=stream.workers,
    )


def in_memory(stream: Stream, rows: np.ndarray | None = None) -> Split:
    """Some rows as a split in memory, as an evaluation sees them; damaged ones are left out.

    Args:
      stream: the images.
      rows: indices; None for all.

    Returns:
      The split.

    Raises:
      DataError: as `batches`, or no image is left.
    """
    some = stream if rows is None else stream.take(rows)
    found = list(eval_batches(some, min(256, max(len(some), 1))))
    kept = {name: np.concatenate([batch[name] for batch in found]) for name in ("image", "label")}
    valid = np.concatenate([batch["valid"] for batch in found])
    if not valid.any():
        raise DataError(f"{stream.stored.where} holds no image that can be decoded")
    return Split(kept["image"][valid], kept["label"][valid])


@dataclasses.dataclass(frozen=True, eq=False)
class _Trained:
    """The rows of a training step."""

    stream: Stream
    own: np.ndarray | None
    draw: dict[str, Any]

    def __call__(self, step: int) -> np.ndarray:
        rows = data_lib.rows_at(self.stream, step, **self.draw)
        return rows if self.own is None else rows[self.own]


@dataclasses.dataclass(frozen=True, eq=False)
class _Evaluated:
    """The rows of an evaluation's step, -1 for padding."""

    count: int
    batch_size: int
    places: np.ndarray

    def __call__(self, step: int) -> np.ndarray:
        rows = step * self.batch_size + self.places
        return np.where(rows < self.count, rows, -1)


def _read(stream: Stream, shown: bool, rows: np.ndarray) -> dict[str, Any]:
    """Some rows; what is wrong comes as values, since not every error survives a process."""
    pictures = stream.shown if shown else stream.trained
    batch: dict[str, Any] = {
        "image": np.zeros((len(rows), *pictures.shape), np.uint8),
        "label": np.zeros(len(rows), np.int32),
        "valid": np.zeros(len(rows), bool),
    }
    if not shown and stream.trained != stream.shown:
        batch["aspect"] = np.ones(len(rows), np.float32)
    if not shown and stream.sample_weight is not None:
        batch["sample_weight"] = stream.sample_weight[rows]
    damaged = []
    for place, row in enumerate(rows):
        if row < 0:
            continue
        try:
            example = stream.stored.example(int(stream.rows[row]))
            decoding.check_label(example, stream.num_classes)
            batch["label"][place] = example.label
        except DataError as error:
            return {"lost": str(error)}
        try:
            pixels, aspect = decoding.pixels(example, stream.mode, pictures.view)
            _check_shape(example, pixels.shape, pictures.shape)
        except DamagedImage as error:
            damaged.append((example.where, str(error)))
            continue
        except DataError as error:
            return {"lost": str(error)}
        batch["image"][place], batch["valid"][place] = pixels, True
        if "aspect" in batch:
            batch["aspect"][place] = aspect
    return {**batch, "damaged": damaged}


def _check_shape(example: Example, found: tuple[int, ...], wanted: Shape) -> None:
    if found != wanted:
        sizes = ("x".join(map(str, shape)) for shape in (found, wanted))
        raise DataError(
            "{}: the image is {} but others are {}; set image_size to resize all of them".format(
                example.where, *sizes
            )
        )


def _joined(stream: Stream, parts: list[dict[str, Any]]) -> Batch:
    for part in parts:
        if "lost" in part:
            raise DataError(part["lost"])
        for name, message in part.pop("damaged"):
            stream.damaged.add(name, message)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
