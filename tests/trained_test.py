"""A run read back: the same figures as the run reported, from any state its directory can be in."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import loading, train, trained
from experiments.config import Config
from experiments.flagfiles import ConfigError

TINY = {"model": "cnn", "batch_size": 32, "steps": 12, "eval_every": 4, "eval_batch_size": 80}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run with a moving average and a validation split."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    config = Config(workdir=str(workdir), ema_decay=0.5, validation_fraction=0.2, **TINY)
    return workdir, train.run(config)


def _accuracy(run: trained.Trained) -> float:
    test = loading.load("digits").test
    return float((run.predict(test.image, batch_size=100).argmax(1) == test.label).mean())


def test_the_figures_are_those_the_run_reported(finished: tuple[Path, dict]):
    workdir, summary = finished
    run = trained.load(workdir)
    assert (run.step, run.weights) == (12, "ema")
    assert _accuracy(run) == pytest.approx(summary["test_accuracy"], abs=1e-6)
    best = trained.load(workdir, weights="best")
    assert (best.step, best.weights) == (summary["best_step"], "best")
    assert _accuracy(best) == pytest.approx(summary["best_test_accuracy"], abs=1e-6)


def test_predictions_are_probabilities_of_bytes_or_of_their_fractions(
    finished: tuple[Path, dict],
):
    run = trained.load(finished[0])
    images = loading.load("digits").test.image[:5]
    found = run.predict(images, batch_size=4)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    fractions = images.astype(np.float32) / 255
    np.testing.assert_allclose(run.predict(fractions, batch_size=5), found, atol=1e-5)
    assert run.predict(images[:0]).shape == (0, 10)
    with pytest.raises(
        ValueError, match=r"images must be \[N, 8, 8, 1\]; found shape \(5, 4, 4, 1"
    ):
        run.predict(images[:, :4, :4])


def test_the_hook_is_handed_the_hidden_layers(finished: tuple[Path, dict]):
    run = trained.load(finished[0])
    seen = []
    images = jnp.zeros((1, 8, 8, 1))
    outputs = run.apply_fn(run.params, images, hidden=lambda layer, x: seen.append(layer) or x)
    assert seen == [1, 2, 3]
    np.testing.assert_allclose(
        outputs.feature_map.mean((1, 2)), outputs.representation, rtol=1e-4, atol=1e-5
    )


def test_a_directory_without_inputs_reads_the_data(finished: tuple[Path, dict], tmp_path: Path):
    older = tmp_path / "older"
    shutil.copytree(finished[0], older)
    (older / "inputs.json").unlink()
    assert trained.load(older).inputs == trained.load(finished[0]).inputs
    assert trained.load(older, data=loading.load("digits")).inputs.num_classes == 10


def test_reading_changes_nothing(finished: tuple[Path, dict]):
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in finished[0].rglob("*") if path.is_file()}

    before = files()
    trained.load(finished[0])
    assert files() == before


@pytest.mark.parametrize(
    "content", ["", "{}", '{"num_classes": 10}', json.dumps({"num_classes": "x"})]
)
def test_damaged_inputs_are_named(finished: tuple[Path, dict], tmp_path: Path, content: str):
    damaged = tmp_path / "damaged"
    shutil.copytree(finished[0], damaged)
    (damaged / "inputs.json").write_text(content)
    with pytest.raises(ConfigError, match=r"inputs\.json is damaged"):
        trained.load(damaged)


def test_what_is_not_there_is_named(finished: tuple[Path, dict], tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no run there: it has no config\.flags"):
        trained.load(tmp_path)
    with pytest.raises(ConfigError, match="--weights=newest: must be one of final, best"):
        trained.load(finished[0], weights="newest")
    shutil.copy(finished[0] / "config.flags", tmp_path)
    shutil.copy(finished[0] / "inputs.json", tmp_path)
    with pytest.raises(ConfigError, match="there is no directory"):
        trained.load(tmp_path)


def test_without_a_validation_split_there_is_no_best(tmp_path: Path):
    workdir = tmp_path / "run"
    train.run(Config(workdir=str(workdir), model="mlp", batch_size=32, steps=1))
    assert trained.load(workdir).weights == "final"
    with pytest.raises(ConfigError, match="there is no checkpoint chosen on validation"):
        trained.load(workdir, weights="best")
