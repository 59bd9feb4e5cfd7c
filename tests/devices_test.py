"""One device and many: one step by jit and shardings, one gradient by pmap and shard_map.

Eight fake CPU devices stand in for the real ones. A batch of 16 rows is two rows a device; 13 of
them are valid, so that the devices hold unequal shares.
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import semjax
from semjax import Mix, Outputs, make_sem_loss, train_step
from semjax.drawing import draw_mix
from semjax.training import init_state, make_optimizer

ROWS, CLASSES, DEVICES = 16, 3, 8
SHAPE = (6, 5, 2)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch_of(padded=False):
    batch = {"image": normal(ROWS, *SHAPE, seed=1), "label": np.arange(ROWS) % CLASSES}
    if padded:
        # Device 0 has no valid row, device 5 one.
        valid = np.ones(ROWS, bool)
        valid[[0, 1, 10]] = False
        batch |= {"valid": valid}
        batch["image"][~valid] = np.nan
    return batch


def mesh_of(devices=DEVICES):
    return jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])


# --- jit and shardings: global-batch semantics ------------------------------------------------


class ConvNet(nn.Module):
    """A convolution, BatchNorm and a head; the representation is the feature map."""

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(4, (3, 3), strides=2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return x, nn.Dense(CLASSES)(x.mean((1, 2)))


def conv(stats, params, images, rng):
    variables = {"params": params, "batch_stats": stats}
    (cells, logits), new = ConvNet().apply(variables, images, mutable="batch_stats")
    return Outputs(logits=logits, representation=cells, model_state=new["batch_stats"])


def program(devices, policy, **options):
    """The jitted step on a mesh, its state and where its batches go."""
    optimizer = make_optimizer("sgd", 0.1, weight_decay=1e-3)

    def make_loss(stats):
        apply_fn = functools.partial(conv, stats)
        return make_sem_loss(apply_fn, policy=policy, sem_weight=2.0, clean_weight=0.5)

    step = functools.partial(
        train_step, make_loss=make_loss, optimizer=optimizer, ema_decay=0.9, **options
    )
    mesh = mesh_of(devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    jitted = jax.jit(
        step,
        in_shardings=(everywhere, by_rows, everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )
    variables = ConvNet().init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    state = init_state(
        variables["params"], optimizer, model_state=variables["batch_stats"], ema=True
    )
    return jitted, jax.device_put(state, everywhere), by_rows


POLICIES = {
    "mixup": semjax.mixup(),
    "cutmix in 8 groups": semjax.cutmix(
        groups=8, weight_scope="sample", pairing="derangement", probability=0.8
    ),
}


@pytest.mark.parametrize(("name", "padded"), [("mixup", False), ("cutmix in 8 groups", True)])
def test_five_steps_on_one_and_on_eight_devices_agree(name, padded):
    """Parameters, moving averages and BatchNorm statistics."""
    ends = []
    for devices in (1, DEVICES):
        step, state, by_rows = program(devices, POLICIES[name])
        batch = jax.device_put(batch_of(padded), by_rows)
        for _ in range(5):
            state, logs = step(state, batch, jax.random.key(0))
        assert len(state.params["Dense_0"]["kernel"].sharding.device_set) == devices
        ends.append(jax.tree.map(np.asarray, (state, logs)))
    assert ends[0][1]["gap"] > 1e-4
    assert ends[0][0].skipped == 0
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), *ends)


def gathers(groups, accumulate=1):
    """The shapes the compiled step gathers from all devices, images among them or not."""
    policy = semjax.mixup(groups=groups, pairing="derangement")
    step, state, by_rows = program(DEVICES, policy, accumulate=accumulate, policy=policy)
    batch = jax.device_put(batch_of(), by_rows)
    text = step.lower(state, batch, jax.random.key(0)).compile().as_text()
    lines = [line for line in text.splitlines() if re.search(r"= .*\ball-(gather|to-all)", line)]
    pixels = ROWS * np.prod(SHAPE)
    sizes = [
        np.prod([int(n) for n in shape.split(",") if n])
        for line in lines
        for shape in re.findall(r"f32\[([\d,]*)\]", line.split("all-")[0])
    ]
    return [size for size in sizes if size >= pixels // DEVICES]


def test_pairing_in_groups_of_a_device_moves_no_images():
    assert gathers(groups=8) == []


def test_accumulation_moves_no_images():
    assert gathers(groups=16, accumulate=2) == []


def test_pairing_over_the_whole_batch_gathers_the_images():
    assert gathers(groups=1) != []


# --- pmap and shard_map: a shard at a time ----------------------------------------------------

PARAMS = {
    "w": normal(int(np.prod(SHAPE)), 4, seed=2) / 4,
    "head": normal(4, CLASSES, seed=3),
}


def mlp(params, images, rng):
    features = jnp.tanh(images.reshape(len(images), -1) @ params["w"])
    return Outputs(logits=features @ params["head"], representation=features)


def pmean(tree):
    return jax.tree.map(lambda x: jax.lax.pmean(x, "data"), tree)


def gradient_of_mean(loss, params, batch, rng):
    return jax.grad(lambda params: pmean(loss(params, batch, rng)[0]))(params)


def mean_of_gradient(loss, params, batch, rng):
    return pmean(jax.grad(lambda params: loss(params, batch, rng)[0])(params))


def by_shard_map(function, check_vma):
    return jax.jit(
        jax.shard_map(
            function,
            mesh=mesh_of(),
            in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=check_vma,
        )
    )


def by_pmap(function):
    mapped = jax.pmap(function, axis_name="data", in_axes=(None, 0, None))

    def run(params, batch, rng):
        shards = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)
        return jax.tree.map(lambda x: x[0], mapped(params, shards, rng))

    return run


RECIPES = {
    "shard_map with check_vma": lambda loss: by_shard_map(
        functools.partial(gradient_of_mean, loss), True
    ),
    "shard_map without check_vma": lambda loss: by_shard_map(
        functools.partial(mean_of_gradient, loss), False
    ),
    "pmap": lambda loss: by_pmap(functools.partial(mean_of_gradient, loss)),
}


def fourth_power(prediction, target):
    return ((prediction - target) ** 4).sum(1)


@functools.cache
def options_of(distance):
    """Between them they exercise every policy option that a shard could get wrong."""
    policy = semjax.cutmix(groups=8, weight_scope="sample", pairing="derangement")
    if distance in ("cosine", "normalised_mse"):
        policy = semjax.mixup(groups=16 if distance == "cosine" else 8, pairing="reverse")
    return {"policy": policy, "distance": distance, "clean_weight": 0.5, "sem_weight": 3.0}


@functools.cache
def single_device_gradient(distance):
    loss = make_sem_loss(mlp, **options_of(distance))
    grad = jax.jit(jax.grad(loss, has_aux=True))
    grads, aux = grad(PARAMS, batch_of(padded=True), jax.random.key(0))
    return grads, aux


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine", "normalised_mse", fourth_power])
@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_equal_those_of_one_device(recipe, distance):
    loss = make_sem_loss(mlp, **options_of(distance), axis_name="data")
    grads = RECIPES[recipe](loss)(PARAMS, batch_of(padded=True), jax.random.key(0))
    wanted, aux = single_device_gradient(distance)
    # Groups of one row leave nothing to mix.
    assert aux["gap"] > 1e-4 or distance == "cosine"
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), grads, wanted)


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_other_recipe_is_wrong(check_vma):
    """Why the recipe is named: the gradients are off by the number of devices, silently."""
    wrong = mean_of_gradient if check_vma else gradient_of_mean
    loss = make_sem_loss(mlp, **options_of("mse"), axis_name="data")
    function = by_shard_map(functools.partial(wrong, loss), check_vma)
    grads = function(PARAMS, batch_of(padded=True), jax.random.key(0))
    factor = DEVICES if check_vma else 1 / DEVICES
    wanted = jax.tree.map(lambda g: factor * g, single_device_gradient("mse")[0])
    # Without check_vma it is each device's own share, which is no fixed factor.
    off = max(abs(g - w).max() for g, w in zip(*map(jax.tree.leaves, (grads, wanted)), strict=True))
    assert (off < 1e-4) == check_vma
    assert not np.allclose(grads["w"], single_device_gradient("mse")[0]["w"], atol=1e-3)


def test_mean_of_the_terms_over_shards_is_that_of_the_batch():
    loss = make_sem_loss(mlp, **options_of("mse"), axis_name="data")

    def terms(params, batch, rng):
        return pmean(loss(params, batch, rng)[1])

    aux = by_shard_map(terms, True)(PARAMS, batch_of(padded=True), jax.random.key(0))
    wanted = single_device_gradient("mse")[1]
    for name in set(aux) - {"model_state"}:
        np.testing.assert_allclose(aux[name], wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_shards_draw_dropout_of_their_own():
    def noise(params, images, rng):
        drawn = jax.random.uniform(rng, (len(images), CLASSES))
        return Outputs(logits=drawn, representation=None, model_state=drawn)

    loss = make_sem_loss(noise, policy=semjax.mixup(groups=8), sem_weight=0, axis_name="data")

    def state(params, batch, rng):
        return jax.lax.all_gather(loss(params, batch, rng)[1]["model_state"], "data")

    drawn = by_shard_map(state, False)(PARAMS, batch_of(), jax.random.key(0))
    assert len(np.unique(drawn)) == drawn.size


def test_mix_may_be_given_shard_by_shard():
    """Partners then count from the first row of the shard."""
    batch, policy = batch_of(), semjax.cutmix(groups=8, pairing="roll")
    mix = draw_mix(policy, batch, jax.random.key(0))
    local = dataclasses.replace(mix, partner=mix.partner % 2, groups=1)
    loss = make_sem_loss(mlp, policy=policy, axis_name="data")
    grads = by_shard_map(functools.partial(gradient_of_mean, loss), True)(
        PARAMS, {**batch, "mix": local}, jax.random.key(0)
    )
    whole = jax.grad(make_sem_loss(mlp, policy=policy), has_aux=True)
    wanted, _ = whole(PARAMS, {**batch, "mix": mix}, jax.random.key(0))
    assert isinstance(local, Mix)
    np.testing.assert_allclose(grads["w"], wanted["w"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 4])
def test_partners_outside_the_shard_are_refused(groups):
    loss = make_sem_loss(mlp, policy=semjax.mixup(groups=groups), axis_name="data")
    function = by_shard_map(functools.partial(gradient_of_mean, loss), True)
    message = f"groups must be a multiple of the 8 shards; found groups={groups}"
    with pytest.raises(ValueError, match=message):
        function(PARAMS, batch_of(), jax.random.key(0))


def test_step_under_pmap_equals_the_step_of_one_device():
    """The optimiser's chain is where the gradients of the shards meet."""
    policy = semjax.mixup(groups=8, pairing="roll")
    meet = optax.stateless(lambda grads, params: pmean(grads))
    batch, state = batch_of(padded=True), init_state(PARAMS, optax.sgd(0.1))

    def step_with(optimizer, axis_name):
        loss = make_sem_loss(mlp, policy=policy, axis_name=axis_name)
        return functools.partial(train_step, make_loss=lambda _: loss, optimizer=optimizer)

    one, _ = jax.jit(step_with(optax.sgd(0.1), None))(state, batch, jax.random.key(0))
    chained = init_state(PARAMS, optax.chain(meet, optax.sgd(0.1)))
    step = by_pmap(step_with(optax.chain(meet, optax.sgd(0.1)), "data"))
    many, _ = step(chained, batch, jax.random.key(0))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), many.params, one.params
    )
    assert (int(many.step), int(many.skipped)) == (1, 0)
    assert abs(many.params["w"] - PARAMS["w"]).max() > 1e-3
