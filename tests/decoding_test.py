"""Decoding: what becomes of good images, and of everything else that an image file may hold."""

import io
import resource

import made_sets
import numpy as np
import pytest
from PIL import Image

from experiments.datasets import decoding
from experiments.datasets.damage import DamagedImage
from experiments.datasets.data import DataError
from experiments.datasets.decoding import Example, View


def picture(width=40, height=24, mode="RGB"):
    return made_sets.noise(1, size=(width, height), mode=mode)[0]


def decoded(source, mode="RGB", view=None):
    return decoding.pixels(Example("it", source, 0), mode, view or View())


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pixels_are_those_of_the_file_whatever_holds_them(tmp_path, mode):
    image = picture(mode=mode)
    (tmp_path / "a.png").write_bytes(made_sets.encoded(image))
    for source in (image.copy(), made_sets.encoded(image), tmp_path / "a.png"):
        found, aspect = decoded(source, mode)
        np.testing.assert_array_equal(found, np.asarray(image).reshape(24, 40, -1))
        assert aspect == 40 / 24


def test_the_whole_picture_is_squeezed_into_a_square():
    image = picture()
    expected = image.resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded(image.copy(), view=View(8))[0], expected)


@pytest.mark.parametrize(("width", "height"), [(80, 40), (40, 60), (48, 48)])
def test_the_centre_is_that_of_the_picture_resized_by_its_shorter_side(width, height):
    """As published: resize, then cut out; here in one go, which rounds less."""
    rows, columns = np.indices((height, width))
    smooth = 120 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7)
    image = Image.fromarray(np.repeat(smooth[..., None], 3, axis=2).astype(np.uint8))
    scale = 32 / min(width, height)
    whole = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    left, top = (whole.width - 28) // 2, (whole.height - 28) // 2
    expected = np.asarray(whole.crop((left, top, left + 28, top + 28))).astype(int)
    found, aspect = decoded(image, view=View(28, shorter=32))
    assert abs(found.astype(int) - expected).max() <= 1
    assert aspect == width / height


def test_a_thin_picture_takes_no_memory():
    """Resized as a whole by its shorter side it would have 4,000 million pixels."""
    thin = Image.new("RGB", (60_000, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, _ = decoded(thin, view=View(224, shorter=256))
    assert found.shape == (224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


DAMAGED = {
    "empty": b"",
    "no image": b"this is no image",
    "cut": made_sets.encoded(picture(64, 64))[:2000],
    "cut jpeg": made_sets.encoded(picture(64, 64), "JPEG")[:700],
    "a bomb": made_sets.huge_png(),
    "just too large": made_sets.huge_png(10_000, decoding.MOST_PIXELS // 10_000 + 1),
    "16 bits": made_sets.encoded(Image.fromarray(np.full((4, 5), 40000, np.uint16))),
    "floats": made_sets.encoded(Image.fromarray(np.ones((4, 5), np.float32)), "TIFF"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_named_and_never_decoded(tmp_path, content):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "a.png").write_bytes(content)
    for source in (content, tmp_path / "a.png"):
        with pytest.raises(DamagedImage, match=r"^it( is not a readable image)?: "):
            decoded(source)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_file_of_more_than_a_gibibyte_is_not_read(tmp_path):
    with (tmp_path / "a.png").open("wb") as stream:
        stream.truncate(2**30 + 1)  # a hole, which takes no disk
    with pytest.raises(DamagedImage, match="it has 1,073,741,825 bytes"):
        decoded(tmp_path / "a.png")


def test_a_file_that_cannot_be_read_is_no_damaged_image(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(DataError, match=r"^it cannot be read: ") as caught:
            decoded(path)
        assert not isinstance(caught.value, DamagedImage)


def test_an_opened_image_is_not_decoded_yet():
    cut = made_sets.encoded(picture(64, 64))[:2000]
    with decoding.opened("it", cut) as image:
        assert (image.mode, image.size) == ("RGB", (64, 64))
    with decoding.opened("it", Image.open(io.BytesIO(cut))) as image:
        assert image.size == (64, 64)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_is_named(label):
    decoding.check_label(Example("it", b"", 2), 3)
    with pytest.raises(DataError, match=rf"it: label {label} not in \[0, 3\)"):
        decoding.check_label(Example("it", b"", label), 3)
