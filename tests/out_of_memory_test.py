"""Memory that was not enough: told from other errors, with advice that the flags allow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import Config
from experiments.training import out_of_memory


def test_a_device_and_a_host_without_memory_are_known():
    with pytest.raises(jax.errors.JaxRuntimeError) as device:
        jnp.zeros(2**46).block_until_ready()
    with pytest.raises(MemoryError) as host:
        np.zeros(2**52)
    assert out_of_memory.is_meant(device.value) and out_of_memory.is_meant(host.value)


def test_other_errors_are_not_taken_for_it():
    for error in (
        jax.errors.JaxRuntimeError("INTERNAL: the device is gone"),
        RuntimeError("RESOURCE_EXHAUSTED is a word"),
        OSError(28, "No space left on device"),
    ):
        assert not out_of_memory.is_meant(error)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(model="resnet18"),
        Config(model="resnet18", remat=True, compute_dtype="bfloat16", device_data_mib=0),
        Config(policy="none", sem_weight=0.0),
        Config(pairing_groups=4, batch_size=16),
        Config(pairing_groups=4, batch_size=16, sem_fraction=0.5),
        Config(batch_size=1, policy="none", sem_weight=0.0),
        Config(share_prefix=True, policy_options="mixup.layers=(1,)"),
    ],
    ids=range(8),
)
def test_each_advice_is_a_config_that_can_be_had_and_is_not_had_yet(config: Config):
    advised = out_of_memory.advice(config).split(", ")
    assert advised
    for flag in advised:
        name, _, text = flag.removeprefix("--").partition("=")
        old = getattr(config, name)
        new = True if isinstance(old, bool) else type(old)(text)
        assert new != old
        dataclasses.replace(config, **{name: new})  # raises where flags contradict each other


def test_the_gap_is_made_cheaper_where_there_is_one():
    config = Config(pairing_groups=4, batch_size=16, clean_weight=0.0)
    with_gap = out_of_memory.advice(config)
    assert "--stop_gradient=clean" in with_gap and "--sem_fraction=0.5" in with_gap
    without = out_of_memory.advice(dataclasses.replace(config, sem_weight=0.0))
    assert "--stop_gradient" not in without and "--sem_fraction" not in without
    with_label_loss = out_of_memory.advice(dataclasses.replace(config, clean_weight=1.0))
    assert "--stop_gradient" not in with_label_loss and "--sem_fraction" not in with_label_loss
