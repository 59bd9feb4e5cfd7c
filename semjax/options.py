"""The options of the loss: their kinds, their checks, and what they make part of the program."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.typing import ArrayLike

from semjax.losses import DISTANCES, LABEL_LOSSES, Distance, DistanceFn
from semjax.targets import as_targets, label_values

StopGradient = Literal["none", "clean", "mixed"]
STOP_GRADIENTS: tuple[str, ...] = get_args(StopGradient)
Passes = Literal["separate", "joint"]
PASSES: tuple[str, ...] = get_args(Passes)
StateFrom = Literal["auto", "mixed", "clean", "both"]
STATE_FROMS: tuple[str, ...] = get_args(StateFrom)
MixedFrom = Literal["image", "views"]
MIXED_FROMS: tuple[str, ...] = get_args(MixedFrom)
Reduction = Literal["sum", "mean"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
Weight = float | jax.Array | Callable[[jax.Array], ArrayLike]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `make_sem_loss`, where they are explained, checked where they are made.

    Attributes:
      sem_weight: as there.
      schedule: as there.
      sem_fraction: as there.
      distance: as there.
      stop_gradient: as there.
      clean_weight: as there, with what None is filled in (`default_clean_weight`).
      consistency_weight: as there.
      reduction: as there.
      label_loss: as there.
      label_smoothing: as there.
      passes: as there.
      state_from: as there.
      share_prefix: as there.
      mixed_from: as there.
      axis_name: as there.
      mixes: whether there is a policy.

    Raises:
      ValueError: an option out of range or at odds with another.
      TypeError: a weight or a fraction that is none.

    Example:
      >>> from semjax.options import Options
      >>> Options(sem_weight=0.0, clean_weight=1.0).needs_clean
      True
    """

    sem_weight: Weight = 20.0
    schedule: Callable[[jax.Array], ArrayLike] | None = None
    sem_fraction: float = 1.0
    distance: Distance | DistanceFn = "mse"
    stop_gradient: str = "none"
    clean_weight: Weight = 0.0
    consistency_weight: Weight = 0.0
    reduction: str = "sum"
    label_loss: Any = "ce"
    label_smoothing: float = 0.0
    passes: str = "separate"
    state_from: str = "auto"
    share_prefix: bool = False
    mixed_from: str = "image"
    axis_name: str | None = None
    mixes: bool = True

    def __post_init__(self) -> None:
        """Checks every option by itself, then those that concern each other."""
        for name, allowed in (
            ("distance", DISTANCES),
            ("label_loss", tuple(LABEL_LOSSES)),
            ("stop_gradient", STOP_GRADIENTS),
            ("reduction", REDUCTIONS),
            ("passes", PASSES),
            ("state_from", STATE_FROMS),
            ("mixed_from", MIXED_FROMS),
        ):
            _check_choice(name, getattr(self, name), allowed)
        for name in ("sem_weight", "clean_weight", "consistency_weight"):
            value = getattr(self, name)
            if value is None or isinstance(value, str):
                raise TypeError(
                    f"{name} must be a number, an array or a function of the step; found {value!r}"
                )
            if isinstance(value, int | float) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and at least 0; found {value!r}")
        if self.schedule is not None and not self.has_gap:
            raise ValueError("schedule multiplies sem_weight, which is 0; found both")
        self._check_fraction()
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1]; found {self.label_smoothing!r}")
        if self.regression and (self.label_smoothing or self.has_consistency):
            raise ValueError(
                "label_loss='mse' has no classes: label_smoothing and consistency_weight must be "
                f"0; found {self.label_smoothing!r} and {self.consistency_weight!r}"
            )
        if not self.mixes and (self.has_gap or self.has_clean_loss):
            raise ValueError(
                "policy=None mixes nothing, so there is no gap and the mixed rows are the clean "
                "ones: sem_weight and clean_weight must be 0; "
                f"found {self.sem_weight!r} and {self.clean_weight!r}"
            )
        if self.state_from in ("clean", "both") and not self.has_clean_pass:
            raise ValueError(
                f"state_from={self.state_from!r} needs a clean pass of its own: passes='separate' "
                f"and sem_weight or clean_weight above 0; found passes={self.passes!r}, "
                f"sem_weight={self.sem_weight!r}, clean_weight={self.clean_weight!r}"
            )
        if self.mixed_from == "views" and not self.mixes:
            raise ValueError(
                "mixed_from='views' is what the mixed rows are made of, but policy=None mixes "
                "nothing; allowed: 'image'"
            )
        self._check_share_prefix()

    def _check_fraction(self) -> None:
        if self.sem_parts == 1:
            return
        for met, needed in (
            (self.has_gap, "a gap to be measured on them: sem_weight above 0"),
            (not self.has_clean_loss, "all rows left out of the label loss: clean_weight=0"),
            (not self.has_consistency, "no use of the other clean rows: consistency_weight=0"),
            (self.passes == "separate", "a clean pass of its own: passes='separate'"),
        ):
            if not met:
                raise ValueError(
                    f"sem_fraction={self.sem_fraction!r} forwards a part of the clean rows, which "
                    f"needs {needed}; found sem_weight={self.sem_weight!r}, "
                    f"clean_weight={self.clean_weight!r}, "
                    f"consistency_weight={self.consistency_weight!r}, passes={self.passes!r}"
                )

    def _check_share_prefix(self) -> None:
        if not self.share_prefix:
            return
        for met, needed in (
            (self.mixes, "a policy that mixes"),
            (self.needs_clean, "a clean pass: sem_weight or clean_weight above 0"),
            (self.passes == "separate", "a clean pass of its own: passes='separate'"),
            (self.sem_parts == 1, "all clean rows to be forwarded: sem_fraction=1"),
            (self.mixed_from == "image", "both passes of the same rows: mixed_from='image'"),
        ):
            if not met:
                raise ValueError(
                    f"share_prefix={self.share_prefix!r} lets the clean pass go on from what the "
                    f"mixed pass computed, which needs {needed}; found "
                    f"sem_weight={self.sem_weight!r}, clean_weight={self.clean_weight!r}, "
                    f"passes={self.passes!r}, sem_fraction={self.sem_fraction!r}, "
                    f"mixed_from={self.mixed_from!r}"
                    f"{'' if self.mixes else ', policy=None'}"
                )

    def row_losses(self, logits: jax.Array, label: jax.Array) -> jax.Array:
        """f32[B]: the label loss of rows as they are."""
        return label_values(self.label_loss, logits, self.targets(label, logits))

    def targets(self, label: jax.Array, logits: jax.Array) -> jax.Array:
        """What the logits are compared with, see `semjax.targets.as_targets`."""
        return as_targets(label, logits, smoothing=self.label_smoothing, regression=self.regression)

    @property
    def regression(self) -> bool:
        """Whether labels are numbers."""
        return self.label_loss == "mse"

    @property
    def sem_parts(self) -> int:
        """The k of sem_fraction = 1 / k."""
        return fraction_parts(self.sem_fraction)

    @property
    def has_gap(self) -> bool:
        """Whether the gap is part of the program."""
        return not _is_zero(self.sem_weight)

    @property
    def has_clean_loss(self) -> bool:
        """Whether the label loss of the clean rows is."""
        return not _is_zero(self.clean_weight)

    @property
    def has_consistency(self) -> bool:
        """Whether the consistency with the views is."""
        return not _is_zero(self.consistency_weight)

    @property
    def holds_clean(self) -> bool:
        """Whether the clean pass is one of its own that no gradient is asked of."""
        learns = self.stop_gradient != "clean" or self.has_clean_loss or self.has_consistency
        return self.passes == "separate" and not learns

    @property
    def has_clean_pass(self) -> bool:
        """Whether the clean rows are forwarded in a pass of their own."""
        return self.passes == "separate" and self.needs_clean

    @property
    def state_pass(self) -> str:
        """The pass whose state is kept, "mixed", "clean" or "both"; what "auto" is."""
        if self.state_from != "auto":
            return self.state_from
        # A shared prefix would be computed again for its state alone.
        whole = self.has_clean_pass and self.sem_parts == 1 and not self.share_prefix
        return "clean" if whole else "mixed"

    @property
    def needs_clean(self) -> bool:
        """Whether the clean rows are forwarded; where nothing is mixed the mixed rows are clean."""
        return self.has_gap or self.has_clean_loss or (self.has_consistency and self.mixes)


