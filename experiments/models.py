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


def create(name: str, num_classes: int, *, compute_dtype: DTypeLike = jnp.float32) -> nn.Module:
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

    Returns:
      A Linen module.

    Raises:
      ValueError: an unknown name, a depth that is not 6n + 4, no classes, or another dtype.
      TypeError: `name` is not a string or `num_classes` not an integer.

    Example:
      >>> images = jnp.zeros((2, 8, 8, 1))
      >>> model = create("cnn", 10)
      >>> features, variables = model.init_with_output(jax.random.key(0), images, train=False)
      >>> features.logits.shape, features.pooled.shape, features.spatial.shape
      ((2, 10), (2, 96), (2, 2, 2, 96))
    """
    dtype = _check_options(name, num_classes, compute_dtype)
    if name == "resnet18":
        return ResNet(num_classes, compute_dtype=dtype)
    if name == "preact_resnet18":
        return PreActResNet(num_classes, compute_dtype=dtype)
    if name == "resnet20":
        return ResNet(
            num_classes, widths=(16, 32, 64), blocks=3, pad_shortcut=True, compute_dtype=dtype
        )
    if name == "cnn":
        return CNN(num_classes, compute_dtype=dtype)
    if name == "mlp":
        return MLP(num_classes, compute_dtype=dtype)
    depth, width = _parse_wrn(name)
    return PreActResNet(
        num_classes,
        stem_width=16,
        widths=(16 * width, 32 * width, 64 * width),
        blocks=(depth - 4) // 6,
        final_norm=True,
        head_init=_uniform_fan_in,
        compute_dtype=dtype,
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


def _conv3x3(width: int, stride: int, dtype: DTypeLike, name: str) -> nn.Conv:
    # One pixel on each side, as published: at stride 2 "SAME" pads an even image on the far side
    # only, which shifts every feature by half a pixel.
    return nn.Conv(
        width,
        (3, 3),
        strides=stride,
        padding=((1, 1), (1, 1)),
        use_bias=False,
        kernel_init=_he_normal_fan_out,
        dtype=dtype,
        name=name,
    )


def _projection(x: jax.Array, width: int, stride: int, dtype: DTypeLike, name: str) -> jax.Array:
    # A strided 1x1 convolution reads only the pixels it keeps; slicing them out first gives the
    # same values and half the time or less in the backward pass on CPU.
    conv = nn.Conv(
        width, (1, 1), use_bias=False, kernel_init=_he_normal_fan_out, dtype=dtype, name=name
    )
    return conv(x[:, ::stride, ::stride])


def _norm(x: jax.Array, train: bool, dtype: DTypeLike, name: str) -> jax.Array:
    # Momentum 0.9 here is 0.1 in torch's terms. The running variance is the biased one (divided by
    # n); torch stores the unbiased one (n - 1). Flax takes the statistics in float32.
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )(x)


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

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),width]."""
        dtype = self.compute_dtype
        y = _conv3x3(self.width, self.stride, dtype, "conv1")(x)
        y = nn.relu(_norm(y, train, dtype, "norm1"))
        y = _conv3x3(self.width, 1, dtype, "conv2")(y)
        y = _norm(y, train, dtype, "norm2")
        return nn.relu(y + self._shortcut(x, train))

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.width:
            return x
        if not self.pad_shortcut:
            x = _projection(x, self.width, self.stride, self.compute_dtype, "shortcut_conv")
            return _norm(x, train, self.compute_dtype, "shortcut_norm")
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

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),width]."""
        dtype = self.compute_dtype
        y = nn.relu(_norm(x, train, dtype, "norm1"))
        if self.stride != 1 or x.shape[-1] != self.width:
            x = _projection(y, self.width, self.stride, dtype, "shortcut_conv")
        y = _conv3x3(self.width, self.stride, dtype, "conv1")(y)
        y = nn.relu(_norm(y, train, dtype, "norm2"))
        return x + _conv3x3(self.width, 1, dtype, "conv2")(y)


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

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        dtype = self.compute_dtype
        x = _conv3x3(self.widths[0], 1, dtype, "stem_conv")(_prepare(images, dtype))
        x = nn.relu(_norm(x, train, dtype, "stem_norm"))
        for stage, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = BasicBlock(width, stride, self.pad_shortcut, dtype, name=name)(x, train=train)
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

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        dtype = self.compute_dtype
        x = _conv3x3(self.stem_width, 1, dtype, "stem_conv")(_prepare(images, dtype))
        for stage, width in enumerate(self.widths, start=1):
            for block in range(1, self.blocks + 1):
                stride = 2 if stage > 1 and block == 1 else 1
                name = f"stage{stage}_block{block}"
                x = PreActBlock(width, stride, dtype, name=name)(x, train=train)
        if self.final_norm:
            x = nn.relu(_norm(x, train, dtype, "final_norm"))
        return _pool_and_classify(x, self.num_classes, self.head_init)


class CNN(nn.Module):
    """Three convolutions with BatchNorm, for 8x8 to 32x32 images on a laptop."""

    num_classes: int
    widths: tuple[int, ...] = (32, 64, 96)
    compute_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Features:
        """Maps floating images [B,H,W,C] to `Features` with D = widths[-1]."""
        x = _prepare(images, self.compute_dtype)
        for layer, width in enumerate(self.widths, start=1):
            stride = 1 if layer == 1 else 2
            x = _conv3x3(width, stride, self.compute_dtype, f"conv{layer}")(x)
            x = nn.relu(_norm(x, train, self.compute_dtype, f"norm{layer}"))
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
