"""The networks the study trains, by name: published architectures and two small ones for a laptop.

Results are compared with published tables, so every network here has the parameter count, padding,
shortcuts and initialisation of the code behind those tables. All return `Features`, which holds
what a representation can be read from: logits, the pooled vector and the last feature map.

resnet18, preact_resnet18, resnet20, wrn_D_W   for small images: 3x3 stem, no pooling after it
resnet50, vit_s_16                             for photographs: 224x224 in the published tables
cnn, mlp                                       for a laptop

Dimension letters: B batch, H W C image, h w feature map, K classes, D representation.
"""

import re
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from experiments.layers.convolution import Lowering
from experiments.networks import vit
from experiments.networks.bottleneck import BottleneckResNet
from experiments.networks.features import Features
from experiments.networks.residual import PreActResNet, ResNet
from experiments.networks.small import CNN, MLP

__all__ = ["NAMES", "Features", "check_image", "create", "hidden_modules"]

NAMES = (
    "resnet18",
    "preact_resnet18",
    "resnet20",
    "wrn_D_W",
    "resnet50",
    "vit_s_16",
    "cnn",
    "mlp",
)

# Uniform on ±1/sqrt(fan_in): what the Wide ResNet code leaves its classifier's kernel at.
_uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


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
    height, width and number of channels (of `vit_s_16`: sides that are multiples of 16, and those
    it was initialised with), and returns `Features`. Parameters, BatchNorm statistics (collection
    `"batch_stats"`, absent in `vit_s_16` and `mlp`), the pooling mean and the logits are float32
    whatever the compute dtype.

    Args:
      name: one of `NAMES`; `wrn_D_W` stands for a Wide ResNet of depth D = 6n + 4 and width W,
        such as `wrn_28_10`.
      num_classes: K, at least 1.
      compute_dtype: float32 or bfloat16, the dtype of convolutions and activations.
      lowering: of the convolutions, see `experiments.layers.convolution`; the same parameters, and
        the same values to rounding. `vit_s_16` and `mlp` have none.
      remat: whether the backward pass computes the inside of every residual or transformer block
        again instead of keeping it (rematerialisation): less memory for a third more work.

    Returns:
      A Linen module.

    Raises:
      ValueError: an unknown name, a depth that is not 6n + 4, no classes, another dtype, or remat
        of a network without residual blocks.
      TypeError: `name` is not a string or `num_classes` not an integer.

    Example:
      >>> import jax
      >>> images = jnp.zeros((2, 8, 8, 1))
      >>> model = create("cnn", 10)
      >>> features, variables = model.init_with_output(jax.random.key(0), images, train=False)
      >>> features.logits.shape, features.pooled.shape, features.spatial.shape
      ((2, 10), (2, 96), (2, 2, 2, 96))
    """
    dtype = _check_options(name, num_classes, compute_dtype)
    if remat and name in ("cnn", "mlp"):
        raise ValueError(f"remat: {name} has no residual blocks to compute again")
    if name == "mlp":
        return MLP(num_classes, compute_dtype=dtype)
    if name == "vit_s_16":
        return vit.ViT(num_classes, compute_dtype=dtype, remat=remat)
    how: dict[str, Any] = {"compute_dtype": dtype, "lowering": lowering}
    if name == "cnn":
        return CNN(num_classes, **how)
    how["remat"] = remat
    if name == "resnet50":
        return BottleneckResNet(num_classes, **how)
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
    `vit_s_16` every third block, whose outputs are tokens [B,1+hw,D]; in `cnn` the normalised
    convolutions, in `mlp` the hidden layers, both before the nonlinearity. In convolutional
    networks the last one has the shape of `Features.spatial`.

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
    if name == "vit_s_16":
        return tuple(f"block{block}" for block in range(3, vit.ViT.depth + 1, 3))
    if name == "resnet50":
        blocks = BottleneckResNet.blocks
    elif name in ("resnet18", "preact_resnet18"):
        blocks = (2, 2, 2, 2)
    else:
        blocks = (3, 3, 3) if name == "resnet20" else 3 * ((_parse_wrn(name)[0] - 4) // 6,)
    return tuple(f"stage{stage}_block{last}" for stage, last in enumerate(blocks, start=1))


def check_image(name: str, image_shape: tuple[int, ...]) -> None:
    """Checks that a network takes images of a size.

    Args:
      name: as for `create`.
      image_shape: (H, W, C).

    Raises:
      ValueError: a side that a vision transformer cannot cut into patches.

    Example:
      >>> check_image("vit_s_16", (30, 32, 3))
      Traceback (most recent call last):
      ...
      ValueError: images: sides must be multiples of 16, the side of a patch; found 30x32
    """
    if name == "vit_s_16":
        vit.check_sides(*image_shape[:2])


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
