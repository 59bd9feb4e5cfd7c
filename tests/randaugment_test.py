"""RandAugment: its fourteen ops against Pillow, its draws against laws."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from semjax import randaugment
from semjax.randaugment import OPS

BATCH, HEIGHT, WIDTH = 2 * len(OPS), 22, 31
EACH_OP = np.repeat(np.arange(len(OPS)), 2)
SIGNS = np.tile([1, -1], len(OPS))
COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter")

applied = jax.jit(randaugment.apply_randaugment)
augmented = jax.jit(randaugment.randaugment, static_argnames="layers")


def made(channels=3, batch=BATCH):
    """Smooth images with noise that fill the middle of the range."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((HEIGHT, WIDTH))[..., None]
    wave = np.sin(rows / 5 + np.arange(channels)) + np.cos(columns / 7)
    images = 120 + 40 * wave + rng.normal(0, 9, (batch, HEIGHT, WIDTH, channels))
    return np.clip(images, 0, 255).astype(np.uint8)


def with_pil(image, name, sign, magnitude):
    """One op as published, by Pillow alone."""
    pil = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    part = magnitude / 30

    def affine(*matrix):
        return pil.transform(pil.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    strength = 1 + sign * 0.9 * part
    result = {
        "identity": lambda: pil,
        "shear_x": lambda: affine(1, sign * 0.3 * part, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, sign * 0.3 * part, 1, 0),
        "translate_x": lambda: affine(1, 0, sign * int(150 / 331 * WIDTH * part), 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, sign * int(150 / 331 * HEIGHT * part)),
        "rotate": lambda: pil.rotate(sign * 30 * part, resample=Image.Resampling.BILINEAR),
        "brightness": lambda: ImageEnhance.Brightness(pil).enhance(strength),
        "colour": lambda: ImageEnhance.Color(pil).enhance(strength),
        "contrast": lambda: ImageEnhance.Contrast(pil).enhance(strength),
        "sharpness": lambda: ImageEnhance.Sharpness(pil).enhance(strength),
        "posterize": lambda: ImageOps.posterize(pil, 8 - round(4 * part)),
        "solarize": lambda: ImageOps.solarize(pil, 255 * (1 - part)),
        "autocontrast": lambda: ImageOps.autocontrast(pil),
        "equalize": lambda: ImageOps.equalize(pil),
    }[name]()
    return np.asarray(result).reshape(image.shape)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("magnitude", [9.0, 17.5, 30.0, 0.0])
def test_each_op_is_pillows_at_the_strength_of_the_table(channels, magnitude):
    images = made(channels)
    found = np.asarray(applied(images, EACH_OP, SIGNS, magnitude=magnitude)).astype(int)
    for row, (op, sign) in enumerate(zip(EACH_OP, SIGNS, strict=True)):
        difference = abs(found[row] - with_pil(images[row], OPS[op], sign, magnitude))
        assert difference.max() <= 1, OPS[op]
        assert difference.mean() < 0.03, OPS[op]


def test_each_op_but_the_first_changes_an_image():
    images = made()
    found = np.asarray(applied(images, EACH_OP, SIGNS, magnitude=20.0))
    changed = (found != images).any((1, 2, 3)).reshape(-1, 2)
    assert not changed[0].any() and changed[1:].all()


def test_ops_and_signs_are_uniform_and_independent():
    op, sign = randaugment.draw_randaugment(jax.random.key(0), (4200, 2))
    assert set(np.unique(sign)) == {-1, 1}
    table = np.zeros((2, len(OPS), 2))
    np.add.at(table, (np.asarray(sign)[:, 0] // 2 + 1, *np.asarray(op).T[:1], 0), 1)
    np.add.at(table, (np.asarray(sign)[:, 1] // 2 + 1, *np.asarray(op).T[1:], 1), 1)
    for layer in range(2):
        assert stats.chisquare(table[..., layer].ravel()).pvalue > 1e-3
    pairs = np.bincount(np.asarray(op)[:, 0] * len(OPS) + np.asarray(op)[:, 1], minlength=196)
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_layers_are_applied_one_by_one():
    images = made()
    op, sign = randaugment.draw_randaugment(jax.random.key(3), (BATCH, 2))
    expected = applied(images, op[:, 0], sign[:, 0], magnitude=12.0)
    expected = applied(expected, op[:, 1], sign[:, 1], magnitude=12.0)
    found = augmented(jax.random.key(3), images, layers=2, magnitude=12.0)
    np.testing.assert_array_equal(found, expected)
    none = augmented(jax.random.key(3), images, layers=0)
    np.testing.assert_array_equal(none, images)


def test_a_sharded_batch_is_augmented_where_it_lies():
    images = made(batch=8)
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    step = jax.jit(
        randaugment.randaugment,
        in_shardings=(jax.NamedSharding(mesh, jax.P()), rows),
        out_shardings=rows,
    )
    compiled = step.lower(jax.random.key(6), images).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    expected = jax.jit(randaugment.randaugment)(jax.random.key(6), images)
    np.testing.assert_array_equal(step(jax.random.key(6), images), expected)


def test_wrong_arguments_are_named():
    images = made(batch=2)
    with pytest.raises(TypeError, match="images must be uint8; found float32"):
        randaugment.randaugment(jax.random.key(0), images.astype(np.float32))
    with pytest.raises(ValueError, match=r"magnitude must be in \[0, 30\]; found 31"):
        randaugment.randaugment(jax.random.key(0), images, magnitude=31)
    with pytest.raises(ValueError, match="magnitude must be a scalar"):
        randaugment.randaugment(jax.random.key(0), images, magnitude=jnp.ones(2))
    with pytest.raises(ValueError, match="layers must be 0 or more; found -1"):
        randaugment.randaugment(jax.random.key(0), images, layers=-1)
    with pytest.raises(ValueError, match=r"op must have shape \(2,\); found shape \(3,\)"):
        randaugment.apply_randaugment(images, np.zeros(3, int), np.ones(2, int))
