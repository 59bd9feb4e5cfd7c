"""Accuracy under the corruptions of CIFAR-C, made by semjax or read from an official archive."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import untrusted
from experiments.datasets.data import DataError
from experiments.evaluation.context import Context
from semjax import corruptions, metrics

# The official archives hold the severities one after the other in one file.
_SEVERITIES = 5


def measure(context: Context) -> dict[str, Any]:
    """The part `corruptions` of a report.

    Every (corruption, severity) is a piece that is remembered, so that interrupted work goes on
    with the next one.
    """
    plan = context.plan
    names = plan.listed("corruptions")
    severities = tuple(int(severity) for severity in plan.listed("severities"))
    read, count = _archive(context) if plan.official else (None, len(context.test))
    keys = [f"{name} {severity}" for name in names for severity in severities]
    pieces = context.pieces("corruptions", keys)
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in names}
    for name in names:
        corrupt = _maker(context, name)
        for severity in severities:

            def make(
                name: str = name, severity: int = severity, corrupt: Any = corrupt
            ) -> dict[str, float]:
                if read is not None:
                    return _figures(context, *read(name, severity))
                return _figures(context, corrupt(severity), context.test.label)

            found[name][severity] = pieces.make(f"{name} {severity}", make)
    tables = {
        figure: {name: [found[name][s][figure] for s in severities] for name in names}
        for figure in ("accuracy", "nll", "ece")
    }
    benchmark = [name for name in names if name in corruptions.BENCHMARK]
    held_out = [name for name in names if name in corruptions.HELD_OUT]
    errors = {name: 1 - float(np.mean(tables["accuracy"][name])) for name in names}
    worst = max(errors, key=lambda name: errors[name])
    per_severity = [
        1 - float(np.mean([tables["accuracy"][name][place] for name in benchmark]))
        for place in range(len(severities) if benchmark else 0)
    ]
    return {
        "source": _source(context),
        "count": count,
        "benchmark": benchmark,
        "held_out": held_out,
        "severities": list(severities),
        **tables,
        "mce": _mean_error(tables["accuracy"], benchmark),
        "mce_held_out": _mean_error(tables["accuracy"], held_out),
        "mce_per_severity": per_severity,
        "worst": {"name": worst, "error": errors[worst]},
    }


def _mean_error(accuracy: dict[str, list[float]], names: list[str]) -> float | None:
    if not names:
        return None
    table = np.array([accuracy[name] for name in names], np.float32)
    return float(corruptions.mean_corruption_error(table))


def _figures(context: Context, images: np.ndarray, label: np.ndarray) -> dict[str, float]:
    logits = context.subject.answers(images).logits
    means = metrics.summarise(metrics.classification_sums(logits, label))
    return {name: float(means[name]) for name in ("accuracy", "nll", "ece")}


def _maker(context: Context, name: str) -> Callable[[int], np.ndarray]:
    """`images(severity)`: the test rows corrupted, by one program for all severities."""
    key = jax.random.key(context.plan.seed)

    @functools.cache
    def program() -> Callable[..., dict[str, jax.Array]]:
        def corrupt(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            del params
            images = corruptions.corrupt(
                key,
                batch["image"],
                name=name,
                severity=batch["severity"][0],
                index=batch["index"],
            )
            return {"image": images}

        return context.subject.jit(corrupt)

    def images(severity: int) -> np.ndarray:
        rows = np.full(len(context.test), severity, np.int32)
        found = context.subject.over_rows(program(), context.test.image, severity=rows)
        return found["image"]

    return images


def _source(context: Context) -> str:
    if context.plan.official:
        return f"{Path(context.plan.official).name}, official archive"
    side = max(context.test.image.shape[1:3])
    constants = "cifar" if side <= 64 else "imagenet"
    return f"CIFAR-C-style, made by semjax ({constants} constants)"


def _archive(context: Context) -> tuple[Callable[[str, int], tuple[np.ndarray, np.ndarray]], int]:
    """`read(name, severity)`, rows and labels of an official archive; and how many rows it gives.

    They are in the order of the archive, with its labels: that of the data set may be another one.
    """
    folder = Path(context.plan.official).expanduser()
    shown = f"--official={context.plan.official}"
    labels = _array(folder / "labels.npy", shown)
    count, rest = divmod(labels.size, _SEVERITIES)
    fits = labels.ndim == 1 and labels.size > 0 and labels.dtype.kind in "iu" and not rest
    if not (fits and labels.min() >= 0 and labels.max() < context.data.num_classes):
        span = f", {labels.min()} to {labels.max()}" if fits else ""
        raise DataError(
            f"{shown}: labels.npy must hold {_SEVERITIES} x N labels below "
            f"{context.data.num_classes}; found {labels.dtype}{list(labels.shape)}{span}"
        )
    used = min(count, context.plan.limit or count)

    def read(name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
        images = _array(folder / f"{name}.npy", shown)
        expected = (len(labels), *context.test.image.shape[1:])
        if images.shape != expected or images.dtype != np.uint8:
            raise DataError(
                f"{shown}: {name}.npy must be uint8{list(expected)}; "
                f"found {images.dtype}{list(images.shape)}"
            )
        first = (severity - 1) * count
        rows = slice(first, first + used)
        return np.asarray(images[rows]), labels[rows].astype(np.int32)

    return read, used


def _array(path: Path, shown: str) -> np.ndarray:
    try:
        return untrusted.read_array(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{shown}: cannot read {path.name}: {error}") from error
