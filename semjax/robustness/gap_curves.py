"""The gap of semantic equivariance as a function of the mixing weight.

What the method claims is that the representation of a mix is the mix of the representations. A
curve over the weight shows where it holds: the gap vanishes at weight 1, where nothing is mixed.
A batch gives `GapSums`, these add up (`+`), and their total gives the `GapCurve`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.checks import checked_integer
from semjax.mixing import Mix, interpolate, interpolate_spatial
from semjax.robustness.values import check_values, checked_rows
from semjax.rows import Rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GapSums:
    """Sums over the rows of each bin of the mixing weight, a pytree of float32.

    With M bins, bin m = 0..M-1 holds the weights in [m / M, (m + 1) / M), and the last one 1 too.

    Attributes:
      gap: f32[M], of the mean squared gaps of the rows.
      scale: f32[M], of the mean squared deviations of the rows' targets from the mean target.
      weight: f32[M], of the weights.
      rows: f32[M], how many rows.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> from semjax.robustness.gap_curves import gap_sums
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.25, 1.0]))
      >>> r = jnp.array([[0.0], [4.0]])
      >>> sums = gap_sums(mix, r, semjax.interpolate(mix, r), bins=2)
      >>> (sums + sums).rows
      Array([2., 2.], dtype=float32)
    """

    gap: jax.Array
    scale: jax.Array
    weight: jax.Array
    rows: jax.Array

    def __add__(self, other: Any) -> "GapSums":
        """Adds the sums of two batches."""
        if not isinstance(other, GapSums):
            return NotImplemented
        # Checked here because a lone bin would broadcast to any number of them.
        if self.rows.shape != other.rows.shape:
            raise ValueError(
                "GapSums must have the same bins to be added; "
                f"found {self.rows.shape} and {other.rows.shape}"
            )
        return jax.tree.map(jnp.add, self, other)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class GapCurve:
    """Means over the rows of each bin, and over all rows.

    Attributes:
      weight: f32[M], the mean weight of the bin's rows; NaN in an empty bin.
      gap: f32[M], their mean squared gap; NaN in an empty bin.
      normalised_gap: f32[M], gap over scale; NaN in an empty bin.
      rows: f32[M], how many rows.
      mean_gap: f32[], over all rows.
      mean_normalised_gap: f32[], all gaps over all scales.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> from semjax.robustness.gap_curves import gap_curve, gap_sums
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.75, 1.0]))
      >>> r = jnp.array([[0.0], [4.0]])
      >>> gap_curve(gap_sums(mix, r, semjax.interpolate(mix, r), bins=2)).gap
      Array([nan,  0.], dtype=float32)
    """

    weight: jax.Array
    gap: jax.Array
    normalised_gap: jax.Array
    rows: jax.Array
    mean_gap: jax.Array
    mean_normalised_gap: jax.Array


def gap_sums(
    mix: Mix,
    representation: ArrayLike,
    mixed_representation: ArrayLike,
    *,
    bins: int = 10,
    spatial: bool = False,
    valid: ArrayLike | None = None,
) -> GapSums:
    """The gaps of a batch, summed by mixing weight.

    gap_i = mean over features of (p_i - t_i)^2,  scale_i = mean over features of (t_i - mean t)^2

    where p is the mixed representation, t = interpolate(mix, representation) the target, and mean t
    that of the batch's valid rows. The law of the scale: replace the encoder r by a r + b, any
    number a and vector b, and both sums grow by a^2. So gap / scale tells encoders apart by what
    they do, not by the size of their features. It is the share of the targets' variance that the
    mixed representation misses; 1 is what the mean target would score. Summed over the bins it is
    the `normalised_mse` of `semjax.losses.gap` (but for its 1e-6).

    The mean is the batch's own, so the scale of B rows comes out about 1 - 1 / B of that of a large
    batch: compare curves made with one batch size.

    Args:
      mix: the mix that the mixed inputs were made with; its weights bin the rows. A row that is its
        own partner has no gap at any weight: leave it out by `valid` if there are many.
      representation: floating [B, D] or [B, h, w, D], of the inputs before mixing.
      mixed_representation: floating, of the same shape, of the mixed inputs.
      bins: M, static.
      spatial: whether the target is mixed cell by cell (`interpolate_spatial`), for feature maps
        and mixes with a mask or warps.
      valid: bool[B], or None for all. Rows that are not valid add nothing, whatever they hold; a
        valid row's partner is valid.

    Returns:
      The GapSums.

    Raises:
      TypeError: representations that are not floating.
      ValueError: arguments of another shape, no rows, bins less than 1, or, in an eager call, valid
        rows that are not finite, or weights outside [0, 1].

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> from semjax.robustness.gap_curves import gap_sums
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.5, 0.5]))
      >>> gap_sums(mix, jnp.array([[0.0], [4.0]]), jnp.array([[3.0], [2.0]]), bins=2).gap
      Array([0., 1.], dtype=float32)

    References:
      Han et al. 2023, Semantic Equivariant Mixup (arXiv:2308.06451), for the gap; the curve and its
      scale are ours.
    """
    bins = checked_integer("bins", bins)
    if bins < 1:
        raise ValueError(f"bins must be at least 1; found {bins}")
    rows = Rows(mix.weight.shape[0], valid)
    own, mixed = (
        _checked(name, value, rows)
        for name, value in (
            ("representation", representation),
            ("mixed_representation", mixed_representation),
        )
    )
    if own.shape != mixed.shape:
        raise ValueError(
            "representation and mixed_representation must have one shape; "
            f"found {own.shape} and {mixed.shape}"
        )
    weight = mix.weight.astype(jnp.float32)
    check_values("mix.weight", (weight >= 0) & (weight <= 1) | ~rows.valid, "in [0, 1]")

    target = (interpolate_spatial if spatial else interpolate)(mix, own)
    target, mixed = rows.zero_padding(target), rows.zero_padding(mixed)
    features = tuple(range(1, target.ndim))
    gap = jnp.square(mixed - target).mean(features)
    scale = jnp.square(target - rows.global_mean(target)[None]).mean(features)
    # Compared with the edges, not multiplied by M and rounded, which would misplace edges.
    edges = np.arange(1, bins, dtype=np.float32) / np.float32(bins)
    member = jax.nn.one_hot(jnp.searchsorted(edges, weight, side="right"), bins)
    member = member * rows.valid[:, None]

    def total(values: jax.Array) -> jax.Array:
        return (member * rows.zero_padding(values)[:, None]).sum(0)

    return GapSums(
        gap=total(gap), scale=total(scale), weight=total(weight), rows=total(jnp.ones_like(weight))
    )


def gap_curve(sums: GapSums) -> GapCurve:
    """Turns sums into means, by bin and over all.

    gap_m = sum of gaps / rows,  normalised_gap_m = sum of gaps / sum of scales

    A scale of 0, of targets that are all the same, makes the normalised gap NaN or infinite: a
    collapsed representation is equivariant and says nothing.

    Args:
      sums: the total over whatever is to be shown.

    Returns:
      The GapCurve.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> from semjax.robustness.gap_curves import gap_curve, gap_sums
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.5, 1.0]))
      >>> sums = gap_sums(mix, jnp.array([[0.0], [4.0]]), jnp.array([[3.0], [4.0]]), bins=2)
      >>> curve = gap_curve(sums)
      >>> float(curve.mean_gap), float(curve.mean_normalised_gap)
      (0.5, 0.5)
    """
    return GapCurve(
        weight=sums.weight / sums.rows,
        gap=sums.gap / sums.rows,
        normalised_gap=sums.gap / sums.scale,
        rows=sums.rows,
        mean_gap=sums.gap.sum() / sums.rows.sum(),
        mean_normalised_gap=sums.gap.sum() / sums.scale.sum(),
    )


def _checked(name: str, value: ArrayLike, rows: Rows) -> jax.Array:
    array = jnp.asarray(value)
    if array.ndim < 2 or array.shape[0] != rows.size:
        raise ValueError(
            f"{name} must be [B, D] or [B, h, w, D] of the mix's {rows.size} rows; "
            f"found shape {array.shape}"
        )
    return checked_rows(name, array, ("B", *("D",) * (array.ndim - 1)), valid=rows.valid)
