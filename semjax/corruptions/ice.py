"""Textures of frosted glass, generated: feathered crystals, needles and grain in bluish white.

The frost of CIFAR-10-C and ImageNet-C is cut out of five photographs. These textures stand in for
them: five as well, with about the colours and the contrast of the photographs, but drawn.
"""

import functools

import numpy as np

#: The mean and the spread of red, green and blue of each texture, like those of the photographs.
_COLOURS = (
    ((78, 149, 166), (27, 17, 15)),
    ((201, 205, 215), (21, 22, 23)),
    ((206, 211, 219), (19, 20, 21)),
    ((138, 153, 165), (28, 28, 30)),
    ((112, 123, 135), (44, 43, 42)),
)
#: Of each texture, in pixels of its full size: between crystals, and between the barbs of one.
_SPACING = (150.0, 95.0, 70.0, 45.0, 80.0)
_BARBS = (16.0, 12.0, 9.0, 7.0, 10.0)
#: The spread of clouds, crystals, needles and grain in each.
_PARTS = (
    (1.0, 0.5, 0.4, 0.4),
    (0.5, 0.8, 0.4, 0.5),
    (0.6, 0.8, 0.3, 0.4),
    (0.5, 0.8, 0.2, 0.9),
    (0.6, 1.0, 0.4, 0.4),
)
TEXTURES = len(_COLOURS)


@functools.lru_cache(maxsize=8)
def ice_textures(size: int, shrink: int) -> np.ndarray:
    """Draws the five textures, always the same ones.

    Crystals grow from points of a jittered grid, each into the cell of what is nearest to it: a
    spine with barbs at 60 degrees to both sides, of its own direction, bent by noise. Bright
    needles lie across them, clouds of five octaves below, and fine grain on top.

    Args:
      size: S, the side of a texture.
      shrink: how many pixels of the full size a pixel steps over. ImageNet-C uses the photographs
        as they are, 1; CIFAR-10-C at a fifth of the size, 5.

    Returns:
      uint8[5, S, S, 3], a read-only NumPy array: a constant of the program it is used in.

    Example:
      >>> from semjax.corruptions.ice import ice_textures
      >>> textures = ice_textures(64, 5)
      >>> textures.shape, textures.dtype.name
      ((5, 64, 64, 3), 'uint8')
    """
    textures = np.stack([_texture(number, size, shrink) for number in range(TEXTURES)])
    textures.setflags(write=False)
    return textures


def _texture(number: int, size: int, shrink: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    extent = size * shrink
    place = (np.arange(size, dtype=np.float32) + 0.5) * shrink
    # Bends what is drawn, so that no line of a crystal is quite straight.
    y = place[:, None] + 6 * _clouds(rng, size, extent, 80.0, 3)
    x = place[None, :] + 6 * _clouds(rng, size, extent, 80.0, 3)
    parts = (
        _clouds(rng, size, extent, 260.0, 5),
        _crystals(rng, y, x, extent, _SPACING[number], _BARBS[number]),
        _needles(rng, y, x, extent),
        rng.standard_normal((size, size), dtype=np.float32),
    )
    height = sum(
        weight * (part - part.mean()) / (part.std() + 1e-6)
        for weight, part in zip(_PARTS[number], parts, strict=True)
    )
    height = (height - height.mean()) / (height.std() + 1e-6)
    mean, spread = np.array(_COLOURS[number], np.float32)
    return np.clip(mean + spread * height[..., None], 0, 255).astype(np.uint8)


def _clouds(
    rng: np.random.Generator, size: int, extent: int, period: float, octaves: int
) -> np.ndarray:
    """f32[S, S], noise of several octaves, smooth between lattice points; each half as strong."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        step = period / 2**octave
        points = int(np.ceil(extent / step)) + 2
        where = (np.arange(size, dtype=np.float32) + 0.5) * (extent / size) / step
        cell = where.astype(int)
        share = where - cell
        share = share * share * (3 - 2 * share)
        matrix = np.zeros((size, points), np.float32)
        matrix[np.arange(size), cell] = 1 - share
        matrix[np.arange(size), cell + 1] += share
        total += matrix @ rng.standard_normal((points, points), np.float32) @ matrix.T / 2**octave
    return total


def _crystals(
    rng: np.random.Generator,
    y: np.ndarray,
    x: np.ndarray,
    extent: int,
    spacing: float,
    barbs: float,
) -> np.ndarray:
    """f32[S, S], feathers in the cells of the nearest points, bright at spine and barbs."""
    cells = int(np.ceil(extent / spacing)) + 4
    centre = rng.uniform(0, 1, (2, cells, cells)).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, (cells, cells)).astype(np.float32)
    row, column = (np.floor(z / spacing).astype(int) + 2 for z in (y, x))
    nearest = np.full(y.shape, np.inf, np.float32)
    feather = np.zeros_like(nearest)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            a, b = np.clip(row + i, 0, cells - 1), np.clip(column + j, 0, cells - 1)
            down = y - (a - 2 + centre[0, a, b]) * spacing
            right = x - (b - 2 + centre[1, a, b]) * spacing
            sine, cosine = np.sin(angle[a, b]), np.cos(angle[a, b])
            along, aside = right * cosine + down * sine, abs(down * cosine - right * sine)
            # Nearest along its spine: cells are as long as feathers.
            distance = (0.6 * along) ** 2 + (1.4 * aside) ** 2
            phase = (along - 0.577 * aside) / barbs  # the tangent of 30 degrees
            ridge = (1 - 2 * abs(phase - np.round(phase))) ** 2
            spine = np.exp(-((aside / (0.2 * barbs)) ** 2))
            inside = np.maximum(spine, ridge * np.exp(-aside / (0.45 * spacing)))
            feather = np.where(distance < nearest, inside, feather)
            nearest = np.minimum(distance, nearest)
    return feather


def _needles(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, extent: int) -> np.ndarray:
    """f32[S, S], thin bright streaks with soft ends, two in 100x100 pixels of full size."""
    total = np.zeros(y.shape, np.float32)
    place = (np.arange(len(y)) + 0.5) * (extent / len(y))
    width = max(1.2, 0.4 * extent / len(y))
    for _ in range(int(2e-4 * extent**2) + 1):
        angle, length = rng.uniform(0, np.pi), rng.uniform(15, 60)
        top, left = rng.uniform(0, extent, 2)
        near = tuple(
            slice(*np.searchsorted(place, (z - 1.5 * length, z + 1.5 * length)))
            for z in (top, left)
        )
        down, right = y[near] - top, x[near] - left
        along = (right * np.cos(angle) + down * np.sin(angle)) / length
        aside = (down * np.cos(angle) - right * np.sin(angle)) / width
        total[near] += np.exp(-(along**4) - aside**2)
    return total
