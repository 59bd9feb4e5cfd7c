"""The loss in every module system, and under every transformation.

One network, one hidden layer with its weights given, is written in Linen, NNX, Equinox and as a
plain function. Each becomes an `apply_fn` in at most four lines, and all must then give the loss
and the gradients of the plain one.
"""

import dataclasses
import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import semjax
from semjax import Mix, Outputs, make_sem_loss, train_step
from semjax.training import init_state

INPUTS, HIDDEN, CLASSES = 8, 5, 3


def normal(*shape, seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


W1, W2 = normal(INPUTS, HIDDEN, seed=1), normal(HIDDEN, CLASSES, seed=2)
B1, B2 = normal(HIDDEN, seed=3), normal(CLASSES, seed=4)


def batch_of():
    """A batch with its mix, which spares every program here the compilation of a draw."""
    mix = Mix(jnp.array([1, 2, 3, 4, 5, 0]), jnp.array([0.1, 0.8, 0.5, 0.3, 0.6, 0.9]))
    return {"image": normal(6, 2, 2, 2, seed=5), "label": np.arange(6) % CLASSES, "mix": mix}


def value_and_gradients(apply_fn, params):
    """The loss and its gradients as (w1, b1, w2, b2) would be listed, in no particular order."""
    loss = make_sem_loss(apply_fn, clean_weight=0.5)
    (value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, batch_of(), jax.random.key(0)
    )
    assert aux["gap"] > 1e-3
    return value, {leaf.size: leaf for leaf in jax.tree.leaves(grads)}


# --- a plain function -------------------------------------------------------------------------

PLAIN = {"w1": W1, "b1": B1, "w2": W2, "b2": B2}


def plain(params, images, rng):
    features = jnp.tanh(images.reshape(len(images), -1) @ params["w1"] + params["b1"][None])
    return Outputs(logits=features @ params["w2"] + params["b2"][None], representation=features)


@functools.cache
def wanted():
    return value_and_gradients(plain, PLAIN)


def assert_is_the_plain_loss(apply_fn, params, *, outputs_first=False):
    value, grads = value_and_gradients(apply_fn, params)
    np.testing.assert_allclose(value, wanted()[0], rtol=1e-6)
    for size, grad in grads.items():
        # Equinox keeps its kernels as [out, in].
        grad = grad.T if outputs_first else grad
        np.testing.assert_allclose(grad, wanted()[1][size], rtol=1e-4, atol=1e-6)
    assert grads.keys() == wanted()[1].keys()


# --- Linen ------------------------------------------------------------------------------------


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        features = jnp.tanh(nn.Dense(HIDDEN)(x.reshape(len(x), -1)))
        return features, nn.Dense(CLASSES)(features)


def test_linen():
    net = LinenNet()
    params = {
        "Dense_0": {"kernel": W1, "bias": B1},
        "Dense_1": {"kernel": W2, "bias": B2},
    }

    def apply_fn(params, images, rng):
        features, logits = net.apply({"params": params}, images)
        return Outputs(logits=logits, representation=features)

    assert_is_the_plain_loss(apply_fn, params)


class LinenBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x.reshape(len(x), -1))
        features = nn.Dropout(0.5, deterministic=not train)(jnp.tanh(nn.Dense(HIDDEN)(x)))
        return features, nn.Dense(CLASSES)(features)


def test_linen_with_batchnorm_and_dropout():
    net = LinenBatchNorm()
    variables = net.init(jax.random.key(0), batch_of()["image"], train=False)

    def apply_fn(stats, params, images, rng):
        variables, keys = {"params": params, "batch_stats": stats}, {"dropout": rng}
        (h, z), new = net.apply(variables, images, True, rngs=keys, mutable="batch_stats")
        return Outputs(logits=z, representation=h, model_state=new["batch_stats"])

    def make_loss(stats):
        return make_sem_loss(functools.partial(apply_fn, stats))

    optimizer = optax.sgd(0.1)
    state = init_state(variables["params"], optimizer, model_state=variables["batch_stats"])
    step = jax.jit(functools.partial(train_step, make_loss=make_loss, optimizer=optimizer))
    after, _ = step(state, batch_of(), jax.random.key(0))
    again, _ = step(state, batch_of(), jax.random.key(0))
    other, _ = step(state, batch_of(), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, after, again)
    moved = jax.tree.map(lambda a, b: abs(a - b).max(), after, other)
    assert moved.params["Dense_1"]["kernel"] > 1e-4
    # One update of the running mean, by the clean pass.
    clean = batch_of()["image"].reshape(6, -1)
    running = after.model_state["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(running, 0.01 * clean.mean(0), atol=1e-7)


# --- NNX --------------------------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self, rngs):  # noqa: D107 (as every test's: its name says it)
        self.hidden = nnx.Linear(INPUTS, HIDDEN, rngs=rngs)
        self.head = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)

    def __call__(self, x):
        features = jnp.tanh(self.hidden(x.reshape(len(x), -1)))
        return features, self.head(features)


def nnx_net():
    net = NnxNet(nnx.Rngs(0))
    net.hidden.kernel[...], net.hidden.bias[...] = W1, B1
    net.head.kernel[...], net.head.bias[...] = W2, B2
    return net


def test_nnx():
    graph, params = nnx.split(nnx_net())

    def apply_fn(params, images, rng):
        features, logits = nnx.merge(graph, params)(images)
        return Outputs(logits=logits, representation=features)

    assert_is_the_plain_loss(apply_fn, params)


class NnxBatchNorm(nnx.Module):
    def __init__(self, rngs):  # noqa: D107 (as every test's: its name says it)
        self.norm = nnx.BatchNorm(INPUTS, momentum=0.5, rngs=rngs)
        self.net = NnxNet(rngs)

    def __call__(self, x):
        return self.net(self.norm(x.reshape(len(x), -1)))


