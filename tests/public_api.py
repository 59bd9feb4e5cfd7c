"""The public names of semjax with their parameters: `python tests/public_api.py` writes the list.

`public_api_test.py` holds the library against the list in `public_api.txt`, so that a change of the
interface is never an accident. Annotations are left out, since Python's releases print them
differently; types are checked by mypy.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import semjax

LIST = Path(__file__).resolve().parent / "public_api.txt"


def modules() -> list[ModuleType]:
    """semjax, its packages and their modules, in order."""
    found = pkgutil.walk_packages(semjax.__path__, "semjax.")
    return [semjax, *(importlib.import_module(info.name) for info in found)]


def listed() -> list[str]:
    """One line for each public name."""
    return sorted({line for module in modules() for line in of_module(module)})


def of_module(module: ModuleType) -> Iterator[str]:
    """The lines of a module: what a package re-exports, and what any module defines itself."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        home = getattr(value, "__module__", None)
        yield f"{module.__name__}.{name}" + (f" = {home}.{name}" if home else "")
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield from _of_value(f"{module.__name__}.{name}", value)


def _of_value(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        # What a protocol is made with is of no interest: it is only called.
        made = "" if getattr(value, "_is_protocol", False) else _parameters(value)
        yield f"class {name}{made}"
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        yield from (f"{name}.{field.name}" for field in fields)
        for member, held in vars(value).items():
            if not member.startswith("_") or member == "__call__":
                # The function behind a method of the class or of none.
                held = getattr(held, "__func__", held)
                if inspect.isfunction(held):
                    yield f"{name}.{member}{_parameters(held)}"
                elif isinstance(held, property):
                    yield f"{name}.{member}"
    elif inspect.isfunction(inspect.unwrap(value)):
        yield f"{name}{_parameters(value)}"
    else:
        yield name


def _parameters(function: Any) -> str:
    """The parameters, with their kinds and defaults."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a class that is made in C
        return ""
    parameters = [
        each.replace(annotation=each.empty, default=_Shown.of(each.default, each.empty))
        for each in signature.parameters.values()
    ]
    shown = signature.replace(parameters=parameters, return_annotation=signature.empty)
    return str(shown)


@dataclasses.dataclass(frozen=True, repr=False)
class _Shown:
    """A default as the list shows it: of a function its name, since its place in memory changes."""

    text: str

    @staticmethod
    def of(default: Any, empty: Any) -> Any:
        if default is empty:
            return empty
        return _Shown(getattr(default, "__qualname__", None) or repr(default))

    def __repr__(self) -> str:
        return self.text


def main() -> None:
    """Writes the list."""
    LIST.write_text("\n".join(listed()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
