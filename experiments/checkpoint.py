"""Saves and restores the state of a run, and refuses to restore anything but what was saved.

Orbax writes the files. This module adds what a run that will be killed needs: one writer at a time,
the best checkpoint kept beside the latest, one readable error in place of a flood, a checksum for
every array, and the newest good step in place of a damaged one. Several processes do each of these
together, and either all succeed or all raise. Orbax is imported where it is used, so that no first
step waits for it.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import jax

from experiments.checkpointing import agreement, arrays, directory, echoes, reading, writing
from experiments.checkpointing.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointMismatch,
    digest,
    listed,
)

__all__ = [
    "BEST_METRIC",
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointMismatch",
    "Checkpoints",
    "Restored",
    "SetAside",
]

BEST_METRIC = "validation_accuracy"

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class SetAside:
    """A step that could not be restored.

    Attributes:
      step: which.
      moved_to: where it lies now; None where it was left, because the directory is only read.
      reason: what is wrong with it, in one line.
    """

    step: int
    moved_to: Path | None
    reason: str


@dataclasses.dataclass(frozen=True)
class Restored(Generic[State]):
    """The newest good step of a run.

    Attributes:
      state: like the template.
      step: its step.
      set_aside: the damaged steps, the newest first.
    """

    state: State
    step: int
    set_aside: tuple[SetAside, ...]


class Checkpoints:
    """The checkpoints of one run directory, in `workdir/checkpoints`.

    Guarantees, each of them tested:

    * one writer: the lock on `workdir/.lock` is held until `close`, or the end of the process,
      however it ends;
    * a step is there whole or not at all: a save that was cut off is never listed nor restored;
    * the latest `keep` steps stay, and the one with the highest finite `validation_accuracy`
      (of equals, the latest);
    * `restore` returns the very bits that were saved, on any number of devices, or raises;
    * `restore_latest` goes on from the newest step that is whole, and deletes none that is not;
    * several processes agree: each method but `check` and `close` ends in the same way in all of
      them, and every process has to call it. They share the file system; process 0 writes.

    Args:
        workdir: Directory of the run; made if it is not there.
        keep: How many of the latest steps stay; at least 1.
        read_only: Only looks: takes no lock, writes nothing, removes nothing, so that a run can be
            evaluated while it trains, or from a disk that cannot be written.

    Raises:
        CheckpointError: If another process writes there, or the directory cannot be used.
        ValueError: If `keep` is less than 1.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> state = {"step": jnp.zeros((), jnp.int32), "ema_params": None}
        >>> with tempfile.TemporaryDirectory() as workdir, Checkpoints(workdir) as checkpoints:
        ...     checkpoints.save(10, state, metrics={"validation_accuracy": 0.5})
        ...     checkpoints.best_step(), checkpoints.restore_latest(state)
        (10, Restored(state={'ema_params': None, 'step': Array(0, dtype=int32)}, step=10,
                      set_aside=()))
    """

    def __init__(
        self, workdir: str | os.PathLike[str], *, keep: int = 2, read_only: bool = False
    ) -> None:
        """Opens the directory; see the class."""
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._directory = Path(workdir).absolute() / "checkpoints"
        self._keep, self._read_only = keep, read_only
        self._manager: Any = None  # of process 0; a new run takes its first steps before it opens
        self._pending: tuple[int, float | None] | None = None  # the save under way, its quality
        echoes.drop_echoes()
        with contextlib.ExitStack() as resources:
            agreement.by_first(lambda: self._take(resources))
            self._resources = resources.pop_all()  # theirs till close, unless one of them failed

    def latest_step(self) -> int | None:
        """Returns the last step saved, or None; a save under way counts."""
        return max(self._steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step with the highest finite `validation_accuracy`, or None.

        Raises:
            CheckpointDamaged: If it cannot be told, because what a step was ranked by is damaged.
        """
        return agreement.by_first(self._best)

    def save(self, step: int, state: Any, *, metrics: Mapping[str, float] | None = None) -> None:
        """Copies the state and returns; the files are written in the background.

        The state may be donated as soon as this returns. A failed write is raised by the next
        `check`, `save`, `restore`, `wait` or `close`.

        Args:
            step: Step of the state; higher than every step saved before.
            state: Pytree of `jax.Array`s, None where a part is absent. Each process must hold all
                of them whole.
            metrics: What was measured at this step. Without a finite `validation_accuracy` the
                step is never the best.

        Raises:
            CheckpointError: If the step was refused, the disk has too little room for it, or this
                or an earlier write failed.
            TypeError: If a leaf is not a `jax.Array`, is empty, or is a typed PRNG key.
        """
        if self._read_only:
            raise CheckpointError(f"{self._directory} was opened read-only: step {step} not saved")
        arrays.require_arrays(state)
        self.wait()
        ranked = writing.ranked(metrics, BEST_METRIC)
        agreement.by_first(lambda: self._write(step, state, ranked))

    def rank(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds what was measured to a step that was saved before it was measured.

        The step is there whole at every moment, as it was or with its metrics.

        Args:
            step: One that was saved.
            metrics: As for `save`.

        Raises:
            CheckpointError: If there is no such step, or it cannot be written.
        """
        self.wait()
        step = self._find(step)
        if ranked := writing.ranked(metrics, BEST_METRIC):
            agreement.by_first(lambda: self._rank(step, ranked))

    def check(self) -> None:
        """Looks whether a write in the background has failed; never waits for one.

        Raises:
            CheckpointError: If so.
        """
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self._wait()

    def restore(self, template: Any, *, step: int | None = None) -> Any:
        """Reads a checkpoint back, bit for bit, onto the devices the template names.

        Args:
            template: Pytree of the expected structure, of arrays or of `jax.ShapeDtypeStruct`s
                with a `sharding`. It may name other devices than the state had when saved.
            step: Which step; None for the latest.

        Returns:
            A pytree like `template`.

        Raises:
            CheckpointError: If there is no such step.
            CheckpointMismatch: If it has another structure, shape or dtype than the template
                (nothing is ever cast), or a newer format.
            CheckpointDamaged: If its files are damaged.
            ValueError: If a leaf of the template has no sharding.
        """
        self.wait()
        arrays.require_shardings(template)
        step = self._find(step)
        try:
            return self._restore(step, template)
        except CheckpointDamaged as error:
            older = [other for other in self._steps() if other < step]
            advice = f"to go on from step {max(older)}" if older else "to start anew"
            raise CheckpointDamaged(
                f"checkpoint {self._directory / str(step)} (step {step}) cannot be restored: "
                f"{error}. If its files are damaged, remove that directory {advice}"
            ) from error

    def restore_latest(self, template: State) -> Restored[State] | None:
        """Reads the newest step that is whole, and sets damaged newer ones aside.

        They are moved to `workdir/damaged/STEP`, so that these steps can be saved again. Nothing is
        moved where the directory is only read, and where no step is whole: what happens then is for
        a person to decide.

        Args:
            template: As for `restore`.

        Returns:
            What was restored, or None if there is no checkpoint at all.

        Raises:
            CheckpointDamaged: If there are checkpoints and none of them is whole.
            CheckpointMismatch: If the newest that is whole is not one of this run.
            CheckpointError: If a damaged step cannot be moved.
            ValueError: If a leaf of the template has no sharding.
        """
        self.wait()
        arrays.require_shardings(template)
        reasons: dict[int, str] = {}
        for step in reversed(steps := self._steps()):
            try:
                state = self._restore(step, template)
            except CheckpointDamaged as error:
                if self._read_only and step not in self._steps():
                    return self.restore_latest(template)  # its writer has newer ones now
                reasons[step] = str(error)
                continue
            return Restored(state, step, self._set_aside(reasons, step))
        if not steps:
            return None
        told = listed([f"step {step}: {reason}" for step, reason in reasons.items()])
        raise CheckpointDamaged(
            f"none of the checkpoints in {self._directory} can be restored ({told}). To start anew "
            f"choose another directory"
        )

    def wait(self) -> None:
        """Returns when every save is on disk.

        Raises:
            CheckpointError: If one of them failed.
        """
        agreement.by_first(self._wait)

    def close(self) -> None:
        """Waits for this process's saves, then lets the directory go.

        A process may close alone, after an error that is its own: call `wait` first where all end.

        Raises:
            CheckpointError: If a save failed; the directory is let go all the same.
        """
        with self._resources:
            self._wait()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()

    def _take(self, resources: contextlib.ExitStack) -> None:
        """Takes hold of the directory, as process 0."""
        if not self._read_only:
            resources.callback(os.close, directory.lock(self._directory.parent))
        if not self._directory.is_dir() and (self._read_only or self._directory.exists()):
            raise CheckpointError(
                f"there is no directory {self._directory}: is it the directory of a run?"
            )
        if not self._read_only:
            directory.remove_half_written(self._directory)

    def _steps(self) -> list[int]:
        """The steps on disk and the one under way, in order, as process 0 sees them."""
        return agreement.by_first(
            lambda: sorted({*directory.steps(self._directory), *(self._pending or ())[:1]})
        )

    def _best(self) -> int | None:
        ranked = directory.qualities(self._directory, BEST_METRIC)
        if self._pending is not None and self._pending[1] is not None:
            ranked[self._pending[0]] = self._pending[1]
        return max(ranked, key=lambda step: (ranked[step], step), default=None)

    def _write(self, step: int, state: Any, metrics: dict[str, float] | None) -> None:
        """Begins to write, as process 0."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        directory.require_room(self._directory, size)
        if self._manager is None:
            self._manager = writing.open_manager(
                self._directory, keep=self._keep, metric=BEST_METRIC
            )
            self._resources.callback(self._manager.close)
        with self._writing():
            saved = writing.save(self._manager, step, state, metrics)
        if not saved:
            raise CheckpointError(
                f"step {step} was not saved in {self._directory}: step "
                f"{self._manager.latest_step()} is there already. To train on from an older step, "
                f"remove the newer directories first"
            )
        self._pending = step, (metrics or {}).get(BEST_METRIC)

    def _rank(self, step: int, metrics: dict[str, float]) -> None:
        with self._writing():
            directory.write_metrics(self._directory / str(step), metrics)
            if self._manager is not None:
                self._manager.reload()

    def _wait(self) -> None:
        """Waits for the save of this process, if one is under way."""
        if self._pending is not None:
            self._pending = None  # on disk or failed, which is told once
            with self._writing():
                self._manager.wait_until_finished()

    def _find(self, step: int | None) -> int:
        """The step that process 0 asks for."""
        step = agreement.by_first(lambda: step)
        steps = self._steps()
        if not steps:
            raise CheckpointError(f"there is no checkpoint in {self._directory}")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(
                f"there is no checkpoint of step {step} in {self._directory}, only of {steps}"
            )
        return step

    def _restore(self, step: int, template: Any) -> Any:
        """Reads a step; what one process cannot read is damaged for all."""
        state, error = None, None
        try:
            state = reading.read(self._directory / str(step), template, metric=BEST_METRIC)
        except Exception as found:
            error = found
        agreement.raise_together(error)
        return state

    def _set_aside(self, reasons: dict[int, str], restored: int) -> tuple[SetAside, ...]:
        """Moves damaged steps away, as process 0, and tells all where they are."""
        moved = agreement.by_first(lambda: self._move([*reasons], restored))
        return tuple(
            SetAside(step, Path(target) if target else None, reasons.get(step) or reason)
            for step, target, reason in moved
        )

    def _move(self, damaged: list[int], restored: int) -> list[tuple[int, str | None, str]]:
        if self._read_only:
            return [(step, None, "") for step in damaged]
        found = dict.fromkeys(damaged, "")
        for step in reversed(directory.steps(self._directory)):
            path = self._directory / str(step)
            # No writer could open the run with one of these among its older steps.
            if step < restored and (reason := directory.unlistable(path, BEST_METRIC)):
                found[step] = reason
        moved = directory.set_aside(self._directory, found)
        if self._manager is not None:
            self._manager.reload()
        return [(step, str(moved[step]), reason) for step, reason in found.items()]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"a checkpoint could not be written in {self._directory}: {digest(error)}. The "
                f"earlier ones are untouched: check the disk (full, read-only?), then start again"
            ) from error
