"""Saves and restores the state of a run, and refuses to restore anything but what was saved.

Orbax writes the files. This module adds what a run that will be killed needs: one writer at a time,
the best checkpoint kept beside the latest, one readable error in place of a flood, and a checksum
for every array, because Orbax restores flipped bytes and casts other dtypes without a word. Orbax
is imported where it is used, so that no first step waits for it.
"""

import contextlib
import fcntl
import functools
import logging
import math
import os
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["BEST_METRIC", "CheckpointError", "Checkpoints"]

BEST_METRIC = "validation_accuracy"
_STATE, _CHECKSUMS = "state", "checksums"  # the two items of a checkpoint
_SHOWN = 8  # differences spelt out in one message


class CheckpointError(RuntimeError):
    """Says in one line where, what was found, what was expected and what to do."""


class Checkpoints:
    """The checkpoints of one run directory, in `workdir/checkpoints`.

    Guarantees, each of them tested:

    * one writer: the lock on `workdir/.lock` is held until `close`, or the end of the process,
      however it ends;
    * a step is there whole or not at all: a save that was cut off is never listed nor restored;
    * the latest `keep` steps stay, and the one with the highest finite `validation_accuracy`
      (of equals, the latest);
    * `restore` returns the very bits that were saved, on any number of devices, or raises.

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
        >>> state = {"step": jnp.zeros((), jnp.int32), "ema_params": None}
        >>> with tempfile.TemporaryDirectory() as workdir, Checkpoints(workdir) as checkpoints:
        ...     checkpoints.save(10, state, metrics={"validation_accuracy": 0.5})
        ...     checkpoints.best_step(), checkpoints.restore(state)
        (10, {'ema_params': None, 'step': Array(0, dtype=int32)})
    """

    def __init__(
        self, workdir: str | os.PathLike[str], *, keep: int = 2, read_only: bool = False
    ) -> None:
        """Opens the directory; see the class."""
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self._directory = Path(workdir).absolute() / "checkpoints"
        self._keep, self._read_only = keep, read_only
        self._manager: Any = None
        _drop_echoes()
        with contextlib.ExitStack() as resources:
            if not read_only:
                resources.callback(os.close, _lock(self._directory.parent))
            # A new run takes its first steps before it loads Orbax.
            if read_only or self._directory.exists():
                resources.callback(self._open().close)
            self._resources = resources.pop_all()  # theirs till close, unless one of them failed

    def latest_step(self) -> int | None:
        """Returns the last step saved, or None; a save under way counts."""
        return self._manager and self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the highest finite `validation_accuracy`, or None."""
        return self._manager and self._manager.best_step()

    def save(self, step: int, state: Any, *, metrics: Mapping[str, float] | None = None) -> None:
        """Copies the state and returns; the files are written in the background.

        The state may be donated as soon as this returns. A failed write is raised by the next
        `save`, `restore`, `wait` or `close`.

        Args:
            step: Step of the state; higher than every step saved before.
            state: Pytree of `jax.Array`s, None where a part is absent. All of them must be
                addressable from this process.
            metrics: What was measured at this step. Without a finite `validation_accuracy` the
                step is never the best.

        Raises:
            CheckpointError: If the step was refused or this or an earlier write failed.
            TypeError: If a leaf is not a `jax.Array`, is empty, or is a typed PRNG key.
        """
        if self._read_only:
            raise CheckpointError(f"{self._directory} was opened read-only: step {step} not saved")
        _require_arrays(state)
        if self._manager is None:
            self._resources.callback(self._open().close)
        import orbax.checkpoint as ocp

        args = {
            _STATE: ocp.args.StandardSave(state),
            _CHECKSUMS: ocp.args.JsonSave(_checksums(_leaves(state))),
        }
        with self._writing():
            saved = self._manager.save(
                step, args=ocp.args.Composite(**args), metrics=_ranked(metrics)
            )
        if not saved:
            raise CheckpointError(
                f"step {step} was not saved in {self._directory}: step {self.latest_step()} is "
                f"there already. To train on from an older step, remove the newer directories first"
            )

    def restore(self, template: Any, *, step: int | None = None) -> Any:
        """Reads a checkpoint back, bit for bit, onto the devices the template names.

        Args:
            template: Pytree of the expected structure, of arrays or of `jax.ShapeDtypeStruct`s
                with a `sharding`. It may name other devices than the state had when saved.
            step: Which step; None for the latest.

        Returns:
            A pytree like `template`.

        Raises:
            CheckpointError: If there is no such step, if it has another structure, shape or dtype
                than the template (nothing is ever cast), or if its files are damaged.
            ValueError: If a leaf of the template has no sharding.
        """
        import orbax.checkpoint as ocp

        self.wait()
        step = self._find(step)
        _require_shardings(template)
        self._require_fit(step, template)
        args = {
            _STATE: ocp.args.StandardRestore(template),
            _CHECKSUMS: ocp.args.JsonRestore(),
        }
        with self._reading(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**args))
            _verify(restored[_STATE], restored[_CHECKSUMS])
        return restored[_STATE]

    def wait(self) -> None:
        """Returns when every save is on disk.

        Raises:
            CheckpointError: If one of them failed.
        """
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the saves, then lets the directory go.

        Raises:
            CheckpointError: If a save failed; the directory is let go all the same.
        """
        with self._resources:
            self.wait()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()

    def _open(self) -> Any:
        self._manager = _open_manager(self._directory, keep=self._keep, read_only=self._read_only)
        return self._manager

    def _find(self, step: int | None) -> int:
        steps = sorted(self._manager.all_steps()) if self._manager else []
        if not steps:
            raise CheckpointError(f"there is no checkpoint in {self._directory}")
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(
                f"there is no checkpoint of step {step} in {self._directory}, only of {steps}"
            )
        return step

    def _require_fit(self, step: int, template: Any) -> None:
        """Compares before Orbax reads: it would cast, and fail in hundreds of lines."""
        with self._reading(step):
            metadata = self._manager.item_metadata(step)[_STATE]
            if metadata is None:
                raise FileNotFoundError("it does not say which arrays it holds")
        found, expected = _kinds(metadata.tree), _kinds(template)
        if differences := _differences(found, expected):
            raise CheckpointError(
                f"checkpoint {self._directory / str(step)} does not fit this run: "
                f"{_listed(differences)}. Resume with the settings it was written with, or choose "
                f"another directory"
            )

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            older = [other for other in self._manager.all_steps() if other < step]
            advice = f"to go on from step {max(older)}" if older else "to start anew"
            raise CheckpointError(
                f"checkpoint {self._directory / str(step)} (step {step}) cannot be restored: "
                f"{_digest(error)}. If its files are damaged, remove that directory {advice}"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise CheckpointError(
                f"a checkpoint could not be written in {self._directory}: {_digest(error)}. The "
                f"earlier ones are untouched: check the disk (full, read-only?), then start again"
            ) from error


def _lock(workdir: Path) -> int:
    """Returns a descriptor that holds the directory; the kernel frees it with the process."""
    descriptor = None
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(workdir / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise CheckpointError(
                f"another process writes in {workdir}: wait for it or choose another directory"
            ) from error
        raise CheckpointError(
            f"cannot write in {workdir} ({error.strerror}): choose another directory"
        ) from error


def _open_manager(directory: Path, *, keep: int, read_only: bool) -> Any:
    if not directory.is_dir() and (read_only or directory.exists()):
        raise CheckpointError(f"there is no directory {directory}: is it the directory of a run?")
    import orbax.checkpoint as ocp
    from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

    best = BestN(get_metric_fn=_quality, n=1, keep_checkpoints_without_metrics=False)
    # Orbax's own read_only warns at every opening; a manager that neither saves nor cleans
    # changes nothing either.
    options = ocp.CheckpointManagerOptions(
        cleanup_tmp_directories=not read_only,
        best_fn=_quality,  # without it the metrics are not written
        preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
    )
    # Named handlers let item_metadata read before anything was saved or restored.
    handlers = {
        _STATE: ocp.StandardCheckpointHandler(),
        _CHECKSUMS: ocp.JsonCheckpointHandler(),
    }
    try:
        return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)
    except Exception as error:
        raise CheckpointError(
            f"cannot open {directory}: {_digest(error)}. If a file STEP/metrics/metrics in it is "
            f"damaged, remove that step"
        ) from error


def _quality(metrics: Mapping[str, float]) -> float:
    return metrics[BEST_METRIC]


def _ranked(metrics: Mapping[str, float] | None) -> dict[str, float] | None:
    """Returns the finite metrics, or None for a step that must not rank: NaN would come first."""
    finite = {name: float(value) for name, value in (metrics or {}).items()}
    finite = {name: value for name, value in finite.items() if math.isfinite(value)}
    return finite if BEST_METRIC in finite else None


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves by path, the same for a state and for the metadata Orbax keeps of it."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _kind(leaf: Any) -> str:
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _kinds(tree: Any) -> dict[str, str]:
    return {name: _kind(leaf) for name, leaf in _leaves(tree).items()}


def _require_shardings(template: Any) -> None:
    for name, leaf in _leaves(template).items():
        if getattr(leaf, "sharding", None) is None:
            raise ValueError(
                f"template leaf {name} ({type(leaf).__name__}) has no sharding: pass arrays, or "
                f"jax.ShapeDtypeStruct(shape, dtype, sharding=...)"
            )


def _require_arrays(state: Any) -> None:
    for name, leaf in _leaves(state).items():
        if not isinstance(leaf, jax.Array):
            found = f"{type(leaf).__name__}: wrap it in jnp.asarray"
        elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found = f"{leaf.dtype}: save jax.random.key_data of it"
        elif leaf.size == 0:
            found = f"an empty one, {_kind(leaf)}: leave it out"  # Orbax saves none
        else:
            continue
        raise TypeError(f"state leaf {name} must be a jax.Array of numbers, got {found}")


def _checksums(leaves: Mapping[str, Any]) -> dict[str, int]:
    """Returns the crc32 of the bytes of each array, one array on the host at a time."""
    return {name: _crc32(leaf) for name, leaf in leaves.items()}


def _verify(state: Any, checksums: Mapping[str, int]) -> None:
    actual = _checksums(_leaves(state))
    damaged = [name for name, checksum in actual.items() if checksums.get(name) != checksum]
    if damaged:
        raise ValueError(f"the bytes do not match their checksum in {_listed(damaged)}")


def _crc32(array: jax.Array) -> int:
    # Not every dtype (bfloat16) offers a buffer, their bytes do.
    flat = np.ascontiguousarray(jax.device_get(array)).reshape(-1)
    return zlib.crc32(flat.view(np.uint8).data)


def _differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    def difference(name: str) -> str:
        if name not in found:
            return f"{name} is missing ({expected[name]} expected)"
        if name not in expected:
            return f"{name} ({found[name]}) is not expected"
        return f"{name} is {found[name]} ({expected[name]} expected)"

    names = sorted({*found, *expected})
    return [difference(name) for name in names if found.get(name) != expected.get(name)]


def _listed(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _digest(error: BaseException) -> str:
    """Returns one short line for an error whose own text may run to pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [""]
    # TensorStore appends its whole configuration in brackets.
    line = lines[0].split(" [tensorstore_spec=")[0].split(" [source locations=")[0]
    line = line if len(line) <= 400 else f"{line[:200]} ... {line[-200:]}"
    return f"{type(error).__name__}: {line}"


@functools.cache
def _drop_echoes() -> None:
    """Keeps the echoes of a failure off stderr, and nothing else.

    Orbax reads and writes arrays concurrently. When one fails the error is raised, and becomes a
    `CheckpointError`; the others are left to fail alone in their threads, where each prints a
    traceback, hundreds of lines in all, some of them long after the error was handled. Hence
    filters that stay, each of which knows an echo by its origin.
    """
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not _is_echo(unraisable.exc_value, unraisable.object):
            report(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: (
            not any(mark in record.getMessage() for mark in ("orbax", "TensorStore", "OCDBT"))
        )
    )
    logging.getLogger("absl").addFilter(
        lambda record: "orbax" not in record.pathname or not _is_raised_as_well(record)
    )
    warnings.filterwarnings("ignore", r"coroutine '_read_\w+' was never awaited", RuntimeWarning)


def _is_echo(error: BaseException | None, source: object) -> bool:
    if source is None:  # a thread of TensorStore, whose reader has gone
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    return "orbax" in getattr(getattr(source, "cr_code", None), "co_filename", "")


def _is_raised_as_well(record: logging.LogRecord) -> bool:
    # The last one is a remark on a step without metrics, which is no fault here.
    remarks = ("could not be restored", "did not provide metrics")
    return bool(record.exc_info) or any(remark in record.getMessage() for remark in remarks)
