"""Policies made of policies: switching by probability, and on and off by the step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.mixing import Mix
from semjax.policies.common import Policy
from semjax.policies.mixup import mixup
from semjax.selection import keep_rows, like_each_other, select_rows

ChoiceScope = Literal["batch", "sample"]
CHOICE_SCOPES: tuple[str, ...] = get_args(ChoiceScope)


def choose(policies: Mapping[Policy, float], *, scope: ChoiceScope = "batch") -> Policy:
    """Switches between policies by probability, inside one compiled step.

    Each policy draws from a key of its own, so that what it draws does not depend on the others.
    Of a batch, only the policy chosen is drawn (on the CPU, where a branch loses its threads, all
    are, and one is taken). Of single samples all are drawn, and each row takes its own.

    Args:
      policies: the probability of each policy; what is missing to a sum of 1 leaves rows unmixed.
      scope: who shares a choice: the whole "batch", or nobody ("sample").

    Returns:
      A policy whose mixes have every field that one of the policies sets, at rest in the rows of
      the others (see `semjax.selection.select_rows`).

    Raises:
      ValueError: no policy, a negative probability or a sum above 1, an unknown scope; when called,
        policies whose masks or transports are on different grids, or of single samples policies
        that mix at different layers (a row's partner would have been mixed before it).

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.choose({semjax.mixup(alpha=0.2): 0.5, semjax.cutmix(): 0.5})
      >>> policy(jax.random.key(0), {"image": jnp.zeros((4, 8, 8, 3))}).mask.shape
      (4, 8, 8, 1)

    References:
      Wightman et al. 2021, ResNet strikes back (arXiv:2110.00476), for switching mixup and CutMix.
    """
    shares = [float(share) for share in policies.values()]
    if not shares:
        raise ValueError("policies must hold at least one policy; found none")
    rest = 1 - math.fsum(shares)
    if not all(0 <= share <= 1 for share in shares) or not rest >= -1e-6:
        raise ValueError(
            f"probabilities must be at least 0 and sum to at most 1; found {shares}, with a sum of "
            f"{math.fsum(shares):g}"
        )
    if scope not in CHOICE_SCOPES:
        raise ValueError(f"scope must be one of {', '.join(CHOICE_SCOPES)}; found {scope!r}")
    members: list[Policy] = list(policies)
    if rest > 1e-6:
        members.append(_as_they_are)
        shares.append(rest)

    def drawn(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        choice_key, *keys = jax.random.split(key, 1 + len(members))
        size = batch["image"].shape[0]
        logits = jnp.log(jnp.array(shares, jnp.float32))
        count = 1 if scope == "batch" else size
        choice = jax.random.categorical(choice_key, logits, shape=(count,))
        if scope == "sample" or jax.default_backend() == "cpu":
            mixes = [policy(k, batch, probe) for policy, k in zip(members, keys, strict=True)]
            if scope == "sample":
                _check_layers(mixes[: len(policies)])
            return select_rows(jnp.broadcast_to(choice, (size,)), mixes)

        def branch(place: int) -> Callable[[], Mix]:
            def draw(place_: int = place) -> Mix:
                # A value remembered by the probe in one branch must not be met in another.
                own = None if probe is None else probe.fresh()
                return members[place_](keys[place_], batch, own)

            return draw

        # The shapes tell which fields each branch has, so that all can return the same.
        shapes = [jax.eval_shape(branch(place)) for place in range(len(members))]

        def alike(place: int) -> Callable[[], Mix]:
            def draw() -> Mix:
                mixes = [jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), s) for s in shapes]
                mixes[place] = branch(place)()
                return like_each_other(mixes)[place]

            return draw

        return jax.lax.switch(choice[0], [alike(place) for place in range(len(members))])

    return drawn


def _as_they_are(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
    # Each row a group of its own, which fits the groups of any other policy.
    rows = batch["image"].shape[0]
    return Mix(jnp.arange(rows, dtype=jnp.int32), jnp.ones(rows, jnp.float32), groups=rows)


def _check_layers(mixes: Sequence[Mix]) -> None:
    layers = {layer for mix in mixes for layer in mix.layers or (0,)}
    if len(mixes) > 1 and len(layers) > 1:
        raise ValueError(
            "scope='sample' needs policies that mix at one and the same layer, or a row would meet "
            f"a partner that is mixed already; found the layers {sorted(layers)}"
        )


def scheduled(
    policy: Policy,
    *,
    on: tuple[int, int | None] | Callable[[jax.Array], ArrayLike] | None = None,
    ramp: Callable[[jax.Array], ArrayLike] | None = None,
) -> Policy:
    """Mixes in some steps only: a function of `batch["step"]`, inside one compiled step.

    A policy that is off still draws, and its passes over the model are made; rows then have weight
    1, no warp and no noise.

    Args:
      policy: draws the mix.
      on: (first, end), the steps first <= step < end in which it mixes (None: no end), or a
        function of the step to a bool; None is always.
      ramp: a function of the step to the probability in [0, 1] with which the batch is mixed, such
        as an optax schedule.

    Returns:
      A policy that needs `batch["step"]`.

    Raises:
      ValueError: neither on nor ramp, or an `on` that ends before it starts; when called, a batch
        without step.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> policy = semjax.scheduled(semjax.mixup(), on=(0, 100))
      >>> batch = {"image": jnp.zeros((2, 8)), "step": jnp.int32(100)}
      >>> policy(jax.random.key(0), batch).weight.tolist()
      [1.0, 1.0]

    References:
      Wightman's timm, `mixup_off_epoch`, for switching mixing off before the end.
    """
    if on is None and ramp is None:
        raise ValueError("scheduled needs on or ramp; found neither")
    if isinstance(on, tuple):
        first, end = on
        if not 0 <= first <= (math.inf if end is None else end):
            raise ValueError(f"on must be (first, end) with 0 <= first <= end; found {on!r}")

    def drawn(key: jax.Array, batch: Mapping[str, Any], probe: Any = None) -> Mix:
        if batch.get("step") is None:
            raise ValueError("batch needs 'step' because the policy is scheduled")
        step = jnp.asarray(batch["step"])
        mix_key, ramp_key = jax.random.split(key)
        mixed = jnp.asarray(True)
        if callable(on):
            mixed = jnp.asarray(on(step), bool)
        elif on is not None:
            first, end = on
            mixed = (step >= first) & (True if end is None else step < end)
        if ramp is not None:
            mixed = mixed & (jax.random.uniform(ramp_key) < jnp.asarray(ramp(step)))
        mix = policy(mix_key, batch, probe)
        return keep_rows(jnp.broadcast_to(mixed, mix.partner.shape), mix)

    return drawn


def lisa(*, alpha: float = 2.0, same_class: float = 0.5, groups: int = 1) -> Policy:
    """LISA: mixup of the same class across groups, or of other classes inside a group.

    Which of the two is drawn once for the batch. Gains of selective pairing are largely those of
    resampling (Hwang et al. 2023, arXiv:2305.16817): compare with a resampling control.

    Args:
      alpha: the parameter of the Beta law of the weight, drawn for each row.
      same_class: p_sel, the probability of mixing inside a class, in [0, 1].
      groups: partners stay inside this many contiguous groups of the batch.

    Returns:
      A policy that needs `batch["label"]` and `batch["group"]`.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> import jax, jax.numpy as jnp, semjax
      >>> batch = {"image": jnp.zeros((4, 8)), "label": jnp.array([0, 0, 1, 1])}
      >>> batch["group"] = jnp.array([0, 1, 0, 1])
      >>> semjax.lisa(same_class=1.0)(jax.random.key(0), batch).partner.tolist()
      [1, 0, 3, 2]

    References:
      Yao et al. 2022, LISA (arXiv:2201.00299), algorithm 1.
    """
    if not 0 <= same_class <= 1:
        raise ValueError(f"same_class must be in [0, 1]; found {same_class!r}")
    intra_label = mixup(
        alpha=alpha, weight_scope="sample", pairing="same_class_other_group", groups=groups
    )
    intra_domain = mixup(
        alpha=alpha, weight_scope="sample", pairing="other_class_same_group", groups=groups
    )
    return choose({intra_label: same_class, intra_domain: 1 - same_class})
