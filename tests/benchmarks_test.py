"""The benchmarks run and report what they say; no time is judged."""

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
