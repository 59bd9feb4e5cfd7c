"""Orders of rows: permutations and fair draws, the same for ever. Batches are tested with data."""

import numpy as np
import pytest

from experiments.datasets import order


def test_an_order_is_a_permutation_of_its_own_for_each_seed_and_epoch():
    orders = [order.uniform(50, seed, epoch) for seed in range(3) for epoch in range(3)]
    for found in orders:
        np.testing.assert_array_equal(np.sort(found), np.arange(50))
    assert len({tuple(found) for found in orders}) == 9


def test_orders_are_pinned():
    assert order.uniform(8, 42, 1).tolist() == UNIFORM
    assert order.balanced((5, 1, 2), 9, 42, 1).tolist() == BALANCED


UNIFORM = [4, 5, 3, 0, 2, 7, 1, 6]
BALANCED = [0, 1, 4, 7, 5, 7, 6, 5, 5]


@pytest.mark.parametrize("places", [12, 13])
def test_cells_come_equally_often_up_to_one(places: int):
    rows = order.balanced((5, 1, 2), places, 0, 0)
    cells = np.bincount(np.searchsorted([5, 6], rows, side="right"), minlength=3)
    assert len(rows) == places and cells.max() - cells.min() == places % 3


def test_an_order_cannot_be_changed_by_who_is_handed_it():
    for found in (order.uniform(8, 0, 0), order.balanced((2, 2), 4, 0, 0)):
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 1
