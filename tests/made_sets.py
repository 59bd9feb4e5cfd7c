"""Small data sets on disk: folders of pictures, and TFDS sets made by TFDS itself."""

import io
import pathlib

import numpy as np
from PIL import Image


def image(value, *, size=(5, 4), mode="RGB"):
    """A (width, height) image of one colour."""
    return Image.new(mode, size, value)


def colour(red):
    return image((red, 20, 30))


def write(root, files):
    """Writes {"train/cat/1.png": image or bytes} under `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return f"folder:{root}"


def encoded(picture, image_format="PNG"):
    """The bytes of a file of a picture."""
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format)
    return buffer.getvalue()


def toy(features, splits, supervised_keys=("image", "label"), version="1.0.0", called="toy"):
    """Returns a TFDS builder class `toy` of the given features and {split: [example, ...]}."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    with registered.skip_registration():

        class Toy(tfds.core.GeneratorBasedBuilder):
            name = called
            VERSION = tfds.core.Version(version)
            url_infos = None

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=supervised_keys,
                )

            def _split_generators(self, dl_manager):
                return {split: iter(enumerate(rows)) for split, rows in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

    return Toy


def prepare(root, features, splits, *, num_shards=None, **options):
    import tensorflow_datasets as tfds

    builder = toy(features, splits, **options)(data_dir=root, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=num_shards)
    )
    return pathlib.Path(builder.data_dir)


def features(shape=(4, 5, 3), num_classes=3):
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
    }


def rows(count, **kwargs):
    return [{"image": image((i, 0, 9), **kwargs), "label": i % 3} for i in range(count)]


def noise(count, size=(16, 12), seed=0, mode="RGB"):
    """Pictures of noise, by their number; sizes vary where `size` is None."""
    draw = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        width, height = size or draw.integers(8, 40, 2)
        pixels = draw.integers(0, 256, (height, width, 3)).astype(np.uint8)
        pictures.append(Image.fromarray(pixels).convert(mode))
    return pictures


def noise_folder(root, train=(14, 9), test=(5, 4), **options):
    """A folder data set of two classes, of noise; returns its name."""
    files = {}
    for split, counts in (("train", train), ("test", test)):
        pictures = iter(noise(sum(counts), seed=len(split), **options))
        for kind, count in zip("ab", counts, strict=True):
            files |= {f"{split}/{kind}/{i:03}.png": next(pictures) for i in range(count)}
    return write(root, files)


def huge_png(width=100_000, height=100_000):
    """A file of some bytes that claims to hold ten thousand million pixels."""
    import struct
    import zlib

    def chunk(name, content):
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")
