"""Convolutions, one primitive with several lowerings: the same values, to float32 rounding.

xla     `lax.conv_general_dilated` as it is; what accelerators run
phased  XLA, but the input gradient of a strided convolution as stride² small dense ones: XLA on
        a CPU multiplies the zeros between the strides
onednn  oneDNN's kernels for all three passes, on one CPU device
"""

import dataclasses
import functools
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

from experiments.layers import onednn

Lowering = Literal["xla", "phased", "onednn"]
LOWERINGS = ("xla", "phased", "onednn")
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def choose(wanted: str, *, platform: str, devices: int) -> Lowering:
    """The lowering for a program.

    Args:
      wanted: one of `LOWERINGS`, or "auto": on a CPU oneDNN's kernels where they can be used, else
        phases; elsewhere XLA's.
      platform: "cpu", "gpu", "tpu", ...
      devices: how many devices the program runs on. A kernel of oneDNN takes whole arrays of one
        device.

    Returns:
      The lowering.

    Raises:
      ValueError: "onednn" where it cannot be used, or another name; the message says why.

    Example:
      >>> choose("auto", platform="gpu", devices=1), choose("auto", platform="cpu", devices=8)
      ('xla', 'phased')
    """
    if wanted not in ("auto", *LOWERINGS):
        raise ValueError(f"must be one of auto, {', '.join(LOWERINGS)}; found {wanted!r}")
    if wanted in ("xla", "phased"):
        return cast(Lowering, wanted)
    reason = None
    if platform != "cpu":
        reason = f"it is for CPUs, and this program runs on {platform}"
    elif devices != 1:
        reason = f"it takes the arrays of one device, and this program has {devices}"
    else:
        reason = onednn.unavailable()
    if reason is None:
        return "onednn"
    if wanted == "onednn":
        raise ValueError(f"onednn cannot be used: {reason}")
    return "phased" if platform == "cpu" else "xla"


def convolve(
    images: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    lowering: Lowering = "xla",
) -> jax.Array:
    """A two-dimensional convolution (cross-correlation) with its gradients.

    Args:
      images: [N,H,W,C], float32 or bfloat16.
      kernel: [h,w,C,O], float32 or the dtype of the images; it is rounded to the latter.
      stride: in both directions, at least 1.
      padding: rows and columns of zeros on each side.
      lowering: see the module.

    Returns:
      [N,H',W',O] in the dtype of the images, H' = (H + 2 padding - h) // stride + 1.

    Example:
      >>> images, kernel = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
      >>> convolve(images, kernel, padding=1)[0, :, :, 0].tolist()
      [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    if lowering == "onednn":
        return _with_onednn(images, kernel, stride, padding)
    kernel = kernel.astype(images.dtype)
    if lowering == "phased" and stride > 1:
        return _with_phases(images, kernel, stride, padding)
    return _plain(images, kernel, stride, padding)


class Conv(nn.Module):
    """`flax.linen.Conv` for square kernels, same padding on each side and no bias.

    Parameters and their initial values are Linen's: `kernel` f32[size,size,C,width].
    """

    width: int
    size: int
    stride: int
    kernel_init: Any
    dtype: DTypeLike
    lowering: Lowering = "xla"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B,h,w,C] to [B,ceil(h/stride),ceil(w/stride),width], for an odd size."""
        shape = (self.size, self.size, x.shape[-1], self.width)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        return convolve(
            x.astype(self.dtype),
            kernel,
            stride=self.stride,
            padding=self.size // 2,
            lowering=self.lowering,
        )


def _plain(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return lax.conv_general_dilated(
        images, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=_LAYOUT
    )


# ---------------------------------------------------------------- strided gradients by phases


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_phases(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return _plain(images, kernel, stride, padding)


def _phases_forward(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> Any:
    return _plain(images, kernel, stride, padding), (images, kernel)


def _phases_backward(stride: int, padding: int, kept: Any, gradient: jax.Array) -> Any:
    images, kernel = kept
    to_kernel = jax.vjp(lambda kernel: _plain(images, kernel, stride, padding), kernel)[1]
    phases = [
        [_phase(images, kernel, stride, padding, gradient, a, b) for b in range(stride)]
        for a in range(stride)
    ]
    rows = [jnp.stack(row, axis=3) for row in phases]
    whole = jnp.stack(rows, axis=2)  # [N, H/s, s, W/s, s, C]
    size, height, _, width, _, channels = whole.shape
    whole = whole.reshape(size, height * stride, width * stride, channels)
    return whole[:, : images.shape[1], : images.shape[2]], to_kernel(gradient)[0]


def _phase(
    images: jax.Array,
    kernel: jax.Array,
    stride: int,
    padding: int,
    gradient: jax.Array,
    *phase: int,
) -> jax.Array:
    """The gradient at the pixels (a + stride i, b + stride j), a dense convolution of its own.

    Pixel a + stride q is read by output q + d through row k of the kernel where
    a + padding - k = stride d.
    """
    taps, pads, sizes = [], [], []
    for axis, start in enumerate(phase):
        read_by = [k for k in range(kernel.shape[axis]) if (start + padding - k) % stride == 0]
        read_by.reverse()  # so that the output they belong to grows
        # At least one row, as wide as the others; rows past the end are cut off by the caller.
        count = -(-images.shape[1 + axis] // stride)
        first = (start + padding - read_by[0]) // stride if read_by else 0
        outputs = gradient.shape[1 + axis]
        pads.append((-first, count - 1 + first + len(read_by) - outputs))
        taps.append(read_by)
        sizes.append(count)
    if not all(taps):
        return jnp.zeros((images.shape[0], *sizes, images.shape[3]), images.dtype)
    rows, columns = (jnp.array(each) for each in taps)
    part = kernel[rows][:, columns].swapaxes(2, 3)
    return lax.conv_general_dilated(gradient, part, (1, 1), pads, dimension_numbers=_LAYOUT)


_with_phases.defvjp(_phases_forward, _phases_backward)


# ---------------------------------------------------------------- oneDNN


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _with_onednn(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    return onednn.convolution(
        "forward",
        images,
        kernel,
        shape=images.shape,
        kernel=kernel.shape,
        stride=stride,
        padding=padding,
        dtype=kernel.dtype,
    )


def _onednn_forward(images: Any, kernel: Any, stride: int, padding: int) -> Any:
    output = _with_onednn(images.value, kernel.value, stride, padding)
    # Images are kept for the gradient of the kernel alone; of them the backward pass else needs the
    # shape, which is that of what it returns.
    wants_kernel = kernel.perturbed
    shape = jax.ShapeDtypeStruct(images.value.shape, images.value.dtype)
    return output, (_Shape(shape), images.value if wants_kernel else None, kernel.value)


def _onednn_backward(stride: int, padding: int, kept: Any, gradient: Any) -> Any:
    shape, images, kernel = kept
    if isinstance(gradient, jax.custom_derivatives.SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    run = functools.partial(
        onednn.convolution,
        shape=shape.of.shape,
        kernel=kernel.shape,
        stride=stride,
        padding=padding,
        dtype=kernel.dtype,
    )
    if images is None:
        return run("input_gradient", gradient, kernel), jnp.zeros_like(kernel)
    to_kernel = run("kernel_gradient", images, gradient)
    # Left to itself the compiler puts the gradients of all kernels last, and keeps every feature
    # map and its gradient until then.
    return run("input_gradient", gradient, kernel, after=to_kernel), to_kernel


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Shape:
    """A shape among what is kept, which else holds arrays only."""

    of: jax.ShapeDtypeStruct


_with_onednn.defvjp(_onednn_forward, _onednn_backward, symbolic_zeros=True)
