"""Means over the valid rows of a batch that may be padded, and sharded over an axis."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Rows:
    """The rows of a batch, and the means over those that are valid.

    Inside pmap or shard_map the batch is one shard of the global batch. A mean is then the shard's
    share of the global mean, scaled by the number of shards: its `pmean` is the mean over the valid
    rows of the global batch, however the padding is spread. No gradient flows through a collective,
    so the caller decides where the reduction stands, inside or outside the gradient.

    Args:
      size: B, the rows at hand.
      valid: bool[B]; None means that all rows are.
      axis_name: the axis the batch is sharded over, or None.

    Raises:
      ValueError: a `valid` of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.rows import Rows
      >>> float(Rows(3, jnp.array([True, True, False])).mean(jnp.array([1.0, 3.0, jnp.nan])))
      2.0
    """

    def __init__(
        self, size: int, valid: ArrayLike | None = None, axis_name: str | None = None
    ) -> None:
        """Counts the valid rows; see the class."""
        self.size = size
        self.valid = jnp.ones(size, bool) if valid is None else jnp.asarray(valid)
        self.axis_name = axis_name
        if self.valid.shape != (size,) or self.valid.dtype != bool:
            raise ValueError(
                f"valid must be bool of shape ({size},); found {self.valid.dtype}{self.valid.shape}"
            )
        self._padded = valid is not None
        #: f32[], the valid rows of the global batch, at least 1.
        self.count = jnp.maximum(self._psum(self.valid.sum(dtype=jnp.float32)), 1)

    def mean(self, values: ArrayLike) -> jax.Array:
        """The mean of f32[B] over valid rows, f32[]; on a shard, the share whose `pmean` it is.

        Args:
          values: f32[B].

        Returns:
          f32[].

        Raises:
          ValueError: values of another shape, as from a user's loss that reduced them already.
        """
        values = jnp.asarray(values, jnp.float32)
        if values.shape != (self.size,):
            raise ValueError(f"expected one value a row, ({self.size},); found {values.shape}")
        shards = 1 if self.axis_name is None else jax.lax.axis_size(self.axis_name)
        return shards * self._keep(values).sum() / self.count

    def global_mean(self, x: jax.Array) -> jax.Array:
        """The mean of [B, ...] over the valid rows of the global batch, the same on every shard.

        Args:
          x: floating [B, ...], through which no gradient is wanted.

        Returns:
          [...].
        """
        return self._psum(self._keep(x).sum(0)) / self.count

    def zero_padding(self, x: jax.Array) -> jax.Array:
        """Returns x with its invalid rows set to 0, x itself when no `valid` was given.

        Args:
          x: [B, ...].

        Returns:
          An array of the shape and dtype of x.
        """
        return self._keep(x) if self._padded else x

    def _keep(self, x: jax.Array) -> jax.Array:
        # A product with the mask would let a NaN of the padding through.
        return jnp.where(self.valid.reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.zeros_like(x))

    def _psum(self, x: jax.Array) -> jax.Array:
        return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)
