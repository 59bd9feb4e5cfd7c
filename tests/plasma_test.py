"""The diamond-square algorithm against a loop over its points."""

import jax.numpy as jnp
import numpy as np
import pytest
from corruption_reference_weather import plasma as reference

from semjax.corruptions.plasma import plasma


def made(size, count=2):
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size)).astype(np.float32)


@pytest.mark.parametrize("decay", [3.0, 1.4])
def test_maps_are_those_of_the_loop(decay):
    noise = made(16)
    expected = np.stack([reference(row, decay) for row in noise])
    found = np.asarray(plasma(noise, jnp.float32(decay)))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(found.min((1, 2)), 0)
    np.testing.assert_array_equal(found.max((1, 2)), 1)


def test_faster_decay_is_smoother():
    rough, smooth = (np.asarray(plasma(made(16), decay)) for decay in (1.4, 3.0))
    assert abs(np.diff(rough, axis=1)).mean() > 2 * abs(np.diff(smooth, axis=1)).mean()


def test_a_map_is_a_torus():
    # Noise that is moved around by half of the map moves the map, but for where it starts.
    noise = made(8)
    noise[:, ::4, ::4] = 0
    moved = plasma(np.roll(noise, 4, (1, 2)), 2.0)
    np.testing.assert_allclose(moved, np.roll(plasma(noise, 2.0), 4, (1, 2)), atol=1e-6)


def test_one_point_is_flat():
    assert plasma(made(1), 2.0).tolist() == [[[0.0]], [[0.0]]]


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 4, 8), (4, 4), (1, 0, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="noise must be"):
        plasma(jnp.zeros(shape), 2.0)
