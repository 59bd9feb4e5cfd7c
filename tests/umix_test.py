"""UMIX's weights against loops over examples and epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semjax.umix import error_rates, umix_weights


def made_record(rows=7, epochs=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((rows, epochs)) < 0.4, rng.random((rows, epochs)) < 0.7


def reference_rates(wrong, recorded):
    out = []
    for errors, seen in zip(wrong, recorded, strict=True):
        counted = [bool(e) for e, s in zip(errors, seen, strict=True) if s]
        out.append(sum(counted) / len(counted) if counted else 0.0)
    return np.array(out)


def test_rates_are_the_share_of_wrong_epochs():
    wrong, _ = made_record()
    found = error_rates(wrong)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, reference_rates(wrong, np.ones_like(wrong)), rtol=1e-6)


def test_epochs_that_were_not_recorded_do_not_count():
    wrong, recorded = made_record()
    expected = reference_rates(wrong, recorded)
    assert not np.allclose(expected, reference_rates(wrong, np.ones_like(wrong)))
    np.testing.assert_allclose(error_rates(wrong, recorded=recorded), expected, rtol=1e-6)


def test_an_example_that_was_never_looked_at_has_rate_zero():
    wrong, recorded = made_record()
    recorded[3], wrong[3] = False, True
    assert float(error_rates(wrong, recorded=recorded)[3]) == 0


def test_weights_are_those_of_the_authors_code():
    # There the trajectory holds what was right: (1 - mean right) * eta + 1.
    right = ~made_record()[0]
    expected = (1 - right.mean(1)) * 80 + 1
    np.testing.assert_allclose(umix_weights(error_rates(~right), eta=80), expected, rtol=1e-6)


def test_the_floor_is_the_weight_of_certain_examples():
    found = umix_weights(jnp.array([0.0, 0.5, 1.0]), eta=4.0, floor=0.25)
    np.testing.assert_array_equal(found, [0.25, 2.25, 4.25])


def test_eta_zero_weights_all_alike():
    np.testing.assert_array_equal(umix_weights(jnp.array([0.0, 0.5]), eta=0.0), [1, 1])


def test_jit_changes_nothing():
    wrong, recorded = made_record()
    run = jax.jit(lambda w, r: umix_weights(error_rates(w, recorded=r), eta=3.0))
    found = umix_weights(error_rates(wrong, recorded=recorded), eta=3.0)
    np.testing.assert_allclose(run(wrong, recorded), found, rtol=1e-6)


WRONG = np.zeros((3, 2), bool)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: error_rates(WRONG[0]), ValueError, r"wrong must be \[N, T\].*\(2,\)"),
        (lambda: error_rates(WRONG[:, :0]), ValueError, r"wrong must be.*\(3, 0\)"),
        (lambda: error_rates(WRONG.astype(int)), TypeError, "wrong must be bool; found int"),
        (lambda: error_rates(WRONG, recorded=WRONG[:2]), ValueError, r"recorded.*\(3, 2\)"),
        (lambda: error_rates(WRONG, recorded=np.ones((3, 2))), TypeError, "recorded.*float"),
        (lambda: umix_weights(np.ones((2, 2)), eta=1.0), ValueError, r"error_rate.*\(2, 2\)"),
        (lambda: umix_weights(np.ones(2), eta=-1.0), ValueError, "eta.*-1.0"),
        (lambda: umix_weights(np.ones(2), eta=float("nan")), ValueError, "eta.*nan"),
        (lambda: umix_weights(np.ones(2), eta=1.0, floor=-0.5), ValueError, "floor.*-0.5"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
