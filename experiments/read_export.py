"""Reads a model that `python -m experiments.export` wrote; a copy of this file lies beside it.

Nothing of what the model was trained with is needed: only jax, numpy, safetensors, and flatbuffers,
which jax.export reads by.

    import read_export
    model = read_export.load("export")
    model(images)["logits"]  # of uint8 images [N,H,W,C]

From a shell, for all images of a file: python read_export.py FOLDER IMAGES.npy LOGITS.npy. Its exit
code is 0, or 2 with one line that says what is wrong.

Dimension letters: N images, H W C image, K classes, D representation.
"""

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

FORMAT = 1
ABOUT, WEIGHTS, FUNCTION = "export.json", "model.safetensors", "model.jaxexp"
# What jax calls a platform when it runs, and how an exported function names it.
_PLATFORMS = {"gpu": ("cuda", "rocm")}
_LARGEST_ABOUT = 1 << 20
# Images that the program sends through the model at once.
_ROWS = 256


class ExportError(ValueError):
    """An export that cannot be used; the message names the file and what is wrong with it."""


def load(folder: str | Path) -> Callable[[Any], dict[str, np.ndarray]]:
    """Reads a model after checking every file of it.

    Args:
      folder: what `python -m experiments.export` wrote.

    Returns:
      `model(images) -> {"logits": f32[N,K], "representation": f32[N,D]}` of uint8 images [N,H,W,C],
      N at least 1. Compiled once for each N. It raises ExportError for other images.

    Raises:
      ExportError: a file that is missing, damaged, of another export or of a newer format; a
        package that is missing; a version of jax or a platform that cannot run it.

    Example:
      >>> model = load("runs/digits-0/export")  # doctest: +SKIP
      >>> model(np.zeros((2, 8, 8, 1), np.uint8))["logits"].shape  # doctest: +SKIP
      (2, 10)
    """
    for package in ("safetensors", "flatbuffers"):
        if importlib.util.find_spec(package) is None:
            raise ExportError(f"reading an export needs {package}: pip install {package}")
    about = describe(folder)
    weights = _weights(_content(folder, WEIGHTS, about), Path(folder) / WEIGHTS)
    function = _function(_content(folder, FUNCTION, about), Path(folder) / FUNCTION, about)
    _check_platform(function, Path(folder) / FUNCTION)
    shape = _check_arguments(function, weights, folder)
    call, weights = jax.jit(function.call), jax.device_put(weights)

    def model(images: Any) -> dict[str, np.ndarray]:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
            raise ExportError(
                f"images must be uint8 [N, {', '.join(map(str, shape))}], N at least 1; "
                f"found {images.dtype} {list(images.shape)}"
            )
        return {name: np.asarray(value) for name, value in call(weights, images).items()}

    return model


def describe(folder: str | Path) -> dict[str, Any]:
    """What an export says of itself: the model, its images, the platforms and the files.

    Args:
      folder: what `python -m experiments.export` wrote.

    Returns:
      The content of its export.json.

    Raises:
      ExportError: there is none, or it is damaged or of a newer format.
    """
    path = Path(folder) / ABOUT
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_ABOUT + 1)
        about = json.loads(text) if len(text) <= _LARGEST_ABOUT else None
        written = about.pop("sha256", None) if isinstance(about, dict) else None
        intact = written == digest_of(about)
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: is damaged: it is not JSON") from error
    if (
        not isinstance(about, dict)
        or not isinstance(about.get("format"), int)
        or about["format"] < 1
    ):
        raise ExportError(f"{path}: does not describe an export")
    if about["format"] > FORMAT:
        raise ExportError(
            f"{path}: has format {about['format']}, newer than {FORMAT}, which this reader knows; "
            "use the read_export.py beside it"
        )
    if not intact:
        raise ExportError(f"{path}: is damaged: its content is not what was written")
    if not all(isinstance(about.get(name), dict) for name in ("made_by", "files")):
        raise ExportError(f"{path}: does not describe an export")
    return about


