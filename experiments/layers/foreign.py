"""Foreign functions of XLA's CPU back end written in Python: what `jax.ffi` needs, with ctypes.

XLA calls a C function and hands it addresses; ctypes makes such a function of a Python one. Nothing
is copied, unlike with `jax.pure_callback`, and no compiler is needed. The structures are those of
xla/ffi/api/c_api.h, whose fields keep their places.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import jax

_METADATA_EXTENSION = 1
_VERSION = (0, 3)
_INTERNAL = 13

_Pointer = ctypes.c_void_p
# What XLA calls must never be collected.
_handlers: list[Any] = []


def register(name: str, run: Callable[[int, int, int], None]) -> None:
    """Makes a Python function a foreign function for `jax.ffi.ffi_call` on the CPU.

    It is called in a thread of XLA's with the interpreter's lock held, for the life of the process.
    An exception in it is raised by the computation, with its message.

    Args:
      name: of the foreign function, unused so far.
      run: `run(first, second, result)`, addresses of two arguments, which are read, and of a
        result, which is written; dense and row by row, in the shapes given to `ffi_call`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def copy(first, second, result):
      ...     ctypes.memmove(result, first, 8)
      >>> register("doctest_copy", copy)
      >>> call = jax.ffi.ffi_call("doctest_copy", jax.ShapeDtypeStruct((2,), jnp.float32))
      >>> jax.jit(call)(jnp.arange(2.0), jnp.zeros(1)).tolist()
      [0.0, 1.0]
    """

    def handle(frame_at: Any) -> int | None:
        frame = frame_at.contents
        if frame.extension and frame.extension.contents.type == _METADATA_EXTENSION:
            extension = ctypes.cast(frame.extension, ctypes.POINTER(_MetadataExtension))
            metadata = extension.contents.metadata.contents
            metadata.version.major, metadata.version.minor = _VERSION
            metadata.traits = 0
            return None
        try:
            first, second = (frame.arguments.buffers[place].contents.data for place in range(2))
            run(first, second, frame.results.buffers[0].contents.data)
        except Exception as error:  # An exception cannot pass through C: XLA raises it for us.
            message = f"{name}: {error}".encode()
            given = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL)
            return frame.api.contents.make_error(ctypes.byref(given))
        return None

    handler = _Handler(handle)
    _handlers.append(handler)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype, new_capsule.argtypes = (
        ctypes.py_object,
        [_Pointer, ctypes.c_char_p, _Pointer],
    )
    capsule = new_capsule(ctypes.cast(handler, _Pointer), None, None)
    jax.ffi.register_ffi_target(name, capsule, platform="cpu")


class _Extension(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", _Pointer)]


class _ApiVersion(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("version", _ApiVersion),
        ("traits", ctypes.c_uint32),
    ]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("dtype", ctypes.c_int),
        ("data", _Pointer),
        ("rank", ctypes.c_int64),
        ("dims", _Pointer),
    ]


class _Buffers(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("count", ctypes.c_int64),
        ("types", _Pointer),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]


class _ErrorArguments(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


_MakeError = ctypes.PYFUNCTYPE(_Pointer, ctypes.POINTER(_ErrorArguments))


class _Api(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", _Pointer),
        ("version", _ApiVersion),
        ("internal", _Pointer),
        ("make_error", _MakeError),
    ]


class _CallFrame(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("extension", ctypes.POINTER(_Extension)),
        ("api", ctypes.POINTER(_Api)),
        ("context", _Pointer),
        ("stage", ctypes.c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
    ]


_Handler = ctypes.CFUNCTYPE(_Pointer, ctypes.POINTER(_CallFrame))
