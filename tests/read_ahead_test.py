"""Reading ahead: whoever reads, the order is the same, and little is read too early."""

import multiprocessing
import threading
import time

import numpy as np
import pytest

from experiments.datasets import read_ahead
from experiments.datasets.data import DataError

ROWS = 24


def rows_at(step):
    """The rows of a step, the last two of them padding."""
    return np.where(np.arange(ROWS) < ROWS - 2, 100 * step + np.arange(ROWS), -1)


def read(rows):
    return {"row": rows, "double": 2 * rows}


def join(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def batches(made=None, finish=dict, first=0, last=None, workers=0):
    made = made or read_ahead.parts(rows_at, read, ROWS)
    return read_ahead.batches(made, join, finish, first=first, last=last, workers=workers)


@pytest.mark.parametrize(
    ("rows", "size"), [(24, 12), (16, 16), (1, 1), (17, 1), (512, 16), (34, 2)]
)
def test_parts_are_of_equal_size_and_few_rows(rows, size):
    made = read_ahead.parts(np.arange, read, rows)
    assert (made.size, made.count) == (size, rows // size)


@pytest.mark.parametrize("first", [0, 7])
def test_batches_come_in_order_from_any_step(first):
    found = batches(first=first)
    for step in range(first, first + 5):
        batch = next(found)
        np.testing.assert_array_equal(batch["row"], rows_at(step))
        np.testing.assert_array_equal(batch["double"], 2 * rows_at(step))
    found.close()


def test_it_ends_before_the_last_step():
    assert [batch["row"][0] for batch in batches(first=2, last=5)] == [200, 300, 400]
    assert list(batches(last=0)) == []


def test_what_is_finished_is_finished_in_another_thread():
    def finish(batch):
        return threading.get_ident(), batch["row"][0]

    thread, row = next(batches(finish=finish))
    assert row == 0 and thread != threading.get_ident()


def test_little_is_read_ahead_however_long_nothing_is_asked_for():
    counted = []

    def counting(rows):
        counted.append(len(rows))
        return read(rows)

    found = batches(read_ahead.parts(rows_at, counting, ROWS))
    next(found)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        before = sum(counted)
        time.sleep(0.3)
        if sum(counted) == before:
            break
    threads = 16
    assert ROWS <= sum(counted) <= 5 * ROWS + threads * 12
    found.close()


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    found = batches()
    next(found)
    begun = set(threading.enumerate()) - before
    assert begun
    found.close()
    for thread in begun:
        thread.join(10)
    assert not begun & set(threading.enumerate())


@pytest.mark.parametrize("where", ["read", "join", "finish"])
def test_errors_reach_who_asks(where):
    def fail(*_):
        raise DataError(f"wrong in {where}")

    parts = read_ahead.parts(rows_at, fail if where == "read" else read, ROWS)
    found = read_ahead.batches(
        parts,
        fail if where == "join" else join,
        fail if where == "finish" else dict,
        first=0,
        last=None,
        workers=0,
    )
    with pytest.raises(DataError, match=f"wrong in {where}"):
        next(found)


def test_an_error_of_the_program_is_not_taken_for_one_of_the_data():
    def fail(_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(batches(finish=fail))


def test_processes_read_the_same_and_one_that_ends_is_an_error_of_the_data():
    found = batches(first=3, workers=2)
    for step in range(3, 7):
        np.testing.assert_array_equal(next(found)["row"], rows_at(step))
    for process in multiprocessing.active_children():
        process.kill()
    with pytest.raises(DataError, match=r"--data_workers=2: Worker process was terminated"):
        for _ in range(50):
            next(found)
    assert not multiprocessing.active_children()
