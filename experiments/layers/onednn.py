"""oneDNN's convolutions as XLA custom calls: the kernels that PyTorch runs on a CPU, under jit.

XLA's own convolutions reach about half of the speed on a CPU in float32, less for few channels, and
gain nothing from bfloat16. oneDNN comes as a library without Python around it
(`pip install onednn-cpu-gomp`); it is found and bound here with ctypes, so that no compiler is
needed. What runs in a step is one call of C per convolution; the Python around it takes some 20
microseconds.

Layouts are those of Linen: images NHWC, kernels HWIO. What is computed is checked against XLA in
the tests; what is chosen when stands in `experiments.layers.convolution`.
"""

import atexit
import contextlib
import ctypes
import ctypes.util
import dataclasses
import functools
import os
import site
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.layers import foreign

Pass = Literal["forward", "input_gradient", "kernel_gradient"]

# Constants of dnnl_types.h, the same in every release 3.x: the C interface is stable in a major.
_MAJOR = 3
_OWN_THREADS = (1, 2, 4)  # sequential, OpenMP, TBB; another runtime needs threads from its caller
_CPU = 1
_IN_ORDER = 1
_USER_SCRATCHPAD = 1
_ANY_LAYOUT = 1
_FORWARD_TRAINING = 64
_DIRECT = 1
_TYPES = {"float32": 3, "bfloat16": 2}
_WEIGHTS_LAYOUT, _WEIGHTS_GRADIENT_LAYOUT, _SCRATCHPAD_LAYOUT = 131, 132, 136
_SOURCE, _TARGET, _WEIGHTS, _SCRATCHPAD = 1, 17, 33, 80
_SOURCE_GRADIENT, _TARGET_GRADIENT, _WEIGHTS_GRADIENT = 129, 145, 161
_ALIGNMENT = 64

_Pointer = ctypes.c_void_p


class OneDnnError(RuntimeError):
    """oneDNN refused a call."""


@functools.cache
def unavailable() -> str | None:
    """Why oneDNN cannot be used, or None where it can.

    Example:
      >>> unavailable() is None or "oneDNN" in unavailable()
      True
    """
    try:
        _library()
    except OSError as error:
        return str(error)
    return None


def version() -> str:
    """The release of oneDNN, such as "3.2.0".

    Raises:
      OSError: there is none, see `unavailable`.
    """
    return _library().version


