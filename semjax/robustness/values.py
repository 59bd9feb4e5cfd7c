"""Checks of what a metric is given, of its values too where values are known.

A metric of a NaN is a number like any other once it has been ranked or binned. So what is not
finite is an error when it is seen, which is in eager calls; under tracing there are no values yet.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def checked_rows(
    name: str, value: ArrayLike, axes: tuple[str, ...], *, valid: ArrayLike | None = None
) -> jax.Array:
    """Finite float32 rows, or a clear error.

    Args:
      name: of the argument, for the message.
      value: floating, of any precision.
      axes: the names of its axes, the first of which counts rows.
      valid: bool[N], the rows whose values are looked at; None means all.

    Returns:
      The array in float32.

    Raises:
      TypeError: another dtype.
      ValueError: another rank, no rows, or, in an eager call, rows that are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.values import checked_rows
      >>> checked_rows("logits", jnp.array([[0.0, 1.0], [jnp.nan, 1.0]]), ("N", "K"))
      Traceback (most recent call last):
      ...
      ValueError: logits must be finite; found 1 bad row of 2
    """
    array = jnp.asarray(value)
    if array.ndim != len(axes):
        raise ValueError(f"{name} must be [{', '.join(axes)}]; found shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating; found {array.dtype}")
    if 0 in array.shape:
        raise ValueError(f"{name} must have at least one row; found shape {array.shape}")
    array = array.astype(jnp.float32)
    fine = jnp.isfinite(array)
    if valid is not None:
        fine = fine | ~jnp.asarray(valid).reshape((-1,) + (1,) * (array.ndim - 1))
    check_values(name, fine, "finite")
    return array


def checked_classes(
    name: str, value: ArrayLike, rows: int, *, number: int | None = None
) -> jax.Array:
    """Class ids, or a clear error.

    Args:
      name: of the argument, for the message.
      value: integers [N].
      rows: N.
      number: K; ids are 0 .. K - 1. None leaves them unchecked.

    Returns:
      i32[N].

    Raises:
      TypeError: another dtype.
      ValueError: another shape, or, in an eager call, ids out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.values import checked_classes
      >>> checked_classes("label", jnp.array([0, 3]), 2, number=3)
      Traceback (most recent call last):
      ...
      ValueError: label must be in [0, 3); found 1 bad row of 2
    """
    array = jnp.asarray(value)
    if array.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},); found shape {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers; found {array.dtype}")
    if number is not None:
        check_values(name, (array >= 0) & (array < number), f"in [0, {number})")
    return array.astype(jnp.int32)


def checked_correct(name: str, value: ArrayLike, *, rows: int | None = None) -> jax.Array:
    """Which rows are right, or a clear error.

    Args:
      name: of the argument, for the message.
      value: [N], bool, or numbers that are 0 or 1, as `semjax.metrics.correct` returns them.
      rows: N, or None for any number of at least one.

    Returns:
      i32[N], 0 or 1: their sums are exact.

    Raises:
      ValueError: another shape, no rows, or, in an eager call, other values.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.values import checked_correct
      >>> checked_correct("correct", jnp.array([1.0, 0.0])).tolist()
      [1, 0]
    """
    array = jnp.asarray(value)
    if array.ndim != 1 or rows not in (None, array.shape[0]):
        raise ValueError(f"{name} must have shape ({rows or 'N'},); found shape {array.shape}")
    if not array.size:
        raise ValueError(f"{name} must have at least one row; found shape {array.shape}")
    check_values(name, (array == 0) | (array == 1), "0 or 1")
    return array.astype(jnp.int32)


def check_values(name: str, fine: jax.Array, allowed: str) -> None:
    """Raises for rows that are not fine, in eager calls; says nothing under tracing.

    Args:
      name: of the argument, for the message.
      fine: bool[N, ...], which values are allowed.
      allowed: what they must be, for the message.

    Raises:
      ValueError: rows that are not fine.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.values import check_values
      >>> check_values("weight", jnp.array([True, False, False]), "in [0, 1]")
      Traceback (most recent call last):
      ...
      ValueError: weight must be in [0, 1]; found 2 bad rows of 3
    """
    if isinstance(fine, jax.core.Tracer):
        return
    bad = int((~fine.reshape(fine.shape[0], -1).all(1)).sum())
    if bad:
        rows = "row" if bad == 1 else "rows"
        raise ValueError(f"{name} must be {allowed}; found {bad} bad {rows} of {fine.shape[0]}")
