"""SaliencyMix: the box of CutMix, around the partner's most salient pixel."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix, partner_rows
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size
from semjax.policies.cutmix import cutmix_mask
from semjax.probing import asked


def saliencymix(
    *,
    alpha: float = 1.0,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """SaliencyMix: a box of the partner around its saliency peak is pasted into the row.

    The size of the box is that of CutMix; the box is clipped at the border and the weight is the
    mean of the mask. Every row has the peak of its own partner, whoever shares the size. Saliency
    is the input gradient of the label loss: one forward and one backward pass of B rows more.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      weight_scope: who shares the proportion, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy that looks at the model, whose mixes have a mask.

    Raises:
      ValueError: an option out of range; when called, no probe, or images that are not
        [B, H, W, C].

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     return semjax.Outputs(logits=images.reshape(len(images), -1) @ params)
      >>> batch = {"image": jnp.ones((4, 4, 4, 1)), "label": jnp.arange(4)}
      >>> params = jax.random.normal(jax.random.key(0), (16, 4))
      >>> mix = semjax.draw_mix(
      ...     semjax.saliencymix(), batch, jax.random.key(1), apply_fn=apply_fn, params=params)
      >>> mix.mask.shape
      (4, 4, 4, 1)

    References:
      Uddin et al. 2021, SaliencyMix (arXiv:2006.01791). There the map is OpenCV's static saliency,
      and the authors' code takes the peak of one image for the whole batch.
    """
    common = Common(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        height, width = image_size(batch)
        draw = common.draw(key, batch)
        whole = Mix(draw.partner, draw.weight, groups=groups)
        centre = saliency_peak(partner_rows(whole, asked(probe, "saliencymix").saliency()))
        mask = cutmix_mask(draw.weight, centre, height=height, width=width)
        return draw.mix(mask, groups)

    return policy


def saliency_peak(saliency: ArrayLike) -> jax.Array:
    """The row and column of the largest value of each map; the first one of several.

    Args:
      saliency: f32[B, H, W].

    Returns:
      i32[B, 2].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.saliencymix import saliency_peak
      >>> saliency_peak(jnp.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]])).tolist()
      [[1, 2]]
    """
    saliency = jnp.asarray(saliency)
    place = saliency.reshape(len(saliency), -1).argmax(1).astype(jnp.int32)
    return jnp.stack(jnp.divmod(place, saliency.shape[2]), axis=1)
