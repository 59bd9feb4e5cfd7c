"""One pass of the layers before the one mixed for both passes: the same numbers for less work."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import semjax
from semjax import Mix, Outputs, make_sem_loss
from semjax.mixing import Noise

ROWS = 8


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {
    "first": normal(3, 3, 2, 8, seed=1) / 4,
    "second": normal(3, 3, 8, 8, seed=2) / 8,
    "dense": 4 * normal(8, 8, seed=3),
    "head": normal(8, 5, seed=4),
}


def cnn(params, images, rng, hidden):
    """Two convolutions with batch statistics, each a hidden layer."""
    x, state = images, {}
    for layer, name in enumerate(("first", "second"), start=1):
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, params[name], (1, 1), "SAME", dimension_numbers=dims)
        mean, variance = (f(x, (0, 1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
        state[name] = mean
        x = hidden(layer, jnp.tanh((x - mean) * jax.lax.rsqrt(variance + 1e-3)))
    features = jnp.tanh(x.mean((1, 2)) @ params["dense"])
    logits = features @ params["head"]
    return Outputs(logits=logits, representation=features, model_state=state)


def mix_at(layer, **fields):
    weight = jnp.asarray(np.random.default_rng(5).random(ROWS), jnp.float32)
    place = {"layer": jnp.full(ROWS, layer, jnp.int32), "layers": (layer,)}
    partner = jnp.array([2, 0, 1, 4, 3, 6, 7, 5])
    return dataclasses.replace(Mix(partner, weight), **place, **fields)


def batch_of(layer=2, mix=None, **extra):
    mix = mix_at(layer) if mix is None else mix
    return {
        "image": normal(ROWS, 4, 4, 2, seed=6),
        "label": np.arange(ROWS) % 5,
        "mix": mix,
        **extra,
    }


def both(apply_fn, params, batch, **options):
    """The value, aux and gradients without and with the option, in one program."""

    def run(params, batch):
        return [
            jax.value_and_grad(
                make_sem_loss(apply_fn, share_prefix=share, **options), has_aux=True
            )(params, batch, jax.random.key(0))
            for share in (False, True)
        ]

    return jax.jit(run)(params, batch)


def assert_close(found, wanted):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    jax.tree.map(close, found, wanted)


STRENGTH = jnp.full(ROWS, 0.5)
NOISE = Noise(jnp.arange(ROWS, dtype=jnp.uint32), STRENGTH, STRENGTH)


@pytest.mark.parametrize(
    ("layer", "noise", "options"),
    [
        (1, NOISE, {"distance": "cosine", "state_from": "mixed"}),
        (2, None, {"stop_gradient": "clean", "state_from": "both"}),
        (1, None, {"stop_gradient": "mixed", "state_from": "clean", "clean_weight": 0.5}),
    ],
    ids=["noise", "held", "mixed side held, clean loss"],
)
def test_loss_state_and_gradients_are_those_without_the_option(layer, noise, options):
    """With a row of padding, whatever stands in it."""
    mix = mix_at(layer, noise=noise, partner=jnp.array([0, 2, 1, 4, 3, 6, 7, 5]))
    batch = batch_of(mix=mix, valid=np.arange(ROWS) != 0)
    batch["image"][0] = np.nan
    plain, shared = both(cnn, PARAMS, batch, **options)
    assert_close(shared, plain)
    (_, aux), grads = shared
    assert aux["gap"] > 1e-3
    assert all(np.abs(grad).max() > 1e-3 for grad in grads.values())


def test_shards_share_as_one_device_does():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "data")
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    batch = {name: value for name, value in batch_of().items() if name != "mix"}
    policy = semjax.at_layers(semjax.mixup(groups=2, weight_scope="sample"), layers=(2,))

    def gradients(share):
        loss = make_sem_loss(cnn, policy=policy, share_prefix=share, axis_name="data")

        def total(params, batch):
            terms = loss(params, batch, jax.random.key(0))
            return jax.tree.map(lambda x: jax.lax.pmean(x, "data"), terms)

        return jax.grad(total, has_aux=True)

    def run(params, batch):
        return gradients(False)(params, batch), gradients(True)(params, batch)

    shard = jax.shard_map(run, mesh=mesh, in_specs=(everywhere, rows), out_specs=everywhere)
    plain, shared = jax.jit(shard)(PARAMS, batch)
    assert_close(shared, plain)
    assert shared[1]["gap"] > 1e-3


def flops(**options):
    loss = jax.value_and_grad(make_sem_loss(cnn, **options), has_aux=True)
    program = jax.jit(loss).lower(PARAMS, batch_of(2), jax.random.key(0))
    return program.compile().cost_analysis()["flops"]


def test_the_layers_before_are_passed_once_forward_and_backward():
    """Next to nothing is left of the gap's cost where the last convolution is mixed."""
    step, twice = flops(sem_weight=0), flops()
    assert twice > 1.4 * step
    assert flops(share_prefix=True) < 1.1 * step


