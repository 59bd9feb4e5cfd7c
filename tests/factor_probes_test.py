"""Probes of a report: what a model keeps of its images, and when there is nothing to ask."""

import dataclasses

import evaluation_example as example
import numpy as np
import pytest

import semjax
from experiments.evaluation import factor_probes
from experiments.evaluation.context import Skipped


def _with_factors(rows: int = 200):
    data = example.digits()
    splits = {}
    for name in ("train", "test"):
        split = example.first(getattr(data, name), rows)
        ink = example.flat(split.image)
        factors = {
            "ink": ink.sum(1),
            "left_or_right": (ink.reshape(-1, 8, 8)[:, :, :4].sum((1, 2)) > ink.sum(1) / 2).astype(
                int
            ),
            "nothing": np.random.default_rng(len(name)).normal(size=len(split)),
        }
        splits[name] = dataclasses.replace(split, factors=factors)
    return dataclasses.replace(data, **splits)


def test_a_probe_reads_what_the_representation_holds():
    found = factor_probes.measure(example.context(data=_with_factors()))
    scores = {name: entry["score"] for name, entry in found["factors"].items()}
    assert scores["ink"] > 0.99
    assert scores["left_or_right"] > 0.85
    assert scores["nothing"] < 0.2
    gains = [(f["score"] - f["chance"]) / (1 - f["chance"]) for f in found["factors"].values()]
    assert found["mean_score"] == pytest.approx(np.mean(gains))
    assert (found["source"], found["train"], found["test"]) == ("digits", 200, 200)


def test_small_images_without_factors_are_skipped():
    with pytest.raises(Skipped, match="needs images of 16 pixels a side; the model takes 8"):
        factor_probes.measure(example.context())


def test_a_named_data_set_is_read_and_must_have_factors():
    with pytest.raises(Skipped, match="digits has no factors"):
        factor_probes.measure(example.context(probe_dataset="digits"))


def test_without_a_representation_it_is_skipped():
    def bare(params, images, rng):
        return semjax.Outputs(logits=images.reshape(len(images), -1) @ params)

    with pytest.raises(Skipped, match="no representation"):
        factor_probes.measure(example.context(data=_with_factors(20), model=bare))
