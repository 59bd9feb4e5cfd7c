"""What parts share: pieces that are made once and told about, and answers that are asked once."""

from pathlib import Path

import evaluation_example as example
import numpy as np
import pytest

import semjax
from experiments.evaluation.context import Skipped, features
from experiments.evaluation.store import Store
from experiments.evaluation.subject import Answers


def test_pieces_are_made_once_and_their_progress_is_told(tmp_path: Path):
    context = example.context(store=Store(tmp_path, "a"))
    pieces = context.pieces("ood", ["x", "y"])
    assert pieces.make("x", lambda: {"accuracy": 0.25}) == {"accuracy": 0.25}
    told = context.stream.getvalue()
    assert "ood 1/2  x  accuracy 0.25" in told
    assert "ETA" in told

    later = example.context(store=Store(tmp_path, "a"))
    pieces = later.pieces("ood", ["x", "y"])
    assert pieces.make("x", lambda: 1 / 0) == {"accuracy": 0.25}
    pieces.make("y", lambda: {"right": [1, 0, 0, 1]})
    told = later.stream.getvalue().splitlines()
    assert told[0] == "ood: 1 of 2 are done already"
    assert told[1].startswith("ood 2/2  y  right 0.5")


def test_the_limit_holds_for_the_rows_figures_are_of():
    assert len(example.context(limit=30).test) == 30
    assert len(example.context(limit=30).clean.logits) == 30
    assert len(example.context().test) == 360


def test_the_bank_is_of_training_rows():
    answers, label = example.context(bank_rows=40).bank
    assert len(label) == len(answers.logits) == 40
    assert (answers.logits.argmax(1) == label).mean() > 0.8


def test_without_a_representation_a_part_is_skipped():
    with pytest.raises(Skipped, match="no representation"):
        features(Answers(np.zeros((1, 2)), None))
    assert features(Answers(np.zeros((1, 2)), np.ones((1, 3)))).shape == (1, 3)


def test_the_model_is_asked_once():
    asked = []

    def model(params, images, rng):
        asked.append(1)  # once a trace
        return semjax.Outputs(logits=images.sum((1, 2)) * np.ones((1, 10), np.float32))

    context = example.context(model=model, limit=20)
    assert context.clean is context.clean
    assert len(asked) == 1
