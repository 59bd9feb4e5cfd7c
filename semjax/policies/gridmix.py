"""GridMix: a grid of holes shows the partner."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size


def gridmix(
    *,
    alpha: float = 1.0,
    holes: tuple[int, int] = (2, 6),
    crop_area: tuple[float, float] = (0.5, 1.0),
    crop_aspect: tuple[float, float] = (0.5, 2.0),
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """GridMix: a grid of holes shows the partner.

    A crop of the image is tiled with square patches, and the first corner of every patch is a
    square hole; a proportion from Beta(alpha, alpha) says how much of a patch is hole. The weight
    is what the pixels got: the mean of the mask.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      holes: the least and the greatest number of patches along the crop's width, drawn uniformly,
        both included; at most half the crop's pixels.
      crop_area: the least and the greatest share of the image that the crop has, drawn uniformly.
      crop_aspect: the least and the greatest height / width of the crop, drawn uniformly. A crop
        that is longer than the image along an axis is cut to it.
      weight_scope: who shares a weight and a grid, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have a mask, 0 in the holes and 1 elsewhere.

    Raises:
      ValueError: an option out of range; when called, images that are not [B, H, W, C] or groups
        that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies import gridmix
      >>> mix = gridmix()(jax.random.key(0), {"image": jnp.zeros((4, 8, 6, 3))})
      >>> mix.mask.shape, bool(jnp.allclose(mix.mask.mean((1, 2, 3)), mix.weight))
      ((4, 8, 6, 1), True)

    References:
      Dobrynin 2021, GridMix (github.com/IlyaDobrynin/GridMixup), for this form of the grid. Baek et
      al. 2021, GridMix (Pattern Recognition 109), for the idea.
    """
    if not (len(holes) == 2 and 1 <= holes[0] <= holes[1]):
        raise ValueError(f"holes must be two numbers, 1 <= low <= high; found {holes!r}")
    if not (len(crop_area) == 2 and 0 < crop_area[0] <= crop_area[1] <= 1):
        raise ValueError(f"crop_area must be two shares, 0 < low <= high <= 1; found {crop_area!r}")
    if not (len(crop_aspect) == 2 and 0 < crop_aspect[0] <= crop_aspect[1] < float("inf")):
        raise ValueError(
            f"crop_aspect must be two ratios, 0 < low <= high, finite; found {crop_aspect!r}"
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

        def sample(key: jax.Array, rows: int) -> jax.Array:
            number_key, area_key, aspect_key, place_key = jax.random.split(key, 4)
            number = jax.random.randint(number_key, (rows, 1), holes[0], holes[1] + 1)
            area = jax.random.uniform(area_key, (rows, 1), jnp.float32, *crop_area)
            aspect = jax.random.uniform(aspect_key, (rows, 1), jnp.float32, *crop_aspect)
            place = jax.random.uniform(place_key, (rows, 2), jnp.float32)
            return jnp.concatenate([number.astype(jnp.float32), area, aspect, place], 1)

        shape = draw.per_scope(sample)
        mask = gridmix_mask(
            draw.weight,
            shape[:, 0],
            area=shape[:, 1],
            aspect=shape[:, 2],
            place=shape[:, 3:],
            height=height,
            width=width,
        )
        return draw.mix(mask, groups)

    return policy


def gridmix_mask(
    weight: ArrayLike,
    holes: ArrayLike,
    *,
    area: ArrayLike,
    aspect: ArrayLike,
    place: ArrayLike,
    height: int,
    width: int,
) -> jax.Array:
    """The mask of GridMix for given proportions and grids.

    The crop has w = floor(sqrt(floor(H * W * area) / aspect)) columns and floor(w * aspect) rows,
    both cut to the image and at least 1; place says where between the first and the last position
    it lies. A patch has p = ceil(columns / holes) pixels a side and its hole
    min(max(floor(p * sqrt(1 - weight)), 1), p - 1), but none at weight 1. Holes are cut off where
    the crop ends.

    Args:
      weight: f32[B], the proportion of the original asked for inside the crop, in [0, 1].
      holes: [B], patches along the crop's width; cut to half its columns.
      area: f32[B], the crop's share of the image.
      aspect: f32[B], height / width of the crop.
      place: f32[B, 2], in [0, 1), where the crop lies vertically and horizontally.
      height: H.
      width: W.

    Returns:
      f32[B, H, W, 1], 0 in the holes and 1 elsewhere.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.gridmix import gridmix_mask
      >>> one, corner = jnp.ones(1), jnp.zeros((1, 2))
      >>> mask = gridmix_mask(
      ...     one * 0.5, one * 2, area=one, aspect=one, place=corner, height=4, width=4
      ... )
      >>> mask[0, :, :, 0].astype(int).tolist()
      [[0, 1, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]]

    References:
      Dobrynin 2021, GridMix (github.com/IlyaDobrynin/GridMixup).
    """
    weight, holes, area, aspect, place = (
        jnp.asarray(value, jnp.float32) for value in (weight, holes, area, aspect, place)
    )
    asked = jnp.floor(jnp.sqrt(jnp.floor(height * width * area) / aspect))
    columns = jnp.clip(asked, 1, width)
    rows = jnp.clip(jnp.floor(asked * aspect), 1, height)
    holes = jnp.clip(holes, 1, jnp.maximum(columns // 2, 1))
    patch = jnp.ceil(columns / holes)
    hole = jnp.minimum(jnp.maximum(jnp.floor(patch * jnp.sqrt(1 - weight)), 1), patch - 1)
    hole = jnp.where(weight < 1, hole, 0)

    def open_at(size: int, length: jax.Array, start: jax.Array) -> jax.Array:
        first = jnp.floor((size - length) * start)
        inner = jnp.arange(size, dtype=jnp.float32)[None] - first[:, None]
        in_hole = jnp.mod(inner, patch[:, None]) < hole[:, None]
        return (inner >= 0) & (inner < length[:, None]) & in_hole

    shown = (
        open_at(height, rows, place[:, 0])[:, :, None]
        & open_at(width, columns, place[:, 1])[:, None]
    )
    return 1.0 - shown[..., None].astype(jnp.float32)
