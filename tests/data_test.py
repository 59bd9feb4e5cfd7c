"""Laws of experiments.data: the order of batches, padding, splits."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import data

# ------------------------------------------------------------------------------- order and batches


def _numbered(count):
    """A split whose image and label both say which row it is."""
    label = np.arange(count, dtype=np.int32)
    image = np.zeros((count, 2, 3, 1), np.uint8)
    image[...] = (label % 256)[:, None, None, None]
    return data.Split(image, label)


def _epoch(split, epoch, *, batch_size, seed):
    steps = data.steps_per_epoch(split, batch_size)
    batches = [
        data.batch_at(split, step, batch_size=batch_size, seed=seed)
        for step in range(epoch * steps, (epoch + 1) * steps)
    ]
    return np.concatenate([batch["label"] for batch in batches])


def _run(code, **environment):
    """Runs Python code in a fresh process and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=pathlib.Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_importing_the_module_imports_no_heavy_package():
    heavy = ("tensorflow_datasets", "sklearn", "PIL", "jax", "requests")
    code = f"import sys, experiments.data; print([m for m in {heavy} if m in sys.modules])"
    assert _run(code) == "[]"


def test_each_epoch_is_a_permutation_of_the_split():
    split = _numbered(60)
    for epoch in range(3):
        np.testing.assert_array_equal(
            np.sort(_epoch(split, epoch, batch_size=12, seed=3)), np.arange(60)
        )


def test_the_remainder_is_dropped_and_differs_between_epochs():
    split = _numbered(23)
    left_over = []
    for epoch in range(4):
        rows = _epoch(split, epoch, batch_size=5, seed=0)
        assert len(set(rows)) == len(rows) == 20
        left_over.append(frozenset(range(23)) - set(rows))
    assert len(set(left_over)) > 1


def test_image_and_label_of_a_batch_come_from_the_same_rows():
    batch = data.batch_at(_numbered(50), 7, batch_size=8, seed=1)
    assert batch["image"].shape == (8, 2, 3, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    expected = np.broadcast_to(batch["label"][:, None, None, None], (8, 2, 3, 1))
    np.testing.assert_array_equal(batch["image"], expected)


def test_batches_do_not_depend_on_the_order_they_are_asked_for():
    split = _numbered(40)
    forward = [data.batch_at(split, step, batch_size=7, seed=5)["label"] for step in range(20)]
    for step in np.random.default_rng(0).permutation(20):
        # Other seeds in between push this one's epochs out of any cache.
        for seed in range(6):
            data.batch_at(split, 3, batch_size=7, seed=100 + seed)
        again = data.batch_at(split, step, batch_size=7, seed=5)["label"]
        np.testing.assert_array_equal(again, forward[step])


def test_batches_are_the_same_in_another_process():
    code = (
        "import numpy as np\n"
        "from experiments import data\n"
        "split = data.Split(np.zeros((40, 1, 1, 1), np.uint8), np.arange(40, dtype=np.int32))\n"
        "print(data.batch_at(split, 13, batch_size=7, seed=5)['label'].tolist())"
    )
    here = data.batch_at(_numbered(40), 13, batch_size=7, seed=5)["label"].tolist()
    assert _run(code, PYTHONHASHSEED="123") == str(here)


def test_the_order_is_pinned():
    rows = data.batch_at(_numbered(1000), 0, batch_size=8, seed=42)["label"].tolist()
    assert rows == [219, 322, 311, 675, 377, 174, 866, 100], (
        "the order of the training rows changed: runs of earlier versions can no longer be"
        " resumed or repeated"
    )


def test_global_random_state_changes_nothing():
    split = _numbered(40)
    first = data.batch_at(split, 3, batch_size=7, seed=5)["label"]
    np.random.seed(7)
    data._order.cache_clear()
    np.testing.assert_array_equal(data.batch_at(split, 3, batch_size=7, seed=5)["label"], first)


def test_seeds_and_epochs_give_different_orders():
    split = _numbered(64)
    orders = [
        _epoch(split, epoch, batch_size=16, seed=seed) for seed in range(4) for epoch in range(4)
    ]
    assert len({tuple(order) for order in orders}) == 16


def test_seed_and_epoch_do_not_stand_in_for_each_other():
    split = _numbered(64)
    one = _epoch(split, 1, batch_size=16, seed=0)
    assert not np.array_equal(one, _epoch(split, 0, batch_size=16, seed=1))


def test_the_order_does_not_depend_on_the_batch_size():
    split = _numbered(60)
    np.testing.assert_array_equal(
        _epoch(split, 2, batch_size=12, seed=0), _epoch(split, 2, batch_size=20, seed=0)
    )


def test_a_batch_is_the_callers_to_change():
    split = _numbered(10)
    batch = data.batch_at(split, 0, batch_size=10, seed=0)
    batch["image"][...] = 255
    batch["label"][...] = -1
    np.testing.assert_array_equal(split.label, np.arange(10))
    assert split.image.max() == 9


def test_numpy_integers_are_steps_too():
    split = _numbered(10)
    expected = data.batch_at(split, 9, batch_size=3, seed=2)["label"]
    actual = data.batch_at(split, np.int64(9), batch_size=3, seed=np.int32(2))["label"]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step must be 0 or positive, got -1"),
        ({"seed": -1}, "seed must be in .*got -1"),
        ({"seed": 2**63}, "seed must be in"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"batch_size": 11}, "batch_size is 11 but the split has 10 rows"),
    ],
)
def test_batch_at_refuses_impossible_arguments(arguments, message):
    arguments = {"step": 0, "batch_size": 2, "seed": 0} | arguments
    with pytest.raises(ValueError, match=message):
        data.batch_at(_numbered(10), arguments.pop("step"), **arguments)


