"""Accuracy, likelihood and calibration on the test rows as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets.data import stratified
from experiments.evaluation.context import Context
from semjax import metrics
from semjax.robustness import calibration, ranking

BINS = 15
_POINTS = 100


def measure(context: Context) -> dict[str, Any]:
    """The part `clean` of a report; its keys are those of the report's table and figures.

    The temperature is fitted on the validation rows where there are any. Without them it is fitted
    on one half of the test rows and used on the other, both ways, so that no row is scaled by a
    temperature it was fitted to; the temperature shown is then the mean of the two.
    """
    logits, label = context.clean.logits, context.test.label
    scaled, temperature, source = _scaled(context, logits, label)
    probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    calibrated = np.asarray(jax.nn.softmax(jnp.asarray(scaled)))
    right = np.asarray(metrics.correct(logits, label))
    confidence = probabilities.max(1)
    coverage, risk = ranking.risk_coverage(confidence, right)
    shown = np.unique(np.linspace(0, len(label) - 1, _POINTS).astype(int))
    return {
        "count": len(label),
        "num_classes": logits.shape[1],
        "accuracy": float(right.mean()),
        **scores(logits, probabilities, label),
        "temperature": temperature,
        "temperature_from": source,
        "calibrated": scores(scaled, calibrated, label),
        "bins": _bins(probabilities, label),
        "calibrated_bins": _bins(calibrated, label),
        "aurc": float(ranking.area_under_risk_coverage(confidence, right)),
        "risk_coverage": {
            "coverage": np.asarray(coverage)[shown].tolist(),
            "risk": np.asarray(risk)[shown].tolist(),
        },
    }


def scores(logits: np.ndarray, probabilities: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Likelihood, Brier score and three calibration errors of one set of probabilities."""
    means = metrics.summarise(metrics.classification_sums(logits, label, bins=BINS))
    errors = {
        "ece": calibration.expected_calibration_error,
        "adaptive_ece": calibration.adaptive_calibration_error,
        "classwise_ece": calibration.classwise_calibration_error,
    }
    found = {name: float(error(probabilities, label, bins=BINS)) for name, error in errors.items()}
    return {"nll": float(means["nll"]), "brier": float(means["brier"]), **found}


def _scaled(
    context: Context, logits: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, float, str]:
    validation = context.data.validation
    if validation is not None:
        fitted = context.subject.answers(validation.image).logits
        temperature = float(calibration.fit_temperature(fitted, validation.label))
        return logits / temperature, temperature, f"{len(validation)} validation rows"
    if len(label) < 2:
        return logits, 1.0, "one row only, not fitted"
    first = stratified(label, len(label) // 2)
    if not first.any():
        first[: len(label) // 2] = True
    scaled, found = logits.copy(), []
    for half in (first, ~first):
        found.append(float(calibration.fit_temperature(logits[~half], label[~half])))
        scaled[half] = logits[half] / found[-1]
    return scaled, float(np.mean(found)), "each half of the test rows, for the other half"


def _bins(probabilities: np.ndarray, label: np.ndarray) -> dict[str, list[float]]:
    found = calibration.reliability(probabilities, label, bins=BINS)
    return {
        "count": np.asarray(found.count).tolist(),
        "accuracy": np.asarray(found.accuracy).tolist(),
        "confidence": np.asarray(found.confidence).tolist(),
    }
