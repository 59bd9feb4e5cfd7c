"""How robust a model is, as pure functions: calibration, detection, attacks, groups, gaps.

Whole arrays go in. Eager calls check values too: a NaN is an error that counts the rows with one.
"""

from semjax.robustness.attacks import fgsm, pgd, robust_rows
from semjax.robustness.calibration import (
    Reliability,
    adaptive_calibration_error,
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from semjax.robustness.gap_curves import GapCurve, GapSums, gap_curve, gap_sums
from semjax.robustness.grouping import (
    GroupAccuracy,
    average_accuracy,
    group_accuracy,
    worst_group_accuracy,
)
from semjax.robustness.ood import (
    Mahalanobis,
    fit_mahalanobis,
    mahalanobis_score,
    max_softmax_probability,
    nearest_neighbour_score,
    negative_energy,
    negative_entropy,
)
from semjax.robustness.ranking import (
    area_under_risk_coverage,
    auroc,
    average_precision,
    false_positive_rate,
    risk_coverage,
)

__all__ = [
    "GapCurve",
    "GapSums",
    "GroupAccuracy",
    "Mahalanobis",
    "Reliability",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "auroc",
    "average_accuracy",
    "average_precision",
    "classwise_calibration_error",
    "expected_calibration_error",
    "false_positive_rate",
    "fgsm",
    "fit_mahalanobis",
    "fit_temperature",
    "gap_curve",
    "gap_sums",
    "group_accuracy",
    "mahalanobis_score",
    "max_softmax_probability",
    "nearest_neighbour_score",
    "negative_energy",
    "negative_entropy",
    "pgd",
    "reliability",
    "risk_coverage",
    "robust_rows",
    "worst_group_accuracy",
]
