"""Weather, elastic and JPEG corruptions a second time: one image, float64, SciPy, OpenCV, Pillow.

Each follows the order of operations of `make_cifar_c.py` and `make_imagenet_c.py` of Hendrycks &
Dietterich, given what was drawn. Results are the values before they are truncated to 8 bits.
"""

import io
import math

import cv2
import numpy as np
import skimage.data
from PIL import Image
from scipy import ndimage

FOG = {
    "cifar": [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    "imagenet": [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
}
FROST = {
    "cifar": [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
    "imagenet": [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
}
SNOW = {
    "cifar": [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ],
    "imagenet": [
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ],
}
SPATTER = {
    "cifar": [
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ],
    "imagenet": [
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ],
}
ELASTIC = {
    "cifar": [
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ],
    "imagenet": [
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    ],
}
JPEG = {"cifar": [80, 65, 58, 50, 40], "imagenet": [25, 18, 15, 10, 7]}


def natural(count, height, width, step=4, seed=0):
    """Crops of a photograph, uint8[B, H, W, 3]."""
    image = skimage.data.astronaut()[::step, ::step]
    rng = np.random.default_rng(seed)
    tops = rng.integers(0, image.shape[0] - height + 1, count)
    lefts = rng.integers(0, image.shape[1] - width + 1, count)
    return np.stack(
        [image[i : i + height, j : j + width] for i, j in zip(tops, lefts, strict=True)]
    )


def plasma(noise, decay):
    """Diamonds and squares, point by point."""
    size = len(noise)
    field = np.zeros((size, size))
    step, amplitude = size, 1.0
    while step >= 2:
        half = step // 2
        for i in range(half, size, step):
            for j in range(half, size, step):
                around = [
                    field[(i + a) % size, (j + b) % size]
                    for a in (-half, half)
                    for b in (-half, half)
                ]
                field[i, j] = np.mean(around) + amplitude * noise[i, j]
        for i in range(0, size, half):
            for j in range((i // half + 1) % 2 * half, size, step):
                around = [
                    field[(i + a) % size, (j + b) % size]
                    for a, b in ((-half, 0), (half, 0), (0, -half), (0, half))
                ]
                field[i, j] = np.mean(around) + amplitude * noise[i, j]
        step, amplitude = half, amplitude / decay**2
    return (field - field.min()) / (field.max() - field.min())


def fog(image, cloud, density):
    x = image / 255
    most = x.max()
    return np.clip((x + density * cloud[..., None]) * most / (most + density), 0, 1) * 255


def frost(image, ice, kept, added):
    return np.clip(kept * image.astype(float) + added * ice, 0, 255)


def clipped_zoom(layer, factor):
    height, width = layer.shape
    shown = [math.ceil(n / factor) for n in (height, width)]
    top, left = ((n - s) // 2 for n, s in zip((height, width), shown, strict=True))
    layer = layer[top : top + shown[0], left : left + shown[1]]
    # By default SciPy takes the last point for one outside where its place is rounded up.
    layer = ndimage.zoom(layer, factor, order=1, mode="nearest")
    top, left = ((m - n) // 2 for m, n in zip(layer.shape, (height, width), strict=True))
    return layer[top : top + height, left : left + width]


def smear(layer, radius, sigma, degrees):
    height, width = layer.shape
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    out = np.zeros(layer.shape)
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    for i, tap in enumerate(taps / taps.sum()):
        rows = np.clip(np.arange(height) + math.ceil(i * sine - 0.5), 0, height - 1)
        columns = np.clip(np.arange(width) + math.ceil(i * cosine - 0.5), 0, width - 1)
        out += tap * layer[np.ix_(rows, columns)]
    return out


def snow(image, noise, degrees, mean, spread, zoom, threshold, radius, sigma, share):
    layer = clipped_zoom(mean + spread * noise, zoom)
    layer[layer < threshold] = 0
    layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
    layer = (smear(layer, radius, sigma, degrees) + 1e-9).astype(np.uint8)[..., None] / 255
    x = image / 255
    grey = x @ [0.299, 0.587, 0.114]
    x = share * x + (1 - share) * np.maximum(x, grey[..., None] * 1.5 + 0.5)
    return np.clip(x + layer + np.rot90(layer, 2), 0, 1) * 255


def liquid(noise, mean, spread, blur, threshold):
    """Grey levels before they are truncated."""
    layer = ndimage.gaussian_filter(mean + spread * noise, blur, mode="nearest", truncate=4)
    return np.where(layer < threshold, 0, np.clip(layer, 0, 1) * 255)


def relief(drops):
    drops = drops.astype(np.uint8)
    distance = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    # Float32 sums may end just below a whole number.
    distance = (cv2.blur(np.minimum(distance, 20), (3, 3)) + 1e-4).astype(np.uint8)
    kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    return cv2.blur(cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, kernel), (3, 3))


def spatter(image, drops, mean, spread, blur, threshold, strength, mud):
    x = image / 255
    if mud:
        mask = ndimage.gaussian_filter((drops > 0) * 1.0, strength, mode="nearest", truncate=4)
        mask = np.where(mask < 0.8, 0, mask)[..., None]
        return np.clip(x * (1 - mask) + mask * np.array([63, 42, 20]) / 255, 0, 1) * 255
    amount = drops * relief(drops).astype(float)
    amount = strength * amount / max(amount.max(), 1)
    return np.clip(x + amount[..., None] * np.array([175, 238, 238]) / 255, 0, 1) * 255


def elastic(image, corners, moves, far, blur, reach):
    """`corners` and `moves` in [-1, 1], down before right; the rest in pixels."""
    height, width = image.shape[:2]
    middle, size = np.array([height // 2, width // 2]), min(height, width) // 3
    before = np.array([middle + size, middle + np.array([-size, size]), middle - size])
    after = before + reach * corners
    matrix = cv2.getAffineTransform(np.float32(before[:, ::-1]), np.float32(after[:, ::-1]))
    warped = cv2.warpAffine(
        image.astype(np.float32), matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101
    )
    if far:
        moves = [far * ndimage.gaussian_filter(m, blur, mode="reflect", truncate=3) for m in moves]
    else:
        moves = np.zeros(moves.shape)
    rows, columns = np.mgrid[:height, :width]
    places = [rows + moves[0], columns + moves[1]]
    planes = np.moveaxis(warped.reshape(image.shape).astype(float), -1, 0)
    warped = [ndimage.map_coordinates(p, places, order=1, mode="reflect") for p in planes]
    return np.clip(np.stack(warped, -1), 0, 255)


def jpeg(image, quality):
    grey = image.shape[-1] == 1
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(file, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(file))
    return decoded[..., None] if grey else decoded
