"""Transport inside the rows of a batch: entropic plans and best assignments.

Both solvers are batched, run on the device that holds the arrays, and have static shapes and a
bounded number of steps, so that they can stand inside a jitted training step. No row of the batch
depends on another.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

# Rows that bid at once. More of them fill a vector unit better, but bid against each other at
# prices that the round itself makes stale.
_BIDDERS = 8
# The increments of the auction's phases, in multiples of the last one. Prices found with a coarse
# increment start the next phase near its end, which spares long wars over nearly equal columns.
_PHASES = (125.0, 25.0, 5.0, 1.0)


class _Auction(NamedTuple):
    """The state of B auctions; the row n stands for "nobody"."""

    price: jax.Array  # f32[B, n], of each column
    owner: jax.Array  # i32[B, n], the row that holds each column
    bidder: jax.Array  # i32[B, k], the rows that bid next
    waiting: jax.Array  # i32[B], the first row that has not bid in this phase
    phase: jax.Array  # i32[B], P once the auction is over
    rounds: jax.Array  # i32[], rounds held


def sinkhorn(cost: ArrayLike, *, epsilon: float = 0.1, iterations: int = 100) -> jax.Array:
    """The entropic optimal transport plan between two uniform distributions, row by row.

    argmin over P >= 0 of sum_ij P_ij cost_ij + epsilon sum_ij P_ij (log P_ij - 1)
    with sum_j P_ij = 1/n and sum_i P_ij = 1/m

    by `iterations` rounds of Sinkhorn's scaling, columns and then rows, in the log domain.

    Guarantees: finite for every epsilon that keeps cost / epsilon finite; the rows, scaled last,
    sum to 1/n to rounding after any number of iterations; the columns sum to 1/m in the limit, more
    slowly the smaller epsilon is against the range of the cost. So n * plan averages over columns
    with weights that sum to 1. Differentiable in the cost, by unrolling the iterations.

    Args:
      cost: f32[B, n, m], finite; its unit is the unit of epsilon.
      epsilon: the weight of the entropy, positive, static. Towards 0 the plan becomes an optimal
        transport plan, and more iterations are needed.
      iterations: scalings of both marginals, static, at least 1.

    Returns:
      f32[B, n, m], the plans.

    Raises:
      ValueError: a cost that is not [B, n, m] with n, m >= 1, or an option out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.transport import sinkhorn
      >>> sinkhorn(jnp.array([[[0.0, 1.0], [1.0, 0.0]]]), epsilon=0.01)
      Array([[[0.5, 0. ],
              [0. , 0.5]]], dtype=float32)

    References:
      Cuturi 2013, Sinkhorn Distances: Lightspeed Computation of Optimal Transport
      (arXiv:1306.0895). Peyré and Cuturi 2019, Computational Optimal Transport (arXiv:1803.00567),
      section 4.4, for the log domain.
    """
    cost = jnp.asarray(cost, jnp.float32)
    if cost.ndim != 3 or 0 in cost.shape[1:]:
        raise ValueError(f"cost must be [B, n, m] with n, m >= 1; found shape {cost.shape}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be a positive number; found {epsilon!r}")
    _check_count("iterations", iterations)
    return _sinkhorn(cost, float(epsilon), iterations)


def assignment(benefit: ArrayLike, *, rounds: int = 6000, tolerance: float = 0.0002) -> jax.Array:
    """Assigns n rows to n columns, each to one, for the greatest total benefit, by auction.

    argmax over permutations p of sum_i benefit[i, p(i)]

    Unassigned rows bid for the column that is worth most to them net of its price, and raise the
    price by what they would lose with their second choice, plus an increment. The increment falls
    in four phases to `tolerance` times the range (maximum less minimum) of the problem's benefits.

    Guarantees: the result is a permutation, whatever the benefits and options. Its benefit is never
    below that of the identity, and it is the identity when that is as good: with nothing to gain,
    nothing moves. An auction that ends within `rounds` is within n * tolerance * range of the
    optimum (to float32 rounding), a bound that is seldom approached; the optimum itself if benefits
    are multiples of a step greater than that. One that does not end is completed, the rows left
    over taking the columns left over in order, without that bound. A row prefers the column nearest
    to its own index among columns of equal worth.

    Args:
      benefit: f32[B, n, n], finite: of row i in column j.
      rounds: the most rounds of bidding, of up to 8 rows each, over all phases; static, at least 1.
        All problems of the batch wait for the slowest. Random and mask-transport problems of
        n = 256 were seen to need up to 2900, all rows wanting the same half of the columns 4800.
      tolerance: the last increment, relative to the range; static, between 1e-6 (float32 resolves
        no finer) and 1. Rounds grow slowly as it falls.

    Returns:
      i32[B, n], the column p(i) of each row.

    Raises:
      ValueError: a benefit that is not [B, n, n] with n >= 1, or an option out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.transport import assignment
      >>> assignment(jnp.array([[[1.0, 2.0, 0.0], [0.0, 3.0, 2.0], [2.0, 0.0, 0.0]]])).tolist()
      [[1, 2, 0]]

    References:
      Bertsekas 1988, The auction algorithm: a distributed relaxation method for the assignment
      problem (Annals of Operations Research 14), with its epsilon scaling.
    """
    benefit = jnp.asarray(benefit, jnp.float32)
    if benefit.ndim != 3 or benefit.shape[1] != benefit.shape[2] or not benefit.shape[1]:
        raise ValueError(f"benefit must be [B, n, n] with n >= 1; found shape {benefit.shape}")
    _check_count("rounds", rounds)
    if not 1e-6 <= tolerance <= 1:
        raise ValueError(f"tolerance must be between 1e-6 and 1; found {tolerance!r}")
    return _assignment(benefit, rounds, float(tolerance))


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1; found {value!r}")


# Static, for a loop of unknown length has no reverse derivative; elsewhere the options are traced,
# so that another value compiles nothing.
@functools.partial(jax.jit, static_argnames="iterations")
def _sinkhorn(cost: jax.Array, epsilon: ArrayLike, iterations: int) -> jax.Array:
    n, m = cost.shape[1:]
    # The columns, scaled first, undo any constant of theirs; small numbers lose less to rounding.
    cost = cost - jax.lax.stop_gradient(cost.min(1, keepdims=True))
    kernel = -cost / epsilon

    def scale(_: int, rows: jax.Array) -> jax.Array:
        columns = -jax.nn.logsumexp(kernel + rows, axis=1, keepdims=True) - math.log(m)
        return -jax.nn.logsumexp(kernel + columns, axis=2, keepdims=True) - math.log(n)

    # The last round is written out, for the columns' potential that its rows' potential belongs to.
    # Made of the cost, so that a loop inside shard_map carries what varies over shards.
    rows = jax.lax.fori_loop(0, iterations - 1, scale, jnp.zeros_like(cost[:, :, :1]))
    columns = -jax.nn.logsumexp(kernel + rows, axis=1, keepdims=True) - math.log(m)
    # The softmax is the last scaling of the rows, normalised after the rounding of its exponents.
    return jax.nn.softmax(kernel + columns, axis=2) / n


@jax.jit
def _assignment(benefit: jax.Array, rounds: ArrayLike, tolerance: ArrayLike) -> jax.Array:
    n = benefit.shape[1]
    worth = _to_unit_range(benefit)
    rows = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32)[None], benefit.shape[:2])
    if n == 1:
        return rows
    column = _complete(_auction(worth, rounds, tolerance))

    def total(column: jax.Array) -> jax.Array:
        return jnp.take_along_axis(worth, column[:, :, None], axis=2).sum(axis=(1, 2))

    return jnp.where((total(column) > total(rows))[:, None], column, rows)


def _to_unit_range(benefit: jax.Array) -> jax.Array:
    """f32[B, n, n] in [0, 1], and 0 where the benefits are all equal."""
    # In this order no finite float overflows: two benefits can differ by more than the greatest.
    size = jnp.abs(benefit).max((1, 2), keepdims=True)
    benefit = benefit / jnp.where(size > 0, size, 1)
    benefit = benefit - benefit.min((1, 2), keepdims=True)
    width = benefit.max((1, 2), keepdims=True)
    # A NaN would leave its row without a choice, and the result would be no permutation.
    return jnp.nan_to_num(benefit / jnp.where(width > 0, width, 1))


def _auction(worth: jax.Array, rounds: ArrayLike, tolerance: ArrayLike) -> jax.Array:
    """i32[B, n]: the row that owns each column, n where the auction did not end."""
    batch, n, _ = worth.shape
    # One more increment, never used, for the auctions that are over.
    increments = tolerance * jnp.array([*_PHASES, 0.0], jnp.float32)
    # Made of the worths, so that the loop inside shard_map carries what varies over shards.
    nobody = jnp.full_like(worth[:, 0], n, jnp.int32)
    none = jnp.zeros_like(nobody[:, 0])
    first, next_waiting = _fill(nobody[:, :_BIDDERS], none, n)
    state = _Auction(
        price=jnp.zeros_like(worth[:, 0]),
        owner=nobody,
        bidder=first,
        waiting=next_waiting,
        phase=none,
        rounds=jnp.int32(0),
    )

    def goes_on(state: _Auction) -> jax.Array:
        return (state.rounds < rounds) & (state.phase < len(_PHASES)).any()

    def hold(state: _Auction) -> _Auction:
        column, bid = _bids(worth, state.price, state.bidder, increments[state.phase])
        won = _wins(column, bid)
        place = jnp.arange(batch)[:, None], jnp.where(won, column, n)
        price = state.price.at[place].set(bid, mode="drop")
        owner = state.owner.at[place].set(state.bidder, mode="drop")
        # Who wins makes room for the row it displaces, if any, and who loses bids again.
        displaced = jnp.take_along_axis(state.owner, column, axis=1)
        bidder, waiting = _fill(jnp.where(won, displaced, state.bidder), state.waiting, n)
        sold = (bidder == n).all(1)
        phase = jnp.minimum(state.phase + sold, len(_PHASES))
        # The next phase keeps the prices and sells every column anew.
        again = sold & (phase < len(_PHASES))
        return _Auction(
            price=price,
            owner=jnp.where(again[:, None], nobody, owner),
            bidder=jnp.where(again[:, None], first, bidder),
            waiting=jnp.where(again, next_waiting, waiting),
            phase=phase,
            rounds=state.rounds + 1,
        )

    return jax.lax.while_loop(goes_on, hold, state).owner


def _fill(bidder: jax.Array, waiting: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Empty places among the bidders are taken by the next rows that have not bid."""
    empty = bidder == n
    row = waiting[:, None] - 1 + jnp.cumsum(empty, axis=1, dtype=jnp.int32)
    filled = jnp.where(empty, jnp.minimum(row, n), bidder)
    return filled, jnp.minimum(waiting + empty.sum(1, dtype=jnp.int32), n)


