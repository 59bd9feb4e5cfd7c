"""What the devices of a pod tell each other in a training step, without a pod.

    python -m benchmarks.pod --devices=256 --model=resnet50 --image_size=224

Compiles the trainer's own step for so many devices, which this machine's CPU pretends to have, from
the shapes of its arguments alone: nothing is trained and no array is made. In the optimised program
every collective stands with its type, its shape and the operation it belongs to.
"""

import argparse
import dataclasses
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import config as config_lib
from experiments import program as program_lib
from experiments import sharding
from experiments.config import Config
from experiments.datasets.data import Data, Split
from experiments.program import Program

GRADIENTS, BATCH_NORM, METRICS = "gradients", "BatchNorm", "loss and metrics"
IMAGES, ROWS, OTHER = "images", "labels and representations", "other"
PURPOSES = (GRADIENTS, BATCH_NORM, METRICS, IMAGES, ROWS, OTHER)
# The largest sum that counts as one for a metric: of a representation over the rows.
_LARGEST_METRIC = 2**14

_BYTES = {
    **{"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2},
    **{"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8},
}
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_LINE = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({_KINDS})(?:-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')
# Who is mixed with whom: what the table calls it, the rule, and whether it stays on a device.
PAIRINGS: dict[str, tuple[str, str, bool]] = {
    "whole": ("permutation of the whole batch", "permutation", False),
    "flip": ("flip of the whole batch", "reverse", False),
    "within": ("permutation within the rows of a device", "permutation", True),
}
# The code of the step is not run: LLVM need not make it fast.
_COMPILER = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Collective:
    """An array that devices exchange or add up.

    Attributes:
      kind: as XLA names it, such as all-reduce.
      dtype: as XLA names it, such as f32.
      shape: of the result on one device.
      name: the operation that it belongs to, as JAX traced it.
      looped: whether it stands in a loop or a branch, so that its number is not known.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    name: str
    looped: bool = False

    def sent(self, devices: int) -> float:
        """The bytes that a device sends, in the algorithms for a ring of devices.

        Args:
          devices: n of the ring.

        Returns:
          For an array of S bytes: 2 (n - 1) / n S to add it up, (n - 1) / n S to gather it or for
          all to exchange it, (n - 1) S to add it up and keep a part, S to pass it on.

        Example:
          >>> Collective("all-reduce", "f32", (3,), "").sent(4)
          18.0
        """
        size = math.prod(self.shape) * _BYTES[self.dtype]
        share = (devices - 1) / devices
        return {
            "all-reduce": 2 * share,
            "reduce-scatter": share * devices,
            "collective-permute": 1,
        }.get(self.kind, share) * size


def collectives(text: str) -> list[Collective]:
    """Reads the collectives of a compiled program.

    Args:
      text: the optimised HLO.

    Returns:
      One for each array: XLA joins several of the same kind into one operation.

    Example:
      >>> line = '%a = (f32[3]{0}, f32[]) all-reduce(%x, %y), metadata={op_name="f/(g/add:h/sum)"}'
      >>> [(found.shape, found.name) for found in collectives("ENTRY %main {" + chr(10) + line)]
      [((3,), 'f/g/add'), ((), 'f/h/sum')]
    """
    found = []
    entry = False
    for line in text.splitlines():
        entry = entry or line.startswith("ENTRY")
        if match := _LINE.match(line):
            arrays = _ARRAY.findall(match[1])
            names = list(_joined(*_NAME.findall(line)[:1]))
            if len(names) != len(arrays):
                names = names * len(arrays) if len(names) == 1 else [""] * len(arrays)
            found += [
                Collective(
                    match[2], dtype, tuple(int(n) for n in dims.split(",") if n), name, not entry
                )
                for (dtype, dims), name in zip(arrays, names, strict=True)
            ]
    return found


def purpose(
    collective: Collective, *, image_shape: Sequence[int], batch_norms: Sequence[str]
) -> str:
    """What a collective is for.

    Args:
      collective: one of a training step.
      image_shape: (H, W, C).
      batch_norms: the BatchNorm modules by path, such as "stage1_block1/norm1". What they add up
        in the backward pass is at the same time the gradient of their scale and bias.

    Returns:
      One of `PURPOSES`.

    Example:
      >>> one = Collective("all-reduce", "f32", (3, 3, 8, 8), "f/transpose(jvp(CNN))/conv2/conv")
      >>> purpose(one, image_shape=(8, 8, 3), batch_norms=["norm1"])
      'gradients'
    """
    if collective.looped or not collective.name:
        return OTHER
    if collective.shape[-3:] == tuple(image_shape):
        return IMAGES
    # In the backward pass what was gathered from partners is added up again.
    if collective.kind != "all-reduce" or "jit(_take)" in collective.name:
        return ROWS
    if any(f"/{path}/" in collective.name for path in batch_norms):
        return BATCH_NORM
    if re.search(r"transpose\(jvp\(\w+", collective.name):
        return GRADIENTS
    return METRICS if math.prod(collective.shape) <= _LARGEST_METRIC else OTHER


def lowered(options: Sequence[str], *, image_size: int, classes: int) -> tuple[Program, Any]:
    """The trainer's program, and its step traced for the global batch of all devices.

    Args:
      options: flags of the trainer.
      image_size: side of the square images, which have three channels.
      classes: K.

    Returns:
      The program, and what `jax.jit(...).trace` makes of its step.

    Raises:
      ConfigError: flags that cannot be.
    """
    config = _config(options)
    mesh = sharding.make_mesh()
    shape = (image_size, image_size, 3)
    one = Split(np.zeros((1, *shape), np.uint8), np.zeros(1, np.int32))
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    program = program_lib.build(config, Data("shapes", classes, one, None, one, mean, std), 1, mesh)
    rows = sharding.by_rows(mesh)
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *shape), np.uint8, sharding=rows),
        "label": jax.ShapeDtypeStruct((config.batch_size,), np.int32, sharding=rows),
    }
    step: Any = program.step
    return program, step.trace(program.state_shape, batch, program.rng)


def batch_norms(program: Program) -> list[str]:
    """The BatchNorm modules of a program's model, by path.

    Args:
      program: of the trainer.

    Returns:
      Paths such as "stage1_block1/norm1".
    """
    statistics = (program.state_shape.model_state or {}).get("batch_stats", {})
    paths = jax.tree_util.tree_flatten_with_path(statistics)[0]
    return sorted({"/".join(str(key.key) for key in path[:-1]) for path, _ in paths})


def traffic(options: Sequence[str], *, image_size: int, classes: int) -> dict[str, float]:
    """Compiles a step and adds up what a device sends; each collective counts as one over all.

    Args:
      options: flags of the trainer.
      image_size: side of the square images.
      classes: K.

    Returns:
      Bytes a device sends in a step, by purpose.
    """
    program, traced = lowered(options, image_size=image_size, classes=classes)
    text = traced.lower().compile(_COMPILER).as_text()
    sent = dict.fromkeys(PURPOSES, 0.0)
    for one in collectives(text):
        found = purpose(
            one, image_shape=(image_size, image_size, 3), batch_norms=batch_norms(program)
        )
        sent[found] += one.sent(jax.device_count())
    return sent


def table(found: dict[str, dict[int, dict[str, float]]], devices: int) -> str:
    """The bytes as a Markdown table.

    Args:
      found: by pairing and rows of a device, what `traffic` returns.
      devices: of the pod.

    Returns:
      The text, in MB (10^6 bytes), without a newline at its end.

    Example:
      >>> print(table({"roll": {8: {"gradients": 2e6, "images": 0.0}}}, 4))
      | pairing | MB a device sends in a step | 8 rows a device (batch 32) |
      |---|---|---|
      | roll | gradients | 2.000 |
      | | images | 0 |
      | | **in all** | **2.000** |
    """
    rows = sorted({size for sizes in found.values() for size in sizes})
    heads = [f"{size} rows a device (batch {size * devices:,})" for size in rows]
    lines = [
        f"| pairing | MB a device sends in a step | {' | '.join(heads)} |",
        "|---|---|" + "---|" * len(rows),
    ]
    for pairing, sizes in found.items():
        first = f"| {pairing} "
        for name in next(iter(sizes.values())):
            values = [sizes[size][name] for size in rows]
            if name == OTHER and not any(values):
                continue
            lines.append(f"{first}| {name} | {' | '.join(_megabytes(value) for value in values)} |")
            first = "| "
        sums = [_megabytes(sum(sizes[size].values())) for size in rows]
        lines.append(f"| | **in all** | {' | '.join(f'**{value}**' for value in sums)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Compiles the steps and prints the table.

    Args:
      argv: the command line without the program's name; None for this process's.

    Returns:
      The exit code: 0; 2 for a wrong command.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pod",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--devices", type=int, default=256)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rows_per_device", default="8,32,128", help="joined by commas")
    parser.add_argument("--pairings", default=",".join(PAIRINGS), help="joined by commas")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("flags", nargs="*", help="after --: flags of the trainer, for all steps")
    given = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", given.devices)
    found: dict[str, dict[int, dict[str, float]]] = {}
    started = time.monotonic()
    try:
        sizes = [int(size) for size in given.rows_per_device.split(",")]
        chosen = [PAIRINGS[name] for name in given.pairings.split(",")]
        jax.config.update("jax_num_cpu_devices", given.devices)
        for rows, (name, pairing, within) in itertools.product(sizes, chosen):
            options = (
                f"--model={given.model}",
                f"--batch_size={rows * given.devices}",
                f"--pairing={pairing}",
                f"--pairing_groups={given.devices if within else 1}",
                "--convolutions=xla",  # as on an accelerator
                *given.flags,
            )
            sent = traffic(options, image_size=given.image_size, classes=given.classes)
            found.setdefault(name, {})[rows] = sent
            said = f"[{time.monotonic() - started:6.0f} s] {name}, {rows} rows a device"
            print(said, file=sys.stderr, flush=True)
    except KeyError as error:
        print(f"error: --pairings: {error}: known are {', '.join(PAIRINGS)}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found) if given.json else table(found, given.devices))
    return 0


def _config(options: Sequence[str]) -> Config:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["pod", *options], values)


def _joined(name: str = "") -> Iterator[str]:
    """The names that XLA has joined to `before/(one:other)`, or the one name."""
    depth = 0
    for place in range(len(name) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(name[place], 0)
        if not depth:
            break
    inside = name[place + 1 : -1] if name.endswith(")") else ""
    if ":" not in inside:
        yield name
        return
    yield from (name[:place] + part for part in inside.split(":"))


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.3f}" if count else "0"


if __name__ == "__main__":
    sys.exit(main())
