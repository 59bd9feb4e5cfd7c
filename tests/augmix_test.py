"""AugMix's chains against the official loop, its draws against laws."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pixel_ops_test import made_images, official_op
from scipy import stats

from semjax import augmix, pixel_ops
from semjax.pixel_ops import OPS

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter")
# Shared by the tests: one compilation for every shape.
apply = jax.jit(augmix.apply_augmix)
draw = augmix.draw_augmix
MANY = 8192


def made_draw(seed, rows=64, **options):
    """The first rows of a draw for many, since drawing compiles anew for every number of rows."""
    drawn = draw(jax.random.key(seed), MANY, **options)
    return jax.tree.map(lambda x: x[:rows], drawn)


def reference_augmix(drawn, images):
    """The official loop: image by image, chain by chain, in Pillow and float64."""
    d = jax.device_get(drawn)
    out = []
    for i, image in enumerate(images):
        total = np.zeros(image.shape)
        for j, weight in enumerate(d.chain_weight[i]):
            chain = image
            for op, level in list(zip(d.op[i, j], d.level[i, j], strict=True))[: d.depth[i, j]]:
                chain = official_op(chain, OPS[op], level)
            total += weight * (chain / 255)
        share = d.mix_weight[i]
        out.append((1 - share) * (image / 255) + share * total)
    return np.stack(out)


# Chains.


def test_chains_of_exact_ops_are_those_of_the_official_loop():
    images = made_images(64, 19, 20, 3)
    drawn = made_draw(1)
    exact = [OPS.index(x) for x in ("autocontrast", "equalize", "posterize", "solarize")]
    exact += [OPS.index(x) for x in ("translate_x", "translate_y")]
    drawn = dataclasses.replace(drawn, op=jnp.asarray(exact)[drawn.op % 6])
    expected = reference_augmix(drawn, images)
    assert abs(expected - images / 255).mean() > 0.05
    np.testing.assert_allclose(apply(drawn, images), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 19, 20, 3), (6, 5, 8, 1), (5, 1, 1, 1)])
def test_chains_of_all_ops_are_those_of_the_official_loop(shape):
    images = made_images(*shape)
    drawn = made_draw(2, shape[0], severity=6.0)
    difference = abs(np.asarray(apply(drawn, images)) - reference_augmix(drawn, images))
    # Where a warp is off by one grey level, an op that follows may make more of it.
    assert (difference < 1.5 / 255).mean() > 0.99
    assert difference.mean() < 0.1 / 255


def test_floating_images_are_rounded_for_the_chains_only():
    images = made_images(64, 19, 20, 3)
    between = np.clip(images / 255 + np.random.default_rng(0).uniform(-0.4, 0.4) / 255, 0, 1)
    between = between.astype(np.float32)
    drawn = made_draw(3)
    found, whole = np.asarray(apply(drawn, between)), np.asarray(apply(drawn, images))
    share = 1 - np.asarray(drawn.mix_weight)[:, None, None, None]
    np.testing.assert_allclose(found - whole, share * (between - images / 255), atol=1e-6)


@pytest.mark.parametrize("floating", [False, True])
def test_a_share_of_zero_gives_the_image_back(floating):
    images = made_images(64, 19, 20, 3)
    images = np.sqrt(images / 255).astype(np.float32) if floating else images
    drawn = dataclasses.replace(made_draw(4), mix_weight=jnp.zeros(64))
    expected = images if floating else images.astype(np.float32) / 255
    np.testing.assert_allclose(apply(drawn, images), expected, rtol=1.2e-7)


def test_one_chain_of_one_op_and_a_share_of_one_is_the_op():
    images, drawn = made_images(64, 19, 20, 3), made_draw(5)
    drawn = dataclasses.replace(
        drawn,
        depth=jnp.ones((64, 3), jnp.int32),
        chain_weight=jnp.broadcast_to(jnp.array([[0.0, 1.0, 0.0]]), (64, 3)),
        mix_weight=jnp.ones(64),
    )
    ops = jax.jit(pixel_ops.apply_ops)
    expected = np.asarray(ops(images, drawn.op[:, 1, 0], drawn.level[:, 1, 0]))
    np.testing.assert_allclose(apply(drawn, images), expected / 255, atol=1e-6)


def test_results_stay_in_range():
    images = np.random.default_rng(0).uniform(-0.5, 1.5, (64, 19, 20, 3)).astype(np.float32)
    images[0], images[1] = 1, 0
    found = np.asarray(apply(made_draw(6), images))
    assert found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1


def test_a_row_does_not_depend_on_the_other_rows():
    images, drawn = made_images(64, 19, 20, 3), made_draw(7)
    changed = made_images(64, 19, 20, 3, seed=1)
    changed[5] = images[5]
    np.testing.assert_array_equal(apply(drawn, images)[5], apply(drawn, changed)[5])


def test_augmix_applies_what_it_draws_and_leaves_its_input():
    images = made_images(64, 6, 9, 1)
    before = images.copy()
    options = {"severity": 5.0, "width": 2, "depth": 5, "alpha": 2.0}
    found = augmix.augmix(jax.random.key(8), images, **options)
    np.testing.assert_array_equal(images, before)
    drawn = draw(jax.random.key(8), 64, **options)
    np.testing.assert_allclose(found, apply(drawn, images), atol=1e-6)


def test_augmix_and_its_draw_have_the_defaults_of_the_paper():
    for function in (augmix.augmix, augmix.draw_augmix):
        options = inspect.signature(function).parameters.values()
        found = {x.name: x.default for x in options if x.kind is x.KEYWORD_ONLY}
        assert found == {"severity": 3.0, "width": 3, "depth": -1, "alpha": 1.0}


def test_an_empty_batch_stays_empty():
    images = np.zeros((0, 4, 3, 1), np.uint8)
    assert augmix.augmix(jax.random.key(0), images).shape == images.shape


def test_a_sharded_batch_is_augmented_where_it_lies():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded = jax.NamedSharding(mesh, jax.P("data"))
    images, drawn = made_images(64, 19, 20, 3), made_draw(3)
    step = jax.jit(augmix.apply_augmix, in_shardings=(sharded, sharded), out_shardings=sharded)
    compiled = step.lower(drawn, images).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    found = compiled(*jax.device_put((drawn, images), sharded))
    np.testing.assert_allclose(found, apply(drawn, images), atol=1e-6)


# Draws.


def test_weights_and_depths_follow_their_laws():
    drawn = jax.device_get(draw(jax.random.key(1), MANY))
    assert drawn.op.shape == drawn.level.shape == (MANY, 3, 3)
    depths = (drawn.depth - 1) @ np.array([9, 3, 1])
    assert stats.chisquare(np.bincount(depths, minlength=27)).pvalue > 1e-4
    np.testing.assert_allclose(drawn.chain_weight.sum(1), 1, atol=1e-6)
    for weight in drawn.chain_weight.T:  # the marginal of Dirichlet(1, 1, 1)
        assert stats.kstest(weight, stats.beta(1, 2).cdf).pvalue > 1e-4
    assert stats.kstest(drawn.mix_weight, stats.uniform.cdf).pvalue > 1e-4
    features = [*drawn.depth.T, *drawn.chain_weight[:, :1].T, drawn.mix_weight, drawn.op[:, 0, 0]]
    correlation = np.corrcoef(np.stack(features)) - np.eye(6)
    assert abs(correlation).max() < 4.5 / np.sqrt(MANY)


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_alpha_is_the_parameter_of_both_laws(alpha):
    drawn = jax.device_get(draw(jax.random.key(2), MANY, alpha=alpha))
    assert stats.kstest(drawn.mix_weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    law = stats.beta(alpha, 2 * alpha)
    assert stats.kstest(drawn.chain_weight[:, 1], law.cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 100.0])
def test_weights_are_finite_for_any_alpha(alpha):
    drawn = draw(jax.random.key(3), MANY, alpha=alpha)
    assert np.isfinite(drawn.chain_weight).all() and np.isfinite(drawn.mix_weight).all()


def test_options_change_their_own_draw_and_no_other():
    first = draw(jax.random.key(4), MANY)
    other = draw(jax.random.key(4), MANY, severity=10.0, alpha=0.3)
    for field in dataclasses.fields(first):
        same = np.array_equal(getattr(first, field.name), getattr(other, field.name))
        assert same == (field.name not in ("level", "chain_weight", "mix_weight")), field.name
    assert float(jnp.abs(other.level).max()) > 9 and float(jnp.abs(first.level).max()) <= 3
    fixed = draw(jax.random.key(4), 64, width=2, depth=5)
    assert fixed.op.shape == (64, 2, 5)
    np.testing.assert_array_equal(fixed.depth, np.full((64, 2), 5))


def test_the_key_is_what_is_random():
    first, again, other = (draw(jax.random.key(seed), MANY) for seed in (0, 0, 1))
    for field in dataclasses.fields(first):
        a, b, c = (np.asarray(getattr(x, field.name)) for x in (first, again, other))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


OK = np.zeros((2, 4, 3, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda key: augmix.augmix(key, OK[0]), ValueError, r"images must be.*\(4, 3, 1\)"),
        (lambda key: augmix.augmix(key, OK.astype(int)), TypeError, "images must be.*int"),
        (lambda key: augmix.augmix(key, OK, severity=0.1), ValueError, "severity.*found 0.1"),
        (lambda key: augmix.augmix(key, OK, severity=11), ValueError, "severity.*found 11"),
        (lambda key: augmix.augmix(key, OK, severity=np.ones(2)), ValueError, "severity.*scalar"),
        (lambda key: augmix.augmix(key, OK, width=0), ValueError, "width.*found 0"),
        (lambda key: augmix.augmix(key, OK, width=1.0), TypeError, "width.*1.0"),
        (lambda key: augmix.augmix(key, OK, depth=0), ValueError, "depth.*found 0"),
        (lambda key: augmix.augmix(key, OK, depth=None), TypeError, "depth.*None"),
        (lambda key: augmix.augmix(key, OK, alpha=0.0), ValueError, "alpha.*0.0"),
        (lambda key: augmix.augmix(key, OK, alpha=float("inf")), ValueError, "alpha.*inf"),
        (
            lambda key: augmix.apply_augmix(made_draw(0), OK),
            ValueError,
            r"images must be the 64 of the draw.*\(2, 4",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
