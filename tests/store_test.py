"""Finished pieces are made once, whatever interrupts the work, and never for other weights."""

import math
from pathlib import Path

import pytest

from experiments.evaluation.store import Store


def test_a_piece_is_made_once_across_processes(tmp_path: Path):
    made = []
    for _ in range(2):
        store = Store(tmp_path, "a")
        assert store.remember("ood", "x", lambda: made.append(1) or {"value": 0.1}) == {
            "value": 0.1
        }
    assert made == [1]
    assert Store(tmp_path, "a").has("ood", "x")
    assert not Store(tmp_path, "a").has("ood", "y")
    assert not Store(tmp_path, "a").has("clean", "x")


def test_another_fingerprint_begins_anew(tmp_path: Path):
    Store(tmp_path, "a").remember("ood", "x", lambda: 1)
    assert Store(tmp_path, "b").remember("ood", "x", lambda: 2) == 2
    assert not Store(tmp_path, "a").has("ood", "x")


@pytest.mark.parametrize("torn", ['{"key": "y", "val', '{"key": "y"}', "null", '{"key'])
def test_a_torn_last_line_is_made_again_and_the_rest_kept(tmp_path: Path, torn: str):
    store = Store(tmp_path, "a")
    store.remember("ood", "x", lambda: 1)
    with open(tmp_path / "ood.jsonl", "a", encoding="utf-8") as file:
        file.write(torn)
    again = Store(tmp_path, "a")
    assert again.has("ood", "x")
    assert again.remember("ood", "y", lambda: 2) == 2
    # What was torn does not run into what is written after it.
    assert Store(tmp_path, "a").remember("ood", "y", lambda: 3) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace("0.25", "0.75"),
        lambda line: line.replace("x", "y"),
        lambda line: line.replace("crc32", "crc"),
        lambda line: "[" * 100_000,
        lambda line: "7",
        lambda line: '{"key": ["x"], "value": 1, "crc32": 1}',
    ],
    ids=["value", "key", "no_checksum", "deep", "number", "list"],
)
def test_a_line_that_is_not_as_it_was_written_is_made_again(tmp_path: Path, damage):
    store = Store(tmp_path, "a")
    store.remember("ood", "x", lambda: 0.25)
    store.remember("ood", "z", lambda: 2)
    path = tmp_path / "ood.jsonl"
    first, line, last = path.read_text().splitlines()
    path.write_text("\n".join([first, damage(line), last]) + "\n")
    again = Store(tmp_path, "a")
    assert again.has("ood", "z") and not again.has("ood", "x") and not again.has("ood", "y")
    assert again.remember("ood", "x", lambda: 0.5) == 0.5


@pytest.mark.parametrize("content", ["", "nonsense\n", "[]\n", b"\xff\xfe"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, content: str | bytes):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "ood.jsonl").write_bytes(content)
    assert Store(tmp_path, "a").remember("ood", "x", lambda: 1) == 1


def test_a_piece_that_fails_is_not_remembered(tmp_path: Path):
    store = Store(tmp_path, "a")
    with pytest.raises(ZeroDivisionError):
        store.remember("ood", "x", lambda: 1 / 0)
    assert store.remember("ood", "x", lambda: 1) == 1


def test_a_piece_is_the_same_now_and_later(tmp_path: Path):
    now = Store(tmp_path, "a").remember("ood", "x", lambda: {"t": (1, 2), "n": math.nan})
    later = Store(tmp_path, "a").remember("ood", "x", lambda: None)
    assert now["t"] == later["t"] == [1, 2]
    assert math.isnan(now["n"])
    assert math.isnan(later["n"])


def test_without_a_folder_pieces_live_as_long_as_the_store():
    store = Store(None, "a")
    assert store.remember("ood", "x", lambda: 1) == store.remember("ood", "x", lambda: 2) == 1
    assert not Store(None, "a").has("ood", "x")
