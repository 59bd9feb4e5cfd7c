"""Semantic Equivariant Mixup for JAX: mix two inputs, and their representations should mix alike.

>>> import jax, jax.numpy as jnp, semjax
>>> def apply_fn(params, images, rng):
...     features = jax.nn.relu(images.reshape(len(images), -1) @ params["encoder"])
...     return semjax.Outputs(logits=features @ params["head"], representation=features)
>>> sem_loss = semjax.make_sem_loss(apply_fn, policy=semjax.mixup(alpha=1.0), sem_weight=1.0)
>>> params = {"encoder": jnp.eye(64), "head": jnp.zeros((64, 10))}
>>> batch = {"image": jnp.ones((8, 8, 8, 1)), "label": jnp.arange(8)}
>>> grad = jax.value_and_grad(sem_loss, has_aux=True)
>>> (loss, aux), grads = grad(params, batch, jax.random.key(0))
>>> sorted(grads)
['encoder', 'head']
"""

from semjax import augment, drawing, losses, metrics, mixing, pairing, policies, sem, training
from semjax.drawing import draw_mix
from semjax.losses import gap
from semjax.mixing import Mix, interpolate, interpolate_spatial
from semjax.pairing import pair
from semjax.policies import Policy, cutmix, mixup
from semjax.sem import Outputs, make_sem_loss
from semjax.training import TrainState, eval_step, train_step

__all__ = [
    "Mix",
    "Outputs",
    "Policy",
    "TrainState",
    "augment",
    "cutmix",
    "draw_mix",
    "drawing",
    "eval_step",
    "gap",
    "interpolate",
    "interpolate_spatial",
    "losses",
    "make_sem_loss",
    "metrics",
    "mixing",
    "mixup",
    "pair",
    "pairing",
    "policies",
    "sem",
    "train_step",
    "training",
]