def default_clean_weight(*, sem_weight: Weight, sem_fraction: float) -> float:
    """The weight of the clean label loss where none is given.

    Args:
      sem_weight: of the gap.
      sem_fraction: share of the rows whose clean representation is forwarded.

    Returns:
      1 where all clean rows are forwarded for the gap, else 0: without a gap the plain method.

    Example:
      >>> from semjax.options import default_clean_weight
      >>> default_clean_weight(sem_weight=20.0, sem_fraction=1.0)
      1.0
    """
    return 0.0 if _is_zero(sem_weight) or fraction_parts(sem_fraction) > 1 else 1.0


def fraction_parts(fraction: float) -> int:
    """The k of a fraction 1 / k.

    Args:
      fraction: 1 / k for a whole k of at least 1, to four digits.

    Returns:
      k.

    Raises:
      ValueError: another number.
      TypeError: no number; an array will not do, since shapes hang on it.

    Example:
      >>> from semjax.options import fraction_parts
      >>> fraction_parts(1 / 3), fraction_parts(0.3333)
      (3, 3)
    """
    if not isinstance(fraction, int | float):
        raise TypeError(f"sem_fraction must be a Python number; found {fraction!r}")
    parts = round(1 / fraction) if 1e-9 < fraction <= 1 else 0
    if not math.isclose(parts * fraction, 1, abs_tol=5e-4):
        raise ValueError(
            "sem_fraction must be 1 / k for a whole k of at least 1, such as 1, 0.5, 0.3333 or "
            f"0.25; found {fraction!r}"
        )
    return parts


def _is_zero(weight: Weight) -> bool:
    """Whether a weight is 0 for good, so that its term is not traced; an array never is."""
    return isinstance(weight, int | float) and weight == 0


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    takes_function = name in ("distance", "label_loss")
    if value not in allowed and not (takes_function and callable(value)):
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")
