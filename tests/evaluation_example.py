"""A model whose every answer can be worked out by hand: a linear one on the embedded digits."""

import functools
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import semjax
from experiments.datasets import loading
from experiments.datasets.data import Data, Split
from experiments.evaluation.context import Context
from experiments.evaluation.plan import Plan
from experiments.evaluation.store import Store
from experiments.evaluation.subject import Subject


@functools.cache
def digits() -> Data:
    return loading.load("digits")


@functools.cache
def weights() -> np.ndarray:
    """f32[64,10], least squares on the training digits, scaled to be confident."""
    train = digits().train
    pixels = flat(train.image)
    return (8 * np.linalg.lstsq(pixels, np.eye(10)[train.label], rcond=None)[0]).astype(np.float32)


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64) / 255


def apply_fn(params: jax.Array, images: jax.Array, rng: jax.Array) -> semjax.Outputs:
    x = images.reshape(len(images), -1)
    return semjax.Outputs(logits=x @ params, representation=x)


def logits(images: np.ndarray) -> np.ndarray:
    """What the model says, a second time, in NumPy."""
    return flat(images) @ weights().astype(np.float64)


def context(
    *,
    data: Data | None = None,
    store: Store | None = None,
    model: Any = apply_fn,
    batch_size: int = 64,
    own_policy: str | None = None,
    **plan: Any,
) -> Context:
    """An evaluation of the model; the words of the plan as in Plan."""
    data = data or digits()
    return Context(
        Subject(model, jnp.asarray(weights()), batch_size),
        data,
        Plan(**plan),
        store or Store(None, ""),
        functools.partial(loading.load_like, data),
        own_policy,
        io.StringIO(),
    )


def first(split: Split, count: int) -> Split:
    return split.take(np.arange(count))