def digest_of(about: Any) -> str:
    """The SHA-256 that export.json keeps of its own content.

    Args:
      about: the content without it.

    Returns:
      64 hexadecimal digits.

    Example:
      >>> digest_of({"format": 1})[:8]
      '5e5fbf8b'
    """
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def main(arguments: Sequence[str]) -> int:
    """Writes the logits f32[N,K] of a file of images.

    Args:
      arguments: the folder of the export, a .npy file of uint8 images [N,H,W,C], and the .npy file
        to write.

    Returns:
      The exit code.
    """
    if len(arguments) != 3:
        print("usage: python read_export.py FOLDER IMAGES.npy LOGITS.npy", file=sys.stderr)
        return 2
    folder, source, target = arguments
    try:
        model = load(folder)
        images = _images(source)
        starts = range(0, max(len(images), 1), _ROWS)  # of no images too, which the model refuses
        batches = [model(images[start : start + _ROWS]) for start in starts]
        logits = np.concatenate([batch["logits"] for batch in batches])
        _write(Path(target), logits)
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _content(folder: str | Path, name: str, about: dict[str, Any]) -> bytes:
    """The bytes of a file, checked against export.json."""
    path = Path(folder) / name
    try:
        size, digest = about["files"][name]["bytes"], about["files"][name]["sha256"]
    except (KeyError, TypeError) as error:
        raise ExportError(f"{Path(folder) / ABOUT}: does not tell of {name}") from error
    try:
        found = path.stat().st_size
        content = path.read_bytes() if found == size else b""
    except OSError as error:
        raise ExportError(f"{path}: cannot be read: {error.strerror}") from error
    if found != size:
        raise ExportError(f"{path}: is damaged: it has {found} bytes, not {size}")
    if hashlib.sha256(content).hexdigest() != digest:
        raise ExportError(f"{path}: is damaged, or of another export: its SHA-256 is not {digest}")
    return content


def _weights(content: bytes, path: Path) -> dict[str, np.ndarray]:
    import safetensors
    import safetensors.numpy

    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise ExportError(f"{path}: holds no weights: {_first_line(error)}") from error


def _function(content: bytes, path: Path, about: dict[str, Any]) -> export.Exported:
    try:
        return export.deserialize(bytearray(content))
    except Exception as error:  # jax does not say which; every one means that it cannot read it
        versions = f"jax {jax.__version__} cannot read what jax {about['made_by'].get('jax')} wrote"
        raise ExportError(f"{path}: {versions}: {_first_line(error)}") from error


def _check_platform(function: export.Exported, path: Path) -> None:
    here = jax.default_backend()
    if not set(_PLATFORMS.get(here, (here,))) & set(function.platforms):
        raise ExportError(
            f"{path}: runs on {', '.join(function.platforms)}; this process runs on {here}"
        )


def _check_arguments(
    function: export.Exported, weights: dict[str, np.ndarray], folder: str | Path
) -> tuple[int, ...]:
    """Checks that the function takes these weights; returns the shape of its images."""
    try:
        (wanted, images), _ = jax.tree.unflatten(function.in_tree, function.in_avals)
        wanted = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in wanted.items()}
        shape = tuple(images.shape[1:])
    except (ValueError, TypeError, AttributeError) as error:
        raise ExportError(f"{Path(folder) / FUNCTION}: takes no weights and images") from error
    found = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ExportError(
                f"{folder}: {WEIGHTS} and {FUNCTION} are of different models: {name} is "
                f"{found.get(name, 'missing')}, wanted {wanted.get(name, 'none')}"
            )
    return shape


def _images(path: str) -> np.ndarray:
    try:
        images = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ExportError(f"{path}: cannot be read as an array: {_first_line(error)}") from error
    if not isinstance(images, np.ndarray) or images.ndim != 4:
        raise ExportError(f"{path}: must hold one array of images [N,H,W,C]")
    return images


def _write(path: Path, array: np.ndarray) -> None:
    """Writes the whole file or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
