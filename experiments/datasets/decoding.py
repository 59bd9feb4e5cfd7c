"""One image, from the bytes of a file or record to pixels: the only place that trusts none of it.

Dimension letters: H W C image.
"""

import contextlib
import dataclasses
import functools
import io
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.datasets.damage import DamagedImage
from experiments.datasets.data import DataError

if TYPE_CHECKING:
    import PIL.Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
GREY = frozenset(("1", "L", "LA"))
_COLOUR = frozenset(("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"))
# A picture of more pixels, which Pillow suspects too, takes 256 MiB decoded; a small file can claim
# to hold any number of them. A file of so many bytes is no picture of that size either.
MOST_PIXELS = 2**30 // 12
_MOST_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Example:
    """An image that is not decoded yet, with its label.

    Attributes:
      where: names it in messages.
      source: its file, its bytes, or the picture itself.
      label: its class.
      factors: what else is known of it.
    """

    where: str
    source: "Path | bytes | PIL.Image.Image"
    label: int
    factors: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class View:
    """Which part of a picture is kept, and at which size; resized bilinearly with anti-aliasing.

    Attributes:
      side: S, the picture becomes S x S; 0: it keeps its size.
      shorter: where positive, only the central square is kept: that of side S of the picture
        resized so that its shorter side is this. Else the whole picture is squeezed into a square.
    """

    side: int = 0
    shorter: int = 0

    def of(self, picture: "PIL.Image.Image") -> "PIL.Image.Image":
        """The view of a picture."""
        from PIL import Image

        if not self.side:
            return picture
        size = (self.side, self.side)
        if not self.shorter:
            return picture.resize(size, Image.Resampling.BILINEAR)
        # In one go: resized as a whole, a picture of 1 x 60,000 pixels would fill the memory.
        width, height = picture.size
        square = min(width, height) * self.side / self.shorter
        left, top = (width - square) / 2, (height - square) / 2
        box = (left, top, left + square, top + square)
        return picture.resize(size, Image.Resampling.BILINEAR, box=box)


def pixels(example: Example, mode: str, view: View) -> tuple[np.ndarray, float]:
    """Decodes an image.

    Args:
      example: the image.
      mode: `L`, `RGB` or `RGBA`, to which it is converted.
      view: what is kept of it.

    Returns:
      u8[H,W,C], and the width of the picture over its height.

    Raises:
      DamagedImage: it is cut short, not an image, of too many pixels or of more than 8 bits.
      DataError: its file is not there or cannot be read.

    Example:
      >>> from PIL import Image
      >>> found, aspect = pixels(Example("it", Image.new("RGB", (6, 3)), 0), "L", View(side=2))
      >>> found.shape, aspect
      ((2, 2, 1), 2.0)
    """
    with opened(example.where, example.source) as image, _readable(example.where):
        image.load()
        # A palette with transparency is converted without a warning only by this way round.
        whole = image.convert("RGBA") if image.mode in ("P", "PA") else image
        if whole.mode != mode:
            whole = whole.convert(mode)
        found = np.asarray(view.of(whole))
        aspect = image.width / image.height
    return (found if found.ndim == 3 else found[:, :, None]), aspect


def check_label(example: Example, num_classes: int) -> None:
    """Raises DataError for a label that is not in [0, num_classes)."""
    if not 0 <= example.label < num_classes:
        raise DataError(f"{example.where}: label {example.label} not in [0, {num_classes})")


def opened(where: str, source: "Path | bytes | PIL.Image.Image") -> "PIL.Image.Image":
    """An image whose header has been read and found good; its pixels have not been decoded.

    Args:
      where: names it in messages.
      source: its file, its bytes, or the picture itself.

    Returns:
      The image, to be closed.

    Raises:
      DamagedImage: as `pixels`.
      DataError: as `pixels`.
    """
    content = _bytes(where, source) if isinstance(source, Path) else source
    if isinstance(content, bytes):
        with _readable(where):
            content = _pillow().open(io.BytesIO(content))
    if content.width * content.height > MOST_PIXELS:
        raise DamagedImage(
            f"{where}: {content.width} x {content.height} pixels, more than the {MOST_PIXELS:,} "
            "that an image may have"
        )
    if content.mode not in GREY | _COLOUR:
        # Pillow would clip 16-bit and float pixels to 8 bits without a word.
        raise DamagedImage(f"{where}: pixels of mode {content.mode}; save it with 8 bits")
    return content


def _bytes(where: str, path: Path) -> bytes:
    """A file's content: that it cannot be read says nothing of the image."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise DamagedImage(f"{where} is not a readable image: it has {size:,} bytes")
        if not (path.is_file() or path.is_dir()):  # a pipe would be waited for
            raise DataError(f"{where} cannot be read: it is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror or error}") from error


@functools.cache
def _pillow() -> Any:
    """The module PIL.Image, which warns of many pixels no more: they are refused here."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    # What a decoder raises for a damaged file is anything from OSError to struct.error.
    try:
        yield
    except Exception as error:
        unknown = type(error).__name__ == "UnidentifiedImageError"  # its text shows an address
        reason = "it is of no known format" if unknown else error
        raise DamagedImage(f"{where} is not a readable image: {reason}") from error
