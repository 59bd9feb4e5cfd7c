"""The peer: training steps as a user of PyTorch takes them, with mixing the way timm does it.

The batch is mixed with itself in reverse order, by one weight, in image and one-hot label; the loss
is cross-entropy against soft targets, the optimiser SGD with momentum. Everything that makes
PyTorch fast on a CPU is on: channels_last, its fused optimiser, autocast for bfloat16. On a machine
with an accelerator that PyTorch can use, the steps are taken there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import torch_models
from benchmarks.work import Work, take

_LOSSES = ("mixup", "sem_joint", "sem_separate")


def mixed(x: torch.Tensor, weight: float) -> torch.Tensor:
    """Each row with the row in its place from the end.

    Args:
      x: [B, ...].
      weight: of the row itself.

    Returns:
      [B, ...].
    """
    return x * weight + x.flip(0) * (1 - weight)


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against soft targets, the mean over rows.

    Args:
      logits: [B, K].
      targets: [B, K].

    Returns:
      A scalar.
    """
    return -(targets * functional.log_softmax(logits.float(), -1)).sum(-1).mean()


def loss(
    model: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    images: torch.Tensor,
    label: torch.Tensor,
    *,
    weight: float,
    classes: int,
    method: str,
) -> torch.Tensor:
    """The loss of a batch.

    Args:
      model: gives logits and pooled vector.
      images: f32[B, C, H, W].
      label: i64[B].
      weight: of the row itself in the mix.
      classes: K.
      method: mixup; or with the gap between the pooled vector of the mix and the mix of the pooled
        vectors (mean squared, both sides with gradient), mixed and clean rows in one pass of 2B
        (sem_joint) or in two of B (sem_separate).

    Returns:
      A scalar.
    """
    inputs = mixed(images, weight)
    targets = mixed(functional.one_hot(label, classes).float(), weight)
    if method == "mixup":
        return soft_cross_entropy(model(inputs)[0], targets)
    if method == "sem_joint":
        logits, both = model(torch.cat((inputs, images)))
        logits, (pooled, clean) = logits[: len(images)], both.chunk(2)
    else:
        logits, pooled = model(inputs)
        _, clean = model(images)
    gap = functional.mse_loss(pooled.float(), mixed(clean.float(), weight))
    return soft_cross_entropy(logits, targets) + gap


def step(options: Sequence[str]) -> Work:
    """A training step in a bare loop, from uint8 images in memory.

    Args:
      options: model, batch_size, compute_dtype, pixels, classes, loss, compile (1: through
        torch.compile).

    Returns:
      The work.

    Raises:
      ValueError: an option that is none of these, or a loss or dtype that is not there.
    """
    given, rest = take(
        options,
        model="resnet18",
        batch_size=128,
        compute_dtype="float32",
        pixels=32,
        classes=100,
        loss="mixup",
        compile=0,
    )
    if rest:
        raise ValueError(f"options of the peer are {', '.join(given)}; found {rest}")
    if given["loss"] not in _LOSSES or given["compute_dtype"] not in ("float32", "bfloat16"):
        raise ValueError(
            f"loss must be one of {', '.join(_LOSSES)} and compute_dtype float32 or bfloat16; "
            f"found {given['loss']!r} and {given['compute_dtype']!r}"
        )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = np.random.default_rng(0)
    size, pixels, classes = given["batch_size"], given["pixels"], given["classes"]
    raw = torch.from_numpy(draw.integers(0, 256, (size, 3, pixels, pixels), np.uint8))
    raw = raw.to(device, memory_format=torch.channels_last)
    label = (torch.arange(size) % classes).to(device)
    model = torch_models.create(given["model"], classes)
    model = model.to(device, memory_format=torch.channels_last)
    called = torch.compile(model) if given["compile"] else model
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True
    )
    half = given["compute_dtype"] == "bfloat16"

    def one() -> None:
        images = (raw.float() / 255 - 0.5) / 0.25
        weight = float(draw.beta(1.0, 1.0))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
            value = loss(
                called, images, label, weight=weight, classes=classes, method=given["loss"]
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    def run(steps: int) -> None:
        for _ in range(steps):
            one()
        if device == "cuda":
            torch.cuda.synchronize()

    return Work(run, {"options": list(options), "platform": device, **_facts(model)})


def _facts(model: Any) -> dict[str, Any]:
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "onednn": torch.backends.mkldnn.is_available(),
    }
