"""BatchNorm and the rectifier, with backward passes that keep and read as little as can be.

Automatic differentiation keeps what every operation of BatchNorm has read, and its backward pass
goes over the feature map several times. Both are bound by memory on any device. Written out, one
pass takes the two sums and a second one the gradient, from the input and the output, which the
layers before and after keep anyway.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike

_MOMENTUM = 0.9
_EPSILON = 1e-5
_ROWS = (0, 1, 2)


class BatchNorm(nn.Module):
    """`flax.linen.BatchNorm` over a feature map, with an optional rectifier in the same pass.

    Parameters (`scale`, `bias`) and statistics (`mean`, `var` in "batch_stats") are Linen's, and
    float32 whatever the compute dtype. Momentum 0.9 here is 0.1 in torch's. The running variance is
    the biased one (divided by n); torch stores the unbiased one (n - 1).

    References:
      Ioffe & Szegedy 2015, Batch Normalization, arXiv:1502.03167, Algorithm 1 and the gradients
      after it.
    """

    dtype: DTypeLike
    rectify: bool = False
    scale_init: Callable[..., Any] = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps [B,h,w,C] to the same shape in the compute dtype."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        x = x.astype(self.dtype)
        if not train:
            return _affine(x, *_coefficients(mean.value, var.value, scale, bias), self.rectify)
        y, batch_mean, batch_var = normalise(x, scale, bias, self.rectify)
        if not self.is_initializing():
            mean.value = _MOMENTUM * mean.value + (1 - _MOMENTUM) * lax.stop_gradient(batch_mean)
            var.value = _MOMENTUM * var.value + (1 - _MOMENTUM) * lax.stop_gradient(batch_var)
        return y


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, rectify: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises by the statistics of the batch: `max(0, scale * (x - mean) / sd + bias)`.

    Sums are taken in float32. The statistics returned are for keeping a running mean: no gradient
    goes through them.

    Args:
      x: [B,h,w,C], float32 or bfloat16.
      scale: f32[C].
      bias: f32[C].
      rectify: whether negative values become 0.

    Returns:
      The normalised map in the dtype of x, the mean f32[C] and the (biased) variance f32[C].

    Example:
      >>> x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
      >>> y, mean, var = normalise(x, jnp.ones(1), jnp.zeros(1))
      >>> y.ravel().round(3).tolist(), float(mean[0]), float(var[0])
      ([-1.0, 1.0], 2.0, 1.0)
    """
    return _forward(x, scale, bias, rectify)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, rectify: bool) -> Any:
    wide = x.astype(jnp.float32)
    mean = wide.mean(_ROWS)
    # As Linen: one pass over x for both; rounding can leave a tiny negative number.
    var = jnp.maximum(0.0, (wide * wide).mean(_ROWS) - mean * mean)
    y = _affine(x, *_coefficients(mean, var, scale, bias), rectify)
    return (y, mean, var), (x, y if rectify else None, scale, mean, var)


def _backward(rectify: bool, kept: Any, gradients: Any) -> Any:
    x, y, scale, mean, var = kept
    g = gradients[0].astype(jnp.float32)
    if rectify:
        g = jnp.where(y > 0, g, 0.0)
    inverse = lax.rsqrt(var + _EPSILON)
    standard = (x.astype(jnp.float32) - _wide(mean)) * _wide(inverse)
    to_bias, to_scale = g.sum(_ROWS), (g * standard).sum(_ROWS)
    count = x.size // x.shape[-1]
    shared = (_wide(to_bias) + standard * _wide(to_scale)) / count
    return (_wide(scale * inverse) * (g - shared)).astype(x.dtype), to_scale, to_bias


normalise.defvjp(_forward, _backward)


@jax.custom_vjp
def rectify(x: jax.Array) -> jax.Array:
    """`max(0, x)`; its backward pass reads the output, so that the input need not be kept.

    Args:
      x: any shape.

    Returns:
      The same shape and dtype.

    Example:
      >>> rectify(jnp.array([-1.0, 2.0])).tolist()
      [0.0, 2.0]
    """
    return jnp.maximum(x, 0)


def _rectify_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = rectify(x)
    return y, y


def _rectify_backward(y: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (jnp.where(y > 0, gradient, 0),)


rectify.defvjp(_rectify_forward, _rectify_backward)


def _coefficients(
    mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
    factor = scale * lax.rsqrt(var + _EPSILON)
    return factor, bias - mean * factor


def _affine(x: jax.Array, factor: jax.Array, offset: jax.Array, rectify: bool) -> jax.Array:
    y = x.astype(jnp.float32) * _wide(factor) + _wide(offset)
    return (jnp.maximum(y, 0.0) if rectify else y).astype(x.dtype)


def _wide(channels: jax.Array) -> jax.Array:
    """[C] as [1,1,1,C]."""
    return channels[None, None, None]
