"""Who mixes with whom: the partner of every row of a batch."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Pairing = Literal["permutation", "derangement", "roll", "reverse"]
PAIRINGS: tuple[str, ...] = get_args(Pairing)


def pair(
    key: jax.Array,
    batch_size: int,
    *,
    pairing: Pairing = "permutation",
    groups: int = 1,
    valid: ArrayLike | None = None,
) -> jax.Array:
    """Draws the partner of every row, a bijection of the rows.

    | pairing | partner of row i among the n valid rows of its group |
    |---|---|
    | permutation | a uniform random permutation (a row may meet itself) |
    | derangement | the next row of a random cycle: never itself, uniform over the others |
    | roll | row i - 1, the first row takes the last |
    | reverse | row n - 1 - i |

    Guarantees: valid rows are paired with valid rows of their own group only; an invalid row is its
    own partner; with no other valid row in the group a row is its own partner, that is, left
    unmixed. The draw does not depend on `pairing` beyond the rule itself.

    Args:
      key: a PRNG key, consumed (`roll` and `reverse` do not look at it).
      batch_size: B.
      pairing: the rule above.
      groups: G, a divisor of B: partners stay inside G contiguous groups of B / G rows.
      valid: bool[B]; None means that all rows are.

    Returns:
      i32[B], indices into the whole batch.

    Raises:
      ValueError: unknown pairing, groups that do not divide B, or a `valid` of another shape.

    Example:
      >>> import jax
      >>> from semjax.pairing import pair
      >>> pair(jax.random.key(0), 6, pairing="reverse", groups=2).tolist()
      [2, 1, 0, 5, 4, 3]

    References:
      Sattolo 1986 for the random cycle.
    """
    check_pairing(pairing, groups)
    return _pair_groups(jax.random.bits(key, (batch_size,)), pairing, groups, valid)


def mirror(batch_size: int, *, groups: int = 1, valid: ArrayLike | None = None) -> jax.Array:
    """The partners of `pair(pairing="reverse")`, for which no key is needed.

    Args:
      batch_size: B.
      groups: G, as in `pair`.
      valid: bool[B] or None, as in `pair`.

    Returns:
      i32[B].

    Raises:
      ValueError: groups that do not divide B, or a `valid` of another shape.

    Example:
      >>> from semjax.pairing import mirror
      >>> mirror(5).tolist()
      [4, 3, 2, 1, 0]
    """
    return _pair_groups(jnp.zeros(batch_size, jnp.uint32), "reverse", groups, valid)


def check_pairing(pairing: str, groups: int) -> None:
    """Checks the options of `pair` that do not need a batch.

    Args:
      pairing: one of PAIRINGS.
      groups: an integer of at least 1.

    Raises:
      ValueError: naming the argument, what was found and what is allowed.

    Example:
      >>> from semjax.pairing import check_pairing
      >>> check_pairing("roll", groups=0)
      Traceback (most recent call last):
      ...
      ValueError: groups must be an integer of at least 1; found 0
    """
    if pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}; found {pairing!r}")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an integer of at least 1; found {groups!r}")


def _pair_groups(
    bits: jax.Array, pairing: Pairing, groups: int, valid: ArrayLike | None
) -> jax.Array:
    """i32[B]: the partners in every group, from B random words."""
    batch_size = bits.shape[0]
    if batch_size % groups:
        raise ValueError(f"groups={groups} must divide the batch of {batch_size} rows")
    valid = jnp.ones(batch_size, bool) if valid is None else jnp.asarray(valid)
    if valid.shape != (batch_size,):
        raise ValueError(f"valid must have shape ({batch_size},); found {valid.shape}")
    size = batch_size // groups
    local = jax.vmap(lambda bits, valid: _pair_group(bits, valid, pairing))(
        bits.reshape(groups, size), valid.reshape(groups, size)
    )
    first = jnp.arange(groups, dtype=jnp.int32)[:, None] * size
    return (local + first).reshape(batch_size)


def _pair_group(bits: jax.Array, valid: jax.Array, pairing: str) -> jax.Array:
    """i32[n]: the partners inside one group, from n random words."""
    rows = jnp.arange(valid.shape[0], dtype=jnp.int32)
    count = jnp.maximum(valid.sum(dtype=jnp.int32), 1)
    # Both orders list the valid rows first, so that places below `count` hold valid rows only.
    natural = jnp.argsort(~valid, stable=True).astype(jnp.int32)
    shuffled = jnp.lexsort((bits, ~valid)).astype(jnp.int32)
    place = jnp.zeros_like(rows)
    if pairing == "derangement":
        place = place.at[shuffled].set(rows, unique_indices=True)
        partner = shuffled[(place + 1) % count]
    else:
        place = place.at[natural].set(rows, unique_indices=True)
        partner = {
            "permutation": lambda: shuffled[place],
            "roll": lambda: natural[(place - 1) % count],
            "reverse": lambda: natural[count - 1 - place],
        }[pairing]()
    return jnp.where(valid, partner, rows)
