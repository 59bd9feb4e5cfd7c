"""The mixup step of ResNet-20 with nothing around it: functions of arrays, no Linen and no optax.

The product's step over this one is what Linen's modules, optax's chain, the metrics and the guard
against steps that are not finite cost. The functions inside, which convolve and normalise, are the
product's, so that they are not what is compared; so are the initial values.

Dimension letters: B batch, H W C image, h w feature map, K classes.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import backend
from benchmarks.work import Work, take
from experiments import models
from experiments.layers.convolution import Lowering, convolve
from experiments.layers.normalisation import normalise, rectify

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
_STATISTICS_MOMENTUM = 0.9

Tree = dict[str, Any]


def network(
    params: Tree, statistics: Tree, images: jax.Array, *, lowering: Lowering = "xla"
) -> tuple[jax.Array, Tree]:
    """A post-activation ResNet with padded shortcuts, of as many blocks as the parameters have.

    Args:
      params: as `experiments.models` has them.
      statistics: of every BatchNorm.
      images: f32[B, H, W, C].
      lowering: of the convolutions.

    Returns:
      Logits f32[B, K] and the new statistics.
    """
    new: Tree = {}
    stem = params["stem_conv"]["kernel"]
    x = convolve(images, stem, stride=1, padding=1, lowering=lowering)
    x, new["stem_norm"] = _norm(x, params["stem_norm"], statistics["stem_norm"], True)
    for name in sorted(name for name in params if name.startswith("stage")):
        x, new[name] = _block(params[name], statistics[name], x, lowering)
    pooled = x.mean((1, 2))
    return pooled @ params["head"]["kernel"] + params["head"]["bias"][None], new


def _block(
    params: Tree, statistics: Tree, x: jax.Array, lowering: Lowering
) -> tuple[jax.Array, Tree]:
    new: Tree = {}
    first, second = params["conv1"]["kernel"], params["conv2"]["kernel"]
    stride = 1 if first.shape[2] == first.shape[3] else 2
    y = convolve(x, first, stride=stride, padding=1, lowering=lowering)
    y, new["norm1"] = _norm(y, params["norm1"], statistics["norm1"], True)
    y = convolve(y, second, stride=1, padding=1, lowering=lowering)
    y, new["norm2"] = _norm(y, params["norm2"], statistics["norm2"], False)
    missing = y.shape[3] - x.shape[3]
    channels = (missing // 2, missing - missing // 2)
    shortcut = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), channels))
    return rectify(y + shortcut), new


def _norm(x: jax.Array, params: Tree, statistics: Tree, rectified: bool) -> tuple[jax.Array, Tree]:
    y, mean, var = normalise(x, params["scale"], params["bias"], rectified)
    kept = _STATISTICS_MOMENTUM
    new = {
        "mean": kept * statistics["mean"] + (1 - kept) * mean,
        "var": kept * statistics["var"] + (1 - kept) * var,
    }
    return y, new


def loss(
    params: Tree,
    statistics: Tree,
    images: jax.Array,
    targets: jax.Array,
    *,
    lowering: Lowering = "xla",
) -> tuple[jax.Array, Tree]:
    """Cross-entropy against soft targets.

    Args:
      params: of the network.
      statistics: of every BatchNorm.
      images: f32[B, H, W, C].
      targets: f32[B, K].
      lowering: of the convolutions.

    Returns:
      The mean f32[], and the new statistics.
    """
    logits, new = network(params, statistics, images, lowering=lowering)
    return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean(), new


def update(params: Tree, velocity: Tree, gradient: Tree) -> tuple[Tree, Tree]:
    """SGD with momentum; kernels decay.

    Args:
      params: of the network.
      velocity: like them.
      gradient: like them.

    Returns:
      The new parameters and the new velocity.
    """

    def moved(p: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
        return MOMENTUM * v + (g + WEIGHT_DECAY * p if p.ndim > 1 else g)

    velocity = jax.tree.map(moved, params, velocity, gradient)
    return jax.tree.map(lambda p, v: p - LEARNING_RATE * v, params, velocity), velocity


def step(options: Sequence[str]) -> Work:
    """A mixup step in a bare loop.

    Args:
      options: batch_size, pixels, classes, and blocks a stage (3 in ResNet-20).

    Returns:
      The work.
    """
    sizes, rest = take(options, batch_size=128, pixels=32, classes=100, blocks=3)
    if rest:
        raise ValueError(f"options of the bare step are {', '.join(sizes)}; found {rest}")
    config, facts = backend.start([])
    lowering = backend.convolution_lowering(config)
    classes, size, pixels = sizes["classes"], sizes["batch_size"], sizes["pixels"]
    module = models.ResNet(classes, widths=(16, 32, 64), blocks=sizes["blocks"], pad_shortcut=True)
    init = jax.jit(module.init, static_argnames="train")
    variables = init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    params, statistics = variables["params"], variables["batch_stats"]
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.integers(0, 256, (size, pixels, pixels, 3), np.uint8))
    label = jnp.arange(size) % classes

    def taken(state: Any, images: jax.Array, label: jax.Array, key: jax.Array) -> Any:
        params, statistics, velocity, number = state
        weight_key, partner_key = jax.random.split(jax.random.fold_in(key, number))
        weight = jax.random.beta(weight_key, 1.0, 1.0)
        partner = jax.random.permutation(partner_key, len(images))
        x = (images.astype(jnp.float32) / 255 - 0.5) / 0.25
        x = weight * x + (1 - weight) * x[partner]
        targets = jax.nn.one_hot(label, classes)
        targets = weight * targets + (1 - weight) * targets[partner]
        gradient = jax.value_and_grad(functools.partial(loss, lowering=lowering), has_aux=True)
        (value, statistics), slope = gradient(params, statistics, x, targets)
        params, velocity = update(params, velocity, slope)
        return (params, statistics, velocity, number + 1), value

    velocity = jax.tree.map(jnp.zeros_like, params)
    state = (params, statistics, velocity, jnp.zeros((), jnp.int32))
    compiled, key = jax.jit(taken, donate_argnums=0), jax.random.key(1)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, value = compiled(state, images, label, key)
        jax.block_until_ready((state, value))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Work(run, {"options": list(options), "parameters": parameters, **facts})
