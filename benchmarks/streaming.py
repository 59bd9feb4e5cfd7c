"""Hours of ImageNet-size input in minutes: is memory flat, and how fast do images come?

    python -m benchmarks.streaming --gib=20 --minutes=10 --folder=DIR

Makes a TFDS set of array_record files that is as large as asked for by what dataset_info.json says
and by what is read, but not on disk: one file of 512 pictures of JPEG lies there, and all others
are links to it. So nearly every picture is in the system's memory, and what is measured is reading
records, decoding and resizing, not a disk.
"""

import argparse
import io
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from experiments.datasets import data as data_lib
from experiments.datasets import loading, streaming
from experiments.datasets.data import Data
from experiments.datasets.streaming import Stream

NAME = "made_pictures"
_PICTURES = 512
_TEST = 16
_CLASSES = 1000
# Rows of a stream that the path from memory is measured on.
_IN_MEMORY = 1024
_SEED = 0


def make(folder: Path, gib: float) -> int:
    """Makes the data set, or that which is there as large as asked for.

    Args:
      folder: root directory of TFDS.
      gib: GiB of its train split.

    Returns:
      The bytes of the train split as they are read.
    """
    directory = folder / NAME / "1.0.0"
    original = directory / "pictures.array_record"
    if not directory.is_dir():
        _prepare(folder)
    if not original.exists():
        (shard,) = directory.glob(f"{NAME}-train.array_record-*")
        shard.rename(original)
    size = original.stat().st_size
    copies = max(1, round(gib * 2**30 / size))
    for link in directory.glob(f"{NAME}-train.array_record-*"):
        link.unlink()
    for number in range(copies):
        link = directory / f"{NAME}-train.array_record-{number:05}-of-{copies:05}"
        link.symlink_to(original.name)
    about = directory / "dataset_info.json"
    info = json.loads(about.read_text(encoding="utf-8"))
    (train,) = (split for split in info["splits"] if split["name"] == "train")
    train["shardLengths"] = train["shardLengths"][:1] * copies
    train["numBytes"] = str(size * copies)
    about.write_text(json.dumps(info), encoding="utf-8")
    return size * copies


