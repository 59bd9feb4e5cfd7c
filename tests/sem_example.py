"""Small models, batches and mixes for tests of the loss, and its terms in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import reference

from semjax import Mix, Outputs, make_sem_loss

# Each term by itself where a test names no weights; the defaults have tests of their own.
WEIGHTS = {"sem_weight": 1.0, "clean_weight": 0.0}
TERMS = ("loss", "mixed_loss", "clean_loss", "gap", "accuracy", "weight")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mlp(params, images, rng):
    """One tanh layer and a linear head: curved, so that its gap is not 0."""
    features = jnp.tanh(images.reshape(len(images), -1) @ params["w"])
    return Outputs(logits=features @ params["head"], representation=features)


def spatial(params, images, rng):
    """A curved 1x1 convolution: a feature map on the images' own grid."""
    cells = jnp.tanh(images @ params["w"])
    return Outputs(logits=cells.mean((1, 2)) @ params["head"], representation=cells)


def halving(params, images, rng):
    """As `spatial`, on half the grid: a cell may hold pixels of both rows."""
    outputs = spatial(params, images, rng)
    rows, height, width, features = outputs.representation.shape
    blocks = outputs.representation.reshape(rows, height // 2, 2, width // 2, 2, features)
    return dataclasses.replace(outputs, representation=blocks.mean((2, 4)))


def pointwise(params, images, rng):
    """A 1x1 convolution and a bias: affine at every pixel."""
    cells = images @ params["w"] + params["b"].reshape(1, 1, 1, -1)
    return Outputs(logits=cells.mean((1, 2)) @ params["head"], representation=cells)


def weights_of(inputs, features=4, classes=5):
    return {
        "w": normal(inputs, features, seed=1),
        "b": normal(features, seed=2),
        "head": normal(features, classes, seed=3),
    }


def batch_of(rows=7, shape=(4, 6, 2), classes=5, **extra):
    label = np.random.default_rng(5).integers(0, classes, rows)
    return {"image": normal(rows, *shape, seed=4), "label": label, **extra}


def mix_of(rows=7, shape=None, seed=6):
    """A bijection with a weight of its own for every row, and a mask when a shape is given."""
    rng = np.random.default_rng(seed)
    partner, weight, mask = rng.permutation(rows), rng.random(rows).astype(np.float32), None
    if shape is not None:
        mask = (rng.random((rows, *shape, 1)) < 0.6).astype(np.float32)
        weight = mask.mean((1, 2, 3))
    return Mix(
        jnp.asarray(partner, jnp.int32),
        jnp.asarray(weight),
        None if mask is None else jnp.asarray(mask),
    )


def masked_rows(masked):
    """A padded batch, its mix, and the valid rows: 1 and 4 are padding."""
    valid = np.array([True, False, True, True, False, True, True])
    mix = mix_of(shape=(4, 6) if masked else None)
    mix = dataclasses.replace(mix, partner=jnp.array([3, 1, 5, 2, 4, 6, 0]))
    return batch_of(valid=valid, mix=mix), np.flatnonzero(valid)


def terms(apply_fn=mlp, params=None, batch=None, seed=0, compiled=False, **options):
    """The aux of one call; compiled where its shapes are seldom used, which is quicker."""
    params = weights_of(48) if params is None else params
    batch = batch_of(mix=mix_of()) if batch is None else batch
    loss = make_sem_loss(apply_fn, **WEIGHTS | options)
    return (jax.jit(loss) if compiled else loss)(params, batch, jax.random.key(seed))[1]


def grads(apply_fn=mlp, params=None, batch=None, seed=0, **options):
    params = weights_of(48) if params is None else params
    batch = batch_of(mix=mix_of()) if batch is None else batch
    loss = make_sem_loss(apply_fn, **WEIGHTS | options)
    return jax.grad(loss, has_aux=True)(params, batch, jax.random.key(seed))[0]


def expected(batch=None, params=None, mix=None, **options):
    batch = batch_of() if batch is None else batch
    params = weights_of(48) if params is None else params
    mix = mix_of() if mix is None else mix
    mask = None if mix.mask is None else np.asarray(mix.mask)
    partner, weight = np.asarray(mix.partner), np.asarray(mix.weight)
    return reference.sem_mlp(
        params, batch["image"], batch["label"], partner, weight, mask=mask, **options
    )


def assert_terms(aux, numbers, names=TERMS, **tolerance):
    tolerance = tolerance or {"rtol": 2e-5, "atol": 1e-6}
    for name in names:
        np.testing.assert_allclose(aux[name], numbers[name], err_msg=name, **tolerance)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Six groups of two rows; a third of them are the groups 0 and 3.
CHOSEN = np.array([0, 1, 6, 7])


def grouped(masked=False, padded=False):
    """Twelve rows in six groups, in which the partner is the other row, and their mix."""
    mix = mix_of(12, (4, 6) if masked else None)
    mix = dataclasses.replace(mix, partner=jnp.arange(12) ^ 1, groups=6)
    batch = batch_of(12, mix=mix)
    if padded:
        batch["valid"] = np.arange(12) != 7
        batch["image"][7] = np.nan
        mix = dataclasses.replace(mix, partner=mix.partner.at[6].set(6).at[7].set(7))
    return {**batch, "mix": mix}
