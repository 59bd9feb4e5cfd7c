"""What a run would cost, asked of the compiler: memory, operations, bytes and compile time.

The programs of the run are compiled for its devices and its batches, and not run.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import program as program_lib
from experiments.config import Config
from experiments.datasets.data import Data
from experiments.layers import convolution, onednn
from experiments.program import Program
from experiments.training.feed import evaluation_batches, feed
from experiments.training.loop import Plan
from semjax.training import TrainState

_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_UNKNOWN = "not told by this back end"


def of_run(config: Config, data: Data, plan: Plan, program: Program, mesh: Mesh) -> dict[str, Any]:
    """The cost of a run, as rows of a table.

    Args:
      config: what the run is.
      data: what it is trained on; the batches of its first step and first evaluation are read.
      plan: its steps.
      program: its program.
      mesh: the devices.

    Returns:
      The rows; some are tables themselves.
    """
    state = state_bytes(program.state_shape)
    rows: dict[str, Any] = {
        "parameters": f"{program_lib.parameter_count(program.state_shape):,}",
        "state": f"{_size(state)} on each device: weights, statistics, optimiser",
        "checkpoint": f"about {_size(state)} on disk; the latest two are kept"
        + ("" if data.validation is None else ", and the best on validation"),
    }
    batch_at = feed(config, data.train, mesh)
    try:
        batch = batch_at(0)
    finally:
        if close := getattr(batch_at, "close", None):
            close()
    steps = {"a step": program.step}
    if program.plain_step is not None:
        steps = {"a step with the gap": program.step, "a step without": program.plain_step}
    written = _as_written(config, data, plan, mesh)
    for (name, step), same in zip(steps.items(), written, strict=True):
        arguments = (program.state_shape, batch, program.rng)
        rows[name] = _of_function(step, arguments) | _work(same, arguments, config.batch_size)
    batches = evaluation_batches(data.test, config.eval_batch_size or config.batch_size, mesh)
    first = next(iter(batches))
    getattr(batches, "close", lambda: None)()
    rows["a batch of an evaluation"] = _of_function(program.evaluate, (program.state_shape, first))
    rows["counted"] = "memory and bytes on one device, work on all; of a loop one turn"
    if _uses_onednn(config, mesh):
        rows["not counted"] = (
            f"bytes and work space of oneDNN {onednn.version()}, which XLA does not look into; its "
            "work is, as of XLA's own convolutions"
        )
    return rows


def state_bytes(state_shape: TrainState) -> int:
    """The bytes of a state, which every device holds whole.

    Args:
      state_shape: the state, or its shapes.

    Returns:
      The bytes of its arrays.

    Example:
      >>> state_bytes({"w": jax.ShapeDtypeStruct((10, 2), "float32")})
      80
    """
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state_shape))


def _of_function(function: Any, arguments: tuple[Any, ...]) -> dict[str, str]:
    """Memory, bytes and the time to compile of one program."""
    hits, began = _cache_hits(), time.monotonic()
    lowered = function.lower(*arguments)
    traced = time.monotonic()
    compiled = lowered.compile()
    took = time.monotonic() - traced
    kept = " (read from --compile_cache)" if _cache_hits() > hits else ""
    rows = dict(_memory(compiled))
    found = _told(compiled.cost_analysis) or {}
    moved = found.get("bytes accessed")
    rows["bytes moved"] = _UNKNOWN if moved is None else _size(moved)
    rows["time to compile"] = f"{took:.1f} s{kept}, after {traced - began:.1f} s of tracing"
    return rows


def _memory(compiled: Any) -> Iterator[tuple[str, str]]:
    found = _told(compiled.memory_analysis)
    if found is None:
        yield "memory", _UNKNOWN
        return
    arguments, outputs = found.argument_size_in_bytes, found.output_size_in_bytes
    shared, temporary = found.alias_size_in_bytes, found.temp_size_in_bytes
    most = arguments + outputs - shared + temporary
    yield "memory", f"{_size(most)}, of which"
    yield "  arguments", _size(arguments)
    yield "  outputs", _size(outputs) + (f", {_size(shared)} in place of arguments" * bool(shared))
    yield "  temporaries", _size(temporary)


def _work(function: Any, arguments: tuple[Any, ...], batch_size: int) -> dict[str, str]:
    """The floating-point operations of a program as it is written, on all devices."""
    found = _told(function.lower(*arguments).cost_analysis) or {}
    if "flops" not in found:
        return {"work": _UNKNOWN}
    flops = found["flops"]
    return {
        "work": f"{flops / 1e9:,.4g} GFLOP, {flops / batch_size / 1e6:,.4g} MFLOP a row trained on"
    }


def _as_written(config: Config, data: Data, plan: Plan, mesh: Mesh) -> tuple[Any, ...]:
    """The steps in a form whose every operation XLA can count.

    It counts nothing inside of a call to a library, and of a loop one turn.
    """
    plain = dataclasses.replace(config, convolutions="xla", accumulate=1)
    found = program_lib.build(plain, data, plan.total, mesh)
    return (found.step,) if found.plain_step is None else (found.step, found.plain_step)


def _uses_onednn(config: Config, mesh: Mesh) -> bool:
    chosen = convolution.choose(
        config.convolutions, platform=jax.default_backend(), devices=mesh.size
    )
    return chosen == "onednn" and config.model not in ("mlp", "vit_s_16")


def _told(ask: Any) -> Any:
    """What a back end says of a program; None for one that does not tell."""
    try:
        return ask()
    # Both are how back ends of JAX say that they do not tell.
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _size(count: float) -> str:
    return f"{count / 2**20:,.2f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"


def _cache_hits() -> int:
    """How many programs this process has read from the folder of compiled ones, so far."""
    return len(_hits())


@functools.cache
def _hits() -> list[str]:
    # JAX tells of a hit in no other way, and forgets no listener: there is one.
    found: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == _CACHE_HIT:
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    return found
