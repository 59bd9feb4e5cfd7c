"""A trained run as a value: its directory read back into an apply function with weights.

>>> run = load("runs/digits-0")  # doctest: +SKIP
>>> run.predict(images).argmax(1)  # doctest: +SKIP
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import semjax
from experiments import config as config_lib
from experiments import models, sharding, untrusted
from experiments import program as program_lib
from experiments.checkpoint import CheckpointError, Checkpoints
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.datasets import loading
from experiments.datasets.data import Data
from experiments.layers import convolution
from semjax import augment

# Which weights of a run are read.
WEIGHTS = ("final", "best")

# The lists in inputs.json, each with the limits of its numbers: far beyond what any run has, far
# from what cannot be allocated or divided by.
_LISTS = (
    ("image_shape", int, 1, 2**14),
    ("mean", float, -1e9, 1e9),
    ("std", float, 1e-9, 1e9),
)
_MOST_CLASSES = 2**20
_MOST_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a model needs to know about its data, as the run directory keeps it in inputs.json.

    Attributes:
      num_classes: K.
      image_shape: (H, W, C).
      mean: C numbers, the mean of the training images in [0, 1].
      std: C numbers, their standard deviation.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: Data) -> "Inputs":
        """Those of a data set."""
        mean, std = (tuple(map(float, values)) for values in (data.mean, data.std))
        return cls(data.num_classes, tuple(data.image_shape), mean, std)

    def to_json(self) -> str:
        """The content of inputs.json; float32 numbers are kept exactly."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Inputs":
        """Reads inputs.json, whose numbers decide what is allocated and what images become.

        Args:
          path: the file.

        Returns:
          The inputs, every number of them one that a run can have written.

        Raises:
          ConfigError: it cannot be read, or is damaged.
        """
        try:
            found = untrusted.read_json(path, at_most=_MOST_BYTES)
            if not isinstance(found, dict):
                raise ValueError("it is not a JSON object")
            (classes,) = _numbers("num_classes", [found.get("num_classes")], int, 1, _MOST_CLASSES)
            shape, mean, std = (
                _numbers(name, found.get(name), kind, least, most)
                for name, kind, least, most in _LISTS
            )
            if len(shape) != 3:
                raise ValueError(f"image_shape is {list(shape)}, not [H, W, C]")
            if not len(mean) == len(std) == shape[2]:
                raise ValueError(
                    f"images have {shape[2]} channels, mean {len(mean)} and std {len(std)}"
                )
            return cls(classes, shape, mean, std)
        except (ValueError, OSError) as error:
            raise ConfigError(f"{path} is damaged: {untrusted.one_line(error)}") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model with its weights, in evaluation mode.

    Attributes:
      config: what the run was.
      inputs: its images and classes.
      step: the step of the checkpoint.
      weights: `final`, `ema` (the final moving average) or `best` (the best on validation).
      params: the parameters, on all devices.
      model_state: the BatchNorm statistics, or None.
    """

    config: Config
    inputs: Inputs
    step: int
    weights: str
    params: Any
    model_state: Any

    @functools.cached_property
    def module(self) -> nn.Module:
        """The Linen module."""
        # What a run insisted on need not be here where it is read.
        wanted = self.config.convolutions if self.config.convolutions != "onednn" else "auto"
        return models.create(
            self.config.model,
            self.inputs.num_classes,
            compute_dtype=self.config.compute_dtype,
            lowering=convolution.choose(
                wanted, platform=jax.default_backend(), devices=jax.device_count()
            ),
        )

    def apply_fn(
        self,
        params: Any,
        images: jax.Array,
        rng: jax.Array | None = None,
        hidden: semjax.outputs.Hidden | None = None,
    ) -> semjax.Outputs:
        """Runs the model in evaluation mode; it can be differentiated in params and images.

        Args:
          params: like `self.params`.
          images: uint8, or floating in [0, 1], [B,H,W,C]; scaled here as in training.
          rng: not used: nothing is random in evaluation mode.
          hidden: a hook for the hidden layers, as `semjax.make_sem_loss` hands it in.

        Returns:
          Outputs with logits, the pooled representation and the last feature map.
        """
        images = augment.normalise(images, np.array(self.inputs.mean), np.array(self.inputs.std))
        hook = semjax.interceptor(
            hidden or (lambda layer, x: x), models.hidden_modules(self.config.model)
        )
        with nn.intercept_methods(hook):
            features: Any = self.module.apply(
                {"params": params, **(self.model_state or {})}, images, train=False
            )
        return semjax.Outputs(
            logits=features.logits, representation=features.pooled, feature_map=features.spatial
        )

    def predict(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """The probabilities of the classes.

        Args:
          images: uint8, or floating in [0, 1], [N,H,W,C].
          batch_size: rows at a time; the last batch is padded, so that one program serves all.

        Returns:
          f32[N,K], rows that sum to 1.

        Raises:
          ValueError: images of another size than the model was trained on.
        """
        images = np.asarray(images)
        if images.shape[1:] != tuple(self.inputs.image_shape):
            raise ValueError(
                f"images must be [N, {', '.join(map(str, self.inputs.image_shape))}]; "
                f"found shape {images.shape}"
            )
        found = [np.zeros((0, self.inputs.num_classes), np.float32)]
        for start in range(0, len(images), batch_size):
            rows = images[start : start + batch_size]
            padded = np.zeros((batch_size, *images.shape[1:]), images.dtype)
            padded[: len(rows)] = rows
            found.append(np.asarray(self._probabilities(self.params, padded))[: len(rows)])
        return np.concatenate(found)

    @functools.cached_property
    def _probabilities(self) -> Any:
        return jax.jit(
            lambda params, images: jax.nn.softmax(
                self.apply_fn(params, images).logits.astype(jnp.float32)
            )
        )


def load(workdir: str | Path, *, weights: str = "final", data: Data | None = None) -> Trained:
    """Reads a run directory, finished or not, without writing to it.

    Args:
      workdir: the directory of a run of `experiments.train`.
      weights: `final`, those of the newest checkpoint that is not damaged, their moving average
        where the run keeps one; or `best`, the best on validation. Damaged ones that are passed
        over are named on stderr.
      data: the data set of the run, for a directory without inputs.json; None reads it from where
        the run found it.

    Returns:
      A Trained.

    Raises:
      ConfigError: no run there, a damaged directory, or no such weights.

    Example:
      >>> load("/nowhere")
      Traceback (most recent call last):
      ...
      experiments.command_line.flagfiles.ConfigError: --workdir=/nowhere: no run there: ...
    """
    workdir = Path(workdir)
    if weights not in WEIGHTS:
        raise ConfigError(f"--weights={weights}: must be one of {', '.join(WEIGHTS)}")
    config = config_of(workdir)
    inputs = _inputs(workdir, config, data)
    template = program_lib.state_template(
        config, inputs.image_shape, inputs.num_classes, sharding.make_mesh()
    )
    try:
        with Checkpoints(workdir, read_only=True) as checkpoints:
            step, state = _restore(checkpoints, template, weights)
    except CheckpointError as error:
        raise ConfigError(f"--workdir={workdir}: {error}") from error
    if step is None:
        kind = "checkpoint" if weights == "final" else "checkpoint chosen on validation"
        raise ConfigError(f"--workdir={workdir}: there is no {kind}")
    averaged = state.ema_params is not None
    return Trained(
        config=config,
        inputs=inputs,
        step=step,
        weights="ema" if averaged and weights == "final" else weights,
        params=state.ema_params if averaged else state.params,
        model_state=state.model_state,
    )


def _numbers(name: str, values: Any, kind: type, least: float, most: float) -> tuple[Any, ...]:
    """A list of numbers within limits; true and false are none, and NaN is within no limits."""
    if not isinstance(values, list) or any(
        type(value) not in (kind, int) or not least <= value <= most for value in values
    ):
        raise ValueError(f"{name} is {values!r}, not of numbers from {least:g} to {most:g}")
    return tuple(map(kind, values))


def config_of(workdir: str | Path) -> Config:
    """Reads what a run was.

    Args:
      workdir: its directory.

    Returns:
      Its Config.

    Raises:
      ConfigError: no run there, or its config.flags is damaged.
    """
    path = Path(workdir) / "config.flags"
    if not path.is_file():
        raise ConfigError(f"--workdir={workdir}: no run there: it has no config.flags")
    return config_lib.read(path)


def _restore(checkpoints: Checkpoints, template: Any, weights: str) -> tuple[int | None, Any]:
    """The step and its state; None where there is no such checkpoint."""
    if weights == "best":
        step = checkpoints.best_step()
        return step, step if step is None else checkpoints.restore(template, step=step)
    restored = checkpoints.restore_latest(template)
    if restored is None:
        return None, None
    for damaged in restored.set_aside:
        print(
            f"warning: step {damaged.step} is passed over, step {restored.step} is read instead: "
            f"{damaged.reason}",
            file=sys.stderr,
        )
    return restored.step, restored.state


def _inputs(workdir: Path, config: Config, data: Data | None) -> Inputs:
    path = workdir / "inputs.json"
    if path.is_file():
        return Inputs.read(path)
    if data is None:
        data = loading.of_run(config, download=False)
    return Inputs.of(data)
