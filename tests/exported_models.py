"""Models with made-up weights to export, and the processes that run what was exported."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from experiments.config import Config
from experiments.trained import Inputs, Trained

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 5

# In a process that cannot import what the model was made with: the outputs of every folder.
READER = """
import sys
for name in ("flax", "semjax", "experiments", "optax", "chex", "orbax"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import numpy as np
import read_export
for folder in sys.argv[1:]:
    outputs = read_export.load(folder)(np.load(f"{folder}/../images.npy", allow_pickle=False))
    np.savez(f"{folder}/../read.npz", **outputs)
"""
# The same by the modules themselves, with the weights that were exported.
MODULES = """
import sys
import jax, numpy as np
from flax import traverse_util
from safetensors.numpy import load_file
from experiments import models, read_export
from semjax import augment
for folder in sys.argv[1:]:
    about = read_export.describe(folder)
    images, model = about["images"], about["model"]
    module = models.create(
        model["model"], model["num_classes"], compute_dtype=model["compute_dtype"]
    )
    def run(weights, x):
        x = augment.normalise(x, np.array(images["mean"]), np.array(images["std"]))
        weights = traverse_util.unflatten_dict(weights, sep=".")
        features = module.apply(weights, x, train=False)
        return {"logits": features.logits, "representation": features.pooled}
    outputs = jax.jit(run)(
        load_file(f"{folder}/model.safetensors"),
        np.load(f"{folder}/../images.npy", allow_pickle=False),
    )
    np.savez(f"{folder}/../expected.npz", **outputs)
"""


def made(name: str, image_shape: tuple[int, ...], compute_dtype: str = "float32") -> Trained:
    """A model whose every weight is random, of a size that keeps activations finite."""
    module = models.create(name, CLASSES, compute_dtype=compute_dtype)
    init = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False)
    )
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        if kind in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan_in = np.prod(leaf.shape[:-1]) if kind == "kernel" else 4.0
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan_in), jnp.float32)

    variables = dict(jax.tree_util.tree_map_with_path(draw, init))
    params = variables.pop("params")
    return Trained(
        config=Config(model=name, compute_dtype=compute_dtype),
        inputs=Inputs(CLASSES, image_shape, *2 * (image_shape[-1] * (0.3,),)),
        step=12,
        weights="final",
        params=params,
        model_state=variables or None,
    )


def some_images(image_shape: tuple[int, ...], rows: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (rows, *image_shape), np.uint8)


def run_program(program: str, folders: list[Path], **environment: str) -> None:
    """Runs a program with the folders as arguments, away from the checkout."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, folders)],
        cwd=folders[0].parent,
        env={**inherited, "PYTHONPATH": str(ROOT) if program == MODULES else "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def outputs(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """What `READER` ("read") or `MODULES` ("expected") has found for a folder."""
    with np.load(folder.parent / f"{kind}.npz", allow_pickle=False) as file:
        return dict(file)
