"""Noise of four laws, drawn apart for every value of every pixel.

Arithmetic after the draw is on integers, so that a row comes out the same wherever it is computed.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions import streams
from semjax.corruptions.severities import Level, checked, look_up, row_keys, table_of

# Standard deviation, photons of white, share of pixels, standard deviation.
_GAUSSIAN = ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
_SHOT = ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
_IMPULSE = ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))
_SPECKLE = ((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6))


def gaussian_noise(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Adds normal noise of one standard deviation: out = clip(x + c z), z ~ N(0, 1).

    x in [0, 1]; the result is truncated to 8 bits, as in the original. c by severity: .04, .06,
    .08, .09, .10 (cifar); .08, .12, .18, .26, .38 (imagenet).

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
      >>> from semjax.corruptions import gaussian_noise
      >>> x = gaussian_noise(jax.random.key(0), jnp.full((1, 64, 64, 3), 128, jnp.uint8), 5)
      >>> bool(abs(x.std() / 255 - 0.1) < 0.002)
      True

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    return _gaussian(row_keys(key, len(images), index), images, level)


@jax.jit
def _gaussian(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    # In units of 2**-12 of a grey level.
    noise = _rounded(_normals_like(keys, images), look_up(level, _scaled(_GAUSSIAN, 255 * 2**12)))
    return _bytes(((images.astype(jnp.int32) << 12) + noise) >> 12)


def shot_noise(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Counts photons: out = clip(n / c), n ~ Poisson(c x).

    x in [0, 1]; the result is truncated to 8 bits, as in the original. The draw inverts the
    distribution function of the 8-bit result at a random word of 32 bits. c by severity: 500, 250,
    100, 75, 50 (cifar); 60, 25, 12, 5, 3 (imagenet).

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
      >>> from semjax.corruptions import shot_noise
      >>> x = shot_noise(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.uint8), 5)
      >>> int(x.max())  # darkness has no photons
      0

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    return _shot(row_keys(key, len(images), index), images, level)


@jax.jit
def _shot(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    photons = tuple(int(c) for c in table_of(level, _SHOT))
    tables = jnp.stack([jnp.asarray(_shot_table(c)) for c in photons])
    table = tables[level.place].ravel()
    word = streams.words(keys, images[0].size).reshape(images.shape)
    row = images.astype(jnp.int32) << 8
    # The number of thresholds that the word has reached, by bisection of 255 of them.
    found = jnp.zeros(images.shape, jnp.int32)
    for step in (128, 64, 32, 16, 8, 4, 2, 1):
        found = jnp.where(word >= table[row + (found + (step - 1))], found + step, found)
    return _bytes(found)


@lru_cache
def _shot_table(photons: int) -> np.ndarray:
    """u32[256, 256]: 2**32 P(out <= y) for pixels of each grey level, rows of an inverse."""
    rate = np.arange(256)[:, None] / 255 * photons
    count = np.arange(photons)
    # log of the mass of Poisson; 0 log 0 is 0.
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.maximum(np.arange(1, photons), 1)))])
    log_rate = np.log(np.maximum(rate, 1e-300))
    mass = np.exp(count * log_rate - rate - factorial)
    # Counts of `photons` and more are white.
    grey = count * 255 // photons
    below = np.stack([mass[:, grey <= y].sum(1) for y in range(255)], 1)
    table = np.full((256, 256), 2**32 - 1, np.uint32)
    table[:, :255] = np.minimum(np.round(below * 2**32), 2**32 - 1).astype(np.uint32)
    return table


def impulse_noise(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Replaces a share c of the values by black or white, equally often: salt and pepper.

    Every channel is hit on its own. c by severity: .01, .02, .03, .05, .07 (cifar); .03, .06, .09,
    .17, .27 (imagenet).

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
      >>> from semjax.corruptions import impulse_noise
      >>> x = impulse_noise(jax.random.key(0), jnp.full((1, 64, 64, 3), 9, jnp.uint8), 5)
      >>> sorted(set(x.ravel().tolist())), bool(abs((x != 9).mean() - 0.07) < 0.01)
      ([0, 9, 255], True)

    References:
      Hendrycks & Dietterich 2019 (arXiv:1903.12261), and its code for the constants.
    """
    images, level = checked(images, severity, constants)
    return _impulse(row_keys(key, len(images), index), images, level)


@jax.jit
def _impulse(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    word = streams.words(keys, images[0].size).reshape(images.shape)
    # Both of 31 bits: one bit chooses the colour, the others whether there is a hit.
    threshold = jnp.round(look_up(level, _scaled(_IMPULSE, 2**31))).astype(jnp.uint32)
    hit = (word >> 1) < threshold
    return jnp.where(hit, ((word & 1) * 255).astype(jnp.uint8), images)


def speckle_noise(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Adds normal noise in proportion to the value: out = clip(x + c x z), z ~ N(0, 1).

    x in [0, 1]; the result is truncated to 8 bits, as in the original. c by severity: .06, .1, .12,
    .16, .2 (cifar); .15, .2, .35, .45, .6 (imagenet).

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
      >>> from semjax.corruptions import speckle_noise
      >>> x = speckle_noise(jax.random.key(0), jnp.full((1, 64, 64, 3), 100, jnp.uint8), 5)
      >>> bool(abs(x.std() / 100 - 0.2) < 0.01)
      True

    References:
      Hendrycks & Dietterich 2019, the code of arXiv:1903.12261, where it is held out.
    """
    images, level = checked(images, severity, constants)
    return _speckle(row_keys(key, len(images), index), images, level)


@jax.jit
def _speckle(keys: jax.Array, images: jax.Array, level: Level) -> jax.Array:
    # In units of 2**-20: 255 * (1 + 0.6 * 5.4) of them stay below 2**31.
    factor = 2**20 + _rounded(_normals_like(keys, images), look_up(level, _scaled(_SPECKLE, 2**20)))
    return _bytes((images.astype(jnp.int32) * factor) >> 20)


def _scaled(tables: tuple[tuple[float, ...], ...], factor: int) -> tuple[np.ndarray, np.ndarray]:
    cifar, imagenet = (np.asarray(table) * float(factor) for table in tables)
    return cifar, imagenet


def _normals_like(keys: jax.Array, images: jax.Array) -> jax.Array:
    return streams.normals(keys, images[0].size).reshape(images.shape)


def _rounded(z: jax.Array, scale: jax.Array) -> jax.Array:
    # One product and no sum: a compiler that fuses the two would round otherwise here and there.
    return jnp.round(z * scale).astype(jnp.int32)


def _bytes(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 255).astype(jnp.uint8)
