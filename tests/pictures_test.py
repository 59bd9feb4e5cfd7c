"""The pictures of a report: PNGs of the size asked for, showing what their captions say."""

import base64
import io

import evaluation_example as example
import numpy as np
import PIL.Image
import pytest

from experiments.evaluation import pictures


@pytest.fixture(scope="module")
def found() -> dict:
    plan = {"corruptions": "brightness,contrast", "limit": 60}
    return pictures.measure(example.context(own_policy="cutmix", **plan))


def _decoded(png: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(png))))


def test_the_strip_shows_rows_partners_and_mixes(found: dict):
    assert found["strip"]["caption"].startswith("cutmix: rows, their partners and the mixes")
    assert found["strip"]["caption"].count(",") >= 8
    image = _decoded(found["strip"]["png"])
    cell = image.shape[0] // 3
    assert image.shape == (3 * cell, 8 * cell, 3)
    row, partner, mixed = image[:cell], image[cell : 2 * cell], image[2 * cell :]
    # CutMix takes every pixel from one of the two.
    assert (((mixed == row) | (mixed == partner)).all()) and (mixed != row).any()


def test_a_policy_that_is_not_known_is_shown_as_mixup():
    for own in ("none", "puzzlemix", "cutmix+mixup", None):
        context = example.context(own_policy=own, limit=20)
        images, label = context.test.image[:8], context.test.label[:8]
        assert pictures._strip(context, images, label)["caption"].startswith("mixup:")


def test_saliency_is_where_the_gradient_is(found: dict):
    image = _decoded(found["saliency"]["png"])
    cell = image.shape[0] // 2
    heat = image[cell:, :cell, 0]
    assert heat.max() == 255
    assert "predicted (true) class" in found["saliency"]["caption"]


def test_corruptions_are_those_of_the_plan(found: dict):
    assert found["corrupted"]["caption"] == "clean, then at severity 3: brightness, contrast"
    image = _decoded(found["corrupted"]["png"])
    cell = image.shape[0]
    assert image.shape[1] == 10 * cell  # padded with white to a full row
    assert (image[:, 3 * cell :] == 255).all()
    assert image[:, cell : 2 * cell].mean() > image[:, :cell].mean()
