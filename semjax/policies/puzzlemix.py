"""PuzzleMix: what is salient in both images is kept, by an optimal mask and optimal moves."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.labelling import label_grid
from semjax.mixing import Mix, partner_rows
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size
from semjax.probing import asked
from semjax.transport import assignment
from semjax.warping import area_resample


def puzzlemix(
    *,
    alpha: float = 1.0,
    block_counts: Sequence[int] = (2, 4, 8, 16),
    levels: int = 3,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    transport: bool = True,
    move_cost: float = 0.8,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """PuzzleMix: a mask that keeps the salient blocks of both images, which may move to make room.

    1. A number of blocks n is drawn for the batch, and a proportion from Beta(alpha, alpha).
    2. The mask z takes one of `levels` values in [0, 1] in each of n x n blocks and minimises

         sum_i (1 - z_i) s_i + z_i s'_i - (eta / n^2) log p(z_i)
           + beta / (16 n) sum_ij (1 + gamma c_ij) (z_i - z_j)^2

       where s and s' are the block saliencies of the row and its partner, each summing to 1; p the
       binomial law of `levels - 1` draws of probability lambda; and c_ij, over neighbours, how much
       the colours would jump from one image to the other, beyond their own jumps.
    3. Each image's blocks are permuted for the most of z_j s_i less the cost of moving: move_cost
       times the squared distance, which is 1 from the first block of a side to the last.

    Both problems are solved on the device, without a graph-cut library: see
    `semjax.labelling.label_grid` and `semjax.transport.assignment` for how near the optimum. The
    weight is the mean of the mask. Saliency costs one forward and one backward pass of B rows more.
    Where n does not divide the image's sides, blocks have fractional edges. A row of proportion 1
    is left as it is, and nothing moves in a row that is its own partner.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      block_counts: the values of n, drawn uniformly; those above the image's sides are left out.
      levels: label levels of the mask, at least 2.
      beta: weight of the smoothness of the mask, at least 0.
      gamma: weight of the colours in it, at least 0, in the units of the images; 0 spares the
        policy the pixels.
      eta: weight of the prior, at least 0.
      transport: whether blocks may move.
      move_cost: weight of the distance blocks move, at least 0.
      weight_scope: who shares the proportion, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy that looks at the model, whose mixes have a mask and two transports.

    Raises:
      ValueError: an option out of range; when called, no probe, or images that are not
        [B, H, W, C].

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     return semjax.Outputs(logits=images.reshape(len(images), -1) @ params)
      >>> batch = {"image": jnp.ones((4, 4, 4, 1)), "label": jnp.arange(4)}
      >>> params = jax.random.normal(jax.random.key(0), (16, 4))
      >>> policy = semjax.puzzlemix(block_counts=[2])
      >>> mix = semjax.draw_mix(policy, batch, jax.random.key(1), apply_fn=apply_fn, params=params)
      >>> mix.mask.shape, mix.transport.shape
      ((4, 4, 4, 1), (4, 2, 2, 2, 2))

    References:
      Kim et al. 2020, Puzzle Mix (arXiv:2009.06962), eqs. 3 to 7. The authors' code solves the mask
      by alpha-beta swaps and the moves by a heuristic that need not end in a permutation.
    """
    counts = tuple(block_counts)
    if not counts or not all(isinstance(n, int) and n >= 1 for n in counts):
        raise ValueError(f"block_counts must be integers of at least 1; found {block_counts!r}")
    if math.lcm(*counts) > 64:
        raise ValueError(
            "block_counts must have a least common multiple of at most 64, the cells along a side "
            f"that moves are kept for; found {block_counts!r} with {math.lcm(*counts)}"
        )
    if not (isinstance(levels, int) and levels >= 2):
        raise ValueError(f"levels must be an integer of at least 2; found {levels!r}")
    weights = {"beta": beta, "gamma": gamma, "eta": eta, "move_cost": move_cost}
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0; found {value!r}")
    common = Common(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        size = image_size(batch)
        draw_key, count_key = jax.random.split(key)
        draw = common.draw(draw_key, batch)
        # The prior alone would not keep a very salient block of the partner out.
        draw = dataclasses.replace(draw, mixed=draw.mixed & (draw.weight < 1))
        whole = Mix(draw.partner, draw.weight, groups=groups)
        probe = asked(probe, "puzzlemix")
        saliency = probe.saliency()
        both = (saliency, partner_rows(whole, saliency))
        images = None
        if gamma:
            pixels = probe.images()
            images = (pixels, partner_rows(whole, pixels))

        fitting = [n for n in counts if n <= min(size)] or [min(size)]
        finest = math.lcm(*fitting)

        def solve(n: int) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
            problem = mask_problem(
                *both, draw.weight, n, images=images, beta=beta, gamma=gamma, eta=eta, levels=levels
            )
            z = block_mask(problem, levels)
            mask = area_resample(z[..., None], *size)
            if not transport:
                return mask, None, None
            own = moves(z, problem.saliency, move_cost)
            other = moves(1 - z, problem.partner_saliency, move_cost)
            refine = functools.partial(_on_grid, n=n, finest=finest)
            return mask, refine(other), refine(own)

        place = jax.random.randint(count_key, (), 0, len(fitting))
        branches: list[Callable[[], Any]] = [functools.partial(solve, n) for n in fitting]
        mask, other, own = jax.lax.switch(place, branches) if len(branches) > 1 else branches[0]()
        mix = draw.mix(mask, groups)
        if not transport:
            return mix
        still = jnp.eye(finest**2).reshape(1, finest, finest, finest, finest)
        moved = draw.mixed & (draw.partner != jnp.arange(len(draw.partner)))
        moved = moved.reshape(-1, 1, 1, 1, 1)
        return dataclasses.replace(
            mix,
            transport=jnp.where(moved, other, still),
            own_transport=jnp.where(moved, own, still),
        )

    return policy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskProblem:
    """The energy of a mask over n x n blocks, as `semjax.labelling` takes it.

    Attributes:
      saliency: f32[B, n, n] of the row, each map summing to 1.
      partner_saliency: f32[B, n, n] of its partner.
      unary: f32[B, n, n, L], of label l, whose share of the row is l / (L - 1).
      horizontal: f32[B, n, n - 1].
      vertical: f32[B, n - 1, n].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.puzzlemix import mask_problem
      >>> flat = jnp.ones((1, 4, 4))
      >>> mask_problem(flat, flat, jnp.array([0.5]), 2, levels=3).unary.shape
      (1, 2, 2, 3)
    """

    saliency: jax.Array
    partner_saliency: jax.Array
    unary: jax.Array
    horizontal: jax.Array
    vertical: jax.Array


def mask_problem(
    saliency: ArrayLike,
    partner_saliency: ArrayLike,
    weight: ArrayLike,
    n: int,
    *,
    images: tuple[jax.Array, jax.Array] | None = None,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    levels: int = 3,
) -> MaskProblem:
    """The mask problem of PuzzleMix, see `puzzlemix` for the energy.

    Args:
      saliency: f32[B, H, W], not negative.
      partner_saliency: f32[B, H, W].
      weight: f32[B], lambda.
      n: blocks along each side.
      images: both images, [B, H, W, C] each, for gamma; None leaves the colours out.
      beta: weight of the smoothness.
      gamma: weight of the colours in it.
      eta: weight of the prior.
      levels: L, label levels.

    Returns:
      A MaskProblem.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.puzzlemix import mask_problem
      >>> left = jnp.array([[[1.0, 0.0]]])
      >>> mask_problem(left, 1 - left, jnp.array([0.5]), 1, levels=2, eta=0.0).unary.ravel()
      Array([1., 1.], dtype=float32)

    References:
      Kim et al. 2020, Puzzle Mix (arXiv:2009.06962), eqs. 3 to 6.
    """
    own, other = _block_shares(saliency, n), _block_shares(partner_saliency, n)
    z = np.linspace(0, 1, levels, dtype=np.float32).reshape(1, 1, 1, levels)
    unary = own[..., None] * (1 - z) + other[..., None] * z
    label = np.arange(levels)[None]
    ways = np.array([[math.comb(levels - 1, k) for k in range(levels)]], np.float32)
    lam = jnp.asarray(weight, jnp.float32)[:, None]
    law = ways * lam**label * (1 - lam) ** (levels - 1 - label)
    prior = -jnp.log(law + 1e-8)
    unary = unary + (eta / n**2) * prior[:, None, None]
    strength = beta / (16 * n)
    batch = own.shape[0]
    horizontal = jnp.full((batch, n, n - 1), strength, jnp.float32)
    vertical = jnp.full((batch, n - 1, n), strength, jnp.float32)
    if images is not None and gamma:
        across = _colour_jumps(*images, n)
        first, second = (x.transpose(0, 2, 1, 3) for x in images)
        down = _colour_jumps(first, second, n).transpose(0, 2, 1)
        horizontal, vertical = horizontal * (1 + gamma * across), vertical * (1 + gamma * down)
    return MaskProblem(own, other, unary, horizontal, vertical)


def block_mask(problem: MaskProblem, levels: int) -> jax.Array:
    """The mask of the least energy that was found, see `semjax.labelling.label_grid`.

    Args:
      problem: the energy.
      levels: L.

    Returns:
      f32[B, n, n], the share of the row in each block.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.puzzlemix import block_mask, mask_problem
      >>> own = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])
      >>> block_mask(mask_problem(own, 1 - own, jnp.array([0.5]), 2), 3)[0].tolist()
      [[1.0, 0.0], [1.0, 0.0]]
    """
    values = jnp.linspace(0, 1, levels, dtype=jnp.float32)
    labels = label_grid(problem.unary, problem.horizontal, problem.vertical, values)
    return values[labels]


def moves(z: ArrayLike, saliency: ArrayLike, move_cost: float) -> jax.Array:
    """Where the block of each place comes from: the permutation of the greatest saliency shown.

    argmax over permutations p of sum_j z_j s_p(j) - move_cost * |j - p(j)|^2 / (n - 1)^2

    Args:
      z: f32[B, n, n], how much of each place is shown.
      saliency: f32[B, n, n].
      move_cost: weight of the squared distance, in units of the image's side.

    Returns:
      i32[B, n * n], p.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.puzzlemix import moves
      >>> shown, salient = jnp.array([[[0.0, 1.0]] * 2]), jnp.array([[[0.5, 0.0]] * 2])
      >>> moves(shown, salient, 0.0)[0, 1::2].tolist() in ([0, 2], [2, 0])
      True

    References:
      Kim et al. 2020, Puzzle Mix (arXiv:2009.06962), eq. 7.
    """
    z, saliency = jnp.asarray(z), jnp.asarray(saliency)
    batch, n = z.shape[:2]
    places = np.stack(np.divmod(np.arange(n * n), n), 1)
    squared = np.square(places[:, None] - places[None]).sum(-1).astype(np.float32)
    squared = squared / max(n - 1, 1) ** 2
    shown = z.reshape(batch, n * n, 1) * saliency.reshape(batch, 1, n * n)
    return assignment(shown - move_cost * squared[None])


def _block_shares(saliency: ArrayLike, n: int) -> jax.Array:
    """f32[B, n, n]: the mean saliency of each block, the whole summing to 1."""
    blocks = area_resample(jnp.asarray(saliency, jnp.float32)[..., None], n, n)[..., 0]
    total = blocks.sum((1, 2), keepdims=True)
    # Where the model is flat every block counts the same.
    return jnp.where(total > 0, blocks / jnp.where(total > 0, total, 1), 1 / n**2)


def _colour_jumps(own: jax.Array, other: jax.Array, n: int) -> jax.Array:
    """f32[B, n, n - 1]: how much more colours jump across each vertical edge when images change.

    The mean over both orders of the two images, less that of either image by itself, at least 0.
    """
    width = own.shape[2]
    right = np.array([math.floor(k * width / n) for k in range(1, n)], int)
    own, other = own.astype(jnp.float32), other.astype(jnp.float32)

    def jump(a: jax.Array, b: jax.Array) -> jax.Array:
        pixels = jnp.abs(a[:, :, right - 1] - b[:, :, right]).mean(-1)
        return area_resample(pixels[..., None], n, n - 1)[..., 0] if n > 1 else pixels[:, :n]

    excess = jump(own, other) + jump(other, own) - jump(own, own) - jump(other, other)
    return jnp.maximum(excess, 0) / 2


def _on_grid(source: jax.Array, *, n: int, finest: int) -> jax.Array:
    """f32[B, m, m, m, m]: moves of n x n blocks as a transport of the finest grid's cells."""
    one_hot = jax.nn.one_hot(source, n * n, dtype=jnp.float32).reshape(-1, n, n, n, n)
    inner = finest // n
    same = jnp.eye(inner, dtype=jnp.float32)
    fine = jnp.einsum("baecd,pr,qs->bapeqcrds", one_hot, same, same)
    return fine.reshape(-1, finest, finest, finest, finest)
