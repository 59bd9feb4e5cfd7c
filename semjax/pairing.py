"""Who mixes with whom: the partner of every row of a batch."""

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

Bijection = Literal["permutation", "derangement", "roll", "reverse"]
Selection = Literal["same_class", "other_class", "same_class_other_group", "other_class_same_group"]
Kernel = Callable[[Mapping[str, jax.Array]], jax.Array]
Pairing = Bijection | Selection | Kernel
BIJECTIONS: tuple[str, ...] = get_args(Bijection)
SELECTIONS: tuple[str, ...] = get_args(Selection)
PAIRINGS: tuple[str, ...] = BIJECTIONS + SELECTIONS


def pair(
    key: jax.Array,
    batch_size: int,
    *,
    pairing: Pairing = "permutation",
    groups: int = 1,
    valid: ArrayLike | None = None,
    label: ArrayLike | None = None,
    group: ArrayLike | None = None,
) -> jax.Array:
    """Draws the partner of every row.

    | pairing | partner of row i among the n valid rows of its group |
    |---|---|
    | permutation | a uniform random permutation (a row may meet itself) |
    | derangement | the next row of a random cycle: never itself, uniform over the others |
    | roll | row i - 1, the first row takes the last |
    | reverse | row n - 1 - i |
    | same_class | uniform over the other rows of its class |
    | other_class | uniform over the rows of other classes |
    | same_class_other_group | uniform over its class outside its own `group` (LISA, intra-label) |
    | other_class_same_group | uniform over other classes inside it (LISA, intra-domain) |
    | a kernel | j with probability proportional to exp(kernel(rows)[i, j]), j != i |

    The first four are bijections of the rows; in the others a row may be the partner of many.

    Guarantees: valid rows are paired with valid rows of their own group only; an invalid row is its
    own partner; where no row is eligible a row is its own partner, that is, left unmixed. The draw
    of a bijection does not depend on `pairing` beyond the rule itself.

    Args:
      key: a PRNG key, consumed (`roll` and `reverse` do not look at it).
      batch_size: B.
      pairing: the rule above; a kernel maps the rows of one group, a dict of `label` and, where
        given, `group`, to logits f32[n, n], -inf for what may not be (see `near_label`).
      groups: G, a divisor of B: partners stay inside G contiguous groups of B / G rows. The rules
        that look at labels compare all pairs of a group: B * B / G numbers.
      valid: bool[B]; None means that all rows are.
      label: i32[B] class ids, or f32[B, K] of which the argmax is the class; kernels are given it
        as it is. Needed by the rules that look at classes, and by kernels.
      group: i32[B], the subpopulation (domain, spurious attribute) of every row, for the rules that
        look at it.

    Returns:
      i32[B], indices into the whole batch.

    Raises:
      ValueError: unknown pairing, groups that do not divide B, an argument of another shape, or a
        rule whose label or group is missing.

    Example:
      >>> import jax
      >>> from semjax.pairing import pair
      >>> pair(jax.random.key(0), 6, pairing="reverse", groups=2).tolist()
      [2, 1, 0, 5, 4, 3]

    References:
      Sattolo 1986 for the random cycle; Yao et al. 2022, LISA (arXiv:2201.00299), section 3, for
      the selections; Yao et al. 2022, C-Mixup (arXiv:2210.05775), eq. 6, for kernels.
    """
    check_pairing(pairing, groups)
    if batch_size % groups:
        raise ValueError(f"groups={groups} must divide the batch of {batch_size} rows")
    valid = _checked_rows(
        "valid", jnp.ones(batch_size, bool) if valid is None else valid, batch_size
    )
    if isinstance(pairing, str) and pairing in BIJECTIONS:
        return _pair_groups(jax.random.bits(key, (batch_size,)), pairing, groups, valid)
    rows = _attributes(pairing, batch_size, label, group)
    return _select_groups(key, rows, pairing, groups, valid)


