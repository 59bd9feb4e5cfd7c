"""Which runs belong together, and the warnings where they do not."""

import copy

import pytest
from report_example import example

from experiments.reporting import comparability


@pytest.fixture(scope="module")
def pair():
    return example("erm"), example("mixup")


def warnings(pair, change, baseline="erm"):
    """The warnings after a change of the second run."""
    other = copy.deepcopy(pair[1])
    change(other)
    return comparability.warnings_of([pair[0], other], baseline)


def result(report, part):
    return report["parts"][part]["result"]


def test_runs_that_differ_in_nothing_but_the_method_get_no_warning(pair):
    assert comparability.warnings_of(pair, "erm") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: r["run"].update(model="mlp"),
            "different model: resnet18 (erm-0); mlp (mixup-0)",
        ),
        (
            lambda r: r["run"]["flags"].update(test_split="validation"),
            "different option --test_split of train: test (erm-0); validation (mixup-0)",
        ),
        (lambda r: r["run"]["flags"].update(classes=20), "different option --classes of train: 0"),
        (lambda r: r["run"].update(step=5), "different number of training steps: 78200"),
        (lambda r: r["run"].update(parameters=5), "different number of parameters"),
        (lambda r: r["run"].update(weights="ema"), "different choice of weights: final"),
        (lambda r: result(r, "clean").update(count=50), "different number of test images: 10000"),
        (
            lambda r: result(r, "corruptions").update(source="official"),
            "different source of the corruptions: CIFAR-C-style",
        ),
        (lambda r: result(r, "corruptions")["accuracy"].pop("fog"), "different corruption list"),
        (lambda r: result(r, "corruptions").update(severities=[1]), "different severities"),
        (lambda r: result(r, "ood")["sets"].pop("svhn"), "different out-of-distribution sets"),
        (lambda r: result(r, "attacks").update(epsilons=[0.1]), "different epsilons"),
        (lambda r: result(r, "attacks").update(steps=1), "different steps of PGD: 20 (erm-0); 1"),
        (lambda r: result(r, "probes")["factors"].pop("rotation"), "different probed factors"),
        (lambda r: result(r, "groups").update(source="x"), "different source of the groups"),
        (
            lambda r: r["options"].update(attack_count=5),
            "different option --attack_count of evaluate: 1000 (erm-0); 5 (mixup-0)",
        ),
        (lambda r: r["options"].update(new=1), "different option --new of evaluate: unset (erm-0)"),
    ],
)
def test_each_difference_is_named_with_its_runs(pair, change, words):
    found = warnings(pair, change)
    assert any(f"cifar100: {words}" in text for text in found), found
    assert all("mixup-0" in text or "no run" in text for text in found)


def test_options_that_do_not_matter_give_no_warning(pair):
    assert warnings(pair, lambda r: r["options"].update(workdir="x", parts="x", batch_size=1)) == []


def test_data_sets_are_told_apart_and_not_mixed_up(pair):
    found = warnings(pair, lambda r: r["run"].update(dataset="cifar10", step=5))
    assert found[0] == (
        "different data set: cifar100 (erm-0); cifar10 (mixup-0); they are shown apart"
    )
    assert found[1:] == ["cifar10: no run of the baseline erm with resnet18: no differences"]


def test_parts_that_are_missing_in_one_run_are_named(pair):
    found = warnings(pair, lambda r: r["parts"].pop("groups"))
    assert found == ["cifar100: groups of mixup-0 not measured"]
    failed = example("mixup", failed=("ood",))
    assert comparability.warnings_of([pair[0], failed], "erm") == [
        "cifar100: ood of mixup-0 failed: ValueError: ood met logits that are not finite"
    ]


def test_what_applies_to_no_run_is_no_difference_and_what_failed_in_all_is_named():
    skipped = [example(method, skipped=("groups",)) for method in ("erm", "mixup")]
    assert comparability.warnings_of(skipped, "erm") == []
    one = [skipped[0], example("mixup")]
    assert "groups of erm-0 skipped" in comparability.warnings_of(one, "erm")[0]
    failed = [example(method, failed=("ood",)) for method in ("erm", "mixup")]
    assert len(comparability.warnings_of(failed, "erm")) == 2


def test_policies_that_all_runs_measured_are_shared(pair):
    other = copy.deepcopy(pair[1])
    policies = result(other, "equivariance")["policies"]
    policies["puzzlemix"] = policies.pop("fmix")
    nothing = example("mixup", 1, missing=("equivariance",))
    assert comparability.shared_policies([pair[0], other, nothing]) == {"mixup", "cutmix"}
    assert comparability.shared_policies([nothing]) == frozenset()
    (found, _) = comparability.warnings_of([pair[0], other, nothing], "erm")
    assert "different policies of the gap" in found and found.endswith("all have: cutmix, mixup")


def test_runs_are_grouped_by_data_set_model_and_method_with_seeds_in_order():
    runs = [
        example("mixup", 2),
        example("erm", 0),
        example("mixup", 1),
        example("mixup", 1, model="mlp"),
        example("mixup", 1, dataset="digits"),
    ]
    found = comparability.grouped(runs)
    assert list(found) == ["cifar100", "digits"]
    shown = [(g.label, g.method, g.model, list(g.runs)) for g in found["cifar100"]]
    assert shown == [
        ("mixup (resnet18)", "mixup", "resnet18", [1, 2]),
        ("erm (resnet18)", "erm", "resnet18", [0]),
        ("mixup (mlp)", "mixup", "mlp", [1]),
    ]
    assert found["cifar100"][0].runs[2] is runs[0]
    assert [group.label for group in found["digits"]] == ["mixup"]


def test_two_runs_of_one_method_and_seed_are_refused_by_name():
    runs = [example("erm", 1), example("erm", 1)]
    with pytest.raises(ValueError, match=r"erm-1 and erm-1 are both method 'erm', seed 1"):
        comparability.grouped(runs)
    with pytest.raises(ValueError, match=r"a/report.json and b/report.json are both method"):
        comparability.grouped(runs, ["a/report.json", "b/report.json"])
