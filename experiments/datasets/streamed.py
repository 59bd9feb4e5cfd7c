"""From the name of a data set to its streams, and whether it is streamed at all."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets import decoding, folders, streaming, tfds_sets
from experiments.datasets.damage import Damaged, DamagedImage
from experiments.datasets.data import DataError, Split, fixed_order, stratified
from experiments.datasets.decoding import View
from experiments.datasets.streaming import Pictures, Stored, Stream

STREAMING = ("auto", "on", "off")
# Pixels above which `auto` streams.
_MOST_IN_MEMORY = 4 * 2**30
# Rows that mean and standard deviation are of, where there are more.
_SAMPLE_ROWS = 2048
_LOOKED_AT = 100


@dataclasses.dataclass(frozen=True, eq=False)
class StoredSet:
    """A data set on disk, found but not read.

    Attributes:
      num_classes: K.
      splits: train, test and, where there is one, validation.
      mode: how images are decoded; empty where their headers have to be read for it.
    """

    num_classes: int
    splits: dict[str, Any]
    mode: str = ""

    def with_mode(self) -> "StoredSet":
        """The same with its mode known."""
        return self if self.mode else dataclasses.replace(self, mode=folders.mode(self.splits))


def find_folder(root: Path) -> StoredSet:
    """A folder data set; DataError as `folders.splits`."""
    classes, splits = folders.splits(root)
    return StoredSet(len(classes), dict(splits))


def find_tfds(name: str, root: Path, *, download: bool) -> StoredSet | None:
    """A TFDS set, prepared first where asked for; None where its rows come with their factors.

    Args:
      name: as for `tfds_sets.find`.
      root: TFDS's root directory.
      download: whether a missing one may be fetched.

    Returns:
      The set.

    Raises:
      DataError: as `tfds_sets.find`, `tfds_sets.describe` and `tfds_sets.TfdsRows`.
    """
    found = tfds_sets.describe(tfds_sets.find(name, root, download=download))
    if found.has_factors:
        return None
    found.check_splits("train", found.test)
    splits = {name: tfds_sets.TfdsRows(found, split) for name, split in _pairs(found.test)}
    return StoredSet(found.num_classes, splits, found.mode)


def _pairs(test: str) -> list[tuple[str, str]]:
    return [("train", "train"), ("test", test)]


def too_large(found: StoredSet, image_size: int) -> bool:
    """Whether the pixels of all splits would take more than 4 GiB."""
    rows = sum(len(split) for split in found.splits.values())
    height, width = (image_size, image_size) if image_size else _first_size(found.splits["train"])
    if rows * height * width * 3 <= _MOST_IN_MEMORY and not found.mode:
        return False
    channels = {mode: count for count, mode in decoding.MODES.items()}[found.with_mode().mode]
    return rows * height * width * channels > _MOST_IN_MEMORY


def streams(
    found: StoredSet,
    *,
    image_size: int,
    stored_size: int = 0,
    random_resized_crop: bool = False,
    validation_fraction: float = 0.0,
    damaged: str = "skip",
    workers: int = 0,
) -> dict[str, Stream]:
    """The splits of a data set as streams.

    | | training rows | rows that are evaluated |
    |---|---|---|
    | as they are | resized to image_size, if positive | likewise |
    | `random_resized_crop` | squeezed into stored_size squares, their `aspect` kept | the central |
    | | | square of image_size, the shorter side being 8/7 of that |

    The second row is what is published for ImageNet: the crop itself is made on the devices.

    Args:
      found: the data set.
      image_size: side of the images, 0: all have one size.
      stored_size: side of the squares; 0: 8/7 of image_size.
      random_resized_crop: whether parts are cut out in training.
      validation_fraction: as in `loading.load`; needs labels that are known without reading.
      damaged: one of `damage.RULES`.
      workers: processes that read; 0: threads.

    Returns:
      The streams by the name of the split.

    Raises:
      DataError: validation_fraction where labels are not known.
    """
    found = found.with_mode()
    channels = {mode: count for count, mode in decoding.MODES.items()}[found.mode]
    sides = (image_size, image_size) if image_size else _first_size(found.splits["train"])
    shown = Pictures(View(image_size), (*sides, channels))
    trained = shown
    if random_resized_crop:
        larger = round(image_size * 8 / 7)
        side = stored_size or larger
        shown = Pictures(View(image_size, shorter=larger), shown.shape)
        trained = Pictures(View(side), (side, side, channels))

    def stream(name: str, stored: Stored) -> Stream:
        return Stream(
            stored,
            np.arange(len(stored)),
            found.mode,
            found.num_classes,
            trained if name == "train" else shown,
            shown,
            Damaged(damaged, len(stored), stored.where),
            workers,
        )

    made = {name: stream(name, stored) for name, stored in found.splits.items()}
    if validation_fraction:
        train, shown_only = made["train"], made["test"].trained
        label = train.label
        if label is None:
            raise DataError(
                f"--validation_fraction={validation_fraction}: {train.stored.where} is streamed, "
                "and its labels are known only once a row is read; allowed: 0, --streaming=off or "
                "a folder"
            )
        held = stratified(label, round(validation_fraction * len(train)))
        if not held.any():
            raise DataError(
                f"validation_fraction {validation_fraction} of {len(train)} train rows is no row"
            )
        made["train"] = train.take(~held)
        made["validation"] = dataclasses.replace(train.take(held), trained=shown_only)
    return made


def sample(stream: Stream) -> Split:
    """Training rows in memory, always the same: all, or 2,048 where there are more.

    Args:
      stream: a train split.

    Returns:
      The rows as training sees them.

    Raises:
      DataError: as `streaming.in_memory`.
    """
    rows = None
    if len(stream) > _SAMPLE_ROWS:
        rows = np.sort(fixed_order(len(stream))[:_SAMPLE_ROWS])
    # Threads: processes would take longer to start than they read.
    here = dataclasses.replace(stream, shown=stream.trained, workers=0)
    return streaming.in_memory(here, rows)


def _first_size(stored: Stored) -> tuple[int, int]:
    """(height, width) of the first image that can be opened."""
    for row in itertools.islice(range(len(stored)), _LOOKED_AT):
        example = stored.example(row)
        try:
            with decoding.opened(example.where, example.source) as image:
                return image.height, image.width
        except DamagedImage:
            continue
    raise DataError(f"{stored.where} holds no image that can be decoded at its beginning")
