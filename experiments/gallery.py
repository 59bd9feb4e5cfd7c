"""Draws every policy on real pictures: `python -m experiments.gallery --output=docs/images`.

Two pictures are written: `policies.png`, a row for each policy (the image, its partner, the mask,
the mix and its weight), and `weights.png`, the weights of many draws beside the law they should
follow. Policies that look at the model look at one that has not learned yet, as the picture says.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from scipy import stats

import semjax
from experiments import config as config_lib
from experiments import models, policies
from experiments.config import Config, ConfigError
from experiments.datasets import loading
from experiments.datasets.data import Data, DataError
from semjax import augment, cpu
from semjax.hidden import input_mix

OUTPUT = flags.DEFINE_string("output", "gallery", "folder the two pictures are written to")
ROWS = 8
DRAWS = 20_000
COLUMNS = ("image", "partner", "share of the image", "mix")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One example of a policy, ready to be shown; pictures are [H, W, C] in [0, 1].

    Attributes:
      name: of the policy.
      image: the row.
      partner: its partner.
      mask: f32[H, W], the share of the row at each pixel.
      mixed: what the model is fed; for a policy that mixes a hidden layer, the same mix at the
        input, which is not what the model sees.
      weight: lambda, the share of the row in its label.
      layer: where it is mixed.
    """

    name: str
    image: np.ndarray
    partner: np.ndarray
    mask: np.ndarray
    mixed: np.ndarray
    weight: float
    layer: int


def examples(data: Data, model: str, seed: int = 0) -> list[Drawn]:
    """Draws one mix of every policy on images of the training split.

    Args:
      data: the data set.
      model: the network that policies may look at, of random weights.
      seed: of the draws.

    Returns:
      One example a policy: of the rows, one whose weight is near 0.6 and whose mask has two sides.
    """
    rows = np.linspace(0, len(data.train) - 1, ROWS).astype(int)
    images = jnp.asarray(data.train.image[rows])
    scaled = augment.normalise(images, data.mean, data.std)
    batch = {"image": scaled, "label": jnp.asarray(data.train.label[rows])}
    module = models.create(model, data.num_classes)
    init_key, *keys = jax.random.split(jax.random.key(seed), 1 + len(policies.POLICIES))
    variables = module.init(init_key, scaled, train=False)

    def apply_fn(params: Any, images: jax.Array, rng: jax.Array) -> semjax.Outputs:
        features: Any = module.apply({**variables, "params": params}, images, train=False)
        return semjax.Outputs(logits=features.logits, feature_map=features.spatial)

    layers = len(models.hidden_modules(model))
    drawn = []
    for key, name in zip(keys, policies.POLICIES, strict=True):
        # Of PuzzleMix's block counts the one that shows most.
        options = "puzzlemix.block_counts=(8,)" if name == "puzzlemix" else ""
        config = Config(policy=name, weight_scope="sample", pairing="roll", policy_options=options)
        policy = policies.build(dataclasses.asdict(config), layers)
        draw = jax.jit(
            lambda batch, key, params, policy=policy: semjax.draw_mix(
                policy, batch, key, apply_fn=apply_fn, params=params
            )
        )
        drawn.append(_example(name, draw(batch, key, variables["params"]), images, data))
    return drawn


def _example(name: str, mix: semjax.Mix, images: jax.Array, data: Data) -> Drawn:
    # Much of both, and of masks one with two sides.
    worth = -np.abs(np.asarray(mix.weight) - 0.6)
    if mix.mask is not None:
        worth = worth + np.asarray(mix.mask).std((1, 2, 3))
    row = int(worth.argmax())
    # Noise is in units of the scaled image, so that is what is mixed, and then scaled back.
    at_input = dataclasses.replace(mix, layer=None, layers=())
    mixed = input_mix(at_input, augment.normalise(images, data.mean, data.std))
    mixed = np.clip(np.asarray(mixed) * data.std + data.mean, 0, 1)
    mask = mix.mask
    if mask is None:
        mask = jnp.broadcast_to(mix.weight[:, None, None, None], (*images.shape[:3], 1))
    unit = np.asarray(images, np.float32) / 255
    return Drawn(
        name,
        unit[row],
        unit[int(mix.partner[row])],
        np.asarray(mask)[row, ..., 0],
        mixed[row],
        float(mix.weight[row]),
        0 if mix.layer is None else int(mix.layer[row]),
    )


