"""The plane of a report: principal components, and pairs that belong together."""

import evaluation_example as example
import numpy as np
import pytest
from sklearn.decomposition import PCA

import semjax
from experiments.evaluation import projection
from experiments.evaluation.context import Skipped


def test_the_plane_is_that_of_the_principal_components():
    found = projection.measure(example.context())
    pixels = example.flat(example.digits().test.image)
    pca = PCA(2).fit(pixels)
    np.testing.assert_allclose(found["explained"], pca.explained_variance_ratio_, rtol=1e-4)
    shown = np.abs(np.array(found["clean"]))
    np.testing.assert_allclose(shown, np.abs(pca.transform(pixels))[: len(shown)], atol=1e-3)
    assert len(found["label"]) == 360


def test_an_affine_model_puts_mixed_rows_where_they_are_interpolated():
    found = projection.measure(example.context())
    assert len(found["mixed"]) == len(found["interpolated"]) == len(found["weight"]) == 60
    # Up to the rounding of pixels to bytes.
    np.testing.assert_allclose(found["mixed"], found["interpolated"], atol=0.02)
    assert np.std(found["mixed"]) > 0.1


def test_a_representation_of_one_number_has_a_plane_too():
    def one(params, images, rng):
        x = images.mean((1, 2))
        return semjax.Outputs(logits=x * np.ones((1, 10), np.float32), representation=x)

    found = projection.measure(example.context(model=one, limit=30))
    assert np.array(found["clean"]).shape == (30, 2)
    assert not np.array(found["clean"])[:, 1].any()


def test_without_a_representation_it_is_skipped():
    def bare(params, images, rng):
        return semjax.Outputs(logits=images.reshape(len(images), -1) @ params)

    with pytest.raises(Skipped, match="no representation"):
        projection.measure(example.context(model=bare))
