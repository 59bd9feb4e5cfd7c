"""What the options make part of the program; their faults are tested with the loss."""

import math

import jax.numpy as jnp
import pytest

from semjax.options import Options, fraction_parts


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


@pytest.mark.parametrize(
    ("fraction", "parts"), [(1, 1), (1.0, 1), (0.5, 2), (1 / 3, 3), (0.3333, 3), (0.1429, 7)]
)
def test_a_fraction_is_one_of_so_many_parts(fraction, parts):
    assert fraction_parts(fraction) == parts
    assert Options(sem_fraction=fraction).sem_parts == parts


@pytest.mark.parametrize("fraction", [0.4, 0.33, 0, -0.5, 2, 1.1, 1e-320, math.nan, math.inf])
def test_other_fractions_are_refused(fraction):
    with pytest.raises(ValueError, match=r"must be 1 / k for a whole k of at least 1.*found"):
        fraction_parts(fraction)


def test_a_fraction_that_shapes_cannot_hang_on_is_refused():
    with pytest.raises(TypeError, match="must be a Python number; found Array"):
        fraction_parts(jnp.float32(0.5))


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ({"stop_gradient": "clean"}, True),
        ({"stop_gradient": "clean", "state_from": "clean", "sem_fraction": 0.5}, True),
        ({"stop_gradient": "mixed"}, False),
        ({"stop_gradient": "clean", "clean_weight": 1.0}, False),
        ({"stop_gradient": "clean", "clean_weight": jnp.float32(0)}, False),
        ({"stop_gradient": "clean", "consistency_weight": 1.0}, False),
        ({"stop_gradient": "clean", "passes": "joint"}, False),
    ],
)
def test_the_clean_pass_is_held_where_nothing_learns_from_it(given, held):
    assert Options(**given).holds_clean == held


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "clean"),
        ({"sem_weight": 0, "clean_weight": 1.0}, "clean"),
        ({"stop_gradient": "clean"}, "clean"),
        ({"sem_weight": 0, "consistency_weight": 1.0}, "clean"),
        ({"sem_weight": 0}, "mixed"),
        ({"sem_weight": 0, "mixes": False, "consistency_weight": 1.0}, "mixed"),
        ({"passes": "joint"}, "mixed"),
        ({"sem_fraction": 0.5}, "mixed"),
        ({"share_prefix": True}, "mixed"),
        ({"state_from": "mixed"}, "mixed"),
        ({"state_from": "both"}, "both"),
    ],
)
def test_by_itself_the_state_is_that_of_a_pass_of_all_clean_rows(given, kept):
    assert Options(**given).state_pass == kept


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sem_weight": 0, "clean_weight": 1.0},
        {"sem_weight": jnp.float32(0)},
        {"sem_weight": 0, "consistency_weight": 1.0},
        {"sem_fraction": 1, "state_from": "both"},
    ],
)
def test_a_prefix_is_shared_with_whatever_clean_pass_there_is(given):
    assert Options(share_prefix=True, **given).share_prefix


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sem_weight": 0}, "needs a clean pass: sem_weight or .* found sem_weight=0, clean_we"),
        ({"mixes": False, "sem_weight": 0}, "needs a policy that mixes; found .*, policy=None"),
        ({"passes": "joint"}, "needs a clean pass of its own.*; found .*passes='joint'"),
        ({"sem_fraction": 0.5}, "needs all clean rows .*: sem_fraction=1; found .*_fraction=0.5"),
        (
            {"mixed_from": "views"},
            "needs both passes of the same rows: mixed_from='image'; found .*mixed_from='views'",
        ),
    ],
)
def test_what_a_shared_prefix_cannot_be_with_is_named(given, message):
    with pytest.raises(ValueError, match=f"share_prefix=True .*{message}"):
        Options(share_prefix=True, **given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sem_fraction": 0.5},
        {"sem_weight": 0},
        {"passes": "joint", "consistency_weight": 1.0},
        {"label_loss": "mse", "stop_gradient": "clean"},
    ],
)
def test_what_is_mixed_is_no_matter_of_the_other_terms(given):
    views, image = (Options(mixed_from=source, **given) for source in ("views", "image"))
    for name in ("needs_clean", "holds_clean", "has_gap", "has_consistency", "sem_parts"):
        assert getattr(views, name) == getattr(image, name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mixed_from": "clean"}, "mixed_from must be one of image, views; found 'clean'"),
        ({"mixed_from": "views", "mixes": False, "sem_weight": 0}, "policy=None mixes nothing"),
    ],
)
def test_what_cannot_be_mixed_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        Options(**given)


def test_row_losses_are_those_of_the_label_loss():
    logits, label = jnp.array([[0.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
    assert Options().row_losses(logits, label).tolist() == pytest.approx([math.log(2)] * 2)
    assert Options(label_loss="mse").row_losses(logits, 3.0 * jnp.ones((2, 2))).tolist() == [9, 9]
