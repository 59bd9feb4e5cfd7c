"""What semjax is measured by: the trainer's own programs on data of noise, in a process each.

Options are flags of the trainer, `--` left out, and of the data: rows, pixels, channels, classes.
What a flag means is the trainer's business, so a subject with a flag that is new needs no new code.
"""

import collections
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import semjax
from benchmarks import backend
from benchmarks.work import Work, take
from experiments import models, policies, program, sharding, train
from experiments.config import Config
from experiments.datasets import loading
from experiments.datasets.data import Data, Split
from experiments.lifecycle import allocator
from experiments.training import feed
from semjax.hidden import input_mix

_LONG = 10**9


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run is made of, before its first step."""

    config: Config
    data: Data
    facts: dict[str, Any]


def _run(options: Sequence[str]) -> _Run:
    sizes, rest = take(options, rows=2048, pixels=32, channels=3, classes=100)
    config, facts = backend.start(rest)
    return _Run(config, _noise(config.batch_size, **sizes), {"options": list(options), **facts})


def _noise(batch_size: int, *, rows: int, pixels: int, channels: int, classes: int) -> Data:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (max(rows, batch_size), pixels, pixels, channels), np.uint8)
    split = Split(image, (np.arange(len(image)) % classes).astype(np.int32))
    half = np.full(channels, 0.5, np.float32)
    return Data("noise", classes, split, None, split.take(np.arange(batch_size)), half, half / 2)


def step(options: Sequence[str]) -> Work:
    """The compiled training step in a bare loop: nothing is fetched, logged or saved.

    Args:
      options: flags, the sizes of the data, and in_flight, after how many steps one is waited for
        (the trainer's own number, for its memory); 0: only the last is.

    Returns:
      The work.
    """
    own, rest = take(options, in_flight=0)
    run = _run(rest)
    mesh = sharding.make_mesh()
    compiled = program.build(run.config, run.data, _LONG, mesh)
    batch = feed.feed(run.config, run.data.train, mesh)(0)
    state, count = compiled.init(), 0

    def taken(steps: int) -> None:
        nonlocal state, count
        first = not count
        flight = collections.deque[Any]()
        for _ in range(steps):
            state, logs = compiled.step_at(count)(state, batch, compiled.rng)
            count += 1
            flight.append(logs)
            if own["in_flight"] and len(flight) >= own["in_flight"]:
                jax.block_until_ready(flight.popleft())
        jax.block_until_ready((state, logs))
        if first:
            allocator.give_back()  # as the trainer does

    parameters = program.parameter_count(compiled.state_shape)
    return Work(taken, {**run.facts, **own, "parameters": parameters})


def forward(options: Sequence[str]) -> Work:
    """The forward pass of a training step alone: what a clean side without gradient must add.

    Args:
      options: flags, and the sizes of the data.

    Returns:
      The work.
    """
    run = _run(options)
    config, data = run.config, run.data
    module = models.create(
        config.model,
        data.num_classes,
        compute_dtype=config.compute_dtype,
        lowering=backend.convolution_lowering(config),
    )
    state = program.build(config, data, _LONG, sharding.make_mesh()).init()
    images = semjax.augment.normalise(data.train.image[: config.batch_size], data.mean, data.std)

    @jax.jit
    def passed(params: Any, model_state: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        features, _ = module.apply(
            {"params": params, **model_state}, images, train=True, mutable=list(model_state)
        )
        return features.pooled, features.logits

    def taken(steps: int) -> None:
        for _ in range(steps):
            found = passed(state.params, state.model_state or {}, images)
        jax.block_until_ready(found)

    return Work(taken, run.facts)


def inputs(options: Sequence[str]) -> Work:
    """All of a step but the model: rows chosen, gathered, augmented and mixed.

    Args:
      options: flags, and the sizes of the data.

    Returns:
      The work.

    Raises:
      ValueError: a policy that mixes nothing.
    """
    run = _run(options)
    config, data, mesh = run.config, run.data, sharding.make_mesh()
    layers = len(models.hidden_modules(config.model))
    policy = policies.build(dataclasses.asdict(config), layers)
    if policy is None:
        raise ValueError(f"--policy={config.policy}: mixing is to be measured")
    draw = policy
    augment, batch_at = program._augmentation(config, data), feed.feed(config, data.train, mesh)

    @jax.jit
    def mixed(key: jax.Array, batch: Any) -> Any:
        batch = feed.batch_of(batch, mesh)
        augment_key, mix_key = jax.random.split(key)
        images = augment(augment_key, batch["image"])
        mix = draw(mix_key, {**batch, "image": images}, None)
        label = jax.nn.one_hot(batch["label"], data.num_classes)
        return input_mix(mix, images), semjax.interpolate(mix, label)

    counter = itertools.count()

    def taken(steps: int) -> None:
        for number in itertools.islice(counter, steps):
            found = mixed(jax.random.key(number), batch_at(number))
        jax.block_until_ready(found)

    return Work(taken, run.facts)


def loop(options: Sequence[str]) -> Work:
    """The trainer itself over so many steps, by its own clock.

    Rows are chosen and sent, metrics fetched, logged and shown as in any run. Compilation,
    evaluation and checkpoints are left out, as in the images per second that a run reports.

    Args:
      options: flags, and the sizes of the data.

    Returns:
      The work.
    """
    run = _run(options)
    # In place of a data set on disk. This process does nothing else.
    vars(loading)["load"] = lambda *_, **__: run.data

    def taken(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            config = dataclasses.replace(
                run.config,
                workdir=os.path.join(folder, "run"),
                steps=steps + 1,  # the first one compiles, and is not on the clock
                eval_every=_LONG,
            )
            summary = train.run(config)
        return float(run.config.batch_size / summary["images_per_second"])

    return Work(taken, run.facts)
