"""RandAugment on the device: for each image some of fourteen 8-bit ops, all of one strength.

`draw_randaugment` draws, `apply_randaugment` applies, `randaugment` does both. Every image has its
own draw, which depends on the key and on the shape of the batch, never on pixels, and a batch
sharded over devices is augmented where it lies.
"""

from collections.abc import Callable
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax import enhancing, lookups
from semjax.affine import affine_warp
from semjax.checks import checked_images, checked_integer

OPS: tuple[str, ...] = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_ENHANCING: dict[str, Callable[[jax.Array], jax.Array]] = {
    "brightness": jnp.zeros_like,
    "colour": enhancing.grey,
    "contrast": enhancing.mean_grey,
    "sharpness": enhancing.smooth,
}
_STRONGEST = 30


def randaugment(
    key: jax.Array,
    images: ArrayLike,
    *,
    layers: SupportsIndex = 2,
    magnitude: ArrayLike = 9.0,
) -> jax.Array:
    """Applies some ops of OPS to each image, drawn uniformly with replacement, one by one.

    Args:
      key: consumed here.
      images: uint8[B, H, W, C], of 1 or 3 channels; not normalised.
      layers: N, ops for each image, a static integer.
      magnitude: M, scalar in [0, 30], see `apply_randaugment`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: as in `apply_randaugment`, or layers that are not an integer.
      ValueError: as in `apply_randaugment`, or layers below 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.randaugment import randaugment
      >>> randaugment(jax.random.key(0), jnp.zeros((2, 8, 8, 3), jnp.uint8)).shape
      (2, 8, 8, 3)

    References:
      Cubuk et al. 2020, RandAugment (arXiv:1909.13719). The strengths are those of torchvision's
      RandAugment of 31 bins; warps interpolate bilinearly and leave black.
    """
    images = checked_images(images)
    count = checked_integer("layers", layers, natural=True)
    op, sign = draw_randaugment(key, (images.shape[0], count))
    for layer in range(count):
        images = apply_randaugment(images, op[:, layer], sign[:, layer], magnitude=magnitude)
    return images


def draw_randaugment(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Draws ops uniformly from OPS, and signs.

    Args:
      key: consumed here.
      shape: the shape of the draws.

    Returns:
      i32 of the shape, indices into OPS, and i32 of the shape, 1 or -1 with probability 1/2 each.

    Example:
      >>> import jax
      >>> from semjax.randaugment import draw_randaugment
      >>> op, sign = draw_randaugment(jax.random.key(0), (4, 2))
      >>> op.shape, sign.dtype.name
      ((4, 2), 'int32')
    """
    op_key, sign_key = jax.random.split(key)
    op = jax.random.randint(op_key, shape, 0, len(OPS), jnp.int32)
    return op, jnp.where(jax.random.bernoulli(sign_key, 0.5, shape), 1, -1).astype(jnp.int32)


def apply_randaugment(
    images: ArrayLike, op: ArrayLike, sign: ArrayLike, *, magnitude: ArrayLike = 9.0
) -> jax.Array:
    """Applies to each image one op of OPS, all of the same magnitude M.

    | op | strength at t = M / 30, s the sign |
    |---|---|
    | identity, autocontrast, equalize | none |
    | shear_x, shear_y | 0.3 s t |
    | translate_x, translate_y | s times 150 / 331 W t or 150 / 331 H t, truncated, in pixels |
    | rotate | 30 s t degrees |
    | brightness, colour, contrast, sharpness | factor 1 + 0.9 s t |
    | posterize | 8 bits less 4 t, rounded |
    | solarize | threshold 255 (1 - t) |

    The ops are done as one lookup, one warp and one blend, of which at most one changes an image:
    no op is computed fourteen times over.

    Args:
      images: uint8[B, H, W, C], of 1 or 3 channels.
      op: i32[B], indices into OPS.
      sign: i32[B], 1 or -1.
      magnitude: scalar in [0, 30], a number or a traced value (which is not checked).

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8.
      ValueError: images, op or sign of another shape, or a magnitude that is not a scalar in
        [0, 30].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.randaugment import OPS, apply_randaugment
      >>> image = jnp.full((1, 1, 1, 1), 100, jnp.uint8)
      >>> op = jnp.array([OPS.index("brightness")])
      >>> int(apply_randaugment(image, op, jnp.array([1]), magnitude=10)[0, 0, 0, 0])
      130

    References:
      Cubuk et al. 2020, RandAugment (arXiv:1909.13719).
    """
    images = checked_images(images)
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}")
    batch, height, width, _ = images.shape
    op, sign = jnp.asarray(op, jnp.int32), jnp.asarray(sign, jnp.int32)
    for name, value in (("op", op), ("sign", sign)):
        if value.shape != (batch,):
            raise ValueError(f"{name} must have shape ({batch},); found shape {value.shape}")
    if np.shape(magnitude) != ():
        raise ValueError(f"magnitude must be a scalar; found shape {np.shape(magnitude)}")
    if isinstance(magnitude, int | float) and not 0 <= magnitude <= _STRONGEST:
        raise ValueError(f"magnitude must be in [0, {_STRONGEST}]; found {magnitude}")
    part = jnp.asarray(magnitude, jnp.float32) / _STRONGEST

    def of(name: str, value: ArrayLike) -> jax.Array:
        return jnp.where(op == OPS.index(name), value, 0)

    shift = 150 / 331 * part
    warped = affine_warp(
        images,
        degrees=of("rotate", sign * (30 * part)),
        shear_x=of("shear_x", sign * (0.3 * part)),
        shear_y=of("shear_y", sign * (0.3 * part)),
        right=of("translate_x", sign * jnp.trunc(shift * width)),
        down=of("translate_y", sign * jnp.trunc(shift * height)),
    )
    table = lookups.chosen_tables(
        images,
        {name: op == OPS.index(name) for name in lookups.OPS},
        bits=jnp.full(batch, 8 - jnp.round(4 * part), jnp.int32),
        threshold=jnp.full(batch, jnp.ceil(255 * (1 - part)), jnp.int32),
    )
    degenerate, factor = images, jnp.ones(batch, jnp.float32)
    for name, of_images in _ENHANCING.items():
        chosen = op == OPS.index(name)
        degenerate = jnp.where(chosen[:, None, None, None], of_images(images), degenerate)
        factor = jnp.where(chosen, 1 + 0.9 * part * sign, factor)
    # In this order: what is fused into the warp would be made for each of the four corners.
    return enhancing.blend(degenerate, lookups.look_up(warped, table), factor)
