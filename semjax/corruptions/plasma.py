"""Plasma: fractal clouds by the diamond-square algorithm, on a torus."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def plasma(noise: ArrayLike, decay: ArrayLike) -> jax.Array:
    """A fractal map of each field of noise, scaled so that it runs from 0 to 1.

    From a grid of one point, every step doubles the grid: points in the middle of a square and then
    points in the middle of an edge get the mean of their four neighbours, wrapped around the map,
    plus noise. Step k, counted from 0, has noise of amplitude decay**(-2 * k): in the official code
    a "wibble" scales noise of its own width. Sums are of multiples of 2**-24, exact in any order.

    Args:
      noise: f32[B, n, n] in [-1, 1], n a power of two; each point uses its own, the first none.
      decay: f32[], how much smoother each step is, at least 1.1.

    Returns:
      f32[B, n, n] in [0, 1]; 0 if the map is one point.

    Raises:
      ValueError: noise of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.plasma import plasma
      >>> noise = jnp.zeros((1, 4, 4)).at[0, 2, 2].set(1.0)  # the middle of the first square
      >>> plasma(noise, 2.0)[0]
      Array([[0.   , 0.375, 0.5  , 0.375],
             [0.375, 0.5  , 0.625, 0.5  ],
             [0.5  , 0.625, 1.   , 0.625],
             [0.375, 0.5  , 0.625, 0.5  ]], dtype=float32)

    References:
      Fournier et al. 1982, Computer rendering of stochastic models; Hendrycks & Dietterich 2019
      (arXiv:1903.12261), whose fog it is.
    """
    noise = jnp.asarray(noise, jnp.float32)
    size = noise.shape[-1]
    if noise.ndim != 3 or noise.shape[1] != size or size < 1 or size & (size - 1):
        raise ValueError(f"noise must be [B, n, n], n a power of two; found shape {noise.shape}")
    field = jnp.zeros((len(noise), 1, 1), jnp.int32)
    amplitude = jnp.float32(2**24)
    while field.shape[1] < size:
        points = 2 * field.shape[1]
        own = noise[:, :: size // points, :: size // points] * amplitude
        own = jnp.round(own).astype(jnp.int32)
        right, below = jnp.roll(field, -1, 2), jnp.roll(field, -1, 1)
        corners = field + right + below + jnp.roll(right, -1, 1)
        centre = (corners >> 2) + own[:, 1::2, 1::2]
        across = ((field + right + centre + jnp.roll(centre, 1, 1)) >> 2) + own[:, ::2, 1::2]
        down = ((field + below + centre + jnp.roll(centre, 1, 2)) >> 2) + own[:, 1::2, ::2]
        upper, lower = jnp.stack([field, across], 3), jnp.stack([down, centre], 3)
        field = jnp.stack([upper, lower], 2).reshape(len(noise), points, points)
        amplitude = amplitude / decay**2
    low, high = field.min((1, 2), keepdims=True), field.max((1, 2), keepdims=True)
    return (field - low).astype(jnp.float32) / jnp.maximum(high - low, 1).astype(jnp.float32)
