"""Checks that every image operation makes of its arguments, with one wording."""

import operator
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def checked_images(images: ArrayLike, *, name: str = "images") -> jax.Array:
    """Images as an array, or a clear error.

    Args:
      images: [B, H, W, C], uint8 or floating.
      name: of the argument, for the message.

    Returns:
      The array.

    Raises:
      ValueError: another rank.
      TypeError: another dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.checks import checked_images
      >>> checked_images(jnp.zeros((2, 2, 3)))
      Traceback (most recent call last):
      ...
      ValueError: images must be [B, H, W, C]; found shape (2, 2, 3)
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"{name} must be [B, H, W, C]; found shape {images.shape}")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"{name} must be uint8 or floating; found {images.dtype}")
    return images


def checked_integer(name: str, value: SupportsIndex, *, natural: bool = False) -> int:
    """A static integer, or a clear error.

    Args:
      name: of the argument, for the message.
      value: anything that is an integer when tracing.
      natural: whether it must be 0 or more.

    Returns:
      The integer.

    Raises:
      TypeError: no integer, or a traced one.
      ValueError: below 0 where it must not be.

    Example:
      >>> from semjax.checks import checked_integer
      >>> checked_integer("padding", 4)
      4
    """
    try:
        number = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be a static integer; found {value!r}") from error
    if natural and number < 0:
        raise ValueError(f"{name} must be 0 or more; found {number}")
    return number
