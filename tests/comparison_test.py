"""Means over seeds and paired intervals, against scipy and by hand."""

import json
import math

import numpy as np
import pytest
from report_example import example
from scipy import stats

from experiments.reporting import comparison
from experiments.reporting.headline import METRICS, headline

SEEDS = (0, 1, 2)


def with_accuracy(method, seed, accuracy):
    report = example(method, seed, missing=("pictures", "projection", "ood", "corruptions"))
    report["parts"]["clean"]["result"]["accuracy"] = accuracy
    return report


def difference(found, metric="accuracy"):
    (one,) = [d for d in found["datasets"][0]["differences"] if d["metric"] == metric]
    return one


@pytest.fixture(scope="module")
def runs():
    return [example(method, seed) for method in ("erm", "sem_mixup") for seed in SEEDS]


@pytest.fixture(scope="module")
def found(runs):
    return comparison.compare(runs)


def test_means_and_deviations_are_those_of_the_headlines(runs, found):
    for group, start in zip(found["datasets"][0]["groups"], (0, 3), strict=True):
        headlines = [headline(run) for run in runs[start : start + 3]]
        for metric in METRICS:
            values = [one[metric.name] for one in headlines]
            summary = group["metrics"][metric.name]
            assert summary["n"] == 3
            assert summary["mean"] == pytest.approx(np.mean(values))
            assert summary["sd"] == pytest.approx(np.std(values, ddof=1))
            assert summary["values"] == dict(zip("012", values, strict=True))


def test_every_interval_is_that_of_scipy_on_the_paired_differences(runs, found):
    differences = found["datasets"][0]["differences"]
    assert [one["metric"] for one in differences] == [metric.name for metric in METRICS]
    for one in differences:
        base, mine = (
            np.array([headline(run)[one["metric"]] for run in part])
            for part in (runs[:3], runs[3:])
        )
        interval = stats.ttest_rel(mine, base).confidence_interval(0.95)
        assert one["difference"] == pytest.approx((mine - base).mean())
        assert (one["low"], one["high"]) == pytest.approx((interval.low, interval.high))
        assert (one["n"], one["seeds"]) == (3, [0, 1, 2])


def test_the_interval_by_hand():
    # Differences 1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, s = √7, t(0.975, 2) = 4.30265.
    found = comparison.paired([2.0, 4.0, 9.0], [1.0, 2.0, 3.0])
    half = 4.302653 * math.sqrt(7 / 3)
    assert found["difference"] == 3.0
    assert (found["low"], found["high"]) == pytest.approx((3 - half, 3 + half), abs=1e-5)


def test_one_seed_has_a_difference_but_no_interval_and_none_has_nothing():
    one = comparison.paired([0.5], [0.25])
    assert one == {"n": 1, "difference": 0.25, "low": None, "high": None}
    assert comparison.paired([], [])["difference"] is None
    with pytest.raises(ValueError, match="as many values: found 1 and 2"):
        comparison.paired([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("values", "verdict"),
    [((0.8, 0.81), "better"), ((0.6, 0.61), "worse"), ((0.6, 0.8), "unclear")],
)
def test_a_verdict_needs_an_interval_without_zero(values, verdict):
    runs = [with_accuracy("erm", seed, 0.7 + 0.01 * seed) for seed in (0, 1)]
    runs += [with_accuracy("mixup", seed, value) for seed, value in enumerate(values)]
    assert difference(comparison.compare(runs))["verdict"] == verdict


def test_lower_is_better_where_the_metric_says_so(found):
    assert found["metrics"]["nll"] == {"label": "NLL", "better": "lower"}
    nll = difference(found, "nll")
    assert nll["high"] < 0 and nll["verdict"] == "better"


def test_no_difference_at_all_is_unclear():
    runs = [with_accuracy(method, seed, 0.5) for method in ("erm", "mixup") for seed in (0, 1)]
    one = difference(comparison.compare(runs))
    assert (one["low"], one["high"], one["verdict"]) == (0.0, 0.0, "unclear")


def test_only_seeds_that_both_have_and_measured_are_paired():
    runs = [with_accuracy("erm", seed, 0.5) for seed in (0, 1, 2)]
    runs += [with_accuracy("mixup", seed, value) for seed, value in ((1, 0.7), (2, None), (3, 0.9))]
    one = difference(comparison.compare(runs))
    assert (one["n"], one["seeds"]) == (1, [1])
    assert one["difference"] == pytest.approx(0.2)
    summary = comparison.compare(runs)["datasets"][0]["groups"][1]["metrics"]["accuracy"]
    assert summary["n"] == 2 and summary["mean"] == pytest.approx(0.8)


def test_the_baseline_is_the_first_method_or_the_one_asked_for(runs, found):
    assert found["baseline"] == "erm"
    assert {d["method"] for d in found["datasets"][0]["differences"]} == {"sem_mixup"}
    other = comparison.compare(runs, baseline="sem_mixup")
    assert {d["method"] for d in other["datasets"][0]["differences"]} == {"erm"}
    assert difference(other)["difference"] == pytest.approx(-difference(found)["difference"])
    with pytest.raises(ValueError, match=r"baseline 'x': no run has that method; found \['erm'"):
        comparison.compare(runs, baseline="x")


def test_methods_are_compared_inside_a_data_set_and_a_model_only(runs):
    more = [example("sem_mixup", 0, dataset="digits"), example("sem_mixup", 0, model="mlp")]
    found = comparison.compare([*runs, *more])
    assert [entry["dataset"] for entry in found["datasets"]] == ["cifar100", "digits"]
    assert {d["model"] for d in found["datasets"][0]["differences"]} == {"resnet18"}
    assert found["datasets"][1]["differences"] == []
    assert any("no run of the baseline erm with mlp" in text for text in found["warnings"])


def test_corruptions_are_averaged_over_severities_and_seeds(runs, found):
    tables = [run["parts"]["corruptions"]["result"]["accuracy"] for run in runs[:3]]
    expected = np.mean([table["fog"] for table in tables])
    assert found["datasets"][0]["groups"][0]["corruptions"]["fog"] == pytest.approx(expected)


def test_the_gap_is_averaged_over_the_policies_that_all_runs_measured(runs):
    own = example("sem_mixup", 0)
    policies = own["parts"]["equivariance"]["result"]["policies"]
    del policies["fmix"]
    found = comparison.compare([runs[0], own])
    value = found["datasets"][0]["groups"][0]["metrics"]["normalised_gap"]["mean"]
    assert value == headline(runs[0], policies=["mixup", "cutmix"])["normalised_gap"]
    assert value != headline(runs[0])["normalised_gap"]


def test_a_comparison_is_plain_json(runs, found):
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert comparison.compare(runs) == found


def test_nothing_and_duplicates_are_refused(runs):
    with pytest.raises(ValueError, match="there is no run to compare"):
        comparison.compare([])
    with pytest.raises(ValueError, match="erm-0 and erm-0 are both method 'erm', seed 0"):
        comparison.compare([*runs, example("erm", 0)])
