"""Mixup: rows are mixed as wholes."""

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
    common = Common(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        draw = common.draw(key, batch)
        weight = jnp.where(draw.mixed, draw.weight, 1.0)
        return Mix(draw.partner, weight, groups=groups)

    return policy