def policies_figure(drawn: Sequence[Drawn], note: str) -> Figure:
    """A row for each policy: the image, its partner, the mask and the mix.

    Args:
      drawn: one example a policy.
      note: a line below the title.

    Returns:
      The figure.
    """
    figure = Figure(figsize=(7.4, 1.35 * len(drawn) + 0.8), layout="constrained")
    axes = figure.subplots(len(drawn), 4, squeeze=False)
    for place, (line, example) in enumerate(zip(axes, drawn, strict=True)):
        shown = (example.image, example.partner, example.mask, example.mixed)
        for column, (axis, picture) in enumerate(zip(line, shown, strict=True)):
            grey = picture.ndim == 2 or picture.shape[-1] == 1
            axis.imshow(
                picture.squeeze() if grey else picture,
                cmap="gray" if grey else None,
                vmin=0,
                vmax=1,
            )
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 0:
                axis.set_title(COLUMNS[column], fontsize=9)
        label = example.name.replace("_", "\n", 1)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        where = f"\nlayer {example.layer}" if example.layer else ""
        line[3].set_ylabel(f"λ = {example.weight:.2f}{where}", rotation=0, ha="left", fontsize=9)
        line[3].yaxis.set_label_coords(1.05, 0.4)
    figure.suptitle(note, fontsize=10)
    return figure


def weights_figure(size: int = 32) -> Figure:
    """Histograms of the weights of many draws, and the law each should follow.

    Args:
      size: H and W of the images.

    Returns:
      The figure; a law is drawn where it is known in closed form, for the others the mean is told.
    """
    laws: dict[str, tuple[semjax.Policy, Any]] = {
        "mixup, Beta(1, 1)": (semjax.mixup(weight_scope="sample"), stats.uniform()),
        "mixup, Beta(0.2, 0.2)": (
            semjax.mixup(alpha=0.2, weight_scope="sample"),
            stats.beta(0.2, 0.2),
        ),
        "manifold mixup, Beta(2, 2)": (
            semjax.manifold_mixup(weight_scope="sample"),
            stats.beta(2, 2),
        ),
        "mixup on [-0.5, 1.5]": (
            semjax.mixup(weight_range=(-0.5, 1.5), weight_scope="sample"),
            stats.uniform(-0.5, 2),
        ),
        "FMix, Beta(1, 1)": (semjax.fmix(weight_scope="sample"), stats.uniform()),
        "CutMix, Beta(1, 1)": (semjax.cutmix(weight_scope="sample"), None),
        "CutMix, min/max 0.3, 0.8": (
            semjax.cutmix(minmax=(0.3, 0.8), weight_scope="sample"),
            None,
        ),
        "ResizeMix": (semjax.resizemix(weight_scope="sample"), None),
        "GridMix": (semjax.gridmix(weight_scope="sample"), None),
        "SmoothMix": (semjax.smoothmix(weight_scope="sample"), None),
    }
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots(4, 3)
    for axis in axes.ravel()[len(laws) :]:
        axis.set_axis_off()
    for axis, (name, (policy, law)) in zip(axes.ravel(), laws.items(), strict=False):
        weight = _weights(policy, size)
        low, high = min(0.0, weight.min()), max(1.0, weight.max())
        axis.hist(weight, bins=50, range=(low, high), density=True, color="#9db8d2")
        if law is not None:
            place = np.linspace(low + 1e-3, high - 1e-3, 300)
            axis.plot(place, law.pdf(place), color="#c0392b", linewidth=1.3)
        axis.set_title(f"{name}: mean {weight.mean():.3f}", fontsize=9)
        axis.set_ylim(0, min(axis.get_ylim()[1], 6))
        axis.tick_params(labelsize=7)
    figure.suptitle(
        f"Weights λ of {DRAWS:,} draws on {size}x{size} images; red: the law, if it has a density",
        fontsize=10,
    )
    return figure


def _weights(policy: semjax.Policy, size: int) -> np.ndarray:
    """The weights of DRAWS rows, a thousand at a time."""
    batch = {"image": jax.ShapeDtypeStruct((1000, size, size, 3), jnp.float32)}
    draw = jax.jit(lambda key: policy(key, batch).weight)
    keys = jax.random.split(jax.random.key(0), DRAWS // 1000)
    return np.concatenate([np.asarray(draw(key)) for key in keys])


def main(config: Config) -> None:
    """Draws both pictures and says where they are."""
    output = Path(OUTPUT.value)
    data = loading.load(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        download=config.download,
        cache=config.data_cache,
    )
    output.mkdir(parents=True, exist_ok=True)
    print(f"drawing {len(policies.POLICIES)} policies on {config.dataset}", flush=True)
    note = f"{config.dataset}; saliency and features of an untrained {config.model}"
    drawn = examples(data, config.model, config.seed)
    policies_figure(drawn, note).savefig(output / "policies.png", dpi=90)
    print(f"{output / 'policies.png'}\ndrawing weights", flush=True)
    weights_figure().savefig(output / "weights.png", dpi=90)
    print(output / "weights.png")


def _parse(argv: Sequence[str]) -> Config:
    try:
        return config_lib.parse(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(config: Config) -> None:
    try:
        main(config)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    cpu.set_flags()
    config_lib.define_flags(flags.FLAGS)
    flags.adopt_module_key_flags(config_lib)
    app.run(_run, flags_parser=_parse)
