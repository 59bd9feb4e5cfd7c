"""The process of a subject in JAX, set up as the trainer sets up its own."""

from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from experiments import config as config_lib
from experiments.config import Config
from experiments.layers import convolution, onednn
from experiments.lifecycle import compile_cache
from semjax import cpu


def start(options: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """Chooses the back end's flags and the compile cache, before the back end starts.

    Args:
      options: flags of the trainer, `--` left out.

    Returns:
      The config that the flags make, and facts about the process.
    """
    cpu.set_flags()
    values = flags.FlagValues()
    config_lib.define_flags(values)
    config = config_lib.parse(["benchmark", *(f"--{option}" for option in options)], values)
    compile_cache.enable(config.compile_cache)
    lowering = convolution_lowering(config)
    convolutions = f"oneDNN {onednn.version()}" if lowering == "onednn" else lowering
    # As PyTorch calls it.
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    device = jax.devices()[0].device_kind
    return config, {"platform": platform, "device": device, "convolutions": convolutions}


def convolution_lowering(config: Config) -> convolution.Lowering:
    """What computes the convolutions of a run, as the trainer chooses.

    Args:
      config: what the run is.

    Returns:
      A lowering.
    """
    return convolution.choose(
        config.convolutions, platform=jax.default_backend(), devices=jax.device_count()
    )
