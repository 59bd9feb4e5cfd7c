"""Devices: the one file that knows how many there are, and which of them are this process's.

Everything else is written for the global batch. The batch is split over one mesh axis, the state is
on every device, and the compiler adds the communication. Where several processes train together,
each puts the rows of its own devices.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from semjax.mixing import Mix
from semjax.policies.common import Policy


def make_mesh() -> Mesh:
    """A mesh of all devices with the one axis `data`, those of a process side by side."""
    # In this order the rows of a process are one block of the batch, whatever the machines' wiring:
    # they are read as one, and groups of rows that are paired among themselves stay on a machine.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    # Auto axes by name: the default, Explicit, does not trace x[partner] or vmapped keys.
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: the state, keys and metrics."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of what is split by its first axis over the devices: the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def own_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Which rows of a global batch lie on devices of this process.

    Args:
      mesh: the devices.
      rows: B, a multiple of the devices.

    Returns:
      i64[B / processes], ascending, one after the other on the mesh of `make_mesh`.

    Example:
      >>> own_rows(make_mesh(), 8).tolist()
      [0, 1, 2, 3, 4, 5, 6, 7]
    """
    if jax.process_count() == 1:
        return np.arange(rows)
    slices = by_rows(mesh).addressable_devices_indices_map((rows,)).values()
    return np.sort(np.concatenate([np.arange(rows)[index] for index in slices]))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Copies a global batch, the same in every process, to the devices that hold its rows."""
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), by_rows(mesh))
    own = own_rows(mesh, len(next(iter(batch.values()))))
    return put_own_rows({name: values[own] for name, values in batch.items()}, mesh)


def put_own_rows(rows: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes a global batch of the rows that each process has.

    Args:
      rows: arrays [B / processes, ...], the rows that `own_rows` names, in its order.
      mesh: the devices.

    Returns:
      Arrays [B, ...], split by rows over the devices.
    """
    if jax.process_count() == 1:
        return jax.device_put(dict(rows), by_rows(mesh))
    return {
        name: jax.make_array_from_process_local_data(by_rows(mesh), values)
        for name, values in rows.items()
    }


def put_everywhere(values: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays, the same in every process, whole to every device."""
    if jax.process_count() == 1:
        return jax.device_put(values, replicated(mesh))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(
            np.shape(leaf), replicated(mesh), lambda index: leaf[index]
        ),
        values,
    )


def drawn_replicated(policy: Policy, mesh: Mesh) -> Policy:
    """The policy, its draws made whole on every device, its masks and transports where rows are.

    Left to itself the compiler splits the draws of a Beta law as it splits the batch, and then
    needs a reduction over all devices in every round of its rejection loop. What has the size of an
    image is not sent around: each device makes the masks of its own rows from the draws.
    """

    def draw(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        mix = policy(key, batch, probe)
        return jax.tree.map(
            lambda leaf: jax.lax.with_sharding_constraint(
                leaf, by_rows(mesh) if leaf.ndim > 2 else replicated(mesh)
            ),
            mix,
        )

    return draw
