"""Where batches come from: named on the devices or copied from the host, the rows are the same."""

import dataclasses
import re

import jax
import made_sets
import numpy as np
import pytest

from experiments import program, sharding
from experiments.config import Config
from experiments.datasets import data as data_lib
from experiments.datasets import loading, streaming
from experiments.training import feed

ROWS, BATCH = 48, 16


@pytest.fixture(scope="module")
def split() -> data_lib.Split:
    draw = np.random.default_rng(0)
    label = np.arange(ROWS, dtype=np.int32) % 10
    image = draw.integers(0, 256, (ROWS, 6, 6, 1)).astype(np.uint8)
    return data_lib.Split(image, label, (label / 7).astype(np.float32), group=label // 5)


def config(**options) -> Config:
    return Config(**{"model": "mlp", "batch_size": BATCH, "seed": 3, **options})


def built(config: Config, split: data_lib.Split) -> program.Program:
    half = np.full(1, 0.5, np.float32)
    data = data_lib.Data("made", 10, split, None, split, half, half)
    return program.build(config, data, 10, sharding.make_mesh())


@pytest.mark.parametrize("sampling", data_lib.SAMPLINGS)
def test_rows_on_the_devices_are_those_of_the_host(split: data_lib.Split, sampling: str):
    mesh = sharding.make_mesh()
    here = feed.feed(config(sampling=sampling), split, mesh)
    copied = feed.feed(config(sampling=sampling, device_data_mib=0), split, mesh)
    taken = jax.jit(lambda batch: feed.batch_of(batch, mesh))
    for step in (0, 1, 5):
        batch = data_lib.batch_at(split, step, batch_size=BATCH, seed=3, sampling=sampling)
        for found in (taken(here(step)), taken(copied(step))):
            assert set(found) == {"image", "label", "sample_weight", "group"}
            jax.tree.map(np.testing.assert_array_equal, found, batch)
            for column in found.values():
                assert column.sharding.is_equivalent_to(sharding.by_rows(mesh), column.ndim)


def test_a_split_above_the_limit_stays_on_the_host(split: data_lib.Split):
    mesh = sharding.make_mesh()
    large = dataclasses.replace(split, image=np.zeros((ROWS, 160, 160, 1), np.uint8))
    assert 1 < sum(column.nbytes for column in large.columns().values()) / 2**20 < 2
    for limit, named in ((0, False), (1, False), (2, True)):
        batch = feed.feed(config(device_data_mib=limit), large, mesh)(0)
        assert isinstance(batch, feed.Rows) == named
    assert all(column.sharding.is_fully_replicated for column in batch.split.values())


def test_both_ways_give_the_same_states_bit_for_bit(split: data_lib.Split):
    options = {"policy": "mixup", "flip": True, "optimizer": "adamw"}
    states = []
    for limit in (0, 1024):
        run = config(device_data_mib=limit, **options)
        made, batches = built(run, split), feed.feed(run, split, sharding.make_mesh())
        state = made.init()
        for step in range(3):
            state, _ = made.step(state, batches(step), made.rng)
        assert made.step._cache_size() == 1
        states.append(state)
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_gathering_rows_on_the_devices_sends_none_between_them(split: data_lib.Split):
    """Nothing is mixed here, so that gradients and labels are all there is to send."""
    run = config(policy="none", sem_weight=0.0)
    made, batches = built(run, split), feed.feed(run, split, sharding.make_mesh())
    compiled = made.step.lower(made.state_shape, batches(0), made.rng).compile()
    text = compiled.as_text()
    kinds = r"\b(?:all-gather|all-to-all|collective-permute)(?:-start)?\("
    moved = [line for line in text.splitlines() if re.search(kinds, line)]
    sizes = [
        np.prod([int(n) for n in shape.split(",")], initial=1)
        for line in moved
        for shape in re.findall(r"\b[a-z]+\d+\[(\d[\d,]*)\]", line)
    ]
    # One image, of 36 pixels, is more than a number for every row.
    assert "all-reduce" in text and max(sizes, default=0) <= BATCH


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return made_sets.noise_folder(tmp_path_factory.mktemp("noise"), train=(30, 12), size=(9, 9))


def test_a_stream_gives_the_batches_of_its_steps_from_any_step_on(folder: str):
    mesh, train = sharding.make_mesh(), loading.load(folder, streaming="on").train
    batches = feed.feed(config(), train, mesh)
    for step in (0, 1, 7, 8, 2):
        found = batches(step)
        expected = streaming.batch_at(train, step, batch_size=BATCH, seed=3)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        for column in found.values():
            assert column.sharding.is_equivalent_to(sharding.by_rows(mesh), column.ndim)
    batches.close()
    np.testing.assert_array_equal(batches(2)["image"], found["image"])
    batches.close()
    batches.close()


@pytest.mark.parametrize("streamed", ["on", "off"])
def test_an_evaluation_sees_each_row_once_on_the_devices_of_its_rows(folder: str, streamed: str):
    mesh, test = sharding.make_mesh(), loading.load(folder, streaming=streamed).test
    found = list(feed.evaluation_batches(test, 8, mesh))
    expected = data_lib.eval_batches(loading.load(folder).test, 8)
    for one, other in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
        for column in one.values():
            assert column.sharding.is_equivalent_to(sharding.by_rows(mesh), column.ndim)


@pytest.mark.long
def test_a_streamed_run_is_that_from_memory(folder: str):
    """To rounding: that all rows are valid is known to one of the two programs only."""
    states = []
    for streamed in ("on", "off"):
        run, mesh = config(flip=True, learning_rate=0.01), sharding.make_mesh()
        data = loading.load(folder, streaming=streamed)
        made, batches = program.build(run, data, 10, mesh), feed.feed(run, data.train, mesh)
        state = made.init()
        for step in range(3):
            state, logs = made.step(state, batches(step), made.rng)
        states.append((state, logs["loss"]))
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


def test_what_is_cut_out_and_augmented_on_the_devices_is_trained_on(folder: str):
    """Random resized crops and RandAugment; a damaged image leaves everything finite."""
    options = {"random_resized_crop": True, "augmentation": "randaugment", "image_size": 7}
    run, mesh = config(dataset=folder, flip=True, **options), sharding.make_mesh()
    data = loading.of_run(run)
    made, batches = program.build(run, data, 10, mesh), feed.feed(run, data.train, mesh)
    batch = batches(0)
    assert batch["image"].shape == (BATCH, 8, 8, 3) and batch["aspect"].shape == (BATCH,)
    sizes = {leaf.shape[0] for leaf in jax.tree.leaves(made.state_shape.params)}
    assert 7 * 7 * 3 in sizes and 8 * 8 * 3 not in sizes
    batch["valid"] = batch["valid"].at[3].set(False)
    batch["image"] = batch["image"].at[3].set(0)
    state, logs = made.step(made.init(), batch, made.rng)
    assert int(state.step) == 1 and int(logs["skipped"]) == 0 and np.isfinite(logs["loss"])
