"""Mixup: rows are mixed as wholes."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from semjax.mixing import Mix
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope


def mixup(
    *,
    alpha: float = 1.0,
    weight_range: tuple[float, float] = (0.0, 1.0),
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """Mixup: rows are mixed as wholes, in a proportion drawn from Beta(alpha, alpha).

    | weight_scope | who shares a weight (and the decision to mix at all) |
    |---|---|
    | batch | the whole batch |
    | pair | rows i and n - 1 - i of a group, the pairs that pairing="reverse" makes |
    | sample | nobody |

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing (weight 1), 1 the uniform law.
      weight_range: (low, high), what the draw from [0, 1] is stretched to. With alpha=1 the law is
        uniform on it. Beyond [0, 1] rows are extrapolated, labels and representations with them:
        a row moves away from its partner (above 1) or past it (below 0).
      weight_scope: see the table.
      probability: the probability of mixing at all, drawn once per scope; rows not mixed get weight
        1.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have no mask.

    Raises:
      ValueError: an option out of range; when called, groups that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.mixup(alpha=1.0, pairing="derangement")
      >>> mix = policy(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 3))})
      >>> mix.partner.shape, mix.weight.shape, mix.mask
      ((4,), (4,), None)

    References:
      Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization (arXiv:1710.09412), eq. 1.
    """
    low, high = weight_range
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(
            f"weight_range must be finite and in order, (low, high); found {weight_range!r}"
        )
    common = Common(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        draw = common.draw(key, batch)
        weight = draw.weight
        if alpha != 0 and (low, high) != (0, 1):
            weight = low + (high - low) * weight
        weight = jnp.where(draw.mixed, weight, 1.0)
        return Mix(draw.partner, weight, groups=groups)

    return policy
