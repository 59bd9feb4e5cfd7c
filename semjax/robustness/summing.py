"""Float32 sums that keep six digits however many rows there are."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


@jax.jit
def pairwise_sum(x: ArrayLike) -> jax.Array:
    """The sum over the first axis, by halves: x is folded in two until one row is left.

    Each value passes through log2(N) additions, so the relative error of a sum of positive numbers
    is at most log2(N) * 6e-8, below 1e-6 for 10,000 rows (and in practice about 1e-7). A running
    sum passes through N, and may lose three digits more.

    Args:
      x: f32[N, ...], N at least 1.

    Returns:
      f32[...].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.summing import pairwise_sum
      >>> float(pairwise_sum(jnp.array([1.0, 2.0, 3.0])))
      6.0
    """
    x = jnp.asarray(x, jnp.float32)
    while x.shape[0] > 1:
        half = -(-x.shape[0] // 2)
        missing = [(0, 2 * half - x.shape[0])] + [(0, 0)] * (x.ndim - 1)
        x = jnp.pad(x[half:], missing) + x[:half]
    return x[0]


def pairwise_mean(x: ArrayLike) -> jax.Array:
    """The mean over the first axis, `pairwise_sum` over N.

    Args:
      x: f32[N, ...], N at least 1.

    Returns:
      f32[...].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.summing import pairwise_mean
      >>> float(pairwise_mean(jnp.array([1.0, 2.0, 3.0])))
      2.0
    """
    x = jnp.asarray(x, jnp.float32)
    return pairwise_sum(x) / x.shape[0]
