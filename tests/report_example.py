"""Reports as `experiments.evaluate` writes them, made up: real in shape, not in number."""

import base64
import io
import json
import math
import zlib
from typing import Any

import numpy as np
from PIL import Image

BENCHMARK = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur"),
    *("motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast"),
    *("elastic_transform", "pixelate", "jpeg_compression"),
)
HELD_OUT = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
SCORES = ("msp", "entropy", "energy", "mahalanobis", "knn")
PARTS = (
    *("clean", "corruptions", "ood", "attacks", "equivariance", "probes", "groups", "pictures"),
    "projection",
)
# How good each method is made to look: higher is better at everything.
SKILL = {"erm": 0.0, "mixup": 0.5, "sem_mixup": 1.0}


def example(
    method: str = "sem_mixup",
    seed: int = 0,
    *,
    dataset: str = "cifar100",
    model: str = "resnet18",
    failed: tuple[str, ...] = (),
    skipped: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
) -> dict[str, Any]:
    """A whole report; the same arguments give the same one.

    Args:
      method: of the run; the three of SKILL differ in how good they look.
      seed: of the run.
      dataset: of the run.
      model: of the run.
      failed: parts that failed.
      skipped: parts that were skipped.
      missing: parts that were not asked for.

    Returns:
      The report, fresh, as `json.load` would give it.
    """
    rng = np.random.default_rng([seed, zlib.crc32(method.encode())])
    skill = SKILL.get(method, 0.2) + 0.1 * rng.standard_normal()
    makers = {
        "clean": _clean,
        "corruptions": _corruptions,
        "ood": _ood,
        "attacks": _attacks,
        "equivariance": _equivariance,
        "probes": _probes,
        "groups": _groups,
        "pictures": _pictures,
        "projection": _projection,
    }
    parts: dict[str, Any] = {}
    for place, name in enumerate(PARTS):
        result = makers[name](rng, skill)  # drawn even if unused, so that the others stay the same
        seconds = 3.25 * (place + 1)
        if name in failed:
            reason = f"ValueError: {name} met logits that are not finite"
            parts[name] = {"status": "failed", "seconds": seconds, "reason": reason}
        elif name in skipped:
            parts[name] = {"status": "skipped", "seconds": 0.0, "reason": f"--no{name}"}
        elif name not in missing:
            parts[name] = {"status": "done", "seconds": seconds, "result": result}
    report = {
        "schema": 1,
        "run": {
            "name": f"{method}-{seed}",
            "method": method,
            "seed": seed,
            "dataset": dataset,
            "model": model,
            "parameters": 11_220_132,
            "step": 78_200,
            "weights": "final",
            "flags": {
                "policy": "mixup",
                "alpha": 1.0,
                "flip": True,
                "seed": seed,
                "test_split": "test",
                "classes": 0,
            },
            "environment": {"revision": "0123abcd", "python": "3.11.9", "jax": "0.10.0"},
        },
        "options": {"workdir": f"runs/{method}-{seed}", "parts": "all", "attack_count": 1000},
        "parts": parts,
    }
    return json.loads(json.dumps(_plain(report), allow_nan=False))


