"""Makes every test strict: what JAX can catch at run time is an error here.

Pytest loads this file before it collects anything, so the settings are in force before the backend
starts, and hold for the doctests of semjax and experiments too. Warnings are errors as well: that
stands in pyproject.toml.
"""

import contextlib
import os
from collections.abc import Iterator

import compiling
import jax
import pytest

# Eight devices on any machine, so that a test can compare one device with many in one process.
jax.config.update("jax_num_cpu_devices", 8)
# Tests compile much and run little. The programs that tests start by themselves are optimised.
jax.config.update("jax_disable_most_optimizations", True)
# [B] with [B, K] must not broadcast by accident.
jax.config.update("jax_numpy_rank_promotion", "raise")
# Each key is used once.
jax.config.update("jax_debug_key_reuse", True)
# From here on the settings stand.
compiling.start_backend()


@pytest.fixture(autouse=True)
def _key_reuse_unchecked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Switches the key-reuse check off for tests marked `key_reuse_unchecked(reason)`."""
    marker = request.node.get_closest_marker("key_reuse_unchecked")
    if marker and not (marker.args and isinstance(marker.args[0], str)):
        pytest.fail("key_reuse_unchecked needs the reason as its argument", pytrace=False)
    with jax.debug_key_reuse(False) if marker else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what started programs compile in a folder of the session, and out of the user's."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # one for all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield
