"""AugMix on the device: chains of 8-bit image ops, mixed with each other and with the image.

The ops are those of `semjax.pixel_ops`, which overlap with no corruption of CIFAR-C or ImageNet-C,
so that a model trained with AugMix may be tested there.

`draw_augmix` draws, `apply_augmix` applies, `augmix` does both. Every image has its own draw, which
depends on the key and on the shape of the batch, never on pixels, and a batch sharded over devices
is augmented where it lies.
"""

import dataclasses
import math
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.checks import checked_images, checked_integer
from semjax.pixel_ops import OPS, apply_ops, draw_ops, to_uint8, to_unit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AugmixDraw:
    """What AugMix draws for a batch: its chains, and how they are mixed.

    Attributes:
      op: i32[B, width, D], indices into `semjax.pixel_ops.OPS`, D the depth of the longest
        chain.
      level: f32[B, width, D], the strength of each op, see `semjax.pixel_ops.apply_ops`.
      depth: i32[B, width], how many of its D ops each chain applies.
      chain_weight: f32[B, width], w: the share of each chain among the chains; rows that sum to 1.
      mix_weight: f32[B], m: the share of the chains; the rest is the image.

    Example:
      >>> import jax
      >>> from semjax.augmix import draw_augmix
      >>> draw = draw_augmix(jax.random.key(0), 8, width=2)
      >>> draw.op.shape, draw.mix_weight.shape
      ((8, 2, 3), (8,))
    """

    op: jax.Array
    level: jax.Array
    depth: jax.Array
    chain_weight: jax.Array
    mix_weight: jax.Array


def augmix(
    key: jax.Array,
    images: ArrayLike,
    *,
    severity: ArrayLike = 3.0,
    width: SupportsIndex = 3,
    depth: SupportsIndex = -1,
    alpha: float = 1.0,
) -> jax.Array:
    """Mixes each image with its own random chains of ops: `apply_augmix` of `draw_augmix`.

    out = (1 - m) * x + m * sum_k w_k chain_k(x)

    Args:
      key: consumed here.
      images: [B, H, W, C], uint8, or floating in [0, 1]; not normalised.
      severity: scalar in (0.1, 10], see `draw_augmix`.
      width: chains for each image, a static integer.
      depth: ops in each chain, a static integer; -1 draws 1, 2 or 3 for each chain.
      alpha: parameter of the Dirichlet and the Beta law.

    Returns:
      f32[B, H, W, C] in [0, 1], to be normalised afterwards.

    Raises:
      TypeError: as in `draw_augmix` and `apply_augmix`.
      ValueError: as in `draw_augmix` and `apply_augmix`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.augmix import augmix
      >>> x = augmix(jax.random.key(0), jnp.full((2, 8, 6, 3), 255, jnp.uint8))
      >>> x.shape, x.dtype.name, bool((x <= 1).all())
      ((2, 8, 6, 3), 'float32', True)

    References:
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781), algorithm 1.
    """
    images = checked_images(images)
    draw = draw_augmix(
        key, images.shape[0], severity=severity, width=width, depth=depth, alpha=alpha
    )
    return apply_augmix(draw, images)


