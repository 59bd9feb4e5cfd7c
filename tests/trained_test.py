"""A run read back: the same figures as the run reported, from any state its directory can be in."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import program, sharding, train, trained
from experiments.checkpoint import Checkpoints
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.datasets import loading

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


@pytest.mark.long
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


GOOD = {"num_classes": 10, "image_shape": [8, 8, 1], "mean": [0.25], "std": [1]}


def _read(tmp_path: Path, content: str | bytes) -> trained.Inputs:
    path = tmp_path / "inputs.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return trained.Inputs.read(path)


def test_inputs_come_back_as_they_were_written(tmp_path: Path):
    inputs = trained.Inputs(3, (4, 5, 2), (0.1, 0.2), (1.0, 1e-6))
    assert _read(tmp_path, inputs.to_json()) == inputs
    found = _read(tmp_path, json.dumps(GOOD))
    assert found == trained.Inputs(10, (8, 8, 1), (0.25,), (1.0,))
    assert type(found.std[0]) is float


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "3", "[" * 100_000, b"\xff", json.dumps(GOOD)[:-1], "\0"]
)
def test_damaged_inputs_are_named(tmp_path: Path, content: str | bytes):
    with pytest.raises(ConfigError, match=r"inputs\.json is damaged: [^\n]+$"):
        _read(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_classes", 0, r"num_classes is \[0\], not of numbers from 1 to 1.04858e\+06"),
        ("num_classes", 2**20 + 1, "num_classes is"),
        ("num_classes", 10.0, "num_classes is"),
        ("num_classes", True, "num_classes is"),
        ("num_classes", "x", "num_classes is"),
        ("image_shape", [8, 8], r"image_shape is \[8, 8\], not \[H, W, C\]"),
        ("image_shape", [8, 0, 1], "image_shape is"),
        ("image_shape", [8, 2**40, 1], "image_shape is"),
        ("image_shape", [8, 8, 3], "images have 3 channels, mean 1 and std 1"),
        ("image_shape", "881", "image_shape is"),
        ("mean", [float("nan")], "mean is"),
        ("mean", [float("inf")], "mean is"),
        ("mean", [0.5, 0.5], "images have 1 channels, mean 2 and std 1"),
        ("mean", None, "mean is"),
        ("std", [0.0], "std is"),
        ("std", [-1.0], "std is"),
        ("std", [float("nan")], "std is"),
        ("std", [10**400], "std is"),
    ],
)
def test_numbers_no_run_has_are_refused(tmp_path: Path, name: str, value: object, message: str):
    with pytest.raises(ConfigError, match=rf"inputs\.json is damaged: {message}"):
        _read(tmp_path, json.dumps({**GOOD, name: value}))


def test_a_damaged_step_is_passed_over_and_named(
    finished: tuple[Path, dict], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    damaged = Path(shutil.copytree(finished[0], tmp_path / "damaged-run"))
    shutil.rmtree(damaged / "checkpoints" / "12" / "state")
    before = sorted(damaged.rglob("*"))
    assert trained.load(damaged).step == 8
    assert capfd.readouterr().err == (
        "warning: step 12 is passed over, step 8 is read instead: "
        "FileNotFoundError: its directory state is missing\n"
    )
    assert sorted(damaged.rglob("*")) == before
    for path in (damaged / "checkpoints").iterdir():
        shutil.rmtree(path)
        path.mkdir()
    with pytest.raises(ConfigError, match=r"none of the checkpoints in .*can be restored"):
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
    (tmp_path / "checkpoints").mkdir()
    for weights, kind in {"final": "checkpoint", "best": "checkpoint chosen on validation"}.items():
        with pytest.raises(ConfigError, match=f"there is no {kind}$"):
            trained.load(tmp_path, weights=weights)


def test_without_a_validation_split_there_is_no_best(tmp_path: Path):
    data = loading.load("digits")
    config = Config(workdir=str(tmp_path), model="mlp", batch_size=32, steps=1)
    (tmp_path / "config.flags").write_text(config.to_flags())
    (tmp_path / "inputs.json").write_text(trained.Inputs.of(data).to_json())
    template = program.state_template(
        config, data.image_shape, data.num_classes, sharding.make_mesh()
    )
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), template)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
    assert trained.load(tmp_path).weights == "final"
    with pytest.raises(ConfigError, match="there is no checkpoint chosen on validation"):
        trained.load(tmp_path, weights="best")
