"""Results sorted into budgets and methods, and the numbers read from them."""

import json

import numpy as np
import pytest
from report_example import BENCHMARK, HELD_OUT
from study_results_example import make_results, make_study

from experiments.reporting.headline import METRICS
from experiments.studying import measures
from experiments.studying.plan import StudyError

NAMES = [metric.name for metric in measures.MEASURES]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("measures") / "study")


@pytest.fixture(scope="module")
def results(study):
    return make_results(study)


def row_of(block, method):
    return next(row for row in block.rows if row.method == method)


def metric_of(name):
    return measures.MEASURES[NAMES.index(name)]


def test_every_headline_is_a_measure_and_noise_follows_the_corruptions():
    assert [name for name in NAMES if name != "noise_error"] == [m.name for m in METRICS]
    assert NAMES.index("noise_error") == NAMES.index("worst_corruption_error") + 1
    assert {metric.name for metric in measures.COMPARED} <= set(NAMES)


def test_the_kinds_are_the_nineteen_corruptions():
    kinds = measures.CORRUPTIONS
    assert tuple(name for kind in list(kinds)[:4] for name in kinds[kind]) == BENCHMARK
    assert kinds["held out"] == HELD_OUT


def test_a_block_holds_every_method_of_its_budget_and_no_run_of_another(study, results):
    steps, rows = measures.blocks(study, results)
    assert (steps.title, rows.title) == (
        "At equal steps: 100",
        "At equal forwarded rows: 6,400",
    )
    for block in (steps, rows):
        assert [row.method for row in block.rows] == list(study.methods)
        assert block.done == (15, 15)
    # Without a gap a step forwards half as many rows: 100 steps, but 200 for as many rows.
    assert {run["steps"] for run in row_of(steps, "mixup").runs.values()} == {100}
    assert {run["steps"] for run in row_of(rows, "mixup").runs.values()} == {200}
    assert row_of(rows, "mixup").rows_per_step == 32
    assert row_of(steps, "sem").runs == row_of(rows, "sem").runs
    assert row_of(steps, "sem").rows_per_step == 64


def test_the_reference_stands_apart(study, results):
    block = measures.blocks(study, results)[0]
    assert block.reference_row.method == "sem"
    assert [row.method for row in block.others] == ["erm", "mixup", "heavy sem", "sem, l1"]


def test_what_has_not_run_keeps_its_row(study, results):
    some = {name: kept for name, kept in results.items() if kept["seed"] == 1}
    some = {name: kept for name, kept in some.items() if kept["method"] != "erm"}
    block = measures.blocks(study, some)[0]
    assert [len(row.runs) for row in block.rows] == [0, 1, 1, 1, 1]
    assert block.done == (4, 15)
    assert [row.planned for row in block.rows] == [3] * 5


def test_shown_methods_come_first_by_look(study, results):
    assert measures.by_look(study) == ["mixup", "sem", "heavy sem", "erm", "sem, l1"]
    places = {row.method: row.place for row in measures.blocks(study, results)[1].rows}
    assert places == {"mixup": 0, "sem": 1, "heavy sem": 2, "erm": 3, "sem, l1": 4}


def test_values_are_those_of_the_results_by_seed(study, results):
    row = row_of(measures.blocks(study, results)[0], "sem")
    expected = {seed: results[f"sem@100-{seed}"]["metrics"]["nll"] for seed in (0, 1, 2)}
    assert measures.values(row, metric_of("nll")) == expected
    assert measures.values(row, metric_of("fgsm_accuracy")) == {}


def test_errors_are_means_over_severities_and_then_over_corruptions(study, results):
    row = row_of(measures.blocks(study, results)[0], "sem")
    names = ["gaussian_noise", "shot_noise", "impulse_noise"]
    found = {
        seed: 1 - np.mean([results[f"sem@100-{seed}"]["corruptions"][name] for name in names])
        for seed in (0, 1, 2)
    }
    assert measures.values(row, measures.NOISE) == pytest.approx(found)
    assert measures.error(row, names) == pytest.approx(found)


