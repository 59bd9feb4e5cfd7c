"""Measures the parts of a report one after the other, and writes down each as it is done."""

import dataclasses
import functools
import hashlib
import json
import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import records, untrusted
from experiments.datasets import loading
from experiments.datasets.data import Data
from experiments.evaluation import (
    attacked,
    clean,
    corrupted,
    equivariance,
    factor_probes,
    outliers,
    pictures,
    projection,
    subgroups,
)
from experiments.evaluation.context import Context, Skipped
from experiments.evaluation.plan import PARTS, Plan
from experiments.evaluation.store import Store
from experiments.evaluation.subject import Subject
from experiments.reporting import report_page

SCHEMA = 1
_MEASURES: dict[str, Callable[[Context], dict[str, Any]]] = {
    "clean": clean.measure,
    "corruptions": corrupted.measure,
    "ood": outliers.measure,
    "attacks": attacked.measure,
    "equivariance": equivariance.measure,
    "probes": factor_probes.measure,
    "groups": subgroups.measure,
    "projection": projection.measure,
    "pictures": pictures.measure,
}


def evaluate(
    subject: Subject,
    data: Data,
    *,
    plan: Plan | None = None,
    output: str | Path | None = None,
    run: Mapping[str, Any] | None = None,
    load: Callable[[str], Data] | None = None,
) -> dict[str, Any]:
    """Measures how robust a model is: any apply function with weights, on any data set in memory.

    Parts that fail are reported as failed and the rest still comes out. With an output directory
    report.json is written after every part and report.html at the end, or when interrupted; the
    same call again goes on where it stopped.
    Parts that an earlier evaluation of the same weights measured with the same options stay in the
    report.

    Args:
      subject: the model.
      data: what it was trained on, and the test rows that figures are of.
      plan: what is measured; None is everything, with the defaults of `experiments.evaluate`.
      output: directory for report.json, report.html and evaluation/; None writes nothing.
      run: what the report says about the model, such as `name`, `method`, `seed` and `flags`.
      load: `load(name) -> Data`, reads other data sets; None reads those that need no directory.

    Returns:
      The report, as report.json holds it.

    Raises:
      OSError: the report cannot be written.
      KeyboardInterrupt: interrupted; what was measured is on disk.

    Example:
      >>> import io, jax.numpy as jnp, semjax
      >>> def apply_fn(params, images, rng):
      ...     flat = images.reshape(len(images), -1)
      ...     return semjax.Outputs(logits=flat @ params, representation=flat)
      >>> data = loading.load("digits")
      >>> subject = Subject(apply_fn, jnp.zeros((64, 10)))
      >>> report = evaluate(subject, data, plan=Plan(parts="clean"))
      >>> report["parts"]["clean"]["result"]["count"]
      360
    """
    plan = plan or Plan()
    folder = None if output is None else Path(output)
    about = _about(subject, data, run or {})
    earlier = _earlier(folder, about, plan)
    if folder is not None:
        (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    store = Store(folder and folder / "evaluation", _fingerprint(about, plan))
    own = about["flags"].get("policy")
    context = Context(
        subject, data, plan, store, load or functools.partial(loading.load_like, data), own
    )
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "run": about,
        "options": dataclasses.asdict(plan),
        "parts": {name: earlier[name] for name in PARTS if name in earlier},
    }
    try:
        for name in plan.listed("parts"):
            found = {**report["parts"], name: _part(context, name)}
            report["parts"] = {part: found[part] for part in PARTS if part in found}
            if folder is not None:
                text = json.dumps(_plain(report), indent=1) + "\n"
                records.write_atomically(folder / "report.json", text)
    finally:
        # Drawn once, interrupted or not: figures take longer than the quick parts.
        if folder is not None:
            records.write_atomically(folder / "report.html", report_page.render(_plain(report)))
    return _plain(report)


def _part(context: Context, name: str) -> dict[str, Any]:
    context.say(f"== {name}")
    started = time.monotonic()
    entry: dict[str, Any]
    try:
        entry = {"status": "done", "result": _MEASURES[name](context)}
    except Skipped as reason:
        entry = {"status": "skipped", "reason": str(reason)}
        context.say(f"{name} skipped: {reason}")
    except Exception as error:
        # Whatever goes wrong in one part must not take the others with it.
        traceback.print_exc(file=sys.stderr)
        entry = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
        context.say(f"{name} failed: {error}")
    return {**entry, "seconds": round(time.monotonic() - started, 3)}


def _about(subject: Subject, data: Data, run: Mapping[str, Any]) -> dict[str, Any]:
    leaves = jax.tree.leaves(subject.params)
    about = {
        "name": "model",
        "method": "model",
        "seed": 0,
        "dataset": data.name,
        "model": "apply_fn",
        "parameters": int(sum(np.size(leaf) for leaf in leaves)),
        "step": 0,
        "weights": "final",
        "flags": {},
        "environment": records.environment(),
        **run,
    }
    return {**about, "weights_id": _digest(leaves)}


def _digest(leaves: list[Any]) -> str:
    found = hashlib.sha256()
    for leaf in leaves:
        found.update(np.ascontiguousarray(jax.device_get(leaf)).tobytes())
    return found.hexdigest()[:16]


def _fingerprint(about: Mapping[str, Any], plan: Plan) -> str:
    """What a remembered piece depends on: the weights, the code and every flag that matters."""
    flags = {
        field.name: getattr(plan, field.name)
        for field in dataclasses.fields(plan)
        if field.name not in ("parts", "corruptions", "severities", "epsilons")
        and not field.metadata["keeps_result"]
    }
    return json.dumps({**_identity(about), **flags}, sort_keys=True)


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, and by which code."""
    environment = about["environment"]
    return {
        # The step tells apart what the parameters do not hold: the BatchNorm statistics.
        **{name: about[name] for name in ("weights_id", "step", "model", "dataset")},
        **{name: environment[name] for name in ("revision", "jax")},
    }


def _earlier(folder: Path | None, about: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The parts of the report that is there, if it says of itself what the new one will say.

    A page states one set of options, so a part measured with others must not stand on it.
    """
    if folder is None:
        return {}

    def matter(options: Mapping[str, Any]) -> dict[str, Any]:
        fields = [f for f in dataclasses.fields(plan) if not f.metadata["keeps_result"]]
        return {f.name: options[f.name] for f in fields if f.name != "parts"}

    try:
        found = untrusted.read_json(folder / "report.json")
        same = (
            found["schema"] == SCHEMA
            and _identity(found["run"]) == _identity(about)
            and matter(found["options"]) == matter(dataclasses.asdict(plan))
        )
        parts = dict(found["parts"]) if same else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return {name: part for name, part in parts.items() if isinstance(part, dict)}


def _plain(value: Any) -> Any:
    """The same without NaN and infinities, which are no JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
