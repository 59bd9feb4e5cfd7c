"""Accuracy group by group, and on the worst one: how a model does under a shift of groups."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from semjax.checks import checked_integer
from semjax.robustness.values import checked_classes, checked_correct


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupAccuracy:
    """Accuracy by group.

    Attributes:
      count: f32[G], rows of each group.
      accuracy: f32[G], NaN for an empty group.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.grouping import group_accuracy
      >>> correct, group = jnp.array([True, True, False]), jnp.array([0, 0, 1])
      >>> group_accuracy(correct, group, num_groups=3).accuracy
      Array([ 1.,  0., nan], dtype=float32)
    """

    count: jax.Array
    accuracy: jax.Array


def group_accuracy(correct: ArrayLike, group: ArrayLike, *, num_groups: int) -> GroupAccuracy:
    """The share of right rows of each group.

    Args:
      correct: [N], bool, or numbers that are 0 or 1, as `semjax.metrics.correct` returns them.
      group: integers [N] in [0, G), of a class and an attribute, say: `class * attributes +
        attribute`.
      num_groups: G, static.

    Returns:
      The GroupAccuracy, of G groups whether or not they have rows.

    Raises:
      TypeError: groups that are not integers.
      ValueError: arguments of another shape, no rows, values out of range (in an eager call), or
        num_groups less than 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.grouping import group_accuracy
      >>> correct, group = jnp.array([True, True, False]), jnp.array([0, 1, 1])
      >>> group_accuracy(correct, group, num_groups=2).accuracy.tolist()
      [1.0, 0.5]

    References:
      Sagawa et al. 2020, Distributionally robust neural networks for group shifts
      (arXiv:1911.08731).
    """
    num_groups = checked_integer("num_groups", num_groups)
    if num_groups < 1:
        raise ValueError(f"num_groups must be at least 1; found {num_groups}")
    correct = checked_correct("correct", correct)
    group = checked_classes("group", group, correct.shape[0], number=num_groups)
    right, count = (
        jax.ops.segment_sum(rows, group, num_groups) for rows in (correct, jnp.ones_like(correct))
    )
    return GroupAccuracy(count=count.astype(jnp.float32), accuracy=right / count)


def average_accuracy(groups: GroupAccuracy) -> jax.Array:
    """The accuracy over all rows: the mean of the groups' accuracies, each by its count.

    Args:
      groups: of `group_accuracy`.

    Returns:
      f32[].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.grouping import average_accuracy, group_accuracy
      >>> correct, group = jnp.array([True, True, True, False]), jnp.array([0, 0, 0, 1])
      >>> float(average_accuracy(group_accuracy(correct, group, num_groups=3)))
      0.75
    """
    right = jnp.where(groups.count > 0, groups.count * groups.accuracy, 0)
    return right.sum() / groups.count.sum()


def worst_group_accuracy(groups: GroupAccuracy) -> jax.Array:
    """The accuracy of the group that does worst; empty groups are left out.

    Args:
      groups: of `group_accuracy`.

    Returns:
      f32[].

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.robustness.grouping import group_accuracy, worst_group_accuracy
      >>> correct, group = jnp.array([True, True, True, False]), jnp.array([0, 0, 0, 1])
      >>> float(worst_group_accuracy(group_accuracy(correct, group, num_groups=3)))
      0.0

    References:
      Sagawa et al. 2020, Distributionally robust neural networks for group shifts
      (arXiv:1911.08731), for the worst group as the measure.
    """
    return jnp.where(groups.count > 0, groups.accuracy, jnp.inf).min()
