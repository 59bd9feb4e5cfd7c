"""The benchmarks run and report what they say; no time is judged."""

import importlib.util
import tempfile

import numpy as np
import pytest

from benchmarks import corruptions as corruption_bench
from benchmarks import policies as bench
from benchmarks import streaming as streaming_bench


@pytest.mark.long
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


def test_a_large_data_set_is_made_of_links_and_its_stream_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming_bench, "_PICTURES", 8)
    monkeypatch.setattr(streaming_bench, "_TEST", 2)
    monkeypatch.setattr(streaming_bench, "_IN_MEMORY", 8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for gib in (2e-3, 4e-3):  # the second time as large as asked for, of the same file
        size = streaming_bench.make(tmp_path, gib)
        assert size / 2**30 == pytest.approx(gib, rel=0.2)
    found = streaming_bench.measure(
        tmp_path, minutes=0.005, batch_size=4, image_size=16, workers=0, turn_seconds=0.01
    )
    assert found["rows"] % 8 == 0 and found["rows"] > 16
    assert found["images_per_second"] > 0 and np.shape(found["turns"]) == (5, 2)
    assert 0 <= found["memory_deviation"] < 1
    assert streaming_bench.table({**found, "gib": size / 2**30}).startswith("| | |")
