"""Laws of experiments.datasets.data: the order of batches, padding, splits."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.datasets import data, order

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
    code = f"import sys, experiments.datasets.data; print([m for m in {heavy} if m in sys.modules])"
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


@pytest.mark.parametrize("sampling", data.SAMPLINGS)
def test_rows_name_the_batch(sampling):
    split = _grouped(UNEVEN)
    for step in (0, 5, 30):
        options = {"batch_size": 8, "seed": 1, "sampling": sampling}
        rows = data.rows_at(split, step, **options)
        assert (rows.dtype, rows.shape) == (np.int32, (8,))
        batch = data.batch_at(split, step, **options)
        assert set(batch) == set(split.columns()) == {"image", "label", "group"}
        for name, column in split.columns().items():
            np.testing.assert_array_equal(batch[name], column[rows])
    rows[...] = 0  # the caller's own
    np.testing.assert_array_equal(data.batch_at(split, 30, **options)["label"], batch["label"])


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
        "from experiments.datasets import data\n"
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
    order.uniform.cache_clear()
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


# ---------------------------------------------------------------------------------------- balanced


def _grouped(counts):
    """A numbered split whose (label, group) pairs have the given {(label, group): rows}."""
    pairs = np.repeat(np.array(list(counts), np.int32), list(counts.values()), axis=0)
    pairs = pairs[np.arange(len(pairs)) * 37 % len(pairs)]  # among each other, always the same way
    image = np.zeros((len(pairs), 1, 1, 1), np.uint8)
    image[:, 0, 0, 0] = np.arange(len(pairs))
    label, group = np.ascontiguousarray(pairs.T)
    return data.Split(image, label, group=group)


UNEVEN = {(0, 0): 40, (0, 2): 3, (1, 0): 5, (1, 2): 30}


def _balanced_epoch(split, epoch, *, batch_size=8, seed=0):
    steps = data.steps_per_epoch(split, batch_size)
    batches = [
        data.batch_at(split, step, batch_size=batch_size, seed=seed, sampling="balanced")
        for step in range(epoch * steps, (epoch + 1) * steps)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def test_cells_number_the_pairs_that_occur():
    split = _grouped(UNEVEN)
    for cell, (label, group) in enumerate(UNEVEN):
        rows = (split.label == label) & (split.group == group)
        np.testing.assert_array_equal(split.cell[rows], cell)
    np.testing.assert_array_equal(_numbered(5).cell, np.arange(5))


def test_a_balanced_epoch_holds_each_pair_equally_often():
    split = _grouped(UNEVEN)
    longer = set()
    for epoch in range(6):
        rows = _balanced_epoch(split, epoch)["image"].ravel()
        pairs = np.bincount(split.cell[rows], minlength=4)
        assert len(rows) == pairs.sum() == 72
        np.testing.assert_array_equal(pairs, 18)
        for cell in range(4):
            times = np.bincount(rows, minlength=78)[split.cell == cell]
            assert times.max() - times.min() <= 1
        rows = _balanced_epoch(split, epoch, batch_size=7)["image"].ravel()
        pairs = np.bincount(split.cell[rows], minlength=4)  # 77 places for 4 pairs
        assert sorted(pairs) == [19, 19, 19, 20]
        longer.add(int(pairs.argmax()))
    assert len(longer) > 1


def test_without_groups_balanced_holds_each_label_equally_often():
    label = np.repeat(np.arange(2, dtype=np.int32), (28, 4))
    split = data.Split(np.zeros((32, 1, 1, 1), np.uint8), label)
    assert np.bincount(_balanced_epoch(split, 0)["label"]).tolist() == [16, 16]
    uniform = np.concatenate(
        [data.batch_at(split, step, batch_size=8, seed=0)["label"] for step in range(4)]
    )
    assert np.bincount(uniform).tolist() == [28, 4]


def test_balanced_batches_are_mixed_and_differ_by_seed_and_epoch():
    split = _grouped(UNEVEN)
    orders = [_balanced_epoch(split, e, seed=s)["image"].ravel() for e in (0, 1) for s in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    cells = split.cell[orders[0]].reshape(-1, 8)
    assert sum(len(set(batch)) > 2 for batch in cells) >= 7


def test_a_balanced_batch_depends_on_seed_and_step_alone_and_is_pinned():
    split = _grouped(UNEVEN)

    def rows(step):
        batch = data.batch_at(split, step, batch_size=8, seed=3, sampling="balanced")
        np.testing.assert_array_equal(batch["group"], split.group[batch["image"].ravel()])
        return batch["image"].ravel().tolist()

    forward = [rows(step) for step in range(20)]
    order.balanced.cache_clear()
    assert [rows(step) for step in reversed(range(20))] == forward[::-1]
    assert forward[11] == PINNED


PINNED = [58, 66, 49, 10, 64, 69, 56, 77]


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match="sampling must be one of uniform, balanced; got 'even'"):
        data.batch_at(_numbered(10), 0, batch_size=2, seed=0, sampling="even")


def test_groups_travel_with_their_rows():
    split = _grouped(UNEVEN)
    batch = data.batch_at(split, 1, batch_size=8, seed=0)
    np.testing.assert_array_equal(batch["group"], split.group[batch["image"].ravel()])
    assert batch["group"].dtype == np.int32
    batches = list(data.eval_batches(split, 50))
    np.testing.assert_array_equal(np.concatenate([b["group"] for b in batches])[:78], split.group)
    assert not batches[1]["group"][28:].any()


def test_a_batch_without_groups_has_none():
    assert set(data.batch_at(_numbered(9), 0, batch_size=4, seed=0)) == {"image", "label"}
    assert set(next(data.eval_batches(_numbered(9), 4))) == {"image", "label", "valid"}


def test_group_names_are_in_the_order_of_label_then_group():
    names = data.group_names(3, 2)
    assert names[2 * 2 + 1] == "label 2, group 1" and len(names) == 6
    assert data.group_names(1, 2, attribute="colour") == ["label 0, colour 0", "label 0, colour 1"]


# ------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("group", np.zeros(2), r"group must be int32\[2\], got float64\[2\]"),
        ("group", np.zeros(3, np.int32), r"group must be int32\[2\], got int32\[3\]"),
        ("group", np.array([0, -1], np.int32), "group must be at least 0, got -1"),
        ("source", np.zeros(2, np.int64), r"source must be int32\[2\]"),
        ("factors", {"x": np.zeros(3)}, r"factors\['x'\] must be .* got float64\[3\]"),
        ("factors", {"x": np.array(["a", "b"])}, r"factors\['x'\] must be integers or floats"),
        ("sample_weight", np.zeros(2), r"sample_weight must be float32\[2\], got float64"),
    ],
)
def test_a_split_checks_what_else_is_known_of_its_rows(field, value, message):
    image, label = np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match=message):
        data.Split(image, label, **{field: value})


def test_some_rows_are_taken_with_everything_known_of_them():
    row = np.arange(6)
    split = data.Split(
        image=row.astype(np.uint8).reshape(6, 1, 1, 1),
        label=row.astype(np.int32),
        sample_weight=row.astype(np.float32),
        group=row.astype(np.int32),
        factors={"place": row / 2, "kind": row},
        source=row.astype(np.int32),
    )
    some = split.take(row % 2 == 1)
    for field in (some.image.ravel(), some.label, some.sample_weight, some.group, some.source):
        assert field.tolist() == [1, 3, 5]
    assert some.factors["place"].tolist() == [0.5, 1.5, 2.5]
    assert some.factors["kind"].tolist() == [1, 3, 5]
    bare = _numbered(4).take(np.array([2, 0]))
    assert bare.label.tolist() == [2, 0]
    assert bare.group is bare.factors is bare.source is bare.sample_weight is None


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
