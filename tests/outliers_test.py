"""OOD tables: which rows lie outside, what each score says of them."""

import evaluation_example as example
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import semjax
from experiments.evaluation import outliers
from experiments.evaluation.context import Skipped


@pytest.fixture(scope="module")
def found() -> dict:
    return outliers.measure(example.context(ood_sets="noise,digits", bank_rows=300, neighbours=5))


def test_the_runs_own_data_is_never_outside(found: dict):
    assert set(found["sets"]) == {"noise"}
    with pytest.raises(Skipped, match="--ood_sets=digits names nothing but the run's own data"):
        outliers.measure(example.context(ood_sets="digits"))


def test_every_score_tells_noise_from_digits(found: dict):
    scores = found["sets"]["noise"]["scores"]
    assert set(scores) == {"msp", "entropy", "energy", "mahalanobis", "knn"}
    assert scores["knn"]["auroc"] > 0.95
    for figures in scores.values():
        assert 0 <= figures["fpr95"] <= 1
        assert 0 <= figures["auroc"] <= 1


def test_a_score_is_higher_inside():
    context = example.context(bank_rows=300, neighbours=5, limit=100)
    score = outliers._scorer(context)
    noise = outliers._images(context, "noise")
    inside, outside = score(context.clean), score(context.subject.answers(noise))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in _features(context, noise)]
    nearest = NearestNeighbors(n_neighbors=5).fit(unit[0])
    expected = [-nearest.kneighbors(x)[0][:, -1] for x in unit[1:]]
    for values, wanted in zip((inside["knn"], outside["knn"]), expected, strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-3)
    label = np.repeat([1, 0], [len(inside["knn"]), len(outside["knn"])])
    auroc = roc_auc_score(label, np.concatenate([inside["knn"], outside["knn"]]))
    assert auroc > 0.95


def _features(context, noise: np.ndarray) -> list[np.ndarray]:
    return [
        context.bank[0].representation,
        example.flat(context.test.image),
        example.flat(noise),
    ]


def test_noise_is_as_bright_as_the_data_and_drawn_by_the_seed():
    data = example.digits()
    noise = outliers._images(example.context(), "noise")
    assert noise.shape == (360, 8, 8, 1)
    assert abs(noise.mean() / 255 - data.mean[0]) < 0.1
    again = outliers._images(example.context(), "noise")
    np.testing.assert_array_equal(noise, again)
    assert (noise != outliers._images(example.context(seed=1), "noise")).mean() > 0.3


def test_other_data_is_brought_to_the_models_size():
    images = outliers._images(example.context(limit=20), "coloured_digits")
    assert images.shape[1:] == (8, 8, 1) or images.shape == (20, 8, 8, 1)
    fractals = outliers._images(example.context(limit=4), "fractals")
    assert fractals.shape == (4, 8, 8, 1)
    assert fractals.std() > 5


def test_histograms_are_densities_that_leave_no_row_out():
    inside, outside = np.arange(100.0), np.full(50, 1e9)
    shown = outliers._histogram(inside, outside)
    width = np.diff(shown["edges"])
    assert len(width) == 30
    for side in ("in", "out"):
        assert (np.array(shown[side]) * width).sum() == pytest.approx(1)
    flat = outliers._histogram(np.ones(3), np.ones(4))
    assert np.isfinite(flat["in"]).all()


def test_without_a_representation_the_scores_of_logits_remain():
    def bare(params, images, rng):
        return semjax.Outputs(logits=images.reshape(len(images), -1) @ params)

    found = outliers.measure(example.context(model=bare, ood_sets="noise", limit=50))
    assert set(found["sets"]["noise"]["scores"]) == {"msp", "entropy", "energy"}
