"""What every policy shares: partners, who shares a draw, and whether a row is mixed at all."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp

from semjax.mixing import Mix
from semjax.pairing import Pairing, check_pairing, mirror, pair

WeightScope = Literal["batch", "pair", "sample"]
WEIGHT_SCOPES: tuple[str, ...] = get_args(WeightScope)
Sample = Callable[[jax.Array, int], jax.Array]


class Policy(Protocol):
    """A pure function that draws the mix of a batch.

    `batch["image"]` needs a shape only (a `jax.ShapeDtypeStruct` will do); `valid`, `label`,
    `group` and `step` are looked at where an option asks for them. `probe` serves policies that
    look at the model.
    """

    def __call__(self, key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        """Draws a mix for the batch."""


@dataclasses.dataclass(frozen=True)
class Draw:
    """The draws that every policy shares.

    Attributes:
      partner: i32[B].
      weight: f32[B], drawn from the Beta law.
      mixed: bool[B], False where the probability left the row alone.
      per_scope: `per_scope(sample)` draws `sample(key, n)` for as many values as the scope has and
        hands each row its own; to be called once.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies.common import Common
      >>> draw = Common().draw(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 3))})
      >>> draw.per_scope(lambda key, n: jax.random.uniform(key, (n, 2))).shape
      (4, 2)
    """

    partner: jax.Array
    weight: jax.Array
    mixed: jax.Array
    per_scope: Callable[[Sample], jax.Array]

    def mix(self, mask: jax.Array, groups: int, **fields: Any) -> Mix:
        """The Mix of a mask: its weight is the mask's mean, rows that are not mixed get 1."""
        mask = jnp.where(self.mixed[:, None, None, None], mask, 1.0)
        return Mix(self.partner, mask.mean((1, 2, 3)), mask, groups, **fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every policy shares, checked, and the draws they ask for.

    | weight_scope | who shares a weight, a shape and the decision to mix at all |
    |---|---|
    | batch | the whole batch |
    | pair | rows i and n - 1 - i of a group, the pairs that pairing="reverse" makes |
    | sample | nobody |

    Attributes:
      alpha: the parameter of the Beta law; 0 means no mixing (weight 1), 1 the uniform law.
      weight_scope: see the table.
      probability: the probability of mixing at all, drawn once per scope; rows not mixed get
        weight 1.
      pairing: how partners are drawn, see `semjax.pairing.pair`.
      groups: partners stay inside this many contiguous groups of the batch.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.policies.common import Common
      >>> draw = Common(pairing="roll").draw(jax.random.key(0), {"image": jnp.zeros((3, 8))})
      >>> draw.partner.tolist()
      [2, 0, 1]
    """

    alpha: float = 1.0
    weight_scope: WeightScope = "batch"
    probability: float = 1.0
    pairing: Pairing = "permutation"
    groups: int = 1

    def __post_init__(self) -> None:
        """Checks every option by itself; see the class."""
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise ValueError(f"alpha must be finite and at least 0; found {self.alpha!r}")
        if self.weight_scope not in WEIGHT_SCOPES:
            allowed = ", ".join(WEIGHT_SCOPES)
            raise ValueError(f"weight_scope must be one of {allowed}; found {self.weight_scope!r}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in [0, 1]; found {self.probability!r}")
        check_pairing(self.pairing, self.groups)

    def draw(self, key: jax.Array, batch: Mapping[str, Any]) -> Draw:
        """The draws for a batch; a policy consumes its key here and nowhere else."""
        # One stream for each decision: an option changes its own draw and no other.
        pair_key, weight_key, mixed_key, shape_key = jax.random.split(key, 4)
        rows, valid = batch["image"].shape[0], batch.get("valid")
        partner = pair(
            pair_key,
            rows,
            pairing=self.pairing,
            groups=self.groups,
            valid=valid,
            label=batch.get("label"),
            group=batch.get("group"),
        )
        share = self._sharing(rows, valid)
        return Draw(
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
        if self.alpha == 1:
            # The same law, without the rejection loops, which take a second to compile.
            return jax.random.uniform(key, (rows,), jnp.float32)
        return jax.random.beta(key, self.alpha, self.alpha, (rows,), jnp.float32)

    def _sharing(self, rows: int, valid: Any) -> Callable[[Sample, jax.Array], jax.Array]:
        """A function that draws as many values as the scope has and hands each row its own."""
        if self.weight_scope == "batch":

            def share(sample: Sample, key: jax.Array) -> jax.Array:
                value = sample(key, 1)
                return jnp.broadcast_to(value, (rows, *value.shape[1:]))
        elif self.weight_scope == "sample":

            def share(sample: Sample, key: jax.Array) -> jax.Array:
                return sample(key, rows)
        else:
            first = jnp.minimum(jnp.arange(rows), mirror(rows, groups=self.groups, valid=valid))

            def share(sample: Sample, key: jax.Array) -> jax.Array:
                return sample(key, rows)[first]

        return share


def image_size(batch: Mapping[str, Any]) -> tuple[int, int]:
    """The height and width of the batch's images.

    Args:
      batch: `image` [B, H, W, C].

    Returns:
      H and W.

    Raises:
      ValueError: images of another rank, which have no mask.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.policies.common import image_size
      >>> image_size({"image": jnp.zeros((4, 8, 6, 3))})
      (8, 6)
    """
    shape = batch["image"].shape
    if len(shape) != 4:
        raise ValueError(
            f"batch['image'] must be [B, H, W, C] for a mask policy; found shape {shape}"
        )
    return shape[1], shape[2]
