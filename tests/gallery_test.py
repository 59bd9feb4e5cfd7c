"""The pictures of the gallery: every policy, drawn from the mix that made it."""

import numpy as np
import pytest

from experiments import gallery, policies
from experiments.datasets import loading

# Compiling every policy on real pictures takes a minute.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def drawn():
    return gallery.examples(loading.load("digits"), "cnn")


def test_every_policy_is_drawn_once(drawn):
    assert [example.name for example in drawn] == list(policies.POLICIES)


def test_pictures_are_what_the_mix_made(drawn):
    for example in drawn:
        assert example.mixed.shape == example.image.shape == (8, 8, 1)
        assert (example.mixed >= 0).all() and (example.mixed <= 1).all()
        np.testing.assert_allclose(example.mask.mean(), example.weight, atol=1e-6)
        assert np.abs(example.image - example.partner).max() > 0
        if example.name in ("mixup", "cutmix", "fmix", "gridmix", "smoothmix", "saliencymix"):
            share = example.mask[..., None]
            expected = share * example.image + (1 - share) * example.partner
            np.testing.assert_allclose(example.mixed, expected, atol=1e-5)


def test_the_figure_has_a_row_for_each_policy(drawn, tmp_path):
    figure = gallery.policies_figure(drawn, "digits")
    assert len(figure.axes) == 4 * len(drawn)
    assert [axis.get_title() for axis in figure.axes[:4]] == list(gallery.COLUMNS)
    figure.savefig(tmp_path / "policies.png")
    assert (tmp_path / "policies.png").stat().st_size > 10_000


def test_weights_are_drawn_beside_their_law(monkeypatch):
    monkeypatch.setattr(gallery, "DRAWS", 1000)
    figure = gallery.weights_figure(size=8)
    lines = {axis.get_title().split(":")[0]: len(axis.lines) for axis in figure.axes}
    assert lines["mixup, Beta(1, 1)"] == 1 and lines["CutMix, Beta(1, 1)"] == 0