def test_a_fractional_step_is_a_type_error():
    with pytest.raises(TypeError):
        data.batch_at(_numbered(10), 1.5, batch_size=2, seed=0)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 10), (3, 3), (5, 2), (10, 1)])
def test_steps_per_epoch_counts_full_batches(batch_size, steps):
    assert data.steps_per_epoch(_numbered(10), batch_size) == steps


def test_a_split_smaller_than_a_batch_is_a_data_error():
    with pytest.raises(data.DataError, match="11 but the split has 10"):
        data.steps_per_epoch(_numbered(10), 11)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_eval_batches_hold_each_row_once_and_pad_with_zeros(count, batch_size):
    split = _numbered(count)
    batches = list(data.eval_batches(split, batch_size))
    assert len(batches) == -(-count // batch_size)
    assert all(batch["image"].shape == (batch_size, 2, 3, 1) for batch in batches)
    image, label, valid = (
        np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "valid")
    )
    np.testing.assert_array_equal(valid, np.arange(len(valid)) < count)
    np.testing.assert_array_equal(label[valid], split.label)
    np.testing.assert_array_equal(image[valid], split.image)
    assert not image[~valid].any()
    assert not label[~valid].any()
    assert (image.dtype, label.dtype, valid.dtype) == (np.uint8, np.int32, np.bool_)


def test_eval_batches_refuses_a_batch_of_none_at_the_call():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        data.eval_batches(_numbered(3), 0)


# ------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((2, 3, 3, 1), np.float32), np.zeros(2, np.int32), r"image .* float32\[2, 3"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32), r"image .* uint8\[2, 3, 3\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64), r"label .* int64\[2\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int32), r"label must be int32\[2\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros((2, 1), np.int32), r"label .* int32\[2, 1\]"),
    ],
)
def test_a_split_checks_its_arrays(image, label, message):
    with pytest.raises(ValueError, match=message):
        data.Split(image, label)


@pytest.mark.parametrize("count", [1, 7, 50, 90])
def test_stratified_marks_each_class_in_proportion(count):
    label = np.repeat(np.arange(4, dtype=np.int32), (10, 20, 30, 40))
    marked = data.stratified(label, count)
    assert marked.sum() == count
    sizes = np.bincount(label[marked], minlength=4)
    assert np.abs(sizes - np.array([10, 20, 30, 40]) * count / 100).max() < 1


def test_stratified_never_empties_a_class():
    label = np.array([0] * 10 + [1], np.int32)
    assert not data.stratified(label, 10)[label == 1].any()
    assert data.stratified(label, 10).sum() == 9


def test_stratified_does_not_simply_take_the_first_rows():
    label = np.zeros(100, np.int32)
    assert not data.stratified(label, 50)[:50].all()
