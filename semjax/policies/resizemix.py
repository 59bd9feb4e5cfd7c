"""ResizeMix: the whole partner is resized and pasted into the row."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from semjax.mixing import Mix
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size
from semjax.policies.cutmix import box_mask, clipped_box


def resizemix(
    *,
    scale: tuple[float, float] = (0.1, 0.8),
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """ResizeMix: the whole partner is resized and pasted into the row.

    A share tau of each axis is drawn uniformly from `scale`, and the box of that share is placed as
    in CutMix, by `semjax.policies.cutmix.clipped_box`. The partner, none of it cut off, is resized
    into what is left of the box after clipping. The weight is what the pixels got: the mean of the
    mask, 1 where the box has no area.

    Args:
      scale: the least and the greatest share of an axis.
      weight_scope: who shares a box, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have a mask, 0 inside the box and 1 outside, and a zoom; rows that are
      not mixed or are their own partner are not zoomed.

    Raises:
      ValueError: an option out of range; when called, images that are not [B, H, W, C] or groups
        that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies import resizemix
      >>> mix = resizemix()(jax.random.key(0), {"image": jnp.zeros((4, 8, 6, 3))})
      >>> mix.mask.shape, mix.zoom.shape
      ((4, 8, 6, 1), (4, 4))

    References:
      Qin et al. 2020, ResizeMix (arXiv:2012.11101), section 3.2.
    """
    if not (len(scale) == 2 and 0 <= scale[0] <= scale[1] <= 1):
        raise ValueError(f"scale must be two shares, 0 <= low <= high <= 1; found {scale!r}")
    common = Common(
        weight_scope=weight_scope, probability=probability, pairing=pairing, groups=groups
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        height, width = image_size(batch)
        draw = common.draw(key, batch)

        def sample(key: jax.Array, rows: int) -> jax.Array:
            ratio_key, centre_key = jax.random.split(key)
            ratio = jax.random.uniform(ratio_key, (rows,), jnp.float32, *scale)
            limits = np.array([[height, width]])
            centre = jax.random.randint(centre_key, (rows, 2), 0, limits, jnp.int32)
            return clipped_box(ratio, centre, height=height, width=width)

        box = draw.per_scope(sample)
        alone = ~draw.mixed | (draw.partner == jnp.arange(len(draw.partner)))
        still = jnp.array([[0, 0, height, width]], box.dtype)
        zoom = box_zoom(jnp.where(alone[:, None], still, box), height=height, width=width)
        return draw.mix(box_mask(box, height=height, width=width), groups, zoom=zoom)

    return policy


def box_zoom(box: jax.Array, *, height: int, width: int) -> jax.Array:
    """A box of pixels as `semjax.warping.zoom_into` takes it.

    Args:
      box: i32[B, 4]: top, left, bottom and right; bottom and right are outside the box.
      height: H.
      width: W.

    Returns:
      f32[B, 4]: top, left, height and width of the box, as fractions of the image.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.resizemix import box_zoom
      >>> box_zoom(jnp.array([[2, 0, 3, 6]]), height=4, width=8).tolist()
      [[0.5, 0.0, 0.25, 0.75]]
    """
    corner, size = box[:, :2], np.array([[height, width, height, width]], np.float32)
    return jnp.concatenate([corner, box[:, 2:] - corner], 1).astype(jnp.float32) / size
