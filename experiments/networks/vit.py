"""Vision transformers: an image is a sequence of patches, and the class token reads them all."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from experiments.networks.features import Features, block_class, prepare

_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)
# As the published code starts every dense layer of a block.
_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.xavier_uniform())


class Attention(nn.Module):
    """Self-attention of several heads: `softmax(q k / sqrt(d)) v`, and one dense layer after it.

    The products with the weights of attention are summed, and the softmax is taken, in float32.

    References:
      Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762, Sec. 3.2.
    """

    heads: int
    compute_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens [B,N,D] to [B,N,D]; D is a multiple of the heads."""
        batch, tokens, width = x.shape

        def heads_of(name: str) -> jax.Array:
            values = _dense(width, dtype=self.compute_dtype, name=name)(x)
            return values.reshape(batch, tokens, self.heads, width // self.heads)

        query, key, value = (heads_of(name) for name in ("query", "key", "value"))
        sums: dict[str, Any] = {"preferred_element_type": jnp.float32}
        scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, **sums)
        shares = jax.nn.softmax(scores / (width // self.heads) ** 0.5)
        y = jnp.einsum("bhnm,bmhd->bnhd", shares.astype(value.dtype), value, **sums)
        y = y.astype(value.dtype).reshape(batch, tokens, width)
        return _dense(width, dtype=self.compute_dtype, name="out")(y)


class TransformerBlock(nn.Module):
    """Pre-normalised block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.

    References:
      Dosovitskiy et al. 2020, An Image is Worth 16x16 Words, arXiv:2010.11929, eqs. 2 and 3.
    """

    heads: int
    mlp_width: int
    compute_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps tokens [B,N,D] to [B,N,D]."""
        del train  # There is no dropout; blocks of all networks are called alike.
        dtype = self.compute_dtype
        y = _norm(dtype=dtype, name="norm1")(x)
        x = x + Attention(self.heads, dtype, name="attention")(y)
        y = _norm(dtype=dtype, name="norm2")(x)
        small = nn.initializers.normal(1e-6)
        y = nn.gelu(_dense(self.mlp_width, dtype=dtype, bias_init=small, name="dense1")(y))
        return x + _dense(x.shape[-1], dtype=dtype, bias_init=small, name="dense2")(y)


class ViT(nn.Module):
    """Vision transformer with a class token and learned positions; the defaults are ViT-S/16.

    The positions belong to one size of images, that of the images it is initialised with. A patch
    is embedded by a dense layer of its pixels, which is the strided convolution of the paper. There
    is no dropout, as in the plain recipes for ImageNet alone.

    References:
      Dosovitskiy et al. 2020, An Image is Worth 16x16 Words, arXiv:2010.11929.
      Steiner et al. 2021, How to train your ViT?, arXiv:2106.10270, Table 2, for ViT-S.
    """

    num_classes: int
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_width: int = 1536
    compute_dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features`; h, w are H, W over the patch, D the width.

        Raises:
          ValueError: a side of the images that is no multiple of the patch.
        """
        dtype, make = self.compute_dtype, block_class(TransformerBlock, self)
        patches = _patches(prepare(images, dtype), self.patch)
        batch, rows, columns, _ = patches.shape
        x = nn.Dense(self.width, dtype=dtype, name="embedding")(patches)
        x = x.reshape(batch, rows * columns, self.width)

        shape = (1, 1 + rows * columns, self.width)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width), jnp.float32)
        positions = self.param("positions", nn.initializers.normal(0.02), shape, jnp.float32)
        first = jnp.broadcast_to(token.astype(dtype), (batch, 1, self.width))
        x = jnp.concatenate([first, x], axis=1) + positions.astype(dtype)
        for block in range(1, self.depth + 1):
            x = make(self.heads, self.mlp_width, dtype, name=f"block{block}")(x, train)
        x = _norm(dtype=dtype, name="final_norm")(x)

        # Slices, not indices: those would become gathers where B is not known yet.
        pooled = lax.index_in_dim(x, 0, axis=1, keepdims=False).astype(jnp.float32)
        head = nn.Dense(
            self.num_classes,
            kernel_init=nn.initializers.zeros,
            dtype=jnp.float32,
            name="head",
        )
        spatial = lax.slice_in_dim(x, 1, None, axis=1).reshape(batch, rows, columns, self.width)
        return Features(logits=head(pooled), pooled=pooled, spatial=spatial)


def check_sides(height: int, width: int, patch: int = ViT.patch) -> None:
    """Checks that an image can be cut into patches.

    Args:
      height: H.
      width: W.
      patch: side of a patch.

    Raises:
      ValueError: a side that is no multiple of the patch.

    Example:
      >>> check_sides(8, 32)
      Traceback (most recent call last):
      ...
      ValueError: images: sides must be multiples of 16, the side of a patch; found 8x32
    """
    if height % patch or width % patch:
        raise ValueError(
            f"images: sides must be multiples of {patch}, the side of a patch; "
            f"found {height}x{width}"
        )


def _patches(images: jax.Array, side: int) -> jax.Array:
    """[B,H,W,C] as [B,H/side,W/side,side*side*C], pixels in the order of a kernel [side,side,C]."""
    batch, height, width, channels = images.shape
    check_sides(height, width, side)
    rows, columns = height // side, width // side
    x = images.reshape(batch, rows, side, columns, side, channels)
    return x.swapaxes(2, 3).reshape(batch, rows, columns, side * side * channels)
