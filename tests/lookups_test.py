"""Tables of lookups against their definitions, one value at a time."""

import jax
import jax.numpy as jnp
import numpy as np

from semjax import lookups


def made(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_histograms_count_every_pixel_of_every_channel():
    images = made(3, 5, 7, 2)
    found = lookups.histograms(jnp.asarray(images))
    for i, channel in np.ndindex(3, 2):
        expected = np.bincount(images[i, ..., channel].ravel(), minlength=256)
        np.testing.assert_array_equal(found[i, channel], expected)


def test_each_channel_has_its_own_table():
    images, tables = made(2, 3, 4, 3), np.random.default_rng(1).permutation(256 * 6) % 256
    tables = tables.reshape(2, 3, 256)
    found = lookups.look_up(jnp.asarray(images), jnp.asarray(tables))
    for place in np.ndindex(images.shape):
        assert found[place] == tables[place[0], place[3], images[place]]


def test_an_image_gets_the_table_of_its_op_and_else_stays():
    images = jnp.asarray(made(5, 16, 16, 1))
    chosen = {name: jnp.arange(5) == k for k, name in enumerate(lookups.OPS)}
    bits, threshold = jnp.full(5, 3), jnp.full(5, 90)
    made_tables = jax.jit(lookups.chosen_tables)
    table = made_tables(images, chosen, bits=bits, threshold=threshold)
    counts = jax.jit(lookups.histograms)(images)
    single = {
        "autocontrast": lookups.autocontrast_tables(counts)[0],
        "equalize": lookups.equalize_tables(counts)[1],
        "posterize": lookups.posterize_tables(bits)[2],
        "solarize": lookups.solarize_tables(threshold)[3],
    }
    for k, name in enumerate(lookups.OPS):
        np.testing.assert_array_equal(table[k], single[name])
    np.testing.assert_array_equal(table[4, 0], np.arange(256))


def test_values_of_each_table():
    value = np.arange(256)
    np.testing.assert_array_equal(lookups.posterize_tables(jnp.array([3]))[0, 0], value // 32 * 32)
    solarized = np.where(value < 90, value, 255 - value)
    np.testing.assert_array_equal(lookups.solarize_tables(jnp.array([90]))[0, 0], solarized)
    counts = np.zeros((1, 1, 256), np.int32)
    counts[0, 0, [20, 30, 40]] = 255 * 4
    stretched = lookups.autocontrast_tables(jnp.asarray(counts))[0, 0]
    assert stretched[jnp.array([20, 30, 40])].tolist() == [0, 127, 255]
    # 8 pixels a step below the largest value: none below 20, 1,020 below 30, 2,040 below 40.
    spread = lookups.equalize_tables(jnp.asarray(counts))[0, 0]
    assert spread[jnp.array([20, 30, 40])].tolist() == [0, 128, 255]
