"""What is kept of a run: it comes back as it was, is measured once, and is checked when read."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_example import example
from study_example import SHORT, make_study

from experiments.studying import results
from experiments.studying.plan import Cell, Study, StudyError


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "study", SHORT)


@pytest.fixture
def cell(study: Study) -> Cell:
    return study.cells()[0]


def run_of(workdir: Path, **parts: Any) -> Path:
    """A run directory as the programs leave it, with parts of its report replaced."""
    report = example()
    report["parts"] |= parts
    workdir.mkdir(parents=True)
    (workdir / "report.json").write_text(json.dumps(report))
    (workdir / "summary.json").write_text(json.dumps({"wall_time": 60.5, "images_per_second": 9}))
    lines = [
        {"step": 2, "loss": 1.0, "normalised_gap": 0.123456789},
        {"step": 4, "test_accuracy": 0.5, "test_nll": 1.5},
        {"step": 6, "loss": 0.5},
        {"step": 8, "test_accuracy": 0.75, "test_nll": 1.25},
    ]
    (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return workdir


def kept(study: Study, cell: Cell, tmp_path: Path, name: str = "run") -> dict[str, Any]:
    return results.of_run(study, cell, run_of(tmp_path / name))


# --- What is kept --------------------------------------------------------------------------------


def test_what_is_kept_comes_back_as_it_was(study: Study, cell: Cell, tmp_path: Path):
    assert results.read(study, cell) is None
    found = kept(study, cell, tmp_path)
    path = results.write(study, cell, found)
    assert path == study.folder / "results" / "erm@10-0.json"
    assert results.read(study, cell) == found
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_is_kept_says_what_was_measured_of_which_run(study: Study, cell: Cell, tmp_path: Path):
    found, report = kept(study, cell, tmp_path), example()
    assert (found["cell"], found["method"], found["seed"]) == ("erm@10-0", "erm", 0)
    assert (found["steps"], found["rows_per_step"], found["rows_forwarded"]) == (10, 32, 320)
    clean = report["parts"]["clean"]["result"]
    assert found["metrics"]["accuracy"] == pytest.approx(clean["accuracy"], rel=1e-5)
    assert found["curve"] == {
        "step": [4, 8],
        "accuracy": [0.5, 0.75],
        "nll": [1.5, 1.25],
        "normalised_gap": [0.123457, 0.123457],
    }
    assert found["seconds"]["train"] == 60.5
    assert found["environment"] == report["run"]["environment"]
    assert found["flags"]["policy"] == "none" and "workdir" not in found["flags"]


def test_the_curve_of_a_run_that_holds_rows_out_is_of_those_rows(
    study: Study, cell: Cell, tmp_path: Path
):
    workdir = run_of(tmp_path / "run")
    lines = (workdir / "metrics.jsonl").read_text()
    lines = lines.replace('"test_', '"validation_')
    lines = lines.replace("1.25}", '1.25, "validation_normalised_gap": 0.25}')
    (workdir / "metrics.jsonl").write_text(lines)
    assert results.of_run(study, cell, workdir)["curve"] == {
        "step": [4, 8],
        "accuracy": [0.5, 0.75],
        "nll": [1.5, 1.25],
        "normalised_gap": [0.123457, 0.25],
        "rows": "validation",
    }


def test_numbers_are_kept_to_six_digits_and_flags_whole(tmp_path: Path):
    study = make_study(tmp_path / "s", SHORT.replace("= 0.2", "= 0.2\nlearning_rate = 0.123456789"))
    cell = study.cells()[0]
    report = example()["parts"]["clean"]
    report["result"]["nll"], report["result"]["brier"] = 0.123456789, float("nan")
    found = results.of_run(study, cell, run_of(tmp_path / "run", clean=report))
    assert found["metrics"]["nll"] == 0.123457 and found["metrics"]["brier"] is None
    results.write(study, cell, found)
    again = results.read(study, cell)
    assert again is not None and again["flags"]["learning_rate"] == 0.123456789


def test_a_study_without_flags_of_evaluation_reads_what_it_keeps(tmp_path: Path):
    study = make_study(tmp_path / "study", SHORT.replace('[evaluate]\nparts = "clean"', ""))
    cell = study.cells()[0]
    found = kept(study, cell, tmp_path)
    path = results.write(study, cell, found)
    assert results.read(study, cell) == found
    del found["evaluate"]
    path.write_text(json.dumps(found))  # as it was kept once
    assert results.read(study, cell) == {**found, "evaluate": {}}


def test_the_plane_is_kept_of_the_first_seed_alone(study: Study, tmp_path: Path):
    first, second = (kept(study, cell, tmp_path, name=f"run{cell.seed}") for cell in study.cells())
    assert "projection" in first and "projection" not in second


@pytest.mark.parametrize("status", ["failed", None])
def test_a_part_that_was_asked_for_must_be_measured(
    study: Study, cell: Cell, tmp_path: Path, status: str | None
):
    workdir = run_of(tmp_path / "run")
    report = json.loads((workdir / "report.json").read_text())
    report["parts"]["clean"] = {"status": "failed", "reason": "no rows", "seconds": 1.0}
    if status is None:
        del report["parts"]["clean"]
    (workdir / "report.json").write_text(json.dumps(report))
    said = "erm@10-0: clean failed: no rows" if status else "erm@10-0: clean not measured"
    with pytest.raises(StudyError, match=said):
        results.of_run(study, cell, workdir)


def test_a_part_that_nobody_asked_for_may_fail_and_one_that_does_not_apply_may_be_left_out(
    study: Study, cell: Cell, tmp_path: Path
):
    failed = {"status": "failed", "reason": "x", "seconds": 1.0}
    skipped = {"status": "skipped", "reason": "x", "seconds": 1.0}
    assert results.of_run(study, cell, run_of(tmp_path / "a", attacks=failed))
    assert results.of_run(study, cell, run_of(tmp_path / "b", clean=skipped))


# --- Measured once -------------------------------------------------------------------------------


def test_a_result_is_never_written_over(study: Study, cell: Cell, tmp_path: Path):
    found = kept(study, cell, tmp_path)
    path = results.write(study, cell, found)
    before = path.read_bytes()
    other = copy.deepcopy(found)
    other["metrics"]["accuracy"] = 0.999
    with pytest.raises(StudyError, match=r"erm@10-0.json is there already: .*measured once"):
        results.write(study, cell, other)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_nor_is_it_where_there_are_no_links(
    study: Study, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_links(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(results.os, "link", no_links)
    found = kept(study, cell, tmp_path)
    path = results.write(study, cell, found)
    assert results.read(study, cell) == found
    with pytest.raises(StudyError, match="measured once"):
        results.write(study, cell, {**found, "seed": 9})
    assert results.read(study, cell) == found
    assert [one.name for one in path.parent.iterdir()] == [path.name]


# --- What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "is damaged: .*measured anew"),
        (lambda text: "", "is damaged"),
        (lambda text: "[]", "is damaged: it is no JSON object"),
        (lambda text: "[" * 100_000, "is damaged: it is nested too deeply"),
        (lambda text: "\0", "is damaged: it holds NUL bytes"),
        (lambda text: '"' + "x" * 2**24 + '"', "is damaged: it has more than 16,777,216 bytes"),
    ],
)
def test_a_damaged_file_is_named(
    study: Study, cell: Cell, tmp_path: Path, damage: Callable[[str], str], said: str
):
    path = results.write(study, cell, kept(study, cell, tmp_path))
    path.write_text(damage(path.read_text()))
    with pytest.raises(StudyError, match=f"erm@10-0.json {said}"):
        results.read(study, cell)
    with pytest.raises(StudyError, match=f"erm@10-0.json {said}"):
        results.read_all(study)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "has the schema 2; this version reads 1"),
        ({"cell": "sem@10-0"}, "is of the run sem@10-0: it must have the name of its run"),
        ({"metrics": []}, r"is damaged: metrics is \[\]"),
        ({"flags": None}, "is damaged: flags is None"),
        ({"environment": "x\x1b[2J"}, r"is damaged: environment is x.\[2J"),
        ({"metrics": {"nll": "x"}}, "is damaged: nll is x, no number"),
        ({"metrics": {"nll": float("inf")}}, "is damaged: nll is inf, no number"),
        ({"metrics": {"nll": True}}, "is damaged: nll is True, no number"),
        ({"evaluate": {}}, "is of --parts=all, the study has clean: a result is measured once"),
        ({"evaluate": {"parts": "clean", "limit": 5}}, "is of --limit=5, the study has 0"),
        ({"evaluate": {"parts": "clean", "odd": 5}}, "is of --odd=5, the study has None"),
    ],
)
def test_what_does_not_fit_is_refused(
    study: Study, cell: Cell, tmp_path: Path, change: dict[str, Any], said: str
):
    path = results.write(study, cell, kept(study, cell, tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StudyError, match=f"erm@10-0.json {said}"):
        results.read(study, cell)


def test_a_file_of_another_run_does_not_pass_under_a_new_name(study: Study, tmp_path: Path):
    first, second = study.cells()
    path = results.write(study, first, kept(study, first, tmp_path))
    path.rename(results.path_of(study, second))
    with pytest.raises(StudyError, match="is of the run erm@10-0"):
        results.read(study, second)


def test_a_result_of_other_flags_than_the_study_has_now_is_refused(
    study: Study, cell: Cell, tmp_path: Path
):
    results.write(study, cell, kept(study, cell, tmp_path))
    changed = make_study(study.folder, SHORT.replace("batch_size = 32", "batch_size = 16"))
    with pytest.raises(
        StudyError,
        match=r"is of --batch_size=32, the study has 16: a result is measured once; name the method"
        " anew, or remove the file",
    ):
        results.read(changed, changed.cells()[0])
    changed = make_study(study.folder, SHORT.replace("= 32", "= 32\nlearning_rate = 0.3"))
    with pytest.raises(StudyError, match=r"is of --learning_rate=0.1, the study has 0.3"):
        results.read_all(changed)


def test_flags_that_change_no_result_may_change(study: Study, cell: Cell, tmp_path: Path):
    found = kept(study, cell, tmp_path)
    results.write(study, cell, found)
    text = SHORT.replace("batch_size = 32", "batch_size = 32\neval_batch_size = 8")
    text = text.replace('parts = "clean"', 'parts = "clean"\nbatch_size = 100\nlimit = 0')
    changed = make_study(study.folder, text)
    assert results.read(changed, changed.cells()[0]) == found


def test_results_come_in_the_order_of_the_study(tmp_path: Path):
    study = make_study(tmp_path / "study")
    cells = study.cells()
    assert results.read_all(study) == {}
    for cell in reversed(cells[1:]):
        results.write(study, cell, kept(study, cell, tmp_path, name=cell.name))
    assert list(results.read_all(study)) == [cell.name for cell in cells[1:]]


def test_what_says_where_a_run_was_made_is_not_kept(cell: Cell):
    config = dataclasses.replace(cell.config, workdir="a", data_dir="b", data_cache="none")
    assert results._told(config) == results._told(cell.config)
