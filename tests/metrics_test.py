"""Sums against loops over rows, scikit-learn and figures worked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from semjax import metrics

# Compiled, as everyone uses them; one test compares with the uncompiled functions.
classification_sums = jax.jit(metrics.classification_sums, static_argnames="bins")
summarise = jax.jit(metrics.summarise)
accuracy = jax.jit(metrics.accuracy)
mixed_accuracy = jax.jit(metrics.mixed_accuracy)

NAMES = ["count", "accuracy", "nll", "brier", "ece"]


def made_batch(rows, classes, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = (scale * rng.standard_normal((rows, classes))).astype(np.float32)
    return logits, rng.integers(0, classes, rows)


def softmax(logits):
    e = np.exp(np.asarray(logits, np.float64))
    return e / e.sum(1, keepdims=True)


def reference(logits, label, bins=15):
    """The summary, one row at a time in float64."""
    p = softmax(logits)
    count, right, nll, brier = len(p), 0, 0.0, 0.0
    members = [[] for _ in range(bins)]
    for row, y in zip(p, label, strict=True):
        y = np.eye(p.shape[1])[y] if np.ndim(y) == 0 else y
        hit = int(np.argmax(row)) == int(np.argmax(y))
        right += hit
        nll -= sum(share * np.log(q) for share, q in zip(y, row, strict=True))
        brier += sum((q - share) ** 2 for share, q in zip(y, row, strict=True))
        members[int(np.ceil(row.max() * bins)) - 1].append((hit, row.max()))
    gaps = [len(m) / count * abs(np.mean(m, 0)[0] - np.mean(m, 0)[1]) for m in members if m]
    return dict(
        zip(NAMES, (count, right / count, nll / count, brier / count, sum(gaps)), strict=True)
    )


def assert_close(found, expected, rtol=2e-5):
    """Compares two trees of numbers of the same structure."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), found, expected
    )


@pytest.mark.parametrize("bins", [15, 4, 1])
@pytest.mark.parametrize("soft", [False, True])
def test_summary_matches_a_loop_over_rows(soft, bins):
    logits, label = made_batch(200, 5)
    if soft:
        label = softmax(made_batch(200, 5, seed=1)[0]).astype(np.float32)
    sums = classification_sums(logits, label, bins=bins)
    assert_close(summarise(sums), reference(logits, label, bins))


def test_fifteen_bins_are_the_default():
    logits, label = made_batch(200, 5)
    assert_close(summarise(classification_sums(logits, label)), reference(logits, label))
    assert metrics.zeros().bin_count.shape == (15,)


def test_nll_and_brier_match_scikit_learn():
    logits, label = made_batch(100, 4)
    found = summarise(classification_sums(logits, label))
    p = softmax(logits)
    np.testing.assert_allclose(found["nll"], log_loss(label, p), rtol=1e-5)
    expected = brier_score_loss(label, p, labels=range(4), scale_by_half=False)
    np.testing.assert_allclose(found["brier"], expected, rtol=1e-5)


def test_calibration_error_worked_by_hand():
    # Confidences .55 .58 .95 .91 .35 (of three classes), of which the 1st, 3rd and 5th are right.
    # Of five bins, (.4, .6] holds 2 rows, 1 right, mean confidence .565: gap .065;
    # (.8, 1] holds 2, 1 right, mean confidence .93: gap .43; (.2, .4] holds 1, right: gap .65.
    # ECE = (2 * .065 + 2 * .43 + .65) / 5 = .328
    p = [[0.55, 0.4, 0.05], [0.3, 0.58, 0.12], [0.95, 0.03, 0.02], [0.04, 0.05, 0.91]]
    p = np.array([*p, [0.33, 0.32, 0.35]])
    sums = classification_sums(np.log(p, dtype=np.float32), np.array([0, 0, 0, 1, 2]), bins=5)
    np.testing.assert_allclose(sums.bin_count, [0, 1, 2, 0, 2])
    np.testing.assert_allclose(sums.bin_correct, [0, 1, 1, 0, 1])
    np.testing.assert_allclose(sums.bin_confidence, [0, 0.35, 1.13, 0, 1.86], rtol=1e-5)
    np.testing.assert_allclose(summarise(sums)["ece"], 0.328, rtol=1e-5)


