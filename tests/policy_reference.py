"""The masks of the policies, written again in plain NumPy: loops over rows and pixels, float64.

Nothing here is taken from the library. CutMix's mask stands in `reference.py`.
"""

import math

import numpy as np

# CutMix, worked by hand: side, proportion asked for, centre, box, proportion after clipping.
BOXES = [
    (32, 0.5, 16, (5, 27), 0.527344),
    (32, 0.5, 0, (0, 11), 0.881836),
    (32, 0.5, 31, (20, 32), 0.859375),
    (32, 0.35, 16, (4, 28), 0.4375),
    (32, 0.9, 5, (0, 10), 0.902344),
    (32, 0.0, 16, (0, 32), 0.0),
    (32, 1.0, 16, (0, 0), 1.0),
    (224, 0.5, 112, (33, 191), 0.502471),
    (7, 0.5, 3, (1, 5), 0.673469),
    (2, 0.9, 1, (0, 0), 1.0),
]


def box_mask(box, height, width):
    """0 where a pixel lies in [top, bottom) x [left, right)."""
    mask = np.ones((len(box), height, width, 1))
    for i, (top, left, bottom, right) in enumerate(box):
        for a, b in np.ndindex(height, width):
            if top <= a < bottom and left <= b < right:
                mask[i, a, b] = 0
    return mask


def clipped_box(ratio, centre, height, width):
    """Top, left, bottom and right of the box of a share of each axis."""
    boxes = []
    for share, (row, column) in zip(ratio, centre, strict=True):
        half_height, half_width = int(height * share) // 2, int(width * share) // 2
        boxes.append(
            [
                max(0, row - half_height),
                max(0, column - half_width),
                min(height, row + half_height),
                min(width, column + half_width),
            ]
        )
    return np.array(boxes)


def expected_resizemix_weight(size, low, high):
    """The mean weight on a square image: an integral over the shares, a sum over centres."""
    total = 0.0
    for side in range(size + 1):
        # The share of tau in [low, high] for which the side is floor(size * tau).
        length = min(high, (side + 1) / size) - max(low, side / size)
        if length > 0:
            half = side // 2
            kept = np.mean([min(size, c + half) - max(0, c - half) for c in range(size)])
            total += length / (high - low) * (1 - (kept / size) ** 2)
    return total


def expected_minmax_weight(height, width, low, high):
    """The mean weight of boxes whose sides are independent uniform integers."""
    sides = [range(int(size * low), int(size * high)) for size in (height, width)]
    return 1 - np.mean(sides[0]) * np.mean(sides[1]) / (height * width)


def fmix_field(noise, height, width, decay_power, reference_compat=False):
    """The field of FMix: scaled noise, then NumPy's inverse real transform of both axes."""
    noise, fields = np.asarray(noise, np.float64), []
    for each in noise:
        scaled = np.empty_like(each)
        for a, b in np.ndindex(each.shape[:2]):
            vertical = min(a, height - a) / height
            horizontal = min(b, width - b) / width
            frequency = math.sqrt(vertical**2 + horizontal**2)
            scaled[a, b] = each[a, b] / max(frequency, 1 / max(height, width)) ** decay_power
        if reference_compat:
            spectrum = scaled[0] + 1j * scaled[1 if height > 1 else 0]
        else:
            spectrum = scaled[:, :, 0] + 1j * scaled[:, :, 1]
        fields.append(np.fft.irfftn(spectrum, (height, width), axes=(0, 1)))
    return np.stack(fields)


def fmix_mask(weight, field, up):
    """1 at the highest pixels; of equal ones the first come first."""
    mask = np.zeros((*np.shape(field), 1))
    for i, values in enumerate(np.asarray(field, np.float64)):
        pixels = sorted(np.ndindex(values.shape), key=lambda place: (-values[place], place))
        asked = float(weight[i]) * values.size
        for place in pixels[: math.ceil(asked) if up[i] else math.floor(asked)]:
            mask[(i, *place)] = 1
    return mask


def gridmix_mask(weight, holes, area, aspect, place, height, width):
    """0 in the holes: patch by patch, hole by hole."""
    mask = np.ones((len(weight), height, width, 1))
    for i in range(len(weight)):
        asked = int(math.sqrt(int(height * width * area[i]) / aspect[i]))
        columns = min(max(asked, 1), width)
        rows = min(max(int(asked * aspect[i]), 1), height)
        top = int((height - rows) * place[i][0])
        left = int((width - columns) * place[i][1])
        number = min(int(holes[i]), max(columns // 2, 1))
        patch = math.ceil(columns / number)
        hole = min(max(int(patch * math.sqrt(1 - weight[i])), 1), patch - 1)
        if weight[i] == 1:
            continue
        for first_row in range(top, top + rows, patch):
            for first_column in range(left, left + columns, patch):
                last_row = min(first_row + hole, top + rows)
                last_column = min(first_column + hole, left + columns)
                mask[i, first_row:last_row, first_column:last_column] = 0
    return mask


def smoothmix_mask(sigma, centre, height, width):
    """A Gaussian of the distance from the centre, pixel by pixel."""
    mask = np.empty((len(sigma), height, width, 1))
    for i, a, b in np.ndindex(mask.shape[:3]):
        vertical = (a + 0.5) / height - centre[i][0]
        horizontal = (b + 0.5) / width - centre[i][1]
        mask[i, a, b] = math.exp(-(vertical**2 + horizontal**2) / (2 * sigma[i] ** 2))
    return mask


def expected_smoothmix_weight(height, width, low, high, steps=400):
    """The mean weight: integrals over the centre in closed form, over sigma by midpoints."""

    def along(size, sigma):
        scale = sigma * math.sqrt(2)
        middles = [(a + 0.5) / size for a in range(size)]
        between = [math.erf((1 - y) / scale) + math.erf(y / scale) for y in middles]
        return sigma * math.sqrt(math.pi / 2) * np.mean(between)

    sigmas = low + (high - low) * (np.arange(steps) + 0.5) / steps
    return np.mean([along(height, sigma) * along(width, sigma) for sigma in sigmas])
