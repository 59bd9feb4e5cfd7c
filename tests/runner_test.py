"""The report as a whole: a part that fails takes no other with it, and nothing measured is lost."""

import json
from pathlib import Path

import evaluation_example as example
import jax.numpy as jnp
import pytest

from experiments.evaluation import runner
from experiments.evaluation.plan import Plan
from experiments.evaluation.subject import Subject


def evaluate(folder: Path | None, parts: str, *, scale: float = 1.0, **plan) -> dict:
    subject = Subject(example.apply_fn, jnp.asarray(scale * example.weights()), 64)
    return runner.evaluate(
        subject,
        example.digits(),
        plan=Plan(parts=parts, limit=40, gap_rows=32, **plan),
        output=folder,
        run={"name": "mine", "method": "linear", "flags": {"policy": "cutmix"}},
    )


def test_the_report_is_on_disk_as_it_is_returned(tmp_path: Path):
    report = evaluate(tmp_path, "clean,groups")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert report["schema"] == 1
    assert report["run"]["name"] == "mine"
    assert report["run"]["parameters"] == 640
    assert report["run"]["dataset"] == "digits"
    assert report["options"]["limit"] == 40
    assert report["parts"]["clean"]["status"] == "done"
    assert report["parts"]["groups"] == {
        "status": "skipped",
        "reason": "digits has no groups",
        "seconds": report["parts"]["groups"]["seconds"],
    }
    assert "mine" in (tmp_path / "report.html").read_text()


def test_a_part_that_fails_is_reported_and_the_rest_comes_out(tmp_path: Path, monkeypatch):
    def fails(context):
        raise RuntimeError("no luck")

    monkeypatch.setitem(runner._MEASURES, "clean", fails)
    report = evaluate(tmp_path, "clean,equivariance")
    assert report["parts"]["clean"]["status"] == "failed"
    assert report["parts"]["clean"]["reason"] == "RuntimeError: no luck"
    assert report["parts"]["equivariance"]["status"] == "done"
    assert "cutmix" in report["parts"]["equivariance"]["result"]["policies"]
    assert "no luck" in (tmp_path / "report.html").read_text()


def test_parts_measured_before_stay_unless_weights_or_options_are_others(tmp_path: Path):
    first = evaluate(tmp_path, "equivariance")
    both = evaluate(tmp_path, "clean")
    assert list(both["parts"]) == ["clean", "equivariance"]
    assert both["parts"]["equivariance"] == first["parts"]["equivariance"]
    # A page states one set of options: what was measured with others does not stand on it.
    assert list(evaluate(tmp_path, "groups", seed=1)["parts"]) == ["groups"]
    assert list(evaluate(tmp_path, "clean", seed=1)["parts"]) == ["clean", "groups"]
    other = evaluate(tmp_path, "clean", scale=2.0, seed=1)
    assert list(other["parts"]) == ["clean"]


def test_an_interruption_leaves_what_was_measured(tmp_path: Path, monkeypatch):
    def interrupted(context):
        raise KeyboardInterrupt

    monkeypatch.setitem(runner._MEASURES, "groups", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, "clean,groups")
    assert list(json.loads((tmp_path / "report.json").read_text())["parts"]) == ["clean"]
    assert "not measured" in (tmp_path / "report.html").read_text()


def test_a_damaged_report_is_made_anew(tmp_path: Path):
    (tmp_path / "report.json").write_text('{"schema": 1, "run"')
    assert list(evaluate(tmp_path, "groups")["parts"]) == ["groups"]


def test_without_an_output_nothing_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(None, "groups")
    assert list(tmp_path.iterdir()) == []


def test_pieces_of_other_weights_or_options_are_not_used(tmp_path: Path):
    plan = {"corruptions": "contrast", "severities": "5"}
    first = evaluate(tmp_path, "corruptions", **plan)
    other = evaluate(tmp_path, "corruptions", scale=-1.0, **plan)
    accuracy = [
        r["parts"]["corruptions"]["result"]["accuracy"]["contrast"][0] for r in (first, other)
    ]
    assert accuracy[0] > accuracy[1]


def test_numbers_that_are_none_are_null():
    value = {"a": [float("nan"), 1.0], "b": {"c": float("inf")}, "d": (2, "x", None, True)}
    assert runner._plain(value) == {"a": [None, 1.0], "b": {"c": None}, "d": [2, "x", None, True]}
