"""FMix: the partner shows through blobs of a random low-frequency field."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.mixing import Mix
from semjax.pairing import Pairing
from semjax.policies.common import Common, Policy, WeightScope, image_size


def fmix(
    *,
    alpha: float = 1.0,
    decay_power: float = 3.0,
    reference_compat: bool = False,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """FMix: the partner shows through blobs of a random low-frequency field.

    A proportion is drawn from Beta(alpha, alpha), and a Gaussian field whose spectrum falls with
    the frequency. The pixels where the field is highest are the row's, as many as the proportion
    says, up or down by a fair coin. The weight is what the pixels got: the mean of the mask.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      decay_power: the power of the frequency by which the spectrum falls: larger means smoother.
      reference_compat: whether the field follows the authors' code instead of the paper. The code
        indexes another axis of its array than it means, so that its fields vary along the width
        with one period at most, see `fmix_field`.
      weight_scope: who shares a weight and a field, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have a mask of zeros and ones.

    Raises:
      ValueError: an option out of range; when called, images that are not [B, H, W, C] or groups
        that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies import fmix
      >>> mix = fmix()(jax.random.key(0), {"image": jnp.zeros((4, 8, 6, 3))})
      >>> mix.mask.shape, bool(jnp.allclose(mix.mask.mean((1, 2, 3)), mix.weight))
      ((4, 8, 6, 1), True)

    References:
      Harris et al. 2020, FMix (arXiv:2002.12047), section 4.
    """
    if not (math.isfinite(decay_power) and decay_power >= 0):
        raise ValueError(f"decay_power must be finite and at least 0; found {decay_power!r}")
    common = Common(
        alpha=alpha,
        weight_scope=weight_scope,
        probability=probability,
        pairing=pairing,
        groups=groups,
    )

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        height, width = image_size(batch)
        draw = common.draw(key, batch)
        spectrum = (height, _columns(width, reference_compat), 2)

        def sample(key: jax.Array, rows: int) -> jax.Array:
            noise_key, coin_key = jax.random.split(key)
            noise = jax.random.normal(noise_key, (rows, math.prod(spectrum)), jnp.float32)
            coin = jax.random.bernoulli(coin_key, 0.5, (rows, 1))
            return jnp.concatenate([noise, coin.astype(jnp.float32)], 1)

        drawn = draw.per_scope(sample)
        field = fmix_field(
            drawn[:, :-1].reshape(-1, *spectrum),
            height=height,
            width=width,
            decay_power=decay_power,
            reference_compat=reference_compat,
        )
        return draw.mix(fmix_mask(draw.weight, field, drawn[:, -1] > 0), groups)

    return policy


def fmix_field(
    noise: ArrayLike,
    *,
    height: int,
    width: int,
    decay_power: float = 3.0,
    reference_compat: bool = False,
) -> jax.Array:
    """The low-frequency field of FMix, up to a positive factor.

    The inverse real Fourier transform of (noise[..., 0] + i noise[..., 1]) / max(f, 1/M)^decay,
    where f = sqrt(f_y^2 + f_x^2) is the frequency in periods a pixel and M = max(H, W).
    Only the order of the field's values counts. As with NumPy's irfftn, half of the power of
    f_x = 0 (its anti-symmetric part) is dropped.

    With `reference_compat`, as the authors' code has it: rows f_y = 0 and f_y = 1/H of the scaled
    noise are taken for the real and the imaginary part, the axis of f_x for that of f_y, and the
    axis of 2 for the half-spectrum along the width. All the energy lies at |k_x| <= 1. (On an image
    one pixel high, where that code fails, row 0 is taken twice.)

    Args:
      noise: f32[B, H, K, 2], standard normal; K is W // 2 + 1, and one more, but at most W, for odd
        W with reference_compat.
      height: H.
      width: W.
      decay_power: the power by which the spectrum falls.
      reference_compat: see above.

    Returns:
      f32[B, H, W].

    Raises:
      ValueError: noise of another shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies.fmix import fmix_field
      >>> noise = jax.random.normal(jax.random.key(0), (1, 8, 4, 2))
      >>> fmix_field(noise, height=8, width=6).shape
      (1, 8, 6)

    References:
      Harris et al. 2020, FMix (arXiv:2002.12047), section 4.1.
    """
    noise = jnp.asarray(noise, jnp.float32)
    columns = _columns(width, reference_compat)
    if noise.shape[1:] != (height, columns, 2):
        raise ValueError(f"noise must be [B, {height}, {columns}, 2]; found shape {noise.shape}")
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :columns])
    # Times M, so that the greatest amplitude is 1 whatever the size and the power.
    amplitude = np.maximum(frequency * max(height, width), 1.0) ** -float(decay_power)
    scaled = noise * amplitude.astype(np.float32)[None, :, :, None]
    if reference_compat:
        real, imaginary = scaled[:, 0], scaled[:, 1 % height]
    else:
        real, imaginary = scaled[..., 0], scaled[..., 1]
    # Along the height, then along the width. A real field has no imaginary part at the lowest and
    # at the highest frequency; backends differ in what they do with one that is there.
    half = jnp.fft.ifft(jax.lax.complex(real, imaginary), n=height, axis=1)[..., : width // 2 + 1]
    order = np.arange(half.shape[2])[None, None]
    imaginary = jnp.where((order == 0) | (2 * order == width), 0, half.imag)
    return jnp.fft.irfft(jax.lax.complex(half.real, imaginary), n=width, axis=2)


def fmix_mask(weight: ArrayLike, field: ArrayLike, up: ArrayLike) -> jax.Array:
    """The mask of FMix: 1 at the ceil or floor(weight * H * W) highest values of a field.

    Of equal values the earlier ones, row by row, count as higher, so that the number is exact.

    Args:
      weight: f32[B], the proportion of the original asked for, in [0, 1].
      field: f32[B, H, W].
      up: bool[B], whether the number of pixels is rounded up.

    Returns:
      f32[B, H, W, 1], zeros and ones; |weight - mean| < 1 / (H * W).

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.fmix import fmix_mask
      >>> field = jnp.array([3.0, 1.0, 2.0]).reshape(1, 1, 3)
      >>> fmix_mask(jnp.array([0.5]), field, jnp.array([True])).ravel().tolist()
      [1.0, 0.0, 1.0]

    References:
      Harris et al. 2020, FMix (arXiv:2002.12047), section 4.1.
    """
    weight, field = jnp.asarray(weight, jnp.float32), jnp.asarray(field)
    values = field.reshape(len(field), -1)
    pixels = values.shape[1]
    number = jnp.where(jnp.asarray(up), jnp.ceil(weight * pixels), jnp.floor(weight * pixels))
    order = jnp.argsort(-values, axis=1, stable=True)
    highest = (jnp.arange(pixels)[None] < number[:, None]).astype(jnp.float32)
    mask = jnp.zeros(values.shape, jnp.float32)
    row = jnp.arange(len(values))[:, None]
    return mask.at[row, order].set(highest, unique_indices=True).reshape(*field.shape, 1)


def _columns(width: int, reference_compat: bool) -> int:
    """K, the frequencies along the width for which noise is drawn."""
    return min(width, width // 2 + 1 + (width % 2 if reference_compat else 0))
