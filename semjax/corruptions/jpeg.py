"""JPEG compression on the device: what libjpeg decodes of what it has encoded, without the bits.

Entropy coding loses nothing, so it is left out; every step that rounds is done in integers as
libjpeg does it: colours, chroma at half the size, the 8x8 DCT in fixed point and its quantisation,
and the way back. Pillow's `save(format="JPEG", quality=q)` and `open` give the same pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from semjax.corruptions.severities import Level, checked, look_up, row_keys

#: For cifar and for imagenet.
_QUALITY = (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)
_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
# sqrt(8) times the orthonormal DCT in units of 2**-13. Loeffler's flow graph adds rounded constants
# up, so that some entries are off by one from the rounded cosine.
_DCT = np.array(
    [
        [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
        [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
        [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
        [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
        [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
        [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
    ],
    np.int32,
)


def jpeg_compression(
    key: jax.Array,
    images: ArrayLike,
    severity: ArrayLike,
    *,
    index: ArrayLike | None = None,
    constants: str = "auto",
) -> jax.Array:
    """Compresses images as JPEG at a low quality and decodes them again.

    Baseline JPEG as Pillow writes it by default: JFIF's YCbCr, chroma halved in both directions by
    averaging, the tables of Annex K scaled to the quality, and a triangle filter that brings chroma
    back to size. The qualities are 80, 65, 58, 50, 40 (cifar) and 25, 18, 15, 10, 7 (imagenet).
    Images of one channel are luma only.

    Args:
      key: not used: nothing is drawn.
      images: uint8[B, H, W, C], C 1 or 3.
      severity: an integer from 1 to 5, or a traced integer scalar, whose value is not checked.
      index: not used, but checked.
      constants: "cifar", "imagenet" or "auto", see `semjax.corruptions.severities.checked`.

    Returns:
      uint8[B, H, W, C].

    Raises:
      TypeError: images that are not uint8; a severity or an index of another dtype.
      ValueError: another shape of images, severity or index; a severity or constants out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from semjax.corruptions.jpeg import jpeg_compression
      >>> x = jnp.zeros((1, 8, 8, 1), jnp.uint8).at[0, 3, 3].set(255)
      >>> jpeg_compression(jax.random.key(0), x, 5)[0, 3, :, 0].tolist()
      [0, 0, 24, 135, 15, 26, 0, 0]

    References:
      ITU-T T.81 (1992), annexes A and K; ECMA TR/98 (JFIF); Loeffler et al. 1989, Practical fast
      1-D DCT algorithms with 11 multiplications; Hendrycks & Dietterich 2019 (arXiv:1903.12261).
    """
    images, level = checked(images, severity, constants)
    row_keys(key, len(images), index)
    return _jpeg(images, level)


@jax.jit
def _jpeg(images: jax.Array, level: Level) -> jax.Array:
    cifar, imagenet = ([_tables(quality) for quality in family] for family in _QUALITY)
    return _roundtrip(images, look_up(level, (cifar, imagenet), dtype=jnp.int32))


def _tables(quality: int) -> np.ndarray:
    """i32[2, 8, 8]: the steps of luma and chroma at a quality, by libjpeg's rule."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    base = np.stack([_LUMA, _CHROMA])
    return np.clip((base * percent + 50) // 100, 1, 255).astype(np.int32)


def _roundtrip(images: jax.Array, tables: jax.Array) -> jax.Array:
    """Encodes and decodes uint8[B, H, W, C] with the steps i32[2, 8, 8]."""
    pixels = images.astype(jnp.int32)
    height, width = pixels.shape[1:3]
    if pixels.shape[3] == 1:
        return _coded(pixels[..., 0], tables[0])[..., None].astype(jnp.uint8)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    # Fixed point of 16 bits; the offset of chroma, 128, rounds halves down.
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    middle = (128 << 16) + 32767
    chroma = jnp.stack(
        [
            (-11059 * red - 21709 * green + 32768 * blue + middle) >> 16,
            (32768 * red - 27439 * green - 5329 * blue + middle) >> 16,
        ],
        axis=1,
    )
    luma = _coded(luma, tables[0])
    half = _halved(chroma)
    coded = _coded(half.reshape(-1, *half.shape[2:]), tables[1])[..., : -(-width // 2)]
    full = _doubled(coded)[:, :height, :width].reshape(chroma.shape) - 128
    blue_offset, red_offset = full[:, 0], full[:, 1]
    return (
        jnp.stack(
            [
                luma + ((91881 * red_offset + 32768) >> 16),
                luma + ((-22554 * blue_offset - 46802 * red_offset + 32768) >> 16),
                luma + ((116130 * blue_offset + 32768) >> 16),
            ],
            axis=-1,
        )
        .clip(0, 255)
        .astype(jnp.uint8)
    )


def _halved(planes: jax.Array) -> jax.Array:
    """i32[..., H, W] -> i32[..., ceil(H/2), 8 ceil(W/16)]: means of 2x2, halves down, up, down."""
    padded = _padded(planes, 2, 16)  # whole blocks to the right already here
    sums = padded[..., ::2, :] + padded[..., 1::2, :]
    sums = sums[..., ::2] + sums[..., 1::2]
    bias = 1 + np.arange(sums.shape[-1], dtype=np.int32) % 2
    return (sums + bias.reshape((1,) * (sums.ndim - 1) + (-1,))) >> 2


def _doubled(planes: jax.Array) -> jax.Array:
    """i32[N, h, w] -> i32[N, 2h, 2w]: 3/4 of the nearest sample and 1/4 of the next, each way."""
    count, rows, columns = planes.shape
    if columns <= 2:  # libjpeg's filter needs more
        return jnp.repeat(jnp.repeat(planes, 2, 1), 2, 2)
    edged = jnp.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="edge")
    near = 3 * edged[:, 1:-1]
    tall = jnp.stack([near + edged[:, :-2], near + edged[:, 2:]], 2)
    tall = tall.reshape(count, 2 * rows, columns + 2)
    near = 3 * tall[..., 1:-1]
    wide = [(near + tall[..., :-2] + 8) >> 4, (near + tall[..., 2:] + 7) >> 4]
    return jnp.stack(wide, 3).reshape(count, 2 * rows, 2 * columns)


def _coded(planes: jax.Array, table: jax.Array) -> jax.Array:
    """Quantises the DCT of the 8x8 blocks of i32[N, H, W], padded by their edge, and inverts it."""
    count, height, width = planes.shape
    padded = _padded(planes - 128, 8, 8)
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(count, rows, 8, columns, 8).transpose(0, 1, 3, 2, 4)
    # Rows first on the way there, columns first on the way back.
    coefficient = _transformed(_transformed(blocks, _DCT.T, 11).mT, _DCT.T, 15).mT
    table = table.reshape(1, 1, 1, 8, 8)
    step = 8 * table  # the transform is scaled by 8
    size = abs(coefficient)
    # Whole numbers below 2**16, and halves go up: the added 1/2 makes any division exact enough.
    level = jnp.floor((size + 4 * table + 0.5) / step.astype(jnp.float32)).astype(jnp.int32)
    level = jnp.where(coefficient < 0, -level, level) * table
    blocks = _transformed(_transformed(level.mT, _DCT, 11).mT, _DCT, 18)
    decoded = blocks.transpose(0, 1, 3, 2, 4).reshape(padded.shape)
    return jnp.clip(decoded[:, :height, :width] + 128, 0, 255)


def _transformed(x: jax.Array, matrix: np.ndarray, bits: int) -> jax.Array:
    """The rows of x times a matrix, over 2**bits, rounded."""
    flat = jax.lax.dot(x.reshape(-1, 8), jnp.asarray(matrix)).reshape(x.shape)
    return (flat + (1 << (bits - 1))) >> bits


def _padded(planes: jax.Array, rows: int, columns: int) -> jax.Array:
    """Repeats the last row and column up to multiples."""
    added = [(0, -planes.shape[-2] % rows), (0, -planes.shape[-1] % columns)]
    return jnp.pad(planes, [(0, 0)] * (planes.ndim - 2) + added, mode="edge")
