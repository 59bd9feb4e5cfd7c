"""Groups of a report: average and worst, by hand."""

import dataclasses

import evaluation_example as example
import numpy as np
import pytest

from experiments.evaluation import subgroups
from experiments.evaluation.context import Skipped


def test_the_worst_group_is_the_one_that_is_wrong():
    data = example.digits()
    right = example.logits(data.test.image).argmax(1) == data.test.label
    # Group 1 holds the threes that the model gets wrong, and two that it gets right.
    group = ((data.test.label == 3) & ~right).astype(np.int32)
    group[np.flatnonzero((data.test.label == 3) & right)[:2]] = 1
    test = dataclasses.replace(data.test, group=group)
    data = dataclasses.replace(data, test=test, num_groups=2, attribute="colour")
    found = subgroups.measure(example.context(data=data))
    wrong = ((data.test.label == 3) & ~right).sum()
    assert wrong > 0
    assert found["worst_group"] == "label 3, colour 1"
    assert found["worst"] == pytest.approx(2 / (2 + wrong), abs=1e-6)
    assert found["average"] == pytest.approx(right.mean(), abs=1e-6)
    assert len(found["groups"]) == 11  # empty ones are left out
    assert sum(entry["count"] for entry in found["groups"]) == 360


def test_data_without_groups_is_skipped():
    with pytest.raises(Skipped, match="digits has no groups"):
        subgroups.measure(example.context())
