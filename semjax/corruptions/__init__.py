"""The corruptions of CIFAR-10-C and ImageNet-C on the device, in their style and strengths.

Each is `name(key, images, severity, *, index=None, constants="auto")` on uint8 images.
"""

from semjax.corruptions.blur import (
    defocus_blur,
    gaussian_blur,
    glass_blur,
    motion_blur,
    zoom_blur,
)
from semjax.corruptions.digital import brightness, contrast, pixelate, saturate
from semjax.corruptions.elastic import elastic_transform
from semjax.corruptions.jpeg import jpeg_compression
from semjax.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from semjax.corruptions.suite import (
    BENCHMARK,
    CORRUPTIONS,
    HELD_OUT,
    corrupt,
    mean_corruption_error,
)
from semjax.corruptions.weather import fog, frost, snow, spatter

__all__ = [
    "BENCHMARK",
    "CORRUPTIONS",
    "HELD_OUT",
    "brightness",
    "contrast",
    "corrupt",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "mean_corruption_error",
    "motion_blur",
    "pixelate",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "zoom_blur",
]
