"""Mixing at hidden layers: manifold mixup, noisy feature mixup, and any policy at any layer."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from semjax.mixing import Mix, Noise
from semjax.pairing import Pairing
from semjax.policies.common import Policy, WeightScope
from semjax.policies.mixup import mixup


def at_layers(policy: Policy, *, layers: Sequence[int] = (0, 1, 2)) -> Policy:
    """Mixes at a layer drawn uniformly for the whole batch, inside the compiled step.

    Layer 0 is the input, k the k-th hidden place that the model offers by `x = hidden(k, x)`. One
    mix serves the layer, the labels and the gap; a mask is brought to the layer's grid.

    Args:
      policy: draws the mix.
      layers: the layers to draw from, integers of at least 0, each once.

    Returns:
      A policy whose mixes have a layer. apply_fn must take a keyword `hidden` when a layer above 0
      is among them.

    Raises:
      ValueError: no layer, a layer below 0 or one named twice; when called, a policy whose mixes
        have a layer already.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.at_layers(semjax.cutmix(), layers=[1])
      >>> policy(jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 3))}).layer.tolist()
      [1, 1]

    References:
      Verma et al. 2019, Manifold Mixup (arXiv:1806.05236), section 3.
    """
    layers = tuple(layers)
    fine = layers and len(set(layers)) == len(layers)
    if not fine or not all(isinstance(layer, int) and layer >= 0 for layer in layers):
        raise ValueError(f"layers must be different integers of at least 0; found {layers!r}")

    def drawn(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        mix_key, layer_key = jax.random.split(key)
        mix = policy(mix_key, batch, probe)
        if mix.layer is not None:
            raise ValueError("at_layers was given a policy that draws a layer itself")
        layer = jnp.array(layers, jnp.int32)[jax.random.randint(layer_key, (), 0, len(layers))]
        layer = jnp.broadcast_to(layer, mix.partner.shape)
        return dataclasses.replace(mix, layer=layer, layers=layers)

    return drawn


def manifold_mixup(
    *,
    alpha: float = 2.0,
    layers: Sequence[int] = (0, 1, 2),
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """Manifold mixup: mixup at a layer drawn for every batch, `at_layers(mixup(...))`.

    The authors mix after a residual stage, never inside a block, and train with the sigmoid
    cross-entropy of the softmax; softmax cross-entropy (label_loss="ce") is the default here.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      layers: the layers to draw from, see `at_layers`.
      weight_scope: who shares a weight, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have a layer.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> mix = semjax.manifold_mixup()(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 3))})
      >>> mix.layers, mix.layer.shape
      ((0, 1, 2), (4,))

    References:
      Verma et al. 2019, Manifold Mixup (arXiv:1806.05236), section 3.
    """
    policy = mixup(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )
    return at_layers(policy, layers=layers)


def with_noise(
    policy: Policy, *, add: float = 0.4, multiply: float = 0.2, shape: tuple[float, float] = (2, 5)
) -> Policy:
    """Adds noise to what a policy mixed: (1 + multiply b1 (2 U - 1)) x + add b2 N, b1, b2 ~ Beta.

    Labels and the targets of the gap have no noise.

    Args:
      policy: draws the mix.
      add: largest standard deviation of the Gaussian, in units of what is mixed (inputs scaled to
        unit variance, say), at least 0.
      multiply: largest half-width of the uniform factor, at least 0.
      shape: the two parameters of the Beta law of the strengths, drawn once for the batch.

    Returns:
      A policy whose mixes have noise.

    Raises:
      ValueError: an option out of range; when called, a policy whose mixes have noise already.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.with_noise(semjax.mixup(), add=0.1, multiply=0.0)
      >>> policy(jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 3))}).noise.multiply.tolist()
      [0.0, 0.0]

    References:
      Lim et al. 2021, Noisy Feature Mixup (arXiv:2110.02180), eq. 4 and section 5.
    """
    for name, value in (("add", add), ("multiply", multiply)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be finite and at least 0; found {value!r}")
    if len(shape) != 2 or not all(0 < value < float("inf") for value in shape):
        raise ValueError(f"shape must be two numbers above 0; found {shape!r}")

    def drawn(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        mix_key, strength_key, seed_key = jax.random.split(key, 3)
        mix = policy(mix_key, batch, probe)
        if mix.noise is not None:
            raise ValueError("with_noise was given a policy that draws noise itself")
        rows = mix.partner.shape
        strength = jax.random.beta(strength_key, *shape, (2,), jnp.float32)
        noise = Noise(
            seed=jax.random.bits(seed_key, rows, jnp.uint32),
            add=jnp.broadcast_to(add * strength[0], rows),
            multiply=jnp.broadcast_to(multiply * strength[1], rows),
        )
        return dataclasses.replace(mix, noise=noise)

    return drawn


def noisy_feature_mixup(
    *,
    alpha: float = 1.0,
    layers: Sequence[int] = (0, 1, 2),
    add: float = 0.4,
    multiply: float = 0.2,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """Noisy feature mixup: manifold mixup, and noise where it mixed.

    That is `with_noise(at_layers(mixup(...)))`. Rows that are not mixed get noise all the same, as
    in the authors' code.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      layers: the layers to draw from, see `at_layers`.
      add: see `with_noise`.
      multiply: see `with_noise`.
      weight_scope: who shares a weight, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have a layer and noise.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.noisy_feature_mixup(layers=[0, 1])
      >>> policy(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 3))}).noise.seed.shape
      (4,)

    References:
      Lim et al. 2021, Noisy Feature Mixup (arXiv:2110.02180).
    """
    policy = manifold_mixup(
        alpha=alpha,
        layers=layers,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )
    return with_noise(policy, add=add, multiply=multiply)
