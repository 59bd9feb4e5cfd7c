"""The textures of ice: their colours, their structure, and that they are always the same."""

import numpy as np
import pytest

from semjax.corruptions.ice import TEXTURES, ice_textures


@pytest.fixture(scope="module")
def textures():
    return ice_textures(96, 5)


def test_there_are_five_of_their_own(textures):
    assert textures.shape == (TEXTURES, 96, 96, 3) == (5, 96, 96, 3)
    assert textures.dtype == np.uint8
    flat = textures.mean(-1).reshape(5, -1)
    assert abs(np.corrcoef(flat) - np.eye(5)).max() < 0.2


def test_they_are_always_the_same_and_cannot_be_changed(textures):
    ice_textures.cache_clear()
    again = ice_textures(96, 5)
    assert again is not textures
    np.testing.assert_array_equal(again, textures)
    with pytest.raises(ValueError, match="read-only"):
        again[0] = 0


def test_colours_and_contrast_are_about_those_of_the_photographs(textures):
    # Of frost1.png to frost5.jpg in the package imagecorruptions; the second and third are one.
    mean = [(78, 149, 166), (201, 205, 215), (201, 205, 215), (138, 153, 165), (112, 123, 135)]
    spread = [(27, 17, 15), (21, 22, 23), (21, 22, 23), (28, 28, 30), (44, 43, 42)]
    np.testing.assert_allclose(textures.mean((1, 2)), mean, atol=8)
    np.testing.assert_allclose(textures.std((1, 2)), spread, atol=4)
    assert (textures.mean((1, 2))[:, 2] > textures.mean((1, 2))[:, 0]).all()  # blue


def test_at_full_size_there_are_lines_brighter_than_what_is_around():
    texture = ice_textures(160, 1).mean(-1)
    for field in texture:
        values = (field - field.mean()) / field.std()
        across = np.mean(values[:, 1:] * values[:, :-1])
        assert across > 0.2  # not grain alone
        assert np.mean(values**3) > -0.2 and values.max() > 2


def test_a_smaller_picture_shows_more_of_it():
    near, far = ice_textures(64, 1), ice_textures(64, 5)

    # Neighbouring pixels of the smaller one are further apart, and less alike.
    def likeness(textures):
        fields = textures.astype(float).mean(-1)
        fields = fields - fields.mean((1, 2), keepdims=True)
        return (fields[:, 1:] * fields[:, :-1]).mean((1, 2)) / fields.var((1, 2))

    assert (likeness(near) > likeness(far)).mean() >= 0.8
