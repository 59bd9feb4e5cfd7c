"""How a stream is read ahead: by Grain, on threads or in processes, in an order that is given.

A batch is read in parts of some rows. Which rows a part has is a function of its number alone, so
reading can begin at any step, and neither threads nor processes change what is read.
"""

import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from experiments.datasets.data import DataError

# Rows that one thread reads in one go: few enough for all threads to work on one batch.
_PART_ROWS = 16
# Pillow decodes without Python's lock; more threads than this wait for it.
_MOST_THREADS = 16
_FOREVER = 2**60  # parts
_ORPHAN_SECONDS = 1.0

Batch = dict[str, np.ndarray]
# Reads rows i64[n], -1 for none.
Read = Callable[[np.ndarray], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of all batches, by number; sent to every process that reads.

    Attributes:
      rows_at: the rows of a step, i64[B], -1 for none.
      read: reads rows.
      size: rows of a part; divides B.
      count: parts of a batch.
    """

    rows_at: Callable[[int], np.ndarray]
    read: Read
    size: int
    count: int

    def __call__(self, number: int) -> dict[str, Any]:
        """Reads a part."""
        step, part = divmod(number, self.count)
        return self.read(self.rows_at(step)[part * self.size :][: self.size])


def parts(rows_at: Callable[[int], np.ndarray], read: Read, rows: int) -> Parts:
    """Cuts batches into parts of equal size.

    Args:
      rows_at: the rows of a step.
      read: reads rows.
      rows: B.

    Returns:
      The parts.

    Example:
      >>> found = parts(lambda step: np.arange(40) + 40 * step, lambda rows: {"row": rows}, 40)
      >>> found.size, found(5)["row"].tolist()
      (10, [50, 51, 52, 53, 54, 55, 56, 57, 58, 59])
    """
    size = next(n for n in range(min(rows, _PART_ROWS), 0, -1) if rows % n == 0)
    return Parts(rows_at, read, size, rows // size)


def batches(
    made: Parts,
    join: Callable[[list[dict[str, Any]]], Batch],
    finish: Callable[[Batch], Any],
    *,
    first: int,
    last: int | None,
    workers: int,
) -> Generator[Any, None, None]:
    """The batches of some steps, read ahead by a constant number.

    About one batch is read in parts, and one more is finished and waits.

    Args:
      made: the parts.
      join: makes a batch of the parts of a step, in this process.
      finish: what is done to a batch, in the thread that waits for it: copying to a device, say.
      first: the first step.
      last: the step before which it ends; None: it does not end.
      workers: processes that read; 0: threads of this one.

    Yields:
      What `finish` returns. Closing the iterator ends the threads and processes.

    Raises:
      DataError: a process that reads has ended.
    """
    import grain
    from absl import flags

    # Grain looks at flags of its own, which are their defaults where a program has none.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    stop = _FOREVER if last is None else last * made.count
    numbers = grain.MapDataset.range(first * made.count, stop).map(made)
    if workers:
        dataset = numbers.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
            grain.MultiprocessingOptions(workers, -(-made.count // workers)),
            worker_init_fn=_as_worker,
        )
    else:
        threads = min(os.cpu_count() or 1, _MOST_THREADS)
        dataset = numbers.to_iter_dataset(grain.ReadOptions(threads, threads + made.count))
    dataset = dataset.batch(made.count, batch_fn=join).map(finish)
    dataset = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=1)
    iterator = iter(dataset)
    try:
        yield from iterator
    except RuntimeError as error:
        if "Worker process" not in str(error):
            raise
        raise DataError(f"--data_workers={workers}: {error}") from error
    finally:
        iterator.close()


def _as_worker(index: int, count: int) -> None:
    """Makes a process that reads leave signals to its parent, and end when that has ended."""
    # A terminal and a scheduler send them to all processes of a run; the parent decides.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
