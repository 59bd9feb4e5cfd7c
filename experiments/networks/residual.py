"""Residual networks for small images: ResNet, PreActResNet and Wide ResNet."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from experiments.layers.convolution import Lowering
from experiments.layers.normalisation import BatchNorm, rectify
from experiments.networks.features import (
    Features,
    block_class,
    conv,
    every,
    pool_and_classify,
    prepare,
    projection,
)


class BasicBlock(nn.Module):
    """Post-activation residual block: `relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`.

    Where the shape changes the shortcut is a strided 1x1 convolution with BatchNorm, or with
    `pad_shortcut` (option A) the strided identity with zero channels added on both sides.

    References:
      He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385, Fig. 2.
    """

    width: int
    stride: int
    pad_shortcut: bool
    compute_dtype: DTypeLike
    lowering: Lowering = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),width]."""
        dtype = self.compute_dtype
        y = conv(self.width, 3, self.stride, self, "conv1")(x)
        y = BatchNorm(dtype, rectify=True, name="norm1")(y, train=train)
        y = conv(self.width, 3, 1, self, "conv2")(y)
        y = BatchNorm(dtype, name="norm2")(y, train=train)
        return rectify(y + self._shortcut(x, train))

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.width:
            return x
        if not self.pad_shortcut:
            x = projection(x, self.width, self.stride, self, "shortcut_conv")
            return BatchNorm(self.compute_dtype, name="shortcut_norm")(x, train=train)
        x = every(x, self.stride)
        missing = self.width - x.shape[-1]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))


class PreActBlock(nn.Module):
    """Pre-activation residual block: `shortcut + conv(relu(norm(conv(relu(norm(x))))))`.

    The shortcut is x itself, or where the shape changes a strided 1x1 convolution of the first
    activation, without BatchNorm.

    References:
      He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027, Fig. 4(e).
    """

    width: int
    stride: int
    compute_dtype: DTypeLike
    lowering: Lowering = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),width]."""
        dtype = self.compute_dtype
        y = BatchNorm(dtype, rectify=True, name="norm1")(x, train=train)
        if self.stride != 1 or x.shape[-1] != self.width:
            x = projection(y, self.width, self.stride, self, "shortcut_conv")
        y = conv(self.width, 3, self.stride, self, "conv1")(y)
        y = BatchNorm(dtype, rectify=True, name="norm2")(y, train=train)
        return x + conv(self.width, 3, 1, self, "conv2")(y)


class ResNet(nn.Module):
    """Post-activation ResNet for small images: 3x3 stem, no pooling after it.

    The defaults are ResNet-18 with the stem of the CIFAR tables. The published ResNet-20 (Sec. 4.2)
    has `widths=(16, 32, 64)`, three blocks a stage and `pad_shortcut`.

    References:
      He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385.
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    pad_shortcut: bool = False
    compute_dtype: DTypeLike = jnp.float32
    lowering: Lowering = "xla"
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        dtype = self.compute_dtype
        make = block_class(BasicBlock, self)
        x = conv(self.widths[0], 3, 1, self, "stem_conv")(prepare(images, dtype))
        x = BatchNorm(dtype, rectify=True, name="stem_norm")(x, train=train)
        for stage, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                layer = make(width, stride, self.pad_shortcut, dtype, self.lowering, name=name)
                x = layer(x, train)
        return pool_and_classify(x, self.num_classes, nn.initializers.lecun_normal())


class PreActResNet(nn.Module):
    """Pre-activation ResNet for small images, narrow (PreActResNet-18, the default) or wide.

    The widely used PreActResNet-18 code, whose numbers the mixup papers report, pools the last sum
    as it is; He et al. and the Wide ResNet normalise and rectify it first (`final_norm`).

    References:
      He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027.
      Zagoruyko & Komodakis 2016, Wide Residual Networks, arXiv:1605.07146, Table 1.
    """

    num_classes: int
    stem_width: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: int = 2
    final_norm: bool = False
    head_init: Callable[..., Any] = nn.initializers.lecun_normal()
    compute_dtype: DTypeLike = jnp.float32
    lowering: Lowering = "xla"
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        dtype = self.compute_dtype
        make = block_class(PreActBlock, self)
        x = conv(self.stem_width, 3, 1, self, "stem_conv")(prepare(images, dtype))
        for stage, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = make(width, stride, dtype, self.lowering, name=name)(x, train)
        if self.final_norm:
            x = BatchNorm(dtype, rectify=True, name="final_norm")(x, train=train)
        return pool_and_classify(x, self.num_classes, self.head_init)