def _prepare(folder: Path) -> None:
    """Makes the data set with one file of pictures."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    with registered.skip_registration():

        class MadePictures(tfds.core.GeneratorBasedBuilder):
            name = NAME
            VERSION = tfds.core.Version("1.0.0")
            url_infos = None

            def _info(self) -> Any:
                features = {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=_CLASSES),
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
                return {"train": _pictures(_PICTURES, 0), "test": _pictures(_TEST, 1)}

            # TFDS asks for it, and calls it in no builder whose splits bring their examples.
            def _generate_examples(self) -> None:
                raise NotImplementedError

    builder = MadePictures(data_dir=folder, file_format="array_record")
    config = tfds.download.DownloadConfig(num_shards=1)
    builder.download_and_prepare(download_config=config)


def _pictures(count: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """JPEG files of the size of ImageNet's: noise of all wavelengths, about 80 kB each."""
    from PIL import Image

    draw = np.random.default_rng(seed)
    for number in range(count):
        width, height = (500, 375) if number % 3 else (375, 500)
        pixels = np.full((height, width, 3), 128.0)
        for cells in (4, 16, 64, 256):
            coarse = draw.normal(128, 40, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
            pixels += 0.5 * (np.asarray(Image.fromarray(coarse).resize((width, height))) - 128.0)
        file = io.BytesIO()
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(file, "JPEG", quality=90)
        file.seek(0)
        yield number, {"image": file, "label": int(draw.integers(_CLASSES))}


def measure(
    folder: Path,
    *,
    minutes: float,
    batch_size: int,
    image_size: int,
    workers: int,
    turn_seconds: float = 2.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Streams for a time, then takes turns with batches from memory.

    Args:
      folder: root directory of TFDS, as `make` left it.
      minutes: how long it streams.
      batch_size: B.
      image_size: of the run; training rows are read as squares of 8/7 of it.
      workers: processes that read; 0: threads.
      turn_seconds: how long a turn is.
      say: is told how far it is.

    Returns:
      `memory_mib`, a sample a second; `memory_means`, those of twentieths of the time, in which
      batches that come and go cancel out; `memory_deviation`, the largest of these means from that
      of all after a fifth of the time, relative to it; `images_per_second`; `turns`, pairs of
      images per second, streamed and from memory; settings.
    """
    data = loading.load(
        NAME,
        data_dir=str(folder),
        image_size=image_size,
        random_resized_crop=True,
        streaming="on",
        workers=workers,
    )
    draw: dict[str, Any] = {"batch_size": batch_size, "seed": _SEED}
    batches = streaming.batches(data.train, 0, **draw)
    next(batches)
    samples: list[float] = []
    steps, start = 0, time.monotonic()
    since = 0.0
    while since < 60 * minutes:
        next(batches)
        steps += 1
        since = time.monotonic() - start
        if since >= len(samples) * min(1.0, minutes):
            samples.append(memory_mib())
            if len(samples) % 10 == 1:
                say(f"{since:6.0f} s  {samples[-1]:8.1f} MiB  {steps * batch_size:,} images")
    rate = steps * batch_size / (time.monotonic() - start)
    turns = _turns(data, batches, draw, turn_seconds)
    batches.close()
    means = np.array([part.mean() for part in np.array_split(samples, 20) if len(part)])
    kept = means[len(means) // 5 :]
    return {
        "minutes": minutes,
        "batch_size": batch_size,
        "image_size": image_size,
        "data_workers": workers,
        "rows": len(data.train),
        "images_per_second": rate,
        "memory_mib": samples,
        "memory_means": means.tolist(),
        "memory_deviation": float(abs(kept / kept.mean() - 1).max()),
        "turns": turns,
        "machine": machine.facts(),
    }


def _turns(
    data: Data[Stream], batches: Iterator[Any], draw: dict[str, Any], seconds: float
) -> list[list[float]]:
    """Images per second streamed and from memory, in turns."""
    rows = np.arange(min(_IN_MEMORY, len(data.train)))
    here = streaming.in_memory(data.train, rows)
    size = draw["batch_size"]

    def from_memory(step: int) -> Any:
        return data_lib.batch_at(here, step, **draw)

    def streamed(step: int) -> Any:
        return next(batches)

    return [[_rate(take, size, seconds) for take in (streamed, from_memory)] for _ in range(5)]


def _rate(take: Callable[[int], Any], batch_size: int, seconds: float) -> float:
    start, steps = time.monotonic(), 0
    while time.monotonic() < start + seconds:
        take(steps)
        steps += 1
    return steps * batch_size / (time.monotonic() - start)


def memory_mib() -> float:
    """Resident memory of this process and of those that read for it, in MiB.

    Returns:
      The sum; pages that they share count more than once.

    Example:
      >>> memory_mib() > 1
      True
    """
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1])
    return total / 1024


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown.

    Args:
      found: as `measure` gives it, with `gib`.

    Returns:
      A table, and the machine below it.
    """
    memory, means = found["memory_mib"], found["memory_means"]
    streamed, here = np.median(np.array(found["turns"]), axis=0)
    rows = {
        "data set": f"{found['gib']:.1f} GiB, {found['rows']:,} pictures",
        "streamed for": f"{found['minutes']:g} minutes, batch {found['batch_size']}, "
        f"image size {found['image_size']}, data workers {found['data_workers']}",
        "images/s": f"{found['images_per_second']:,.0f}",
        "resident memory, mean of each twentieth of the time": (
            ", ".join(f"{value:,.0f}" for value in means) + " MiB"
        ),
        "least and largest sample": f"{min(memory):,.0f} and {max(memory):,.0f} MiB",
        "largest deviation of the means, after a fifth of the time": (
            f"{found['memory_deviation']:.1%}"
        ),
        "images/s in turns, streamed and from memory": f"{streamed:,.0f} and {here:,.0f}",
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return "\n".join([*lines, "", machine.line(found["machine"])])


def main() -> None:
    """Makes the data, measures, and prints a line of JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", required=True, help="where the data set is made")
    parser.add_argument("--gib", type=float, default=20.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--data_workers", type=int, default=0)
    options = parser.parse_args()
    folder = Path(options.folder)
    size = make(folder, options.gib)
    found = measure(
        folder,
        minutes=options.minutes,
        batch_size=options.batch_size,
        image_size=options.image_size,
        workers=options.data_workers,
    )
    found["gib"] = size / 2**30
    print(json.dumps(found))
    print(table(found))


if __name__ == "__main__":
    main()
