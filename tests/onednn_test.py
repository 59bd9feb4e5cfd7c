"""The binding of oneDNN: what it refuses, and that its calls are safe where XLA makes them."""

import concurrent.futures
import ctypes
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.layers import onednn

needs_onednn = pytest.mark.skipif(onednn.unavailable() is not None, reason="oneDNN not installed")


def forward(images, kernel):
    return onednn.convolution(
        "forward",
        images,
        kernel,
        shape=images.shape,
        kernel=kernel.shape,
        stride=1,
        padding=0,
        dtype=kernel.dtype,
    )


@pytest.fixture
def unbound(monkeypatch):
    """No library bound yet, and none found before."""
    onednn._library.cache_clear()
    onednn.unavailable.cache_clear()
    yield monkeypatch
    onednn._library.cache_clear()
    onednn.unavailable.cache_clear()


def test_a_missing_library_is_named_with_what_to_install(unbound, tmp_path):
    unbound.setattr(onednn.sys, "prefix", str(tmp_path))
    unbound.setattr(onednn.site, "getuserbase", lambda: str(tmp_path))
    unbound.setattr(onednn.ctypes.util, "find_library", lambda name: None)
    assert f"libdnnl.so.3 in {tmp_path}/lib" in onednn.unavailable()
    assert "pip install onednn-cpu-gomp" in onednn.unavailable()
    with pytest.raises(OSError, match="oneDNN was not found"):
        onednn.version()


def test_a_file_that_is_no_library_is_a_reason_too(unbound, tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libdnnl.so.3").write_bytes(b"no library")
    unbound.setattr(onednn.sys, "prefix", str(tmp_path))
    assert str(tmp_path) in onednn.unavailable()


@needs_onednn
def test_another_major_release_is_refused(unbound):
    unbound.setattr(onednn, "_MAJOR", 99)
    unbound.setattr(onednn, "_find", lambda: ctypes.util.find_library("dnnl") or _wheel())
    assert "needed: release 99.x" in onednn.unavailable()


@needs_onednn
def test_convolutions_from_several_threads_do_not_disturb_each_other():
    kernels = [jnp.full((1, 1, 8, 8), float(place)) for place in range(4)]
    images = jnp.ones((2, 4, 4, 8))
    run = jax.jit(forward)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(lambda kernel: np.asarray(run(images, kernel)), kernels * 8))
    for place, output in enumerate(outputs):
        np.testing.assert_array_equal(output, 8.0 * (place % 4))


@needs_onednn
def test_what_onednn_cannot_take_is_an_error_when_traced(monkeypatch):
    with pytest.raises(ValueError, match=r"images \(1, 2, 2, 1\) and kernel \(1, 1, 2, 1\)"):
        forward(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 2, 1)))
    with pytest.raises(TypeError, match="float32 or bfloat16; found float16"):
        forward(jnp.ones((1, 2, 2, 1), jnp.float16), jnp.ones((1, 1, 1, 1)))
    monkeypatch.setattr(onednn, "_DIRECT", 12345)
    with pytest.raises(onednn.OneDnnError, match="returned status"):
        forward(jnp.ones((1, 3, 3, 1)), jnp.ones((1, 1, 1, 1)))


@needs_onednn
def test_a_process_may_end_while_convolutions_run():
    program = """
import jax, jax.numpy as jnp
from experiments.layers.convolution import convolve
w = jnp.ones((3, 3, 32, 32))
@jax.jit
def run(x):
    for _ in range(20):
        x = convolve(x, w, padding=1, lowering="onednn") + 1.5 * x
    return x
x = run(jnp.ones((32, 32, 32, 32))).block_until_ready()
for _ in range(100):
    x = run(x)
print("dispatched", flush=True)
"""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("dispatched\n", 0), done.stderr


def _wheel():
    return f"{onednn.sys.prefix}/lib/libdnnl.so.3"
