"""SmoothMix: the row fades into its partner with the distance from a point."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size


def smoothmix(
    *,
    sigma: tuple[float, float] = (0.25, 0.5),
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """SmoothMix: the row fades into its partner with the distance from a point.

    The share of the row is a Gaussian around a centre that is uniform on the image, of a width
    drawn uniformly from `sigma`. The weight is the mean of the mask and so the row's own, as in the
    paper; some implementations hand it to the partner's label.

    Args:
      sigma: the least and the greatest standard deviation, as a share of each axis.
      weight_scope: who shares a centre and a width, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have a mask with values in [0, 1].

    Raises:
      ValueError: an option out of range; when called, images that are not [B, H, W, C] or groups
        that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies import smoothmix
      >>> mix = smoothmix()(jax.random.key(0), {"image": jnp.zeros((4, 8, 6, 3))})
      >>> mix.mask.shape, bool(jnp.allclose(mix.mask.mean((1, 2, 3)), mix.weight))
      ((4, 8, 6, 1), True)

    References:
      Lee et al. 2020, SmoothMix: a Simple Yet Effective Data Augmentation to Train Robust
      Classifiers (CVPR Workshops).
    """
    if not (len(sigma) == 2 and 0 < sigma[0] <= sigma[1] < float("inf")):
        raise ValueError(f"sigma must be two shares, 0 < low <= high, finite; found {sigma!r}")
    common = Common(
        weight_scope=weight_scope, probability=probability, pairing=pairing, groups=groups
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        height, width = image_size(batch)
        draw = common.draw(key, batch)

        def sample(key: jax.Array, rows: int) -> jax.Array:
            sigma_key, centre_key = jax.random.split(key)
            spread = jax.random.uniform(sigma_key, (rows, 1), jnp.float32, *sigma)
            centre = jax.random.uniform(centre_key, (rows, 2), jnp.float32)
            return jnp.concatenate([spread, centre], 1)

        shape = draw.per_scope(sample)
        mask = smoothmix_mask(shape[:, 0], shape[:, 1:], height=height, width=width)
        return draw.mix(mask, groups)

    return policy


def smoothmix_mask(sigma: ArrayLike, centre: ArrayLike, *, height: int, width: int) -> jax.Array:
    """The mask of SmoothMix for given widths and centres.

    exp(-((y - c_y)^2 + (x - c_x)^2) / (2 sigma^2)), where y = (a + 1/2) / H and x = (b + 1/2) / W
    is the middle of pixel (a, b) in units of the image: on a square image a round Gaussian, on
    another one of the image's proportions.

    Args:
      sigma: f32[B], the standard deviation, in units of the image.
      centre: f32[B, 2], height and width coordinate of the centre, in units of the image.
      height: H.
      width: W.

    Returns:
      f32[B, H, W, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.smoothmix import smoothmix_mask
      >>> mask = smoothmix_mask(jnp.array([0.5]), jnp.array([[0.5, 0.5]]), height=3, width=1)
      >>> mask.ravel().round(4)
      Array([0.8007, 1.    , 0.8007], dtype=float32)

    References:
      Lee et al. 2020, SmoothMix (CVPR Workshops).
    """
    sigma, centre = jnp.asarray(sigma, jnp.float32), jnp.asarray(centre, jnp.float32)

    def fade(size: int, middle: jax.Array) -> jax.Array:
        place = (jnp.arange(size, dtype=jnp.float32)[None] + 0.5) / size
        return jnp.exp(-(((place - middle[:, None]) / sigma[:, None]) ** 2) / 2)

    return (fade(height, centre[:, 0])[:, :, None] * fade(width, centre[:, 1])[:, None])[..., None]
