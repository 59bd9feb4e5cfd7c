"""The gap by policy, layer and weight: nothing for an affine model, known for one that squares."""

import evaluation_example as example
import jax.numpy as jnp
import numpy as np
import pytest

import semjax
from experiments.evaluation import equivariance


def _squares(params, images, rng, hidden):
    x = hidden(1, images)
    squared = jnp.square(x).reshape(len(x), -1)
    return semjax.Outputs(logits=squared @ params, representation=squared)


@pytest.fixture(scope="module")
def found() -> dict:
    context = example.context(model=_squares, gap_rows=128, gap_bins=4, own_policy="resizemix")
    return equivariance.measure(context)


def test_policies_layers_and_bins_are_those_asked_for(found: dict):
    assert set(found["policies"]) == {"mixup", "cutmix", "resizemix"}
    assert found["weight"] == [0.125, 0.375, 0.625, 0.875]
    assert found["count"] == 128
    for policy in found["policies"].values():
        assert set(policy["layers"]) == {"layer 1", "representation", "logits"}
        for layer in policy["layers"].values():
            assert sum(layer["rows"]) == 128


def test_pixels_have_no_gap_where_no_pixel_is_moved(found: dict):
    for name in ("mixup", "cutmix"):
        assert found["policies"][name]["layers"]["layer 1"]["mean_gap"] < 1e-10


def test_the_gap_of_squares_is_that_of_their_convexity(found: dict):
    # (w a + (1 - w) b)^2 - w a^2 - (1 - w) b^2 = -w (1 - w) (a - b)^2: zero at both ends.
    gap = found["policies"]["mixup"]["layers"]["representation"]["gap"]
    assert min(gap[1:3]) > 2 * max(gap[0], gap[3])


def test_an_affine_model_has_no_gap_under_mixup():
    measured = equivariance.measure(example.context(gap_rows=64, gap_policies="mixup"))
    layers = measured["policies"]["mixup"]["layers"]
    assert set(layers) == {"representation", "logits"}
    for layer in layers.values():
        assert layer["mean_normalised_gap"] < 1e-9
        assert layer["mean_gap"] >= 0


def test_a_last_batch_that_is_not_full_counts_once():
    measured = equivariance.measure(
        example.context(gap_rows=70, batch_size=64, gap_policies="mixup", gap_bins=2)
    )
    rows = measured["policies"]["mixup"]["layers"]["logits"]["rows"]
    assert np.sum(rows) == 70
