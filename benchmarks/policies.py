"""What a policy costs: `python -m benchmarks.policies`, as ratios to a plain training step.

Two figures for each policy, both against a step that mixes nothing:

- step: the time of a whole training step with the policy. The steps of all policies are taken in
  turn, round after round, and the ratio is the median over rounds, with the least and the greatest.
- mixing: 1 + the time to draw the mix and to apply it to images and labels by itself, over that of
  the plain step. Of a policy that looks at the model it leaves the model's passes out (they are
  given to it as arrays), so it is what the policy computes itself.

The second is the sharper one: a whole step varies by more than a mask costs.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import semjax
from experiments import models, policies, program, sharding
from experiments.config import Config
from experiments.datasets.data import Data, Split
from semjax import cpu
from semjax.hidden import input_mix

NAMES = tuple(policies.POLICIES)


class ReadyProbe:
    """Answers with arrays made beforehand."""

    def __init__(self, images: jax.Array, features: jax.Array) -> None:
        """Keeps the answers; the saliency is the mean of the images over channels."""
        self._images, self._features = images, features

    def saliency(self) -> jax.Array:
        """f32[B, H, W]."""
        return jnp.abs(self._images).mean(-1)

    def features(self) -> jax.Array:
        """f32[B, h, w, D]."""
        return self._features

    def images(self) -> jax.Array:
        """f32[B, H, W, C]."""
        return self._images

    def fresh(self) -> "ReadyProbe":
        """Itself: it remembers nothing."""
        return self


def measure(
    model: str, batch_size: int, size: int, rounds: int, names: Sequence[str] = NAMES
) -> dict[str, Any]:
    """Times a step of every policy and its mixing alone, in turn.

    Args:
      model: a network of `experiments.models`.
      batch_size: B.
      size: H and W of the images.
      rounds: counted rounds, after one that is not.
      names: the policies to measure.

    Returns:
      The settings, and for each policy the ratios.
    """
    data = _data(batch_size, size)
    runs: dict[str, Callable[[], None]] = {"none": _step("none", model, batch_size, data)}
    for name in names:
        runs[name] = _step(name, model, batch_size, data)
        runs[f"{name}, mixing"] = _mixing(name, model, data)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    times = {name: np.array(values[1:]) for name, values in seconds.items()}
    plain = times["none"]
    return {
        "settings": {
            "model": model,
            "batch_size": batch_size,
            "image_size": size,
            "rounds": rounds,
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "cores": os.cpu_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "plain_step_seconds": float(np.median(plain)),
        },
        "policies": {
            name: {
                "step": _spread(times[name] / plain),
                "mixing": _spread(1 + times[f"{name}, mixing"] / plain),
                "looks_at_model": name in policies.LOOKS_AT_MODEL,
            }
            for name in names
        },
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [
        "| policy | step / plain step, median (least to greatest) | 1 + mixing / plain step |",
        "|---|---|---|",
    ]
    for name, row in result["policies"].items():
        least, median, greatest = row["step"]
        passes = " (runs the model first)" if row["looks_at_model"] else ""
        lines.append(
            f"| {name}{passes} | {median:.3f} ({least:.3f} to {greatest:.3f}) | "
            f"{row['mixing'][1]:.4f} |"
        )
    return "\n".join(lines)


def _spread(ratios: np.ndarray) -> list[float]:
    return [float(ratios.min()), float(np.median(ratios)), float(ratios.max())]


def _data(batch_size: int, size: int) -> Data:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (batch_size, size, size, 3)).astype(np.uint8)
    split = Split(image, (np.arange(batch_size) % 100).astype(np.int32))
    half = np.full(3, 0.5, np.float32)
    return Data("noise", 100, split, None, split, half, half / 2)


def _step(name: str, model: str, batch_size: int, data: Data) -> Callable[[], None]:
    """A training step, compiled, as the trainer takes it."""
    config = Config(policy=name, sem_weight=0.0, model=model, batch_size=batch_size)
    built = program.build(config, data, 100, sharding.make_mesh())
    state = built.init()
    rows = {"image": data.train.image, "label": data.train.label}
    batch = sharding.put_batch(rows, sharding.make_mesh())

    def run() -> None:
        nonlocal state
        state, logs = built.step(state, batch, built.rng)
        jax.block_until_ready((state, logs))

    run()
    return run


def _mixing(name: str, model: str, data: Data) -> Callable[[], None]:
    """Drawing a mix and applying it to images and labels, compiled."""
    layers = len(models.hidden_modules(model))
    policy = policies.build(dataclasses.asdict(Config(policy=name)), layers)
    if policy is None:
        raise ValueError(f"a policy is to be measured; found {name!r}")
    draw = policy
    images = semjax.augment.normalise(jnp.asarray(data.train.image), data.mean, data.std)
    label = jax.nn.one_hot(data.train.label, data.num_classes)
    features = images[:, ::8, ::8].repeat(170, axis=-1)

    @jax.jit
    def mixed(key: jax.Array, images: jax.Array) -> Any:
        batch = {"image": images, "label": data.train.label}
        mix = draw(key, batch, ReadyProbe(images, features))
        return input_mix(mix, images), semjax.interpolate(mix, label), mix

    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        jax.block_until_ready(mixed(jax.random.key(step), images))

    run()
    return run


def main() -> None:
    """Measures, prints the table and, if asked, writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", help="file the figures are written to, as JSON")
    options = parser.parse_args()
    result = measure(options.model, options.batch_size, options.image_size, options.rounds)
    print(json.dumps(result["settings"]))
    print(table(result))
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    cpu.set_flags()
    main()
