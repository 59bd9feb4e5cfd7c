"""The mix of a batch as a value, and the operators that apply it.

Drawing a mix (`semjax.policies`) is kept apart from applying it, so that one `Mix` drives images,
hidden layers, labels and representations alike: nothing can be mixed with another partner or
another weight than the pixels were.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.warping import area_resample, move_cells, zoom_into


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of noisy feature mixup, which `perturb` adds to what was mixed.

    Attributes:
      seed: u32[B], of each row's noise.
      add: f32[B], standard deviation of the Gaussian that is added.
      multiply: f32[B], half-width of the uniform law around 1 of the factor.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Noise
      >>> Noise(seed=jnp.zeros(2, jnp.uint32), add=jnp.zeros(2), multiply=jnp.ones(2)).add.shape
      (2,)
    """

    seed: jax.Array
    add: jax.Array
    multiply: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mix:
    """How every row of a batch is mixed with another row of the same batch.

    Row i of the mixed batch is `weight[i]` of row i and `1 - weight[i]` of row `partner[i]`. With a
    mask the mixing happens cell by cell, and `weight` is the float32 mean of the mask. Warps come
    before the mixing, noise after it.

    A Mix is a pytree whose leaves all have B rows: it passes through jit, vmap, scan, slicing and
    shardings, and may be drawn once and used often.

    Attributes:
      partner: i32[B], the row each row is mixed with. A row that is its own partner is left as it
        is.
      weight: f32[B], the share of the ORIGINAL row, never of the partner.
      mask: f32[B, H, W, 1] or None, the share of the original at each pixel.
      groups: G, static. Partners are confined to G contiguous groups of B / G rows. When G is a
        multiple of the number of devices the batch is sharded over, mixing needs no communication.
      zoom: f32[B, 4] or None, the box (top, left, height, width, as fractions of the image) that
        the whole partner is resized into.
      transport: f32[B, h, w, h, w] or None, how the partner's cells are moved, as in
        `semjax.warping.move_cells`.
      own_transport: as transport, of the row itself.
      layer: i32[B] or None, where each row is mixed: 0 at the input, k at the k-th hidden place
        that the model offers. None means the input.
      layers: static, the values that layer can take.
      noise: the Noise of each row, or None.

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
    zoom: jax.Array | None = None
    transport: jax.Array | None = None
    own_transport: jax.Array | None = None
    layer: jax.Array | None = None
    layers: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    noise: Noise | None = None


def interpolate(mix: Mix, x: ArrayLike) -> jax.Array:
    """Mixes the rows of x by weight: labels, pooled representations, images without a mask.

    out[i] = weight[i] * x[i] + (1 - weight[i]) * x[partner[i]]

    Computed in float32 (or wider) whatever the dtype of x. Weight 1 returns the row and weight 0
    the partner's row, exactly.

    Args:
      mix: the mix; its mask and its warps, if any, are not looked at.
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
    wide = _wide(x)
    share = mix.weight.reshape((-1,) + (1,) * (x.ndim - 1))
    return _blend(share, wide, partner_rows(mix, wide)).astype(x.dtype)


