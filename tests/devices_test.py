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
from semjax.training import init_state, make_optimizer

ROWS, CLASSES, DEVICES = 16, 3, 8
SHAPE = (6, 5, 2)


def normal(*shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


PARAMS = {"w": normal(60, 4, seed=2) / 4, "head": normal(4, CLASSES, seed=3)}


def mlp(params, images, rng):
    features = jnp.tanh(images.reshape(len(images), -1) @ params["w"])
    return Outputs(logits=features @ params["head"], representation=features)


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


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


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


POLICIES = {
    "mixup": semjax.mixup(),
    "cutmix in 8 groups": semjax.cutmix(
        groups=8, weight_scope="sample", pairing="derangement", probability=0.8
    ),
}


def sharded(step, state, batch, devices):
    """The compiled step on a mesh, its state and its batch in their places."""
    mesh = mesh_of(devices)
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    jitted = jax.jit(
        step,
        in_shardings=(everywhere, by_rows, everywhere),
        out_shardings=everywhere,
        donate_argnums=0,
    )
    state, batch = jax.device_put(state, everywhere), jax.device_put(batch, by_rows)
    return jitted.lower(state, batch, jax.random.key(0)).compile(), state, batch


@functools.cache
def run(name, devices):
    """The program's text, and the state and logs after five steps."""
    optimizer = make_optimizer("sgd", 0.1, weight_decay=1e-3)

    def make_loss(stats):
        apply_fn = functools.partial(conv, stats)
        return make_sem_loss(apply_fn, policy=POLICIES[name], sem_weight=2.0, clean_weight=0.5)

    variables = ConvNet().init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    stats = variables["batch_stats"]
    step, state, batch = sharded(
        functools.partial(train_step, make_loss=make_loss, optimizer=optimizer, ema_decay=0.9),
        init_state(variables["params"], optimizer, model_state=stats, ema=True),
        batch_of(padded="groups" in name),
        devices,
    )
    place = step.input_shardings[0][2]
    for _ in range(5):
        state, logs = step(state, batch, jax.device_put(jax.random.key(0), place))
    assert len(state.params["Dense_0"]["kernel"].sharding.device_set) == devices
    return step.as_text(), jax.tree.map(np.asarray, (state, logs))


@pytest.mark.parametrize("name", POLICIES)
def test_five_steps_on_one_and_on_eight_devices_agree(name):
    """Parameters, moving averages and BatchNorm statistics."""
    (_, (state, logs)), (_, many) = run(name, 1), run(name, DEVICES)
    assert logs["gap"] > 1e-4
    assert state.skipped == 0
    assert_trees_close(many, (state, logs), rtol=0, atol=1e-6)


def moves_images(text):
    """Whether a program sends as much from device to device as the pixels of one device's rows."""
    kinds = r"\b(all-gather|all-to-all|collective-permute)(-start)?\("
    moves = [line for line in text.splitlines() if re.search(kinds, line)]
    shapes = [shape for line in moves for shape in re.findall(r"f32\[([\d,]+)\]", line)]
    sizes = [np.prod([int(n) for n in shape.split(",")]) for shape in shapes]
    return any(size >= ROWS * np.prod(SHAPE) / DEVICES for size in sizes)


def test_pairing_over_the_whole_batch_moves_images():
    assert moves_images(run("mixup", DEVICES)[0])


def test_pairing_in_groups_of_a_device_moves_no_images():
    assert not moves_images(run("cutmix in 8 groups", DEVICES)[0])


@pytest.mark.parametrize(("groups", "moves"), [(1, True), (2, True), (16, False)])
def test_accumulation_in_groups_of_a_part_of_a_device_moves_no_images(groups, moves):
    """Two groups a device, one for each part; with one group in all nothing is accumulated."""
    policy, optimizer = semjax.mixup(groups=groups, alpha=0), optax.sgd(0.1)
    loss = make_sem_loss(mlp, policy=policy)
    step = functools.partial(
        train_step,
        make_loss=lambda _: loss,
        optimizer=optimizer,
        accumulate=min(groups, 2),
        policy=policy,
    )
    program, *_ = sharded(step, init_state(PARAMS, optimizer), batch_of(), DEVICES)
    assert moves_images(program.as_text()) == moves


def test_accumulation_without_mixing_moves_no_images():
    loss, optimizer = make_sem_loss(mlp, policy=None, sem_weight=0), optax.sgd(0.1)
    step = functools.partial(
        train_step, make_loss=lambda _: loss, optimizer=optimizer, accumulate=2
    )
    program, *_ = sharded(step, init_state(PARAMS, optimizer), batch_of(), DEVICES)
    assert not moves_images(program.as_text())


# --- pmap and shard_map: a shard at a time ----------------------------------------------------


def pmean(tree):
    return jax.tree.map(lambda x: jax.lax.pmean(x, "data"), tree)


def same(tree):
    return tree


def gradients(losses, *, inside=same, outside=same, mean=pmean):
    """A function that gives the gradients and the aux of every loss, each with a key of its own.

    The mean over shards stands `inside` the gradient or `outside` of it.
    """

    def run(params, batch, rng):
        results = {}
        keys = dict(zip(losses, jax.random.split(rng, len(losses)), strict=True))
        for name, loss in losses.items():

            def total(params, loss=loss, key=keys[name]):
                value, aux = loss(params, batch, key)
                return inside(value), mean(aux)

            grads, aux = jax.grad(total, has_aux=True)(params)
            results[name] = outside(grads), aux
        return results

    return run


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
    "shard_map with check_vma": lambda losses: by_shard_map(gradients(losses, inside=pmean), True),
    "shard_map without check_vma": lambda losses: by_shard_map(
        gradients(losses, outside=pmean), False
    ),
    "pmap": lambda losses: by_pmap(gradients(losses, outside=pmean)),
}


