"""Opens the manager of Orbax that writes the steps of a run and removes old ones."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.checkpointing import seal
from experiments.checkpointing.errors import CheckpointError, digest
from experiments.checkpointing.reading import CHECKSUMS, STATE

__all__ = ["open_manager", "ranked", "save"]


def open_manager(directory: Path, *, keep: int, metric: str) -> Any:
    """A `CheckpointManager` of this process alone.

    Args:
      directory: the checkpoints of a run; made if it is not there.
      keep: how many of the latest steps stay.
      metric: the step with the highest one stays too.

    Raises:
      CheckpointError: the directory cannot be used.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

    def quality(metrics: Mapping[str, float]) -> float:
        return metrics[metric]

    # The state is whole in every process, so that one writes it and waits for no other: a failure
    # is known at once, and no process is left at a barrier.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix="writer",
    )
    options = ocp.CheckpointManagerOptions(
        create=False,  # Orbax does not for one process of several
        best_fn=quality,  # without it the metrics are not written
        preservation_policy=AnyPreservationPolicy(
            [
                LatestN(keep),
                BestN(get_metric_fn=quality, n=1, keep_checkpoints_without_metrics=False),
            ]
        ),
        multiprocessing_options=alone,
    )
    handlers = {
        STATE: ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        CHECKSUMS: ocp.JsonCheckpointHandler(multiprocessing_options=alone),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        manager = ocp.CheckpointManager(directory, options=options, item_handlers=handlers)
    except Exception as error:
        raise CheckpointError(f"cannot open {directory}: {digest(error)}") from error
    # To ask for a preemption counts as a step of the training loop, whose business it is.
    manager.reached_preemption = lambda step: False
    return manager


def save(manager: Any, step: int, state: Any, metrics: Mapping[str, float] | None) -> bool:
    """Begins to write a step; returns whether it was taken.

    Args:
      manager: from `open_manager`.
      step: higher than every step before.
      state: pytree of arrays that this process holds whole.
      metrics: as `ranked` returns them.
    """
    import orbax.checkpoint as ocp

    own = jax.tree.map(_own, state)
    args = {
        STATE: ocp.args.StandardSave(own),
        CHECKSUMS: ocp.args.JsonSave(seal.sealed(own)),
    }
    return manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)


def ranked(metrics: Mapping[str, float] | None, metric: str) -> dict[str, float] | None:
    """The finite metrics, or None for a step that must not rank: NaN would come first.

    Example:
      >>> ranked({"accuracy": 0.5, "loss": float("nan")}, "accuracy")
      {'accuracy': 0.5}
    """
    finite = {name: float(value) for name, value in (metrics or {}).items()}
    finite = {name: value for name, value in finite.items() if math.isfinite(value)}
    return finite if metric in finite else None


def _own(leaf: jax.Array) -> jax.Array | np.ndarray:
    """The copy of this process on the host, where others hold one too; the files are the same."""
    return leaf if leaf.is_fully_addressable else np.asarray(leaf)