def _bids(
    worth: jax.Array, price: jax.Array, bidder: jax.Array, increment: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The column each bidder wants, i32[B, k], and what it offers; -inf from nobody."""
    n = worth.shape[1]
    row = jnp.minimum(bidder, n - 1)
    net = jnp.take_along_axis(worth, row[:, :, None], axis=1, mode="promise_in_bounds")
    net = net - price[:, None, :]
    best = net.max(2)
    # Minima vectorise and argmin does not, so the column is coded in its distance: 0 for the row's
    # own, 1 and 2 for its neighbours before and after, and so on.
    shift = jnp.arange(n, dtype=jnp.int32)[None, None, :] - row[:, :, None]
    code = jnp.where(net == best[:, :, None], jnp.maximum(2 * shift, -2 * shift - 1), 2 * n).min(2)
    chosen = jnp.where(code % 2 == 0, code // 2, -(code + 1) // 2)
    second = jnp.where(shift == chosen[:, :, None], -jnp.inf, net).max(2)
    column = row + chosen
    offer = jnp.take_along_axis(price, column, axis=1) + (best - second) + increment[:, None]
    return column, jnp.where(bidder < n, offer, -jnp.inf)


def _wins(column: jax.Array, bid: jax.Array) -> jax.Array:
    """bool[B, k]: whose bid for its column is the highest; the first of equal ones."""
    place = jnp.arange(bid.shape[1])
    theirs, mine = bid[:, None, :], bid[:, :, None]
    first = (place[None, :] < place[:, None])[None]
    beaten = (theirs > mine) | ((theirs == mine) & first)
    rival = column[:, None, :] == column[:, :, None]
    return (bid > -jnp.inf) & ~(beaten & rival).any(2)


def _complete(owner: jax.Array) -> jax.Array:
    """i32[B, n]: the column of each row; rows without one take the free columns in order."""
    n = owner.shape[1]
    places = jnp.arange(n, dtype=jnp.int32)

    def one(owner: jax.Array) -> jax.Array:
        column = jnp.full(n, n, jnp.int32).at[owner].set(places, mode="drop")
        free = jnp.flatnonzero(owner == n, size=n, fill_value=n).astype(jnp.int32)
        left = jnp.flatnonzero(column == n, size=n, fill_value=n)
        return column.at[left].set(free, mode="drop")

    return jax.vmap(one)(owner)
