"""The benchmarks run and report what they say; no time is judged."""

from benchmarks import policies as bench
from experiments import policies


def test_every_policy_is_measured_and_reported():
    result = bench.measure("cnn", batch_size=8, size=8, rounds=1)
    assert list(result["policies"]) == list(policies.POLICIES)
    for row in result["policies"].values():
        least, median, greatest = row["step"]
        assert 0 < least <= median <= greatest
        assert row["mixing"][0] > 1
    assert bench.table(result).count("\n") == len(policies.POLICIES) + 1
