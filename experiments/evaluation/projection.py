"""Clean, mixed and interpolated representations, on the plane where the clean differ most."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import semjax
from experiments.evaluation.context import Context, features
from experiments.evaluation.subject import some_rows, unit

_CLEAN, _MIXED = 500, 60


def measure(context: Context) -> dict[str, Any]:
    """The part `projection` of a report: principal components of the clean representations."""
    clean = features(context.clean)
    split = some_rows(context.test, _MIXED)
    images = np.asarray(split.image)
    key = jax.random.key(context.plan.seed)
    policy = semjax.mixup(weight_scope="sample", pairing="derangement")
    mix = semjax.draw_mix(policy, {"image": images, "label": split.label}, key)
    pixels = np.asarray(semjax.interpolate(mix, unit(jnp.asarray(images))))
    # The subject takes bytes; rounding to one is far below what mixing does.
    mixed = features(context.subject.answers(np.round(pixels * 255).astype(np.uint8)))
    own = features(context.subject.answers(images))
    interpolated = np.asarray(semjax.interpolate(mix, own))
    centre = clean.mean(0)
    _, sizes, axes = np.linalg.svd((clean - centre).astype(np.float64), full_matrices=False)
    axes = axes[:2]
    # The sign of a component is free: fixed, so that a figure can be made again.
    axes = axes * np.where(axes[np.arange(len(axes)), np.abs(axes).argmax(1)] < 0, -1, 1)[:, None]
    shown = np.linspace(0, len(clean) - 1, min(_CLEAN, len(clean))).astype(int)
    share = np.square(sizes) / max(float(np.square(sizes).sum()), 1e-30)

    def placed(x: np.ndarray) -> list[list[float]]:
        points = (x - centre) @ axes.T
        if points.shape[1] == 1:
            points = np.concatenate([points, np.zeros_like(points)], axis=1)
        return np.round(points, 5).tolist()

    return {
        "method": "PCA of the clean test representations; mixup",
        "explained": share[:2].tolist(),
        "clean": placed(clean[shown]),
        "label": context.test.label[shown].tolist(),
        "mixed": placed(mixed),
        "interpolated": placed(interpolated),
        "weight": np.asarray(mix.weight).tolist(),
    }
