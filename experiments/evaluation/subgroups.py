"""Accuracy on average and on the worst group, where a group is a label and an attribute."""

from typing import Any

import numpy as np

from experiments.datasets.data import group_names
from experiments.evaluation.context import Context, Skipped
from semjax import metrics
from semjax.robustness import grouping


def measure(context: Context) -> dict[str, Any]:
    """The part `groups` of a report."""
    split, data = context.test, context.data
    if split.group is None or data.num_groups is None:
        raise Skipped(f"{data.name} has no groups")
    pair = split.label * data.num_groups + split.group
    names = group_names(data.num_classes, data.num_groups, attribute=data.attribute)
    right = metrics.correct(context.clean.logits, split.label)
    found = grouping.group_accuracy(right, pair, num_groups=len(names))
    counts, accuracy = np.asarray(found.count), np.asarray(found.accuracy)
    seen = [place for place in range(len(names)) if counts[place]]
    worst = min(seen, key=lambda place: accuracy[place])
    return {
        "source": data.name,
        "groups": [
            {"name": names[place], "count": int(counts[place]), "accuracy": float(accuracy[place])}
            for place in seen
        ],
        "average": float(grouping.average_accuracy(found)),
        "worst": float(grouping.worst_group_accuracy(found)),
        "worst_group": names[worst],
    }
