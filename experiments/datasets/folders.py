"""Folders of images: PATH/SPLIT/CLASS/*.{png,jpg,jpeg}, the layout of TFDS's ImageFolder."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.datasets import decoding
from experiments.datasets.data import DataError
from experiments.datasets.decoding import Example

_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True, eq=False)
class FolderRows:
    """The images of one split as files that have not been read.

    Attributes:
      where: names the split in messages.
      directory: PATH/SPLIT.
      names: bytes[N], CLASS/NAME of each file: a list of a million strings would take far more.
      label: i32[N].
    """

    where: str
    directory: str
    names: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        """Returns N."""
        return len(self.label)

    def path(self, row: int) -> Path:
        """The file of a row."""
        return Path(self.directory, os.fsdecode(self.names[row]))

    def paths(self) -> Iterator[Path]:
        """The files of all rows, in order."""
        return (self.path(row) for row in range(len(self)))

    def example(self, row: int) -> Example:
        """A row, not decoded."""
        path = self.path(row)
        return Example(str(path), path, int(self.label[row]))


def splits(root: Path) -> tuple[list[str], dict[str, FolderRows]]:
    """The classes of a folder and its splits: train, test and, where there is one, validation.

    Args:
      root: PATH.

    Returns:
      The names of the classes, sorted, and the splits by name. Rows are in the order of class, then
      file name.

    Raises:
      DataError: a split, its classes or its images are missing or do not fit together.
    """
    folders = {"train": "train", "test": "test"}
    if validation := [name for name in ("validation", "val") if (root / name).is_dir()]:
        folders["validation"] = validation[0]
    if len(validation) > 1:
        raise DataError(f"{root} has both validation and val: keep one of them")
    files = {split: _class_files(root / name) for split, name in folders.items()}
    for split, name in folders.items():
        if unknown := sorted(set(files[split]) - set(files["train"])):
            raise DataError(f"{root / name}: no folder in train for the classes {unknown}")
    classes = sorted(files["train"])
    return classes, {
        split: _rows(f"{root}, split {split},", root / folders[split], classes, files[split])
        for split in files
    }


def mode(rows: dict[str, FolderRows]) -> str:
    """How the images of all splits are decoded: `L` if all of them are greyscale, else `RGB`.

    Args:
      rows: the splits.

    Returns:
      The mode; an image that cannot be decoded has no say.

    Raises:
      DataError: a file cannot be read.
    """
    paths = (path for split in rows.values() for path in split.paths())
    return "L" if all(_is_grey(path) for path in paths) else "RGB"


def _rows(
    where: str, directory: Path, classes: list[str], files: dict[str, list[str]]
) -> FolderRows:
    labelled = [(f"{c}/{name}", k) for k, c in enumerate(classes) for name in files.get(c, ())]
    names = np.array([os.fsencode(name) for name, _ in labelled])
    label = np.array([k for _, k in labelled], np.int32)
    return FolderRows(where, str(directory), names, label)


def _class_files(split: Path) -> dict[str, list[str]]:
    """The names of the image files of a split by class name."""
    if not split.is_dir():
        raise DataError(
            f"no directory {split}: a folder data set is PATH/train/CLASS/*.png (or .jpg, .jpeg)"
            " and PATH/test/CLASS/*"
        )
    try:
        with os.scandir(split) as entries:
            folders = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
        files = {name: _images(split / name) for name in folders}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    if not folders:
        raise DataError(f"{split} holds no class folders: images belong in {split}/CLASS/")
    if empty := sorted(name for name in files if not files[name]):
        raise DataError(
            f"{split}: no {', '.join(_SUFFIXES)} file in the class folders {empty};"
            " add images or remove the folders"
        )
    return files


def _images(folder: Path) -> list[str]:
    # Archives made on a Mac carry a hidden ._NAME.png, which is no image, beside each NAME.png.
    return sorted(
        name
        for name in os.listdir(folder)
        if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
    )


def _is_grey(path: Path) -> bool:
    try:
        with decoding.opened(str(path), path) as image:
            return image.mode in decoding.GREY
    except decoding.DamagedImage:
        return True
