"""Attacks on a model whose margin is known: a linear one breaks exactly where its weights say."""

import dataclasses
from pathlib import Path

import evaluation_example as example
import numpy as np
import pytest

import semjax
from experiments.datasets.data import Split
from experiments.evaluation import attacked
from experiments.evaluation.store import Store

PLAN = {"attack_rows": 40, "attack_steps": 3, "epsilons": "1/255,8/255,40/255"}


@pytest.fixture(scope="module")
def found() -> dict:
    return attacked.measure(example.context(**PLAN))


def _two_classes(params, images, rng):
    """Whether the upper half is the brighter: its margin is a mean of pixels."""
    margin = images[:, :4].mean((1, 2, 3)) - images[:, 4:].mean((1, 2, 3))
    return semjax.Outputs(logits=margin[:, None] * np.array([[1, -1]], np.float32))


def test_accuracy_falls_with_epsilon_and_pgd_is_the_stronger(found: dict):
    assert found["count"] == 40
    assert found["epsilons"] == [1 / 255, 8 / 255, 40 / 255]
    curve = [found["clean_accuracy"], *found["pgd"]]
    assert curve == sorted(curve, reverse=True)
    assert (np.array(found["pgd"]) <= np.array(found["fgsm"]) + 1e-9).all()
    assert found["pgd"][-1] < 0.2 < found["clean_accuracy"]


def test_a_row_breaks_exactly_where_its_margin_ends():
    data = example.digits()
    images = example.flat(data.test.image).reshape(-1, 8, 8, 1)
    margin = images[:, :4].mean((1, 2, 3)) - images[:, 4:].mean((1, 2, 3))
    label = (margin < 0).astype(np.int32)
    # Away from black and white every pixel can move by epsilon, both halves against the margin.
    grey = (64 + 0.5 * data.test.image).astype(np.uint8)
    grey_images = grey.astype(np.float64) / 255
    left = np.abs(grey_images[:, :4].mean((1, 2, 3)) - grey_images[:, 4:].mean((1, 2, 3)))
    keep = np.flatnonzero((left > 1e-3) & (np.sign(margin) != 0))[:60]
    split = Split(grey[keep], label[keep])
    epsilon = float(np.median(left[keep])) / 2
    context = example.context(
        data=dataclasses.replace(data, test=split, num_classes=2),
        model=_two_classes,
        epsilons=f"{epsilon:.6f}",
        attack_rows=0,
        attack_steps=2,
    )
    found = attacked.measure(context)
    safe = np.abs(left[keep] - 2 * round(epsilon, 6)) > 1e-5
    expected = (left[keep] > 2 * round(epsilon, 6)).mean()
    assert found["clean_accuracy"] == 1
    assert found["fgsm"][0] == pytest.approx(expected, abs=(~safe).mean() + 1e-6)
    assert found["pgd"][0] == pytest.approx(expected, abs=(~safe).mean() + 1e-6)


def test_every_epsilon_is_a_piece_and_the_batch_size_changes_nothing(tmp_path: Path, found: dict):
    context = example.context(store=Store(tmp_path, "a"), batch_size=16, **PLAN)
    again = attacked.measure(context)
    assert again == found
    assert len((tmp_path / "attacks.jsonl").read_text().splitlines()) == 4
