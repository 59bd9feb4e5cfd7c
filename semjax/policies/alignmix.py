"""AlignMix: feature maps are aligned by optimal transport before they are mixed."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix, partner_rows
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope
from semjax.probing import asked
from semjax.transport import sinkhorn


def alignmix(
    *,
    alpha: float = 2.0,
    layer: int = 1,
    epsilon: float = 0.1,
    iterations: int = 100,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """AlignMix: mixes the feature maps of two rows, the cells of one moved to match the other's.

    Cells are matched by entropic optimal transport of their features, scaled to unit length, with
    the squared distance as cost. A fair coin for each row decides whose geometry is kept: the
    partner's cells are moved to where the row's are alike, or the row's to where the partner's
    are. The plan is held constant. Its rows sum to 1 and its columns nearly, so that the pooled
    mean is nearly kept. Nothing moves in a row of weight 1, nor in one that is its own partner. One
    forward pass of B rows more.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      layer: the layer at which apply_fn offers its feature map, `x = hidden(layer, x)`.
      epsilon: weight of the entropy, above 0; costs are in [0, 4].
      iterations: of Sinkhorn's scaling, at least 1.
      weight_scope: who shares the proportion, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy that looks at the model, whose mixes have a layer and two transports. Use it by turns
      with mixup at the input, as the authors do: `choose({alignmix(layer=k): 0.5, mixup(): 0.5})`.

    Raises:
      ValueError: an option out of range; when called, no probe, or a model without a feature map.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng, hidden):
      ...     features = hidden(1, images @ params)
      ...     return semjax.Outputs(logits=features.mean((1, 2)), representation=features)
      >>> batch = {"image": jnp.ones((4, 2, 3, 1)), "label": jnp.arange(4)}
      >>> mix = semjax.draw_mix(semjax.alignmix(), batch, jax.random.key(1),
      ...                       apply_fn=apply_fn, params=jnp.ones((1, 4)))
      >>> mix.transport.shape
      (4, 2, 3, 2, 3)

    References:
      Venkataramanan et al. 2022, AlignMixup (arXiv:2103.15375), eqs. 3 to 7.
    """
    if not (isinstance(layer, int) and layer >= 1):
        raise ValueError(f"layer must be an integer of at least 1; found {layer!r}")
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be finite and above 0; found {epsilon!r}")
    if not (isinstance(iterations, int) and iterations >= 1):
        raise ValueError(f"iterations must be an integer of at least 1; found {iterations!r}")
    common = Common(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        draw_key, coin_key = jax.random.split(key)
        draw = common.draw(draw_key, batch)
        features = asked(probe, "alignmix").features()
        weight = jnp.where(draw.mixed, draw.weight, 1.0)
        whole = Mix(draw.partner, weight, groups=groups)
        partner = partner_rows(whole, features)
        plan = alignment(features, partner, epsilon=epsilon, iterations=iterations)
        back = alignment(partner, features, epsilon=epsilon, iterations=iterations)
        cells = math.prod(features.shape[1:3])
        still = jnp.eye(cells, dtype=jnp.float32).reshape(1, *plan.shape[1:])
        own = jax.random.bernoulli(coin_key, 0.5, draw.mixed.shape)
        moved = (weight < 1) & (draw.partner != jnp.arange(len(draw.partner)))
        moves_own = (own & moved).reshape(-1, 1, 1, 1, 1)
        moves_partner = (~own & moved).reshape(-1, 1, 1, 1, 1)
        return Mix(
            draw.partner,
            weight,
            groups=groups,
            transport=jnp.where(moves_partner, plan, still),
            own_transport=jnp.where(moves_own, back, still),
            layer=jnp.full(draw.mixed.shape, layer, jnp.int32),
            layers=(layer,),
        )

    return policy


def alignment(
    features: ArrayLike, partner: ArrayLike, *, epsilon: float = 0.1, iterations: int = 100
) -> jax.Array:
    """What each cell of a feature map takes from each cell of another, by entropic transport.

    Args:
      features: f32[B, h, w, D].
      partner: f32[B, h, w, D], whose cells are to be moved.
      epsilon: weight of the entropy.
      iterations: of Sinkhorn's scaling.

    Returns:
      f32[B, h, w, h, w], the shares of each cell summing to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.alignmix import alignment
      >>> x = jnp.eye(2).reshape(1, 1, 2, 2)
      >>> alignment(x, x[:, :, ::-1], epsilon=0.01).reshape(2, 2).round(3).tolist()
      [[0.0, 1.0], [1.0, 0.0]]

    References:
      Venkataramanan et al. 2022, AlignMixup (arXiv:2103.15375), eqs. 4 to 6.
    """
    a, b = jnp.asarray(features, jnp.float32), jnp.asarray(partner, jnp.float32)
    shape, cells = a.shape, math.prod(a.shape[1:3])
    a, b = (_unit(x.reshape(shape[0], cells, -1)) for x in (a, b))
    # Of unit vectors |a - b|^2 is |a|^2 + |b|^2 - 2 a.b; a cell that is all zero stays so.
    inner = jnp.einsum("bid,bjd->bij", a, b, precision=jax.lax.Precision.HIGHEST)
    cost = jnp.square(a).sum(-1)[:, :, None] + jnp.square(b).sum(-1)[:, None] - 2 * inner
    plan = cells * sinkhorn(cost, epsilon=epsilon, iterations=iterations)
    plan = jax.lax.stop_gradient(plan)
    return plan.reshape(shape[0], *shape[1:3], *shape[1:3])


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))
