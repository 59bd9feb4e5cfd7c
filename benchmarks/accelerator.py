"""Steps of ImageNet's size on an accelerator: `python -m benchmarks.accelerator`.

What a mix and a gap cost, as ratios of steps that take turns, and how fast images are cropped and
augmented on the device. All subjects live in one process: an accelerator has one memory, and
programs that were compiled beside each other would be tuned on a busy one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import jax_steps, ratios
from semjax import cpu, randaugment, resized_crop

# The gap alone: a label loss of the clean rows would differentiate a side that is to be held.
_PLAIN = ("sem_weight=0", "clean_weight=0")
_HELD = ("sem_weight=1", "stop_gradient=clean")
_METHODS: dict[str, tuple[str, ...]] = {
    "plain": ("policy=none",),
    "mixup": (),
    "sem": ("sem_weight=1",),
    "sem, clean side without gradient": _HELD,
}
_PAIRS = (
    ("mixup", "plain"),
    ("sem", "mixup"),
    ("sem, clean side without gradient", "mixup"),
)


def steps(
    model: str, options: Sequence[str], *, rounds: int, count: int, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Times the steps of each method in turn.

    Args:
      model: a name as in --model.
      options: further flags of the trainer and sizes of the data, `name=value` each.
      rounds: how often each has its turn.
      count: steps of a turn.
      say: is told how far it is.

    Returns:
      By method, the seconds of a step, one a round.
    """
    works = {}
    for method, own in _METHODS.items():
        start = time.perf_counter()
        # The last setting of a flag wins.
        given = (f"model={model}", "policy=mixup", *_PLAIN, *options, *own)
        works[method] = jax_steps.step(given)
        works[method].seconds(2)
        say(f"{model}, {method}: ready after {time.perf_counter() - start:.0f} s")
    seconds: dict[str, list[float]] = {method: [] for method in works}
    for number in range(rounds):
        for method in ratios.in_turn(list(works), number):
            seconds[method].append(works[method].seconds(count))
    return seconds


def augmentation(rows: int, size: int, *, rounds: int, count: int) -> dict[str, list[float]]:
    """Times random resized crops of squares of 8/7 of the size, alone and before RandAugment.

    Args:
      rows: B.
      size: side of the result.
      rounds: how often each has its turn.
      count: batches of a turn.

    Returns:
      By name, the seconds of a batch, one a round.
    """
    shape = (rows, round(size * 8 / 7), round(size * 8 / 7), 3)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    aspect = jnp.full((rows,), 4 / 3, jnp.float32)

    def cropped(key: jax.Array) -> jax.Array:
        return resized_crop.random_resized_crop(key, images, size=size, aspect=aspect)

    def both(key: jax.Array) -> jax.Array:
        crop_key, op_key = jax.random.split(key)
        return randaugment.randaugment(op_key, cropped(crop_key))

    programs = {"random resized crop": jax.jit(cropped), "crop and RandAugment": jax.jit(both)}
    for program in programs.values():
        jax.block_until_ready(program(jax.random.key(0)))
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in ratios.in_turn(list(programs), number):
            start = time.perf_counter()
            found = [programs[name](jax.random.key(turn)) for turn in range(count)]
            jax.block_until_ready(found)
            seconds[name].append((time.perf_counter() - start) / count)
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints two tables.

    Args:
      argv: the command line without the program's name; None for this process's.

    Returns:
      The exit code, 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="resnet50,vit_s_16", help="joined by commas")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--compute_dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=10, help="steps, or batches, of a turn")
    given = parser.parse_args(argv)
    cpu.set_flags()  # before the devices are looked for
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {given.compute_dtype}", flush=True)
    options = [
        f"batch_size={given.batch_size}",
        f"rows={given.batch_size}",
        f"compute_dtype={given.compute_dtype}",
        f"pixels={given.image_size}",
        "classes=1000",
    ]

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    print("\n| step | images/s | ratio | median | least to greatest |\n|---|---|---|---|---|")
    for model in given.models.split(","):
        seconds = steps(model, options, rounds=given.rounds, count=given.count, say=say)
        for over, under in _PAIRS:
            found = ratios.paired(seconds[over], seconds[under])
            rate = given.batch_size / statistics.median(seconds[over])
            print(
                f"| {model}, {over} | {rate:,.0f} | to {under} | {found.median:.3f} "
                f"| {found.least:.3f} to {found.greatest:.3f} |",
                flush=True,
            )
    print("\n| on the device | images/s |\n|---|---|")
    measured = augmentation(
        given.batch_size, given.image_size, rounds=given.rounds, count=given.count
    )
    for name, taken in measured.items():
        print(f"| {name} | {given.batch_size / statistics.median(taken):,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
