"""What the method's loss refuses: options, batches and models, each by a message that names it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sem_example import (
    batch_of,
    mix_of,
    mlp,
    terms,
)

from semjax import make_sem_loss

# --- the equation -----------------------------------------------------------------------------


def ramp(step):
    return step / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "l2"}, "distance must be one of mse, l1, cosine, normalised_mse; found 'l2'"),
        ({"stop_gradient": "both"}, "stop_gradient must be one of none, clean, mixed; found"),
        ({"reduction": "max"}, "reduction must be one of sum, mean; found 'max'"),
        ({"reduction": np.mean}, "reduction must be one of sum, mean; found"),
        ({"label_loss": "hinge"}, "label_loss must be one of ce, bce, mse; found 'hinge'"),
        ({"passes": "three"}, "passes must be one of separate, joint; found 'three'"),
        (
            {"state_from": "none"},
            "state_from must be one of auto, mixed, clean, both; found 'none'",
        ),
        ({"mixed_from": "clean"}, "mixed_from must be one of image, views; found 'clean'"),
        ({"mixed_from": "views", "policy": None, "sem_weight": 0}, "policy=None mixes nothing"),
        ({"label_smoothing": 1.5}, r"label_smoothing must be in \[0, 1\]; found 1.5"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be in \[0, 1\]; found -0.1"),
        ({"sem_weight": -1.0}, "sem_weight must be finite and at least 0; found -1.0"),
        ({"sem_weight": float("inf")}, "sem_weight must be finite and at least 0; found inf"),
        ({"clean_weight": float("nan")}, "clean_weight must be finite and at least 0; found nan"),
        ({"sem_weight": 0, "schedule": ramp}, "schedule multiplies sem_weight, which is 0"),
        ({"policy": None}, "sem_weight and clean_weight must be 0; found 20.0 and 1.0"),
        ({"policy": None, "sem_weight": 0, "clean_weight": 1}, "must be 0; found 0 and 1"),
        ({"state_from": "clean", "passes": "joint"}, "needs a clean pass of its own"),
        ({"state_from": "both", "sem_weight": 0}, "needs a clean pass of its own"),
        ({"sem_fraction": 0.4}, "sem_fraction must be 1 / k .* or 0.25; found 0.4"),
        ({"sem_fraction": 0.5, "sem_weight": 0}, "sem_fraction=0.5 .* needs a gap"),
        ({"sem_fraction": 0.5, "clean_weight": 1}, "out of the label loss: clean_weight=0; found"),
        ({"sem_fraction": 0.5, "consistency_weight": 1}, "needs .*: consistency_weight=0; found"),
        ({"sem_fraction": 0.5, "passes": "joint"}, "needs a clean pass .* passes='separate'"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_sem_loss(mlp, **options)


def bad_outputs(**changes):
    def apply_fn(params, images, rng):
        return dataclasses.replace(mlp(params, images, rng), **changes)

    return apply_fn


IMAGES = np.zeros((7, 4, 6, 2), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": IMAGES.astype(np.uint8)}, TypeError, "must be floating; found uint8. Scale"),
        ({"image": np.zeros(7, np.float32)}, ValueError, r"must be \[B, ...\] with B >= 1; found"),
        ({"image": IMAGES[:0]}, ValueError, r"B >= 1; found shape \(0, 4, 6, 2\)"),
        ({"label": np.zeros(4, int)}, ValueError, r"'label'\] must be \[7\] or \[7, K\] .*\(4,\)"),
        ({"label": np.zeros((7, 1, 1))}, ValueError, r"found shape \(7, 1, 1\)"),
        ({"label": np.zeros(7)}, TypeError, "labels of rank 1 must be integer class ids; found"),
        ({"label": np.zeros((7, 6))}, ValueError, r"\[B, 5\] to fit the logits; found .*\(7, 6\)"),
        ({"valid": np.ones(4, bool)}, ValueError, r"valid must be bool of shape \(7,\); found"),
        ({"valid": np.ones(7)}, ValueError, r"valid must be bool of shape \(7,\); found float"),
        ({"mix": mix_of(4)}, ValueError, r"mix.partner must have shape \(7,\) .*found \(4,\)"),
        ({"mix": {"partner": 0}}, TypeError, "must be a semjax.Mix; found {'partner': 0}"),
    ],
)
def test_batches_that_do_not_fit_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        terms(batch={**batch_of(), **changes})


@pytest.mark.parametrize(("rows", "groups"), [(6, 1), (6, 3)])
def test_groups_that_do_not_fit_the_fraction_are_refused(rows, groups):
    message = rf"multiple of 2, as in semjax.mixup\(groups=2\); found groups={groups}"
    mix = dataclasses.replace(mix_of(rows), groups=groups)
    with pytest.raises(ValueError, match=message):
        terms(batch=batch_of(rows, mix=mix), sem_fraction=0.5)


@pytest.mark.parametrize("name", ["image", "label"])
def test_missing_keys_are_named(name):
    batch = batch_of()
    del batch[name]
    with pytest.raises(ValueError, match=f"batch needs '{name}'; found the keys"):
        terms(batch=batch)


@pytest.mark.parametrize("option", ["sem_weight", "schedule", "clean_weight"])
def test_schedule_without_step_is_refused(option):
    with pytest.raises(ValueError, match=f"batch needs 'step' because {option} is a schedule"):
        terms(batch=batch_of(), **{option: ramp})


def test_mix_for_a_loss_that_mixes_nothing_is_refused():
    with pytest.raises(ValueError, match=r"batch\['mix'\] was given to a loss that mixes nothing"):
        terms(batch=batch_of(mix=mix_of()), policy=None, sem_weight=0)


@pytest.mark.parametrize(
    ("apply_fn", "error", "message"),
    [
        (lambda *_: (IMAGES, IMAGES), TypeError, "must return semjax.Outputs; found tuple"),
        (bad_outputs(logits=jnp.zeros(7)), ValueError, r"logits of shape \(7, K\).*found \(7,\)"),
        (bad_outputs(logits=jnp.zeros((4, 5))), ValueError, r"\(7, K\).*found \(4, 5\)"),
        (bad_outputs(representation=None), ValueError, "sem_weight=1.0 needs a .*; found None"),
        (bad_outputs(representation=jnp.zeros((7, 2, 3))), ValueError, r"found \(7, 2, 3\)"),
        (bad_outputs(representation=jnp.zeros((4, 2))), ValueError, r"found \(4, 2\)"),
    ],
)
def test_models_that_return_something_else_are_refused(apply_fn, error, message):
    with pytest.raises(error, match=message):
        terms(apply_fn)


def test_representation_is_not_needed_without_a_gap():
    assert terms(bad_outputs(representation=None), sem_weight=0, clean_weight=1.0)["gap"] == 0


@pytest.mark.parametrize("option", ["distance", "label_loss"])
def test_functions_must_return_one_number_a_row(option):
    with pytest.raises(ValueError, match=r"expected one value a row, \(7,\); found \(\)"):
        terms(**{option: lambda a, b: jnp.square(a - b).mean()})
