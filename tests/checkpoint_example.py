"""A state like a trainer's, runs that have saved it, and ways to break them."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.checkpoint import Checkpoints


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "ema_params"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class State:
    step: Any
    params: Any
    opt_state: Any
    ema_params: Any = None


def make_state(step: int = 0, *, seed: int = 0, width: int = 16, ema: bool = False) -> State:
    """A state like a trainer's: NamedTuples, an empty part, two dtypes, a scalar, no EMA."""
    draw = np.random.default_rng(seed)
    kernel = jnp.asarray(draw.normal(size=(8, width)), jnp.float32)
    params = {"dense": {"kernel": kernel, "bias": jnp.full((width,), step, jnp.bfloat16)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return State(
        step=jnp.full((), step, jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=params if ema else None,
    )


def like(state: Any, sharding: jax.sharding.Sharding | None = None) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), state
    )


def assert_same(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for found, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()


def steps_on_disk(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def save_steps(workdir: Path, accuracies: dict[int, float | None], **options: Any) -> None:
    with Checkpoints(workdir, **options) as checkpoints:
        for step, accuracy in accuracies.items():
            metrics = None if accuracy is None else {"validation_accuracy": accuracy}
            checkpoints.save(step, make_state(step), metrics=metrics)


def files(workdir: Path, step: int, pattern: str = "*") -> list[Path]:
    """The files of a step."""
    found = (workdir / "checkpoints" / str(step)).rglob(pattern)
    return sorted(path for path in found if path.is_file())


def biggest(workdir: Path, step: int) -> Path:
    """The file that holds the arrays."""
    return max(files(workdir, step), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)
