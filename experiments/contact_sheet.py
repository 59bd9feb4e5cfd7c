"""Draws every corruption of a picture: `python -m experiments.contact_sheet --output=docs/images`.

`corruptions.png` is written: a line for each of the nineteen corruptions, with the image
as it is and its five severities. `--dataset` and `--row` choose the image, of the test split.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from experiments import config as config_lib
from experiments.config import Config, ConfigError
from experiments.datasets import loading
from experiments.datasets.data import DataError
from semjax import corruptions, cpu
from semjax.corruptions.severities import SEVERITIES

# Corruptions side by side, so that the sheet is about as wide as high.
SIDE_BY_SIDE = 2
TITLES = ("clean", *(f"severity {severity}" for severity in SEVERITIES))


def corruptions_figure(image: np.ndarray, *, seed: int = 0, note: str = "") -> Figure:
    """A line for each corruption: the image as it is, and at the five severities.

    Args:
      image: uint8[H, W, C], C 1 or 3.
      seed: of the draws; the severities of a corruption share them.
      note: a line below the title.

    Returns:
      The figure.
    """
    sheet = _corrupted(image, seed)
    lines = -(-len(sheet) // SIDE_BY_SIDE)
    figure = Figure(figsize=(6.4 * SIDE_BY_SIDE, 0.92 * lines + 0.9), layout="constrained")
    figure.suptitle(
        f"The corruptions of the benchmark, and the four held out (in italics)\n{note}".strip(),
        fontsize=10,
    )
    blocks = figure.subfigures(1, SIDE_BY_SIDE, wspace=0.02, squeeze=False)
    for number, block in enumerate(blocks[0]):
        names = list(sheet)[number * lines : (number + 1) * lines]
        axes = block.subplots(lines, len(TITLES), squeeze=False)
        for axis in axes.ravel():
            axis.set_axis_off()
        for title, axis in zip(TITLES, axes[0], strict=True):
            axis.set_title(title, fontsize=8)
        for name, line in zip(names, axes, strict=False):
            _draw(name, line, [image, *sheet[name]])
    return figure


def _corrupted(image: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Of each corruption uint8[5, H, W, C]."""
    keys = jax.random.split(jax.random.key(seed), len(corruptions.CORRUPTIONS))
    return {
        name: np.concatenate(
            [
                corruptions.corrupt(key, jnp.asarray(image)[None], name=name, severity=severity)
                for severity in SEVERITIES
            ]
        )
        for key, name in zip(keys, corruptions.CORRUPTIONS, strict=True)
    }


def _draw(name: str, line: np.ndarray, pictures: Sequence[np.ndarray]) -> None:
    for axis, picture in zip(line, pictures, strict=True):
        grey = picture.shape[-1] == 1
        axis.imshow(
            picture[..., 0] if grey else picture,
            cmap="gray" if grey else None,
            vmin=0,
            vmax=255,
            interpolation="nearest",  # pixels as they are
        )
    line[0].text(
        *(-0.12, 0.5, name.replace("_", "\n")),
        transform=line[0].transAxes,
        ha="right",
        va="center",
        fontsize=9,
        style="italic" if name in corruptions.HELD_OUT else "normal",
    )


def main(config: Config, row: int, output: str) -> None:
    """Draws the sheet and says where it is.

    Args:
      config: its data set, and its seed for the draws.
      row: of the image in the test split.
      output: the folder.

    Raises:
      DataError: a row that the test split does not have.
    """
    data = loading.load(
        config.dataset,
        data_dir=config.data_dir,
        image_size=config.image_size,
        download=config.download,
        cache=config.data_cache,
    )
    if not 0 <= row < len(data.test):
        raise DataError(f"row must be from 0 to {len(data.test) - 1}; found {row}")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"drawing {len(corruptions.CORRUPTIONS)} corruptions of {config.dataset}", flush=True)
    note = f"{config.dataset}, test image {row}"
    figure = corruptions_figure(data.test.image[row], seed=config.seed, note=note)
    figure.savefig(folder / "corruptions.png", dpi=100)
    print(folder / "corruptions.png")


def _parse(argv: Sequence[str]) -> Config:
    try:
        return config_lib.parse(argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(config: Config) -> None:
    try:
        main(config, flags.FLAGS.row, flags.FLAGS.output)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    cpu.set_flags()
    flags.DEFINE_string("output", "contact_sheet", "folder the picture is written to")
    flags.DEFINE_integer("row", 49, "of the test split, the image that is corrupted")
    config_lib.define_flags(flags.FLAGS)
    flags.adopt_module_key_flags(config_lib)
    app.run(_run, flags_parser=_parse)
