"""What sem claims: how far the representation of a mix is from the mix of the representations.

Measured on test rows in evaluation mode, as a function of the mixing weight, for every policy and
at every layer that the model offers.
"""

from typing import Any

import jax
import numpy as np

import semjax
from experiments.datasets.data import Split, eval_batches
from experiments.evaluation.context import Context
from experiments.evaluation.subject import some_rows, unit
from experiments.policies import POLICIES
from semjax.hidden import input_mix
from semjax.robustness import gap_curves


def measure(context: Context) -> dict[str, Any]:
    """The part `equivariance` of a report."""
    plan = context.plan
    split = some_rows(context.test, plan.gap_rows)
    names = list(plan.listed("gap_policies"))
    if context.own_policy in POLICIES and context.own_policy not in names:
        names.append(context.own_policy)
    policies = {}
    for name in names:
        sums = _sums(context, name, split.image, split.label)
        layers = {}
        for layer in sorted(sums, key=_depth):
            curve = gap_curves.gap_curve(sums[layer])
            layers[layer] = {
                "gap": np.asarray(curve.gap).tolist(),
                "normalised_gap": np.asarray(curve.normalised_gap).tolist(),
                "rows": np.asarray(curve.rows).tolist(),
                "mean_gap": float(curve.mean_gap),
                "mean_normalised_gap": float(curve.mean_normalised_gap),
            }
        policies[name] = {"layers": layers}
        shown = layers.get("representation") or layers["logits"]
        context.say(f"equivariance  {name}  normalised gap {shown['mean_normalised_gap']:.4g}")
    return {
        "count": len(split),
        "weight": ((np.arange(plan.gap_bins) + 0.5) / plan.gap_bins).tolist(),
        "policies": policies,
    }


def _depth(layer: str) -> tuple[int, int]:
    """From input to output; a compiled function hands back its layers by name."""
    kind, _, number = layer.partition(" ")
    return ("layer", "feature", "representation", "logits").index(kind), int(
        number if kind == "layer" else 0
    )


def _sums(
    context: Context, name: str, images: np.ndarray, label: np.ndarray
) -> dict[str, gap_curves.GapSums]:
    """The sums of a policy by layer, over all rows; partners come from the same batch."""
    subject, bins = context.subject, context.plan.gap_bins
    policy = POLICIES[name](weight_scope="sample")

    def measured(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> Any:
        batch = {**batch, "image": unit(batch["image"])}
        mix = semjax.draw_mix(policy, batch, key, apply_fn=subject.apply_fn, params=params)
        clean = subject.layers(params, batch["image"])
        mixed = subject.layers(params, input_mix(mix, batch["image"]))
        return {
            layer: gap_curves.gap_sums(
                mix,
                clean[layer],
                mixed[layer],
                bins=bins,
                spatial=clean[layer].ndim == 4,
                valid=batch["valid"],
            )
            for layer in clean
        }

    program = jax.jit(measured)
    split = Split(images, label)
    total: dict[str, gap_curves.GapSums] = {}
    root = jax.random.key(context.plan.seed)
    size = min(subject.batch_size, len(split))
    for number, batch in enumerate(eval_batches(split, size)):
        found = program(subject.params, batch, jax.random.fold_in(root, number))
        total = {layer: total[layer] + found[layer] if total else found[layer] for layer in found}
    return total