@pytest.mark.parametrize(("classes", "bins"), [(2, 2), (2, 4), (3, 15), (5, 15), (15, 15), (1, 15)])
def test_a_confidence_on_an_edge_belongs_below_it(classes, bins):
    # Equal logits give the confidence 1 / K, the upper edge of bin M / K (counted from 1).
    sums = classification_sums(np.zeros((1, classes)), np.array([0]), bins=bins)
    assert int(sums.bin_count.argmax()) + 1 == bins // classes
    assert float(sums.bin_count.sum()) == 1


def test_ties_go_to_the_lowest_class():
    logits = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert float(classification_sums(logits, np.array([0, 2])).correct) == 1
    assert float(accuracy(logits, np.array([1, 1]))) == 0.5


def test_batches_add_up_to_the_whole():
    logits, label = made_batch(103, 6)
    parts = [classification_sums(logits[i : i + 40], label[i : i + 40]) for i in range(0, 103, 40)]
    total = sum(parts, start=metrics.zeros())
    assert_close(total, classification_sums(logits, label))
    assert_close(summarise(total), reference(logits, label))


def test_the_sum_of_no_rows_is_neutral():
    sums = classification_sums(*made_batch(9, 3), bins=7)
    jax.tree.map(np.testing.assert_array_equal, sums + metrics.zeros(bins=7), sums)


def test_only_sums_with_the_same_bins_are_added():
    with pytest.raises(ValueError, match=r"same bins.*\(15,\).*\(1,\)"):
        metrics.zeros() + metrics.zeros(bins=1)
    with pytest.raises(TypeError, match="unsupported operand"):
        metrics.zeros() + 1


@pytest.mark.parametrize("soft", [False, True])
def test_padded_rows_add_nothing_even_when_they_hold_nan(soft):
    logits, label = made_batch(10, 4)
    if soft:
        label = softmax(made_batch(10, 4, seed=1)[0]).astype(np.float32)
    valid = np.arange(10) < 7
    padded_logits = np.where(valid[:, None], logits, np.nan).astype(np.float32)
    padded_label = np.where(valid[:, None] if soft else valid, label, np.nan if soft else -9)
    padded_label = padded_label.astype(label.dtype)
    # Not compiled: XLA turns rows * x into a select, and would hide a 0 * NaN that other backends
    # may keep.
    found = metrics.classification_sums(padded_logits, padded_label, valid=valid)
    assert_close(found, classification_sums(logits[:7], label[:7]), rtol=1e-6)
    assert float(found.count) == 7
    expected = reference(logits[:7], label[:7])["accuracy"]
    np.testing.assert_allclose(metrics.accuracy(padded_logits, padded_label, valid=valid), expected)


def test_padded_rows_do_not_weigh_on_the_mixed_accuracy():
    logits, label = made_batch(6, 3)
    partner, weight = np.array([1, 2, 0, 3, 4, 5]), np.linspace(0.1, 0.6, 6)
    logits[4:], weight[4:] = np.nan, np.nan
    found = metrics.mixed_accuracy(logits, label, partner, weight, valid=np.arange(6) < 4)
    np.testing.assert_allclose(
        found, mixed_accuracy(logits[:4], label[:4], partner[:4], weight[:4]), rtol=1e-6
    )


def test_without_a_valid_row_there_is_no_mean():
    logits, label = made_batch(3, 4)
    none = np.zeros(3, bool)
    summary = summarise(classification_sums(logits, label, valid=none))
    assert float(summary.pop("count")) == 0
    assert all(np.isnan(value) for value in summary.values())
    assert np.isnan(accuracy(logits, label, valid=none))
    assert np.isnan(mixed_accuracy(logits, label, np.arange(3), np.ones(3), valid=none))


