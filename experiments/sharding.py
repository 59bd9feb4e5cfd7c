"""Devices: the one file that knows how many there are.

Everything else is written for the global batch. The batch is split over one mesh axis, the state is
on every device, and the compiler adds the communication.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from semjax.mixing import Mix
from semjax.policies.common import Policy


def make_mesh() -> Mesh:
    """A mesh of all devices with the one axis `data`."""
    # Auto axes by name: the default, Explicit, does not trace x[partner] or vmapped keys.
    return jax.make_mesh((jax.device_count(),), ("data",), (AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: the state, keys and metrics."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of what is split by its first axis over the devices: the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Copies a global batch from the host to the devices that hold its rows."""
    return jax.device_put(dict(batch), by_rows(mesh))


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
