"""Labels on a grid: the cheapest labelling under a unary cost and a smoothness cost.

The solver is batched, runs on the device that holds the arrays, and has static shapes and a fixed
number of steps, so that it can stand inside a jitted training step. No row of the batch depends on
another.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class _Problem(NamedTuple):
    """B grids by diagonals, D = h + w - 1: place (d, a) is the cell of row a and column d - a.

    The cells of a diagonal are no neighbours, so one step serves them all. Places outside the grid
    cost nothing and have edges of weight 0, so that nothing flows out of them.
    """

    unary: jax.Array  # f32[D, L, h, B]
    right: jax.Array  # f32[D, h, B], the weight of the edge to the cell on the right
    below: jax.Array  # f32[D, h, B]
    left: jax.Array  # f32[D, h, B]
    above: jax.Array  # f32[D, h, B]
    values: jax.Array  # f32[L]
    share: jax.Array  # f32[D, h, 1], of a cell's cost that each chain through it gets


class _Messages(NamedTuple):
    """What each place was told by its neighbours, f32[D, L, h, B] each."""

    left: jax.Array
    above: jax.Array
    right: jax.Array
    below: jax.Array


def label_grid(
    unary: ArrayLike,
    horizontal: ArrayLike,
    vertical: ArrayLike,
    values: ArrayLike,
    *,
    iterations: int = 20,
) -> jax.Array:
    """Labels the cells of small grids for the least energy, approximately.

    argmin over z of sum_i unary[i, z_i] + sum_ij weight_ij (values[z_i] - values[z_j])^2

    the second sum being over the pairs of neighbours, left to right and top to bottom. It is the
    mask problem of PuzzleMix. As the smoothness is convex in the difference of the labels' values,
    the exact optimum is a minimum cut; sequential tree-reweighted message passing, as used here,
    reaches it or comes near it in a few passes over the grid, to and fro, without leaving the
    device. The best labelling met is returned.

    Guarantees: the energy is never above that of the best constant labelling, nor of the cheapest
    label of each cell by itself (up to float32 rounding of the sums). More iterations are never
    worse.

    Args:
      unary: f32[B, h, w, L], finite: the cost of label l in a cell.
      horizontal: f32[B, h, w - 1], finite and not negative: the weight of the edge between the
        cells (a, b) and (a, b + 1).
      vertical: f32[B, h - 1, w], the same between (a, b) and (a + 1, b).
      values: f32[L], what each label stands for: 0, 1/2 and 1, say.
      iterations: passes to and fro, static, at least 1.

    Returns:
      i32[B, h, w], indices into values.

    Raises:
      ValueError: shapes that do not fit each other, an empty grid, no label, or iterations below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.labelling import label_grid
      >>> unary = jnp.array([[0.0, 1.0], [0.6, 0.4], [0.0, 1.0]]).reshape(1, 1, 3, 2)
      >>> edges = jnp.ones((1, 1, 2)), jnp.ones((1, 0, 3))
      >>> label_grid(unary, *edges, jnp.array([0.0, 1.0])).tolist()
      [[[0, 0, 0]]]

    References:
      Kim et al. 2020, Puzzle Mix (arXiv:2009.06962), eq. 5, for the problem. Kolmogorov 2006,
      Convergent Tree-Reweighted Message Passing for Energy Minimization (IEEE TPAMI 28), for the
      method.
    """
    unary, horizontal, vertical, values = _checked(unary, horizontal, vertical, values)
    if not isinstance(iterations, int) or iterations < 1:
        raise ValueError(f"iterations must be an integer of at least 1; found {iterations!r}")
    return _label_grid(unary, horizontal, vertical, values, iterations)


def grid_energy(
    labels: ArrayLike,
    unary: ArrayLike,
    horizontal: ArrayLike,
    vertical: ArrayLike,
    values: ArrayLike,
) -> jax.Array:
    """The energy that `label_grid` minimises.

    sum_i unary[i, z_i] + sum_ij weight_ij (values[z_i] - values[z_j])^2

    Args:
      labels: i32[B, h, w], z, each from 0 to L - 1.
      unary: f32[B, h, w, L].
      horizontal: f32[B, h, w - 1].
      vertical: f32[B, h - 1, w].
      values: f32[L].

    Returns:
      f32[B].

    Raises:
      TypeError: labels that are not integers.
      ValueError: shapes that do not fit each other, an empty grid, or no label.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.labelling import grid_energy
      >>> unary = jnp.array([[0.0, 1.0], [0.6, 0.5], [0.0, 1.0]]).reshape(1, 1, 3, 2)
      >>> edges = jnp.ones((1, 1, 2)), jnp.ones((1, 0, 3))
      >>> grid_energy(jnp.array([[[0, 1, 0]]]), unary, *edges, jnp.array([0.0, 1.0])).tolist()
      [2.5]
    """
    unary, horizontal, vertical, values = _checked(unary, horizontal, vertical, values)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, indices into values; found {labels.dtype}")
    if labels.shape != unary.shape[:3]:
        raise ValueError(f"labels must have shape {unary.shape[:3]}; found {labels.shape}")
    return _energy(labels, unary, horizontal, vertical, values)


def _checked(*arrays: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    unary, horizontal, vertical, values = (jnp.asarray(x, jnp.float32) for x in arrays)
    if unary.ndim != 4 or 0 in unary.shape[1:]:
        raise ValueError(f"unary must be [B, h, w, L] with h, w, L >= 1; found {unary.shape}")
    batch, height, width, count = unary.shape
    for name, value, shape in (
        ("horizontal", horizontal, (batch, height, width - 1)),
        ("vertical", vertical, (batch, height - 1, width)),
        ("values", values, (count,)),
    ):
        if value.shape != shape:
            raise ValueError(
                f"{name} must have shape {shape} for a unary of shape {unary.shape}; "
                f"found {value.shape}"
            )
    return unary, horizontal, vertical, values


def _energy(
    labels: jax.Array,
    unary: jax.Array,
    horizontal: jax.Array,
    vertical: jax.Array,
    values: jax.Array,
) -> jax.Array:
    value = values[labels]
    own = jnp.take_along_axis(unary, labels[..., None], axis=3).sum((1, 2, 3))
    across = (horizontal * jnp.diff(value, axis=2) ** 2).sum((1, 2))
    return own + across + (vertical * jnp.diff(value, axis=1) ** 2).sum((1, 2))


@jax.jit
def _label_grid(
    unary: jax.Array,
    horizontal: jax.Array,
    vertical: jax.Array,
    values: jax.Array,
    iterations: ArrayLike,
) -> jax.Array:
    count = unary.shape[3]
    energy = functools.partial(
        _energy, unary=unary, horizontal=horizontal, vertical=vertical, values=values
    )

    def better(best: tuple[jax.Array, jax.Array], labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        labels_energy = energy(labels)
        lower = labels_energy < best[1]
        return (
            jnp.where(lower[:, None, None], labels, best[0]),
            jnp.where(lower, labels_energy, best[1]),
        )

    start = jnp.argmin(unary, axis=3).astype(jnp.int32)
    best = start, energy(start)
    for label in range(count):
        best = better(best, jnp.full_like(start, label))

    problem = _by_diagonals(unary, horizontal, vertical, values)
    silence = jnp.zeros_like(problem.unary)

    def step(
        _: int, carry: tuple[_Messages, tuple[jax.Array, jax.Array]]
    ) -> tuple[_Messages, tuple[jax.Array, jax.Array]]:
        messages, best = carry
        for backwards in (False, True):
            messages, labels = _pass(problem, messages, backwards)
            best = better(best, _from_diagonals(labels, unary.shape[2]))
        return messages, best

    messages = _Messages(silence, silence, silence, silence)
    return jax.lax.fori_loop(0, iterations, step, (messages, best))[1][0]


def _by_diagonals(
    unary: jax.Array, horizontal: jax.Array, vertical: jax.Array, values: jax.Array
) -> _Problem:
    height, width = unary.shape[1:3]
    row = np.arange(height)[None, :]
    column = np.arange(height + width - 1)[:, None] - row
    inside = (column >= 0) & (column < width)

    def skew(x: jax.Array) -> jax.Array:
        """[B, h, w] to [D, h, B]."""
        x = x[:, np.broadcast_to(row, column.shape), np.clip(column, 0, width - 1)]
        return jnp.where(inside[:, :, None], jnp.moveaxis(x, 0, 2), 0)

    def pad(x: jax.Array, axis: int, *, before: bool) -> jax.Array:
        widths = [(0, 0)] * 3
        widths[axis] = (int(before), int(not before))
        return skew(jnp.pad(x, widths))

    # A cell lies on the chains of its row and its column, which monotonic chains through the grid
    # join: as many as it has neighbours after it, or before it, whichever is more.
    after = (column < width - 1).astype(int) + (row < height - 1)
    earlier = (column > 0).astype(int) + (row > 0)
    share = 1 / np.maximum(np.maximum(after, earlier), 1)
    return _Problem(
        unary=jnp.stack([skew(unary[..., label]) for label in range(len(values))], axis=1),
        right=pad(horizontal, 2, before=False),
        below=pad(vertical, 1, before=False),
        left=pad(horizontal, 2, before=True),
        above=pad(vertical, 1, before=True),
        values=values,
        share=jnp.asarray(share[:, :, None], jnp.float32),
    )


def _from_diagonals(labels: jax.Array, width: int) -> jax.Array:
    """i32[B, h, w] from i32[D, h, B]."""
    row = np.arange(labels.shape[1])[:, None]
    return jnp.moveaxis(labels[row + np.arange(width)[None, :], row], 2, 0)


def _pass(problem: _Problem, messages: _Messages, backwards: bool) -> tuple[_Messages, jax.Array]:
    """One pass over the diagonals: the new messages, and labels i32[D, h, B] chosen on the way.

    Going back is going forth on the grid turned by 180 degrees: right and left change places, and
    so do below and above.
    """
    told = messages
    right, below, left, above = problem.right, problem.below, problem.left, problem.above
    if backwards:
        told = _Messages(messages.right, messages.below, messages.left, messages.above)
        right, below, left, above = left, above, right, below
    values = problem.values[:, None, None]
    distance = ((problem.values[:, None] - problem.values[None, :]) ** 2)[:, :, None, None]
    turn = -1 if backwards else 1

    def message(cost: jax.Array, weight: jax.Array) -> jax.Array:
        """f32[L, h, B]: the least cost for each label of the neighbour, its minimum made 0."""
        least = (cost[:, None] + distance * weight[None, None]).min(0)
        return least - least.min(0, keepdims=True)

    def step(
        carry: tuple[jax.Array, ...], here: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        from_left, from_above, left_value, above_value = carry
        unary, share, right, below, left, above, from_right, from_below = here
        # Neighbours behind have their labels already; those ahead speak by their messages.
        ahead = unary + from_right + from_below
        behind = left[None] * (values - left_value[None]) ** 2
        behind = behind + above[None] * (values - above_value[None]) ** 2
        labels = jnp.argmin(ahead + behind, axis=0).astype(jnp.int32)
        value = problem.values[labels]
        cost = share[None] * (ahead + from_left + from_above)
        # What leaves the last row of the grid on the way round weighs 0, so rolling is enough.
        to_below = jnp.roll(message(cost - from_below, below), turn, axis=1)
        carry = message(cost - from_right, right), to_below, value, jnp.roll(value, turn, axis=0)
        return carry, (from_left, from_above, labels)

    # Both made of the unary cost, which varies over shards if anything does.
    nothing, zeros = jnp.zeros_like(problem.unary[0]), jnp.zeros_like(problem.unary[0, 0])
    start: tuple[jax.Array, ...] = nothing, nothing, zeros, zeros
    here: tuple[jax.Array, ...] = problem.unary, problem.share, right, below, left, above
    here = *here, told.right, told.below
    _, (from_left, from_above, labels) = jax.lax.scan(step, start, here, reverse=backwards)
    if backwards:
        return _Messages(messages.left, messages.above, from_left, from_above), labels
    return _Messages(from_left, from_above, messages.right, messages.below), labels
