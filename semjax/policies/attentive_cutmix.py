"""Attentive CutMix: the cells of the partner that the model attends to are pasted into the row."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix, partner_rows
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size
from semjax.probing import asked
from semjax.warping import area_resample


def attentive_cutmix(
    *,
    cells: int = 6,
    grid: int = 7,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """Attentive CutMix: the partner's most attended cells of a coarse grid are pasted.

    The attention of a cell is the mean square of the model's own feature map over channels, brought
    to the grid by area averaging: one forward pass of B rows more. The weight is the mean of the
    mask, 1 - cells / grid^2 but for cells of unequal size. A grid finer than the image is cut to
    its pixels, and the number of cells with it.

    Args:
      cells: N, how many cells are pasted, from 1 to grid^2.
      grid: cells along each side, at least 1.
      weight_scope: who shares the decision to mix at all, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy that looks at the model, whose mixes have a mask.

    Raises:
      ValueError: an option out of range; when called, no probe, a model without a feature map, or
        images that are not [B, H, W, C].

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     features = images @ params
      ...     return semjax.Outputs(logits=features.mean((1, 2)), representation=features)
      >>> batch = {"image": jnp.ones((4, 7, 7, 1)), "label": jnp.arange(4)}
      >>> mix = semjax.draw_mix(semjax.attentive_cutmix(), batch, jax.random.key(1),
      ...                       apply_fn=apply_fn, params=jnp.ones((1, 4)))
      >>> (49 * (1 - mix.weight)).round().tolist()
      [6.0, 6.0, 6.0, 6.0]

    References:
      Walawalkar et al. 2020, Attentive CutMix (arXiv:2003.13048); there the map is that of another,
      pretrained network.
    """
    if not (isinstance(grid, int) and grid >= 1):
        raise ValueError(f"grid must be an integer of at least 1; found {grid!r}")
    if not (isinstance(cells, int) and 1 <= cells <= grid**2):
        raise ValueError(f"cells must be an integer in [1, {grid**2}]; found {cells!r}")
    common = Common(
        weight_scope=weight_scope, probability=probability, pairing=pairing, groups=groups
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        height, width = image_size(batch)
        draw = common.draw(key, batch)
        attention = jnp.square(asked(probe, "attentive_cutmix").features()).mean(-1)
        whole = Mix(draw.partner, draw.weight, groups=groups)
        rows, columns = min(grid, height), min(grid, width)
        count = math.floor(cells * rows * columns / grid**2)
        attention = area_resample(attention[..., None], rows, columns)[..., 0]
        mask = attentive_mask(partner_rows(whole, attention), count, height=height, width=width)
        return draw.mix(mask, groups)

    return policy


def attentive_mask(attention: ArrayLike, cells: int, *, height: int, width: int) -> jax.Array:
    """The mask that is 0 in the cells of the largest attention, each pixel in the cell it lies in.

    Args:
      attention: f32[B, h, w], of the partner.
      cells: N, how many cells are 0; of equal ones the first.
      height: H.
      width: W.

    Returns:
      f32[B, H, W, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.attentive_cutmix import attentive_mask
      >>> attentive_mask(jnp.array([[[1.0, 3.0, 2.0]]]), 1, height=1, width=6).ravel()
      Array([1., 1., 0., 0., 1., 1.], dtype=float32)
    """
    attention = jnp.asarray(attention)
    batch, rows, columns = attention.shape
    order = jnp.argsort(-attention.reshape(batch, -1), axis=1, stable=True)
    kept = jnp.ones((batch, rows * columns), jnp.float32)
    kept = kept.at[jnp.arange(batch)[:, None], order[:, :cells]].set(0.0)
    kept = kept.reshape(batch, rows, columns)
    row = jnp.arange(height) * rows // height
    column = jnp.arange(width) * columns // width
    return kept[:, row][:, :, column][..., None]
