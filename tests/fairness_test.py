"""The rules of a comparison: what a method may set, and that nothing is chosen on test rows."""

import dataclasses
from typing import Any

import pytest

from experiments.config import Config
from experiments.studying.fairness import METHOD_FLAGS, OWN_FLAGS, PLACES, broken, wrong_rows

FLAGS = {field.name: field for field in dataclasses.fields(Config)}
# What all methods of a comparison share: another value of one of these is another question.
SHARED = (
    *("dataset", "classes", "image_size", "sampling", "validation_fraction", "model", "remat"),
    *(
        "compute_dtype",
        "crop_padding",
        "flip",
        "augmentation",
        "cutout_size",
        "random_resized_crop",
    ),
    *("label_smoothing", "batch_size", "optimizer", "learning_rate", "warmup_steps", "decay"),
    *("momentum", "nesterov", "weight_decay", "clip_norm", "ema_decay", "accumulate"),
)


def test_every_flag_of_the_rules_exists_and_has_one_place():
    assert FLAGS.keys() >= METHOD_FLAGS | OWN_FLAGS | PLACES
    assert not METHOD_FLAGS & OWN_FLAGS and not METHOD_FLAGS & PLACES and not OWN_FLAGS & PLACES


@pytest.mark.parametrize("name", SHARED)
def test_what_all_methods_share_is_no_methods_to_set(name: str):
    methods = {"sem": {}, "erm": {name: FLAGS[name].default}}
    assert broken(train={}, methods=methods) == (
        f"methods.erm: {name} is not a method's to set: set it in [train] for all"
    )
    assert broken(train={name: FLAGS[name].default}, methods={"sem": {}}) == ""
    assert broken(train={}, methods=methods, varies=[name]) == ""


@pytest.mark.parametrize("name", sorted(METHOD_FLAGS))
def test_what_makes_a_method_is_its_own_or_everybodys(name: str):
    value = FLAGS[name].default
    assert broken(train={}, methods={"sem": {name: value}}) == ""
    assert broken(train={name: value}, methods={"sem": {}}) == ""


@pytest.mark.parametrize("name", sorted(OWN_FLAGS | PLACES))
def test_what_the_study_or_the_machine_sets_stands_nowhere_in_it(name: str):
    said = "is set by the study itself" if name in OWN_FLAGS else "belongs on the command line"
    value = FLAGS[name].default
    assert broken(train={name: value}, methods={}).startswith(f"train: {name} {said}")
    found = broken(train={}, methods={"sem": {name: value}}, varies=[name])
    assert found.startswith(f"methods.sem: {name} {said}")


@pytest.mark.parametrize(
    ("split", "flags", "wrong"),
    [
        ("test", {}, ""),
        ("validation", {"validation_fraction": 0.1}, ""),
        ("validation", {"dataset": "folder:pictures"}, ""),  # which may have validation rows
        ("validation", {}, "needs validation_fraction above 0 in [train]; found 0.0"),
        ("test", {"validation_fraction": 0.1}, ""),
        (
            "test",
            {"dataset": "folder:pictures", "test_split": "validation"},
            "needs test_split=test; found validation",
        ),
    ],
)
def test_nothing_is_chosen_on_the_rows_that_figures_are_of(
    split: str, flags: dict[str, Any], wrong: str
):
    found = wrong_rows(split, Config(**flags))
    assert found.endswith(wrong) and bool(found) == bool(wrong)
