"""What a study.toml may hold, whoever wrote it."""

from pathlib import Path

import pytest

from experiments.studying import study_file


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text, "utf-8")
    return path


def test_tables_are_read_as_they_stand(tmp_path: Path):
    path = written(tmp_path, 'seeds = [0, 1]\n[methods."sem, l1"]\nsem_weight = 0.5\n')
    found = study_file.read(path)
    assert found == {"seeds": [0, 1], "methods": {"sem, l1": {"sem_weight": 0.5}}}
    study_file.check_values(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 1\n" * 2, "Cannot overwrite"),
        (f"a = '{'x' * 5000}'\n", "a line of more than 4,096 characters"),
        (f"a = {'[' * 3000}1{']' * 3000}\n", "a line of more"),
        ("# remark\n" * 10_000, "65,536|65536"),
    ],
    ids=["twice", "long line", "deep", "large"],
)
def test_a_file_that_cannot_be_one_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        study_file.read(written(tmp_path, text))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"a": {"b": float("inf")}}, "a.b must be a text, a finite number, true or false"),
        ({"a": [1, 2**70]}, "a.1 is too large: a number of 71 bits"),
        ({"a": "two\nlines"}, "a must be one line without control characters"),
        ({"two\nlines": 1}, "the name .* must be one line without control characters"),
        ({"a": {"b": {"c": {"d": {}}}}}, "a.b.c.d is nested too deeply"),
    ],
)
def test_values_that_no_study_can_hold_are_named_by_their_place(found: dict, message: str):
    with pytest.raises(ValueError, match=message):
        study_file.check_values(found)
