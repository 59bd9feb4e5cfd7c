"""The sample weights of UMIX, from how often each example was misclassified in an earlier run."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def error_rates(wrong: ArrayLike, *, recorded: ArrayLike | None = None) -> jax.Array:
    """The share of the recorded epochs in which each example was misclassified, its uncertainty.

    u_i = sum_t r_it [prediction_it != label_i] / sum_t r_it

    The predictions are those of a run of plain training, made while it went on, in a window of its
    epochs: the paper leaves out the first ones, in which every example is uncertain.

    Args:
      wrong: bool[N, T], whether example i was misclassified in epoch t of the window.
      recorded: bool[N, T], r, whether it was looked at in that epoch at all; None means always. An
        example never looked at has the rate 0.

    Returns:
      f32[N] in [0, 1].

    Raises:
      TypeError: an argument that is not bool.
      ValueError: `wrong` that is not [N, T] with at least one epoch, or `recorded` of another
        shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.umix import error_rates
      >>> wrong = jnp.array([[False, True, False, False], [True, True, True, True]])
      >>> error_rates(wrong)
      Array([0.25, 1.  ], dtype=float32)

    References:
      Han et al. 2022, UMIX (arXiv:2209.08928), section 3.2.
    """
    wrong = _checked_bool("wrong", wrong)
    if wrong.ndim != 2 or wrong.shape[1] < 1:
        raise ValueError(f"wrong must be [N, T], T at least 1; found shape {wrong.shape}")
    seen = jnp.ones_like(wrong) if recorded is None else _checked_bool("recorded", recorded)
    if seen.shape != wrong.shape:
        raise ValueError(f"recorded must have shape {wrong.shape}; found shape {seen.shape}")
    errors, epochs = (x.sum(1, dtype=jnp.float32) for x in (wrong & seen, seen))
    return errors / jnp.maximum(epochs, 1)


def umix_weights(error_rate: ArrayLike, *, eta: float, floor: float = 1.0) -> jax.Array:
    """Weights examples by their uncertainty: w_i = eta * u_i + floor.

    They are taken as they are, normalised neither over the data nor over a batch. In the loss of a
    mixed row each of its two labels counts by the weight of its own example:

      lambda w_i loss(z, y_i) + (1 - lambda) w_j loss(z, y_j)

    as `semjax.make_sem_loss` does with `batch["sample_weight"]`.

    Args:
      error_rate: f32[N], u in [0, 1] (not checked), of `error_rates`.
      eta: how much more an uncertain example counts, at least 0; the authors chose 80 for
        Waterbirds.
      floor: the weight of an example that is never misclassified, at least 0; the paper's c, 1 in
        the authors' code.

    Returns:
      f32[N], to be handed out by index as the `sample_weight` of batches.

    Raises:
      ValueError: error rates that are not [N], or an eta or floor that is negative or not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.umix import error_rates, umix_weights
      >>> wrong = jnp.array([[False, True], [True, True], [False, False]])
      >>> weights = umix_weights(error_rates(wrong), eta=10.0)
      >>> batch = {"index": jnp.array([2, 0])}
      >>> batch["sample_weight"] = weights[batch["index"]]
      >>> batch["sample_weight"]
      Array([1., 6.], dtype=float32)

    References:
      Han et al. 2022, UMIX (arXiv:2209.08928), eqs. 5 and 6.
    """
    for name, value in {"eta": eta, "floor": floor}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0; found {value!r}")
    rate = jnp.asarray(error_rate, jnp.float32)
    if rate.ndim != 1:
        raise ValueError(f"error_rate must be [N]; found shape {rate.shape}")
    return eta * rate + floor


def _checked_bool(name: str, value: ArrayLike) -> jax.Array:
    array = jnp.asarray(value)
    if array.dtype != bool:
        raise TypeError(f"{name} must be bool; found {array.dtype}")
    return array
