"""A program's own process: set up before devices are looked for, and left whatever still runs."""

import os
import subprocess
import sys
from pathlib import Path

from experiments.lifecycle import exit_codes

BUSY = """
import sys, jax, jax.numpy as jnp
from experiments.lifecycle import process

def main():
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 2000, lambda _, x: jnp.tanh(x @ x), x))
    jax.block_until_ready(step(jnp.ones((100, 100))))
    state = jnp.ones((100, 100))
    for _ in range(50):
        state = step(state)
    print("busy")
    raise SystemExit({code})

process.run(main, cache="none")
print("came back")
"""


def test_a_program_that_stops_early_leaves_with_its_code_while_devices_are_busy():
    text = BUSY.format(code=3)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (3, "busy\n"), done.stderr


def test_an_error_that_nobody_thought_of_is_shown_whole_and_the_process_leaves():
    text = BUSY.replace("raise SystemExit({code})", "raise ValueError('a bug')")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (exit_codes.FAILED, "busy\n")
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ValueError: a bug\n")


def test_devices_are_not_looked_for_before_the_program_runs(tmp_path: Path):
    text = f"""
import os
before = os.environ.get("XLA_FLAGS", "")
from experiments.lifecycle import process
import jax

def main():
    jax.config.update("jax_num_cpu_devices", 3)
    print(jax.device_count("cpu"), jax.config.jax_compilation_cache_dir)

process.run(main, cache={str(tmp_path / "compiled")!r})
print(os.environ.get("XLA_FLAGS", "").startswith(before))
"""
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": ""},
    )
    assert done.stdout.splitlines() == [f"3 {tmp_path / 'compiled'}", "True"], done.stderr
