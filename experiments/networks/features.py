"""What the networks share: what they return, how images come in and how a map becomes logits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from experiments.layers import rematerialisation
from experiments.layers.convolution import Conv

# Zero-mean normal of variance 2 / fan_out, not truncated: He et al. 2015 (arXiv:1502.01852).
_he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What a network says about a batch of images, as a pytree.

    Attributes:
      logits: f32[B,K].
      pooled: f32[B,D], the vector the classifier reads: the mean of the feature map over h and w,
        taken in float32; in a vision transformer the class token.
      spatial: [B,h,w,D] in the compute dtype, the last feature map before pooling, in a vision
        transformer the tokens of the patches; None for `mlp`.
    """

    logits: jax.Array
    pooled: jax.Array
    spatial: jax.Array | None = None


def prepare(images: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Images in the dtype a network computes in.

    Args:
      images: floating [B,H,W,C].
      dtype: float32 or bfloat16.

    Returns:
      [B,H,W,C] of the dtype.

    Raises:
      ValueError: images of another rank, or with an empty side.
      TypeError: images of integers.

    Example:
      >>> prepare(jnp.ones((2, 8, 8)), jnp.float32)
      Traceback (most recent call last):
      ...
      ValueError: images: expected [B,H,W,C] with H, W, C at least 1, found (2, 8, 8)
    """
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"images: expected [B,H,W,C] with H, W, C at least 1, found {images.shape}"
        )
    # uint8 images reach a network only by a forgotten normalisation: 0..255 would still "train".
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images: expected a floating dtype, found {images.dtype}")
    return images.astype(dtype)


def conv(width: int, size: int, stride: int, how: Any, name: str) -> Conv:
    """A convolution of a network, started as He et al. start it.

    With half the kernel's size of zeros on each side, as published: at stride 2 "SAME" pads an even
    image on the far side only, which shifts every feature by half a pixel.

    Args:
      width: channels that go out.
      size: side of the kernel, odd.
      stride: in both directions.
      how: a module with `compute_dtype` and `lowering`.
      name: of the submodule.

    Returns:
      A module that maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),width].
    """
    return Conv(
        width,
        size,
        stride,
        kernel_init=_he_normal_fan_out,
        dtype=how.compute_dtype,
        lowering=how.lowering,
        name=name,
    )


def every(x: jax.Array, stride: int) -> jax.Array:
    """Every so many rows and columns of a map, from the first on.

    Args:
      x: [B,h,w,C].
      stride: at least 1.

    Returns:
      [B,ceil(h/stride),ceil(w/stride),C].

    Example:
      >>> every(jnp.arange(6.0).reshape(1, 2, 3, 1), 2).ravel().tolist()
      [0.0, 2.0]
    """
    # As x[:, ::stride, ::stride], which would become a gather where B is not known yet.
    return lax.slice(x, (0, 0, 0, 0), x.shape, (1, stride, stride, 1))


def projection(x: jax.Array, width: int, stride: int, how: Any, name: str) -> jax.Array:
    """A strided 1x1 convolution, the shortcut of a block that changes the shape.

    Args:
      x: [B,h,w,C].
      width: channels that go out.
      stride: in both directions.
      how: a module with `compute_dtype` and `lowering`.
      name: of the submodule.

    Returns:
      [B,ceil(h/stride),ceil(w/stride),width].
    """
    # It reads only the pixels it keeps; slicing them out first gives the same values and half the
    # time or less in the backward pass on CPU.
    return conv(width, 1, 1, how, name)(every(x, stride))


def block_class(block: type[nn.Module], network: Any) -> Any:
    """The class of a network's blocks, which keeps only its input where `remat` is set.

    Args:
      block: a module class.
      network: a module with `remat`.

    Returns:
      A class with the same fields, names and variables.
    """
    return rematerialisation.of_module(block) if network.remat else block


def pool_and_classify(
    spatial: jax.Array, num_classes: int, kernel_init: Callable[..., Any]
) -> Features:
    """Averages a feature map and classifies the mean, both in float32.

    Args:
      spatial: [B,h,w,D].
      num_classes: K.
      kernel_init: of the classifier's kernel.

    Returns:
      Features. To be called inside a compact module, where it makes the submodule `head`.
    """
    pooled = jnp.mean(spatial, axis=(1, 2), dtype=jnp.float32)
    head = nn.Dense(num_classes, kernel_init=kernel_init, dtype=jnp.float32, name="head")
    return Features(logits=head(pooled), pooled=pooled, spatial=spatial)
