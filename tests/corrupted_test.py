"""The corruption tables: the rows that are made, the archive that is read, what is kept."""

import functools
from pathlib import Path

import evaluation_example as example
import jax
import numpy as np
import pytest

from experiments.datasets.data import DataError
from experiments.evaluation import corrupted
from experiments.evaluation.store import Store
from semjax import corruptions

PLAN = {"corruptions": "brightness,contrast,speckle_noise", "severities": "2,5", "limit": 50}


@functools.cache
def found() -> dict:
    return corrupted.measure(example.context(**PLAN))


def _accuracy(name: str, severity: int, seed: int = 0) -> float:
    test = example.context(**PLAN).test
    images = corruptions.corrupt(jax.random.key(seed), test.image, name=name, severity=severity)
    return float((example.logits(np.asarray(images)).argmax(1) == test.label).mean())


def test_every_table_is_of_the_rows_corrupted():
    assert found()["severities"] == [2, 5]
    assert found()["benchmark"] == ["brightness", "contrast"]
    assert found()["held_out"] == ["speckle_noise"]
    for name in ("contrast", "speckle_noise"):
        expected = [_accuracy(name, severity) for severity in (2, 5)]
        assert found()["accuracy"][name] == pytest.approx(expected, abs=1e-6)
    assert set(found()["nll"]) == set(found()["ece"]) == set(found()["accuracy"])


def test_the_summary_is_that_of_the_tables():
    accuracy = {name: np.mean(values) for name, values in found()["accuracy"].items()}
    benchmark = np.mean([accuracy["brightness"], accuracy["contrast"]])
    assert found()["mce"] == pytest.approx(1 - benchmark, abs=1e-6)
    assert found()["mce_held_out"] == pytest.approx(1 - accuracy["speckle_noise"], abs=1e-6)
    hard = np.mean([found()["accuracy"][name][1] for name in ("brightness", "contrast")])
    assert found()["mce_per_severity"][1] == pytest.approx(1 - hard, abs=1e-6)
    worst = min(accuracy, key=lambda name: accuracy[name])
    assert found()["worst"]["name"] == worst
    assert found()["worst"]["error"] == pytest.approx(1 - accuracy[worst], abs=1e-6)
    assert found()["source"] == "CIFAR-C-style, made by semjax (cifar constants)"


def test_the_batch_size_changes_nothing_and_the_seed_does():
    plan = {**PLAN, "corruptions": "speckle_noise"}
    other = corrupted.measure(example.context(batch_size=24, **plan))
    assert other["nll"]["speckle_noise"] == pytest.approx(found()["nll"]["speckle_noise"], abs=1e-6)
    seeded = corrupted.measure(example.context(seed=1, **plan))
    assert seeded["nll"]["speckle_noise"] != found()["nll"]["speckle_noise"]


def test_without_benchmark_corruptions_there_is_no_mean_error():
    alone = corrupted.measure(example.context(**{**PLAN, "corruptions": "speckle_noise"}))
    assert alone["mce"] is None
    assert alone["mce_per_severity"] == []


def test_interrupted_work_goes_on_with_the_next_piece(tmp_path: Path, monkeypatch):
    plan = {**PLAN, "corruptions": "brightness,contrast"}
    figures, made = corrupted._figures, []

    def interrupted(*args):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(1)
        return figures(*args)

    monkeypatch.setattr(corrupted, "_figures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        corrupted.measure(example.context(store=Store(tmp_path, "a"), **plan))
    made.clear()
    resumed = corrupted.measure(example.context(store=Store(tmp_path, "a"), **plan))
    assert len(made) == 1
    assert resumed["accuracy"] == {
        name: found()["accuracy"][name] for name in ("brightness", "contrast")
    }


# --- The official archive ----------------------------------------------------------------------


def _archive(folder: Path, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Five severities of the test digits, darker and darker, with their own order of labels."""
    test = example.digits().test
    images = np.concatenate([test.image[:count] // (severity + 1) for severity in range(5)])
    folder.mkdir(exist_ok=True)
    np.save(folder / "fog.npy", images)
    np.save(folder / "labels.npy", np.tile(test.label[:count], 5).astype(np.uint8))
    return images, np.tile(test.label[:count], 5)


def test_an_official_archive_is_read_instead(tmp_path: Path):
    images, label = _archive(tmp_path / "CIFAR-10-C")
    plan = {"corruptions": "fog", "severities": "1,3", "official": str(tmp_path / "CIFAR-10-C")}
    read = corrupted.measure(example.context(**plan))
    right = (example.logits(images).argmax(1) == label).reshape(5, 20).mean(1)
    assert read["accuracy"]["fog"] == pytest.approx(right[[0, 2]].tolist(), abs=1e-6)
    assert read["source"] == "CIFAR-10-C, official archive"
    assert read["count"] == 20


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "fog.npy").unlink(), "cannot read fog.npy"),
        (lambda folder: (folder / "labels.npy").write_bytes(b"x"), "cannot read labels.npy"),
        (lambda folder: np.save(folder / "labels.npy", np.arange(7) % 5), "5 x N labels below 10"),
        (lambda folder: np.save(folder / "labels.npy", np.full(100, 10)), "5 x N labels below 10"),
        (lambda folder: np.save(folder / "fog.npy", np.zeros((100, 8, 8, 3), np.uint8)), "uint8"),
        (lambda folder: np.save(folder / "fog.npy", np.zeros((100, 8, 8, 1))), "uint8"),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, damage, message: str):
    _archive(tmp_path / "C")
    damage(tmp_path / "C")
    plan = {"corruptions": "fog", "severities": "1", "official": str(tmp_path / "C")}
    with pytest.raises(DataError, match=rf"--official=.*C: .*{message}"):
        corrupted.measure(example.context(**plan))
