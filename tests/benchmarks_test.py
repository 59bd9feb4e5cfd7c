"""The benchmarks run and report what they say; no time is judged."""

import importlib.util

import pytest

from benchmarks import corruptions as corruption_bench
from benchmarks import policies as bench


def test_policies_are_measured_and_reported():
    names = ("cutmix", "saliencymix")
    result = bench.measure("cnn", batch_size=8, size=8, rounds=1, names=names)
    assert tuple(result["policies"]) == names
    for row in result["policies"].values():
        least, median, greatest = row["step"]
        assert 0 < least <= median <= greatest
        assert row["mixing"][0] > 1
    assert [row["looks_at_model"] for row in result["policies"].values()] == [False, True]
    assert bench.table(result).count("\n") == len(names) + 1


def test_corruptions_are_measured_beside_their_peer_and_reported():
    names = ("contrast", "pixelate")
    images = corruption_bench.load_images(5, "")
    result = corruption_bench.measure(images, names=names, chunk=3, peer_images=2)
    assert tuple(result["corruptions"]) == names
    for row in result["corruptions"].values():
        assert min(row.values()) > 0
        assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])
    assert result["settings"]["peer_images"] == 2
    assert result["skipped"] == []
    rows = corruption_bench.table(result).splitlines()
    assert len(rows) == len(names) + 4
    assert rows[-1].startswith("All together")


def test_a_peer_that_is_not_installed_is_said_to_be_skipped(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    images = corruption_bench.load_images(2, "")
    result = corruption_bench.measure(images, names=("contrast",))
    assert result["overall"] is None
    assert result["corruptions"]["contrast"]["ratio"] is None
    assert corruption_bench.table(result).endswith(
        "Skipped: imagecorruptions: it is not installed."
    )
