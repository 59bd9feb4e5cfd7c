"""What a person is told of a run: every figure stands beside what it is of."""

import os
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import Config
from experiments.datasets.data import Data, Split
from experiments.training import overview
from experiments.training.loop import Plan

FIGURES = {
    "test_accuracy": 0.87654,
    "test_nll": 0.5,
    "test_ece": 0.01,
    "skipped_steps": 0,
    "images_per_second": 12345.6,
    "wall_time": 61.04,
}


def before(first_step: int = 0, **options) -> dict[str, str]:
    label = np.zeros(1200, np.int32)
    split = Split(np.zeros((1200, 2, 3, 1), np.uint8), label, group=label)
    half = np.full(1, 0.5, np.float32)
    data = Data("digits", 10, split, None, split.take(label[:7]), half, half, num_groups=4)
    program = types.SimpleNamespace(
        state_shape=types.SimpleNamespace(params={"w": jnp.zeros((30, 50))})
    )
    return overview.before(
        Config(workdir="runs/x", batch_size=100, **options),
        data,
        Plan(18, 6, 6, 1),
        program,
        first_step,
    )


def test_the_start_says_what_is_trained_on_what_and_how_long():
    rows = before(seed=3, sampling="balanced")
    assert rows["run directory"] == "runs/x"
    assert rows["data"] == (
        "digits: 1,200 train, 0 validation, 7 test, 2x3x1, 10 classes, 4 groups, balanced sampling"
    )
    assert rows["model"] == "cnn, 1,500 parameters, float32"
    assert rows["method"] == "policy mixup, sem_weight 20, clean_weight 1"
    assert rows["steps"] == "18 (1.5 epochs)"
    assert rows["rows per step"] == "100 trained on, 200 forwarded"
    assert rows["seed"] == "3"
    assert not {"resumed from", "without effect"} & set(rows)


def test_the_start_says_how_many_steps_have_the_gap_and_what_is_forwarded_on_average():
    rows = before(sem_every=3)
    assert rows["method"] == "policy mixup, sem_weight 20 in 1 of 3 steps, clean_weight 0"
    assert rows["rows per step"] == "100 trained on, 133.3 forwarded on average"


def test_the_start_says_where_a_run_goes_on_and_which_flags_do_nothing():
    rows = before(first_step=1234, nesterov=False, correction=False)
    assert rows["resumed from"] == "step 1,234"
    assert rows["without effect"] == "--correction (--policy=mixup)"


def test_the_end_gives_the_figures_of_the_final_weights():
    assert overview.after(FIGURES) == {
        "test accuracy": "0.8765",
        "test NLL": "0.5000",
        "test ECE": "0.0100",
        "images/s": "12,346",
        "wall time": "61.0 s",
    }


@pytest.mark.parametrize(
    ("more", "label", "text"),
    [
        ({"skipped_steps": 2}, "skipped steps", "2 (not finite)"),
        (
            {"best_step": 1500, "best_validation_accuracy": 0.5, "best_test_accuracy": 0.25},
            "best on validation",
            "step 1,500: validation 0.5000, test 0.2500",
        ),
        (
            {"startup": {"data": 0.25, "compile": 2.0, "first_step": 0.5, "total": 2.75}},
            "to the first step",
            "2.8 s (data 0.2, compile 2.0, the step itself 0.5)",
        ),
    ],
    ids=["skipped", "best", "startup"],
)
def test_the_end_says_what_else_there_is(more: dict, label: str, text: str):
    assert overview.after({**FIGURES, **more})[label] == text


def test_a_run_that_took_no_step_has_no_time_to_its_first():
    summary = {**FIGURES, "startup": {"imports": 1.0, "data": 0.25, "total": 1.25}}
    assert overview.after(summary).keys() == overview.after(FIGURES).keys()


def test_the_end_says_where_to_look_and_how_to_measure_further(tmp_path: Path):
    workdir = tmp_path / "a run"
    workdir.mkdir()
    command = f"python -m experiments.evaluate --workdir='{workdir}'"
    assert overview.where(workdir, None) == {"robustness": command}
    assert overview.where(workdir, workdir / "curves.png") == {
        "curves": f"{workdir}/curves.png",
        "robustness": command,
    }


def test_a_report_is_named_and_one_that_is_older_than_the_weights_is_said_to_be(tmp_path: Path):
    for name, time in (("summary.json", 100), ("report.html", 200)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (time, time))
    assert overview.where(tmp_path, None) == {"report": f"{tmp_path}/report.html"}
    os.utime(tmp_path / "summary.json", (300, 300))
    assert overview.where(tmp_path, None) == {
        "report": f"{tmp_path}/report.html (of an earlier end of this run)",
        "robustness": f"python -m experiments.evaluate --workdir={tmp_path}",
    }
