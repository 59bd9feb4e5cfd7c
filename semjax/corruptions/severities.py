"""What every corruption shares: checks of its arguments, constants by severity, a key for each row.

The strength of a corruption stands in a pair of tables, one with the constants of CIFAR-10-C and
one with those of ImageNet-C, each with one entry for each of the five severities. Entries are
looked up by a traced severity, so that one compiled program serves all five.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

#: What `constants` may be.
CONSTANTS = ("auto", "cifar", "imagenet")
#: Images up to this many pixels high and wide get the constants of CIFAR-10-C by "auto".
LARGEST_CIFAR_LIKE = 64
#: The severities there are.
SEVERITIES = (1, 2, 3, 4, 5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """A severity, and the family of constants it stands in.

    Attributes:
      place: i32[], severity - 1: where in a table.
      family: "cifar" or "imagenet", static.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.severities import Level
      >>> Level(jnp.array(4), "cifar").family
      'cifar'
    """

    place: jax.Array
    family: str = dataclasses.field(metadata={"static": True})


def checked(images: ArrayLike, severity: ArrayLike, constants: str) -> tuple[jax.Array, Level]:
    """The images as an array and the level of a corruption, or a clear error.

    Args:
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      constants: "cifar", "imagenet", or "auto": those of CIFAR-10-C if neither H nor W is above 64.

    Returns:
      The images, and the Level.

    Raises:
      TypeError: images that are not uint8, or a severity that is not an integer.
      ValueError: another shape of images or severity, a severity out of range, a name of constants
        that is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.severities import checked
      >>> images, level = checked(jnp.zeros((2, 8, 8, 3), jnp.uint8), 3, "auto")
      >>> int(level.place), level.family
      (2, 'cifar')
      >>> checked(images, 6, "auto")
      Traceback (most recent call last):
      ...
      ValueError: severity must be an integer from 1 to 5; found 6
    """
    images = jnp.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images must be [B, H, W, C], C 1 or 3; found shape {images.shape}")
    if 0 in images.shape[1:3]:
        raise ValueError(f"images must have pixels; found shape {images.shape}")
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8; found {images.dtype}")
    if constants not in CONSTANTS:
        raise ValueError(f"constants must be one of {', '.join(CONSTANTS)}; found {constants!r}")
    if constants == "auto":
        small = max(images.shape[1:3]) <= LARGEST_CIFAR_LIKE
        constants = "cifar" if small else "imagenet"
    return images, Level(_checked_severity(severity) - 1, constants)


def _checked_severity(severity: ArrayLike) -> jax.Array:
    dtype = jnp.result_type(severity)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"severity must be an integer; found {severity!r} of {dtype}")
    if np.shape(severity) != ():
        raise ValueError(f"severity must be a scalar; found shape {np.shape(severity)}")
    if not isinstance(severity, jax.core.Tracer) and int(np.asarray(severity)) not in SEVERITIES:
        raise ValueError(f"severity must be an integer from 1 to 5; found {severity}")
    return jnp.asarray(severity, jnp.int32)


def table_of(level: Level, tables: Sequence[Any]) -> np.ndarray:
    """The static table of a level's family, the five severities along its first axis.

    Args:
      level: the Level.
      tables: the tables of ("cifar", "imagenet"), nested sequences or arrays with 5 entries each.

    Returns:
      The table as a NumPy array [5, ...].

    Raises:
      ValueError: a table without exactly five entries.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.severities import Level, table_of
      >>> table_of(Level(jnp.array(0), "cifar"), ([1, 2, 3, 4, 5], [2, 4, 6, 8, 10])).max()
      np.int64(5)
    """
    table = np.asarray(tables[("cifar", "imagenet").index(level.family)])
    if table.shape[:1] != (len(SEVERITIES),):
        raise ValueError(f"a table has one entry for each severity, 5; found shape {table.shape}")
    return table


def look_up(level: Level, tables: Sequence[Any], *, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """The constants of a level: table[severity - 1], traced.

    A row of several constants comes out as one array, which may be unpacked.

    Args:
      level: the Level.
      tables: the tables of ("cifar", "imagenet"), see `table_of`; constants, or arrays made of
        them, such as one blur matrix for each severity.
      dtype: of the result.

    Returns:
      [...], of the shape of an entry.

    Raises:
      ValueError: a table without exactly five entries.

    Example:
      >>> import jax.numpy as jnp
      >>> from semjax.corruptions.severities import Level, look_up
      >>> tables = ([1, 2, 3, 4, 5], [2, 4, 6, 8, 10])
      >>> float(look_up(Level(jnp.array(4), "imagenet"), tables))
      10.0
    """
    return jnp.asarray(table_of(level, tables), dtype)[level.place]


def row_keys(key: jax.Array, count: int, index: ArrayLike | None) -> jax.Array:
    """One key for each row, which depends on the row's index and on nothing else of the batch.

    Row i gets fold_in(key, index[i]). Whatever is drawn from it under `jax.vmap` is then the same
    in any batch, at any place, for keys of JAX's default kind; under keys of the kind "rbg" draws
    under `jax.vmap` depend on the batch.

    Args:
      key: consumed here.
      count: B.
      index: i32[B], the numbers of the rows; None for 0, ..., B - 1.

    Returns:
      Keys [B].

    Raises:
      TypeError: an index that is not of integers.
      ValueError: an index of another shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions.severities import row_keys
      >>> keys = row_keys(jax.random.key(0), 3, None)
      >>> bool(keys[2] == row_keys(jax.random.key(0), 1, jnp.array([2]))[0])
      True
    """
    index = jnp.arange(count, dtype=jnp.int32) if index is None else jnp.asarray(index)
    if index.shape != (count,):
        raise ValueError(f"index must be one number a row, ({count},); found shape {index.shape}")
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"index must be integer; found {index.dtype}")
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)