def draw_augmix(
    key: jax.Array,
    batch_size: int,
    *,
    severity: ArrayLike = 3.0,
    width: SupportsIndex = 3,
    depth: SupportsIndex = -1,
    alpha: float = 1.0,
) -> AugmixDraw:
    """Draws the chains of AugMix and their weights, for each image on its own.

    w ~ Dirichlet(alpha, ..., alpha), m ~ Beta(alpha, alpha), the ops as in
    `semjax.pixel_ops.draw_ops`.

    Args:
      key: consumed here.
      batch_size: B.
      severity: scalar in (0.1, 10], see `semjax.pixel_ops.draw_ops`.
      width: chains for each image, a static integer, at least 1.
      depth: ops in each chain, a static integer, at least 1; -1 draws 1, 2 or 3 for each chain.
      alpha: parameter of both laws, positive and finite.

    Returns:
      The AugmixDraw of the batch.

    Raises:
      TypeError: a width or depth that is not an integer.
      ValueError: an option out of range.

    Example:
      >>> import jax
      >>> from semjax.augmix import draw_augmix
      >>> draw_augmix(jax.random.key(0), 4, depth=2).depth.tolist()
      [[2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]

    References:
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781), algorithm 1.
    """
    width, depth = checked_integer("width", width), checked_integer("depth", depth)
    if width < 1:
        raise ValueError(f"width must be at least 1; found {width}")
    if depth < 1 and depth != -1:
        raise ValueError(f"depth must be at least 1, or -1 to draw it; found {depth}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be positive and finite; found {alpha!r}")
    # One stream for each decision: an option changes its own draw and no other.
    op_key, depth_key, chain_key, mix_key = jax.random.split(key, 4)
    chains, longest = (batch_size, width), 3 if depth == -1 else depth
    op, level = draw_ops(op_key, (*chains, longest), severity=severity)
    shortest = 1 if depth == -1 else depth
    concentration = jnp.full(width, alpha, jnp.float32)
    return AugmixDraw(
        op=op,
        level=level,
        depth=jax.random.randint(depth_key, chains, shortest, longest + 1, jnp.int32),
        chain_weight=jax.random.dirichlet(chain_key, concentration, (batch_size,), jnp.float32),
        mix_weight=jax.random.beta(mix_key, alpha, alpha, (batch_size,), jnp.float32),
    )


def apply_augmix(draw: AugmixDraw, images: ArrayLike) -> jax.Array:
    """Applies drawn chains to images and mixes the results with them.

    out = (1 - m) * x + m * sum_k w_k chain_k(x), clipped to [0, 1]

    Chains work on 8 bits, as Pillow does: floating images are rounded to multiples of 1 / 255 for
    them, and every op rounds its result. The share of the image itself is not rounded: with m = 0
    the image comes back.

    Args:
      draw: the draw, of B images.
      images: [B, H, W, C], uint8, or floating in [0, 1]; values outside are clipped.

    Returns:
      f32[B, H, W, C] in [0, 1].

    Raises:
      TypeError: images of another dtype.
      ValueError: images of another shape, or of another number than the draw.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp
      >>> from semjax.augmix import apply_augmix, draw_augmix
      >>> draw = draw_augmix(jax.random.key(0), 1)
      >>> draw = dataclasses.replace(draw, mix_weight=jnp.zeros(1))
      >>> apply_augmix(draw, jnp.array([0.1, 0.2]).reshape(1, 1, 2, 1)).ravel()
      Array([0.1, 0.2], dtype=float32)

    References:
      Hendrycks et al. 2020, AugMix (arXiv:1912.02781), algorithm 1.
    """
    images = checked_images(images)
    batch, width, longest = draw.op.shape
    if images.shape[0] != batch:
        raise ValueError(f"images must be the {batch} of the draw; found shape {images.shape}")
    pixels = images.shape[1:]
    chains = jnp.broadcast_to(to_uint8(images)[:, None], (batch, width, *pixels))
    chains = chains.reshape(batch * width, *pixels)

    on = jnp.arange(longest, dtype=jnp.int32)[None, None] < draw.depth[:, :, None]
    steps = jnp.where(on, draw.op, len(OPS)), draw.level  # no op of that number: the identity
    chains, _ = jax.lax.scan(
        lambda x, drawn: (apply_ops(x, *drawn), None),
        chains,
        tuple(x.reshape(batch * width, longest).T for x in steps),
    )
    weighted = draw.chain_weight[:, :, None, None, None] * to_unit(chains).reshape(
        batch, width, *pixels
    )
    share = draw.mix_weight[:, None, None, None]
    # Weights sum to 1 up to rounding only.
    return jnp.clip((1 - share) * to_unit(images) + share * weighted.sum(1), 0, 1)
