"""Adversarial images within an l-infinity ball, and the rows that withstand them.

What is compiled is one step of an attack, not the attack: a loop in one program would hold as many
copies of the model as it has steps, and the body of a compiled loop runs on one core of a CPU. So
call these functions outside `jit`; inside it they work too, step by step unrolled.

The step is compiled once for each `logits_fn` and shape, epsilon and step size being arguments of
it. So hand in one function that stays the same, not a lambda made anew for every batch; and hand in
parameters as leaves of it, `jax.tree_util.Partial(logits_fn, params)`, rather than closed over as
constants of the program.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jax.typing import ArrayLike

from semjax.checks import checked_integer
from semjax.losses import soft_cross_entropy
from semjax.metrics import correct
from semjax.robustness.values import check_values, checked_classes, checked_rows

#: `logits_fn(images) -> [B, K]`, of images f32[B, H, W, C] in [0, 1]; it normalises them itself.
LogitsFn = Callable[[jax.Array], jax.Array]
# The worst of the images looked at so far, row by row: the image, whether it is misclassified, and
# its loss.
_Worst = tuple[jax.Array, jax.Array, jax.Array]


def fgsm(
    logits_fn: LogitsFn, images: ArrayLike, label: ArrayLike, *, epsilon: ArrayLike
) -> jax.Array:
    """The fast gradient sign method: one step of length epsilon that raises the cross-entropy.

    clip(x + epsilon * sign(grad_x CE(logits_fn(x), y)), 0, 1)

    Args:
      logits_fn: `logits_fn(images) -> [B, K]`, each row of which depends on its image alone.
      images: floating [B, H, W, C] in [0, 1].
      label: integers [B] in [0, K).
      epsilon: scalar, 0 or more, in units of the images (8 / 255, say).

    Returns:
      f32[B, H, W, C] in [0, 1], within epsilon of the images (up to rounding).

    Raises:
      TypeError: images or labels of another dtype.
      ValueError: images, labels or logits of another shape, no rows, epsilon out of range, or, in
        an eager call, images out of range, or rows whose loss is not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.attacks import fgsm
      >>> def logits_fn(images):  # class 1 when the first pixel is the brighter
      ...     return jnp.stack([images[:, 0, 1, 0], images[:, 0, 0, 0]], axis=1)
      >>> images = jnp.array([0.75, 0.25]).reshape(1, 1, 2, 1)
      >>> fgsm(logits_fn, images, jnp.array([1]), epsilon=0.125).ravel().tolist()
      [0.625, 0.375]

    References:
      Goodfellow et al. 2015, Explaining and harnessing adversarial examples (arXiv:1412.6572).
    """
    epsilon = _length("epsilon", epsilon)
    return _from_clean(_model(logits_fn), *_checked(images, label), epsilon)[0]


def pgd(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    label: ArrayLike,
    *,
    epsilon: ArrayLike,
    steps: int = 20,
    step_size: ArrayLike | None = None,
    restarts: int = 1,
    index: ArrayLike | None = None,
) -> jax.Array:
    """Projected gradient descent: small gradient-sign steps from a random point of the ball.

    x_0 = clip(x + epsilon * U),  U uniform in [-1, 1]
    x_{s+1} = clip(x_s + step_size * sign(grad CE(logits_fn(x_s), y)))

    where clip is the projection onto the ball |x' - x| <= epsilon and [0, 1].

    Of each row the worst image that was looked at comes back, and every image is looked at: the
    clean one, that of `fgsm`, and x_0 .. x_steps of every restart. Worse is what is misclassified,
    then what has the larger loss. So a row once misclassified stays so, more restarts never help
    the model, and no row withstands `pgd` that `fgsm` breaks. Logits that are not finite are
    misclassified, as in `semjax.metrics`.

    The model is evaluated and differentiated 2 + restarts * (steps + 1) times.

    Args:
      key: consumed here.
      logits_fn: as in `fgsm`.
      images: floating [B, H, W, C] in [0, 1].
      label: integers [B] in [0, K).
      epsilon: scalar, 0 or more, in units of the images.
      steps: static, at least 1.
      step_size: scalar, 0 or more; None means 2.5 * epsilon / steps, which reaches the edge of the
        ball from any point of it.
      restarts: static, at least 1.
      index: integers [B], the place of each row in its data set; None means 0..B-1. Row i draws
        from `fold_in(fold_in(key, restart), index[i])` only, so that a row starts from the same
        points in any batch.

    Returns:
      f32[B, H, W, C] in [0, 1], within epsilon of the images (up to rounding).

    Raises:
      TypeError: as in `fgsm`, or steps, restarts or an index that are not integers.
      ValueError: as in `fgsm`, or steps, step_size or restarts out of range, or an index of another
        shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.robustness.attacks import pgd
      >>> def logits_fn(images):  # class 1 when the first pixel is the brighter
      ...     return jnp.stack([images[:, 0, 1, 0], images[:, 0, 0, 0]], axis=1)
      >>> images = jnp.array([0.75, 0.25]).reshape(1, 1, 2, 1)
      >>> pgd(jax.random.key(0), logits_fn, images, jnp.array([1]), epsilon=0.125).ravel().tolist()
      [0.625, 0.375]

    References:
      Madry et al. 2018, Towards deep learning models resistant to adversarial attacks
      (arXiv:1706.06083). What comes back, and the default of step_size, are ours.
    """
    return _worst_found(
        key,
        _model(logits_fn),
        *_checked(images, label),
        epsilon=_length("epsilon", epsilon),
        steps=steps,
        step_size=step_size,
        restarts=restarts,
        index=index,
    )[0]


def robust_rows(
    key: jax.Array,
    logits_fn: LogitsFn,
    images: ArrayLike,
    label: ArrayLike,
    *,
    epsilons: Sequence[float],
    steps: int = 20,
    restarts: int = 1,
    index: ArrayLike | None = None,
) -> jax.Array:
    """Which rows are right on the clean image and withstand `pgd` up to each epsilon.

    A row broken at one epsilon counts as broken at all larger ones, whose balls hold the image that
    broke it: the error rises with epsilon.

    Args:
      key: consumed here.
      logits_fn: as in `fgsm`.
      images: floating [B, H, W, C] in [0, 1].
      label: integers [B] in [0, K).
      epsilons: E numbers, 0 or more, ascending, in units of the images.
      steps: as in `pgd`.
      restarts: as in `pgd`.
      index: as in `pgd`.

    Returns:
      bool[E, B]; the mean over rows is the robust accuracy at each epsilon.

    Raises:
      TypeError: as in `pgd`.
      ValueError: as in `pgd`, or epsilons that do not ascend, or none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.robustness.attacks import robust_rows
      >>> def logits_fn(images):  # class 1 when the first pixel is the brighter
      ...     return jnp.stack([images[:, 0, 1, 0], images[:, 0, 0, 0]], axis=1)
      >>> images, label = jnp.array([0.75, 0.25]).reshape(1, 1, 2, 1), jnp.array([1])
      >>> robust_rows(jax.random.key(0), logits_fn, images, label, epsilons=[0.125, 0.5]).tolist()
      [[True], [False]]

    References:
      Madry et al. 2018 (arXiv:1706.06083).
    """
    epsilons = [float(epsilon) for epsilon in epsilons]
    if not epsilons or sorted(set(epsilons)) != epsilons:
        raise ValueError(f"epsilons must be one or more numbers that ascend; found {epsilons}")
    images, label = _checked(images, label)
    model, robust, results = _model(logits_fn), jnp.ones(label.shape, bool), []
    for place, epsilon in enumerate(epsilons):
        _, wrong, _ = _worst_found(
            jax.random.fold_in(key, place),
            model,
            images,
            label,
            epsilon=_length("epsilon", epsilon),
            steps=steps,
            step_size=None,
            restarts=restarts,
            index=index,
        )
        robust = robust & ~wrong
        results.append(robust)
    return jnp.stack(results)


def _worst_found(
    key: jax.Array,
    model: Partial,
    images: jax.Array,
    label: jax.Array,
    *,
    epsilon: jax.Array,
    steps: int,
    step_size: ArrayLike | None,
    restarts: int,
    index: ArrayLike | None,
) -> _Worst:
    steps, restarts = checked_integer("steps", steps), checked_integer("restarts", restarts)
    for name, number in (("steps", steps), ("restarts", restarts)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1; found {number}")
    step_size = 2.5 * epsilon / steps if step_size is None else _length("step_size", step_size)
    rows = images.shape[0]
    index = jnp.arange(rows) if index is None else checked_classes("index", index, rows)

    point, worst = _from_clean(model, images, label, epsilon)
    _, worst = _step(model, point, worst, images, label, epsilon, step_size)
    for restart in range(restarts):
        point = _start(jax.random.fold_in(key, restart), images, epsilon, index)
        for _ in range(steps):
            point, worst = _step(model, point, worst, images, label, epsilon, step_size)
        # The last point is looked at too; where it would go next is not.
        _, worst = _step(model, point, worst, images, label, epsilon, step_size)
    return worst


def _from_clean(
    model: Partial, images: jax.Array, label: jax.Array, epsilon: jax.Array
) -> tuple[jax.Array, _Worst]:
    """The image of the fast gradient sign method, and the clean one as the worst so far."""
    rows = images.shape[0]
    nothing = images, jnp.zeros(rows, bool), jnp.full(rows, -jnp.inf)
    point, worst = _step(model, images, nothing, images, label, epsilon, epsilon)
    check_values(
        "the loss of logits_fn(images)",
        jnp.isfinite(worst[2]),
        "finite: finite logits, and labels that name one of them",
    )
    return point, worst


@jax.jit
def _step(
    model: Partial,
    point: jax.Array,
    worst: _Worst,
    images: jax.Array,
    label: jax.Array,
    epsilon: jax.Array,
    step_size: jax.Array,
) -> tuple[jax.Array, _Worst]:
    """Looks at a point, keeps it where it is the worst so far, and moves on inside the ball."""

    def loss_of(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        logits = model(x)
        if logits.ndim != 2 or logits.shape[0] != label.shape[0]:
            raise ValueError(
                f"logits_fn must return [B, K] for B = {label.shape[0]} images; "
                f"found shape {logits.shape}"
            )
        known = (label >= 0) & (label < logits.shape[1])
        target = jnp.where(known[:, None], jax.nn.one_hot(label, logits.shape[1]), jnp.nan)
        loss = soft_cross_entropy(logits, target)
        # The sum: a mean would scale gradients by 1 / B, and small ones to 0.
        return loss.sum(), (loss, correct(logits, label) == 0)

    gradient, (loss, wrong) = jax.grad(loss_of, has_aux=True)(point)
    seen, seen_wrong, seen_loss = worst
    worse = (wrong & ~seen_wrong) | ((wrong == seen_wrong) & (loss > seen_loss))
    kept = (
        jnp.where(worse[:, None, None, None], point, seen),
        seen_wrong | wrong,
        jnp.where(worse, loss, seen_loss),
    )
    return _project(point + step_size * jnp.sign(gradient), images, epsilon), kept


@jax.jit
def _start(key: jax.Array, images: jax.Array, epsilon: jax.Array, index: jax.Array) -> jax.Array:
    """A random point of the ball, for each row by its own key."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)
    shape = images.shape[1:]
    noise = jax.vmap(lambda k: jax.random.uniform(k, shape, jnp.float32, -1, 1))(keys)
    return _project(images + epsilon * noise, images, epsilon)


def _project(point: jax.Array, images: jax.Array, epsilon: jax.Array) -> jax.Array:
    return jnp.clip(point, jnp.maximum(images - epsilon, 0), jnp.minimum(images + epsilon, 1))


def _model(logits_fn: Any) -> Partial:
    """The function as a pytree: an argument of the compiled step, with its parameters as leaves."""
    return logits_fn if isinstance(logits_fn, Partial) else Partial(logits_fn)


def _checked(images: ArrayLike, label: ArrayLike) -> tuple[jax.Array, jax.Array]:
    images = checked_rows("images", images, ("B", "H", "W", "C"))
    check_values("images", (images >= 0) & (images <= 1), "in [0, 1]")
    return images, checked_classes("label", label, images.shape[0])


def _length(name: str, value: ArrayLike) -> jax.Array:
    number = jnp.asarray(value, jnp.float32)
    traced = isinstance(number, jax.core.Tracer)
    if number.ndim or not (traced or (math.isfinite(number) and number >= 0)):
        raise ValueError(f"{name} must be a number, 0 or more and finite; found {value!r}")
    return number
