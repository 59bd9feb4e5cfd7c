"""The networks the study trains: published CIFAR architectures and two small ones for a laptop.

Results are compared with published tables, so every network here has the parameter count, padding,
shortcuts and initialisation of the code behind those tables. All return `Features`, which holds
what a representation can be read from: logits, the pooled vector and the last feature map.

Dimension letters: B batch, H W C image, h w feature map, K classes, D representation.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from experiments.layers import rematerialisation
from experiments.layers.convolution import Conv, Lowering
from experiments.layers.normalisation import BatchNorm, rectify

NAMES = ("resnet18", "preact_resnet18", "resnet20", "wrn_D_W", "cnn", "mlp")

# Zero-mean normal of variance 2 / fan_out, not truncated: He et al. 2015 (arXiv:1502.01852).
_he_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# Uniform on ±1/sqrt(fan_in): what the Wide ResNet code leaves its classifier's kernel at.
_uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Features:
    """What a network says about a batch of images, as a pytree.

    Attributes:
      logits: f32[B,K].
      pooled: f32[B,D], the vector the classifier reads. With a feature map it is that map's mean
        over h and w, taken in float32.
      spatial: [B,h,w,D] in the compute dtype, the last feature map before pooling; None for `mlp`.
    """

    logits: jax.Array
    pooled: jax.Array
    spatial: jax.Array | None = None


def create(
    name: str,
    num_classes: int,
    *,
    compute_dtype: DTypeLike = jnp.float32,
    lowering: Lowering = "xla",
    remat: bool = False,
) -> nn.Module:
    """Builds a network by name.

    The module is called as `module(images, train=...)` with floating images [B,H,W,C] of any
    height, width and number of channels, and returns `Features`. Parameters, BatchNorm statistics
    (collection `"batch_stats"`, absent in `mlp`), the pooling mean and the logits are float32
    whatever the compute dtype.

    Args:
      name: one of `NAMES`; `wrn_D_W` stands for a Wide ResNet of depth D = 6n + 4 and width W,
        such as `wrn_28_10`.
      num_classes: K, at least 1.
      compute_dtype: float32 or bfloat16, the dtype of convolutions and activations.
      lowering: of the convolutions, see `experiments.layers.convolution`; the same parameters, and
        the same values to rounding.
      remat: whether the backward pass computes the inside of every residual block again instead of
        keeping it (rematerialisation): less memory for a third more work.

    Returns:
      A Linen module.

    Raises:
      ValueError: an unknown name, a depth that is not 6n + 4, no classes, another dtype, or remat
        of a network without residual blocks.
      TypeError: `name` is not a string or `num_classes` not an integer.

    Example:
      >>> images = jnp.zeros((2, 8, 8, 1))
      >>> model = create("cnn", 10)
      >>> features, variables = model.init_with_output(jax.random.key(0), images, train=False)
      >>> features.logits.shape, features.pooled.shape, features.spatial.shape
      ((2, 10), (2, 96), (2, 2, 2, 96))
    """
    dtype = _check_options(name, num_classes, compute_dtype)
    if remat and name in ("cnn", "mlp"):
        raise ValueError(f"remat: {name} has no residual blocks to compute again")
    how: dict[str, Any] = {"compute_dtype": dtype, "lowering": lowering}
    if name == "cnn":
        return CNN(num_classes, **how)
    if name == "mlp":
        return MLP(num_classes, compute_dtype=dtype)
    how["remat"] = remat
    if name == "resnet18":
        return ResNet(num_classes, **how)
    if name == "preact_resnet18":
        return PreActResNet(num_classes, **how)
    if name == "resnet20":
        return ResNet(num_classes, widths=(16, 32, 64), blocks=3, pad_shortcut=True, **how)
    depth, width = _parse_wrn(name)
    return PreActResNet(
        num_classes,
        stem_width=16,
        widths=(16 * width, 32 * width, 64 * width),
        blocks=(depth - 4) // 6,
        final_norm=True,
        head_init=_uniform_fan_in,
        **how,
    )


def hidden_modules(name: str) -> tuple[str, ...]:
    """The submodules whose outputs are the hidden layers 1, 2, ... that a policy may mix.

    In residual networks the last block of each stage, so that nothing is mixed inside a block; in
    `cnn` the normalised convolutions, in `mlp` the hidden layers, both before the nonlinearity.
    The last one has the shape of `Features.spatial`, where there is such a map.

    Args:
      name: as for `create`.

    Returns:
      Names of submodules, for `semjax.interceptor`.

    Raises:
      ValueError: an unknown name.

    Example:
      >>> hidden_modules("wrn_16_4")
      ('stage1_block2', 'stage2_block2', 'stage3_block2')
    """
    if name == "mlp":
        return ("dense1", "dense2")
    if name == "cnn":
        return ("norm1", "norm2", "norm3")
    stages, blocks = {
        "resnet18": (4, 2),
        "preact_resnet18": (4, 2),
        "resnet20": (3, 3),
    }.get(name) or (3, (_parse_wrn(name)[0] - 4) // 6)
    return tuple(f"stage{stage}_block{blocks}" for stage in range(1, stages + 1))


def _check_options(name: str, num_classes: int, compute_dtype: DTypeLike) -> jnp.dtype:
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, found {name!r}")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"num_classes: expected an integer, found {num_classes!r}")
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, found {num_classes}")
    dtype = jnp.dtype(compute_dtype)
    # float16 is left out on purpose: without loss scaling its gradients underflow.
    if dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"compute_dtype: expected float32 or bfloat16, found {dtype}")
    return dtype


def _parse_wrn(name: str) -> tuple[int, int]:
    found = re.fullmatch(r"wrn_([1-9][0-9]*)_([1-9][0-9]*)", name)
    allowed = f"expected one of {', '.join(NAMES)}, where D is 6n + 4 (10, 16, 22, 28, 40, ...)"
    if found is None:
        raise ValueError(f"unknown model {name!r}: {allowed} and W at least 1")
    depth, width = int(found[1]), int(found[2])
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"model {name!r} has depth {depth}: {allowed}")
    return depth, width


def _prepare(images: jax.Array, dtype: DTypeLike) -> jax.Array:
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise ValueError(
            f"images: expected [B,H,W,C] with H, W, C at least 1, found {images.shape}"
        )
    # uint8 images reach a network only by a forgotten normalisation: 0..255 would still "train".
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images: expected a floating dtype, found {images.dtype}")
    return images.astype(dtype)


def _conv(width: int, size: int, stride: int, how: Any, name: str) -> Conv:
    """A convolution of a module with `compute_dtype` and `lowering`.

    With half the kernel's size of zeros on each side, as published: at stride 2 "SAME" pads an even
    image on the far side only, which shifts every feature by half a pixel.
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


