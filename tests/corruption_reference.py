"""Noise, blur and digital corruptions a second time: one image, float64, loops, SciPy and Pillow.

Each follows the order of operations of `make_cifar_c.py` (CIFAR constants) and `make_imagenet_c.py`
(ImageNet constants) of Hendrycks & Dietterich. Results are the values before they are truncated to
8 bits, in [0, 255].
"""

import colorsys
import math

import numpy as np
from PIL import Image
from scipy import ndimage, stats
from sklearn.datasets import load_sample_images

CIFAR = {
    "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10],
    "shot_noise": [500, 250, 100, 75, 50],
    "impulse_noise": [0.01, 0.02, 0.03, 0.05, 0.07],
    "speckle_noise": [0.06, 0.1, 0.12, 0.16, 0.2],
    "gaussian_blur": [0.4, 0.6, 0.7, 0.8, 1],
    "defocus_blur": [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    "glass_blur": [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    "motion_blur": [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    "zoom_blur": [np.arange(1, end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)],
    "brightness": [0.05, 0.1, 0.15, 0.2, 0.3],
    "contrast": [0.75, 0.5, 0.4, 0.3, 0.15],
    "saturate": [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    "pixelate": [0.95, 0.9, 0.85, 0.75, 0.65],
}
IMAGENET = {
    "gaussian_noise": [0.08, 0.12, 0.18, 0.26, 0.38],
    "shot_noise": [60, 25, 12, 5, 3],
    "impulse_noise": [0.03, 0.06, 0.09, 0.17, 0.27],
    "speckle_noise": [0.15, 0.2, 0.35, 0.45, 0.6],
    "glass_blur": [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    "motion_blur": [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
}


def gaussian_blur(image, sigma):
    # No more than one tap: SciPy is not asked for it.
    blurred = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", truncate=4)
    return np.clip(blurred, 0, 1) * 255


def disc(radius, blur):
    reach, rim = (8, 1) if radius <= 8 else (radius, 2)
    kernel = np.array(
        [
            [float(x**2 + y**2 <= radius**2) for x in range(-reach, reach + 1)]
            for y in range(-reach, reach + 1)
        ]
    )
    taps = np.exp(-0.5 * (np.arange(-rim, rim + 1) / blur) ** 2)
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, taps / taps.sum(), axis, mode="mirror")
    return (
        kernel
        / np.array(
            [
                [x**2 + y**2 <= radius**2 for x in range(-reach, reach + 1)]
                for y in range(-reach, reach + 1)
            ]
        ).sum()
    )


def defocus_blur(image, options):
    kernel = disc(*options)
    planes = [ndimage.correlate(x / 255, kernel, mode="mirror") for x in np.moveaxis(image, -1, 0)]
    return np.clip(np.stack(planes, -1), 0, 1) * 255


def shuffled(image, down, right, reach):
    """One pass over the pixels; the exchange is of views, so that only one of the two changes."""
    image, (height, width, _) = image.copy(), image.shape
    for h in range(height - reach, reach, -1):
        for w in range(width - reach, reach, -1):
            image[h, w] = image[h + down[h, w], w + right[h, w]]
    return image


def motion_blur(image, options, degrees):
    radius, sigma = options
    weight = stats.norm.pdf(np.arange(2 * radius + 1), scale=sigma)
    weight /= weight.sum()
    height, width, _ = image.shape
    total = np.zeros(image.shape)
    for i, w in enumerate(weight):
        down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        total += w * image[rows][:, columns]
    return np.clip(total, 0, 255)


def clipped_zoom(image, factor):
    for axis in (0, 1):
        size = image.shape[axis]
        cut = int(np.ceil(size / factor))
        top = (size - cut) // 2
        image = np.take(image, np.arange(top, top + cut), axis)
        factors = [factor if a == axis else 1 for a in range(3)]
        image = ndimage.zoom(image, factors, order=1)
        trim = (image.shape[axis] - size) // 2
        image = np.take(image, np.arange(trim, trim + size), axis)
    return image


def zoom_blur(image, factors):
    image = image / 255
    total = image + sum(clipped_zoom(image, factor) for factor in factors)
    return np.clip(total / (len(factors) + 1), 0, 1) * 255


def _through_hsv(image, change):
    pixels = [
        colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in image.reshape(-1, 3) / 255
    ]
    return np.clip(np.array(pixels).reshape(image.shape), 0, 1) * 255


def brightness(image, more):
    if image.shape[-1] == 1:
        return np.clip(image / 255 + more, 0, 1) * 255
    return _through_hsv(image, lambda h, s, v: (h, s, np.clip(v + more, 0, 1)))


def saturate(image, options):
    if image.shape[-1] == 1:
        grey = saturate(np.repeat(image, 3, -1), options)
        return grey[..., :1]
    factor, summand = options
    return _through_hsv(image, lambda h, s, v: (h, np.clip(s * factor + summand, 0, 1), v))


def contrast(image, factor):
    image = image / 255
    mean = image.mean((0, 1), keepdims=True)
    return np.clip((image - mean) * factor + mean, 0, 1) * 255


def pixelate(image, share):
    height, width, channels = image.shape
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    picture = picture.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    picture = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture, float).reshape(image.shape)


def photographs(count, height, width):
    """uint8[count, height, width, 3]: pieces of two photographs, scaled down."""
    pieces = []
    for i in range(count):
        photograph = load_sample_images().images[i % 2]
        top, left = 37 * i % 180, 83 * i % 400
        piece = photograph[top : top + 240, left : left + 240]
        pieces.append(Image.fromarray(piece).resize((width, height), Image.Resampling.BOX))
    return np.stack([np.asarray(piece) for piece in pieces])
