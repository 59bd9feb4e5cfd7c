"""Semantic Equivariant Mixup for JAX: mix two inputs, and their representations should mix alike.

>>> import jax, jax.numpy as jnp, semjax
>>> def apply_fn(params, images, rng):
...     features = jax.nn.relu(images.reshape(len(images), -1) @ params["encoder"])
...     return semjax.Outputs(logits=features @ params["head"], representation=features)
>>> sem_loss = semjax.make_sem_loss(apply_fn, policy=semjax.mixup(alpha=1.0))
>>> params = {"encoder": jnp.eye(64), "head": jnp.zeros((64, 10))}
>>> batch = {"image": jnp.ones((8, 8, 8, 1)), "label": jnp.arange(8)}
>>> grad = jax.value_and_grad(sem_loss, has_aux=True)
>>> (loss, aux), grads = grad(params, batch, jax.random.key(0))
>>> sorted(grads)
['encoder', 'head']
"""

from semjax import (
    augment,
    augmix,
    corruptions,
    cpu,
    drawing,
    enhancing,
    hidden,
    lookups,
    losses,
    metrics,
    mixing,
    outputs,
    pairing,
    pixel_ops,
    pixmix,
    policies,
    probing,
    randaugment,
    resized_crop,
    robustness,
    selection,
    sem,
    targets,
    training,
    umix,
    warping,
)
from semjax.drawing import draw_mix
from semjax.hidden import interceptor
from semjax.losses import gap
from semjax.mixing import Mix, interpolate, interpolate_spatial, interpolate_tree
from semjax.outputs import Outputs
from semjax.pairing import near_label, pair
from semjax.policies import (
    Policy,
    alignmix,
    at_layers,
    attentive_cutmix,
    choose,
    cutmix,
    fmix,
    gridmix,
    lisa,
    manifold_mixup,
    mixup,
    noisy_feature_mixup,
    puzzlemix,
    resizemix,
    saliencymix,
    scheduled,
    smoothmix,
    with_noise,
)
from semjax.probing import ModelProbe
from semjax.sem import make_sem_loss
from semjax.training import TrainState, eval_step, train_step

__all__ = [
    "Mix",
    "ModelProbe",
    "Outputs",
    "Policy",
    "TrainState",
    "alignmix",
    "at_layers",
    "attentive_cutmix",
    "augment",
    "augmix",
    "choose",
    "corruptions",
    "cpu",
    "cutmix",
    "draw_mix",
    "drawing",
    "enhancing",
    "eval_step",
    "fmix",
    "gap",
    "gridmix",
    "hidden",
    "interceptor",
    "interpolate",
    "interpolate_spatial",
    "interpolate_tree",
    "lisa",
    "lookups",
    "losses",
    "make_sem_loss",
    "manifold_mixup",
    "metrics",
    "mixing",
    "mixup",
    "near_label",
    "noisy_feature_mixup",
    "outputs",
    "pair",
    "pairing",
    "pixel_ops",
    "pixmix",
    "policies",
    "probing",
    "puzzlemix",
    "randaugment",
    "resized_crop",
    "resizemix",
    "robustness",
    "saliencymix",
    "scheduled",
    "selection",
    "sem",
    "smoothmix",
    "targets",
    "train_step",
    "training",
    "umix",
    "warping",
    "with_noise",
]
