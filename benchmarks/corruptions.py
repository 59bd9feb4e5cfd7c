"""What corruptions cost: `python -m benchmarks.corruptions --images=1000 [--data_dir=DIR]`.

For each corruption the time that its five severities take over all images, compiled, in chunks, and
that of the package imagecorruptions, which works image by image, over the same images in as many
processes as there are cores. Both use the constants of ImageNet-C, the only ones it has, unless
--constants asks semjax for others. One follows the other at once, so that a ratio is of one minute
of the machine; on a machine that does other work too, only ratios mean anything.

The images are the test images of CIFAR-100 if --data_dir has them, else pieces of two photographs.
"""

import argparse
import functools
import importlib.util
import json
import math
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.datasets import loading
from semjax import cpu
from semjax.corruptions import CORRUPTIONS, corrupt

SEVERITIES = (1, 2, 3, 4, 5)
PEER = "imagecorruptions"


def measure(
    images: np.ndarray,
    *,
    names: Sequence[str] = CORRUPTIONS,
    chunk: int = 250,
    constants: str = "imagenet",
    peer_images: int = 0,
    processes: int = 1,
) -> dict[str, Any]:
    """Times every corruption and its peer, one after the other.

    Args:
      images: uint8[N, H, W, 3].
      names: the corruptions to measure.
      chunk: images corrupted at once.
      constants: those of semjax; the peer has ImageNet's.
      peer_images: how many of the images the peer corrupts; 0 for all. Its times are scaled up.
      processes: of the peer; 1 runs it in this one.

    Returns:
      The settings, for each corruption seconds and ratio, the overall ratio and what was skipped.
    """
    given = images[: peer_images or len(images)]
    skipped = [] if importlib.util.find_spec(PEER) else [f"{PEER}: it is not installed"]
    chunk = min(chunk, len(images))
    rows: dict[str, dict[str, float | None]] = {}
    with _Peer(processes) if not skipped else _Nobody() as peer:
        for name in names:
            compiled, run = _ours(name, images, chunk, constants)
            seconds, theirs = _timed(run), peer(name, given)
            scaled = None if theirs is None else theirs * len(images) / len(given)
            rows[name] = {
                "seconds": seconds,
                "compile_seconds": compiled,
                "peer_seconds": scaled,
                "ratio": None if scaled is None else scaled / seconds,
            }
    return {
        "settings": {
            "images": list(images.shape),
            "peer_images": len(given),
            "peer_processes": processes,
            "chunk": chunk,
            "constants": constants,
            "severities": list(SEVERITIES),
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "cores": os.cpu_count(),
        },
        "corruptions": rows,
        "overall": _overall(rows) if not skipped else None,
        "skipped": skipped,
    }