def convolution(
    kind: Pass,
    first: jax.Array,
    second: jax.Array,
    *,
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int,
    padding: int,
    dtype: Any,
    after: jax.Array | None = None,
) -> jax.Array:
    """One of the three passes of a convolution, as a custom call of the CPU back end.

    Products are summed in float32 whatever the dtype of the images. A float32 kernel of bfloat16
    images is rounded to bfloat16 here; its gradient comes in float32, never rounded.

    Args:
      kind: "forward" of (images, kernel), "input_gradient" of (gradient, kernel) or
        "kernel_gradient" of (images, gradient).
      first: NHWC.
      second: HWIO in the first two passes, NHWC in the third.
      shape: of the images, (N, H, W, C).
      kernel: of the kernel, (h, w, C, O).
      stride: in both directions.
      padding: rows and columns of zeros on each side.
      dtype: of the kernel, or of its gradient.
      after: an array that the pass waits for without reading it.

    Returns:
      The output NHWC, the gradient of the images or the gradient of the kernel.

    Raises:
      OSError: there is no oneDNN.
      TypeError: images or a kernel that are neither float32 nor bfloat16.
      ValueError: arrays of other shapes than the convolution has.
      OneDnnError: it does not know such a convolution.

    Example:
      >>> images, kernel = jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1))
      >>> if unavailable() is None:
      ...     out = convolution("forward", images, kernel, shape=(1, 2, 2, 1), kernel=(1, 1, 1, 1),
      ...                       stride=1, padding=0, dtype=jnp.float32)
    """
    problem = _Problem(
        kind,
        shape,
        kernel,
        stride,
        padding,
        first.dtype.name,
        jnp.dtype(dtype).name,
    )
    for found in (problem.dtype, problem.kernel_dtype):
        if found not in _TYPES:
            raise TypeError(f"oneDNN: needs {' or '.join(_TYPES)}; found {found}")
    operands = {
        "forward": (shape, kernel),
        "input_gradient": (problem.output, kernel),
        "kernel_gradient": (shape, problem.output),
    }[kind]
    # The addresses alone reach oneDNN: it would read past the end of a smaller array.
    if (first.shape, second.shape) != operands or kernel[2] != shape[3]:
        raise ValueError(
            f"{kind} of images {shape} and kernel {kernel}: needs arrays of shapes {operands}; "
            f"found {first.shape} and {second.shape}"
        )
    result = {
        "forward": jax.ShapeDtypeStruct(problem.output, first.dtype),
        "input_gradient": jax.ShapeDtypeStruct(shape, first.dtype),
        "kernel_gradient": jax.ShapeDtypeStruct(kernel, dtype),
    }[kind]
    # Row by row under vmap: a kernel of oneDNN has one shape, and its threads work in loops too.
    call = jax.ffi.ffi_call(_target(problem), result, vmap_method="sequential")
    return call(first, second, *([] if after is None else [after]))


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What a compiled kernel of oneDNN is for."""

    kind: Pass
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    padding: int
    dtype: str
    kernel_dtype: str

    @property
    def output(self) -> tuple[int, ...]:
        rows, height, width, _ = self.images
        return (rows, self._fits(height, 0), self._fits(width, 1), self.kernel[3])

    def _fits(self, size: int, axis: int) -> int:
        return (size + 2 * self.padding - self.kernel[axis]) // self.stride + 1

    def padding_after(self, axis: int) -> int:
        """Zeros after the last row or column that the last window reads; -1 where it reads less."""
        last = (self.output[1 + axis] - 1) * self.stride + self.kernel[axis]
        return last - self.images[1 + axis] - self.padding

    @property
    def name(self) -> str:
        """Of the custom call: the same in every process, so that compiled programs can be kept."""
        images, kernel = ("x".join(map(str, sizes)) for sizes in (self.images, self.kernel))
        return (
            f"semjax_onednn_{self.kind}_{self.dtype}_{self.kernel_dtype}_{images}_{kernel}"
            f"_s{self.stride}_p{self.padding}"
        )


@functools.cache
def _target(problem: _Problem) -> str:
    """Registers the custom call of a problem, once a process, and returns its name."""
    foreign.register(problem.name, _Convolution(_library(), problem))
    return problem.name


class _Library:
    """The C interface of oneDNN, with an engine, a stream and the memory its kernels share."""

    def __init__(self, path: str) -> None:
        # Through `held` the interpreter's lock is kept: these calls only fill in a pointer. Through
        # `free`, which is for the work itself, other threads of Python go on.
        self.held, self.free = ctypes.PyDLL(path), ctypes.CDLL(path)
        self.held.dnnl_version.restype = ctypes.POINTER(_Version)
        found = self.held.dnnl_version().contents
        self.version = f"{found.major}.{found.minor}.{found.patch}"
        if found.major != _MAJOR or found.cpu_runtime not in _OWN_THREADS:
            raise OSError(
                f"oneDNN at {path} is release {self.version} with CPU runtime {found.cpu_runtime}; "
                f"needed: release {_MAJOR}.x with threads of its own (pip install onednn-cpu-gomp)"
            )
        self.held.dnnl_primitive_desc_query_md.restype = _Pointer
        self.held.dnnl_memory_desc_get_size.restype = ctypes.c_size_t
        self.engine = self.new("dnnl_engine_create", _CPU, ctypes.c_size_t(0))
        self.stream = self.new("dnnl_stream_create", self.engine, _IN_ORDER)
        self.attributes = self.new("dnnl_primitive_attr_create")
        self.call("dnnl_primitive_attr_set_scratchpad_mode", self.attributes, _USER_SCRATCHPAD)
        # One convolution at a time: each uses every core, and they share the scratchpad.
        self.lock = threading.Lock()
        self.closing = False
        self._scratch = _Aligned(0)

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self.held, name)(*arguments)
        if status:
            raise OneDnnError(f"oneDNN {self.version}: {name} returned status {status}")

    def new(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Calls a function that makes an object; objects live as long as the process."""
        made = _Pointer()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def execute(self, primitive: ctypes.c_void_p, arguments: Any) -> None:
        status = self.free.dnnl_primitive_execute(primitive, self.stream, len(arguments), arguments)
        if status:
            raise OneDnnError(f"oneDNN {self.version}: a kernel returned status {status}")

    def scratch(self, size: int) -> int:
        if size > self._scratch.size:
            self._scratch = _Aligned(size)
        return self._scratch.address

    def layout(self, sizes: tuple[int, ...], dtype: str, order: tuple[int, ...] | None) -> Any:
        """A memory descriptor of sizes; `order` names its axes from the slowest to the fastest."""
        dims = _dims(*sizes)
        make = functools.partial(self.new, "dnnl_memory_desc_create_with_strides")
        if order is None:
            make = functools.partial(self.new, "dnnl_memory_desc_create_with_tag")
            return make(len(sizes), dims, _TYPES[dtype], _ANY_LAYOUT)
        strides, stride = [0] * len(sizes), 1
        for axis in reversed(order):
            strides[axis], stride = stride, stride * sizes[axis]
        return make(len(sizes), dims, _TYPES[dtype], _dims(*strides))

    def memory(self, layout: Any, address: int = 0) -> ctypes.c_void_p:
        return self.new("dnnl_memory_create", layout, self.engine, _Pointer(address))

    def reorder(self, source: Any, target: Any) -> ctypes.c_void_p:
        made = self.new(
            "dnnl_reorder_primitive_desc_create", source, self.engine, target, self.engine, None
        )
        return self.new("dnnl_primitive_create", made)


