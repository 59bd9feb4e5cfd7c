"""ResNet-50, the residual network of bottlenecks for photographs."""

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
    pool_and_classify,
    prepare,
    projection,
)

# What the widths of a bottleneck are multiplied by on its way out.
EXPANSION = 4


class Bottleneck(nn.Module):
    """Residual block of a 1x1, a 3x3 and a 1x1 convolution; the last widens to 4 * width.

    The stride is in the 3x3 convolution ("v1.5"), as in the code behind today's published tables;
    the paper had it in the first one. Where the shape changes the shortcut is a strided 1x1
    convolution with BatchNorm. The scale of the last BatchNorm starts at 0, so that every block
    starts as its shortcut.

    References:
      He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385, Fig. 5.
      Goyal et al. 2017, Accurate, Large Minibatch SGD, arXiv:1706.02677, Sec. 5.1.
    """

    width: int
    stride: int
    compute_dtype: DTypeLike
    lowering: Lowering = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),4*width]."""
        dtype, out = self.compute_dtype, EXPANSION * self.width
        y = conv(self.width, 1, 1, self, "conv1")(x)
        y = BatchNorm(dtype, rectify=True, name="norm1")(y, train=train)
        y = conv(self.width, 3, self.stride, self, "conv2")(y)
        y = BatchNorm(dtype, rectify=True, name="norm2")(y, train=train)
        y = conv(out, 1, 1, self, "conv3")(y)
        last = BatchNorm(dtype, scale_init=nn.initializers.zeros, name="norm3")
        y = last(y, train=train)
        if self.stride != 1 or x.shape[-1] != out:
            x = projection(x, out, self.stride, self, "shortcut_conv")
            x = BatchNorm(dtype, name="shortcut_norm")(x, train=train)
        return rectify(y + x)


class BottleneckResNet(nn.Module):
    """ResNet for photographs: 7x7 stem of stride 2, 3x3 max pooling of stride 2, bottlenecks.

    The defaults are ResNet-50.

    References:
      He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385, Table 1.
    """

    num_classes: int
    stem_width: int = 64
    widths: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    compute_dtype: DTypeLike = jnp.float32
    lowering: Lowering = "xla"
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = 4 * widths[-1]."""
        dtype = self.compute_dtype
        make = block_class(Bottleneck, self)
        x = conv(self.stem_width, 7, 2, self, "stem_conv")(prepare(images, dtype))
        x = BatchNorm(dtype, rectify=True, name="stem_norm")(x, train=train)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True), 1):
            for block in range(1, blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = make(width, stride, dtype, self.lowering, name=name)(x, train)
        return pool_and_classify(x, self.num_classes, nn.initializers.normal(0.01))
