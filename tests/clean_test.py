"""Figures on clean rows: each worked out a second time from the logits."""

import dataclasses

import evaluation_example as example
import numpy as np
import pytest
import scipy.special
from sklearn.metrics import log_loss

from experiments.datasets.data import stratified
from experiments.evaluation import clean
from semjax.robustness.calibration import fit_temperature


@pytest.fixture(scope="module")
def found() -> dict:
    return clean.measure(example.context())


def _probabilities() -> tuple[np.ndarray, np.ndarray]:
    test = example.digits().test
    return scipy.special.softmax(example.logits(test.image), axis=1), test.label


def test_accuracy_likelihood_and_brier_are_those_of_the_logits(found: dict):
    p, label = _probabilities()
    assert (found["count"], found["num_classes"]) == (360, 10)
    assert found["accuracy"] == pytest.approx((p.argmax(1) == label).mean(), abs=1e-6)
    assert found["nll"] == pytest.approx(log_loss(label, p), abs=1e-5)
    brier = np.square(p - np.eye(10)[label]).sum(1).mean()
    assert found["brier"] == pytest.approx(brier, abs=1e-5)


def test_calibration_error_is_that_of_the_bins_shown(found: dict):
    bins = {name: np.array(values) for name, values in found["bins"].items()}
    filled = bins["count"] > 0
    gap = np.abs(bins["accuracy"] - bins["confidence"])[filled]
    assert found["ece"] == pytest.approx((bins["count"][filled] * gap).sum() / 360, abs=1e-5)
    assert bins["count"].sum() == 360


def test_risk_falls_to_the_error_rate_at_full_coverage(found: dict):
    curve = found["risk_coverage"]
    assert curve["coverage"][-1] == 1
    assert curve["risk"][-1] == pytest.approx(1 - found["accuracy"], abs=1e-6)
    assert found["aurc"] < 1 - found["accuracy"]


def test_without_validation_no_row_is_scaled_by_a_temperature_it_was_fitted_to(found: dict):
    label, logits = example.digits().test.label, example.logits(example.digits().test.image)
    half, scaled = stratified(label, 180), np.empty_like(logits)
    for rows in (half, ~half):
        scaled[rows] = logits[rows] / float(
            fit_temperature(logits[~rows].astype(np.float32), label[~rows])
        )
    expected = log_loss(label, scipy.special.softmax(scaled, axis=1))
    assert found["calibrated"]["nll"] == pytest.approx(expected, abs=1e-4)
    assert found["calibrated"]["nll"] < found["nll"]
    assert "half" in found["temperature_from"]


def test_with_validation_the_temperature_is_fitted_there():
    data = example.digits()
    rows = example.first(data.train, 200)
    found = clean.measure(example.context(data=dataclasses.replace(data, validation=rows)))
    logits = example.logits(rows.image).astype(np.float32)
    assert found["temperature"] == pytest.approx(
        float(fit_temperature(logits, rows.label)), rel=1e-3
    )
    assert found["temperature_from"] == "200 validation rows"


def test_one_row_is_not_scaled():
    found = clean.measure(example.context(limit=0, data=_one_row()))
    assert found["temperature"] == 1
    assert found["calibrated"]["nll"] == pytest.approx(found["nll"])


def _one_row():
    data = example.digits()
    return dataclasses.replace(data, test=example.first(data.test, 1))
