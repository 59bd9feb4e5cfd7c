"""Linear probes: what the frozen representation still tells about what the label does not."""

from typing import Any

from experiments import linear_probes
from experiments.evaluation.context import Context, Skipped, features
from experiments.evaluation.subject import some_rows

_TRAIN_ROWS, _TEST_ROWS = 6000, 3000
# Smaller images leave no room to place a digit in.
_SMALLEST = 16


def measure(context: Context) -> dict[str, Any]:
    """The part `probes` of a report: fitted on training rows, scored on test rows."""
    data, source = context.data, context.data.name
    if context.plan.probe_dataset:
        source = context.plan.probe_dataset
        data = context.load(source)
    elif data.test.factors is None:
        source = "digit_factors"
        side = min(data.test.image.shape[1:3])
        if side < _SMALLEST:
            raise Skipped(
                f"{data.name} has no factors, and digit_factors needs images of {_SMALLEST} pixels "
                f"a side; the model takes {side}"
            )
        data = context.load(source)
    train, test = some_rows(data.train, _TRAIN_ROWS), some_rows(data.test, _TEST_ROWS)
    if train.factors is None or test.factors is None:
        raise Skipped(f"{source} has no factors")
    seen = [features(context.subject.answers(split.image)) for split in (train, test)]
    factors = linear_probes.probe(seen[0], train.factors, seen[1], test.factors)
    for name, found in factors.items():
        context.say(f"probes  {name}  {found['metric']} {found['score']:.3f}")
    return {
        "source": source,
        "train": len(train),
        "test": len(test),
        "factors": factors,
        "mean_score": linear_probes.mean_score(factors),
    }