def test_a_draw_before_the_layer_is_one_for_both_passes():
    def random(params, images, rng, hidden):
        keys = jax.random.split(rng)
        x = images.reshape(ROWS, -1)
        before, after = (jax.random.normal(key, x.shape) for key in keys)
        x = hidden(1, x + before) + params * after
        return Outputs(logits=x, representation=x)

    batch = batch_of(mix=mix_at(1, weight=jnp.ones(ROWS)))

    @jax.jit
    def gaps():
        return [
            make_sem_loss(random, share_prefix=share)(after, batch, jax.random.key(0))[1]["gap"]
            for share, after in ((False, 0.0), (True, 0.0), (True, 1.0))
        ]

    apart, before, after = gaps()
    assert before == 0
    assert apart > 0.1
    assert after > 0.1


# --- where the hook is called -----------------------------------------------------------------


def transformed(transform, around_hook):
    """A model that runs its first layer inside a transformation, with the hook in it or after."""

    def apply_fn(params, images, rng, hidden):
        def layer(x):
            x = jnp.tanh(x @ params["first"])
            return hidden(1, x) if around_hook else x

        x = transform(layer)(images)
        x = jnp.tanh((x if around_hook else hidden(1, x)) @ params["second"])
        return Outputs(logits=x, representation=x)

    return apply_fn


def scanned(function):
    return lambda x: jax.lax.scan(lambda x, _: (function(x), None), x, length=1)[0]


SQUARE = {"first": normal(4, 4, seed=1), "second": normal(4, 4, seed=2)}
ROWS_OF_4 = {**batch_of(1), "image": normal(ROWS, 4, seed=3), "label": np.arange(ROWS) % 4}


@pytest.mark.parametrize(
    "transform", [jax.jit, jax.checkpoint, scanned], ids=["jit", "checkpoint", "scan"]
)
def test_a_hook_inside_a_transformation_is_refused(transform):
    loss = make_sem_loss(transformed(transform, around_hook=True), share_prefix=True)
    message = "share_prefix=True .*layer 1 .* outside of jax.jit, jax.checkpoint.*inside of one"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(loss, SQUARE, ROWS_OF_4, jax.random.key(0))


def test_layers_before_the_hook_may_be_transformed():
    plain, shared = both(transformed(jax.checkpoint, around_hook=False), SQUARE, ROWS_OF_4)
    assert_close(shared, plain)


class Again(nn.Module):
    """A block that is computed again in the backward pass."""

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.remat(nn.Dense)(4, name="block")(x))


def test_linen_modules_computed_again_are_refused():
    module = Again()

    def apply_fn(params, images, rng, hidden):
        with nn.intercept_methods(semjax.interceptor(hidden, ["block"])):
            x = module.apply(params, images)
        return Outputs(logits=x, representation=x)

    params = jax.eval_shape(module.init, jax.random.key(0), ROWS_OF_4["image"])
    loss = make_sem_loss(apply_fn, share_prefix=True)
    with pytest.raises(ValueError, match=r"share_prefix=True .* \(flax's nn.remat\)"):
        jax.eval_shape(loss, params, ROWS_OF_4, jax.random.key(0))


def test_the_loss_itself_may_be_transformed():
    loss = make_sem_loss(transformed(jax.jit, around_hook=False), share_prefix=True)

    def step(params, _):
        return jax.tree.map(jnp.subtract, params, jax.grad(value)(params)), None

    @jax.checkpoint
    def value(params):
        return loss(params, ROWS_OF_4, jax.random.key(0))[0]

    jax.eval_shape(lambda params: jax.lax.scan(step, params, length=2), SQUARE)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mix", "found"),
    [
        (Mix(mix_at(1).partner, mix_at(1).weight), "found a mix of the input"),
        (mix_at(0), r"found layers=\(0,\)"),
        (dataclasses.replace(mix_at(1), layers=(0, 1)), r"found layers=\(0, 1\)"),
        (dataclasses.replace(mix_at(1), layers=(1, 2)), r"found layers=\(1, 2\)"),
    ],
)
def test_mixes_of_other_than_one_hidden_layer_are_refused(mix, found):
    loss = make_sem_loss(cnn, share_prefix=True)
    message = (
        rf"share_prefix=True needs a mix of exactly one hidden layer.*layers=\(1,\)\); {found}"
    )
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(loss, PARAMS, batch_of(mix=mix), jax.random.key(0))


@pytest.mark.parametrize(
    ("offered", "message"),
    [
        ([[2], [2, 2]], r"layer 2 to be offered once .* clean pass too; it offered \[2, 2\]"),
        ([[2], [1]], r"layer 2 to be offered once .* clean pass too; it offered \[1\]"),
        ([[1], [2]], r"mixes at the hidden layers \[2\].*it offered \[1\]"),
    ],
)
def test_models_must_offer_the_layer_in_both_passes(offered, message):
    passes = iter(offered)

    def apply_fn(params, images, rng, hidden):
        x = images.mean((1, 2))
        for layer in next(passes):
            x = hidden(layer, x)
        return Outputs(logits=x, representation=x)

    batch = {**batch_of(2), "label": np.zeros(ROWS, int)}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make_sem_loss(apply_fn, share_prefix=True), {}, batch, jax.random.key(0))
