"""Linear probes: what is linearly there scores near 1, what is not scores chance."""

import numpy as np
import pytest

from experiments.linear_probes import mean_score, probe

RNG = np.random.default_rng(0)
TRAIN, TEST, WIDTH = 300, 150, 12


def _split(count):
    """Rows that hold a class of three and a number linearly, in the middle of other things."""
    factors = {"kind": RNG.integers(3, size=count), "place": RNG.uniform(-2, 5, count)}
    held = np.concatenate([np.eye(3)[factors["kind"]], factors["place"][:, None]], axis=1)
    noise = RNG.normal(size=(count, WIDTH))
    return (np.concatenate([5 * held, noise], axis=1) @ MIX).astype(np.float32), factors


MIX = RNG.normal(size=(4 + WIDTH, 4 + WIDTH))
TRAIN_FEATURES, TRAIN_FACTORS = _split(TRAIN)
TEST_FEATURES, TEST_FACTORS = _split(TEST)


def test_a_factor_that_is_linearly_there_is_found():
    found = probe(TRAIN_FEATURES, TRAIN_FACTORS, TEST_FEATURES, TEST_FACTORS)
    assert list(found) == ["kind", "place"]
    assert found["kind"]["score"] > 0.98 and found["place"]["score"] > 0.99
    assert (found["kind"]["metric"], found["kind"]["classes"]) == ("accuracy", 3)
    assert (found["place"]["metric"], found["place"]["classes"]) == ("r2", None)
    most = np.bincount(TEST_FACTORS["kind"]).max() / TEST
    assert (found["kind"]["chance"], found["place"]["chance"]) == (most, 0.0)
    assert mean_score(found) > 0.97


def test_a_factor_that_is_not_there_scores_chance():
    features = [RNG.normal(size=(count, 8)) for count in (TRAIN, TEST)]
    found = probe(features[0], TRAIN_FACTORS, features[1], TEST_FACTORS)
    assert abs(found["kind"]["score"] - 1 / 3) < 0.15
    assert abs(found["place"]["score"]) < 0.1
    assert abs(mean_score(found)) < 0.15


def test_what_is_there_but_not_linearly_is_not_found():
    rows = RNG.normal(size=(600, 2))
    factors = {"same sign": (rows.prod(1) > 0).astype(int), "product": rows.prod(1)}
    first, last = (
        {name: values[part] for name, values in factors.items()}
        for part in (slice(400), slice(400, None))
    )
    found = probe(rows[:400], first, rows[400:], last)
    assert found["same sign"]["score"] < 0.65 and found["product"]["score"] < 0.2


def test_scores_are_those_of_the_test_rows():
    # In test the factor runs the other way, and a probe that was right is wrong.
    turned = {"kind": TEST_FACTORS["kind"], "place": -TEST_FACTORS["place"]}
    found = probe(TRAIN_FEATURES, TRAIN_FACTORS, TEST_FEATURES, turned)
    residual = np.square(2 * TEST_FACTORS["place"]).sum()
    total = np.square(TEST_FACTORS["place"] - TEST_FACTORS["place"].mean()).sum()
    assert found["place"]["score"] == pytest.approx(1 - residual / total, rel=0.05)


def test_a_class_that_only_the_test_rows_have_is_wrong():
    test = {"kind": np.where(np.arange(TEST) < 50, 7, TEST_FACTORS["kind"])}
    train = {"kind": TRAIN_FACTORS["kind"]}
    found = probe(TRAIN_FEATURES, train, TEST_FEATURES, test)["kind"]
    assert found["classes"] == 3 and 0.6 < found["score"] <= 100 / 150


def test_the_scale_of_a_feature_and_one_that_is_constant_change_nothing():
    plain = probe(TRAIN_FEATURES, TRAIN_FACTORS, TEST_FEATURES, TEST_FACTORS)

    def changed(features):
        scaled = features * np.logspace(-3, 3, features.shape[1]) + 10
        return np.concatenate([scaled, np.full((len(features), 1), 0.1, np.float32)], axis=1)

    found = probe(changed(TRAIN_FEATURES), TRAIN_FACTORS, changed(TEST_FEATURES), TEST_FACTORS)
    for name, factor in plain.items():
        assert found[name]["score"] == pytest.approx(factor["score"], abs=1e-3)


def test_the_result_is_a_function_of_the_arguments():
    first, again = (
        probe(TRAIN_FEATURES, TRAIN_FACTORS, TEST_FEATURES, TEST_FACTORS, seed=3) for _ in range(2)
    )
    assert first == again


def test_a_probe_that_does_not_settle_gives_no_warning(monkeypatch):
    # Warnings are errors in these tests.
    monkeypatch.setattr("experiments.linear_probes._ITERATIONS", 1)
    found = probe(TRAIN_FEATURES, TRAIN_FACTORS, TEST_FEATURES, TEST_FACTORS)
    assert 0 <= found["kind"]["score"] <= 1


def test_the_mean_score_has_chance_at_0_and_perfection_at_1():
    perfect = {"score": 1.0, "chance": 0.3}
    chance = {"score": 0.5, "chance": 0.5}
    worse = {"score": -0.4, "chance": 0.0}
    assert mean_score({"a": perfect}) == 1 and mean_score({"a": chance}) == 0
    assert mean_score({"a": perfect, "b": chance, "c": worse}) == pytest.approx(0.2)
    assert mean_score({"a": {"score": 1.0, "chance": 1.0}}) == 0
    with pytest.raises(ValueError, match="at least one factor"):
        mean_score({})


def _broken(value):
    features = TRAIN_FEATURES.copy()
    features[[3, 5], 0] = value
    return features


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_features": _broken(np.nan)}, "train_features must be finite; found 2 rows of 300"),
        ({"test_features": _broken(np.inf)}, "test_features must be finite; found 2 rows of 300"),
        ({"train_features": TRAIN_FEATURES[0]}, r"train_features must be \[N,D\]; found .*\[16\]"),
        ({"test_features": TEST_FEATURES[:, :3]}, "test_features must have 16 columns .* found 3"),
        ({"test_factors": {"kind": TEST_FACTORS["kind"]}}, r"those of train, \['kind', 'place'\]"),
        (
            {"train_factors": {**TRAIN_FACTORS, "kind": np.zeros(3, int)}},
            r"train_factors\['kind'\] must be .* of shape \[300\]; found int64\[3\]",
        ),
        (
            {"test_factors": {**TEST_FACTORS, "kind": np.full(TEST, "a")}},
            r"test_factors\['kind'\] must be integers or floats",
        ),
        (
            {"train_factors": {**TRAIN_FACTORS, "place": np.full(TRAIN, np.nan)}},
            r"train_factors\['place'\] must be finite",
        ),
        (
            {"train_factors": {**TRAIN_FACTORS, "kind": np.full(TRAIN, 2)}},
            r"train_factors\['kind'\] is 2 in every row: nothing to fit",
        ),
        (
            {"test_factors": {**TEST_FACTORS, "place": np.arange(TEST)}},
            "place is float64 in train_factors, int64 in test",
        ),
    ],
)
def test_what_cannot_be_probed_is_named(change, message):
    arguments = {
        "train_features": TRAIN_FEATURES,
        "train_factors": TRAIN_FACTORS,
        "test_features": TEST_FEATURES,
        "test_factors": TEST_FACTORS,
    }
    with pytest.raises(ValueError, match=message):
        probe(**{**arguments, **change})