class _Convolution:
    """One pass of one convolution: oneDNN's kernel, and the copies of its weights.

    The kernel wants weights in a layout of its own, so they are copied there before each call, or
    from there after it: they are small beside the images, which stay where they are.
    """

    def __init__(self, library: _Library, problem: _Problem) -> None:
        self.library, self.kind = library, problem.kind
        rows, height, width, channels = problem.images
        height_of_kernel, width_of_kernel, _, outputs = problem.kernel
        _, height_out, width_out, _ = problem.output
        images = library.layout((rows, channels, height, width), problem.dtype, (0, 2, 3, 1))
        output = library.layout((rows, outputs, height_out, width_out), problem.dtype, (0, 2, 3, 1))
        sizes = (outputs, channels, height_of_kernel, width_of_kernel)
        given = library.layout(sizes, problem.kernel_dtype, (2, 3, 1, 0))
        free = library.layout(sizes, problem.dtype, None)
        window = (
            _dims(problem.stride, problem.stride),
            _dims(0, 0),
            _dims(problem.padding, problem.padding),
            _dims(problem.padding_after(0), problem.padding_after(1)),
        )
        forward = made = library.new(
            "dnnl_convolution_forward_primitive_desc_create",
            library.engine,
            _FORWARD_TRAINING,
            _DIRECT,
            images,
            free,
            None,
            output,
            *window,
            library.attributes,
        )
        if problem.kind == "input_gradient":
            made = library.new(
                "dnnl_convolution_backward_data_primitive_desc_create",
                library.engine,
                _DIRECT,
                images,
                free,
                output,
                *window,
                forward,
                library.attributes,
            )
        elif problem.kind == "kernel_gradient":
            made = library.new(
                "dnnl_convolution_backward_weights_primitive_desc_create",
                library.engine,
                _DIRECT,
                images,
                library.layout(sizes, problem.kernel_dtype, None),
                None,
                output,
                *window,
                forward,
                library.attributes,
            )
        self._primitive = library.new("dnnl_primitive_create", made)
        of_gradient = problem.kind == "kernel_gradient"
        wanted = self._query(made, _WEIGHTS_GRADIENT_LAYOUT if of_gradient else _WEIGHTS_LAYOUT)
        scratchpad = self._query(made, _SCRATCHPAD_LAYOUT)
        self._scratch_size = library.held.dnnl_memory_desc_get_size(scratchpad)
        self._images, self._output = library.memory(images), library.memory(output)
        self._given, self._scratchpad = library.memory(given), library.memory(scratchpad)
        weights = self._given
        self._copy: tuple[ctypes.c_void_p, Any] | None = None
        if not library.held.dnnl_memory_desc_equal(given, wanted):
            self._own = _Aligned(library.held.dnnl_memory_desc_get_size(wanted))
            weights = library.memory(wanted, self._own.address)
            ends = (wanted, given) if of_gradient else (given, wanted)
            memories = (weights, self._given) if of_gradient else (self._given, weights)
            places = zip((_SOURCE, _TARGET), memories, strict=True)
            self._copy = (library.reorder(*ends), _arguments(*places))
        self._arguments = _arguments(
            *zip(
                {
                    "forward": (_SOURCE, _WEIGHTS, _TARGET),
                    "input_gradient": (_SOURCE_GRADIENT, _WEIGHTS, _TARGET_GRADIENT),
                    "kernel_gradient": (_SOURCE, _WEIGHTS_GRADIENT, _TARGET_GRADIENT),
                }[problem.kind],
                (self._images, weights, self._output),
                strict=True,
            ),
            (_SCRATCHPAD, self._scratchpad),
        )

    def __call__(self, first: int, second: int, result: int) -> None:
        """Runs the pass on the addresses of its two arguments and its result."""
        images, kernel, output = {
            "forward": (first, second, result),
            "input_gradient": (result, second, first),
            "kernel_gradient": (first, result, second),
        }[self.kind]
        library = self.library
        point = library.held.dnnl_memory_set_data_handle
        with library.lock:
            if library.closing:
                raise OneDnnError("the process is ending")
            point(self._images, _Pointer(images))
            point(self._output, _Pointer(output))
            point(self._given, _Pointer(kernel))
            point(self._scratchpad, _Pointer(library.scratch(self._scratch_size)))
            if self._copy and self.kind != "kernel_gradient":
                library.execute(*self._copy)
            library.execute(self._primitive, self._arguments)
            if self._copy and self.kind == "kernel_gradient":
                library.execute(*self._copy)

    def _query(self, made: Any, what: int) -> ctypes.c_void_p:
        return _Pointer(self.library.held.dnnl_primitive_desc_query_md(made, what, 0))


