"""The mix of a batch as a value, and the two operators that apply it.

Drawing a mix (`semjax.policies`) is kept apart from applying it, so that one `Mix` drives images,
labels and representations alike: nothing can be mixed with another partner or another weight than
the pixels were.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mix:
    """How every row of a batch is mixed with another row of the same batch.

    Row i of the mixed batch is `weight[i]` of row i and `1 - weight[i]` of row `partner[i]`. With a
    mask the mixing happens cell by cell, and `weight` is the float32 mean of the mask.

    A Mix is a pytree: it passes through jit, vmap, scan and shardings, and may be drawn once and
    used often.

    Attributes:
      partner: i32[B], the row each row is mixed with. A row that is its own partner is left as it
        is.
      weight: f32[B], the share of the ORIGINAL row, never of the partner.
      mask: f32[B, H, W, 1] or None, the share of the original at each pixel.
      groups: G, static. Partners are confined to G contiguous groups of B / G rows. When G is a
        multiple of the number of devices the batch is sharded over, mixing needs no communication.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.75, 0.5]))
      >>> semjax.interpolate(mix, jnp.array([[0.0], [4.0]]))
      Array([[1.],
             [2.]], dtype=float32)
    """

    partner: jax.Array
    weight: jax.Array
    mask: jax.Array | None = None
    groups: int = dataclasses.field(default=1, metadata={"static": True})


def interpolate(mix: Mix, x: ArrayLike) -> jax.Array:
    """Mixes the rows of x by weight: labels, pooled representations, images without a mask.

    out[i] = weight[i] * x[i] + (1 - weight[i]) * x[partner[i]]

    Computed in float32 (or wider) whatever the dtype of x. Weight 1 returns the row and weight 0
    the partner's row, exactly.

    Args:
      mix: the mix; its mask, if any, is not looked at.
      x: floating [B, ...], soft labels f32[B, K] or representations [B, D], say.

    Returns:
      An array of the shape and dtype of x.

    Raises:
      TypeError: x is not floating (class ids cannot be averaged: one-hot encode them).
      ValueError: x has another number of rows than the mix.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.75, 0.75]))
      >>> semjax.interpolate(mix, jax.nn.one_hot(jnp.array([0, 1]), 2))
      Array([[0.75, 0.25],
             [0.25, 0.75]], dtype=float32)

    References:
      Zhang et al. 2018, mixup (arXiv:1710.09412), eq. 1.
    """
    x = _checked(mix, x)
    return _blend(mix, x, mix.weight.reshape((-1,) + (1,) * (x.ndim - 1)))


def interpolate_spatial(mix: Mix, x: ArrayLike) -> jax.Array:
    """Mixes the rows of x cell by cell: images and feature maps.

    out[i, a, b] = m[i, a, b] * x[i, a, b] + (1 - m[i, a, b]) * x[partner[i], a, b]

    where m is the mask averaged over the area of each cell of x's grid (fractional cells counted by
    their share), so that the mean of m is the weight on every grid. Without a mask it is
    `interpolate`.

    Args:
      mix: the mix.
      x: floating [B, h, w, C], on any grid; of any rank when the mix has no mask.

    Returns:
      An array of the shape and dtype of x.

    Raises:
      TypeError: x is not floating.
      ValueError: x has another number of rows than the mix, or is not [B, h, w, C] though the mix
        has a mask.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> left = jnp.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 4, 1)
      >>> mix = semjax.Mix(jnp.array([1, 0]), jnp.full(2, 0.5), jnp.tile(left, (2, 1, 1, 1)))
      >>> x = jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1) * jnp.ones((2, 1, 2, 1))
      >>> semjax.interpolate_spatial(mix, x)[:, 0, :, 0]
      Array([[0., 1.],
             [1., 0.]], dtype=float32)

    References:
      Yun et al. 2019, CutMix (arXiv:1905.04899), eq. 1, for the mask.
    """
    if mix.mask is None:
        return interpolate(mix, x)
    x = _checked(mix, x)
    if x.ndim != 4:
        raise ValueError(f"x must be [B, h, w, C] when the mix has a mask; found shape {x.shape}")
    return _blend(mix, x, area_resample(mix.mask, x.shape[1], x.shape[2]))


def area_resample(mask: ArrayLike, height: int, width: int) -> jax.Array:
    """Resamples masks to another grid by exact area averaging, which keeps each mask's mean.

    Args:
      mask: f32[B, H, W, 1].
      height: h, rows of the new grid; larger or smaller than H.
      width: w, columns of the new grid.

    Returns:
      f32[B, h, w, 1]; `mask` itself when the grid is its own.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import area_resample
      >>> area_resample(jnp.array([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1), 2, 1).ravel()
      Array([0.6666667, 0.       ], dtype=float32)
    """
    mask = jnp.asarray(mask)
    rows, columns = mask.shape[1:3]
    if (rows, columns) == (height, width):
        return mask
    return jnp.einsum(
        "ah,bhwc,dw->badc",
        _area_matrix(height, rows),
        mask,
        _area_matrix(width, columns),
        precision=jax.lax.Precision.HIGHEST,  # a TPU's default would round the mask to bfloat16
    )


def partner_rows(mix: Mix, x: ArrayLike) -> jax.Array:
    """The rows the batch is mixed with: x[partner], gathered inside the groups.

    Args:
      mix: the mix.
      x: [B, ...] of any dtype, class ids included.

    Returns:
      An array of the shape and dtype of x.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> from semjax.mixing import partner_rows
      >>> mix = semjax.Mix(jnp.array([1, 0, 3, 2]), jnp.ones(4), groups=2)
      >>> partner_rows(mix, jnp.array([10, 11, 12, 13])).tolist()
      [11, 10, 13, 12]
    """
    x = jnp.asarray(x)
    size = x.shape[0] // mix.groups
    # A gather inside [G, B/G, ...] stays on the device that holds the group; x[partner] would
    # gather the whole global batch on every device, since the compiler cannot know that partners
    # are near.
    first = jnp.arange(mix.groups)[:, None] * size
    local = mix.partner.reshape(mix.groups, size) - first
    grouped = x.reshape(mix.groups, size, *x.shape[1:])
    return jax.vmap(lambda rows, i: jnp.take(rows, i, axis=0))(grouped, local).reshape(x.shape)


def _blend(mix: Mix, x: jax.Array, share: jax.Array) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # Not x + (1 - share) * (partner - x): that form is inexact at weight 0.
    return (share * wide + (1 - share) * partner_rows(mix, wide)).astype(x.dtype)


def _checked(mix: Mix, x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x must be floating to be interpolated; found {x.dtype}. One-hot encode class ids, "
            "and scale uint8 images to float first (semjax.augment.normalise)"
        )
    check_mix(mix, x.shape[0] if x.ndim else 0)
    return x


def check_mix(mix: Mix, batch_size: int) -> None:
    """Checks that the static shapes of a mix fit each other and a batch of B rows.

    Args:
      mix: the mix.
      batch_size: B, the number of rows the mix is to be applied to.

    Raises:
      ValueError: a shape does not fit; the message names the field, the shape found and the shape
        needed.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> from semjax.mixing import check_mix
      >>> check_mix(semjax.Mix(jnp.zeros(2, int), jnp.ones(2)), batch_size=3)
      Traceback (most recent call last):
      ...
      ValueError: mix.partner must have shape (3,) for a batch of 3 rows; found (2,)
    """
    for name, value in (("partner", mix.partner), ("weight", mix.weight)):
        if value.shape != (batch_size,):
            raise ValueError(
                f"mix.{name} must have shape ({batch_size},) for a batch of {batch_size} rows; "
                f"found {value.shape}"
            )
    if mix.mask is not None and (mix.mask.ndim, mix.mask.shape[0]) != (4, batch_size):
        raise ValueError(
            f"mix.mask must have shape ({batch_size}, H, W, 1); found {mix.mask.shape}"
        )
    if mix.groups < 1 or batch_size % mix.groups:
        raise ValueError(f"mix.groups={mix.groups} must divide the batch of {batch_size} rows")


def _area_matrix(cells_out: int, cells_in: int) -> np.ndarray:
    """f32[out, in]: the share of each input cell in the average over each output cell."""
    edges = np.arange(cells_out + 1) * (cells_in / cells_out)
    inner = np.arange(cells_in + 1)
    upper = np.minimum(edges[1:, None], inner[None, 1:])
    lower = np.maximum(edges[:-1, None], inner[None, :-1])
    return (np.clip(upper - lower, 0, None) * (cells_out / cells_in)).astype(np.float32)
