"""Two small networks for a laptop: three convolutions, and two hidden layers without any."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from experiments.layers.convolution import Lowering
from experiments.layers.normalisation import BatchNorm, rectify
from experiments.networks.features import Features, conv, pool_and_classify, prepare


class CNN(nn.Module):
    """Three convolutions with BatchNorm, for 8x8 to 32x32 images on a laptop."""

    num_classes: int
    widths: tuple[int, ...] = (32, 64, 96)
    compute_dtype: DTypeLike = jnp.float32
    lowering: Lowering = "xla"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        x = prepare(images, self.compute_dtype)
        for layer, width in enumerate(self.widths, start=1):
            stride = 1 if layer == 1 else 2
            x = conv(width, 3, stride, self, f"conv{layer}")(x)
            norm = BatchNorm(self.compute_dtype, name=f"norm{layer}")
            x = rectify(norm(x, train=train))
        return pool_and_classify(x, self.num_classes, nn.initializers.lecun_normal())


class MLP(nn.Module):
    """Two hidden layers and no BatchNorm: no row of a batch ever depends on another one."""

    num_classes: int
    widths: tuple[int, ...] = (256, 256)
    compute_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1] and no `spatial`."""
        del train  # Taken so that every network is called alike; nothing here depends on it.
        x = prepare(images, self.compute_dtype)
        x = x.reshape(x.shape[0], -1)
        for layer, width in enumerate(self.widths, start=1):
            init = nn.initializers.he_normal()
            dense = nn.Dense(
                width, kernel_init=init, dtype=self.compute_dtype, name=f"dense{layer}"
            )
            x = nn.relu(dense(x))
        pooled = x.astype(jnp.float32)
        head = nn.Dense(self.num_classes, dtype=jnp.float32, name="head")
        return Features(logits=head(pooled), pooled=pooled)
