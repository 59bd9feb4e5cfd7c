"""Random damage, as Hypothesis draws it: to bytes, to JSON, and to files in a folder."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

ODD_NAMES = (
    *("0", "00", "1e3", "-1", "999999999999999999999", "\N{SUPERSCRIPT TWO}", "metrics", "state"),
    *("a\nb", "\x1b[2J", "a" * 200, "\N{SNOWMAN}", ".hidden", "tmp.orbax-checkpoint-tmp-0", "d"),
)
NUMBERS = (
    *(0, -1, 1, 2, 7, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(2**70)),
    *(0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
)
TEXTS = st.one_of(
    st.sampled_from(["", "0", "-1", "nan", "1e999", "true", "[]", "None", "\0", "a\nb", "/", ".."]),
    st.text(max_size=8),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.sampled_from(NUMBERS), TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=4,
)


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of bytes, at a share of their length."""

    kind: str
    at: float
    content: bytes

    def __call__(self, content: bytes) -> bytes:
        place = int(self.at * len(content))
        if self.kind == "cut":
            return content[:place]
        if self.kind == "insert":
            return content[:place] + self.content + content[place:]
        if self.kind == "delete":
            return content[:place] + content[place + 1 + len(self.content) :]
        if self.kind == "overwrite":
            return content[:place] + self.content + content[place + len(self.content) :]
        if self.kind == "double":
            return content + content[place:]
        if self.kind == "replace":
            return self.content
        if not content:
            return content
        place = min(place, len(content) - 1)
        mask = (self.content or b"\x01")[0] or 1
        return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


EDITS = st.builds(
    Edit,
    st.sampled_from(["cut", "insert", "delete", "overwrite", "double", "replace", "flip"]),
    st.floats(0, 1),
    st.binary(max_size=24),
)


def nodes(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value, its own first."""
    found = [path]
    if isinstance(value, dict):
        parts: Any = value.items()
    else:
        parts = enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        found += nodes(part, (*path, key))
    return found


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A JSON value with another one at a path."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@dataclasses.dataclass(frozen=True)
class Damage:
    """One thing that happens to a folder: to the file at a share of the sorted list of files."""

    kind: str
    which: float
    edit: Edit
    name: str
    at: float
    value: Any

    def __call__(self, root: Path) -> None:
        files = sorted(path for path in root.rglob("*") if path.is_file() or path.is_symlink())
        if not files:
            return
        path = files[min(int(self.which * len(files)), len(files) - 1)]
        folder = path.parent
        if self.kind == "edit":
            _write(path, self.edit(path.read_bytes() if path.is_file() else b""))
        elif self.kind == "json":
            self._edit_json(path)
        elif self.kind == "remove":
            path.unlink()
        elif self.kind == "remove_folder" and folder != root:
            shutil.rmtree(folder)
        elif self.kind == "rename":
            path.rename(folder / self.name) if not (folder / self.name).is_dir() else None
        elif self.kind == "rename_folder" and folder != root:
            target = folder.with_name(self.name)
            folder.rename(target) if not target.exists() else None
        elif self.kind == "add":
            _write(folder / self.name, self.edit.content)
        elif self.kind == "add_folder":
            (folder / self.name).mkdir(exist_ok=True) if not (folder / self.name).exists() else None
        elif self.kind == "to_folder":
            path.unlink()
            path.mkdir()
        elif self.kind == "to_pipe":
            path.unlink()
            os.mkfifo(path)
        elif self.kind == "to_loop":
            path.unlink()
            path.symlink_to(path.name)
        elif self.kind == "swap":
            other = files[min(int(self.at * len(files)), len(files) - 1)]
            if other.is_file() and path.is_file():
                content = path.read_bytes()
                _write(path, other.read_bytes())
                _write(other, content)

    def _edit_json(self, path: Path) -> None:
        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return
        paths = nodes(value)
        chosen = paths[min(int(self.at * len(paths)), len(paths) - 1)]
        _write(path, json.dumps(replaced(value, chosen, self.value)).encode())


KINDS = (
    *(["edit"] * 4 + ["json"] * 4),
    *("remove", "remove_folder", "rename", "rename_folder", "add", "add_folder"),
    *("to_folder", "to_pipe", "to_loop", "swap"),
)
DAMAGES = st.lists(
    st.builds(
        Damage,
        st.sampled_from(KINDS),
        st.floats(0, 1),
        EDITS,
        st.sampled_from(ODD_NAMES),
        st.floats(0, 1),
        JSON,
    ),
    min_size=1,
    max_size=3,
)


def _write(path: Path, content: bytes) -> None:
    # What is there may be a hard link to the undamaged file, or no file at all.
    if path.is_symlink() or path.exists():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    path.write_bytes(content)