class _Aligned:
    """Memory that starts at a multiple of a cache line."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bytes = np.empty(size + _ALIGNMENT, np.uint8)
        self.address = -(-self._bytes.ctypes.data // _ALIGNMENT) * _ALIGNMENT


@functools.cache
def _library() -> _Library:
    # libgomp reads this when it is loaded. Its threads would else turn in a loop after each kernel,
    # on the cores that XLA's threads then need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    library = _Library(_find())
    atexit.register(_close, library)
    return library


def _close(library: _Library) -> None:
    """Lets computations that run when the process ends come to their end, at once.

    Their next convolution would else wait for an interpreter that is gone, for ever.
    """
    library.closing = True
    for array in jax.live_arrays():
        with contextlib.suppress(Exception):  # what failed or was donated is at its end already
            array.block_until_ready()


def _find() -> str:
    """The library of the wheel in this environment, or the system's."""
    name = f"libdnnl.so.{_MAJOR}"
    for folder in (sys.prefix, site.getuserbase()):
        path = Path(folder, "lib", name)
        if path.exists():
            return str(path)
    found = ctypes.util.find_library("dnnl")
    if found is None:
        raise OSError(
            f"oneDNN was not found ({name} in {sys.prefix}/lib, or on the system): "
            "pip install onednn-cpu-gomp"
        )
    return found


def _dims(*sizes: int) -> Any:
    return (ctypes.c_int64 * 12)(*sizes)


def _arguments(*pairs: tuple[int, ctypes.c_void_p]) -> Any:
    return (_Argument * len(pairs))(*(_Argument(place, memory) for place, memory in pairs))


class _Version(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
        ("patch", ctypes.c_int),
        ("hash", ctypes.c_char_p),
        ("cpu_runtime", ctypes.c_uint),
        ("gpu_runtime", ctypes.c_uint),
    ]


class _Argument(ctypes.Structure):
    _fields_ = [("place", ctypes.c_int), ("memory", _Pointer)]
