"""The sheet of all corruptions: what it shows of which image."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import contact_sheet
from experiments.config import Config
from experiments.datasets.data import DataError
from semjax import corruptions


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """Corruptions that compile nothing, of one shade by key and severity."""

    def corrupt(key, images, *, name, severity):
        assert name in corruptions.CORRUPTIONS
        shade = int(jax.random.key_data(key)[-1]) % 200 + 10 * severity
        return np.full(images.shape, shade, np.uint8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "corrupt", corrupt)
        yield


def _pictures(figure):
    return [[np.asarray(image.get_array()) for image in axis.images] for axis in figure.axes]


def _labels(figure):
    return [text for axis in figure.axes for text in axis.texts]


def test_every_corruption_has_a_line_of_six_pictures():
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    figure = contact_sheet.corruptions_figure(image, note="a note")
    labels = [text.get_text().replace("\n", "_") for text in _labels(figure)]
    assert labels == list(corruptions.CORRUPTIONS)
    italic = {x.get_text().replace("\n", "_") for x in _labels(figure) if x.get_style() == "italic"}
    assert italic == set(corruptions.HELD_OUT)
    pictures = [picture for axis in _pictures(figure) for picture in axis]
    assert len(pictures) == 19 * 6
    keys = jax.random.split(jax.random.key(0), 19)
    for number, (key, name) in enumerate(zip(keys, corruptions.CORRUPTIONS, strict=True)):
        line = pictures[6 * number : 6 * number + 6]
        np.testing.assert_array_equal(line[0], image)
        for severity in range(1, 6):
            expected = corruptions.corrupt(key, image, name=name, severity=severity)
            np.testing.assert_array_equal(line[severity], expected)
    titles = [axis.get_title() for axis in figure.axes[:6]]
    assert titles == ["clean", *(f"severity {s}" for s in range(1, 6))]
    assert "a note" in figure.get_suptitle()


def test_the_seed_is_that_of_the_draws():
    image = np.zeros((8, 8, 1), np.uint8)
    one, two = (
        _pictures(contact_sheet.corruptions_figure(image, seed=seed))[1][0] for seed in (0, 1)
    )
    assert one.shape == (8, 8)  # grey
    assert (one != two).any()


def test_the_sheet_of_a_row_is_written(tmp_path, capsys):
    config = dataclasses.replace(Config(), dataset="digits")
    contact_sheet.main(config, 3, str(tmp_path / "images"))
    path = tmp_path / "images" / "corruptions.png"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    with Image.open(path) as picture:
        assert picture.size[0] > 1000
    assert 20_000 < path.stat().st_size < 1_000_000


@pytest.mark.parametrize("row", [-1, 360])
def test_a_row_that_is_not_there_is_told(row, tmp_path):
    config = dataclasses.replace(Config(), dataset="digits")
    with pytest.raises(DataError, match=f"row must be from 0 to 359; found {row}"):
        contact_sheet.main(config, row, str(tmp_path))