def _plain(value: Any) -> Any:
    """The same with Python's numbers, rounded, and null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    return value


def _bins(rng: np.random.Generator, over: float) -> dict[str, Any]:
    """Reliability bins of a model whose confidence exceeds its accuracy by about `over`."""
    centre = (np.arange(15) + 0.5) / 15
    count = np.round(10_000 * centre**4 / (centre**4).sum()).astype(int)
    count[0] = 0
    accuracy = np.clip(centre - over * 4 * centre * (1 - centre), 0, 1)
    accuracy += 0.01 * rng.standard_normal(15)
    empty = count == 0
    return {
        "count": count,
        "accuracy": np.where(empty, np.nan, np.clip(accuracy, 0, 1)),
        "confidence": np.where(empty, np.nan, centre),
    }


def _clean(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    accuracy = 0.74 + 0.03 * skill + 0.002 * rng.standard_normal()
    ece = 0.09 - 0.04 * skill
    coverage = np.linspace(0.01, 1, 100)
    return {
        "count": 10_000,
        "num_classes": 100,
        "accuracy": accuracy,
        "nll": 1.05 - 0.1 * skill,
        "brier": 0.37 - 0.03 * skill,
        "ece": ece,
        "adaptive_ece": ece + 0.001,
        "classwise_ece": ece / 30,
        "temperature": 1.4 - 0.2 * skill,
        "temperature_from": "validation",
        "calibrated": {
            "nll": 0.98 - 0.1 * skill,
            "brier": 0.36 - 0.03 * skill,
            "ece": 0.021 - 0.004 * skill,
            "adaptive_ece": 0.02,
            "classwise_ece": 0.0021,
        },
        "bins": _bins(rng, 0.12 - 0.08 * skill),
        "calibrated_bins": _bins(rng, 0.01),
        "aurc": 0.08 - 0.01 * skill,
        "risk_coverage": {"coverage": coverage, "risk": (1 - accuracy) * coverage**1.6},
    }


def _corruptions(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    names = (*BENCHMARK, *HELD_OUT)
    hard = np.linspace(0.16, 0.03, len(names))
    severity = np.arange(1, 6)
    accuracy = 0.74 + 0.03 * skill - (hard * (1 - 0.2 * skill))[:, None] * severity
    accuracy = np.clip(accuracy + 0.005 * rng.standard_normal((len(names), 5)), 0.01, 1)
    table = dict(zip(names, accuracy, strict=True))
    benchmark = accuracy[: len(BENCHMARK)]
    errors = 1 - benchmark.mean(1)
    return {
        "source": "CIFAR-C-style, made by semjax (cifar constants)",
        "count": 10_000,
        "benchmark": BENCHMARK,
        "held_out": HELD_OUT,
        "severities": severity,
        "accuracy": table,
        "nll": {name: 4 * (1 - row) for name, row in table.items()},
        "ece": {name: 0.5 * (1 - row) ** 2 for name, row in table.items()},
        "mce": 1 - benchmark.mean(),
        "mce_held_out": 1 - accuracy[len(BENCHMARK) :].mean(),
        "mce_per_severity": 1 - benchmark.mean(0),
        "worst": {"name": BENCHMARK[int(errors.argmax())], "error": errors.max()},
    }


def _ood(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    edges = np.linspace(0, 1, 31)
    centre = (edges[1:] + edges[:-1]) / 2
    sets = {}
    for place, name in enumerate(("svhn", "textures", "uniform noise")):
        scores, histograms = {}, {}
        for rank, score in enumerate(SCORES):
            auroc = min(0.78 + 0.04 * skill + 0.03 * rank + 0.02 * place, 0.99)
            auroc += 0.002 * rng.standard_normal()
            scores[score] = {"auroc": auroc, "aupr": auroc - 0.05, "fpr95": 1.2 * (1 - auroc) + 0.2}
            scale = 10.0**rank
            inside, outside = centre**4, (1 - centre) ** (1 + skill) * centre
            histograms[score] = {
                "edges": edges * scale,
                "in": inside / inside.mean() / scale,
                "out": outside / outside.mean() / scale,
            }
        sets[name] = {"count": 5_000 + place, "scores": scores, "histograms": histograms}
    return {"in": "cifar100 test", "count": 10_000, "sets": sets}


def _attacks(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    epsilons = np.asarray([1, 2, 4, 8]) / 255
    clean = 0.74 + 0.03 * skill + 0.005 * rng.standard_normal()
    return {
        "count": 1_000,
        "clean_accuracy": clean,
        "steps": 20,
        "restarts": 1,
        "epsilons": epsilons,
        "fgsm": clean * np.exp(-epsilons * (60 - 15 * skill)),
        "pgd": clean * np.exp(-epsilons * (160 - 30 * skill)),
    }


def _equivariance(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    weight = (np.arange(20) + 0.5) / 20
    policies = {}
    for policy, height in (("mixup", 1.0), ("cutmix", 0.7), ("fmix", 0.8)):
        layers = {}
        for scale, layer in ((9.0, "layer 1"), (4.0, "layer 2"), (1.0, "representation")):
            normalised = height * (1.2 - 0.6 * skill) * weight * (1 - weight)
            normalised = normalised * (1 + 0.02 * rng.standard_normal(20))
            layers[layer] = {
                "gap": scale * normalised,
                "normalised_gap": normalised,
                "rows": np.full(20, 250),
                "mean_gap": scale * normalised.mean(),
                "mean_normalised_gap": normalised.mean(),
            }
        policies[policy] = {"layers": layers}
    return {"count": 5_000, "weight": weight, "policies": policies}


def _probes(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    factors = {
        "brightness": ("r2", 0.81, 0.0, None),
        "contrast": ("r2", 0.64, 0.0, None),
        "rotation": ("accuracy", 0.77, 0.25, 4),
        "horizontal flip": ("accuracy", 0.68, 0.5, 2),
        "dominant hue": ("accuracy", 0.58, 1 / 6, 6),
    }
    scores = {
        name: {
            "metric": metric,
            "score": score + 0.04 * skill + 0.01 * rng.standard_normal(),
            "chance": chance,
            "classes": classes,
        }
        for name, (metric, score, chance, classes) in factors.items()
    }
    mean = np.mean([factor["score"] for factor in scores.values()])
    return {
        "source": "factors made by semjax",
        "train": 4_000,
        "test": 2_000,
        "factors": scores,
        "mean_score": mean,
    }


def _groups(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    names = ("waterbird, water", "waterbird, land", "landbird, water", "landbird, land", "empty")
    counts = (642, 642, 2255, 2255, 0)
    base = np.asarray([0.95, 0.68 + 0.05 * skill, 0.81, 0.99, np.nan])
    accuracy = np.clip(base + 0.005 * rng.standard_normal(5), 0, 1)
    return {
        "source": "label and background",
        "groups": [
            {"name": name, "count": count, "accuracy": value}
            for name, count, value in zip(names, counts, accuracy, strict=True)
        ],
        "average": np.nansum(accuracy * counts) / sum(counts),
        "worst": np.nanmin(accuracy),
        "worst_group": names[int(np.nanargmin(accuracy))],
    }


def png(rng: np.random.Generator, width: int = 480, height: int = 120) -> str:
    """A picture of coloured tiles, base64."""
    tiles = rng.integers(0, 255, (height // 24, width // 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tiles.repeat(24, 0).repeat(24, 1)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _pictures(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    return {
        "strip": {"png": png(rng), "caption": "rows, partners and mixes of one batch"},
        "saliency": {"png": png(rng), "caption": "gradient of the loss by the pixels"},
        "corrupted": {"png": png(rng, 720, 240), "caption": "each corruption at severity 3"},
    }


def _projection(rng: np.random.Generator, skill: float) -> dict[str, Any]:
    label = np.arange(300) % 10
    angle = 2 * np.pi * label / 10
    clean = 4 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.6 * rng.standard_normal((300, 2))
    weight = rng.uniform(size=40)
    interpolated = weight[:, None] * clean[:40] + (1 - weight[:, None]) * clean[1:41]
    return {
        "method": "PCA of the representation",
        "explained": [0.41, 0.23],
        "clean": clean,
        "label": label,
        "mixed": interpolated + (0.9 - 0.6 * skill) * rng.standard_normal((40, 2)),
        "interpolated": interpolated,
        "weight": weight,
    }
