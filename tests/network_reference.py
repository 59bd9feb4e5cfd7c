"""Small networks of every kind, random variables for them, and layers written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.layers import onednn
from experiments.networks.bottleneck import BottleneckResNet
from experiments.networks.residual import PreActResNet, ResNet
from experiments.networks.small import CNN, MLP
from experiments.networks.vit import ViT

NO_ONEDNN = onednn.unavailable()

# Each kind of network, small: two stages, the second at half the resolution.
SMALL = {
    "post": ResNet(3, widths=(4, 6), blocks=1),
    "post_pad": ResNet(3, widths=(4, 6), blocks=1, pad_shortcut=True),
    "pre": PreActResNet(3, stem_width=4, widths=(4, 6), blocks=1),
    "pre_norm": PreActResNet(3, stem_width=2, widths=(4, 6), blocks=1, final_norm=True),
    "bottleneck": BottleneckResNet(3, stem_width=4, widths=(2, 3), blocks=(1, 1)),
    "vit": ViT(3, patch=1, width=8, depth=1, heads=2, mlp_width=6),
    "cnn": CNN(3, widths=(4, 6)),
    "mlp": MLP(3, widths=(5, 6)),
}


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_variables(model, images, seed=0):
    """Variables with every leaf random, so that no scale of 1 or bias of 0 hides a mistake."""
    key = jax.random.key(seed)
    abstract = jax.eval_shape(lambda: model.init(key, images, train=False))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape, scale=0.5)
        positive = getattr(path[-1], "key", None) == "var"
        return jnp.asarray(np.exp(values) if positive else values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def random_images(shape=(3, 6, 5, 2), seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layer_outputs(state):
    return [(name, out) for name, out in state["intermediates"].items() if name != "__call__"]


def relu(x):
    return np.maximum(x, 0)


def conv(x, layer, stride=1):
    """Cross-correlation over an image with `size // 2` zero pixels on each side, pixel by pixel."""
    kernel = np.asarray(layer["kernel"], np.float64)
    size = kernel.shape[0]
    edge = size // 2
    padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    rows = range(0, x.shape[1], stride)
    columns = range(0, x.shape[2], stride)
    out = np.zeros((len(x), len(rows), len(columns), kernel.shape[-1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = padded[:, row : row + size, column : column + size]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel)
    return out


def norm(x, layer, running):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    if running is not None:
        mean, var = np.asarray(running["mean"]), np.asarray(running["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]