def near_label(*, bandwidth: float = 1.0) -> Kernel:
    """The kernel of C-Mixup: partners are likely where labels are near.

    P(j | i) is proportional to exp(-|y_i - y_j|^2 / (2 bandwidth^2)), j != i.

    Args:
      bandwidth: in units of the labels, above 0.

    Returns:
      A kernel for `pair(pairing=...)`. Its labels are numbers, f32[B], f32[B, D] or integers.

    Raises:
      ValueError: a bandwidth that is not above 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.pairing import near_label, pair
      >>> label = jnp.array([0.0, 0.1, 9.0, 9.1])
      >>> pair(jax.random.key(0), 4, pairing=near_label(bandwidth=0.5), label=label).tolist()
      [1, 0, 3, 2]

    References:
      Yao et al. 2022, C-Mixup (arXiv:2210.05775), eq. 6; there a row may draw itself.
    """
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"bandwidth must be finite and above 0; found {bandwidth!r}")

    def kernel(rows: Mapping[str, jax.Array]) -> jax.Array:
        label = rows["label"].astype(jnp.float32)
        label = label.reshape(len(label), -1)
        squared = jnp.square(label[:, None] - label[None]).sum(-1)
        return -squared / (2 * bandwidth**2)

    return kernel


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
    if batch_size % groups:
        raise ValueError(f"groups={groups} must divide the batch of {batch_size} rows")
    valid = _checked_rows(
        "valid", jnp.ones(batch_size, bool) if valid is None else valid, batch_size
    )
    return _pair_groups(jnp.zeros(batch_size, jnp.uint32), "reverse", groups, valid)


def check_pairing(pairing: Pairing, groups: int) -> None:
    """Checks the options of `pair` that do not need a batch.

    Args:
      pairing: one of PAIRINGS, or a kernel.
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
    if not callable(pairing) and pairing not in PAIRINGS:
        raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}; found {pairing!r}")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an integer of at least 1; found {groups!r}")


def _checked_rows(name: str, value: ArrayLike, batch_size: int) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape[:1] != (batch_size,) or (name != "label" and value.ndim != 1):
        raise ValueError(f"{name} must have shape ({batch_size},); found {value.shape}")
    return value


def _attributes(
    pairing: Pairing, batch_size: int, label: ArrayLike | None, group: ArrayLike | None
) -> dict[str, jax.Array]:
    """What a rule may look at, checked to be there."""
    given = {"label": label, "group": group}
    needed = ["label"] if callable(pairing) or "group" not in pairing else ["label", "group"]
    for name in needed:
        if given[name] is None:
            raise ValueError(f"pairing={pairing!r} looks at {name!r}, which is not in the batch")
    return {
        name: _checked_rows(name, value, batch_size)
        for name, value in given.items()
        if value is not None
    }


def _select_groups(
    key: jax.Array, rows: Mapping[str, jax.Array], pairing: Pairing, groups: int, valid: jax.Array
) -> jax.Array:
    """i32[B]: a partner drawn for each row from its own law, independently of the others."""
    size = len(valid) // groups
    kernel = pairing if callable(pairing) else _selection(pairing)
    split = {name: x.reshape(groups, size, *x.shape[1:]) for name, x in rows.items()}
    logits = jax.vmap(kernel)(split)
    if logits.shape != (groups, size, size):
        raise ValueError(
            f"a pairing kernel must return [n, n] for n rows, ({size}, {size}); "
            f"found {logits.shape[1:]}"
        )
    real = valid.reshape(groups, size)
    eligible = real[:, :, None] & real[:, None, :] & ~jnp.eye(size, dtype=bool)[None]
    logits = jnp.where(eligible, logits, -jnp.inf)
    # The largest of logits with Gumbel noise is a draw from their softmax.
    noisy = logits + jax.random.gumbel(key, logits.shape, jnp.float32)
    local = noisy.argmax(-1).astype(jnp.int32)
    own = jnp.arange(size, dtype=jnp.int32)[None]
    local = jnp.where(jnp.isfinite(logits).any(-1), local, own)
    first = jnp.arange(groups, dtype=jnp.int32)[:, None] * size
    return (local + first).reshape(-1)


def _selection(pairing: str) -> Kernel:
    def kernel(rows: Mapping[str, jax.Array]) -> jax.Array:
        label = rows["label"]
        label = label if label.ndim == 1 else label.argmax(-1)
        same = label[:, None] == label[None]
        allowed = same if pairing.startswith("same_class") else ~same
        if "group" in pairing:
            same = rows["group"][:, None] == rows["group"][None]
            allowed = allowed & (same if pairing.endswith("same_group") else ~same)
        return jnp.where(allowed, 0.0, -jnp.inf)

    return kernel


def _pair_groups(bits: jax.Array, pairing: str, groups: int, valid: jax.Array) -> jax.Array:
    """i32[B]: the partners in every group, from B random words."""
    batch_size = bits.shape[0]
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
