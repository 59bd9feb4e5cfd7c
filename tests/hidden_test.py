"""Mixing at hidden layers: the hook, Linen models that know nothing of it, and the loss."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import semjax
from semjax import Mix, Outputs, make_sem_loss
from semjax.hidden import MixingHook, SharedPrefix, input_mix, run_model, takes_hidden
from semjax.mixing import Noise, mix_inputs

ROWS = 5


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mix_at(layer, layers=(0, 1, 2), **fields):
    partner = jnp.array([2, 0, 4, 1, 3])
    weight = jnp.asarray(np.random.default_rng(1).random(ROWS), jnp.float32)
    layer = jnp.broadcast_to(jnp.asarray(layer, jnp.int32), (ROWS,))
    return Mix(partner, weight, layer=layer, layers=layers, **fields)


def mixed_by_hand(mix, x):
    return reference.interpolate(np.asarray(mix.partner), np.asarray(mix.weight), x)


# --- the hook ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_hook_mixes_at_its_layer_and_nowhere_else(layer):
    mix, x = mix_at(layer), normal(ROWS, 3)
    mixed = mixed_by_hand(mix, x)
    np.testing.assert_allclose(
        input_mix(mix, jnp.asarray(x)), mixed if layer == 0 else x, rtol=1e-5
    )
    hook = MixingHook(mix, ROWS)
    for place in (1, 2, 3):
        found = hook(place, jnp.asarray(x))
        np.testing.assert_allclose(found, mixed if layer == place else x, rtol=1e-5)


def test_rows_of_one_layer_meet_partners_as_they_were():
    mix, x = mix_at([1, 2, 1, 1, 2]), normal(ROWS, 2, 2, 3)
    here = np.array([True, False, True, True, False]).reshape(-1, 1, 1, 1)
    found = MixingHook(mix, ROWS)(1, jnp.asarray(x))
    np.testing.assert_allclose(found, np.where(here, mixed_by_hand(mix, x), x), rtol=1e-5)


def test_rows_beyond_the_first_b_pass_the_hook_as_they_are():
    mix, x = mix_at(1), normal(3 * ROWS, 3)
    found = MixingHook(mix, ROWS)(1, jnp.asarray(x))
    np.testing.assert_allclose(found[:ROWS], mixed_by_hand(mix, x[:ROWS]), rtol=1e-5)
    np.testing.assert_array_equal(found[ROWS:], x[ROWS:])


def test_a_mask_is_brought_to_the_grid_of_the_layer_and_flat_layers_take_the_weight():
    mask = (np.random.default_rng(2).random((ROWS, 4, 6, 1)) < 0.5).astype(np.float32)
    mix = dataclasses.replace(
        mix_at(1), mask=jnp.asarray(mask), weight=jnp.asarray(mask.mean((1, 2, 3)))
    )
    x, flat = normal(ROWS, 2, 3, 2), normal(ROWS, 7)
    hook = MixingHook(mix, ROWS)
    expected = reference.interpolate_spatial(np.asarray(mix.partner), mask, x)
    np.testing.assert_allclose(hook(1, jnp.asarray(x)), expected, atol=1e-6)
    np.testing.assert_allclose(hook(1, jnp.asarray(flat)), mixed_by_hand(mix, flat), atol=1e-6)


def test_noise_comes_at_the_layer_that_is_mixed():
    noise = Noise(jnp.arange(ROWS, dtype=jnp.uint32), jnp.full(ROWS, 0.3), jnp.full(ROWS, 0.2))
    mix, x = mix_at(2, noise=noise), jnp.asarray(normal(ROWS, 3))
    hook = MixingHook(mix, ROWS)
    np.testing.assert_array_equal(input_mix(mix, x), x)
    np.testing.assert_array_equal(hook(1, x), x)
    np.testing.assert_array_equal(hook(2, x), mix_inputs(mix, x))
    assert not np.allclose(hook(2, x), mixed_by_hand(mix, x))


def test_a_mix_without_a_layer_is_mixed_at_the_input():
    mix = dataclasses.replace(mix_at(0), layer=None, layers=())
    x = normal(ROWS, 3)
    np.testing.assert_allclose(input_mix(mix, jnp.asarray(x)), mixed_by_hand(mix, x), rtol=1e-5)


@pytest.mark.parametrize("called", [[], [1], [1, 1, 2], [2]])
def test_layers_must_be_offered_once_each(called):
    hook = MixingHook(mix_at(1), ROWS)
    for layer in called:
        hook(layer, jnp.zeros((ROWS, 1)))
    with pytest.raises(ValueError, match=r"hidden layers \[1, 2\].*it offered \["):
        hook.check()


def test_layers_that_no_policy_asks_for_may_be_offered():
    hook = MixingHook(mix_at(1), ROWS)
    for layer in (2, 1, 3, 3):
        hook(layer, jnp.zeros((ROWS, 1)))
    hook.check()


def shared_at(layer, held=False):
    mix = mix_at(layer, layers=(layer,))
    return mix, SharedPrefix(mix, MixingHook(mix, ROWS), held=held)


def test_a_shared_value_is_mixed_in_one_pass_and_as_it_was_in_the_other():
    mix, shared = shared_at(2)
    before, x, own = (jnp.asarray(normal(ROWS, 3, seed=seed)) for seed in range(3))
    np.testing.assert_array_equal(shared.mixed(1, before), before)
    np.testing.assert_array_equal(shared.mixed(2, x), mix_inputs(mix, x))
    np.testing.assert_array_equal(shared.clean(1, own), own)
    np.testing.assert_array_equal(shared.clean(2, own), x)
    shared.check()


@pytest.mark.parametrize("held", [False, True])
def test_a_shared_value_is_a_constant_of_the_clean_pass_where_that_is_held(held):
    def total(x):
        _, shared = shared_at(1, held)
        shared.mixed(1, x)
        return shared.clean(1, jnp.zeros_like(x)).sum()

    assert (jax.grad(total)(jnp.ones((ROWS, 2))) == (0 if held else 1)).all()


# --- apply functions --------------------------------------------------------------------------


def with_hook(params, images, rng, hidden):
    return Outputs(logits=hidden(1, images))


def without(params, images, rng):
    return Outputs(logits=images)


def test_functions_that_take_the_hook_are_told_by_their_signature():
    assert takes_hidden(with_hook)
    assert takes_hidden(functools.partial(with_hook, None))
    assert takes_hidden(jax.jit(with_hook, static_argnums=3))
    assert not takes_hidden(without)
    assert not takes_hidden(dict)


def test_without_a_hook_hidden_layers_pass_as_they_are():
    x = jnp.ones((2, 3))
    for apply_fn in (with_hook, without):
        np.testing.assert_array_equal(run_model(apply_fn, {}, x, jax.random.key(0)).logits, x)
    doubled = run_model(with_hook, {}, x, jax.random.key(0), hidden=lambda layer, x: 2 * x)
    np.testing.assert_array_equal(doubled.logits, 2 * x)


def test_something_else_than_outputs_is_refused():
    with pytest.raises(TypeError, match=r"must return semjax.Outputs; found tuple"):
        run_model(lambda params, images, rng: (images,), {}, jnp.ones(1), jax.random.key(0))


# --- a Linen model that knows nothing of it ---------------------------------------------------


class Block(nn.Module):
    """A layer inside a layer."""

    features: int

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(self.features, name="inner")(x))


class Network(nn.Module):
    """Two blocks and a head."""

    @nn.compact
    def __call__(self, x):
        x = Block(4, name="block1")(x.reshape(len(x), -1))
        x = Block(3, name="block2")(x)
        return nn.Dense(2, name="head")(x), x


IMAGES, LABEL = normal(ROWS, 2, 3, 1, seed=4), np.array([0, 1, 1, 0, 1])
PARAMS = Network().init(jax.random.key(0), IMAGES)


def linen(params, images, rng, hidden, modules=("block1", "block2")):
    with nn.intercept_methods(semjax.interceptor(hidden, modules)):
        logits, features = Network().apply(params, images)
    return Outputs(logits=logits, representation=features)


def forward_by_hand(layer=None, mix=None, images=IMAGES):
    """Logits and representation in NumPy, mixed at a layer; None mixes nowhere."""
    parts = PARAMS["params"]

    def dense(x, part):
        return x @ np.float64(part["kernel"]) + np.float64(part["bias"])

    x = np.float64(images).reshape(len(images), -1)
    for place, name in enumerate([None, "block1", "block2"]):
        x = x if name is None else np.tanh(dense(x, parts[name]["inner"]))
        x = mixed_by_hand(mix, x) if layer == place else x
    return dense(x, parts["head"]), x


def expected_terms(layer, mix):
    partner, weight = np.asarray(mix.partner), np.asarray(mix.weight)
    logits, features = forward_by_hand(layer, mix)
    targets = reference.interpolate(partner, weight, np.eye(2)[LABEL])
    _, clean = forward_by_hand()
    return {
        "mixed_loss": reference.cross_entropy(logits, targets).mean(),
        "gap": np.square(features - reference.interpolate(partner, weight, clean)).mean(),
    }


@pytest.mark.parametrize(
    "modules", [["block1", "block2"], {"block2": 2, "block1/inner": 7, "block1": 1}]
)
@pytest.mark.parametrize("layer", [1, 2])
def test_an_unmodified_linen_model_equals_the_forward_pass_mixed_by_hand(layer, modules):
    mix = mix_at(layer)
    apply_fn = functools.partial(linen, modules=modules)
    outputs = run_model(apply_fn, PARAMS, IMAGES, jax.random.key(0), hidden=MixingHook(mix, ROWS))
    logits, features = forward_by_hand(layer, mix)
    np.testing.assert_allclose(outputs.logits, logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(outputs.representation, features, rtol=1e-4, atol=1e-6)


def test_paths_name_modules_inside_modules():
    """Mixed before the tanh: other numbers than after it."""
    mix = mix_at(1, layers=(0, 1))
    apply_fn = functools.partial(linen, modules=["block2/inner"])
    outputs = run_model(apply_fn, PARAMS, IMAGES, jax.random.key(0), hidden=MixingHook(mix, ROWS))
    part = PARAMS["params"]["block2"]["inner"]
    _, before = forward_by_hand()
    inner = np.arctanh(before)
    np.testing.assert_allclose(
        outputs.representation, np.tanh(mixed_by_hand(mix, inner)), atol=1e-5
    )
    assert part["kernel"].shape == (4, 3)


def test_modules_must_be_named():
    for modules in ([], {}):
        with pytest.raises(ValueError, match="at least one submodule; found none"):
            semjax.interceptor(lambda layer, x: x, modules)


# --- in the loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", ["separate", "joint"])
def test_the_layer_is_drawn_inside_one_compiled_step_and_takes_every_value(passes):
    """And a joint pass mixes its first B rows only."""
    policy = semjax.manifold_mixup(alpha=1, weight_scope="sample", pairing="derangement")
    traces = []

    def apply_fn(params, images, rng, hidden):
        traces.append(len(images))
        return linen(params, images, rng, hidden)

    loss = jax.jit(make_sem_loss(apply_fn, policy=policy, passes=passes))
    draw = jax.jit(functools.partial(semjax.draw_mix, policy))
    batch, layers = {"image": IMAGES, "label": LABEL}, []
    for seed in range(12):
        mix = draw(batch, jax.random.key(seed))
        assert len(set(mix.layer.tolist())) == 1
        layers.append(int(mix.layer[0]))
        aux = loss(PARAMS, batch, jax.random.key(seed))[1]
        for name, value in expected_terms(layers[-1], mix).items():
            # Where the representation is what was mixed, its gap is 0.
            np.testing.assert_allclose(aux[name], value, rtol=1e-4, atol=1e-10, err_msg=name)
    assert set(layers) == {0, 1, 2}
    assert traces == [ROWS, ROWS] if passes == "separate" else [2 * ROWS]


def test_clean_passes_meet_no_mixing():
    mix = mix_at(2)
    batch = {"image": IMAGES, "label": LABEL, "mix": mix}
    aux = make_sem_loss(linen, clean_weight=1.0)(PARAMS, batch, jax.random.key(0))[1]
    clean = reference.cross_entropy(forward_by_hand()[0], np.eye(2)[LABEL]).mean()
    np.testing.assert_allclose(aux["clean_loss"], clean, rtol=1e-5)
    np.testing.assert_allclose(aux["gap"], expected_terms(2, mix)["gap"], rtol=1e-4)


def test_gradients_flow_through_the_mixed_layer():
    batch = {"image": IMAGES, "label": LABEL, "mix": mix_at(1)}
    loss = jax.jit(make_sem_loss(linen, sem_weight=0))

    def at(scale):
        params = jax.tree.map(lambda x: scale * x, PARAMS)
        return loss(params, batch, jax.random.key(0))[0]

    slope = (at(1.01) - at(0.99)) / 0.02
    np.testing.assert_allclose(jax.grad(at)(1.0), slope, rtol=1e-2)


@pytest.mark.parametrize(
    "apply_fn",
    [
        lambda params, images, rng: linen(params, images, rng, lambda layer, x: x),
        functools.partial(linen, modules=["block1"]),
        functools.partial(linen, modules=["inner", "block2"]),
    ],
    ids=["no hook", "one layer too few", "a name met twice"],
)
def test_a_layer_that_the_model_does_not_offer_once_is_an_error(apply_fn):
    loss = make_sem_loss(apply_fn, policy=semjax.manifold_mixup(alpha=1), sem_weight=0)
    with pytest.raises(ValueError, match=r"mixes at the hidden layers \[1, 2\].*it offered"):
        loss(PARAMS, {"image": IMAGES, "label": LABEL}, jax.random.key(0))


def test_a_policy_of_layer_0_asks_nothing_of_the_model():
    policy = semjax.at_layers(semjax.mixup(), layers=[0])
    batch = {"image": IMAGES, "label": LABEL}

    def plain(params, images, rng):
        return linen(params, images, rng, lambda layer, x: x)

    aux = make_sem_loss(plain, policy=policy)(PARAMS, batch, jax.random.key(3))[1]
    mix = semjax.draw_mix(policy, batch, jax.random.key(3))
    for name, value in expected_terms(0, mix).items():
        np.testing.assert_allclose(aux[name], value, rtol=1e-4)
