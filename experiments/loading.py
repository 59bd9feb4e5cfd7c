"""From the name of a data set to its splits in memory, checked.

Every source ends as the same value, `Data`: uint8 images and int32 labels, so that nothing after
this file meets a missing file, a stray size or an impossible label. TensorFlow Datasets (TFDS)
defines, prepares and describes all that is neither embedded nor a folder; its array_record files
are read without TensorFlow.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np

from experiments import embedded, sources
from experiments.data import Data, DataError, Split, stratified

# What a group is, where a data set has groups.
_ATTRIBUTES = {"coloured_digits": "colour"}


def load(
    name: str,
    *,
    data_dir: str = "",
    validation_fraction: float = 0.0,
    image_size: int = 0,
    download: bool = False,
    cache: str = "none",
) -> Data:
    """Reads a data set into memory.

    | name | source | train, test | validation, `validation_fraction` 0 |
    |---|---|---|---|
    | `digits` | scikit-learn's 1,797 8x8 digits | 1,437 and 360 rows, always the same | None |
    | `digit_factors` | those digits on a 32x32 canvas, factors known | 5,748 and 720 rows | None |
    | `coloured_digits[:STRENGTH]` | 5 or more? A colour misleads | 1,437 and 720 rows | None |
    | `folder:PATH` | images PATH/SPLIT/CLASS/*.{png,jpg,jpeg} | train, test | validation or val |
    | `NAME[/CONFIG][:VERSION]` | TFDS | train, test (without one: validation) | None |

    `experiments.embedded` says what `digit_factors` and `coloured_digits` show; they have an image
    size of their own, so that `image_size` 0 is 32 and 16. Of TFDS, `dsprites` and `shapes3d`
    come with their factors, see `experiments.sources`.

    With a positive `validation_fraction` validation is that fraction of the train rows instead,
    stratified by label, and by group where there are groups, and train is the rest; rows made from
    one original stay together. Which rows depends on the data set alone, so that runs which differ
    in their seed are selected on the same rows.

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
      cache: Where what is decoded from files is kept, to be mapped into memory the next time: a
        folder, `auto` for one in the user's cache folder, or `none`. See `experiments.decoded`.

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
    num_classes, splits = _read(name, data_dir, image_size, download, cache)
    if validation_fraction:
        splits["train"], splits["validation"] = _hold_out(splits["train"], validation_fraction)
    _check_same_size(name, splits)
    mean, std = _moments(splits["train"].image)
    groups = [split.group.max() for split in splits.values() if split.group is not None]
    return Data(
        name=name,
        num_classes=num_classes,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits["test"],
        mean=mean,
        std=std,
        num_groups=int(max(groups)) + 1 if groups else None,
        attribute=_ATTRIBUTES.get(name.partition(":")[0], "group"),
    )


def load_like(
    data: Data, name: str, *, data_dir: str = "", download: bool = False, cache: str = "none"
) -> Data:
    """Reads a data set in the size and with the channels of another one's images.

    So that a model trained on one can be shown the other. One channel is repeated; of three the
    luma is taken.

    Args:
      data: the one whose images are to be matched.
      name: as in `load`.
      data_dir: as in `load`.
      download: as in `load`.
      cache: as in `load`.

    Returns:
      The data set.

    Raises:
      DataError: as in `load`, or images that cannot be brought to that size or those channels.

    Example:
      >>> load_like(load("coloured_digits"), "digits").test.image.shape
      (360, 16, 16, 3)
    """
    height, width, channels = data.test.image.shape[1:]
    if height != width:
        raise DataError(f"{name} cannot be brought to {height}x{width} pixels: not square")
    found = load(name, data_dir=data_dir, image_size=height, download=download, cache=cache)
    train, test = (_with_channels(name, split, channels) for split in (found.train, found.test))
    return dataclasses.replace(found, train=train, test=test)


def _with_channels(name: str, split: Split, channels: int) -> Split:
    image = split.image
    if image.shape[-1] == channels:
        return split
    if image.shape[-1] == 1:
        image = np.repeat(image, channels, axis=-1)
    elif image.shape[-1] == 3 and channels == 1:
        # The luma of Rec. 601, as greyscale images are made elsewhere.
        luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
        image = np.round(luma).astype(np.uint8)[..., None]
    else:
        raise DataError(f"{name} has images of {image.shape[-1]} channels, not {channels}")
    return dataclasses.replace(split, image=image)


def _read(
    name: str, data_dir: str, image_size: int, download: bool, cache: str
) -> tuple[int, dict[str, Split]]:
    if name == "digits":
        return sources.digits(image_size)
    if name == "digit_factors":
        return embedded.digit_factors(image_size)
    if name.partition(":")[0] == "coloured_digits":
        return embedded.coloured_digits(name, image_size)
    if name.startswith("folder:"):
        return sources.folder(
            Path(name.removeprefix("folder:")).expanduser(), image_size, cache=cache
        )
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return sources.tfds(name, root.expanduser().absolute(), image_size, download, cache=cache)


def _hold_out(split: Split, fraction: float) -> tuple[Split, Split]:
    """Returns (the rest, `fraction` of the rows), stratified, the same in every run."""
    if split.source is None:
        held = stratified(split.cell, round(fraction * len(split)))
    else:
        # By originals, each with the cell of its first row.
        _, first, original = np.unique(split.source, return_index=True, return_inverse=True)
        held = stratified(split.cell[first], round(fraction * len(first)))[original]
    if not held.any():
        raise DataError(f"validation_fraction {fraction} of {len(split)} train rows is no row")
    return split.take(~held), split.take(held)


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
