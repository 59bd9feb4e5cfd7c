"""From the name of a data set to its splits in memory, checked.

Every source ends as the same value, `Data`: uint8 images and int32 labels, so that nothing after
this file meets a missing file, a stray size or an impossible label. TensorFlow Datasets (TFDS)
defines, prepares and describes all that is neither embedded nor a folder; its array_record files
are read without TensorFlow.
"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.datasets import embedded, sources, streamed
from experiments.datasets import streaming as streaming_lib
from experiments.datasets.data import Data, DataError, Split, fixed_order, stratified
from experiments.datasets.streamed import StoredSet

if TYPE_CHECKING:
    from experiments.config import Config

# What a group is, where a data set has groups.
_ATTRIBUTES = {"coloured_digits": "colour"}
_EMBEDDED = ("digits", "digit_factors", "coloured_digits")


def load(
    name: str,
    *,
    data_dir: str = "",
    validation_fraction: float = 0.0,
    test_split: str = "test",
    classes: int = 0,
    image_size: int = 0,
    download: bool = False,
    cache: str = "none",
    streaming: str = "off",
    random_resized_crop: bool = False,
    stored_size: int = 0,
    damaged: str = "refuse",
    workers: int = 0,
) -> Data:
    """Reads a data set into memory, or finds it on disk to be streamed.

    | name | source | train, test | validation, `validation_fraction` 0 |
    |---|---|---|---|
    | `digits` | scikit-learn's 1,797 8x8 digits | 1,437 and 360 rows, always the same | None |
    | `digit_factors` | those digits on a 32x32 canvas, factors known | 5,748 and 720 rows | None |
    | `coloured_digits[:STRENGTH]` | 5 or more? A colour misleads | 1,437 and 720 rows | None |
    | `folder:PATH` | images PATH/SPLIT/CLASS/*.{png,jpg,jpeg} | train, test | validation or val |
    | `NAME[/CONFIG][:VERSION]` | TFDS | train, test (without one: validation) | None |

    `experiments.datasets.embedded` says what `digit_factors` and `coloured_digits` show; they have
    an image size of their own, so that `image_size` 0 is 32 and 16. Of TFDS, `dsprites` and
    `shapes3d` come with their factors, see `experiments.datasets.sources`.

    With a positive `validation_fraction` validation is that fraction of the train rows instead,
    stratified by label, and by group where there are groups, and train is the rest; rows made from
    one original stay together. Which rows depends on the data set alone, so that runs which differ
    in their seed are selected on the same rows.

    A folder's images have one channel if all of them are greyscale, else three. Its classes are the
    folders of the train split, in the order of their names.

    A data set that is streamed has a `streaming.Stream` for each split, with the same rows in the
    same order; mean and std are those of 2,048 fixed training rows, of all where these are fewer.

    Args:
      name: As in the table.
      data_dir: TFDS's root directory. Empty: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
      validation_fraction: In [0, 1).
      test_split: `test`, or `validation`: what stands as the test split is then the validation
        rows, so that options can be compared without a look at the test rows.
      classes: If positive, only the rows of the first so many classes are kept.
      image_size: If positive, every image is resized (bilinear, anti-aliased, aspect ratio not
        kept) to image_size x image_size; if 0, all images must be of one size already.
      download: Whether a TFDS set that is not prepared yet may be fetched and prepared. CIFAR-10
        and CIFAR-100 are also prepared from their official archive, without the network, when it
        lies in <data_dir>/downloads/manual/.
      cache: Where what is decoded from files is kept, to be mapped into memory the next time: a
        folder, `auto` for one in the user's cache folder, or `none`. See
        `experiments.datasets.decoded`.
      streaming: `on`, `off`, or `auto`, which streams a folder or TFDS set whose pixels would take
        more than 4 GiB.
      random_resized_crop: Whether training rows are read for a random resized crop, see
        `streamed.streams`; streams unless streaming is `off`.
      stored_size: As in `streamed.streams`.
      damaged: What happens to images that cannot be decoded: `skip` leaves them out, up to one in a
        hundred, and says so; `refuse` raises.
      workers: Processes that read a stream; 0: threads of this one.

    Returns:
      The data; every image and label is checked, those of a stream when they are read.

    Raises:
      DataError: The data is missing, damaged, not image classification, or cannot be streamed.
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
    if test_split not in ("test", "validation"):
        raise ValueError(f"test_split must be test or validation; got {test_split!r}")
    if classes < 0 or classes == 1:
        raise ValueError(f"classes must be 0, for all, or at least 2; got {classes}")
    if image_size < 0:
        raise ValueError(f"image_size must be 0 or positive, got {image_size}")
    if streaming not in streamed.STREAMING:
        raise ValueError(f"streaming must be one of {streamed.STREAMING}; got {streaming!r}")
    if random_resized_crop and not image_size:
        raise ValueError("random_resized_crop needs image_size")
    stored = None
    if streaming != "off":
        asked = streaming == "on" or random_resized_crop
        stored = _stored(name, data_dir, image_size, download, asked=asked)
    if stored is not None and (classes or test_split != "test"):
        raise DataError(
            f"{name} is streamed: --classes and --test_split=validation need rows in memory "
            "(--streaming=off)"
        )
    if stored is not None:
        found = streamed.streams(
            stored,
            image_size=image_size,
            stored_size=stored_size,
            random_resized_crop=random_resized_crop,
            validation_fraction=validation_fraction,
            damaged=damaged,
            workers=workers,
        )
        mean, std = _moments(streamed.sample(found["train"]).image)
        return Data(
            name,
            stored.num_classes,
            found["train"],
            found.get("validation"),
            found["test"],
            mean,
            std,
        )
    num_classes, splits = _read(name, data_dir, image_size, download, cache, damaged)
    if classes:
        num_classes, splits = _first_classes(name, num_classes, splits, classes)
    if validation_fraction:
        splits["train"], splits["validation"] = _hold_out(splits["train"], validation_fraction)
    if test_split == "validation":
        if "validation" not in splits:
            raise DataError(f"{name} has no validation rows; --validation_fraction holds some out")
        splits["test"] = splits.pop("validation")
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


def of_run(config: "Config", **changes: Any) -> Data:
    """The data set that a run's flags name.

    Args:
      config: its flags.
      changes: arguments of `load` that are others here.

    Returns:
      As `load`.

    Raises:
      DataError: as `load`.

    Example:
      >>> from experiments.config import Config
      >>> of_run(Config(), image_size=4).image_shape
      (4, 4, 1)
    """
    options: dict[str, Any] = {
        "data_dir": config.data_dir,
        "validation_fraction": config.validation_fraction,
        "test_split": config.test_split,
        "classes": config.classes,
        "image_size": config.image_size,
        "download": config.download,
        "cache": config.data_cache,
        "streaming": config.streaming,
        "random_resized_crop": config.random_resized_crop,
        "stored_size": config.stored_size,
        "damaged": config.damaged_images,
        "workers": config.data_workers,
    }
    return load(config.dataset, **{**options, **changes})


def in_memory(data: Data, train_rows: int) -> Data[Split]:
    """A data set whose splits lie in memory, for what looks at rows in any order.

    Args:
      data: what may be streamed.
      train_rows: the most rows of a streamed train split that are read, always the same ones.

    Returns:
      `data` itself where nothing is streamed, else its test and validation rows and some of train,
      all as an evaluation sees them.

    Raises:
      DataError: as `load`.
    """
    if isinstance(data.test, Split):
        return data
    rows = np.sort(fixed_order(len(data.train))[:train_rows])
    validation = data.validation and streaming_lib.in_memory(data.validation)
    return dataclasses.replace(
        data,
        train=streaming_lib.in_memory(data.train, rows),
        validation=validation,
        test=streaming_lib.in_memory(data.test),
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
    height, width, channels = data.image_shape
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
    name: str, data_dir: str, image_size: int, download: bool, cache: str, damaged: str
) -> tuple[int, dict[str, Split]]:
    if name == "digits":
        return sources.digits(image_size)
    if name == "digit_factors":
        return embedded.digit_factors(image_size)
    if name.partition(":")[0] == "coloured_digits":
        return embedded.coloured_digits(name, image_size)
    if name.startswith("folder:"):
        return sources.folder(_folder(name), image_size, cache=cache, damaged=damaged)
    root = _tfds_root(data_dir)
    return sources.tfds(name, root, image_size, download, cache=cache, damaged=damaged)


def _stored(
    name: str, data_dir: str, image_size: int, download: bool, *, asked: bool
) -> StoredSet | None:
    """The data set on disk if it is to be streamed: asked for, or too large for memory."""
    found = None
    if name.startswith("folder:"):
        found = streamed.find_folder(_folder(name))
    elif name.partition(":")[0] not in _EMBEDDED:
        found = streamed.find_tfds(name, _tfds_root(data_dir), download=download)
    if found is None:
        if asked:
            raise DataError(
                f"{name} cannot be streamed, which --streaming=on and --random_resized_crop ask "
                "for; allowed: folder:PATH, or a TFDS set without factors"
            )
        return None
    return found if asked or streamed.too_large(found, image_size) else None


def _folder(name: str) -> Path:
    return Path(name.removeprefix("folder:")).expanduser()


def _tfds_root(data_dir: str) -> Path:
    root = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return root.expanduser().absolute()


def _first_classes(
    name: str, num_classes: int, splits: dict[str, Split], classes: int
) -> tuple[int, dict[str, Split]]:
    """The rows of the first classes of every split."""
    if classes > num_classes:
        raise DataError(f"--classes={classes}: {name} has {num_classes} classes")
    kept = {key: split.take(split.label < classes) for key, split in splits.items()}
    for key, split in kept.items():
        if not len(split):
            raise DataError(f"--classes={classes}: split {key} of {name} has no row of them")
    return classes, kept


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
