"""Every policy, with and without the gap, on real digits: 50 steps, one program, any devices.

The network is a plain function with two hidden layers that it offers for mixing, so that nothing
but the policy differs between the cases.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import semjax
from experiments import sharding
from experiments.datasets import loading
from semjax.training import init_state, train_step

ROWS, CLASSES, DEVICES, STEPS = 16, 10, 8, 50

POLICIES = {
    "mixup": semjax.mixup,
    "extrapolation": functools.partial(semjax.mixup, weight_range=(-0.2, 1.2)),
    "cutmix": functools.partial(semjax.cutmix, weight_scope="sample"),
    "cutmix min/max": functools.partial(semjax.cutmix, minmax=(0.3, 0.8)),
    "fmix": semjax.fmix,
    "resizemix": semjax.resizemix,
    "gridmix": semjax.gridmix,
    "smoothmix": functools.partial(semjax.smoothmix, weight_scope="pair"),
    "saliencymix": semjax.saliencymix,
    "attentive_cutmix": semjax.attentive_cutmix,
    "puzzlemix": functools.partial(semjax.puzzlemix, block_counts=(2, 4)),
    "alignmix": functools.partial(semjax.alignmix, layer=2, iterations=10),
    "manifold_mixup": functools.partial(semjax.manifold_mixup, alpha=1.0),
    "noisy_feature_mixup": semjax.noisy_feature_mixup,
}


def choice(groups=1):
    members = [semjax.mixup(groups=groups), semjax.cutmix(groups=groups)]
    return semjax.choose(dict.fromkeys(members, 0.5), scope="sample")


def schedule(groups=1):
    return semjax.scheduled(
        semjax.mixup(groups=groups), on=(5, 40), ramp=optax.linear_schedule(0.0, 1.0, 20)
    )


POLICIES |= {"choose": choice, "scheduled": schedule}
REPRESENTATIONS = {"no sem": 0.0, "pooled": 1.0, "spatial": 1.0}


def convolution(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def apply_fn(params, images, rng, hidden, *, kind):
    x = hidden(1, jnp.tanh(convolution(images, params["first"], 1)))
    x = hidden(2, jnp.tanh(convolution(x, params["second"], 2)))
    pooled = x.mean((1, 2))
    representation = x if kind == "spatial" else pooled
    logits = pooled @ params["head"]
    return semjax.Outputs(logits=logits, representation=representation, feature_map=x)


def params_of():
    draw = np.random.default_rng(0).normal
    shapes = {"first": (3, 3, 1, 6), "second": (3, 3, 6, 8), "head": (8, CLASSES)}
    return {name: jnp.asarray(0.4 * draw(size=s), jnp.float32) for name, s in shapes.items()}


@functools.cache
def digits():
    train = loading.load("digits").train
    return train.image[:ROWS].astype(np.float32) / 16 - 0.5, train.label[:ROWS]


@functools.cache
def trained(name, kind, devices, groups=1):
    """The program's text, how often it was compiled, and the losses and weights of 50 steps."""
    mesh = jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices])
    everywhere = NamedSharding(mesh, PartitionSpec())
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    policy = sharding.drawn_replicated(POLICIES[name](groups=groups), mesh)
    loss = semjax.make_sem_loss(
        functools.partial(apply_fn, kind=kind), policy=policy, sem_weight=REPRESENTATIONS[kind]
    )
    optimizer = optax.sgd(0.05)
    step = jax.jit(
        functools.partial(train_step, make_loss=lambda _: loss, optimizer=optimizer),
        in_shardings=(everywhere, by_rows, everywhere),
        out_shardings=everywhere,
    )
    image, label = digits()
    batch = jax.device_put({"image": image, "label": label}, by_rows)
    state = jax.device_put(init_state(params_of(), optimizer), everywhere)
    rng = jax.device_put(jax.random.key(3), everywhere)
    if groups > 1:
        return step.lower(state, batch, rng).compile().as_text()
    losses = []
    for _ in range(STEPS):
        state, logs = step(state, batch, rng)
        # One step at a time: fake devices that run ahead of each other starve in a collective.
        losses.append(jax.device_get(logs))
    logs = jax.tree.map(lambda *x: np.stack(x), *losses)
    return step._cache_size(), logs, jax.device_get(state)


# Compiling is what takes time here: CI leaves out what differs little from another one, or compiles
# for long, and programs without the gap, which are a part of those with it.
ASKED_FOR = {
    *("extrapolation", "cutmix min/max", "gridmix", "smoothmix"),
    *("puzzlemix", "noisy_feature_mixup"),
}


def in_ci_unless(asked_for, *values):
    return pytest.param(*values, marks=[pytest.mark.long] if asked_for else [])


each_policy = pytest.mark.parametrize(
    "name", [in_ci_unless(name in ASKED_FOR, name) for name in POLICIES]
)


# Not every pair is tried: those that run the model first compile it once more.
WITHOUT_GAP = {"mixup", "cutmix", "saliencymix", "manifold_mixup"}
RUN_THE_MODEL_FIRST = {"attentive_cutmix", "puzzlemix", "alignmix"}
CASES = [
    in_ci_unless(name in ASKED_FOR or kind != "pooled", name, kind)
    for name in POLICIES
    for kind in REPRESENTATIONS
    if (kind != "no sem" or name in WITHOUT_GAP)
    and (kind != "spatial" or name not in RUN_THE_MODEL_FIRST)
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_fifty_steps_are_one_program_and_the_same_on_eight_devices(name, kind):
    (compiled, logs, state), (also, many_logs, many) = (
        trained(name, kind, devices) for devices in (1, DEVICES)
    )
    assert compiled == also == 1
    assert (state.step, state.skipped) == (STEPS, 0)
    assert np.isfinite(logs["loss"]).all()
    assert (logs["unmixed"] < 1).any()
    assert (logs["gap"] > 0).any() == (kind != "no sem" and not same_by_design(name, kind))
    np.testing.assert_allclose(many_logs["loss"], logs["loss"], rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5), many.params, state.params
    )


def same_by_design(name, kind):
    """Where rows are mixed at the very layer of the representation there is nothing to differ."""
    return name == "alignmix" and kind == "spatial"


def moves_images(text):
    """Whether a program sends as much from device to device as the pixels of one device's rows.

    Images, masks and feature maps have three axes or four; what PuzzleMix's auction sends, bids of
    its blocks, has two.
    """
    kinds = r"\b(all-gather|all-to-all|collective-permute)(-start)?\("
    moves = [line for line in text.splitlines() if re.search(kinds, line)]
    shapes = [shape for line in moves for shape in re.findall(r"f32\[([\d,]+)\]", line)]
    sizes = [np.prod([int(n) for n in s.split(",")]) for s in shapes if s.count(",") > 1]
    return any(size >= digits()[0].size / DEVICES for size in sizes)


@each_policy
def test_pairing_in_groups_of_a_device_moves_no_images(name):
    assert not moves_images(trained(name, "pooled", DEVICES, groups=DEVICES))


def test_pairing_over_the_whole_batch_does():
    assert moves_images(trained("mixup", "pooled", DEVICES, groups=2))
