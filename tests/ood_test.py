"""Scores of familiarity against NumPy in float64 and scikit-learn's neighbours."""

import jax
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from sklearn.neighbors import NearestNeighbors

from semjax.robustness import ood
from semjax.robustness.ood import (
    fit_mahalanobis,
    mahalanobis_score,
    max_softmax_probability,
    nearest_neighbour_score,
    negative_energy,
    negative_entropy,
)

LOGIT_SCORES = [max_softmax_probability, negative_entropy, negative_energy]
each_logit_score = pytest.mark.parametrize("score", LOGIT_SCORES, ids=lambda f: f.__name__)


def made_logits(rows=20, classes=5, scale=3.0):
    rng = np.random.default_rng(0)
    return (scale * rng.standard_normal((rows, classes))).astype(np.float32)


# Scores of the logits.


@pytest.mark.parametrize("scale", [3.0, 1e3])
def test_scores_of_logits_are_those_of_float64(scale):
    logits = made_logits(scale=scale)
    wide = logits.astype(np.float64)
    log_p = log_softmax(wide, 1)
    expected = {
        max_softmax_probability: np.exp(log_p).max(1),
        negative_entropy: (np.exp(log_p) * log_p).sum(1),
        negative_energy: logsumexp(wide, 1),
    }
    for score, values in expected.items():
        np.testing.assert_allclose(score(logits), values, rtol=2e-6, atol=1e-5)


def test_the_temperature_of_the_energy():
    logits = made_logits()
    expected = 10 * logsumexp(logits.astype(np.float64) / 10, 1)
    np.testing.assert_allclose(negative_energy(logits, temperature=10.0), expected, rtol=1e-6)


@each_logit_score
def test_sure_rows_score_higher_than_unsure_ones(score):
    unsure, sure = score(np.array([[1.0, 1.0, 1.0], [9.0, 1.0, 1.0]]))
    assert sure > unsure


@each_logit_score
def test_logits_are_checked(score):
    with pytest.raises(ValueError, match="logits must be finite; found 1 bad row of 2"):
        score(np.array([[0.0, 1.0], [np.nan, 0.0]]))
    with pytest.raises(ValueError, match="logits must have at least one row"):
        score(np.zeros((0, 3)))
    with pytest.raises(TypeError, match="logits must be floating"):
        score(np.ones((2, 3), int))


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.inf, np.nan])
def test_the_temperature_is_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be positive and finite; found"):
        negative_energy(np.zeros((1, 2)), temperature=temperature)


# Mahalanobis.


def made_features(rows=300, width=6, classes=3, rank=None, offset=0.0, seed=0):
    """Classes with their own means and correlated features, of full or lower rank."""
    rng = np.random.default_rng(seed)
    rank = rank or width
    label = np.arange(rows) % classes
    hidden = rng.standard_normal((rows, rank)) + 3 * rng.standard_normal((classes, rank))[label]
    spread = np.linalg.qr(rng.standard_normal((width, width)))[0][:rank]
    features = hidden * np.linspace(0.5, 2, rank) @ spread + offset
    return features.astype(np.float32), label


def expected_score(features, label, tested, classes):
    features, tested = features.astype(np.float64), tested.astype(np.float64)
    means = np.array([features[label == c].mean(0) for c in range(classes)])
    within = features - means[label]
    inverse = np.linalg.pinv(within.T @ within / len(features), rcond=1e-9, hermitian=True)
    scores = [[-(f - m) @ inverse @ (f - m) for m in means] for f in tested]
    return np.max(scores, 1)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("rank", [6, 3])
def test_the_mahalanobis_score_is_that_of_float64(rank, offset):
    features, label = made_features(rank=rank, offset=offset)
    # Of the same plane where the rank is lower: outside it there is no variance to measure by.
    tested = 2 * made_features(rank=rank, rows=40)[0] + np.float32(offset)
    fit = fit_mahalanobis(features, label, num_classes=3)
    found = jax.jit(mahalanobis_score)(fit, tested)
    expected = expected_score(features, label, tested, 3)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    assert (found <= 0).all()


def test_a_direction_of_little_variance_still_counts():
    features, label = made_features()
    features[:, 0] *= 1e-4
    fit = fit_mahalanobis(features, label, num_classes=3)
    expected = expected_score(features, label, features, 3)
    np.testing.assert_allclose(mahalanobis_score(fit, features), expected, rtol=5e-3)


def test_more_features_than_rows():
    features, label = made_features(rows=8, width=20, classes=2)
    fit = fit_mahalanobis(features, label, num_classes=2)
    expected = expected_score(features, label, features, 2)
    np.testing.assert_allclose(mahalanobis_score(fit, features), expected, rtol=1e-3)


def test_the_covariance_is_shared_and_scales_with_the_features():
    features, label = made_features()
    scores = [
        mahalanobis_score(fit_mahalanobis(a * features, label, num_classes=3), a * features)
        for a in (1, 1e-3)
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3)
    # The mean squared distance to the own class is the number of features.
    own = [mahalanobis_score(fit_mahalanobis(features, 0 * label, num_classes=1), features)]
    np.testing.assert_allclose(np.mean(own), -6, rtol=1e-4)