def interpolate_spatial(mix: Mix, x: ArrayLike) -> jax.Array:
    """Mixes the rows of x cell by cell: images, feature maps and dense label maps.

    out[i, a, b] = m[i, a, b] * y[i, a, b] + (1 - m[i, a, b]) * z[i, a, b]

    where y is row i of x and z row partner[i], each warped as the mix says, and m is the mask
    averaged over the area of each cell of x's grid (fractional cells counted by their share), so
    that the mean of m is the weight on every grid. Without a mask m is the weight; without mask and
    warps this is `interpolate`.

    Args:
      mix: the mix.
      x: floating [B, h, w, C], on any grid; of any rank when the mix has no mask and no warp.

    Returns:
      An array of the shape and dtype of x.

    Raises:
      TypeError: x is not floating.
      ValueError: x has another number of rows than the mix, or is not [B, h, w, C] though the mix
        has a mask or a warp.

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
    if not is_spatial(mix):
        return interpolate(mix, x)
    x = _checked(mix, x)
    if x.ndim != 4:
        raise ValueError(
            f"x must be [B, h, w, C] when the mix has a mask or a warp; found shape {x.shape}"
        )
    own = _wide(x)
    partner = partner_rows(mix, own)
    if mix.zoom is not None:
        partner = zoom_into(partner, mix.zoom)
    if mix.transport is not None:
        partner = move_cells(partner, mix.transport)
    if mix.own_transport is not None:
        own = move_cells(own, mix.own_transport)
    share = mix.weight[:, None, None, None]
    if mix.mask is not None:
        share = area_resample(mix.mask, x.shape[1], x.shape[2])
    return _blend(share, own, partner).astype(x.dtype)


def interpolate_tree(mix: Any, tree: Any, *, spatial: Any = False) -> Any:
    """Mixes every leaf of a tree: several inputs, targets of several kinds, modalities.

    Args:
      mix: one Mix for all leaves, or a tree of Mix, a prefix of `tree`, where modalities have
        weights of their own.
      tree: any pytree of floating arrays [B, ...].
      spatial: whether a leaf is mixed by `interpolate_spatial` (images, feature maps, one-hot dense
        label maps) or by `interpolate`: a bool for all leaves, or a prefix of `tree`.

    Returns:
      A tree of the structure, shapes and dtypes of `tree`.

    Raises:
      TypeError: a leaf that is not floating.
      ValueError: a leaf of another number of rows than its mix, or trees that do not fit.

    Example:
      >>> import jax.numpy as jnp, semjax
      >>> mix = semjax.Mix(partner=jnp.array([1, 0]), weight=jnp.array([0.75, 0.5]))
      >>> inputs = {"age": jnp.array([[20.0], [40.0]]), "pulse": jnp.array([[60.0], [80.0]])}
      >>> mixed = semjax.interpolate_tree(mix, inputs)
      >>> mixed["age"].ravel().tolist(), mixed["pulse"].ravel().tolist()
      ([25.0, 30.0], [65.0, 70.0])
    """

    def is_mix(value: Any) -> bool:
        return isinstance(value, Mix)

    leaves, structure = jax.tree.flatten(tree)
    kinds = jax.tree.broadcast(spatial, tree)
    mixes = jax.tree.broadcast(mix, tree, is_leaf=is_mix)
    mixed = [
        (interpolate_spatial if kind else interpolate)(each, leaf)
        for each, leaf, kind in zip(
            jax.tree.leaves(mixes, is_leaf=is_mix), leaves, jax.tree.leaves(kinds), strict=True
        )
    ]
    return jax.tree.unflatten(structure, mixed)


def mix_inputs(mix: Mix, x: ArrayLike) -> jax.Array:
    """Mixes what a layer is fed, the image or a hidden activation: warps, mask, weight and noise.

    Where x has no grid that the mask could be brought to (it is not [B, h, w, C]), the weight
    mixes.

    Args:
      mix: the mix; its layer is not looked at.
      x: floating [B, ...].

    Returns:
      An array of the shape and dtype of x.

    Raises:
      TypeError: x is not floating.
      ValueError: x has another number of rows than the mix.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix, mix_inputs
      >>> mix_inputs(Mix(jnp.array([1, 0]), jnp.full(2, 0.5)), jnp.array([[1.0], [3.0]])).ravel()
      Array([2., 2.], dtype=float32)
    """
    x = jnp.asarray(x)
    mixed = interpolate_spatial(mix, x) if x.ndim == 4 else interpolate(mix, x)
    return mixed if mix.noise is None else perturb(mix.noise, mixed)


def perturb(noise: Noise, x: ArrayLike) -> jax.Array:
    """Multiplies and adds noise: (1 + multiply * (2 U - 1)) * x + add * N, U uniform, N normal.

    Args:
      noise: the strengths and the seeds of the rows.
      x: floating [B, ...].

    Returns:
      An array of the shape and dtype of x; rows of strength 0 are returned as they are.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Noise, perturb
      >>> still = Noise(jnp.zeros(2, jnp.uint32), add=jnp.zeros(2), multiply=jnp.zeros(2))
      >>> perturb(still, jnp.array([[1.0], [3.0]])).ravel()
      Array([1., 3.], dtype=float32)

    References:
      Lim et al. 2021, Noisy Feature Mixup (arXiv:2110.02180), eq. 4.
    """
    x = jnp.asarray(x)

    def draw(seed: jax.Array) -> tuple[jax.Array, jax.Array]:
        add_key, multiply_key = jax.random.split(jax.random.key(seed))
        shape = x.shape[1:]
        return (
            jax.random.normal(add_key, shape, jnp.float32),
            jax.random.uniform(multiply_key, shape, jnp.float32, -1, 1),
        )

    normal, uniform = jax.vmap(draw)(noise.seed)
    rows = (-1,) + (1,) * (x.ndim - 1)
    factor = 1 + noise.multiply.reshape(rows) * uniform
    return (factor * _wide(x) + noise.add.reshape(rows) * normal).astype(x.dtype)


def is_spatial(mix: Mix) -> bool:
    """Whether a mix treats the cells of an image differently: by a mask or a warp.

    Args:
      mix: the mix.

    Returns:
      A bool, known when tracing.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix, is_spatial
      >>> is_spatial(Mix(jnp.zeros(2, int), jnp.ones(2)))
      False
    """
    parts = (mix.mask, mix.zoom, mix.transport, mix.own_transport)
    return any(part is not None for part in parts)


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


def unmixed(mix: Mix) -> jax.Array:
    """Which rows the mix leaves alone: those of weight 1 and those that are their own partner.

    Args:
      mix: the mix.

    Returns:
      bool[B]. Warps of the row itself and noise are not looked at.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.mixing import Mix, unmixed
      >>> unmixed(Mix(jnp.array([1, 0, 2]), jnp.array([1.0, 0.5, 0.5]))).tolist()
      [True, False, True]
    """
    return (mix.weight == 1) | (mix.partner == jnp.arange(len(mix.partner)))


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
    for name in ("partner", "weight", "layer"):
        value = getattr(mix, name)
        if value is not None and value.shape != (batch_size,):
            raise ValueError(
                f"mix.{name} must have shape ({batch_size},) for a batch of {batch_size} rows; "
                f"found {value.shape}"
            )
    for name, rank, shape in (
        ("mask", 4, "H, W, 1"),
        ("zoom", 2, "4"),
        ("transport", 5, "h, w, h, w"),
        ("own_transport", 5, "h, w, h, w"),
    ):
        value = getattr(mix, name)
        if value is None:
            continue
        last = {"mask": value.shape[3:] == (1,), "zoom": value.shape[1:] == (4,)}
        square = value.shape[1:3] == value.shape[3:]
        fits = (value.ndim, value.shape[0]) == (rank, batch_size) and last.get(name, square)
        if not fits:
            raise ValueError(
                f"mix.{name} must have shape ({batch_size}, {shape}); found {value.shape}"
            )
    if (mix.layer is None) != (not mix.layers):
        raise ValueError(
            "mix.layers must list the values of mix.layer, and be empty without it; "
            f"found layers={mix.layers!r} and {'no' if mix.layer is None else 'a'} layer"
        )
    if mix.noise is not None:
        shapes = [leaf.shape for leaf in jax.tree.leaves(mix.noise)]
        if shapes != 3 * [(batch_size,)]:
            raise ValueError(f"mix.noise must have leaves of shape ({batch_size},); found {shapes}")
    if mix.groups < 1 or batch_size % mix.groups:
        raise ValueError(f"mix.groups={mix.groups} must divide the batch of {batch_size} rows")


def _blend(share: jax.Array, own: jax.Array, partner: jax.Array) -> jax.Array:
    # Not own + (1 - share) * (partner - own): that form is inexact at weight 0.
    return share * own + (1 - share) * partner


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _checked(mix: Mix, x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"x must be floating to be interpolated; found {x.dtype}. One-hot encode class ids, "
            "and scale uint8 images to float first (semjax.augment.normalise)"
        )
    check_mix(mix, x.shape[0] if x.ndim else 0)
    return x
