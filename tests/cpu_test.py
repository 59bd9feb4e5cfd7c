"""Laws of semjax.cpu: the flag is set where XLA knows it, and the user's word stands."""

import os
import subprocess
import sys

import jax
import pytest

from semjax import cpu

FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
FLAGS = f"{FLAG} --xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No flags, and those that a test sets are gone afterwards."""
    monkeypatch.setenv("XLA_FLAGS", "")
    return monkeypatch


@pytest.fixture
def before_start(monkeypatch):
    """As if JAX had not looked for its devices yet, whatever ran before in this process."""
    monkeypatch.setattr(cpu, "_backend_runs", lambda: False)


def test_xla_takes_the_flag_beside_those_of_the_user():
    # In a process of its own: XLA reads its flags once, and ends the process over an unknown one.
    program = f"""
import os, jax, jax.numpy as jnp
from semjax import cpu
known = all(cpu._jaxlib_knows(name, in_xla) for name, _, in_xla in cpu._FLAGS)
print(cpu.set_flags() == cpu.set_flags() == known)
print(os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=false" + " {FLAGS}" * known)
images, filters = jnp.ones((8, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
def convolve(images, filters):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(images, filters, (1, 1), "SAME", dimension_numbers=numbers)
print("ynn_fusion" not in jax.jit(convolve).lower(images, filters).compile().as_text() or not known)
print(cpu.set_flags() == known)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "XLA_FLAGS": "--xla_cpu_enable_fast_math=false", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout.split(), done.returncode) == (["True"] * 4, 0), done.stderr


def test_the_flag_is_added_once(before_start, monkeypatch):
    monkeypatch.setattr(cpu, "_jaxlib_knows", lambda *texts: True)
    assert cpu.set_flags() and cpu.set_flags()
    assert os.environ["XLA_FLAGS"] == FLAGS


def test_an_environment_without_the_variable_is_one_without_flags(before_start, monkeypatch):
    monkeypatch.setattr(cpu, "_jaxlib_knows", lambda *texts: True)
    monkeypatch.delenv("XLA_FLAGS")
    assert cpu.set_flags()
    assert os.environ["XLA_FLAGS"] == FLAGS


@pytest.mark.parametrize("part", [0, 2])
def test_what_jaxlib_does_not_know_is_not_set(before_start, monkeypatch, part):
    unknown = list(cpu._FLAGS[1])
    unknown[part] = "xla_cpu_no_such_thing"
    monkeypatch.setattr(cpu, "_FLAGS", (cpu._FLAGS[0], tuple(unknown)))
    assert not cpu.set_flags()
    assert os.environ["XLA_FLAGS"] == FLAG


def test_what_jaxlib_knows_is_found_in_its_library(tmp_path, monkeypatch):
    assert cpu._jaxlib_knows("\0xla_cpu_enable_fast_math\0")
    assert not cpu._jaxlib_knows("\0xla_cpu_enable_fast_math\0", "xla_cpu_no_such_thing")
    monkeypatch.setattr(cpu.importlib.util, "find_spec", lambda name: None)
    assert not cpu._jaxlib_knows("xla")


@pytest.mark.parametrize(
    ("given", "expected", "holds"),
    [
        (f"{FLAGS},x", FLAGS + ",x", False),
        ("--xla_cpu_experimental_ynn_fusion_type=dot", None, False),
        (f"--xla_dump_to=/x  {FLAG}", f"--xla_dump_to=/x {FLAGS}", True),
        (f"--xla_dump_to=/x  {FLAGS}", f"--xla_dump_to=/x  {FLAGS}", True),
        ("/etc/xla_flags", "/etc/xla_flags", False),
    ],
)
def test_the_word_of_the_user_stands(before_start, environment, given, expected, holds):
    environment.setattr(cpu, "_jaxlib_knows", lambda *texts: True)
    environment.setenv("XLA_FLAGS", given)
    assert cpu.set_flags() is holds
    expected = expected or f"{given} {FLAGS.split()[1]}"
    assert os.environ["XLA_FLAGS"] == expected


def test_other_platforms_than_the_cpu_need_no_flag(before_start, monkeypatch):
    monkeypatch.setattr(cpu, "_jaxlib_knows", lambda *texts: True)
    for platforms, expected in (("cuda", False), ("tpu,cpu", True)):
        monkeypatch.setattr(cpu, "_config", type("Config", (), {"jax_platforms": platforms}))
        assert cpu.set_flags() is expected


def test_too_late_is_said_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(cpu, "_jaxlib_knows", lambda *texts: True)
    number = jax.config.jax_num_cpu_devices
    jax.devices()
    with pytest.warns(UserWarning, match=f"start the program with XLA_FLAGS={FLAGS}") as caught:
        assert not cpu.set_flags()
    assert caught[0].filename == __file__
    assert os.environ["XLA_FLAGS"] == ""
    assert jax.config.jax_num_cpu_devices == number
