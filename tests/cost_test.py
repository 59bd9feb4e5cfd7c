"""What a run would cost: the figures are those of the arrays and products that it has."""

import math
import re
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from runs import parse

from experiments import cost, program, sharding
from experiments.datasets import loading
from experiments.layers import onednn
from experiments.program import Program
from experiments.training import refusals

ERM = ("--model=mlp", "--policy=none", "--sem_weight=0", "--batch_size=16", "--steps=4")
UNITS = {"KiB": 2**10, "MiB": 2**20, "GFLOP": 1e9, "MFLOP": 1e6}


def of(*args: str, mesh: Mesh | None = None) -> tuple[dict[str, Any], Program]:
    config = parse("--workdir=runs/none", *args)
    data = loading.of_run(config)
    plan = refusals.plan(config, data, None)
    mesh = mesh or sharding.make_mesh()
    built = program.build(config, data, plan.total, mesh)
    return cost.of_run(config, data, plan, built, mesh), built


def figures(text: str) -> list[float]:
    """The numbers of a text, in bytes or operations."""
    found = re.findall(r"([\d,.]+) (KiB|MiB|GFLOP|MFLOP)", text)
    return [float(number.replace(",", "")) * UNITS[unit] for number, unit in found]


@pytest.fixture(scope="module")
def erm() -> tuple[dict[str, Any], Program]:
    return of(*ERM)


def test_parameters_and_state_are_counted(erm: tuple[dict[str, Any], Program]):
    rows, built = erm
    state = built.init()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    held = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    assert rows["parameters"] == f"{parameters:,}"
    assert cost.state_bytes(built.state_shape) == held > 8 * parameters  # with the momentum
    for name in ("state", "checkpoint"):
        np.testing.assert_allclose(figures(rows[name]), [held], rtol=1e-2)
    assert "best on validation" not in rows["checkpoint"]


def test_the_work_is_that_of_the_matrices(erm: tuple[dict[str, Any], Program]):
    rows, built = erm
    kernels = [leaf.shape for leaf in jax.tree.leaves(built.state_shape.params) if leaf.ndim == 2]
    sizes = sorted(math.prod(shape) for shape in kernels)
    first = next(math.prod(shape) for shape in kernels if shape[0] == 64)
    # Forward, the gradients of the kernels, and those of all inputs but the images.
    products = 2 * 16 * (3 * sum(sizes) - first)
    step, row = figures(rows["a step"]["work"])
    assert products <= step <= 1.25 * products  # what is not a product of matrices is small
    np.testing.assert_allclose(row, step / 16, rtol=1e-2)


def test_the_memory_of_a_step_holds_state_and_split_and_adds_up(
    erm: tuple[dict[str, Any], Program],
):
    rows, built = erm
    step = rows["a step"]
    state = cost.state_bytes(built.state_shape)
    split = 1437 * (64 + 4)  # pixels and labels, which lie on every device
    (arguments,) = figures(step["  arguments"])
    assert 0.999 * (state + split) <= arguments <= 1.05 * (state + split)
    outputs, shared = figures(step["  outputs"])
    np.testing.assert_allclose(shared, state, rtol=2e-3)  # the state given is donated
    np.testing.assert_allclose(outputs, state, rtol=2e-3)  # the logs are a few bytes
    (temporaries,), (most,) = figures(step["  temporaries"]), figures(step["memory"])
    np.testing.assert_allclose(most, arguments + temporaries, rtol=2e-2)
    assert figures(step["bytes moved"])[0] > arguments - split
    assert re.fullmatch(r"\d+\.\d s.*, after \d+\.\d s of tracing", step["time to compile"])
    assert figures(rows["a batch of an evaluation"]["memory"])[0] < most


def test_a_step_without_the_gap_is_told_apart_and_has_half_the_work(
    erm: tuple[dict[str, Any], Program],
):
    sem = ("--policy=mixup", "--sem_weight=1", "--sem_every=2", "--validation_fraction=0.2")
    rows, _ = of(*ERM, *sem)
    assert "a step" not in rows and "best on validation" in rows["checkpoint"]
    with_gap, without = (
        figures(rows[name]["work"])[0] for name in ("a step with the gap", "a step without")
    )
    np.testing.assert_allclose(without, figures(erm[0]["a step"]["work"])[0], rtol=0.1)
    assert 1.8 * without < with_gap < 2.2 * without


def test_parts_of_a_batch_are_all_counted(erm: tuple[dict[str, Any], Program]):
    rows, _ = of(*ERM, "--accumulate=2")
    assert rows["a step"]["work"] == erm[0]["a step"]["work"]
    # Memory is that of the parts.
    assert figures(rows["a step"]["memory"]) != figures(erm[0]["a step"]["memory"])


@pytest.mark.skipif(onednn.unavailable() is not None, reason="oneDNN is not installed")
def test_the_work_of_onednn_is_counted_and_what_is_not_is_said():
    args = ("--model=cnn", "--policy=none", "--sem_weight=0", "--batch_size=4", "--steps=4")
    one = Mesh(np.asarray(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    found, _ = of(*args, "--convolutions=onednn", mesh=one)
    assert f"oneDNN {onednn.version()}" in found["not counted"]
    config = parse("--workdir=runs/none", *args, "--convolutions=onednn")
    data = loading.of_run(config)
    built = program.build(config, data, 4, one)
    batch = {
        "image": jax.ShapeDtypeStruct((4, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((4,), np.int32),
    }
    # That XLA does not look into the calls is what the note is for.
    seen = built.step.lower(built.state_shape, batch, built.rng).cost_analysis()["flops"]
    assert figures(found["a step"]["work"])[0] > 5 * seen


def test_a_model_without_convolutions_calls_no_onednn(erm: tuple[dict[str, Any], Program]):
    one = Mesh(np.asarray(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
    assert not cost._uses_onednn(parse("--workdir=runs/none", *ERM), one)
    assert "not counted" not in erm[0]
