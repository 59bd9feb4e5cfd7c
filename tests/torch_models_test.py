"""The peers are the networks of the study, layer by layer; their loss is what it says."""

import jax
import numpy as np
import pytest

from experiments import models

torch = pytest.importorskip("torch", reason="a peer of the benchmarks: pip install semjax[peers]")

from benchmarks import torch_models, torch_steps  # noqa: E402 (they import torch)

NAMES = ("resnet18", "resnet20", "wrn_16_4")


def _variables(name: str, images: np.ndarray):
    module = models.create(name, 10)
    init = jax.jit(module.init, static_argnames="train")
    return module, init(jax.random.key(0), images, train=False)


def _counterpart(path: list[str], blocks: int) -> str:
    """The name in PyTorch of a parameter of ours."""
    *modules, leaf = path
    if modules[0].startswith("stage"):
        stage, block = (int(part[5:]) for part in modules[0].split("_"))
        modules[0] = f"blocks.{(stage - 1) * blocks + block - 1}"
    name = ".".join(modules)
    if "shortcut" in name:
        sequential = {"shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1"}
        name = f"{modules[0]}.{sequential[modules[1]]}"
    return f"{name}.{'bias' if leaf == 'bias' else 'weight'}"


@pytest.mark.parametrize("name", NAMES)
def test_peers_have_the_layers_of_the_study_and_the_same_outputs(name):
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    module, variables = _variables(name, images)
    peer = torch_models.create(name, 10)
    theirs = dict(peer.named_parameters())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == sum(
        parameter.numel() for parameter in theirs.values()
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        value = np.array(leaf)
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, (0,))
        key = _counterpart([entry.key for entry in path], 3 if name == "resnet20" else 2)
        key = key if key in theirs else key.replace("shortcut.0", "shortcut")
        with torch.no_grad():
            theirs.pop(key).copy_(torch.from_numpy(value.transpose(order).copy()))
    assert not theirs

    def ours(variables, images):
        return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    expected = jax.jit(ours)(variables, images)
    with torch.no_grad():
        logits, pooled = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(pooled, expected.pooled, rtol=1e-3, atol=1e-4)


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="model must be resnet18, resnet20 or wrn_16_4; found 'x'"):
        torch_models.create("x", 10)


def test_rows_are_mixed_with_those_from_the_end():
    found = torch_steps.mixed(torch.tensor([[1.0], [2.0], [4.0]]), 0.75)
    assert found[:, 0].tolist() == [1.75, 2.0, 3.25]


def test_soft_cross_entropy_is_that_of_semjax():
    from semjax.losses import soft_cross_entropy

    draw = np.random.default_rng(0)
    logits = draw.normal(size=(3, 4)).astype(np.float32)
    targets = draw.dirichlet(np.ones(4), 3).astype(np.float32)
    found = torch_steps.soft_cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets))
    np.testing.assert_allclose(found, soft_cross_entropy(logits, targets).mean(), rtol=1e-5)


def test_the_gap_is_between_the_vector_of_the_mix_and_the_mix_of_vectors():
    images, label = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])

    def model(x):
        return x, x**2

    options = {"weight": 0.5, "classes": 2}
    plain, joint, separate = (
        torch_steps.loss(model, images, label, method=method, **options)
        for method in ("mixup", "sem_joint", "sem_separate")
    )
    # Both rows mix to (0.5, 1), squared (0.25, 1); the squares mix to (0.5, 2).
    gap = (0.25**2 + 1.0**2) / 2
    assert joint - plain == pytest.approx(gap)
    assert separate - plain == pytest.approx(gap)


@pytest.mark.parametrize("option", ["loss=x", "compute_dtype=float16", "model_name=resnet18"])
def test_an_option_that_the_peer_does_not_have_is_refused(option):
    with pytest.raises(ValueError, match=option.split("=")[-1]):
        torch_steps.step([option])


def test_a_peer_trains():
    given = ["model=resnet20", "batch_size=4", "pixels=8", "loss=sem_joint"]
    work = torch_steps.step([*given, "compute_dtype=bfloat16"])
    assert work.seconds(2) > 0
    assert work.facts["parameters"] > 250_000
