"""What a batch must hold: its entries, checked when tracing."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from semjax.rows import Rows


def check_batch(batch: Mapping[str, Any], *, regression: bool = False) -> tuple[Any, jax.Array]:
    """The inputs and labels of a batch, or a clear error.

    Args:
      batch: as for `semjax.make_sem_loss`.
      regression: whether labels are numbers.

    Returns:
      The inputs, floating [B, ...] each, and the labels, float32 where they are soft or numbers.

    Raises:
      ValueError: a missing entry, or shapes that do not fit each other.
      TypeError: inputs that are not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.batches import check_batch
      >>> check_batch({"image": jnp.ones((2, 3))})
      Traceback (most recent call last):
      ...
      ValueError: batch needs 'label'; found the keys ['image']
    """
    for name in ("image", "label"):
        if name not in batch:
            raise ValueError(f"batch needs {name!r}; found the keys {sorted(batch)}")
    images, label = jax.tree.map(jnp.asarray, batch["image"]), jnp.asarray(batch["label"])
    size = main_input(images).shape[:1]
    for leaf in jax.tree.leaves(images):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"batch['image'] must be floating; found {leaf.dtype}. Scale uint8 images first, "
                "with semjax.augment.normalise for instance"
            )
        if leaf.ndim < 2 or leaf.shape[0] == 0 or leaf.shape[:1] != size:
            raise ValueError(
                f"batch['image'] must be [B, ...] with B >= 1; found shape {leaf.shape}"
            )
    if label.ndim not in (1, 2, 3, 4) or label.shape[:1] != size:
        raise ValueError(
            f"batch['label'] must be [{size[0]}] or [{size[0]}, K] for images of "
            f"shape {main_input(images).shape} (or a dense map); found shape {label.shape}"
        )
    soft = label.ndim in (2, 4) or regression
    return images, label.astype(jnp.float32) if soft else label


def main_input(images: Any) -> jax.Array:
    """The input whose shape a policy sees: the first image of a tree, or its first leaf.

    Args:
      images: a tree of arrays.

    Returns:
      One of them.

    Raises:
      ValueError: there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.batches import main_input
      >>> main_input({"age": jnp.ones((2, 1)), "photo": jnp.ones((2, 4, 4, 3))}).shape
      (2, 4, 4, 3)
    """
    leaves = jax.tree.leaves(images)
    if not leaves:
        raise ValueError("batch['image'] must hold at least one array; found none")
    return next((leaf for leaf in leaves if leaf.ndim == 4), leaves[0])


def check_views(
    batch: Mapping[str, Any], images: Any, *, asked_by: str = "consistency_weight"
) -> jax.Array:
    """The augmented copies of a batch, or a clear error.

    Args:
      batch: as for `semjax.make_sem_loss`.
      images: its one input, [B, ...].
      asked_by: the option that needs them, for the message.

    Returns:
      Floating [B, V, ...], V at least 1.

    Raises:
      ValueError: no views, views of another shape, or a tree of inputs.
      TypeError: views that are not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.batches import check_views
      >>> check_views({"views": jnp.ones((2, 3, 4))}, jnp.ones((2, 4))).shape
      (2, 3, 4)
    """
    if not isinstance(images, jax.Array):
        raise ValueError(
            f"{asked_by} is for one input; batch['image'] is a tree of "
            f"{len(jax.tree.leaves(images))}"
        )
    views = batch.get("views")
    shape = None if views is None else jnp.shape(views)
    if shape is None or len(shape) < 3 or (shape[0], *shape[2:]) != images.shape or not shape[1]:
        raise ValueError(
            f"{asked_by} needs batch['views'], augmented copies [B, V, ...] of images of "
            f"shape {images.shape}; found {shape}"
        )
    views = jnp.asarray(views)
    if not jnp.issubdtype(views.dtype, jnp.floating):
        raise TypeError(f"batch['views'] must be floating, as the images are; found {views.dtype}")
    return views


def sample_weights(batch: Mapping[str, Any], rows: Rows) -> jax.Array | None:
    """The weights of the rows' labels, 0 for padding, or None where the batch has none.

    Args:
      batch: as for `semjax.make_sem_loss`.
      rows: its rows.

    Returns:
      f32[B] or None.

    Raises:
      ValueError: weights of another shape.

    Example:
      >>> from semjax.batches import sample_weights
      >>> from semjax.rows import Rows
      >>> sample_weights({"sample_weight": [1, 3]}, Rows(2)).tolist()
      [1.0, 3.0]
    """
    if batch.get("sample_weight") is None:
        return None
    weight = jnp.asarray(batch["sample_weight"], jnp.float32)
    if weight.shape != (rows.size,):
        raise ValueError(
            f"batch['sample_weight'] must have shape ({rows.size},); found {weight.shape}"
        )
    return rows.zero_padding(weight)
