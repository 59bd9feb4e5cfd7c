"""Blurs: by a lens out of focus, by rough glass, by motion, by zooming, and the normal blur.

Sums are of whole numbers (`semjax.corruptions.filtering`), so a row comes out the same wherever it
is computed.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions import streams
from semjax.corruptions.filtering import (
    disc_kernel,
    filter_separable,
    filter_symmetric,
    gaussian_matrix,
    smear,
    whole_weights,
)
from semjax.corruptions.moves import mean_zoom, shuffle_sources, zoom_places
from semjax.corruptions.severities import Level, checked, look_up, row_keys, table_of

_GAUSSIAN = ((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6))
# Radius and softness of the disc.
_DEFOCUS = (
    ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
# Standard deviation of the blur; reach of the shuffle and its passes.
_GLASS_SIGMA = ((0.05, 0.25, 0.4, 0.25, 0.4), (0.7, 0.9, 1, 1.1, 1.5))
_GLASS_WALK = (
    ((1, 1), (1, 1), (1, 1), (1, 2), (1, 2)),
    ((1, 2), (2, 1), (2, 3), (3, 2), (4, 2)),
)
# Radius and standard deviation.
_MOTION = (
    ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
# The end of the range of factors, which starts at 1, and its step.
_ZOOM = (
    ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)


def gaussian_blur(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Blurs by a normal kernel, edges repeated, cut off at four standard deviations.

    The result is truncated to 8 bits, as in the original. Standard deviation in pixels by severity:
    .4, .6, .7, .8, 1 (cifar); 1, 2, 3, 4, 6 (imagenet).

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import gaussian_blur
      >>> image = jnp.zeros((1, 5, 5, 1), jnp.uint8).at[0, 2, 2].set(255)
      >>> gaussian_blur(jax.random.key(0), image, 1)[0, 2, :, 0]
      Array([  0,   9, 215,   9,   0], dtype=uint8)

    References:
      Hendrycks & Dietterich 2019, the code of arXiv:1903.12261, where it is held out.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _gaussian(images, level)


@jax.jit
def _gaussian(images: jax.Array, level: Level) -> jax.Array:
    return _normal_blur(images, level, _GAUSSIAN)


def _normal_blur(
    images: jax.Array, level: Level, sigmas: tuple[Sequence[float], Sequence[float]]
) -> jax.Array:
    def matrices(size: int) -> jax.Array:
        table = np.stack([gaussian_matrix(size, sigma) for sigma in table_of(level, sigmas)])
        return look_up(level, (table, table))

    return filter_separable(images, matrices(images.shape[1]), matrices(images.shape[2]))


def defocus_blur(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Blurs by a disc with a soft rim, edges reflected, as a lens out of focus does.

    The result is truncated to 8 bits, as in the original. Radius and softness in pixels by
    severity: (.3, .4), (.4, .5), (.5, .6), (1, .2), (1.5, .1) (cifar); (3, .1), (4, .5), (6, .5),
    (8, .5), (10, .5) (imagenet).

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import defocus_blur
      >>> image = jnp.zeros((1, 5, 5, 1), jnp.uint8).at[0, 2, 2].set(255)
      >>> defocus_blur(jax.random.key(0), image, 5)[0, 2, :, 0]
      Array([ 0, 28, 28, 28,  0], dtype=uint8)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for kernel and constants.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _defocus(images, level)


@jax.jit
def _defocus(images: jax.Array, level: Level) -> jax.Array:
    kernels = [_whole_quarter(disc_kernel(*options)) for options in table_of(level, _DEFOCUS)]
    reach = max(np.flatnonzero(kernel.any(0)).max() for kernel in kernels)
    padded = [np.pad(k, (0, max(0, reach + 1 - len(k))))[: reach + 1, : reach + 1] for k in kernels]
    return filter_symmetric(images, look_up(level, (padded, padded)))


def _whole_quarter(quarter: np.ndarray) -> np.ndarray:
    """The quarter in units of 2**-16, of the same sum: what one weight loses the next one gets."""
    copies = np.outer(*[np.r_[1, np.full(len(quarter) - 1, 2)]] * 2)
    whole, left = np.zeros(quarter.shape, np.int64), 0.0
    # From the far corner to the centre, which stands alone and so can take up any rest.
    for place in reversed(list(np.ndindex(*quarter.shape))):
        if quarter[place] > 0:
            exact = quarter[place] * 2**16 + left / copies[place]
            whole[place] = round(float(exact))
            left = float((exact - whole[place]) * copies[place])
    return whole


def glass_blur(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Blurs, moves every inner pixel to near places at random, pass after pass, and blurs again.

    The blurs are those of `gaussian_blur`, both truncated to 8 bits; the passes are those of
    `semjax.corruptions.moves.shuffle_sources`. Standard deviation, reach and passes by severity:
    (.05, 1, 1), (.25, 1, 1), (.4, 1, 1), (.25, 1, 2), (.4, 1, 2) (cifar); (.7, 1, 2), (.9, 2, 1),
    (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2) (imagenet).

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: i32[B], the numbers of the rows, see `semjax.corruptions.severities.row_keys`.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import glass_blur
      >>> image = jnp.arange(64, dtype=jnp.uint8).reshape(1, 8, 8, 1)
      >>> x = glass_blur(jax.random.key(0), image, 1)
      >>> bool((x[0, :2] == image[0, :2]).all()), bool((x == image).all())  # a margin stays
      (True, False)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for order and constants.
    """
    images, level = checked(images, severity, constants)
    return _glass(row_keys(key, len(images), index), images, level)


