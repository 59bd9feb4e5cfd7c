"""The figures of an accelerator come out on any device."""

import re

import pytest

from benchmarks import accelerator
from benchmarks.work import Work
from semjax import cpu


def test_each_ratio_and_each_rate_is_printed(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    # It warns where devices have been looked for already, as they have in tests.
    monkeypatch.setattr(cpu, "set_flags", lambda: None)
    seconds = {"policy=none": 0.25, "sem_weight=1": 1.0, "stop_gradient=clean": 0.75}

    def step(options):
        own = [seconds[option] for option in options if option in seconds]
        return Work(lambda count: own[-1] if own else 0.5)

    monkeypatch.setattr(accelerator.jax_steps, "step", step)
    small = ("--models=mlp", "--batch_size=8", "--image_size=8", "--compute_dtype=float32")
    assert accelerator.main([*small, "--rounds=2", "--count=1"]) == 0
    out = capsys.readouterr().out
    rows = re.findall(r"^\| (.*?) \| ([\d,]+) \|", out, re.MULTILINE)
    assert [name for name, _ in rows] == [
        "mlp, mixup",
        "mlp, sem",
        "mlp, sem, clean side without gradient",
        "random resized crop",
        "crop and RandAugment",
    ]
    assert [rate for _, rate in rows[:3]] == ["16", "8", "11"]
    assert re.findall(r"to (\w+) \| ([\d.]+) \|", out) == [
        ("plain", "2.000"),
        ("mixup", "2.000"),
        ("mixup", "1.500"),
    ]
