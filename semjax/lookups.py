"""Ops on 8-bit images that are lookups: a table of 256 entries for each channel of each image.

Tables are i32[B or 1, C or 1, 256]: what every value of a pixel becomes.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

OPS: tuple[str, ...] = ("autocontrast", "equalize", "posterize", "solarize")


def look_up(images: jax.Array, table: jax.Array) -> jax.Array:
    """Replaces each pixel by its entry in its channel's table.

    Args:
      images: uint8[B, H, W, C].
      table: the tables.

    Returns:
      uint8[B, H, W, C].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import look_up
      >>> image = jnp.array([3, 5], jnp.uint8).reshape(1, 1, 2, 1)
      >>> look_up(image, 255 - jnp.arange(256)[None, None]).ravel()
      Array([252, 250], dtype=uint8)
    """
    batch, height, width, channels = images.shape
    table = jnp.broadcast_to(table.astype(jnp.uint8), (batch, channels, 256))
    planes = images.reshape(batch, height * width, channels).swapaxes(1, 2)
    found = jnp.take_along_axis(table, planes.astype(jnp.int32), axis=2, mode="promise_in_bounds")
    return found.swapaxes(1, 2).reshape(images.shape)


def chosen_tables(
    images: jax.Array,
    chosen: Mapping[str, jax.Array],
    *,
    bits: jax.Array,
    threshold: jax.Array,
) -> jax.Array:
    """The table of one op for each image, or that which changes nothing.

    Args:
      images: uint8[B, H, W, C].
      chosen: for each of OPS bool[B], the images it is for.
      bits: i32[B], see `posterize_tables`.
      threshold: i32[B], see `solarize_tables`.

    Returns:
      i32[B, C, 256].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import OPS, chosen_tables
      >>> chosen = {name: jnp.array([name == "solarize"]) for name in OPS}
      >>> image, one = jnp.zeros((1, 1, 1, 1), jnp.uint8), jnp.array([1])
      >>> chosen_tables(image, chosen, bits=one, threshold=one)[0, 0, :3]
      Array([  0, 254, 253], dtype=int32)
    """
    counts = histograms(images)
    tables = {
        "autocontrast": autocontrast_tables(counts),
        "equalize": equalize_tables(counts),
        "posterize": posterize_tables(bits),
        "solarize": solarize_tables(threshold),
    }
    table = jnp.broadcast_to(_identity(), counts.shape)
    for name, candidate in tables.items():
        table = jnp.where(chosen[name][:, None, None], candidate, table)
    return table


def autocontrast_tables(counts: jax.Array) -> jax.Array:
    """The tables that stretch each channel to the whole range.

    Args:
      counts: as `histograms` gives them.

    Returns:
      i32[B, C, 256].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import autocontrast_tables
      >>> counts = jnp.zeros((1, 1, 256), jnp.int32).at[0, 0, jnp.array([50, 60])].set(1)
      >>> autocontrast_tables(counts)[0, 0, jnp.array([50, 51, 60])]
      Array([  0,  25, 255], dtype=int32)
    """
    value = _identity()
    low = jnp.where(counts > 0, value, 255).min(2, keepdims=True)
    span = jnp.where(counts > 0, value, 0).max(2, keepdims=True) - low
    stretched = _quotient((value - low) * 255, span)
    return jnp.where(span > 0, jnp.clip(stretched, 0, 255), value)


def equalize_tables(counts: jax.Array) -> jax.Array:
    """The tables that spread the histogram of each channel evenly.

    Args:
      counts: as `histograms` gives them.

    Returns:
      i32[B, C, 256].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import equalize_tables
      >>> counts = jnp.zeros((1, 1, 256), jnp.int32).at[0, 0, :128].set(510)
      >>> equalize_tables(counts)[0, 0, jnp.array([0, 64, 127])].tolist()
      [0, 129, 255]
    """
    below = jnp.cumsum(counts, axis=2, dtype=jnp.int32) - counts
    # The pixels below the largest value are the last count that changed.
    step = jnp.where(counts > 0, below, 0).max(2, keepdims=True) // 255
    spread = _quotient(step // 2 + below, step)
    return jnp.where(step > 0, jnp.minimum(spread, 255), _identity())


def posterize_tables(bits: jax.Array) -> jax.Array:
    """The tables that keep the highest bits.

    Args:
      bits: i32[B], how many, clipped to [1, 8].

    Returns:
      i32[B, 1, 256].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import posterize_tables
      >>> int(posterize_tables(jnp.array([4]))[0, 0, 255])
      240
    """
    dropped = (8 - jnp.clip(bits, 1, 8))[:, None, None]
    return (_identity() >> dropped) << dropped


def solarize_tables(threshold: jax.Array) -> jax.Array:
    """The tables that invert what is not below a threshold.

    Args:
      threshold: i32[B]; 256 inverts nothing.

    Returns:
      i32[B, 1, 256].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import solarize_tables
      >>> solarize_tables(jnp.array([10]))[0, 0, 9:11]
      Array([  9, 245], dtype=int32)
    """
    value = _identity()
    return jnp.where(value < threshold[:, None, None], value, 255 - value)


def histograms(images: jax.Array) -> jax.Array:
    """Counts how many pixels of each channel have each value.

    Args:
      images: uint8[B, H, W, C].

    Returns:
      i32[B, C, 256].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.lookups import histograms
      >>> histograms(jnp.array([1, 1, 2], jnp.uint8).reshape(1, 1, 3, 1))[0, 0, :4]
      Array([0, 2, 1, 0], dtype=int32)
    """
    batch, height, width, channels = images.shape
    planes = images.reshape(batch, height * width, channels).swapaxes(1, 2).astype(jnp.int32)
    # Adding into bins beats its alternatives on two CPU cores too. For 384 images of 32 x 32 x 3,
    # under jit: 1.6 ms, against 20 ms for sorting and 90 ms for products of one-hot nibbles.
    # Mapped over rows, not flattened, so that a sharded batch needs no communication.
    count = jax.vmap(jax.vmap(lambda plane: jnp.zeros(256, jnp.int32).at[plane].add(1)))
    return count(planes)


def _identity() -> jax.Array:
    return jnp.arange(256, dtype=jnp.int32)[None, None]


def _quotient(a: jax.Array, b: jax.Array) -> jax.Array:
    """The quotient, exact where a is not negative; where b is 0 it is a, not an error."""
    return jax.lax.div(a, jnp.broadcast_to(jnp.maximum(b, 1), a.shape))