def test_half_a_mean_is_no_mean(study, results):
    changed = json.loads(json.dumps(results))
    del changed["sem@100-0"]["corruptions"]["shot_noise"]
    changed["sem@100-1"]["corruptions"]["shot_noise"] = [0.5, None]
    row = row_of(measures.blocks(study, changed)[0], "sem")
    assert set(measures.values(row, measures.NOISE)) == {2}
    assert set(measures.error(row, ["gaussian_noise"])) == {0, 1, 2}


def test_corruptions_measured_are_sorted_by_kind(study, results):
    changed = json.loads(json.dumps(results))
    for kept in changed.values():
        kept["corruptions"] = {}
    changed["mixup@100-1"]["corruptions"] = {"fog": [0.5], "mist": [0.5], "glass_blur": [0.5]}
    block = measures.blocks(study, changed)[0]
    assert measures.corruptions(block) == {
        "blur": ["glass_blur"],
        "weather": ["fog"],
        "other": ["mist"],
    }


def test_probes_are_shares_of_what_is_above_chance():
    factors = {
        "a": {"score": 0.75, "chance": 0.5},
        "b": {"score": -0.5, "chance": 0.0},
        "c": {"score": 1.0, "chance": 1.0},
        "d": 0.25,
        "e": None,
    }
    found = measures.probes({"probes": factors})
    assert found == {"a": 0.5, "b": -0.5, "c": 0.0, "d": 0.25, "e": None}
    assert measures.probes({}) == {} and measures.groups({}) == {}


def test_parts_are_in_the_order_of_first_sight(study, results):
    changed = json.loads(json.dumps(results))
    changed["erm@100-1"]["probes"]["hue"] = 0.5
    del changed["erm@100-0"]["probes"]["rotation"]
    block = measures.blocks(study, changed)[0]
    assert measures.parts(block, measures.probes) == ["contrast", "rotation", "hue"]


def test_a_series_differs_in_the_weight_of_the_gap_only(study, results):
    for block in measures.blocks(study, results):
        found = [[(weight, row.method) for weight, row in line] for line in measures.series(block)]
        assert found == [
            [(0.0, "erm")],
            [(0.0, "mixup"), (1.0, "sem"), (10.0, "heavy sem")],
            [(1.0, "sem, l1")],
        ]


def test_curves_leave_out_what_was_not_measured():
    run = {"curve": {"step": [1, 2, 3], "accuracy": [0.5, None, 0.75]}}
    assert measures.curve(run, "accuracy") == {1: 0.5, 3: 0.75}
    assert measures.curve(run, "normalised_gap") == {} == measures.curve({}, "accuracy")


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"accuracy": [1.0]}, r"curve\.accuracy must be a list as long as curve\.step"),
        ({"step": [1, 2], "accuracy": [1.0]}, "must be a list as long as"),
        ({"step": 1, "accuracy": 2}, "must be a list as long as"),
        ({"step": ["\n"], "accuracy": [1.0]}, r"whole numbers; found '\\n'"),
    ],
)
def test_a_damaged_curve_is_refused_by_its_run(curve, message):
    with pytest.raises(StudyError, match=f"the result of sem@100-0 is damaged: .*{message}"):
        measures.curve({"cell": "sem@100-0", "curve": curve}, "accuracy")


def test_a_projection_is_arrays(results):
    found = measures.projection(results["sem@100-0"])
    assert {name: array.shape for name, array in found.items()} == {
        "clean": (60, 2),
        "label": (60,),
        "mixed": (20, 2),
        "interpolated": (20, 2),
        "explained": (2,),
    }
    assert measures.projection(results["sem@100-1"]) is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clean", "x", r"projection\.clean must be numbers"),
        ("mixed", [[0.0, 1.0], [2.0]], r"projection\.mixed must be numbers"),
        ("mixed", [[0.0, 1.0]], "must hold points of the plane"),
        ("label", [1, 2], "must hold points of the plane"),
        ("explained", 0.5, "must hold points of the plane"),
        ("interpolated", None, "must hold points of the plane"),
    ],
)
def test_a_damaged_projection_is_refused_by_its_run(results, name, value, message):
    run = {"cell": "sem@100-0", "projection": results["sem@100-0"]["projection"] | {name: value}}
    with pytest.raises(StudyError, match=f"the result of sem@100-0 is damaged: .*{message}"):
        measures.projection(run)