def test_an_empty_batch_is_no_rows():
    found = classification_sums(np.zeros((0, 4)), np.zeros(0, int))
    jax.tree.map(np.testing.assert_array_equal, found, metrics.zeros())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_without_a_softmax_is_wrong_and_shows(bad):
    # All NaN would be class 0 to argmax alone.
    logits, label = np.array([[bad, bad], [2.0, 1.0]]), np.array([0, 0])
    sums = classification_sums(logits, label)
    assert float(sums.correct) == 1
    assert all(np.isnan(summarise(sums)[name]) for name in ("nll", "brier", "ece"))
    assert float(accuracy(logits, label)) == 0.5
    assert float(mixed_accuracy(logits, label, np.array([1, 0]), np.full(2, 0.3))) == 0.5


@pytest.mark.parametrize("label", [-1, 2, -(2**31)])
def test_a_class_id_out_of_range_is_wrong_and_shows(label):
    sums = classification_sums(np.array([[0.0, 1.0]]), np.array([label]))
    assert float(sums.correct) == 0
    assert np.isnan(sums.nll) and np.isnan(sums.brier)


def test_a_class_with_no_probability_costs_nothing_unless_it_is_the_label():
    logits = np.array([[0.0, 0.0, -np.inf]])
    kept = classification_sums(logits, np.array([0]))
    np.testing.assert_allclose([kept.nll, kept.brier], [np.log(2), 0.5], rtol=1e-6)
    assert np.isposinf(classification_sums(logits, np.array([2])).nll)


@pytest.mark.parametrize("soft", [False, True])
def test_accuracy_is_the_share_of_right_rows(soft):
    logits, label = made_batch(30, 4)
    expected = np.mean([np.argmax(z) == y for z, y in zip(logits, label, strict=True)])
    # The largest share decides, and need not be more than a half.
    given = (0.1 + 0.6 * np.eye(4, dtype=np.float32)[label]) if soft else label
    np.testing.assert_allclose(accuracy(logits, given), expected, rtol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_mixed_accuracy_counts_each_label_by_its_share(soft):
    logits, label = made_batch(30, 4)
    rng = np.random.default_rng(2)
    partner, weight = rng.integers(0, 30, 30), rng.random(30).astype(np.float32)
    expected = 0.0
    for i in range(30):
        hit = np.argmax(logits[i])
        expected += weight[i] * (hit == label[i]) + (1 - weight[i]) * (hit == label[partner[i]])
    given = np.eye(4, dtype=np.float32)[label] if soft else label
    found = mixed_accuracy(logits, given, partner, weight)
    np.testing.assert_allclose(found, expected / 30, rtol=1e-5)


def test_mixed_accuracy_weighs_the_original_by_weight():
    # Both rows are predicted as class 0, the label of row 0, whose share is 1 and then 1/4.
    logits, label = np.array([[9.0, 0.0], [9.0, 0.0]]), np.array([0, 1])
    found = mixed_accuracy(logits, label, np.array([1, 0]), np.array([1.0, 0.75]))
    assert float(found) == (1 + 0.25) / 2


def test_everything_is_float32_whatever_the_logits():
    logits, label = made_batch(40, 3)
    low = jnp.asarray(logits, jnp.bfloat16)
    sums = classification_sums(low, label)
    assert {leaf.dtype for leaf in jax.tree.leaves(sums)} == {jnp.dtype("float32")}
    # bfloat16 logits are widened before the softmax, not after it.
    assert_close(sums, classification_sums(low.astype(jnp.float32), label), rtol=1e-6)
    half = jnp.full(40, 0.5, jnp.bfloat16)
    assert mixed_accuracy(low, label, np.arange(40), half).dtype == jnp.float32
    assert accuracy(low, label).dtype == jnp.float32


def test_small_integer_labels_reach_every_class():
    # 200 does not fit in int8: comparing within the label's own dtype would overflow.
    logits = np.zeros((1, 200), np.float32)
    logits[0, 100] = 5
    sums = classification_sums(logits, np.array([100], np.int8))
    assert float(sums.correct) == 1
    np.testing.assert_allclose(sums.nll, np.log(199 + np.exp(5)) - 5, rtol=1e-5)


def test_jit_scan_and_vmap_give_the_same_sums():
    logits, label = made_batch(24, 5)
    whole = classification_sums(logits, label)
    assert_close(metrics.classification_sums(logits, label), whole)
    assert_close(metrics.summarise(whole), summarise(whole))
    batches = (logits.reshape(4, 6, 5), label.reshape(4, 6))
    parts = jax.vmap(metrics.classification_sums)(*batches)
    assert_close(jax.tree.map(lambda x: x.sum(0), parts), whole)
    carried, _ = jax.lax.scan(
        lambda sums, batch: (sums + classification_sums(*batch), None),
        metrics.zeros(),
        batches,
    )
    assert_close(carried, whole)


def test_summaries_of_mapped_sums_keep_their_axis():
    logits, label = made_batch(24, 5)
    batches = (logits.reshape(4, 6, 5), label.reshape(4, 6))
    summary = summarise(jax.vmap(metrics.classification_sums)(*batches))
    for i in range(4):
        assert_close(
            {name: x[i] for name, x in summary.items()}, reference(batches[0][i], batches[1][i])
        )


def test_eight_devices_give_the_sums_of_one():
    logits, label = made_batch(32, 5)
    partner, weight = np.roll(np.arange(32), 3), np.linspace(0, 1, 32, dtype=np.float32)
    valid = np.arange(32) % 5 > 0
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("data"))

    def measure(logits, label, partner, weight, valid):
        return (
            classification_sums(logits, label, valid=valid),
            accuracy(logits, label, valid=valid),
            mixed_accuracy(logits, label, partner, weight, valid=valid),
        )

    batch = (logits, label, partner, weight, valid)
    assert_close(jax.jit(measure, in_shardings=sharded)(*batch), jax.jit(measure)(*batch))


