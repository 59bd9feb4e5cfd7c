"""What a representation tells linearly: one probe a factor, fitted on train, scored on test.

Dimension letters: N rows of a split, D representation.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Strengths of the ridge penalty, of which leave-one-out on the train rows chooses.
_PENALTIES = np.logspace(-3, 5, 17)
_ITERATIONS = 500


def probe(
    train_features: ArrayLike,
    train_factors: Mapping[str, np.ndarray],
    test_features: ArrayLike,
    test_factors: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Scores one linear probe for each factor.

    Features are standardised by the train rows. Integer factors are classes: multinomial logistic
    regression, scored by accuracy; chance is the share of the most frequent class of test. Floating
    factors are real numbers: ridge regression, its penalty chosen by leave-one-out on train, scored
    by R^2; chance is 0, and a probe worse than the mean of test is below it.

    Args:
      train_features: f32[N,D], finite.
      train_factors: by name, [N] each; classes are any integers.
      test_features: f32[M,D], finite.
      test_factors: the same names, [M] each.
      seed: of the solver, which does not draw at present; the result is a function of the
        arguments.

    Returns:
      By name: `metric` ("accuracy" or "r2"), `score`, `chance`, and `classes`, how many train has,
      None for a real factor.

    Raises:
      ValueError: features that are not finite or not [N,D], factors that do not fit to them or to
        each other, or a factor that is constant in train.

    Example:
      >>> rows = np.arange(40)
      >>> features = np.stack([rows % 2, rows], axis=1)
      >>> factors = {"odd": rows % 2, "place": rows / 40.0}
      >>> found = probe(features, factors, features, factors)
      >>> found["odd"]["score"], round(found["place"]["score"], 3)
      (1.0, 1.0)
    """
    features = _features("train_features", train_features)
    unseen = _features("test_features", test_features)
    if features.shape[1] != unseen.shape[1]:
        raise ValueError(
            f"test_features must have {features.shape[1]} columns as train_features do; found "
            f"{unseen.shape[1]}"
        )
    if set(train_factors) != set(test_factors):
        raise ValueError(
            f"test_factors must be those of train, {sorted(train_factors)}; found "
            f"{sorted(test_factors)}"
        )
    mean, std = features.mean(0), features.std(0)
    # A feature that is constant but for rounding tells nothing, and must not be blown up.
    scale = np.where(std > 1e-6 * (np.abs(mean) + 1e-12), std, np.inf)
    features, unseen = (features - mean) / scale, (unseen - mean) / scale
    found = {}
    for name in train_factors:
        train = _factor("train_factors", name, train_factors[name], len(features))
        test = _factor("test_factors", name, test_factors[name], len(unseen))
        if train.dtype.kind != test.dtype.kind:
            raise ValueError(f"{name} is {train.dtype} in train_factors, {test.dtype} in test")
        if (train == train[0]).all():
            raise ValueError(f"train_factors[{name!r}] is {train[0]} in every row: nothing to fit")
        fit = _classes if train.dtype.kind == "i" else _real
        found[name] = fit(features, train, unseen, test, seed)
    return found


def mean_score(factors: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean over factors of the score, with chance as 0 and perfection as 1.

    That is (score - chance) / (1 - chance) of each factor, so that accuracies of 2 and of 10
    classes and R^2 can be averaged.

    Args:
      factors: as `probe` returns them, at least one.

    Returns:
      At most 1; below 0 where probes are worse than chance.

    Raises:
      ValueError: no factor.

    Example:
      >>> mean_score({"colour": {"score": 0.75, "chance": 0.5}, "x": {"score": 0.9, "chance": 0.0}})
      0.7
    """
    if not factors:
        raise ValueError("factors must hold at least one factor; found none")
    gains = [_gain(factor["score"], factor["chance"]) for factor in factors.values()]
    return float(np.mean(gains))


def _gain(score: float, chance: float) -> float:
    # Where one class is all of test, chance is perfect and nothing can be gained.
    return (score - chance) / (1 - chance) if chance < 1 else 0.0


def _features(name: str, values: ArrayLike) -> np.ndarray:
    # float64: sums over thousands of standardised rows, and the closed form of ridge.
    features = np.asarray(values, np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"{name} must be [N,D]; found shape {list(features.shape)}")
    if bad := int((~np.isfinite(features).all(1)).sum()):
        raise ValueError(f"{name} must be finite; found {bad} rows of {len(features)} that are not")
    return features


def _factor(argument: str, name: str, values: ArrayLike, count: int) -> np.ndarray:
    factor = np.asarray(values)
    if factor.shape != (count,) or factor.dtype.kind not in "iuf":
        raise ValueError(
            f"{argument}[{name!r}] must be integers or floats of shape [{count}]; found "
            f"{factor.dtype}{list(factor.shape)}"
        )
    if factor.dtype.kind == "f" and not np.isfinite(factor).all():
        raise ValueError(f"{argument}[{name!r}] must be finite")
    return factor.astype(np.float64 if factor.dtype.kind == "f" else np.int64)


def _classes(
    features: np.ndarray, train: np.ndarray, unseen: np.ndarray, test: np.ndarray, seed: int
) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # Where classes separate, the last digits of the weights never settle; the scores have.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, train)
    return {
        "metric": "accuracy",
        "score": float((model.predict(unseen) == test).mean()),
        "chance": float(np.unique(test, return_counts=True)[1].max() / len(test)),
        "classes": len(model.classes_),
    }


def _real(
    features: np.ndarray, train: np.ndarray, unseen: np.ndarray, test: np.ndarray, seed: int
) -> dict[str, Any]:
    del seed  # ridge has a closed form
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score

    model = RidgeCV(alphas=_PENALTIES).fit(features, train)
    return {
        "metric": "r2",
        "score": float(r2_score(test, model.predict(unseen))),
        "chance": 0.0,
        "classes": None,
    }
