"""Where the batch of a step comes from: a split that lies on the devices, or the host.

A split that fits lies whole on every device. Then the host names the rows of a step, a few bytes,
and the step itself gathers them, each device its own. Of a larger split the host copies the batch.
Both give the same rows.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from experiments import data as data_lib
from experiments import sharding
from experiments.config import Config
from experiments.data import Split

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


def feed(config: Config, split: Split, mesh: Mesh) -> Callable[[int], dict[str, jax.Array] | Rows]:
    """The batches of a run by step, as `Program.step` takes them.

    A batch copied from the host is on its way when it is returned: a loop that asks for it before
    it waits for the step before has one batch copied while another is trained on.

    Args:
      config: its device_data_mib is the largest split that is put on every device; of its other
        flags the rows of a step depend on batch_size, seed and sampling.
      split: what is trained on.
      mesh: the devices.

    Returns:
      `feed(step)`, step counted from 0.
    """
    draw: dict[str, Any] = {
        "batch_size": config.batch_size,
        "seed": config.seed,
        "sampling": config.sampling,
    }
    columns = split.columns()
    if sum(column.nbytes for column in columns.values()) > config.device_data_mib * 2**20:
        return lambda step: sharding.put_batch(data_lib.batch_at(split, step, **draw), mesh)
    # Where the devices are the host's CPU, an array that is mapped from a file is not copied.
    held = jax.device_put(columns, sharding.replicated(mesh))

    def named(step: int) -> Rows:
        numbers = data_lib.rows_at(split, step, **draw)
        return Rows(held, jax.device_put(numbers, sharding.by_rows(mesh)))

    return named
