"""The order in which training sees its rows: functions of (seed, epoch) alone, for ever.

NumPy promises the raw words of a counter-based generator keyed by (seed, epoch), which it does not
for `Generator.permutation`; orders are made by sorting such words.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def uniform(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of `count` rows that depends on the arguments alone.

    Args:
      count: N.
      seed: in [0, 2**64).
      epoch: in [0, 2**64).

    Returns:
      i64[N], read-only, since the same array is handed to every caller.

    Example:
      >>> uniform(5, 0, 0).tolist(), uniform(5, 0, 1).tolist()
      ([0, 2, 1, 4, 3], [3, 2, 4, 1, 0])
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(count)
    order = np.argsort(words, kind="stable")
    order.setflags(write=False)
    return order


@functools.lru_cache(maxsize=4)
def balanced(sizes: tuple[int, ...], places: int, seed: int, epoch: int) -> np.ndarray:
    """Rows that are numbered cell by cell, each cell equally often, up to one.

    Args:
      sizes: the rows of each cell.
      places: how many rows are drawn.
      seed: in [0, 2**64).
      epoch: in [0, 2**64).

    Returns:
      i64[places], read-only, since the same array is handed to every caller.

    Example:
      >>> rows = balanced((3, 1), 8, 0, 0)
      >>> int((rows < 3).sum()), int((rows == 3).sum())
      (4, 4)
    """
    # Another part of the stream than that of `uniform`, so that the two share no words.
    counter = np.array([0, 0, 0, 1], np.uint64)
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=counter)
    share, extra = divmod(places, len(sizes))
    count = np.full(len(sizes), share)
    count[np.argsort(bits.random_raw(len(sizes)), kind="stable")[:extra]] += 1
    rows, start = [], 0
    for size, needed in zip(sizes, count, strict=True):
        rounds = -(-int(needed) // size)
        words = bits.random_raw(rounds * size).reshape(rounds, size)
        rows.append(start + np.argsort(words, axis=1, kind="stable").reshape(-1)[:needed])
        start += size
    shuffled = np.argsort(bits.random_raw(places), kind="stable")
    order = np.concatenate(rows)[shuffled]
    order.setflags(write=False)
    return order
