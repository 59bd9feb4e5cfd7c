"""The checks that all corruptions share, constants by severity, and the keys of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semjax.corruptions.severities import Level, checked, look_up, row_keys, table_of

OK = np.zeros((2, 4, 3, 1), np.uint8)
TABLES = ([1, 2, 3, 4, 5], [[10, 1], [20, 2], [30, 3], [40, 4], [50, 5]])


def test_a_severity_is_looked_up_in_its_family():
    for severity in range(1, 6):
        _, cifar = checked(OK, severity, "cifar")
        _, imagenet = checked(OK, np.int64(severity), "imagenet")
        assert float(look_up(cifar, TABLES)) == severity
        np.testing.assert_array_equal(look_up(imagenet, TABLES), [10 * severity, severity])
    assert look_up(cifar, TABLES).dtype == jnp.float32
    assert look_up(cifar, TABLES, dtype=jnp.int32).dtype == jnp.int32


def test_one_program_serves_all_severities():
    traces = []

    @jax.jit
    def constant(severity):
        traces.append(severity)
        return look_up(checked(OK, severity, "cifar")[1], TABLES)

    assert [float(constant(severity)) for severity in range(1, 6)] == TABLES[0]
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("shape", "family"),
    [((1, 64, 64, 3), "cifar"), ((1, 65, 8, 3), "imagenet"), ((1, 8, 65, 3), "imagenet")],
)
def test_auto_goes_by_the_longer_side(shape, family):
    assert checked(np.zeros(shape, np.uint8), 1, "auto")[1].family == family


def test_the_key_of_a_row_goes_by_its_index():
    key = jax.random.key(3)
    keys = row_keys(key, 3, None)
    assert all(keys[i] == jax.random.fold_in(key, i) for i in range(3))
    assert (row_keys(key, 2, jnp.array([2, 0])) == keys[jnp.array([2, 0])]).all()


def test_a_table_has_five_entries():
    with pytest.raises(ValueError, match=r"each severity, 5; found shape \(4,\)"):
        table_of(Level(jnp.array(0), "cifar"), ([1, 2, 3, 4], TABLES[1]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: checked(OK[0], 1, "auto"),
            ValueError,
            r"images must be \[B, H, W, C\].*\(4, 3, 1",
        ),
        (lambda: checked(np.zeros((1, 2, 2, 4), np.uint8), 1, "auto"), ValueError, "C 1 or 3"),
        (lambda: checked(np.zeros((1, 0, 2, 3), np.uint8), 1, "auto"), ValueError, "have pixels"),
        (lambda: checked(OK / 255, 1, "auto"), TypeError, "images must be uint8; found float"),
        (lambda: checked(OK, 0, "auto"), ValueError, "severity must be.*1 to 5; found 0"),
        (lambda: checked(OK, jnp.array(6), "auto"), ValueError, "severity.*found 6"),
        (lambda: checked(OK, 1.0, "auto"), TypeError, "severity must be an integer; found 1.0"),
        (lambda: checked(OK, True, "auto"), TypeError, "severity must be an integer; found True"),
        (lambda: checked(OK, np.ones(2, int), "auto"), ValueError, r"scalar; found shape \(2,\)"),
        (lambda: checked(OK, 1, "mnist"), ValueError, "auto, cifar, imagenet; found 'mnist'"),
        (lambda: row_keys(jax.random.key(0), 2, [1]), ValueError, r"\(2,\); found shape \(1,\)"),
        (lambda: row_keys(jax.random.key(0), 2, [0.5, 1]), TypeError, "index.*float"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
