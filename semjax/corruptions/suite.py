"""The nineteen corruptions by name, and the error over them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.corruptions import blur, digital, elastic, jpeg, noise, weather

_BENCHMARK: dict[str, Callable[..., jax.Array]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": elastic.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": jpeg.jpeg_compression,
}
_HELD_OUT: dict[str, Callable[..., jax.Array]] = {
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
    "spatter": weather.spatter,
    "speckle_noise": noise.speckle_noise,
}
_FUNCTIONS = _BENCHMARK | _HELD_OUT
#: The fifteen corruptions of the benchmark, in the order of Hendrycks & Dietterich.
BENCHMARK: tuple[str, ...] = tuple(_BENCHMARK)
#: The four that are held out, to choose hyperparameters with.
HELD_OUT: tuple[str, ...] = tuple(_HELD_OUT)
#: All of them.
CORRUPTIONS: tuple[str, ...] = BENCHMARK + HELD_OUT


def corrupt(
    key: jax.Array,
    images: ArrayLike,
    *,
    name: str,
    severity: ArrayLike,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Corrupts images by the corruption of a name.

    Args:
      key: consumed here, if the corruption draws anything.
      images: uint8[B, H, W, C], C 1 or 3.
      name: one of CORRUPTIONS.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked: one
        compiled program serves all five.
      index: i32[B], the numbers of the rows; None for 0, ..., B - 1. Row i depends on the key and
        on index[i], not on the other rows or its place among them.
      constants: "cifar", "imagenet", or "auto": those of CIFAR-10-C if neither H nor W is above 64.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: a name or constants that do not exist; images, severity or index of another shape
        or out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import corrupt
      >>> x = corrupt(jax.random.key(0), jnp.full((1, 8, 8, 3), 90, jnp.uint8), name="brightness",
      ...             severity=4)
      >>> int(x[0, 0, 0, 0])  # 90 + 0.2 * 255
      141

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261).
    """
    if name not in CORRUPTIONS:
        near = max(CORRUPTIONS, key=lambda known: _likeness(str(name), known))
        close = _likeness(str(name), near) > 0.5
        hint = f"did you mean {near!r}?" if close else f"there are {', '.join(CORRUPTIONS)}"
        raise ValueError(f"name must be that of a corruption; found {name!r}; {hint}")
    return _FUNCTIONS[name](key, images, severity, index=index, constants=constants)


def _likeness(one: str, other: str) -> float:
    """The share of their pairs of neighbouring letters that two words have in common."""
    ours, theirs = ({word[i : i + 2] for i in range(len(word) - 1)} for word in (one, other))
    return len(ours & theirs) / max(len(ours | theirs), 1)


def mean_corruption_error(accuracy: ArrayLike) -> jax.Array:
    """The mean error over corruptions and severities, unweighted: 1 - mean(accuracy).

    As reported on CIFAR-10-C and CIFAR-100-C. (On ImageNet-C errors are divided by those of
    AlexNet first; these are not.)

    Args:
      accuracy: [C, S] in [0, 1], for each corruption and severity.

    Returns:
      f32[].

    Raises:
      ValueError: accuracies of another shape, or none.

    Example:
      >>> from semjax.corruptions import mean_corruption_error
      >>> float(mean_corruption_error([[1.0, 0.5], [0.75, 0.75]]))
      0.25

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261); Hendrycks et al. 2020 (arXiv:1912.02781),
      which reports it unweighted on CIFAR-10-C.
    """
    accuracy = jnp.asarray(accuracy, jnp.float32)
    if accuracy.ndim != 2 or accuracy.size == 0:
        raise ValueError(
            f"accuracy must be [corruptions, severities]; found shape {accuracy.shape}"
        )
    return 1 - accuracy.mean()
