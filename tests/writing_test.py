"""What a step is ranked by; what is kept and written is tested in checkpoint_test."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments.checkpointing import errors, writing


@pytest.mark.parametrize("metrics", [None, {}, {"loss": 1.0}])
def test_what_was_not_measured_does_not_rank(metrics: dict | None):
    assert writing.ranked(metrics, "accuracy") is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_does_not_rank(value: float):
    assert writing.ranked({"accuracy": value, "loss": 1.0}, "accuracy") is None


def test_finite_metrics_are_plain_numbers():
    found = writing.ranked({"accuracy": jnp.float32(0.5), "loss": float("nan")}, "accuracy")
    assert found == {"accuracy": 0.5}
    assert type(found["accuracy"]) is float


def test_a_directory_that_cannot_be_opened_is_named(tmp_path: Path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(errors.CheckpointError, match=r"cannot open .*run/checkpoints: NotADir"):
        writing.open_manager(tmp_path / "run" / "checkpoints", keep=2, metric="accuracy")
