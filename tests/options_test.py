"""What the options make part of the program; their faults are tested with the loss."""

import math

import jax.numpy as jnp
import pytest

from semjax.options import Options


@pytest.mark.parametrize(
    ("given", "gap", "clean", "consistency", "needs_clean"),
    [
        ({}, True, False, False, True),
        ({"sem_weight": 0}, False, False, False, False),
        ({"sem_weight": 0.0, "clean_weight": 0.5}, False, True, False, True),
        ({"sem_weight": 0.0, "consistency_weight": 12.0}, False, False, True, True),
        (
            {"sem_weight": 0.0, "consistency_weight": 12.0, "mixes": False},
            *(False, False, True, False),
        ),
        # An array may become something else, so it is never left out.
        ({"sem_weight": jnp.float32(0)}, True, False, False, True),
        ({"sem_weight": lambda step: 0.0}, True, False, False, True),
    ],
)
def test_terms_of_the_program(given, gap, clean, consistency, needs_clean):
    options = Options(**given)
    assert options.has_gap == gap
    assert options.has_clean_loss == clean
    assert options.has_consistency == consistency
    assert options.needs_clean == needs_clean


def test_row_losses_are_those_of_the_label_loss():
    logits, label = jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
    assert Options().row_losses(logits, label).tolist() == pytest.approx([math.log(2)] * 2)
    assert Options(label_loss="mse").row_losses(logits, 3.0 * jnp.ones((2, 2))).tolist() == [9, 9]
