"""Where the batch of a step comes from: a split that lies on the devices, the host, or the disk.

A split that fits lies whole on every device. Then the host names the rows of a step, a few bytes,
and the step itself gathers them, each device its own. Of a larger split the host copies the batch,
and a stream is read from disk ahead of the steps. All give the same rows, and where several
processes train together each reads and copies its own.
"""

import dataclasses
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Protocol, cast

import jax
from jax.sharding import Mesh

from experiments import sharding
from experiments.config import Config
from experiments.datasets import data as data_lib
from experiments.datasets import streaming
from experiments.datasets.data import Labelled, Split
from experiments.datasets.streaming import Stream

Columns = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A batch that is named, not copied.

    Attributes:
      split: the columns [N, ...] of a split by name, whole on every device.
      numbers: i32[B] in [0, N), the rows of the batch, split over the devices.
    """

    split: Columns
    numbers: jax.Array


def batch_of(batch: Columns | Rows, mesh: Mesh) -> dict[str, jax.Array]:
    """The batch itself, split by rows over the devices; to be called inside the step.

    Args:
      batch: the columns [B, ...] of a batch, or its rows.
      mesh: the devices.

    Returns:
      The columns [B, ...].

    Example:
      >>> rows = Rows({"label": jax.numpy.arange(8) * 2}, jax.numpy.arange(8)[::-1])
      >>> batch_of(rows, sharding.make_mesh())["label"].tolist()
      [14, 12, 10, 8, 6, 4, 2, 0]
    """
    columns = dict(batch.split if isinstance(batch, Rows) else batch)
    if isinstance(batch, Rows):
        # The host made the numbers of the very split: none is outside.
        take = {name: column.at[batch.numbers] for name, column in columns.items()}
        columns = {name: rows.get(mode="promise_in_bounds") for name, rows in take.items()}
    return jax.lax.with_sharding_constraint(columns, sharding.by_rows(mesh))


class BatchAt(Protocol):
    """The batches of a run by step, counted from 0; `close`, where there is one, ends reading."""

    def __call__(self, step: int, /) -> dict[str, jax.Array] | Rows:
        """The batch of a step, as `Program.step` takes it."""


def feed(config: Config, split: Labelled, mesh: Mesh) -> BatchAt:
    """The batches of a run by step, as `Program.step` takes them.

    A batch copied from the host is on its way when it is returned: a loop that asks for it before
    it waits for the step before has one batch copied while another is trained on. Of a stream one
    more batch has been copied by then.

    Args:
      config: its device_data_mib is the largest split that is put on every device; of its other
        flags the rows of a step depend on batch_size, seed and sampling.
      split: what is trained on, a `Split` or a `Stream`.
      mesh: the devices.

    Returns:
      `feed(step)`, step counted from 0. That of a stream has a `close()`.
    """
    draw: dict[str, Any] = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "sampling": config.sampling,
    }
    if isinstance(split, Stream):
        return _Streamed(split, draw, mesh)
    columns = cast(Split, split).columns()
    own = sharding.own_rows(mesh, config.batch_size)
    if sum(column.nbytes for column in columns.values()) > config.device_data_mib * 2**20:

        def copied(step: int) -> dict[str, jax.Array]:
            rows = data_lib.rows_at(split, step, **draw)[own]
            taken = {name: column[rows] for name, column in columns.items()}
            return sharding.put_own_rows(taken, mesh)

        return copied
    # Where the devices are the host's CPU, an array that is mapped from a file is not copied.
    held = sharding.put_everywhere(columns, mesh)

    def named(step: int) -> Rows:
        rows = {"numbers": data_lib.rows_at(split, step, **draw)[own]}
        return Rows(held, sharding.put_own_rows(rows, mesh)["numbers"])

    return named


def evaluation_batches(
    split: Labelled, batch_size: int, mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Batches on the devices that hold each row once, in order, the last one padded.

    Args:
      split: the rows, a `Split` or a `Stream`.
      batch_size: B, a multiple of the devices.
      mesh: the devices.

    Returns:
      Iterator of what `data.eval_batches` yields, split by rows over the devices.
    """
    own = sharding.own_rows(mesh, batch_size)
    if isinstance(split, Stream):

        def put(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            return sharding.put_own_rows(batch, mesh)

        yield from streaming.eval_batches(split, batch_size, own=own, finish=put)
        return
    for batch in data_lib.eval_batches(cast(Split, split), batch_size):
        yield sharding.put_own_rows({name: values[own] for name, values in batch.items()}, mesh)


class _Streamed:
    """The batches of a stream: read on from the last step that was asked for, or anew from any."""

    def __init__(self, stream: Stream, draw: Mapping[str, Any], mesh: Mesh) -> None:
        self._stream, self._draw, self._mesh = stream, draw, mesh
        self._own = sharding.own_rows(mesh, draw["batch_size"])
        self._step = -1
        self._batches: Generator[Any, None, None] | None = None

    def __call__(self, step: int, /) -> dict[str, jax.Array]:
        if self._batches is None or step != self._step:
            self.close()
            self._batches = streaming.batches(
                self._stream,
                step,
                own=self._own,
                finish=lambda batch: sharding.put_own_rows(batch, self._mesh),
                **self._draw,
            )
        batch = next(self._batches)
        self._step = step + 1
        return batch

    def close(self) -> None:
        """Ends the threads and processes that read."""
        if self._batches is not None:
            self._batches.close()
        self._batches, self._step = None, -1