def fourth_power(prediction, target):
    return ((prediction - target) ** 4).sum(1)


def mixed_batch(local):
    """A padded batch with its mix, whose partners count from the first row of their shard."""
    partner = np.arange(ROWS) ^ 1
    partner[[10, 11]] = 10, 11
    mask = (np.random.default_rng(6).random((ROWS, 6, 5, 1)) < 0.5).astype(np.float32)
    mix = Mix(jnp.asarray(partner), jnp.asarray(mask.mean((1, 2, 3))), jnp.asarray(mask), 8)
    if local:
        mix = dataclasses.replace(mix, partner=mix.partner % 2, groups=1)
    return {**batch_of(padded=True), "mix": mix}


def losses_of(distances, axis_name=None, **options):
    return {
        getattr(distance, "__name__", distance): make_sem_loss(
            mlp, distance=distance, clean_weight=0.5, sem_weight=3.0, axis_name=axis_name, **options
        )
        for distance in distances
    }


@functools.cache
def on_one_device(*distances, given=True, **options):
    batch = mixed_batch(local=False) if given else batch_of(padded=True)
    run = jax.jit(gradients(losses_of(distances, **options), mean=same))
    return run(PARAMS, batch, jax.random.key(0))


DISTANCES = ("mse", "l1", "cosine", "normalised_mse", fourth_power)


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_and_terms_of_every_distance_equal_those_of_one_device(recipe):
    run = RECIPES[recipe](losses_of(DISTANCES, "data"))
    results = run(PARAMS, mixed_batch(local=True), jax.random.key(0))
    for distance, wanted in on_one_device(*DISTANCES).items():
        assert wanted[1]["gap"] > 1e-3
        assert_trees_close(results[distance], wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("recipe", RECIPES)
def test_mix_drawn_on_shards_is_that_of_the_whole_batch(recipe):
    policy = semjax.cutmix(groups=8, weight_scope="sample", pairing="derangement")
    run = RECIPES[recipe](losses_of(["mse"], "data", policy=policy))
    results = run(PARAMS, batch_of(padded=True), jax.random.key(0))
    wanted = on_one_device("mse", given=False, policy=policy)
    assert wanted["mse"][1]["gap"] > 1e-3
    assert_trees_close(results, wanted, rtol=1e-5, atol=2e-6)


def fraction_of(axis_name=None):
    """Half of the rows, in two groups of two rows on each of the eight devices."""
    policy = semjax.mixup(groups=16, weight_scope="sample", pairing="derangement")
    options = {"sem_fraction": 0.5, "distance": "normalised_mse", "sem_weight": 3.0}
    return make_sem_loss(mlp, policy=policy, axis_name=axis_name, **options)


def wide_batch():
    """32 rows, padded in measured groups and in others."""
    batch = {"image": normal(32, *SHAPE, seed=1), "label": np.arange(32) % CLASSES}
    return {**batch, "valid": ~np.isin(np.arange(32), [0, 1, 6, 13])}


@functools.cache
def fraction_on_one_device():
    run = jax.jit(gradients({"fraction": fraction_of()}, mean=same))
    return run(PARAMS, wide_batch(), jax.random.key(0))


@pytest.mark.parametrize("recipe", ["shard_map with check_vma", "pmap"])
def test_shards_measure_the_rows_that_one_device_measures(recipe):
    run = RECIPES[recipe]({"fraction": fraction_of("data")})
    results = run(PARAMS, wide_batch(), jax.random.key(0))
    wanted = fraction_on_one_device()
    assert wanted["fraction"][1]["gap"] > 1e-3
    assert_trees_close(results, wanted, rtol=1e-5, atol=2e-6)


def test_a_fraction_of_the_rows_of_each_device_moves_no_images():
    optimizer = optax.sgd(0.1)
    step = functools.partial(train_step, make_loss=lambda _: fraction_of(), optimizer=optimizer)
    state = init_state(PARAMS, optimizer)
    program, *_ = sharded(step, state, wide_batch(), DEVICES)
    assert not moves_images(program.as_text())


def test_shards_of_too_few_groups_are_refused():
    def loss(params, batch, rng):
        policy = semjax.mixup(groups=8)
        return make_sem_loss(mlp, policy=policy, sem_fraction=0.5, axis_name="data")(
            params, batch, rng
        )

    message = "one in 2 groups of each shard.* must be a multiple of 2.*found groups=1"
    with pytest.raises(ValueError, match=message):
        by_shard_map(loss, False)(PARAMS, wide_batch(), jax.random.key(0))


@pytest.mark.parametrize("check_vma", [True, False])
def test_the_other_recipe_is_wrong(check_vma):
    """Why each mode names its recipe: nothing but the numbers tells."""
    place = {"outside": pmean} if check_vma else {"inside": pmean}
    # Without check_vma a device is left with its own part, which out_specs take from the first.
    run = by_shard_map(gradients(losses_of(["mse"], "data"), **place), check_vma)
    grads, _ = run(PARAMS, mixed_batch(local=True), jax.random.key(0))["mse"]
    wanted, _ = on_one_device(*DISTANCES)["mse"]
    if check_vma:
        assert_trees_close(grads, jax.tree.map(lambda g: 8 * g, wanted), rtol=1e-4, atol=1e-5)
    assert abs(grads["w"] - wanted["w"]).max() > 1e-2


def test_shards_draw_dropout_of_their_own():
    def noise(params, images, rng):
        drawn = jax.random.uniform(rng, (len(images), CLASSES))
        return Outputs(logits=drawn, model_state=drawn)

    policy = semjax.mixup(groups=8, alpha=0)
    loss = make_sem_loss(noise, policy=policy, sem_weight=0, axis_name="data")

    def state(params, batch, rng):
        return jax.lax.all_gather(loss(params, batch, rng)[1]["model_state"], "data")

    drawn = by_shard_map(state, False)(PARAMS, batch_of(), jax.random.key(0))
    assert len(np.unique(drawn)) == drawn.size


@pytest.mark.parametrize("groups", [1, 4])
def test_partners_outside_the_shard_are_refused(groups):
    run = by_shard_map(
        gradients(losses_of(["mse"], "data", policy=semjax.mixup(groups=groups))), False
    )
    message = f"groups must be a multiple of the 8 shards; found groups={groups}"
    with pytest.raises(ValueError, match=message):
        run(PARAMS, batch_of(), jax.random.key(0))


def test_step_under_pmap_equals_the_step_of_one_device():
    """The gradients of the shards meet in the optimiser's chain."""
    meet = optax.stateless(lambda grads, params: pmean(grads))

    def step_with(optimizer, axis_name):
        loss = make_sem_loss(mlp, axis_name=axis_name)
        step = functools.partial(train_step, make_loss=lambda _: loss, optimizer=optimizer)
        return step, init_state(PARAMS, optimizer)

    step, state = step_with(optax.sgd(0.1), None)
    one, _ = jax.jit(step)(state, mixed_batch(local=False), jax.random.key(0))
    step, state = step_with(optax.chain(meet, optax.sgd(0.1)), "data")
    many, _ = by_pmap(step)(state, mixed_batch(local=True), jax.random.key(0))
    assert_trees_close(many.params, one.params, rtol=0, atol=1e-6)
    assert (int(many.step), int(many.skipped)) == (1, 0)
    assert abs(many.params["w"] - PARAMS["w"]).max() > 1e-3