def test_directions_without_variance_are_not_looked_at():
    features = np.array([[0.0, 7.0], [2.0, 7.0]])
    fit = fit_mahalanobis(features, np.array([0, 0]), num_classes=1)
    found = mahalanobis_score(fit, np.array([[4.0, 7.0], [4.0, -90.0]]))
    np.testing.assert_allclose(found, [-9, -9], rtol=1e-5)


def test_a_class_without_rows_is_nobody_s_nearest():
    features, label = made_features()
    # Amid the classes too, where an empty one would be the nearest if it lay there.
    tested = np.concatenate([features, features.mean(0, keepdims=True)])
    gaps, full = (
        mahalanobis_score(fit_mahalanobis(features, step * label, num_classes=n), tested)
        for step, n in ((2, 6), (1, 3))
    )
    np.testing.assert_allclose(gaps, full, rtol=1e-3)


@pytest.mark.parametrize(
    ("features", "label", "error", "message"),
    [
        ([[np.nan], [1.0]], [0, 1], ValueError, "features must be finite; found 1 bad row of 2"),
        ([[0.0], [1.0]], [0, 2], ValueError, r"label must be in \[0, 2\); found 1 bad row of 2"),
        ([[0.0], [1.0]], [0], ValueError, r"label must have shape \(2,\)"),
        ([0.0, 1.0], [0, 1], ValueError, r"features must be \[N, D\]"),
        ([[0], [1]], [0, 1], TypeError, "features must be floating"),
    ],
)
def test_features_and_labels_are_checked(features, label, error, message):
    with pytest.raises(error, match=message):
        fit_mahalanobis(np.array(features), np.array(label), num_classes=2)


def test_features_must_fit_the_fit():
    fit = fit_mahalanobis(np.eye(3), np.array([0, 1, 1]), num_classes=2)
    with pytest.raises(ValueError, match=r"features must have the 3 columns.*\(1, 2\)"):
        mahalanobis_score(fit, np.ones((1, 2)))
    with pytest.raises(ValueError, match="features must be finite; found 1 bad row of 1"):
        mahalanobis_score(fit, np.full((1, 3), np.inf))


# Nearest neighbours.


def sklearn_score(features, bank, k):
    features, bank = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (features.astype(np.float64), bank.astype(np.float64))
    )
    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(bank)
    return -neighbours.kneighbors(features)[0][:, -1]


@pytest.mark.parametrize("k", [1, 7, 90])
@pytest.mark.parametrize("block", [512, 8], ids=["one block", "blocks"])
def test_the_neighbour_score_is_that_of_scikit_learn(k, block, monkeypatch):
    monkeypatch.setattr(ood, "_BLOCK", block)
    features, bank = made_features(rows=21, width=4, seed=1)[0], made_features(rows=90, width=4)[0]
    found = nearest_neighbour_score(features, bank, k=k)
    np.testing.assert_allclose(found, sklearn_score(features, bank, k), rtol=1e-5, atol=1e-6)


def test_fifty_neighbours_are_the_default():
    features, bank = made_features(rows=9)[0], made_features(rows=90, seed=1)[0]
    found = jax.jit(nearest_neighbour_score)(features, bank)
    np.testing.assert_allclose(found, sklearn_score(features, bank, 50), rtol=1e-5)


def test_a_row_of_the_bank_is_at_no_distance_of_itself():
    bank = made_features(rows=30)[0]
    assert np.abs(nearest_neighbour_score(bank, bank, k=1)).max() < 1e-7


def test_only_directions_count_whatever_the_lengths():
    features, bank = made_features(rows=21, width=4, seed=1)[0], made_features(rows=90, width=4)[0]
    long = nearest_neighbour_score(1e30 * features, 1e-30 * bank, k=7)
    np.testing.assert_allclose(long, nearest_neighbour_score(features, bank, k=7), rtol=1e-5)


def test_a_feature_that_is_zero_stays_zero():
    found = nearest_neighbour_score(np.zeros((1, 2)), np.array([[3.0, 4.0]]), k=1)
    np.testing.assert_allclose(found, [-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, r"k must be in \[1, 3\], the rows of the bank; found 0"),
        ({"k": 4}, ValueError, r"k must be in \[1, 3\], the rows of the bank; found 4"),
        ({"k": 1.0}, TypeError, "k must be a static integer"),
        ({"bank": np.ones((3, 5))}, ValueError, r"one width; found shapes \(2, 4\), \(3, 5\)"),
        ({"bank": np.full((3, 4), np.nan)}, ValueError, "bank must be finite; found 3 bad rows"),
        ({"features": np.full((2, 4), np.inf)}, ValueError, "features must be finite; found 2 bad"),
        ({"features": np.ones((0, 4))}, ValueError, "features must have at least one row"),
    ],
)
def test_neighbours_are_checked(options, error, message):
    arguments = {"features": np.ones((2, 4)), "bank": np.ones((3, 4)), "k": 1} | options
    with pytest.raises(error, match=message):
        nearest_neighbour_score(arguments["features"], arguments["bank"], k=arguments["k"])