def test_nnx_with_batchnorm():
    graph, params, stats = nnx.split(NnxBatchNorm(nnx.Rngs(0)), nnx.Param, ...)

    def apply_fn(params, images, rng):
        net = nnx.merge(graph, params, stats, copy=True)
        features, logits = net(images)
        return Outputs(
            logits=logits, representation=features, model_state=nnx.state(net, nnx.BatchStat)
        )

    loss = make_sem_loss(apply_fn, state_from="clean")
    grads, aux = jax.jit(jax.grad(loss, has_aux=True))(params, batch_of(), jax.random.key(0))
    mean = batch_of()["image"].reshape(6, -1).mean(0)
    np.testing.assert_allclose(aux["model_state"]["norm"]["mean"][...], mean / 2, atol=1e-6)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["net"]["hidden"]["kernel"]))


# --- Equinox ----------------------------------------------------------------------------------


class EquinoxNet(eqx.Module):
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear

    def __call__(self, x):
        features = jnp.tanh(self.hidden(x.ravel()))
        return features, self.head(features)


def equinox_net():
    def linear(weight, bias):
        layer = eqx.nn.Linear(*weight.shape, key=jax.random.key(0))
        return eqx.tree_at(lambda at: (at.weight, at.bias), layer, (weight.T, bias))

    return EquinoxNet(linear(W1, B1), linear(W2, B2))


def test_equinox():
    def apply_fn(net, images, rng):
        features, logits = jax.vmap(net)(images)
        return Outputs(logits=logits, representation=features)

    assert_is_the_plain_loss(apply_fn, equinox_net(), outputs_first=True)


def test_equinox_split_into_arrays_and_the_rest():
    """For a module that holds more than arrays: the activation, here."""
    net = eqx.nn.MLP(INPUTS, CLASSES, HIDDEN, 1, jnp.tanh, key=jax.random.key(0))
    net = jax.tree.map(lambda leaf: 3 * leaf if eqx.is_array(leaf) else leaf, net)
    params, static = eqx.partition(net, eqx.is_array)

    def apply_fn(params, images, rng):
        logits = jax.vmap(eqx.combine(params, static))(images.reshape(len(images), -1))
        return Outputs(logits=logits, representation=logits)

    loss = make_sem_loss(apply_fn)
    (_, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, batch_of(), jax.random.key(0)
    )
    assert aux["gap"] > 1e-3
    assert all(abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


# --- transformations --------------------------------------------------------------------------

LOSS = make_sem_loss(plain, clean_weight=0.5)


def dropped(params, images, rng):
    """`plain` with dropout, so that the model's own key counts too."""
    outputs = plain(params, images, rng)
    kept = outputs.representation * jax.random.bernoulli(rng, 0.5, outputs.representation.shape)
    return dataclasses.replace(outputs, representation=kept, logits=kept @ params["w2"])


def assert_trees_close(a, b):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), a, b)


def test_vmap_over_seeds():
    """Every seed draws its own mix and its own dropout."""
    loss, batch = make_sem_loss(dropped, policy=semjax.mixup()), batch_of()
    del batch["mix"]
    many = jax.jit(jax.vmap(loss, in_axes=(None, None, 0)))(
        PLAIN, batch, jax.random.split(jax.random.key(0), 3)
    )
    one = jax.jit(loss)
    one_by_one = [one(PLAIN, batch, key) for key in jax.random.split(jax.random.key(0), 3)]
    assert_trees_close(many, jax.tree.map(lambda *x: jnp.stack(x), *one_by_one))
    assert len(np.unique(many[1]["weight"])) == 3


def test_vmap_over_parameters():
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PLAIN)
    grad = jax.grad(LOSS, has_aux=True)
    many, _ = jax.jit(jax.vmap(grad, in_axes=(0, None, None)))(
        stacked, batch_of(), jax.random.key(0)
    )
    for i, scale in enumerate((1, 2)):
        params = jax.tree.map(lambda p, scale=scale: scale * p, PLAIN)
        one, _ = jax.jit(grad)(params, batch_of(), jax.random.key(0))
        assert_trees_close(jax.tree.map(lambda g, i=i: g[i], many), one)


@pytest.mark.parametrize("inside", [False, True])
def test_rematerialisation_changes_nothing(inside):
    """Around the loss or around the model; the random draws are repeated alike."""
    apply_fn = jax.checkpoint(dropped) if inside else dropped
    loss = make_sem_loss(apply_fn)
    loss = loss if inside else jax.checkpoint(loss)
    plainly = make_sem_loss(dropped)
    grads = [
        jax.jit(jax.grad(f, has_aux=True))(PLAIN, batch_of(), jax.random.key(0))
        for f in (loss, plainly)
    ]
    assert_trees_close(*grads)


def test_scan_over_batches():
    """With the mix of each batch among its leaves."""
    batches = jax.tree.map(lambda x: jnp.stack([x, jnp.roll(x, 1, 0), x]), batch_of())
    keys = jax.random.split(jax.random.key(0), 3)

    def body(params, xs):
        (value, _), grads = jax.value_and_grad(LOSS, has_aux=True)(params, *xs)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

    params, values = jax.lax.scan(body, PLAIN, (batches, keys))
    wanted_params, wanted_values = PLAIN, []
    for i, key in enumerate(jax.random.split(jax.random.key(0), 3)):
        batch = jax.tree.map(lambda x, i=i: x[i], batches)
        wanted_params, value = jax.jit(body)(wanted_params, (batch, key))
        wanted_values.append(value)
    assert_trees_close(params, wanted_params)
    np.testing.assert_allclose(values, wanted_values, rtol=1e-5)
