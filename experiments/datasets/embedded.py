"""Data sets made of scikit-learn's digits: known factors, and a colour that misleads.

Each is a function of its name and the image size alone: what is drawn comes from counter-based
words, and the pixels from arithmetic that is the same everywhere.

Dimension letters: N rows of a split, S the side of the canvas, H W C image.
"""

import numpy as np

from experiments.datasets import sources
from experiments.datasets.data import DataError, Split, stratified

# Colours of `digit_factors`: red, yellow, green, cyan, blue and magenta.
HUES = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)], np.float32)
BACKGROUNDS = ("plain", "horizontal stripes", "vertical stripes", "checks")
# Lowest and highest value of each real factor, each uniform between them.
RANGES = {"x": (0.35, 0.65), "y": (0.35, 0.65), "scale": (0.4, 0.65), "rotation": (-45.0, 45.0)}
_RENDERINGS = {"train": 4, "test": 2}
_SIDE = 32
_SMALLEST = 16
_COLOURED_SIDE = 16
_STRENGTH = 0.95
# Grey levels of the two shades of a background; a plain one has their mean.
_SHADES = (0.1, 0.3)
_BLOCK = 1024


def digit_factors(image_size: int) -> tuple[int, dict[str, Split]]:
    """Digits placed on a canvas, with known factors that do not depend on the label.

    | factor | values |
    |---|---|
    | x, y | centre of the digit, from the left and from the top, in sides of the canvas |
    | scale | side of the 8x8 digit, in sides of the canvas |
    | rotation | degrees, counter-clockwise |
    | colour | class, a row of HUES |
    | background | class, of BACKGROUNDS, in greys |

    All are drawn independently and uniformly. Each digit of the train split of `digits` is drawn 4
    times, each of the test split twice, so that no digit is in both; `Split.source` tells which
    rows show the same digit.

    Args:
      image_size: S; 0 is 32.

    Returns:
      (10, splits), images u8[N,S,S,3].

    Raises:
      DataError: a canvas on which the digits could not be read.
    """
    side = image_size or _SIDE
    if side < _SMALLEST:
        raise DataError(
            f"digit_factors: image_size must be 0 or at least {_SMALLEST}, got {image_size}"
        )
    num_classes, originals = sources.digits(0)
    splits = {}
    for stream, (name, split) in enumerate(originals.items()):
        source = np.repeat(np.arange(len(split), dtype=np.int32), _RENDERINGS[name])
        factors = _draw_factors(len(source), stream)
        image = render(split.image[source, :, :, 0], factors, side=side)
        splits[name] = _frozen(Split(image, split.label[source], factors=factors, source=source))
    return num_classes, splits


def render(digit: np.ndarray, factors: dict[str, np.ndarray], *, side: int) -> np.ndarray:
    """Draws digits as their factors say: bilinear, each pixel a mix of colour and background.

    Args:
      digit: u8[N,H,H], how much of each pixel is ink, 255 all of it.
      factors: as in `digit_factors`, each [N].
      side: S.

    Returns:
      u8[N,S,S,3].
    """
    image = np.empty((len(digit), side, side, 3), np.uint8)
    backgrounds = _backgrounds(side)
    for start in range(0, len(digit), _BLOCK):
        block = slice(start, start + _BLOCK)
        some = {name: values[block] for name, values in factors.items()}
        ink = _placed(digit[block], some, side)[..., None]
        behind = backgrounds[some["background"]][..., None]
        colour = HUES[some["colour"]][:, None, None, :]
        image[block] = np.rint(255 * (behind + ink * (colour - behind)))
    return image


def coloured_digits(name: str, image_size: int) -> tuple[int, dict[str, Split]]:
    """Is a digit 5 or more? A colour that agrees with the answer in training, not in the test.

    The group is the colour, 0 red and 1 green. In train it equals the label in a share STRENGTH of
    the rows: of the rows of each label exactly, up to rounding, and of each digit nearly. In test
    each digit is there twice, once in each colour, so that the four (label, group) pairs are half
    and half.

    After Coloured MNIST, from which it differs: 8x8 digits; no label is wrong (there a quarter);
    one train split, not two environments that agree in 0.8 and 0.9; and a test split in which the
    colour says nothing, where theirs agrees in 0.1.

    Args:
      name: `coloured_digits`, where STRENGTH is 0.95, or `coloured_digits:STRENGTH`.
      image_size: H and W; 0 is 16.

    Returns:
      (2, splits), images u8[N,H,W,3].

    Raises:
      DataError: a STRENGTH that is no number in [0, 1].

    References:
      Arjovsky et al. 2019, Invariant Risk Minimization (arXiv:1907.02893), for Coloured MNIST.
    """
    share = _strength(name)
    _, originals = sources.digits(image_size or _COLOURED_SIDE)
    train, test = originals["train"], originals["test"]
    label = (train.label >= 5).astype(np.int32)
    agrees = np.empty(len(train), bool)
    for value in (0, 1):
        rows = np.flatnonzero(label == value)
        agrees[rows] = _marked(train.label[rows], round(share * len(rows)))
    both = np.repeat(np.arange(len(test), dtype=np.int32), 2)
    return 2, {
        "train": _coloured(train.image, label, np.where(agrees, label, 1 - label)),
        "test": _coloured(
            test.image[both],
            (test.label[both] >= 5).astype(np.int32),
            np.tile(np.arange(2, dtype=np.int32), len(test)),
            source=both,
        ),
    }


