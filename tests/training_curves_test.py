"""The picture of a run: what was measured is drawn at its step, and nothing else is."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from experiments import records
from experiments.reporting import training_curves


def write(workdir: Path, lines: list[tuple[int, dict]]) -> None:
    with records.MetricsLog(workdir, resume_step=None) as log:
        for step, line in lines:
            log.write(step, line)


LINES = [
    (step, {"loss": 2.0 / step, "accuracy": step / 20, "learning_rate": 0.1})
    for step in range(1, 11)
]
EVALUATED = [(10, {"test_nll": 0.4, "test_accuracy": 0.9})]


def drawn(workdir: Path, lines: list[tuple[int, dict]]) -> dict[str, dict]:
    """Titles of the panels with their lines: label, steps and values."""
    write(workdir, lines)
    panels = training_curves._panels(records.read_metrics(workdir))
    figure = training_curves._drawn(panels, "name")
    return {
        axis.get_title(loc="left"): {
            line.get_label(): np.asarray(line.get_data()).T.tolist() for line in axis.lines
        }
        for axis in figure.axes
        if axis.lines
    }


def test_the_picture_is_a_png_whose_bytes_depend_on_the_metrics_alone(tmp_path: Path):
    write(tmp_path, LINES + EVALUATED)
    path = training_curves.write(tmp_path)
    assert path == tmp_path / "curves.png"
    first = path.read_bytes()
    pixels = image.imread(path)
    assert pixels.shape[1] > 800 and pixels[:, :, :3].min() < 0.5
    assert (pixels[0, 0] == 1).all()  # white, not see-through: viewers may be dark
    training_curves.write(tmp_path)
    assert path.read_bytes() == first
    write(tmp_path, LINES)
    training_curves.write(tmp_path)
    assert path.read_bytes() != first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_every_metric_is_drawn_at_its_steps_in_its_panel(tmp_path: Path):
    gap = [(10, {"gap": 0.5, "clean_accuracy": 0.25})]
    panels = drawn(tmp_path, LINES + EVALUATED + gap)
    assert list(panels) == ["loss", "accuracy", "gap between representations", "learning rate"]
    assert panels["loss"]["training, all terms"] == [[s, 2.0 / s] for s in range(1, 11)]
    assert panels["loss"]["test, cross-entropy"] == [[10, 0.4]]
    assert panels["accuracy"] == {
        "training rows as trained on": [[s, s / 20] for s in range(1, 11)],
        "training rows before mixing": [[10, 0.25]],
        "test": [[10, 0.9]],
    }
    assert panels["gap between representations"] == {"gap": [[10, 0.5]]}


def test_what_was_not_measured_has_no_line_and_no_panel(tmp_path: Path):
    panels = drawn(tmp_path, [(1, {"loss": 1.0}), (1, {"validation_accuracy": 0.5})])
    assert panels == {
        "loss": {"training, all terms": [[1, 1.0]]},
        "accuracy": {"validation": [[1, 0.5]]},
    }


def test_a_value_that_is_not_finite_breaks_the_line(tmp_path: Path):
    values = [1.0, float("nan"), float("inf"), 0.5]
    panels = drawn(tmp_path, [(s, {"loss": v, "gap": float("nan")}) for s, v in enumerate(values)])
    assert list(panels) == ["loss"]
    found = np.asarray(panels["loss"]["training, all terms"])
    np.testing.assert_array_equal(found[:, 1], [1.0, np.nan, np.nan, 0.5])


@pytest.mark.parametrize("lines", [[], [(1, {"epoch": 1.0})], [(1, {"loss": float("nan")})]])
def test_a_run_without_a_figure_has_no_picture(tmp_path: Path, lines: list):
    write(tmp_path, lines)
    assert training_curves.write(tmp_path) is None
    assert not (tmp_path / "curves.png").exists()


def test_damaged_metrics_are_an_error(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text("no record\n{}\n")
    with pytest.raises(ValueError, match=r"line 1 of .*metrics\.jsonl is not a record"):
        training_curves.write(tmp_path)
