"""One mix out of several, row by row, and a part of a mix: switching policies, leaving rows out."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix, Noise


def select_rows(chosen: ArrayLike, mixes: Sequence[Mix]) -> Mix:
    """Puts a mix together from the rows of several.

    Args:
      chosen: i32[B], the place in `mixes` that each row is taken from.
      mixes: mixes of one batch.

    Returns:
      A Mix with every field that one of them has. Rows of mixes without a field are given the value
      that means the same: a mask of their weight, an identity for a warp, layer 0, no noise.

    Raises:
      ValueError: no mix, or masks or transports on different grids.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.selection import select_rows
      >>> first, second = Mix(jnp.array([1, 0]), jnp.ones(2)), Mix(jnp.array([1, 0]), jnp.zeros(2))
      >>> select_rows(jnp.array([1, 0]), [first, second]).weight.tolist()
      [0.0, 1.0]
    """
    chosen, alike = jnp.asarray(chosen), like_each_other(mixes)
    rows = jnp.arange(len(chosen))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves)[chosen, rows], *alike)


def like_each_other(mixes: Sequence[Mix]) -> list[Mix]:
    """The same mixes with the same fields, so that one can stand in for another.

    Args:
      mixes: mixes of one batch.

    Returns:
      As many mixes, of one tree structure; see `select_rows` for what a missing field becomes.

    Raises:
      ValueError: no mix, or masks or transports on different grids.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.selection import like_each_other
      >>> plain, box = Mix(jnp.zeros(1, int), jnp.ones(1)), jnp.zeros((1, 2, 2, 1))
      >>> like_each_other([plain, Mix(jnp.zeros(1, int), jnp.zeros(1), box)])[0].mask.ravel()
      Array([1., 1., 1., 1.], dtype=float32)
    """
    if not mixes:
        raise ValueError("expected at least one mix; found none")

    def grid(name: str) -> tuple[int, ...] | None:
        found = {m.shape[1:] for mix in mixes if (m := getattr(mix, name)) is not None}
        if len(found) > 1:
            raise ValueError(
                f"mixes with a {name} must have it on one grid to be chosen from; found the shapes "
                f"{sorted(found)} of a row"
            )
        return found.pop() if found else None

    fields = _Fields(
        grids={name: grid(name) for name in ("mask", "transport", "own_transport")},
        zoom=any(mix.zoom is not None for mix in mixes),
        noise=any(mix.noise is not None for mix in mixes),
        # A mix without layers is mixed at the input, layer 0.
        layers=tuple(sorted({layer for mix in mixes for layer in mix.layers or (0,)}))
        if any(mix.layer is not None for mix in mixes)
        else (),
        # Partners inside G groups are inside the fewer groups of a divisor of G too.
        groups=math.gcd(*(mix.groups for mix in mixes)),
    )
    return [_with_fields(mix, fields) for mix in mixes]


def keep_rows(mixed: ArrayLike, mix: Mix) -> Mix:
    """Leaves rows of a mix unmixed: weight 1, no warp, no noise.

    Args:
      mixed: bool[B], True for the rows that are mixed as the mix says.
      mix: the mix.

    Returns:
      A Mix with the same partners.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.selection import keep_rows
      >>> mix = Mix(jnp.array([1, 0]), jnp.full(2, 0.5))
      >>> keep_rows(jnp.array([True, False]), mix).weight.tolist()
      [0.5, 1.0]
    """
    apart = Mix(mix.partner, jnp.ones_like(mix.weight), groups=mix.groups)
    return select_rows(jnp.asarray(mixed).astype(jnp.int32), [apart, mix])


def rows_of_part(x: ArrayLike, place: int, *, groups: int, parts: int) -> jax.Array:
    """One of several equal parts of a batch: every `parts`-th of its groups, from one on.

    Interleaved, not cut in runs: of a sharded batch every part is then spread over all devices, and
    no row moves when the groups are a multiple of the parts times the devices.

    Args:
      x: [B, ...].
      place: which part, at least 0 and below `parts`.
      groups: G, contiguous groups of B / G rows; a divisor of B.
      parts: A, a divisor of G.

    Returns:
      [B / A, ...], the rows of the groups place, place + A, place + 2 A, ...

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.selection import rows_of_part
      >>> rows_of_part(jnp.arange(8), 1, groups=4, parts=2).tolist()
      [2, 3, 6, 7]
    """
    x = jnp.asarray(x)
    size, rest = x.shape[0], x.shape[1:]
    grouped = x.reshape(groups // parts, parts, size // groups, *rest)
    return grouped[:, place].reshape(size // parts, *rest)


def mix_of_part(mix: Mix, place: int, *, parts: int) -> Mix:
    """The mix of one of several parts of a batch, whose partners count from its own first row.

    Args:
      mix: the mix of the batch.
      place: which part, as for `rows_of_part`.
      parts: A, a divisor of mix.groups, so that partners are in the part.

    Returns:
      A Mix of B / A rows in G / A groups.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix
      >>> from semjax.selection import mix_of_part
      >>> mix = Mix(jnp.array([1, 0, 3, 2]), jnp.array([0.1, 0.2, 0.3, 0.4]), groups=2)
      >>> part = mix_of_part(mix, 1, parts=2)
      >>> part.partner.tolist(), part.groups
      ([1, 0], 1)
    """

    def take(leaf: jax.Array) -> jax.Array:
        return rows_of_part(leaf, place, groups=mix.groups, parts=parts)

    rows = jnp.arange(len(mix.partner), dtype=jnp.int32)
    # Relative to its own row a partner keeps its place, since groups move as wholes.
    partner = take(mix.partner - rows) + rows[: len(rows) // parts]
    part = jax.tree.map(take, mix)
    return dataclasses.replace(part, partner=partner, groups=mix.groups // parts)


@dataclasses.dataclass(frozen=True)
class _Fields:
    """The fields that one of several mixes has, and their grids."""

    grids: dict[str, tuple[int, ...] | None]
    zoom: bool
    noise: bool
    layers: tuple[int, ...]
    groups: int


def _with_fields(mix: Mix, fields: _Fields) -> Mix:
    rows = len(mix.partner)

    def every_row(value: Any) -> jax.Array:
        value = jnp.asarray(value, jnp.float32)
        return jnp.broadcast_to(value[None], (rows, *value.shape))

    def at_rest(name: str) -> jax.Array | None:
        value, grid = getattr(mix, name), fields.grids[name]
        if value is not None or grid is None:
            return value
        return every_row(jnp.eye(grid[0] * grid[1]).reshape(grid))

    mask, grid = mix.mask, fields.grids["mask"]
    if mask is None and grid is not None:
        mask = jnp.broadcast_to(mix.weight[:, None, None, None], (rows, *grid))
    zoom, noise, layer = mix.zoom, mix.noise, mix.layer
    if zoom is None and fields.zoom:
        zoom = every_row([0, 0, 1, 1])
    if noise is None and fields.noise:
        noise = Noise(jnp.zeros(rows, jnp.uint32), every_row(0), every_row(0))
    if layer is None and fields.layers:
        layer = jnp.zeros(rows, jnp.int32)
    return Mix(
        mix.partner,
        mix.weight,
        mask,
        fields.groups,
        zoom,
        at_rest("transport"),
        at_rest("own_transport"),
        layer,
        fields.layers,
        noise,
    )
