"""Streams of random words, one for each row, fast on every device.

The generator is that of JAX, Threefry-2x32, used in counter mode. JAX spends one block on each
32-bit word, and rolls its rounds into a loop on CPU; here both words of a block are used and the
rounds are one fused kernel, which is an order of magnitude faster there.
"""

import jax
import jax.numpy as jnp
import numpy as np

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def words(keys: jax.Array, count: int) -> jax.Array:
    """A stream of uniform 32-bit words for each key.

    Two words are drawn from each key; the stream is Threefry of them and a counter. It depends on
    nothing but its key and the count.

    Args:
      keys: keys [B], consumed here.
      count: N, the number of words of each stream.

    Returns:
      u32[B, N].

    Example:
      >>> import jax
      >>> from semjax.corruptions.streams import words
      >>> words(jax.random.split(jax.random.key(0), 2), 5).shape
      (2, 5)

    References:
      Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (SC11).
    """
    seeds = jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(keys)
    blocks = -(-count // 2)
    counter = jnp.arange(blocks, dtype=jnp.uint32)[None]
    first, second = _threefry(seeds[:, :1], seeds[:, 1:], jnp.zeros_like(counter), counter)
    return jnp.concatenate([first, second], 1)[:, :count]


def _threefry(
    key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds: keys u32[B, 1], counters u32[1, N] -> two words u32[B, N]."""
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(rotation)) | (x1 >> np.uint32(32 - rotation))
            x1 = x1 ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def normals(keys: jax.Array, count: int) -> jax.Array:
    """A stream of standard normal values for each key, symmetric about 0.

    Args:
      keys: keys [B], consumed here.
      count: N, the number of values of each stream.

    Returns:
      f32[B, N].

    Example:
      >>> import jax
      >>> from semjax.corruptions.streams import normals
      >>> z = normals(jax.random.split(jax.random.key(0), 2), 10000)
      >>> bool(abs(z.std() - 1) < 0.02)
      True
    """
    # Odd multiples of 2**-23 in (-1, 1), all of which float32 holds exactly.
    whole = (words(keys, count) >> np.uint32(9)).astype(jnp.int32)
    uniform = (2 * whole + 1 - 2**23).astype(jnp.float32) * 2.0**-23
    return jax.lax.erf_inv(uniform) * np.float32(np.sqrt(2))