def _strength(name: str) -> float:
    _, colon, text = name.partition(":")
    try:
        strength = float(text) if colon else _STRENGTH
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= 1:
        raise DataError(f"{name}: STRENGTH must be a number in [0, 1], got {text!r}")
    return strength


def _marked(label: np.ndarray, count: int) -> np.ndarray:
    """Marks exactly `count` rows, each class in proportion; the smaller part by `stratified`."""
    rest = len(label) - count
    return stratified(label, count) if count < rest else ~stratified(label, rest)


def _coloured(
    grey: np.ndarray, label: np.ndarray, group: np.ndarray, *, source: np.ndarray | None = None
) -> Split:
    image = np.zeros((*grey.shape[:3], 3), np.uint8)
    image[np.arange(len(grey)), :, :, group] = grey[..., 0]
    return _frozen(Split(image, label, group=group.astype(np.int32), source=source))


def _frozen(split: Split) -> Split:
    factors = split.factors or {}
    for values in (split.image, split.label, split.group, split.source, *factors.values()):
        if values is not None:
            values.setflags(write=False)
    return split


def _draw_factors(count: int, stream: int) -> dict[str, np.ndarray]:
    """The factors of each row, from raw words that NumPy promises for ever."""
    names = (*RANGES, "colour", "background")
    words = np.random.Philox(key=np.array([0, stream], np.uint64)).random_raw(count * len(names))
    # 53 bits in [0, 1): what a float holds exactly.
    unit = (words >> np.uint64(11)).reshape(count, len(names)) * 2.0**-53
    factors: dict[str, np.ndarray] = {}
    for column, name in enumerate(names):
        if name in RANGES:
            low, high = RANGES[name]
            factors[name] = (low + (high - low) * unit[:, column]).astype(np.float32)
        else:
            classes = len(HUES) if name == "colour" else len(BACKGROUNDS)
            factors[name] = (classes * unit[:, column]).astype(np.int32)
    return factors


def _placed(digit: np.ndarray, factors: dict[str, np.ndarray], side: int) -> np.ndarray:
    """The ink of each canvas pixel, f32[N,S,S]: the digit at the place the pixel comes from."""
    size = digit.shape[1]
    # Libraries differ in the last bit of a cosine; rounded, all agree.
    angle = np.deg2rad(factors["rotation"].astype(np.float64))
    cosine, sine = (
        np.round(f(angle), 6).astype(np.float32)[:, None, None] for f in (np.cos, np.sin)
    )
    middle = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    right = middle[None, None, :] - factors["x"][:, None, None]
    down = middle[None, :, None] - factors["y"][:, None, None]
    stretch = np.float32(size) / factors["scale"][:, None, None]
    # Turned back clockwise, in pixels of the digit with a border of 1; beyond it all is blank.
    column = (right * cosine - down * sine) * stretch + np.float32(size / 2 + 0.5)
    row = (right * sine + down * cosine) * stretch + np.float32(size / 2 + 0.5)
    column, row = (np.clip(x, 0, size + 1, dtype=np.float32) for x in (column, row))
    padded = np.pad(digit, ((0, 0), (1, 1), (1, 1))).astype(np.float32) / np.float32(255)
    left, top = (np.minimum(x.astype(np.int32), size) for x in (column, row))
    to_right, to_bottom = column - left, row - top
    first = (np.arange(len(digit), dtype=np.int32) * (size + 2) ** 2)[:, None, None]
    corner, flat = first + top * (size + 2) + left, padded.reshape(-1)

    def line(start: np.ndarray) -> np.ndarray:
        return flat[start] + to_right * (flat[start + 1] - flat[start])

    upper, lower = line(corner), line(corner + (size + 2))
    return upper + to_bottom * (lower - upper)


def _backgrounds(side: int) -> np.ndarray:
    """The grey of each background, f32[4,S,S], in the order of BACKGROUNDS: eighths of the side."""
    eighth = np.arange(side) * 8 // side % 2
    down, right = np.meshgrid(eighth, eighth, indexing="ij")
    shades = np.array(_SHADES, np.float32)
    plain = np.full((side, side), shades.mean(), np.float32)
    return np.stack([plain, shades[down], shades[right], shades[(down + right) % 2]])
