"""A pod's step: with partners on the same device only sums are exchanged, and each is known."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import pod
from benchmarks.pod import Collective

ROOT = Path(__file__).resolve().parents[1]
DEVICES, ROWS, SIZE, CLASSES = 16, 2, 8, 10
CNN = ["--model=cnn", "--policy=mixup", "--convolutions=xla"]

# As XLA prints them, shortened; the last is in a loop's body.
HLO = """
%body (p: f32[4]) -> f32[4] {
  ROOT %r = f32[4]{0} all-reduce(%p), metadata={op_name="jit(step)/while/body/reduce_sum"}
}
ENTRY %main {
  %a = (f32[64]{0}, f32[3,3,8,8]{3,2,1,0}) all-reduce(%x, %y), metadata={op_name="jit(step)/\
(transpose(jvp(CNN))/norm1/reduce_sum:transpose(jvp(CNN))/conv1/conv_general_dilated)" id=1}
  %b = f32[1,32,8,8,3]{4,3,2,0,1} all-gather(%x), metadata={op_name="jit(step)/jvp(take)/gather"}
  %c = bf16[2,3] collective-permute(%x), metadata={op_name="jit(step)/jvp(vmap(a:b))/gather"}
  ROOT %d = f32[] add(%e, %f), metadata={op_name="jit(step)/add"}
}
"""


def test_every_array_of_a_collective_is_read_with_what_it_belongs_to():
    before = "jit(step)/transpose(jvp(CNN))"
    assert pod.collectives(HLO) == [
        Collective("all-reduce", "f32", (4,), "jit(step)/while/body/reduce_sum", looped=True),
        Collective("all-reduce", "f32", (64,), f"{before}/norm1/reduce_sum"),
        Collective("all-reduce", "f32", (3, 3, 8, 8), f"{before}/conv1/conv_general_dilated"),
        Collective("all-gather", "f32", (1, 32, 8, 8, 3), "jit(step)/jvp(take)/gather"),
        Collective("collective-permute", "bf16", (2, 3), "jit(step)/jvp(vmap(a:b))/gather"),
    ]


def test_what_a_collective_is_for():
    found = [
        pod.purpose(one, image_shape=(8, 8, 3), batch_norms=["norm1"])
        for one in pod.collectives(HLO)
    ]
    assert found == [pod.OTHER, pod.BATCH_NORM, pod.GRADIENTS, pod.IMAGES, pod.ROWS]
    # What is large and belongs to no layer is not taken for a metric.
    for size, purpose in ((96, pod.METRICS), (10**6, pod.OTHER)):
        one = Collective("all-reduce", "f32", (size,), "jit(step)/jvp()/reduce_sum")
        assert pod.purpose(one, image_shape=(8, 8, 3), batch_norms=[]) == purpose


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 60.0),
        ("all-gather", 30.0),
        ("all-to-all", 30.0),
        ("reduce-scatter", 120.0),
        ("collective-permute", 40.0),
    ],
)
def test_the_bytes_that_a_device_of_a_ring_sends(kind: str, sent: float):
    # Of four devices, with a result of 40 bytes.
    assert Collective(kind, "f32", (2, 5), "").sent(4) == sent


@pytest.fixture(scope="module")
def found() -> dict:
    """What the program finds for more devices than this process has."""
    options = [
        *("--model=cnn", f"--devices={DEVICES}", f"--image_size={SIZE}", f"--classes={CLASSES}"),
        *(f"--rows_per_device={ROWS}", "--pairings=whole,within", "--json"),
        *("--", "--policy=mixup"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.pod", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {name: sizes[str(ROWS)] for name, sizes in json.loads(done.stdout).items()}


def sizes() -> tuple[int, int, int]:
    """Numbers of the CNN: of its head, of its BatchNorm channels, of its other parameters."""
    program, _ = pod.lowered([*CNN, "--batch_size=8"], image_size=SIZE, classes=CLASSES)
    params = program.state_shape.params
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()
    }
    scales = sum(count[name] for name in pod.batch_norms(program))
    return count["head"], scales // 2, sum(count.values()) - count["head"] - scales


def test_within_devices_only_gradients_batch_norm_and_metrics_are_added_up(found: dict):
    sent = found["permutation within the rows of a device"]
    assert sent[pod.IMAGES] == sent[pod.ROWS] == sent[pod.OTHER] == 0
    head, channels, rest = sizes()
    ring = 4 * 2 * (DEVICES - 1) / DEVICES
    # Both passes have a gradient of their own.
    assert sent[pod.GRADIENTS] == ring * 2 * (rest + head)
    # Mean and mean of squares, forward; two sums a channel, backward; in each of two passes.
    assert sent[pod.BATCH_NORM] == ring * 2 * (2 + 2) * channels
    # The mean representation for the normalised gap, its mean square, and a few scalars.
    features = 96
    assert 0 < sent[pod.METRICS] <= ring * (2 * features + 16)


def test_over_the_whole_batch_every_device_gets_every_image(found: dict):
    sent = found["permutation of the whole batch"]
    others = DEVICES * ROWS - ROWS
    assert sent[pod.IMAGES] == others * SIZE * SIZE * 3 * 4
    # Labels as class ids and as rows of K, representations, and these once more backward.
    assert sent[pod.ROWS] >= others * 4 * (1 + CLASSES + 96)
    assert sent[pod.OTHER] == 0
    within = found["permutation within the rows of a device"]
    assert all(sent[name] == within[name] for name in (pod.GRADIENTS, pod.BATCH_NORM, pod.METRICS))


def test_the_step_can_be_made_for_other_platforms_from_here():
    _, traced = pod.lowered([*CNN, "--batch_size=8"], image_size=SIZE, classes=CLASSES)
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    "args",
    [
        ["--rows_per_device=two"],
        ["--model=lenet"],
        ["--pairings=near"],
        ["--rows_per_device=2", "--", "--policy=none"],
    ],
)
def test_a_wrong_command_is_refused(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert pod.main(["--devices=8", *args]) == 2
    assert capsys.readouterr().err.startswith("error: ")
