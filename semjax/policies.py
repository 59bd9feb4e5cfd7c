"""How a batch is mixed: factories of pure functions `policy(key, batch) -> Mix`.

A policy draws; it never touches a pixel. What it draws depends on the key, the shapes and the
validity of the batch and its own options, on nothing else. Every policy takes the same pairing and
scope options, drawn from streams of their own, so that changing one option leaves the draws of the
others as they were.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix
from semjax.pairing import Pairing, check_pairing, mirror, pair

WeightScope = Literal["batch", "pair", "sample"]
WEIGHT_SCOPES: tuple[str, ...] = get_args(WeightScope)


class Policy(Protocol):
    """A pure function that draws the mix of a batch.

    `batch["image"]` needs a shape only (a `jax.ShapeDtypeStruct` will do), `batch["valid"]` is
    optional.
    """

    def __call__(self, key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        """Draws a mix for the batch; `probe` serves policies that look at the model."""


def mixup(
    *,
    alpha: float = 1.0,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
) -> Policy:
    """Mixup: rows are mixed as wholes, in a proportion drawn from Beta(alpha, alpha).

    | weight_scope | who shares a weight (and the decision to mix at all) |
    |---|---|
    | batch | the whole batch |
    | pair | rows i and n - 1 - i of a group, the pairs that pairing="reverse" makes |
    | sample | nobody |

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing (weight 1), 1 the uniform law.
      weight_scope: see the table.
      probability: the probability of mixing at all, drawn once per scope; rows not mixed get weight
        1.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy whose mixes have no mask.

    Raises:
      ValueError: an option out of range; when called, groups that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.mixup(alpha=1.0, pairing="derangement")
      >>> mix = policy(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 3))})
      >>> mix.partner.shape, mix.weight.shape, mix.mask
      ((4,), (4,), None)

    References:
      Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization (arXiv:1710.09412), eq. 1.
    """
    common = _Common(alpha, weight_scope, probability, pairing, groups)

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        draw = common.draw(key, batch)
        weight = jnp.where(draw.mixed, draw.weight, 1.0)
        return Mix(draw.partner, weight, groups=groups)

    return policy


def cutmix(
    *,
    alpha: float = 1.0,
    weight_scope: WeightScope = "batch",
    probability: float = 1.0,
    pairing: Pairing = "permutation",
    groups: int = 1,
    correction: bool = True,
) -> Policy:
    """CutMix: a box of the partner is pasted into the row.

    A proportion is drawn from Beta(alpha, alpha), a box of that share of the area is placed around
    a uniform centre and clipped at the border. The weight is what the pixels got: the mean of the
    mask.

    Args:
      alpha: the parameter of the Beta law; 0 means no mixing.
      weight_scope: who shares a weight and a box, as in `mixup`.
      probability: the probability of mixing at all, drawn once per scope.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.
      correction: whether the weight is corrected to the clipped box. False keeps the drawn
        proportion, as some implementations do: labels then disagree with the pixels, by up to 0.69.

    Returns:
      A policy whose mixes have a mask, 0 inside the box and 1 outside.

    Raises:
      ValueError: an option out of range; when called, images that are not [B, H, W, C] or groups
        that do not divide the batch.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> mix = semjax.cutmix()(jax.random.key(0), {"image": jnp.zeros((4, 8, 6, 3))})
      >>> mix.mask.shape, bool(jnp.allclose(mix.mask.mean((1, 2, 3)), mix.weight))
      ((4, 8, 6, 1), True)

    References:
      Yun et al. 2019, CutMix (arXiv:1905.04899), eqs. 1 and 2.
    """
    common = _Common(alpha, weight_scope, probability, pairing, groups)

    def policy(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        height, width = _image_size(batch)
        draw = common.draw(key, batch)
        limits = jnp.array([height, width])
        centre = draw.per_scope(
            lambda key, rows: jax.random.randint(
                key, (rows, 2), jnp.zeros((1, 2), int), limits[None]
            )
        )
        mask = cutmix_mask(draw.weight, centre, height=height, width=width)
        mask = jnp.where(draw.mixed[:, None, None, None], mask, 1.0)
        drawn = jnp.where(draw.mixed, draw.weight, 1.0)
        weight = mask.mean((1, 2, 3)) if correction else drawn
        return Mix(draw.partner, weight, mask, groups)

    return policy


def cutmix_mask(weight: ArrayLike, centre: ArrayLike, *, height: int, width: int) -> jax.Array:
    """The mask of CutMix for given proportions and box centres.

    The sides are s = floor(size * sqrt(1 - weight)); the box is [max(0, c - s//2), min(size, c +
    s//2)) along each axis, so that an odd side loses a pixel, as in the authors' code.

    Args:
      weight: f32[B], the proportion of the original asked for, in [0, 1].
      centre: i32[B, 2], row and column of the box centre, in [0, H) and [0, W).
      height: H.
      width: W.

    Returns:
      f32[B, H, W, 1], 0 inside the box and 1 outside. Its mean is the proportion after clipping.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies import cutmix_mask
      >>> mask = cutmix_mask(jnp.array([0.5]), jnp.array([[16, 16]]), height=32, width=32)
      >>> float(mask.mean())
      0.52734375

    References:
      Yun et al. 2019, CutMix (arXiv:1905.04899), eq. 2.
    """
    ratio = jnp.sqrt(1 - jnp.asarray(weight, jnp.float32))
    centre = jnp.asarray(centre)

    def inside(size: int, middle: jax.Array) -> jax.Array:
        half = jnp.floor(size * ratio).astype(jnp.int32) // 2
        place = jnp.arange(size)[None]
        return (place >= (middle - half)[:, None]) & (place < (middle + half)[:, None])

    box = inside(height, centre[:, 0])[:, :, None] & inside(width, centre[:, 1])[:, None]
    return 1.0 - box[..., None].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Draw:
    """The draws that every policy shares."""

    partner: jax.Array  # i32[B]
    weight: jax.Array  # f32[B], drawn from the Beta law
    mixed: jax.Array  # bool[B], False where the probability left the row alone
    per_scope: Callable[[Callable[[jax.Array, int], jax.Array]], jax.Array]


@dataclasses.dataclass(frozen=True)
class _Common:
    """The options that every policy shares, checked, and the draws they ask for."""

    alpha: float
    weight_scope: str
    probability: float
    pairing: Pairing
    groups: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be finite and at least 0; found {self.alpha!r}")
        if self.weight_scope not in WEIGHT_SCOPES:
            allowed = ", ".join(WEIGHT_SCOPES)
            raise ValueError(f"weight_scope must be one of {allowed}; found {self.weight_scope!r}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1]; found {self.probability!r}")
        check_pairing(self.pairing, self.groups)

    def draw(self, key: jax.Array, batch: Mapping[str, Any]) -> _Draw:
        # One stream for each decision: an option changes its own draw and no other.
        pair_key, weight_key, mixed_key, shape_key = jax.random.split(key, 4)
        rows, valid = batch["image"].shape[0], batch.get("valid")
        partner = pair(pair_key, rows, pairing=self.pairing, groups=self.groups, valid=valid)
        share = self._sharing(rows, valid)
        return _Draw(
            partner=partner,
            weight=share(self._beta, weight_key),
            mixed=share(
                lambda key, n: jax.random.bernoulli(key, float(self.probability), (n,)), mixed_key
            ),
            per_scope=lambda sample: share(sample, shape_key),
        )

    def _beta(self, key: jax.Array, rows: int) -> jax.Array:
        if self.alpha == 0:
            return jnp.ones(rows, jnp.float32)
        return jax.random.beta(key, self.alpha, self.alpha, (rows,), jnp.float32)

    def _sharing(self, rows: int, valid: Any) -> Callable[..., jax.Array]:
        """A function that draws as many values as the scope has and hands each row its own."""
        if self.weight_scope == "batch":

            def share(sample: Callable[[jax.Array, int], jax.Array], key: jax.Array) -> jax.Array:
                value = sample(key, 1)
                return jnp.broadcast_to(value, (rows, *value.shape[1:]))
        elif self.weight_scope == "sample":

            def share(sample: Callable[[jax.Array, int], jax.Array], key: jax.Array) -> jax.Array:
                return sample(key, rows)
        else:
            first = jnp.minimum(jnp.arange(rows), mirror(rows, groups=self.groups, valid=valid))

            def share(sample: Callable[[jax.Array, int], jax.Array], key: jax.Array) -> jax.Array:
                return sample(key, rows)[first]

        return share


def _image_size(batch: Mapping[str, Any]) -> tuple[int, int]:
    shape = batch["image"].shape
    if len(shape) != 4:
        raise ValueError(
            f"batch['image'] must be [B, H, W, C] for a mask policy; found shape {shape}"
        )
    return shape[1], shape[2]
