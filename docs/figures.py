"""Draws the two figures of docs/idea.md: `python docs/figures.py`.

Two small networks learn the embedded digits on the same mixes, from the same start and for as many
steps, one with the gap in its loss and one without.

`path.png`: what the networks make of the mixes of two test digits, on the way from one to the
other. `gap.png`: how far the representation of a mix is from the mix of the representations,
against the mixing weight, over the test digits.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import semjax
from experiments.datasets import loading

FOLDER = Path(__file__).resolve().parent / "images"
STEPS, BATCH = 1500, 128
WEIGHTS = {"without sem": 0.0, "with sem": 20.0}
COLOURS = {"without sem": "#d55e00", "with sem": "#0072b2"}
POINTS = 21


def apply_fn(params: Any, images: jax.Array, rng: Any = None) -> semjax.Outputs:
    """A perceptron of two hidden layers; the second one is the representation."""
    hidden = jax.nn.relu(images.reshape(len(images), -1) @ params["first"])
    features = jax.nn.relu(hidden @ params["second"])
    return semjax.Outputs(logits=features @ params["head"], representation=features)


def train(sem_weight: float, batches: list[dict[str, Any]]) -> Any:
    """The parameters after a pass over the batches, from the start that both networks share."""
    keys = jax.random.split(jax.random.key(0), 3)
    sizes = {"first": (64, 128), "second": (128, 64), "head": (64, 10)}
    params = {
        name: jax.random.normal(key, size) * np.sqrt(2 / size[0])
        for key, (name, size) in zip(keys, sizes.items(), strict=True)
    }
    loss = semjax.make_sem_loss(apply_fn, sem_weight=sem_weight, clean_weight=1.0)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
    step = jax.jit(
        functools.partial(semjax.train_step, make_loss=lambda _: loss, optimizer=optimizer)
    )
    state = semjax.training.init_state(params, optimizer)
    for batch in batches:
        state, logs = step(state, batch, jax.random.key(1))
    print(f"sem_weight={sem_weight}: loss {float(logs['loss']):.3f}")
    return state.params


def path(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The mixes of two images, from the first to the second: [POINTS, 8, 8, 1]."""
    weight = np.linspace(1, 0, POINTS)[:, None, None, None]
    return weight * first + (1 - weight) * second


def flattened(representation: np.ndarray) -> np.ndarray:
    """A path of representations on a plane: along its ends, and away from their straight line.

    The ends lie at (0, 0) and (1, 0). The second coordinate is the distance from the line.
    """
    start, end = representation[0], representation[-1]
    along = (representation - start) @ (end - start) / np.square(end - start).sum()
    away = representation - start - along[:, None] * (end - start)
    distance = np.linalg.norm(away, axis=1) / np.linalg.norm(end - start)
    return np.stack([along, distance], 1)


def draw_path(networks: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> Figure:
    """The mixes of one pair as pictures, and their representations by both networks."""
    threes, eights = images[labels == 3], images[labels == 8]
    pairs = [path(threes[k], eights[k]) for k in range(12)]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1, 2.4))
    for column, place in enumerate(np.linspace(0, POINTS - 1, 6).astype(int)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(pairs[0][place, ..., 0], cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"λ = {1 - place / (POINTS - 1):.1f}", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    left = None
    for place, (name, params) in enumerate(networks.items()):
        axes = figure.add_subplot(grid[1, 3 * place : 3 * place + 3], sharey=left)
        left = left or axes
        for number, pictures in enumerate(pairs):
            features = np.asarray(apply_fn(params, jnp.asarray(pictures)).representation)
            line = flattened(features)
            strong = dict(linewidth=2.2, marker="o", markersize=4) if number == 0 else {}
            alpha = 1.0 if number == 0 else 0.3
            axes.plot(line[:, 0], line[:, 1], color=COLOURS[name], alpha=alpha, **strong)
        axes.plot([0, 1], [0, 0], color="black", linestyle=":", zorder=0)
        axes.set_title(name)
        axes.set_xlabel("share of the way to the second image")
    left.set_ylabel("distance from the straight line")
    return figure


def draw_gap(networks: dict[str, Any], images: np.ndarray) -> Figure:
    """The normalised gap against the weight of the mix, over pairs of test images."""
    weights = np.linspace(0, 1, POINTS)
    partner = np.random.default_rng(0).permutation(len(images))
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, params in networks.items():
        features = apply_fn(params, jnp.asarray(images)).representation
        gaps = []
        for weight in weights:
            mix = semjax.Mix(jnp.asarray(partner), jnp.full(len(images), weight))
            mixed = apply_fn(params, semjax.interpolate(mix, images)).representation
            target = semjax.interpolate(mix, features)
            scale = jnp.square(features - features.mean(0)).mean()
            gaps.append(float(semjax.gap(mixed, target) / scale))
        axes.plot(weights, gaps, color=COLOURS[name], label=name, linewidth=2)
    axes.set_xlabel("mixing weight λ")
    axes.set_ylabel("gap / variance of r(x)")
    axes.set_ylim(0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Trains both networks and writes both pictures."""
    data = loading.load("digits")
    rng = np.random.default_rng(0)
    images, labels = data.train.image.astype(np.float32) / 255, data.train.label
    batches = [
        {"image": images[rows], "label": labels[rows]}
        for rows in (rng.choice(len(images), BATCH, replace=False) for _ in range(STEPS))
    ]
    networks = {name: train(weight, batches) for name, weight in WEIGHTS.items()}
    test = data.test.image.astype(np.float32) / 255
    for name, params in networks.items():
        found = np.asarray(apply_fn(params, jnp.asarray(test)).logits).argmax(1)
        print(f"{name}: accuracy {np.mean(found == data.test.label):.3f}")
    draw_path(networks, test, data.test.label).savefig(FOLDER / "path.png", dpi=110)
    draw_gap(networks, test).savefig(FOLDER / "gap.png", dpi=110)


if __name__ == "__main__":
    main()