def _overall(rows: dict[str, dict[str, float | None]]) -> dict[str, float]:
    ours, theirs, ratios = (
        [float(row[column] or 0) for row in rows.values()]
        for column in ("seconds", "peer_seconds", "ratio")
    )
    slowest = theirs.index(max(theirs))
    return {
        "ratio": sum(theirs) / sum(ours),
        # Its slowest corruption reads pictures from disk for each image, and outweighs the others.
        "ratio_without_slowest": (
            (sum(theirs) - theirs[slowest]) / (sum(ours) - ours[slowest])
            if len(ours) > 1
            else math.nan
        ),
        "geometric_mean": math.exp(float(np.mean(np.log(ratios)))),
        "least": min(ratios),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, and a line for the whole and for what was skipped."""
    peer = result["settings"]["peer_processes"]
    lines = [
        "| corruption | semjax, s | compilation, s | "
        f"{PEER} in {peer} process{'es' * (peer > 1)}, s | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["corruptions"].items():
        theirs = "-" if row["peer_seconds"] is None else f"{row['peer_seconds']:.2f}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.1f}"
        lines.append(
            f"| {name} | {row['seconds']:.3f} | {row['compile_seconds']:.1f} | {theirs} | {ratio} |"
        )
    lines.append("")
    if result["overall"]:
        lines.append(
            "All together {ratio:.1f} times as fast, {ratio_without_slowest:.1f} times without the "
            "corruption that the peer is slowest at; geometric mean of the ratios "
            "{geometric_mean:.1f}, least {least:.1f}.".format(**result["overall"])
        )
    lines += [f"Skipped: {reason}." for reason in result["skipped"]]
    return "\n".join(lines)


def _ours(
    name: str, images: np.ndarray, chunk: int, constants: str
) -> tuple[float, Callable[[], None]]:
    """Seconds of compilation, and the five severities over all images, compiled and warm."""
    program = jax.jit(functools.partial(corrupt, name=name, constants=constants))
    key = jax.random.key(0)
    # The last chunk is filled up with images of the one before: one shape, one program.
    starts = [min(start, len(images) - chunk) for start in range(0, len(images), chunk)]
    indices = [jnp.arange(start, start + chunk, dtype=jnp.int32) for start in starts]
    severities = [jnp.int32(severity) for severity in SEVERITIES]
    start = time.perf_counter()
    compiled = program.lower(
        key, images[:chunk], severity=severities[0], index=indices[0]
    ).compile()
    seconds = time.perf_counter() - start

    def run() -> None:
        for severity in severities:
            for index, at in zip(indices, starts, strict=True):
                found = compiled(key, images[at : at + chunk], severity=severity, index=index)
                np.asarray(found)

    jax.block_until_ready(compiled(key, images[:chunk], severity=severities[0], index=indices[0]))
    return seconds, run


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class _Peer:
    """The peer's five severities over images, in processes that are warm, timed."""

    def __init__(self, processes: int) -> None:
        # Not forked: this process has threads.
        context = multiprocessing.get_context("spawn")
        self._processes = processes
        self._pool = context.Pool(processes) if processes > 1 else None

    def __enter__(self) -> "_Peer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.terminate()

    def __call__(self, name: str, images: np.ndarray) -> float:
        """Seconds."""
        parts = [(name, part) for part in np.array_split(images, self._processes) if len(part)]
        warm = [(name, images[:1])] * self._processes
        apply: Callable[..., Any] = self._pool.starmap if self._pool else _in_turn
        apply(_peer_corrupts, warm)
        return _timed(lambda: apply(_peer_corrupts, parts))


class _Nobody:
    """Stands for a peer that is not there."""

    def __enter__(self) -> "_Nobody":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, name: str, images: np.ndarray) -> None:
        """No seconds."""


def _in_turn(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> None:
    for each in arguments:
        function(*each)


def _peer_corrupts(name: str, images: np.ndarray) -> None:
    with warnings.catch_warnings():
        # Its import warns of an old interface, its frost of nothing that matters here.
        warnings.simplefilter("ignore")
        peer = importlib.import_module(PEER)
        for severity in SEVERITIES:
            for image in images:
                peer.corrupt(image, severity=severity, corruption_name=name)


def load_images(count: int, data_dir: str) -> np.ndarray:
    """uint8[count, 32, 32, 3]: test images of CIFAR-100, or pieces of photographs."""
    if data_dir:
        return np.asarray(loading.load("cifar100", data_dir=data_dir).test.image[:count])
    draw = np.random.default_rng(0)
    photographs = load_sample_images().images
    pieces = []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        size = draw.integers(64, 257)
        top, left = (draw.integers(0, n - size + 1) for n in photograph.shape[:2])
        piece = Image.fromarray(photograph[top : top + size, left : left + size])
        pieces.append(np.asarray(piece.resize((32, 32), Image.Resampling.BOX)))
    return np.stack(pieces)


def main() -> None:
    """Measures, prints the table and, if asked, writes the figures as JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--peer_images", type=int, default=0, help="0: as many")
    parser.add_argument("--data_dir", default="", help="root of TFDS; empty: photographs")
    parser.add_argument("--constants", default="imagenet", help="of semjax's corruptions")
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--names", default=",".join(CORRUPTIONS))
    parser.add_argument("--output", help="stem of two files, .json and .md")
    options = parser.parse_args()
    result = measure(
        load_images(options.images, options.data_dir),
        names=options.names.split(","),
        chunk=options.chunk,
        constants=options.constants,
        peer_images=options.peer_images,
        processes=options.processes,
    )
    print(json.dumps(result["settings"]))
    print(table(result))
    if options.output:
        with open(f"{options.output}.json", "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
        with open(f"{options.output}.md", "w", encoding="utf-8") as file:
            file.write(table(result) + "\n")


if __name__ == "__main__":
    cpu.set_flags()
    main()