def _projection(x: jax.Array, width: int, stride: int, how: Any, name: str) -> jax.Array:
    # A strided 1x1 convolution reads only the pixels it keeps; slicing them out first gives the
    # same values and half the time or less in the backward pass on CPU.
    return _conv(width, 1, 1, how, name)(x[:, ::stride, ::stride])


def _blocks(block: type[nn.Module], network: Any) -> Any:
    """The class of a network's blocks, which keeps only its input where `remat` is set."""
    return rematerialisation.of_module(block) if network.remat else block


def _pool_and_classify(
    spatial: jax.Array, num_classes: int, kernel_init: Callable[..., Any]
) -> Features:
    pooled = jnp.mean(spatial, axis=(1, 2), dtype=jnp.float32)
    head = nn.Dense(num_classes, kernel_init=kernel_init, dtype=jnp.float32, name="head")
    return Features(logits=head(pooled), pooled=pooled, spatial=spatial)


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
        y = _conv(self.width, 3, self.stride, self, "conv1")(x)
        y = BatchNorm(dtype, rectify=True, name="norm1")(y, train=train)
        y = _conv(self.width, 3, 1, self, "conv2")(y)
        y = BatchNorm(dtype, name="norm2")(y, train=train)
        return rectify(y + self._shortcut(x, train))

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.width:
            return x
        if not self.pad_shortcut:
            x = _projection(x, self.width, self.stride, self, "shortcut_conv")
            return BatchNorm(self.compute_dtype, name="shortcut_norm")(x, train=train)
        x = x[:, :: self.stride, :: self.stride]
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
            x = _projection(y, self.width, self.stride, self, "shortcut_conv")
        y = _conv(self.width, 3, self.stride, self, "conv1")(y)
        y = BatchNorm(dtype, rectify=True, name="norm2")(y, train=train)
        return x + _conv(self.width, 3, 1, self, "conv2")(y)


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
        block_class = _blocks(BasicBlock, self)
        x = _conv(self.widths[0], 3, 1, self, "stem_conv")(_prepare(images, dtype))
        x = BatchNorm(dtype, rectify=True, name="stem_norm")(x, train=train)
        for stage, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                layer = block_class(
                    width, stride, self.pad_shortcut, dtype, self.lowering, name=name
                )
                x = layer(x, train)
        return _pool_and_classify(x, self.num_classes, nn.initializers.lecun_normal())


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
        block_class = _blocks(PreActBlock, self)
        x = _conv(self.stem_width, 3, 1, self, "stem_conv")(_prepare(images, dtype))
        for stage, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = block_class(width, stride, dtype, self.lowering, name=name)(x, train)
        if self.final_norm:
            x = BatchNorm(dtype, rectify=True, name="final_norm")(x, train=train)
        return _pool_and_classify(x, self.num_classes, self.head_init)


class CNN(nn.Module):
    """Three convolutions with BatchNorm, for 8x8 to 32x32 images on a laptop."""

    num_classes: int
    widths: tuple[int, ...] = (32, 64, 96)
    compute_dtype: DTypeLike = jnp.float32
    lowering: Lowering = "xla"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        x = _prepare(images, self.compute_dtype)
        for layer, width in enumerate(self.widths, start=1):
            stride = 1 if layer == 1 else 2
            x = _conv(width, 3, stride, self, f"conv{layer}")(x)
            norm = BatchNorm(self.compute_dtype, name=f"norm{layer}")
            x = rectify(norm(x, train=train))
        return _pool_and_classify(x, self.num_classes, nn.initializers.lecun_normal())


class MLP(nn.Module):
    """Two hidden layers and no BatchNorm: no row of a batch ever depends on another one."""

    num_classes: int
    widths: tuple[int, ...] = (256, 256)
    compute_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1] and no `spatial`."""
        del train  # Taken so that every network is called alike; nothing here depends on it.
        x = _prepare(images, self.compute_dtype)
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