@jax.jit
def _glass(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    batch, height, width, _ = images.shape
    reach, passes = look_up(level, _GLASS_WALK, dtype=jnp.int32)
    most = int(table_of(level, _GLASS_WALK)[:, 1].max())
    words = streams.words(keys, most * height * width).reshape(batch, most, height, width)
    # Two offsets from the halves of a word, uniform on -reach, ..., reach - 1.
    span = (2 * reach).astype(jnp.uint32)
    down, right = (
        ((half * span) >> 16).astype(jnp.int32) - reach
        for half in (words >> 16, words & np.uint32(0xFFFF))
    )
    source = jnp.broadcast_to(jnp.arange(height * width, dtype=jnp.int32), (batch, height * width))
    for i in range(most):
        moved = shuffle_sources(down[:, i], right[:, i], reach)
        moved = jnp.take_along_axis(source, moved, 1, mode="promise_in_bounds")
        source = jnp.where(i < passes, moved, source)
    blurred = _normal_blur(images, level, _GLASS_SIGMA).reshape(batch, height * width, -1)
    shuffled = jnp.take_along_axis(blurred, source[:, :, None], 1, mode="promise_in_bounds")
    return _normal_blur(shuffled.reshape(images.shape), level, _GLASS_SIGMA)


def motion_blur(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Averages along a line that starts at each pixel, as a camera that moves does.

    The line has one direction for each image, uniform between 45 degrees up and 45 down, edges are
    repeated, and weights fall off like one half of a normal density over 2 radius + 1 pixels, see
    `semjax.corruptions.filtering.smear`. Radius and standard deviation by severity: (6, 1),
    (6, 1.5), (6, 2), (8, 2), (9, 2.5) (cifar); (10, 3), (15, 5), (15, 8), (15, 12), (20, 15)
    (imagenet). The result is truncated to 8 bits; ImageMagick, which made the official sets, rounds
    it.

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: i32[B], the numbers of the rows, see `semjax.corruptions.severities.row_keys`.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import motion_blur
      >>> image = jnp.zeros((1, 7, 7, 1), jnp.uint8).at[0, :, 4:].set(200)
      >>> x = motion_blur(jax.random.key(0), image, 3)[0, 3, :, 0]
      >>> bool((jnp.diff(x.astype(int)) >= 0).all()), int(x[6])
      (True, 200)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants; `motion_blur`
      of the package imagecorruptions, for the line.
    """
    images, level = checked(images, severity, constants)
    return _motion(row_keys(key, len(images), index), images, level)


@jax.jit
def _motion(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    degrees = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, -45, 45))(keys)
    options = table_of(level, _MOTION)
    weights = np.zeros((5, 2 * int(options[:, 0].max()) + 1), np.int32)
    for row, (radius, sigma) in zip(weights, options, strict=True):
        tap = np.exp(-(np.arange(2 * int(radius) + 1) ** 2) / (2 * sigma**2))
        row[: len(tap)] = whole_weights(tap / tap.sum(), 2**22)
    return smear(images, degrees, look_up(level, (weights, weights), dtype=jnp.int32))


def zoom_blur(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Averages an image with zooms into its middle, by factors from 1 on.

    The zooms are bilinear, see `semjax.corruptions.moves.mean_zoom`. The last factor by severity:
    1.05, 1.10, 1.15, 1.20, 1.25 in steps of .01 (cifar); 1.10 and 1.15 in steps of .01, 1.20 and
    1.24 in steps of .02, 1.30 in steps of .03 (imagenet). The result is truncated to 8 bits, as in
    the original.

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions import zoom_blur
      >>> image = jnp.arange(0, 240, 24, dtype=jnp.uint8)[None, None, :, None]
      >>> zoom_blur(jax.random.key(0), image, 5).ravel()[jnp.array([0, 9])].tolist()
      [0, 193]

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _zoom(images, level)


@jax.jit
def _zoom(images: jax.Array, level: Level) -> jax.Array:
    factors = [np.arange(1, end, step) for end, step in table_of(level, _ZOOM)]
    counts = [len(f) for f in factors]
    factors = [np.pad(f, (0, max(counts) - len(f)), constant_values=1) for f in factors]

    def places(size: int) -> tuple[jax.Array, jax.Array]:
        places, shares = zip(*(zoom_places(size, f) for f in factors), strict=True)
        return (
            look_up(level, (places, places), dtype=jnp.int32),
            look_up(level, (shares, shares), dtype=jnp.int32),
        )

    count = look_up(level, (counts, counts), dtype=jnp.int32)
    return mean_zoom(images, places(images.shape[1]), places(images.shape[2]), count)
