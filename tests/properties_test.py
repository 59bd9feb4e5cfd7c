"""What every policy promises, on any shape, dtype, batch size and option: properties.

A policy that is added is one more line of `FACTORIES`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_draws import has_alpha
from saliency_reference import Answers

from semjax import policies
from semjax.mixing import interpolate, interpolate_spatial

# Rows and sizes: square, not square, odd, one pixel. Few, since each is compiled.
SHAPES = [
    (1, (4, 4)),
    (2, (5, 3)),
    (3, (1, 1)),
    (4, (6, 6)),
    (5, (7, 4)),
    (6, (1, 5)),
    (7, (3, 8)),
]


@dataclasses.dataclass(frozen=True)
class Case:
    """A factory, its options, and the shortest axis that they can serve."""

    factory: Callable[..., Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    shortest: int = 1


FACTORIES = {
    "mixup": Case(policies.mixup),
    "cutmix": Case(policies.cutmix),
    "cutmix minmax": Case(policies.cutmix, {"minmax": (0.2, 0.8)}, shortest=2),
    "fmix": Case(policies.fmix),
    "fmix reference_compat": Case(policies.fmix, {"reference_compat": True}),
    "resizemix": Case(policies.resizemix),
    "gridmix": Case(policies.gridmix),
    "smoothmix": Case(policies.smoothmix),
    "saliencymix": Case(policies.saliencymix),
    "attentive_cutmix": Case(policies.attentive_cutmix),
    "puzzlemix": Case(policies.puzzlemix, {"block_counts": (2,)}),
    "alignmix": Case(policies.alignmix, {"iterations": 20}),
}
LOOK_AT_MODEL = ("saliencymix", "attentive_cutmix", "puzzlemix", "alignmix")


@functools.cache
def compiled(name, rows, size, scope, alpha):
    """The policy of a case, its mix of a batch, jitted once for each shape."""
    case = FACTORIES[name]
    options = {"weight_scope": scope, "probability": 0.8, **case.options}
    if has_alpha(case.factory):
        options["alpha"] = alpha
    policy = case.factory(**options)
    shape = jax.ShapeDtypeStruct((rows, *size, 3), jnp.float32)

    def draw(key):
        probe = None
        if name in LOOK_AT_MODEL:
            key, *keys = jax.random.split(key, 3)
            images = jax.random.uniform(keys[0], shape.shape)
            # A feature map as the image, so that AlignMix's cells are pixels.
            features = jax.random.normal(keys[1], (rows, *size, 4))
            probe = Answers(saliency=images.mean(-1), features=features, images=images)
        return policy(key, {"image": shape}, probe)

    return jax.jit(draw)


@pytest.mark.parametrize("name", FACTORIES)
@settings(max_examples=6, deadline=None, derandomize=True, database=None)
@given(
    shape=st.sampled_from(SHAPES),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
    # Beta(1, 1) is the uniform law; other laws have tests of their own and compile for a second.
    alpha=st.sampled_from([1.0, 0.0, 1.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_what_every_mix_promises(name, shape, dtype, alpha, seed):
    rows, size = shape
    if min(size) < FACTORIES[name].shortest:
        return
    scope = ("batch", "pair", "sample")[rows % 3]
    mix = compiled(name, rows, size, scope, alpha)(jax.random.key(seed))
    weight, partner = np.asarray(mix.weight, np.float64), np.asarray(mix.partner)
    own = np.arange(rows)
    other = own[partner != own]

    # The weight is a float32 share, the mean of the mask where there is one.
    assert mix.weight.dtype == jnp.float32
    assert ((weight >= 0) & (weight <= 1)).all()
    assert sorted(partner) == list(own)
    if mix.mask is not None:
        mask = np.asarray(mix.mask)
        assert mask.dtype == np.float32
        assert mask.shape == (rows, *size, 1)
        assert mask.min() >= 0
        assert mask.max() <= 1
        np.testing.assert_allclose(mask.mean((1, 2, 3), dtype=float), weight, rtol=0, atol=1e-6)
    if alpha == 0 and has_alpha(FACTORIES[name].factory) and "minmax" not in name:
        assert (weight == 1).all()

    # Channel c is 1 on row c and 0 on all others: its mean is the share of row c.
    image = np.zeros((rows, *size, rows), np.float32)
    image[own, :, :, own] = 1
    image = np.asarray(jnp.asarray(image, dtype))
    before = image.copy()
    mixed = interpolate_spatial(mix, image)
    assert mixed.dtype == dtype
    np.testing.assert_array_equal(image, before)
    share = np.asarray(mixed, np.float64).mean((1, 2))
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(share[other, other], weight[other], rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        share[other, partner[other]], 1 - weight[other], rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(share.sum(1), 1, rtol=0, atol=tolerance)

    # Labels are mixed as the pixels are.
    labels = np.asarray(interpolate(mix, jnp.eye(rows)))
    np.testing.assert_allclose(labels.sum(1), 1, rtol=0, atol=1e-6)
    np.testing.assert_allclose(labels, share, rtol=0, atol=tolerance)

    # A row of weight 1 is itself, and one of weight 0 is its partner.
    pixels = np.random.default_rng(seed).uniform(size=(rows, *size, 2)).astype(np.float32)
    pixels = jnp.asarray(pixels, dtype)
    alone = (weight == 1) & (mix.own_transport is None)
    np.testing.assert_array_equal(interpolate_spatial(mix, pixels)[alone], pixels[alone])
    for value, expected in ((1.0, pixels), (0.0, pixels[partner])):
        mask = None if mix.mask is None else jnp.full_like(mix.mask, value)
        extreme = dataclasses.replace(mix, weight=jnp.full_like(mix.weight, value), mask=mask)
        np.testing.assert_array_equal(interpolate(extreme, pixels), expected)
        if mix.own_transport is None and (value == 1 or mix.zoom is mix.transport is None):
            np.testing.assert_array_equal(interpolate_spatial(extreme, pixels), expected)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_batch_is_left_as_it_is(name):
    case = FACTORIES[name]
    image, valid = np.random.default_rng(0).uniform(size=(4, 6, 6, 3)), np.ones(4, bool)
    batch = {"image": image, "valid": valid}
    copies = {key: value.copy() for key, value in batch.items()}
    probe = Answers(saliency=image.mean(-1), features=image, images=image)
    case.factory(**case.options)(jax.random.key(0), batch, probe)
    assert list(batch) == list(copies)
    for key, value in copies.items():
        np.testing.assert_array_equal(batch[key], value)
    assert batch["image"] is image
    assert batch["valid"] is valid
