"""Streams against JAX's own generator, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from semjax.corruptions import streams


def keys():
    return jax.random.split(jax.random.key(0), 4)


def test_words_are_those_of_jaxs_generator():
    found = streams.words(keys(), 14)
    for key, row in zip(keys(), found, strict=True):
        seeded = jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32))
        # JAX makes one word of each block, the two halves of it combined.
        np.testing.assert_array_equal(row[:7] ^ row[7:], jax.random.bits(seeded, (7,), jnp.uint32))


def test_an_odd_number_of_words_is_drawn():
    assert streams.words(keys(), 7).shape == (4, 7)


def test_the_bits_of_words_are_fair_and_rows_are_apart():
    words = np.asarray(streams.words(keys(), 4096))
    bits = (words[..., None] >> np.arange(32)) & 1
    assert abs(bits.mean((0, 1)) - 0.5).max() < 4.5 * 0.5 / np.sqrt(words.size)
    correlation = np.corrcoef(words / 2**32) - np.eye(4)
    assert abs(correlation).max() < 4.5 / np.sqrt(4096)
    # Neighbours, and the two words of a block.
    for lag in (1, 2048):
        apart = np.corrcoef(words[:, lag:].ravel(), words[:, :-lag].ravel())[0, 1]
        assert abs(apart) < 4.5 / np.sqrt(words.size - 4 * lag)


def test_normals_follow_their_law():
    values = np.asarray(streams.normals(keys(), 8192)).ravel()
    assert values.dtype == np.float32
    assert stats.kstest(values, "norm").pvalue > 1e-4
    assert abs(values).max() < 5.5
