"""Exports a trained model for other programs: `python -m experiments.export --workdir=RUN`.

Writes into RUN/export:

    model.safetensors   the weights, which most frameworks can read
    model.jaxexp        the model as one function of weights and bytes, made by jax.export for CPU,
                        CUDA and TPU and for any number of images
    export.json         what they are, with the SHA-256 of both
    read_export.py      reads them with jax alone, without flax and without this project

Exit codes: 0 written; 2 the command or the run directory is not right, or a package is missing; 5
it could not be written; 130 interrupted. An export before stays as it was unless the code is 0.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from absl import app, flags
from flax import traverse_util
from jax import export as jax_export

from experiments import models, read_export, records, trained, untrusted
from experiments.command_line import flagfields
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError
from experiments.datasets.data import DataError
from experiments.lifecycle import compile_cache, exit_codes, process
from experiments.trained import Trained
from semjax import augment

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
READER = "read_export.py"
_FILES = (read_export.WEIGHTS, read_export.FUNCTION, read_export.ABOUT, READER)


class NotWrittenError(Exception):
    """The export could not be written; the one before is as it was."""


@dataclasses.dataclass(frozen=True)
class Command:
    """What is exported, and where to.

    Raises:
      ConfigError: no run directory, or a platform that there is not.
    """

    workdir: str = flag("", "directory of the run to export")
    weights: str = flag(
        "final", "the final weights, or the best on validation", choices=trained.WEIGHTS
    )
    platforms: str = flag("cpu,cuda,tpu", f"what it is to run on: some of {', '.join(PLATFORMS)}")
    output: str = flag("", "folder to write, replaced as a whole; without it WORKDIR/export")
    compile_cache: str = flag("auto", compile_cache.HELP, keeps_result=True)

    def __post_init__(self) -> None:
        """Checks every flag."""
        flagfields.check(self)
        if not self.workdir:
            raise ConfigError("--workdir: must name the directory of a run; found none")
        names = self.platforms.split(",")
        if not set(names) <= set(PLATFORMS) or len(set(names)) < len(names):
            raise ConfigError(
                f"--platforms={self.platforms}: must be some of {', '.join(PLATFORMS)}, each once, "
                "with commas between them"
            )


def run(command: Command) -> Path:
    """Exports a run.

    Args:
      command: what to export.

    Returns:
      The folder written.

    Raises:
      ConfigError: the run directory or the folder is not right, or a package is missing.
      NotWrittenError: the folder could not be written.
    """
    model = trained.load(command.workdir, weights=command.weights)
    output = command.output or Path(command.workdir) / "export"
    return write(model, output, platforms=command.platforms.split(","))


def write(model: Trained, output: str | Path, *, platforms: Sequence[str] = ("cpu",)) -> Path:
    """Writes a model with its weights as a folder that needs nothing of this project.

    Args:
      model: the model.
      output: the folder; an export there is replaced as a whole.
      platforms: of `PLATFORMS`.

    Returns:
      The folder.

    Raises:
      ConfigError: a package is missing, or the folder holds something else.
      NotWrittenError: it could not be written; what was there stays.
    """
    _check_packages()
    output = Path(output)
    _check_replaceable(output)
    import safetensors.numpy

    weights = weights_of(model)
    about = _about(model, weights, platforms)
    metadata = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (
            {"format": read_export.FORMAT} | about["model"] | about["images"]
        ).items()
    }
    files = {
        read_export.WEIGHTS: safetensors.numpy.save(weights, metadata),
        read_export.FUNCTION: bytes(function_of(model, weights, platforms).serialize()),
    }
    about["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    about["sha256"] = read_export.digest_of(about)
    files[read_export.ABOUT] = (json.dumps(about, indent=2) + "\n").encode()
    files[READER] = Path(str(read_export.__file__)).read_bytes()
    try:
        _replace(output, files)
    except OSError as error:
        raise NotWrittenError(f"--output={output}: could not be written: {error}") from error
    return output


def weights_of(model: Trained) -> dict[str, np.ndarray]:
    """The weights of a model under one flat name each, such as `params.head.kernel`.

    Args:
      model: the model.

    Returns:
      Arrays f32, parameters and BatchNorm statistics.
    """
    variables = {"params": model.params, **(model.model_state or {})}
    flat = traverse_util.flatten_dict(variables, sep=".")
    return {name: np.asarray(leaf) for name, leaf in flat.items()}


def apply_fn(model: Trained) -> Callable[[Mapping[str, Any], jax.Array], dict[str, jax.Array]]:
    """The function that is exported.

    Convolutions are XLA's, whatever the run had: they are what every platform has.

    Args:
      model: the model; its weights are not looked at.

    Returns:
      `f(weights, images) -> {"logits": f32[N,K], "representation": f32[N,D]}` of the weights of
      `weights_of` and of uint8 images [N,H,W,C], which it normalises as the run did.
    """
    module = models.create(
        model.config.model, model.inputs.num_classes, compute_dtype=model.config.compute_dtype
    )
    mean, std = np.array(model.inputs.mean), np.array(model.inputs.std)

    def apply(weights: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
        variables = traverse_util.unflatten_dict(dict(weights), sep=".")
        images = augment.normalise(images, mean, std)
        features: Any = module.apply(variables, images, train=False)
        return {"logits": features.logits, "representation": features.pooled}

    return apply


def function_of(
    model: Trained, weights: Mapping[str, np.ndarray], platforms: Sequence[str]
) -> jax_export.Exported:
    """The model as StableHLO for several platforms and any number of images.

    Args:
      model: the model.
      weights: those of `weights_of`; only their shapes are looked at.
      platforms: of `PLATFORMS`.

    Returns:
      What `jax.export` makes of `apply_fn`.
    """
    height, width, channels = model.inputs.image_shape
    shape = jax_export.symbolic_shape(f"b, {height}, {width}, {channels}")
    arguments = (
        {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in weights.items()},
        jax.ShapeDtypeStruct(shape, np.uint8),
    )
    with _without_locations():
        return jax_export.export(jax.jit(apply_fn(model)), platforms=platforms)(*arguments)


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Keeps source lines out of what is exported, and with them the paths of this machine."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _about(
    model: Trained, weights: Mapping[str, np.ndarray], platforms: Sequence[str]
) -> dict[str, Any]:
    """The content of export.json, but for the files."""
    config, inputs = model.config, model.inputs
    packages = ("semjax", "jax", "jaxlib", "flax", "safetensors")
    return {
        "format": read_export.FORMAT,
        "made_by": {name: importlib.metadata.version(name) for name in packages},
        "model": {
            "model": config.model,
            "dataset": config.dataset,
            "compute_dtype": config.compute_dtype,
            "num_classes": inputs.num_classes,
            "step": model.step,
            "weights": model.weights,
            "parameters": sum(
                leaf.size for name, leaf in weights.items() if name.startswith("params.")
            ),
        },
        "images": {
            "dtype": "uint8",
            "image_shape": list(inputs.image_shape),
            "mean": list(inputs.mean),
            "std": list(inputs.std),
        },
        "outputs": {
            "logits": "float32 [N, num_classes]",
            "representation": "float32 [N, D], what the classifier reads",
        },
        "platforms": list(platforms),
    }


def _check_packages() -> None:
    packages = ("safetensors", "flatbuffers")
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise ConfigError(f'an export needs {" and ".join(missing)}: pip install "semjax[export]"')


def _check_replaceable(folder: Path) -> None:
    """Refuses to replace a folder that holds anything but an export."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output={folder}: must be a folder; found a file")
    if not folder.exists():
        return
    if others := sorted({path.name for path in folder.iterdir()} - {*_FILES, "__pycache__"}):
        raise ConfigError(
            f"--output={folder}: is replaced as a whole, and holds {others[0]}, which is no part "
            "of an export; name another folder"
        )


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts a folder of these files in the place of the one that is there, or leaves that one.

    Between two renames there is no folder for a moment; there is never one of old and new files.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    before = made.with_name(f"{made.name}.before")
    try:
        made.mkdir()
        for name, content in files.items():
            with (made / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(before)
        try:
            made.rename(folder)
        except OSError:
            if before.exists():
                before.rename(folder)
            raise
        shutil.rmtree(before, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def main(command: Command) -> None:
    """Runs the program and turns its errors into one line and an exit code."""
    try:
        output = run(command)
    except (ConfigError, DataError, OSError) as error:
        _stop(exit_codes.REFUSED, untrusted.error_line(error))
    except NotWrittenError as error:
        _stop(exit_codes.NOT_SAVED, untrusted.error_line(error))
    except KeyboardInterrupt:
        _stop(exit_codes.INTERRUPTED, "interrupted: nothing was changed")
    about = read_export.describe(output)
    records.print_table(
        {
            "model": f"{about['model']['model']}, step {about['model']['step']:,}, "
            f"{about['model']['weights']} weights",
            "parameters": f"{about['model']['parameters']:,}",
            "images": f"uint8 [N, {', '.join(map(str, about['images']['image_shape']))}]",
            "platforms": ", ".join(about["platforms"]),
        },
        title="exported",
    )
    print(output)


def _stop(code: int, line: str) -> NoReturn:
    print(line, file=sys.stderr)
    raise SystemExit(code) from None


def _own_process(command: Command) -> None:
    process.run(lambda: main(command), cache=command.compile_cache)


def _parse(argv: Sequence[str]) -> Command:
    try:
        quiet = [argv[0], "--verbosity=-1", *argv[1:]]
        return flagfields.parse(Command, quiet, flags.FLAGS)[0]
    except ConfigError as error:
        _stop(exit_codes.REFUSED, untrusted.error_line(error))


if __name__ == "__main__":
    flagfields.define(Command, flags.FLAGS)
    app.run(_own_process, flags_parser=_parse)
