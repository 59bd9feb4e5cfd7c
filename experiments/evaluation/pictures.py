"""What the figures are about: mixed rows, what the model looks at, corrupted rows, as PNG."""

import base64
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image

import semjax
from experiments.evaluation.context import Context
from experiments.evaluation.subject import some_rows, unit
from experiments.policies import LOOKS_AT_MODEL, POLICIES
from semjax import corruptions
from semjax.hidden import input_mix

_COLUMNS, _PIXELS = 8, 96
_ACROSS = 10
_SEVERITY = 3


def measure(context: Context) -> dict[str, Any]:
    """The part `pictures` of a report."""
    split = some_rows(context.test, _COLUMNS * max(1, context.data.num_classes // _COLUMNS))
    rows = np.linspace(0, len(split) - 1, min(_COLUMNS, len(split))).astype(int)
    images, label = split.image[rows], split.label[rows]
    return {
        "strip": _strip(context, images, label),
        "saliency": _saliency(context, images, label),
        "corrupted": _corrupted(context, images),
    }


def _strip(context: Context, images: np.ndarray, label: np.ndarray) -> dict[str, str]:
    batch = {"image": unit(jnp.asarray(images)), "label": jnp.asarray(label)}
    name = context.own_policy
    if name not in POLICIES or name in LOOKS_AT_MODEL:
        name = "mixup"
    policy = POLICIES[name](weight_scope="sample", pairing="roll")
    mix = semjax.draw_mix(policy, batch, jax.random.key(context.plan.seed))
    partner = images[np.asarray(mix.partner)]
    mixed = _bytes(np.clip(np.asarray(input_mix(mix, batch["image"])), 0, 1))
    weights = ", ".join(f"{weight:.2f}" for weight in np.asarray(mix.weight))
    return {
        "png": _png([images, partner, mixed]),
        "caption": f"{name}: rows, their partners and the mixes; weights of the rows {weights}",
    }


def _saliency(context: Context, images: np.ndarray, label: np.ndarray) -> dict[str, str]:
    subject = context.subject

    def salient(params: Any, images: jax.Array, label: jax.Array) -> jax.Array:
        batch = {"image": unit(images), "label": label}
        key = jax.random.key(0)
        return semjax.ModelProbe(subject.apply_fn, params, batch, key).saliency()

    found = np.asarray(jax.jit(salient)(subject.params, images, label))
    # Each on its own scale, the strongest percent of its pixels saturated.
    top = np.maximum(np.quantile(found, 0.99, axis=(1, 2), keepdims=True), 1e-12)
    heat = _bytes(np.clip(found / top, 0, 1))[..., None]
    predicted = subject.answers(images).logits.argmax(1)
    told = ", ".join(f"{p} ({y})" for p, y in zip(predicted, label, strict=True))
    return {
        "png": _png([images, heat]),
        "caption": f"size of the loss gradient at each pixel; predicted (true) class: {told}",
    }


def _corrupted(context: Context, images: np.ndarray) -> dict[str, str]:
    names = context.plan.listed("corruptions")
    key = jax.random.key(context.plan.seed)
    one = jnp.asarray(images[:1])
    row = [
        np.asarray(corruptions.corrupt(key, one, name=name, severity=_SEVERITY))[0]
        for name in names
    ]
    shown = [images[0], *row]
    blank = np.full_like(images[0], 255)
    shown += [blank] * (-len(shown) % _ACROSS)
    rows = [np.stack(shown[start : start + _ACROSS]) for start in range(0, len(shown), _ACROSS)]
    return {
        "png": _png(rows),
        "caption": f"clean, then at severity {_SEVERITY}: {', '.join(names)}",
    }


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.round(images * 255).astype(np.uint8)


def _png(rows: list[np.ndarray]) -> str:
    """One PNG of rows of images [N,H,W,C], enlarged by whole pixels, in base64."""
    scale = max(1, _PIXELS // max(rows[0].shape[1:3]))
    strips = []
    for row in rows:
        images = np.repeat(row, 3, axis=-1) if row.shape[-1] == 1 else row[..., :3]
        images = images.repeat(scale, axis=1).repeat(scale, axis=2)
        images = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=255)
        strips.append(np.concatenate(list(images), axis=1))
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.concatenate(strips, axis=0)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
