"""CutMix: a box of the partner is pasted into the row."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.mixing import Mix
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, Sample, WeightScope, image_size


def cutmix(
    *,
    alpha: float = 1.0,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
    correction: bool = True,
    minmax: tuple[float, float] | None = None,
) -> Policy:
    """CutMix: a box of the partner is pasted into the row.

    A proportion is drawn from Beta(alpha, alpha), a box of that share of the area is placed around
    a uniform centre and clipped at the border. The weight is what the pixels got: the mean of the
    mask.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      weight_scope: who shares a weight and a box, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.
      correction: whether the weight is corrected to the clipped box. False keeps the drawn
        proportion, as some implementations do: labels then disagree with the pixels, by up to 0.69.
      minmax: None, or the least and the greatest share of an axis that a box may have: each side is
        then a uniform integer in [floor(size * low), floor(size * high)), the box lies inside the
        image, and its first row and column are uniform in [0, size - side). The weight comes from
        the area; alpha is not looked at.

    Returns:
      A policy whose mixes have a mask, 0 inside the box and 1 outside.

    Raises:
      ValueError: an option out of range; minmax without the correction; when called, images that
        are not [B, H, W, C] or too small for minmax, or groups that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> mix = semjax.cutmix()(jax.random.key(0), {"image": jnp.zeros((4, 8, 6, 3))})
      >>> mix.mask.shape, bool(jnp.allclose(mix.mask.mean((1, 2, 3)), mix.weight))
      ((4, 8, 6, 1), True)

    References:
      Yun et al. 2019, CutMix (arXiv:1905.04899), eqs. 1 and 2. Bochkovskiy et al. 2020, YOLOv4
      (arXiv:2004.10934), whose code places boxes as minmax does.
    """
    if minmax is not None and not (len(minmax) == 2 and 0 <= minmax[0] < minmax[1] <= 1):
        raise ValueError(
            f"minmax must be None or two shares, 0 <= low < high <= 1; found {minmax!r}"
        )
    if minmax is not None and not correction:
        raise ValueError(
            "correction must be True with minmax, whose boxes are drawn for no proportion; "
            "found False"
        )
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
        if minmax is not None:
            box = draw.per_scope(_inner_boxes(minmax, height, width))
            return draw.mix(box_mask(box, height=height, width=width), groups)
        limits = jnp.array([height, width])
        centre = draw.per_scope(
            lambda key, rows: jax.random.randint(
                key, (rows, 2), jnp.zeros((1, 2), int), limits[None]
            )
        )
        mask = cutmix_mask(draw.weight, centre, height=height, width=width)
        mix = draw.mix(mask, groups)
        if correction:
            return mix
        return dataclasses.replace(mix, weight=jnp.where(draw.mixed, draw.weight, 1.0))

    return policy


def cutmix_mask(weight: ArrayLike, centre: ArrayLike, *, height: int, width: int) -> jax.Array:
    """The mask of CutMix for given proportions and box centres.

    The sides are s = floor(size * sqrt(1 - weight)); the box is [max(0, c - s//2), min(size, c +
    s//2)) along each axis, so that an odd side loses a pixel, as in the authors' code.

    Args:
      weight: f32[B], the proportion of the original asked for, in [0, 1].
      centre: i32[B, 2], row and column of the box centre, in [0, H) and [0, W).
      height: H.
      width: W.

    Returns:
      f32[B, H, W, 1], 0 inside the box and 1 outside. Its mean is the proportion after clipping.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.cutmix import cutmix_mask
      >>> mask = cutmix_mask(jnp.array([0.5]), jnp.array([[16, 16]]), height=32, width=32)
      >>> float(mask.mean())
      0.52734375

    References:
      Yun et al. 2019, CutMix (arXiv:1905.04899), eq. 2.
    """
    ratio = jnp.sqrt(1 - jnp.asarray(weight, jnp.float32))
    box = clipped_box(ratio, centre, height=height, width=width)
    return box_mask(box, height=height, width=width)


def clipped_box(ratio: ArrayLike, centre: ArrayLike, *, height: int, width: int) -> jax.Array:
    """The box of a share of each axis around a centre, clipped at the border.

    [max(0, c - s//2), min(size, c + s//2)) along each axis, with s = floor(size * ratio).

    Args:
      ratio: f32[B], the share of each axis, in [0, 1].
      centre: i32[B, 2], row and column of the box centre, in [0, H) and [0, W).
      height: H.
      width: W.

    Returns:
      i32[B, 4]: top, left, bottom and right; bottom and right are outside the box.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.cutmix import clipped_box
      >>> clipped_box(jnp.array([0.5]), jnp.array([[1, 4]]), height=8, width=6).tolist()
      [[0, 3, 3, 5]]
    """
    size = np.array([[height, width]])
    centre = jnp.asarray(centre, jnp.int32)
    side = jnp.floor(size.astype(np.float32) * jnp.asarray(ratio, jnp.float32)[:, None])
    half = side.astype(jnp.int32) // 2
    first = jnp.maximum(centre - half, 0)
    return jnp.concatenate([first, jnp.minimum(centre + half, size.astype(np.int32))], 1)


def box_mask(box: ArrayLike, *, height: int, width: int) -> jax.Array:
    """The mask of a box that is cut out.

    Args:
      box: i32[B, 4]: top, left, bottom and right; bottom and right are outside the box.
      height: H.
      width: W.

    Returns:
      f32[B, H, W, 1], 0 inside the box and 1 outside.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.cutmix import box_mask
      >>> box_mask(jnp.array([[0, 1, 1, 3]]), height=2, width=3)[0, :, :, 0].tolist()
      [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    box = jnp.asarray(box)

    def inside(size: int, first: jax.Array, last: jax.Array) -> jax.Array:
        place = jnp.arange(size)[None]
        return (place >= first[:, None]) & (place < last[:, None])

    rows = inside(height, box[:, 0], box[:, 2])[:, :, None]
    return 1.0 - (rows & inside(width, box[:, 1], box[:, 3])[:, None])[..., None].astype(
        jnp.float32
    )


def _inner_boxes(minmax: tuple[float, float], height: int, width: int) -> Sample:
    """Draws boxes that lie inside the image, as `box_mask` takes them."""
    size = np.array([[height, width]])
    least, most = (np.floor(size * share).astype(int) for share in minmax)
    if (least >= most).any():
        raise ValueError(
            f"minmax={minmax!r} leaves no side to draw for images of {height} x {width} pixels: "
            "floor(size * low) must be below floor(size * high) along both axes"
        )

    def sample(key: jax.Array, rows: int) -> jax.Array:
        side_key, place_key = jax.random.split(key)
        side = jax.random.randint(side_key, (rows, 2), least, most, jnp.int32)
        # As the original has it, a box never touches the last row and column.
        first = jax.random.randint(place_key, (rows, 2), 0, size - side, jnp.int32)
        return jnp.concatenate([first, first + side], 1)

    return sample
