"""The arrays of a state, by name: which there are, of which kind, and how two states differ."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["differences", "kinds", "leaves", "require_arrays", "require_shardings"]


def leaves(tree: Any) -> dict[str, Any]:
    """The leaves by path, the same for a state and for the metadata Orbax keeps of it.

    Example:
      >>> leaves({"params": [1, 2], "ema": None})
      {'params/0': 1, 'params/1': 2}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def kinds(tree: Any) -> dict[str, str]:
    """Dtype and shape of every leaf.

    Example:
      >>> kinds({"x": jnp.zeros((2, 3))})
      {'x': 'float32[2,3]'}
    """
    return {name: _kind(leaf) for name, leaf in leaves(tree).items()}


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """One remark for every name that is missing, not expected, or of another kind.

    Example:
      >>> differences({"x": "float32[2]"}, {"x": "float32[3]"})
      ['x is float32[2] (float32[3] expected)']
    """

    def difference(name: str) -> str:
        if name not in found:
            return f"{name} is missing ({expected[name]} expected)"
        if name not in expected:
            return f"{name} ({found[name]}) is not expected"
        return f"{name} is {found[name]} ({expected[name]} expected)"

    names = sorted({*found, *expected})
    return [difference(name) for name in names if found.get(name) != expected.get(name)]


def require_shardings(template: Any) -> None:
    """Raises ValueError for a leaf that does not say where it is to lie."""
    for name, leaf in leaves(template).items():
        if getattr(leaf, "sharding", None) is None:
            raise ValueError(
                f"template leaf {name} ({type(leaf).__name__}) has no sharding: pass arrays, or "
                f"jax.ShapeDtypeStruct(shape, dtype, sharding=...)"
            )


def require_arrays(state: Any) -> None:
    """Raises TypeError for a leaf that would not come back as it is."""
    for name, leaf in leaves(state).items():
        if not isinstance(leaf, jax.Array):
            found = f"{type(leaf).__name__}: wrap it in jnp.asarray"
        elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found = f"{leaf.dtype}: save jax.random.key_data of it"
        elif leaf.size == 0:
            found = f"an empty one, {_kind(leaf)}: leave it out"  # Orbax saves none
        elif not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            found = "one split over processes: replicate it"  # no process could sum its bytes
        else:
            continue
        raise TypeError(f"state leaf {name} must be a jax.Array of numbers, got {found}")


def _kind(leaf: Any) -> str:
    if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
