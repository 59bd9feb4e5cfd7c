"""What a stopped run owes: kept to the bit, for the step it was owed at alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.command_line.flagfiles import ConfigError
from experiments.training import owed
from experiments.training.owed import Owed

REPORTED = (
    ({"loss": np.float32(0.1), "skipped": np.int32(1), "gap": np.float32(np.nan)}, {"gap"}),
    ({"loss": np.float32(1e-38), "skipped": np.int32(0), "gap": np.float32(np.inf)}, set()),
)


def test_reports_come_back_as_they_were(tmp_path: Path):
    owed.write(tmp_path, 7, REPORTED, evaluation=True)
    found = owed.read(tmp_path, 7)
    assert found.evaluation
    for (logs, hidden), (again, hidden_again) in zip(REPORTED, found.reported, strict=True):
        assert hidden == hidden_again and list(logs) == list(again)
        for name in logs:
            assert again[name].dtype == logs[name].dtype
            np.testing.assert_array_equal(again[name], logs[name])


def test_nothing_is_owed_at_another_step_or_before_anything_was_or_after_it_is_settled(
    tmp_path: Path,
):
    assert owed.read(tmp_path, 7) == Owed()
    owed.settle(tmp_path)
    owed.write(tmp_path, 7, REPORTED, evaluation=True)
    assert owed.read(tmp_path, 8) == Owed()
    owed.settle(tmp_path)
    assert owed.read(tmp_path, 7) == Owed()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b"[]",
        b'{"step": 7}',
        b'{"step": 7, "evaluation": false, "reported": [1]}',
        b'{"step": 7, "evaluation": false, "reported": [{"logs": {"a": "b"}, "hidden": []}]}',
        b'{"step": 7, "evaluation": false, "reported": [{"logs": {"a": true}, "hidden": []}]}',
        b'{"step": 7, "evaluation": false, "reported": [{"logs": {"a": 1e999}, "hidden": 1}]}',
        b'{"step": 7, "evaluation": false, "reported": [{"logs": {"loss": 0.5}, "hidden": []}]}',
        b'{"step": 7, "evaluation": 0, "reported": [{"logs": {"a": 99999999999}, "hidden": []}]}',
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(content: bytes, tmp_path: Path):
    (tmp_path / "owed.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"owed.json is damaged: .* Without it the run resumes"):
        owed.read(tmp_path, 7)


def test_the_file_is_plain_json(tmp_path: Path):
    owed.write(tmp_path, 7, REPORTED[:1], evaluation=False)
    found = json.loads((tmp_path / "owed.json").read_text())
    assert found["step"] == 7 and found["reported"][0]["hidden"] == ["gap"]
