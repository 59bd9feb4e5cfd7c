"""Errors recorded by one run weight the rows of another."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from absl import flags

from experiments import config as config_lib
from experiments import train, uncertainty
from experiments.datasets import data as data_lib
from experiments.datasets import loading
from experiments.datasets.data import DataError

WRONG = np.array([[True, False, True], [True, False, False]])


@pytest.fixture
def run_dir(tmp_path):
    for step, wrong in zip((9, 100), WRONG, strict=True):
        uncertainty.record(tmp_path, step, wrong)
    return tmp_path


def test_weights_rise_with_the_share_of_recordings_that_were_wrong(run_dir):
    weights = uncertainty.sample_weights(run_dir, 3, eta=10.0)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [11, 1, 6])


def test_recordings_before_the_first_step_are_left_out(run_dir):
    weights = uncertainty.sample_weights(run_dir, 3, eta=10.0, first_step=10)
    np.testing.assert_allclose(weights, [11, 1, 1])


def test_a_step_recorded_again_replaces_what_was_there(run_dir):
    uncertainty.record(run_dir, 9, ~WRONG[0])
    np.testing.assert_allclose(uncertainty.sample_weights(run_dir, 3, eta=10.0), [6, 6, 1])


def test_faults_name_the_file_or_the_run(run_dir, tmp_path):
    with pytest.raises(DataError, match="no recorded errors from step 101 on"):
        uncertainty.sample_weights(run_dir, 3, eta=1.0, first_step=101)
    with pytest.raises(DataError, match="has 4 rows"):
        uncertainty.sample_weights(run_dir, 4, eta=1.0)
    (run_dir / "errors" / "100.npy").write_bytes(b"not an array")
    with pytest.raises(DataError, match=r"100\.npy is damaged"):
        uncertainty.sample_weights(run_dir, 3, eta=1.0)


def _header(shape, dtype):
    buffer = io.BytesIO()
    described = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"PK\x03\x04", "is damaged"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "is damaged"),
        (_header((2**50,), "|b1"), "is damaged"),
        (_header((3,), "|O") + b"\x80\x04N.", "is damaged"),
        (_header((3,), "|b1") + b"\x00\x01", "is damaged"),
        (_header((3,), "|b1") + b"\x00\x01\x37", "neither true nor false"),
        (_header((3,), "|i1") + b"\x00\x01\x01", "recorded int8"),
    ],
    ids=["empty", "zip", "header", "huge", "objects", "short", "bytes", "integers"],
)
def test_a_damaged_file_is_named_whatever_it_says_of_itself(run_dir, content, message):
    (run_dir / "errors" / "100.npy").write_bytes(content)
    with pytest.raises(DataError, match=rf"100\.npy.*{message}"):
        uncertainty.sample_weights(run_dir, 3, eta=1.0)


def test_files_that_no_run_wrote_are_passed_over(run_dir):
    for name in ("9b.npy", "0100.npy", "1\N{SUPERSCRIPT TWO}.npy", "-1.npy", "9" * 30 + ".npy"):
        (run_dir / "errors" / name).write_bytes(b"not an array")
    assert len(uncertainty.sample_weights(run_dir, 3, eta=1.0)) == 3


def test_batches_carry_the_weights_of_their_rows():
    label = np.arange(5, dtype=np.int32)
    split = data_lib.Split(np.zeros((5, 1, 1, 1), np.uint8), label, label.astype(np.float32))
    batch = data_lib.batch_at(split, 1, batch_size=2, seed=0)
    np.testing.assert_array_equal(batch["sample_weight"], batch["label"])
    with pytest.raises(ValueError, match="sample_weight must be float32"):
        dataclasses.replace(split, sample_weight=label)


def test_one_run_records_and_the_next_is_weighted(tmp_path):
    """As a person does it: plain training that records, then UMIX from it."""
    plain = ("--policy=none", "--sem_weight=0", "--record_errors")
    weighted = ("--sem_weight=0", f"--umix_from={tmp_path / 'plain'}", "--umix_first_step=3")

    def run(name, *args):
        values = flags.FlagValues()
        config_lib.define_flags(values)
        common = ("--model=mlp", "--steps=4", "--batch_size=64", "--eval_every=2", "--log_every=1")
        config = config_lib.parse(["train", f"--workdir={tmp_path / name}", *common, *args], values)
        assert config.without_effect() == []
        return train.run(config)

    run("plain", *plain)
    found = sorted(path.name for path in (tmp_path / "plain" / "errors").iterdir())
    assert found == ["2.npy", "4.npy"]
    rows = len(loading.load("digits").train)
    assert np.load(tmp_path / "plain" / "errors" / "4.npy", allow_pickle=False).shape == (rows,)
    heavy, light = run("heavy", *weighted), run("light", *weighted, "--umix_eta=0")
    assert heavy["test_nll"] != light["test_nll"]
    assert jax.tree.all(jax.tree.map(np.isfinite, heavy["test_nll"]))
