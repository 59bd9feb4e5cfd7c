"""Foreign functions in Python: what they read and write, in loops too, and how they fail."""

import ctypes

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.layers import foreign


def floats(address, count):
    return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (count,))


def add(first, second, result):
    floats(result, 3)[:] = floats(first, 3) + floats(second, 3)


def test_reads_two_arrays_and_writes_one_in_a_loop_too():
    foreign.register("test_add", add)
    call = jax.ffi.ffi_call("test_add", jax.ShapeDtypeStruct((3,), jnp.float32))

    @jax.jit
    def powers(x):
        return jax.lax.fori_loop(0, 4, lambda _, y: call(y, y), x)

    np.testing.assert_array_equal(powers(jnp.arange(3.0)), [0.0, 16.0, 32.0])


def test_an_exception_is_raised_by_the_computation_with_its_message():
    def fail(first, second, result):
        raise OSError("no such kernel")

    foreign.register("test_fail", fail)
    call = jax.ffi.ffi_call("test_fail", jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="test_fail: no such kernel"):
        jax.jit(call)(jnp.ones(3), jnp.ones(3)).block_until_ready()
