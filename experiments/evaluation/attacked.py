"""Accuracy under attack: the worst change of all pixels by at most epsilon that was found."""

import functools
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from experiments.evaluation.context import Context
from experiments.evaluation.subject import some_rows, unit
from semjax import metrics
from semjax.robustness import attacks


def measure(context: Context) -> dict[str, Any]:
    """The part `attacks` of a report.

    Every epsilon is a piece that is remembered. PGD looks at what FGSM found, and a row that a
    smaller epsilon broke stays broken: the larger ball holds the image that broke it.
    """
    plan = context.plan
    split = some_rows(context.test, plan.attack_rows)
    logits = context.subject.answers(split.image).logits
    clean = np.asarray(metrics.correct(logits, split.label), np.float64)
    epsilons = plan.epsilon_values()
    pieces = context.pieces("attacks", [_key(epsilon) for epsilon in epsilons])
    standing = clean
    found: dict[str, list[float]] = {"fgsm": [], "pgd": []}
    for epsilon in epsilons:
        rows = pieces.make(_key(epsilon), functools.partial(_withstand, context, split, epsilon))
        standing = standing * np.array(rows["pgd"])
        found["fgsm"].append(float(np.mean(rows["fgsm"])))
        found["pgd"].append(float(standing.mean()))
    return {
        "count": len(split),
        "clean_accuracy": float(clean.mean()),
        "steps": plan.attack_steps,
        "restarts": plan.attack_restarts,
        "epsilons": list(epsilons),
        **found,
    }


def _key(epsilon: float) -> str:
    return f"epsilon {epsilon:.6g}"


def _withstand(context: Context, split: Any, epsilon: float) -> dict[str, list[int]]:
    """Which rows each attack leaves right, 0 or 1."""
    plan, subject = context.plan, context.subject
    key = jax.random.fold_in(jax.random.key(plan.seed), 1)

    # Not compiled as a whole: what is compiled is one step, see semjax.robustness.attacks.
    def attack(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        model = Partial(subject.logits, params)
        images, label = unit(batch["image"]), batch["label"]
        changed = attacks.fgsm(model, images, label, epsilon=epsilon)
        pgd = attacks.robust_rows(
            jax.random.clone(key),
            model,
            images,
            label,
            epsilons=[epsilon],
            steps=plan.attack_steps,
            restarts=plan.attack_restarts,
            index=batch["index"],
        )
        return {"fgsm": metrics.correct(subject.logits(params, changed), label), "pgd": pgd[0]}

    found = subject.over_rows(attack, split.image, label=split.label)
    return {name: values.astype(int).tolist() for name, values in found.items()}
