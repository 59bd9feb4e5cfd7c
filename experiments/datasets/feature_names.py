"""The classes that features.json of a TFDS set names, which TFDS imports to make them.

A data set may come from anybody, and importing a module runs it: one that lies in the current
directory, or one of Python's own that does something when it is imported.
"""

from pathlib import Path
from typing import Any

from experiments import untrusted

_OWN = "tensorflow_datasets.core.features."
# As TFDS writes it, as protobuf takes it too, and as older versions wrote it.
_KEYS = ("pythonClassName", "python_class_name", "type")


def check(directory: Path) -> None:
    """Refuses classes that are not TFDS's own.

    Args:
      directory: of a prepared set; a missing features.json is not looked at.

    Raises:
      OSError: features.json cannot be read.
      ValueError: it is damaged, or names another class.

    Example:
      >>> check(Path("/nowhere"))
    """
    path = directory / "features.json"
    if not path.exists():
        return
    for name in sorted(_named(untrusted.read_json(path))):
        if not name.startswith(_OWN):
            raise ValueError(
                f"features.json names the class {name!r}, which is not one of TFDS's features"
            )


def _named(value: Any) -> set[str]:
    """Every class that a JSON value names, however deep."""
    found: set[str] = set()
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            found |= {one[key] for key in _KEYS if isinstance(one.get(key), str)}
            rest.extend(one.values())
        elif isinstance(one, list):
            rest.extend(one)
    return found
