"""Whether the model knows what it does not know: scores of rows from elsewhere against its own."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.evaluation.context import Context, Skipped, features
from experiments.evaluation.subject import Answers, some_rows
from semjax import pixmix
from semjax.robustness import ood, ranking

_BINS = 30
_PICTURES = 500


def measure(context: Context) -> dict[str, Any]:
    """The part `ood` of a report: a table and histograms of every score on every set."""
    score = _scorer(context)
    inside = score(context.clean)
    names = [name for name in context.plan.listed("ood_sets") if name != context.data.name]
    if not names:
        raise Skipped(f"--ood_sets={context.plan.ood_sets} names nothing but the run's own data")
    sets: dict[str, Any] = {}
    for name in names:
        images = _images(context, name)
        outside = score(context.subject.answers(images))
        sets[name] = {
            "count": len(images),
            "scores": {
                kind: {
                    "auroc": float(ranking.auroc(inside[kind], outside[kind])),
                    "aupr": float(ranking.average_precision(inside[kind], outside[kind])),
                    "fpr95": float(ranking.false_positive_rate(inside[kind], outside[kind])),
                }
                for kind in inside
            },
            "histograms": {kind: _histogram(inside[kind], outside[kind]) for kind in inside},
        }
        auroc = "  ".join(f"{k} {v['auroc']:.3f}" for k, v in sets[name]["scores"].items())
        context.say(f"ood  {name}  AUROC {auroc}")
    return {"in": context.data.name, "count": len(context.test), "sets": sets}


def _scorer(context: Context) -> Callable[[Answers], dict[str, np.ndarray]]:
    """`score(answers)`: every score by name, higher for rows like the training rows."""
    scores: dict[str, Callable[[Answers], Any]] = {
        "msp": lambda answers: ood.max_softmax_probability(answers.logits),
        "entropy": lambda answers: ood.negative_entropy(answers.logits),
        "energy": lambda answers: ood.negative_energy(answers.logits),
    }
    if context.clean.representation is not None:
        answers, label = context.bank
        bank = features(answers)
        fit = ood.fit_mahalanobis(bank, label, num_classes=context.data.num_classes)
        k = min(context.plan.neighbours, len(label))
        scores["mahalanobis"] = lambda answers: ood.mahalanobis_score(fit, features(answers))
        scores["knn"] = lambda answers: ood.nearest_neighbour_score(features(answers), bank, k=k)
    return lambda answers: {kind: np.asarray(score(answers)) for kind, score in scores.items()}


def _images(context: Context, name: str) -> np.ndarray:
    shape = context.test.image.shape[1:]
    count = min(len(context.test), context.plan.limit or len(context.test))
    key = jax.random.key(context.plan.seed)
    if name == "noise":
        # As bright and as rough as the data, pixel by pixel, so that only structure tells.
        draw = np.random.default_rng(context.plan.seed).normal(size=(min(count, 2000), *shape))
        pixels = draw * context.data.std + context.data.mean
        return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if name == "fractals":
        height, width, channels = shape
        made = jax.jit(
            lambda key: pixmix.fractal_pictures(
                key, min(count, _PICTURES), height=height, width=width, channels=channels
            )
        )(key)
        return np.round(np.asarray(made) * 255).astype(np.uint8)
    return some_rows(context.load(name).test, count).image


def _histogram(inside: np.ndarray, outside: np.ndarray) -> dict[str, list[float]]:
    both = np.concatenate([inside, outside])
    # The far tails of Mahalanobis distances would leave nothing to see of the rest.
    low, high = np.quantile(both, [0.005, 0.995])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)

    def density(values: np.ndarray) -> list[float]:
        return np.histogram(np.clip(values, edges[0], edges[-1]), edges, density=True)[0].tolist()

    return {"edges": edges.tolist(), "in": density(inside), "out": density(outside)}