def test_sums_are_summed_over_an_axis_name():
    logits, label = made_batch(16, 3)

    @functools.partial(jax.vmap, axis_name="data")
    def measure(logits, label):
        return jax.lax.psum(classification_sums(logits, label), "data")

    totals = measure(logits.reshape(4, 4, 3), label.reshape(4, 4))
    first = jax.tree.map(lambda x: x[0], totals)
    assert_close(first, classification_sums(logits, label))


LOGITS, LABEL = made_batch(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f(LOGITS[0], LABEL), ValueError, r"logits.*\(3,\)"),
        (lambda f: f(LABEL[:, None], LABEL), TypeError, "logits must be floating; found int"),
        (lambda f: f(LOGITS, LABEL[:3]), ValueError, r"label.*\(4,\).*\(3,\)"),
        (lambda f: f(LOGITS, LOGITS[:, :2]), ValueError, r"label.*\(4, 3\).*\(4, 2\)"),
        (lambda f: f(LOGITS, LOGITS[:, 0]), TypeError, "label must be integer; found float32"),
        (lambda f: f(LOGITS, LOGITS.astype(int)), TypeError, "label must be floating; found int"),
        (lambda f: f(LOGITS, LABEL, valid=np.ones(3, bool)), ValueError, r"valid.*\(4,\).*\(3,\)"),
        (
            lambda f: f(LOGITS, LABEL, valid=np.ones(4)),
            TypeError,
            "valid must be bool; found float",
        ),
    ],
)
@pytest.mark.parametrize("function", [metrics.classification_sums, metrics.accuracy])
def test_wrong_arguments_are_named(function, call, error, message):
    with pytest.raises(error, match=message):
        call(function)


@pytest.mark.parametrize(
    ("partner", "weight", "error", "message"),
    [
        (LABEL[:2], LOGITS[:, 0], ValueError, r"partner.*\(4,\).*\(2,\)"),
        (LOGITS[:, 0], LOGITS[:, 0], TypeError, "partner must be integer; found float32"),
        (LABEL, 0.5, ValueError, r"weight.*\(4,\).*\(\)"),
        (LABEL, LABEL, TypeError, "weight must be floating; found int"),
    ],
)
def test_wrong_mixes_are_named(partner, weight, error, message):
    with pytest.raises(error, match=message):
        mixed_accuracy(LOGITS, LABEL, partner, weight)


def test_at_least_one_bin_is_asked_for():
    with pytest.raises(ValueError, match="bins must be at least 1; found 0"):
        classification_sums(LOGITS, LABEL, bins=0)
    with pytest.raises(ValueError, match="bins must be at least 1; found -1"):
        metrics.zeros(bins=-1)
