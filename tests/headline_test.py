"""The numbers a run is known by, against what stands in its report."""

import numpy as np
import pytest
from report_example import example

from experiments.reporting import headline as head


def test_every_number_is_the_one_of_the_report():
    report = example()
    parts = {name: part["result"] for name, part in report["parts"].items()}
    sets = parts["ood"]["sets"].values()
    layers = [policy["layers"] for policy in parts["equivariance"]["policies"].values()]
    expected = {
        "accuracy": parts["clean"]["accuracy"],
        "nll": parts["clean"]["nll"],
        "ece": parts["clean"]["ece"],
        "ece_calibrated": parts["clean"]["calibrated"]["ece"],
        "brier": parts["clean"]["brier"],
        "mce": parts["corruptions"]["mce"],
        "mce_held_out": parts["corruptions"]["mce_held_out"],
        "worst_corruption_error": parts["corruptions"]["worst"]["error"],
        "auroc_msp": np.mean([found["scores"]["msp"]["auroc"] for found in sets]),
        "fpr95_msp": np.mean([found["scores"]["msp"]["fpr95"] for found in sets]),
        "fgsm_accuracy": parts["attacks"]["fgsm"][-1],
        "pgd_accuracy": parts["attacks"]["pgd"][-1],
        "normalised_gap": np.mean(
            [layer["representation"]["mean_normalised_gap"] for layer in layers]
        ),
        "probe_score": parts["probes"]["mean_score"],
        "worst_group": parts["groups"]["worst"],
    }
    found = head.headline(report)
    assert list(found) == list(expected) == [metric.name for metric in head.METRICS]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_attacks_are_those_at_the_largest_epsilon_wherever_it_stands():
    report = example()
    attacks = report["parts"]["attacks"]["result"]
    attacks.update(epsilons=[0.01, 0.03, None, 0.02], fgsm=[0.4, 0.1, 0.9, 0.3], pgd=[0.3, 0, 1, 1])
    found = head.headline(report)
    assert (found["fgsm_accuracy"], found["pgd_accuracy"]) == (0.1, 0.0)
    attacks["epsilons"] = []
    assert head.headline(report)["pgd_accuracy"] is None


def test_the_gap_can_be_averaged_over_chosen_policies():
    report = example()
    policies = report["parts"]["equivariance"]["result"]["policies"]
    one = policies["fmix"]["layers"]["representation"]["mean_normalised_gap"]
    assert head.headline(report, policies=["fmix"])["normalised_gap"] == one
    assert head.headline(report, policies=[])["normalised_gap"] is None
    assert head.headline(report, policies=["fmix", "other"])["normalised_gap"] is None


@pytest.mark.parametrize("kind", ["failed", "skipped", "missing"])
def test_a_part_without_result_leaves_its_numbers_out_and_no_other(kind):
    found = head.headline(example(**{kind: ("attacks", "clean")}))
    lost = {"accuracy", "nll", "ece", "ece_calibrated", "brier", "fgsm_accuracy", "pgd_accuracy"}
    assert {name for name, value in found.items() if value is None} == lost


def test_the_status_says_why_there_is_no_result():
    report = example(failed=("ood",), skipped=("groups",), missing=("probes",))
    assert head.status(report, "clean") is None
    assert head.status(report, "ood") == "failed: ValueError: ood met logits that are not finite"
    assert head.status(report, "groups") == "skipped: --nogroups"
    assert head.status(report, "probes") == "not measured"
    assert head.result(report, "ood") is None
    assert head.result(report, "clean")["count"] == 10_000


def test_numbers_that_are_none_are_no_numbers():
    odd = (None, "1", True, float("nan"), float("inf"), [1.0], {})
    assert [head.number(value) for value in odd] == [None] * 7
    assert (head.number(1), head.number(0.25)) == (1.0, 0.25)


def test_a_mean_of_which_a_term_is_missing_is_missing():
    assert head.mean([0.25, 0.75]) == 0.5
    for values in ([0.25, None], [], None, 3):
        assert head.mean(values) is None


def test_a_missing_set_of_scores_leaves_the_mean_over_sets_out():
    report = example()
    del report["parts"]["ood"]["result"]["sets"]["svhn"]["scores"]["msp"]
    assert head.headline(report)["auroc_msp"] is None


def test_numbers_are_shown_with_the_digits_and_sign_they_need():
    accuracy, nll = head.METRICS[:2]
    assert (accuracy.title, accuracy.arrow, nll.title, nll.arrow) == (
        "accuracy, %",
        "↑",
        "NLL",
        "↓",
    )
    assert accuracy.show(0.5) == "50.00" and accuracy.show(0.5, sign=True) == "+50.00"
    assert nll.show(-0.5) == "-0.5000" and nll.show(None) == "-"


def test_items_of_what_is_no_mapping_are_none():
    assert head.items({"a": 1}) == [("a", 1)]
    assert head.items(None) == head.items([1]) == []
