"""PixMix against a loop over images and rounds, its draws and its fractals against their laws."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from semjax import pixel_ops, pixmix

COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-\w+|reduce-scatter")
# Shared by the tests: one compilation each.
draw = pixmix.draw_pixmix
apply = jax.jit(pixmix.apply_pixmix)
apply_ops = jax.jit(pixel_ops.apply_ops)
fractals = jax.jit(
    pixmix.fractal_pictures, static_argnums=1, static_argnames=("height", "width", "channels")
)
MANY = 4000


def made_images(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def made_draw(seed, rows=16):
    """A part of a draw for many images, since drawing compiles anew for every number of rows."""
    return jax.tree.map(lambda x: x[:rows], draw(jax.random.key(seed), MANY, 3))


def copies(drawn, images):
    """The augmented copies of every image, [B, k + 1, H, W, C], in 8 bits."""
    batch, number = drawn.op.shape
    repeated = np.repeat(np.round(unit(images) * 255).astype(np.uint8), number, 0)
    found = apply_ops(repeated, drawn.op.ravel(), drawn.level.ravel())
    return np.asarray(found).reshape(batch, number, *images.shape[1:])


def unit(images):
    return images / 255 if images.dtype == np.uint8 else np.asarray(images, np.float64)


def reference_pixmix(drawn, images, pictures):
    """As the official loop over one image after the other, in float64."""
    d = {f.name: np.asarray(getattr(drawn, f.name)) for f in dataclasses.fields(drawn)}
    copy = unit(copies(drawn, images))
    out = []
    for i, image in enumerate(unit(images)):
        mixed = copy[i, 0] if d["augmented"][i] else image
        for j in range(d["rounds"][i]):
            partner = unit(pictures[d["picture"][i]]) if d["pictured"][i, j] else copy[i, j + 1]
            a, b = (d[name][i, j].astype(float) for name in ("own_weight", "partner_weight"))
            if d["multiplied"][i, j]:
                result = (mixed * 2) ** a * np.clip(partner * 2, 1e-37, None) ** b / 2
            else:
                result = (a * (mixed * 2 - 1) + b * (partner * 2 - 1) + 1) / 2
            mixed = np.clip(result, 0, 1)
        out.append(mixed)
    return np.stack(out)


@pytest.mark.parametrize(
    ("shape", "floating"),
    [((16, 7, 5, 3), False), ((16, 7, 5, 3), True), ((5, 1, 1, 1), True)],
)
def test_rounds_are_those_of_a_loop(shape, floating):
    images, pictures = made_images(*shape), made_images(3, *shape[1:], seed=1)
    # Black and white: where powers and logarithms go wrong.
    images[0], pictures[0], images[1] = 0, 0, 255
    if floating:
        images, pictures = (unit(x).astype(np.float32) for x in (images, pictures))
    drawn = made_draw(3, shape[0])
    found = apply(drawn, images, pictures)
    assert (found.dtype, found.shape) == (jnp.float32, shape)
    np.testing.assert_allclose(found, reference_pixmix(drawn, images, pictures), atol=2e-5)


def test_the_operations_are_those_of_the_paper():
    """One round by hand: a pixel of 0.6 and a picture of 0.9."""
    drawn = made_draw(0, 5)
    drawn = dataclasses.replace(
        drawn,
        augmented=jnp.zeros(5, bool),
        rounds=jnp.array([1, 1, 1, 0, 0]),
        picture=jnp.array([0, 0, 0, 0, 1]),
        pictured=jnp.ones((5, 4), bool),
        multiplied=drawn.multiplied.at[:, 0].set(jnp.array([False, True, True, True, True])),
        own_weight=drawn.own_weight.at[:, 0].set(jnp.array([0.5, 0.5, 1.5, 0.5, 0.5])),
        partner_weight=drawn.partner_weight.at[:, 0].set(jnp.array([0.25, 0.25, -0.5, 0.25, 0.25])),
    )
    found = apply(drawn, jnp.full((5, 1, 1, 1), 0.6), jnp.full((3, 1, 1, 1), 0.9))
    expected = [0.5 * 0.6 + 0.25 * 0.9 + 0.125, 1.2**0.5 * 1.8**0.25 / 2, 1.2**1.5 / 1.8**0.5 / 2]
    np.testing.assert_allclose(found.ravel(), [*expected, 0.6, 0.6], rtol=1e-5)


def test_without_rounds_an_image_or_its_augmented_copy_comes_back():
    images, pictures = made_images(16, 7, 5, 3), made_images(3, 7, 5, 3, seed=1)
    drawn = dataclasses.replace(made_draw(1), rounds=jnp.zeros(16, jnp.int32))
    found = np.asarray(apply(drawn, images, pictures))
    augmented = np.asarray(drawn.augmented)
    assert 0 < augmented.sum() < 16
    chosen = np.where(augmented[:, None, None, None], copies(drawn, images)[:, 0], images)
    np.testing.assert_allclose(found, chosen / 255, atol=1e-7)


def test_results_stay_in_range_and_finite():
    images, pictures = made_images(16, 7, 5, 3), made_images(3, 7, 5, 3, seed=1)
    images[::2], pictures[0] = images[::2] // 255 * 255, 0
    found = np.asarray(apply(made_draw(2), images, pictures))
    assert found.min() >= 0 and found.max() <= 1
    assert np.isfinite(found).all()


def test_draws_follow_their_laws():
    n = MANY
    drawn = jax.device_get(draw(jax.random.key(5), n, 3))
    assert drawn.op.shape == drawn.level.shape == (n, 5)
    assert stats.chisquare(np.bincount(drawn.rounds, minlength=5)).pvalue > 1e-4
    assert stats.chisquare(np.bincount(drawn.picture, minlength=3)).pvalue > 1e-4
    assert stats.chisquare(np.bincount(drawn.op.ravel(), minlength=9)).pvalue > 1e-4
    coins = [drawn.augmented, drawn.pictured, drawn.multiplied, drawn.partner_weight > 0]
    for coin in coins:
        assert abs(coin.mean() - 0.5) < 4 * 0.5 / np.sqrt(coin.size)
    convex = drawn.partner_weight > 0
    laws = {
        "own": (drawn.own_weight[convex], stats.beta(3, 1)),
        "partner": (drawn.partner_weight[convex], stats.beta(1, 3)),
        "more than itself": (drawn.own_weight[~convex] - 1, stats.beta(1, 3)),
        "taken away": (-drawn.partner_weight[~convex], stats.beta(1, 3)),
    }
    for name, (values, law) in laws.items():
        assert stats.kstest(values, law.cdf).pvalue > 1e-4, name
    # Decisions, and rounds, are independent of each other.
    flags = [drawn.augmented, *drawn.pictured.T, *drawn.multiplied.T, *convex.T]
    flags += [drawn.own_weight[:, 0], drawn.partner_weight[:, 1], drawn.rounds, drawn.picture]
    correlation = np.corrcoef(np.stack([f.astype(float) for f in flags]))
    weights = slice(-4, -2)
    np.fill_diagonal(correlation, 0)
    correlation[weights] = 0  # the coin of the weights decides their range
    correlation[:, weights] = 0
    assert abs(correlation).max() < 4.5 / np.sqrt(n)


def test_options_change_their_own_draw_and_no_other():
    first = draw(jax.random.key(0), MANY, 3)
    other = draw(jax.random.key(0), MANY, 3, beta=8.0, severity=9.0)
    for field in dataclasses.fields(first):
        same = np.array_equal(getattr(first, field.name), getattr(other, field.name))
        assert same == (field.name not in ("level", "own_weight", "partner_weight")), field.name
    assert float(jnp.abs(other.level).max()) > 8
    assert float(jnp.abs(other.partner_weight).mean()) == pytest.approx(1 / 9, abs=0.03)
    fewer = jax.eval_shape(lambda: draw(jax.random.key(0), 64, 3, k=2))
    assert (fewer.op.shape, fewer.pictured.shape) == ((64, 3), (64, 2))


def test_pixmix_applies_what_it_draws():
    images, pictures = made_images(16, 7, 5, 3), made_images(3, 7, 5, 3, seed=1)
    options = {"k": 2, "beta": 4.0, "severity": 5.0}
    before = images.copy(), pictures.copy()

    @jax.jit
    def run(key, images, pictures):
        again = jax.random.clone(key)
        return pixmix.pixmix(key, images, pictures, **options), draw(again, 16, 3, **options)

    found, drawn = run(jax.random.key(8), images, pictures)
    assert drawn.rounds.max() == 2
    # With columns for two more rounds, which are not done: no new compilation.
    padded = {
        f.name: jnp.pad(getattr(drawn, f.name), ((0, 0), (0, 2)))
        for f in dataclasses.fields(drawn)
        if getattr(drawn, f.name).ndim == 2
    }
    expected = apply(dataclasses.replace(drawn, **padded), images, pictures)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(pictures, before[1])


def test_severity_may_be_traced():
    level = jax.jit(lambda s: draw(jax.random.key(0), MANY, 3, severity=s).level)(9.0)
    np.testing.assert_allclose(level, draw(jax.random.key(0), MANY, 3, severity=9.0).level)


def test_a_row_does_not_depend_on_the_other_rows():
    images, pictures = made_images(16, 7, 5, 3), made_images(3, 7, 5, 3, seed=1)
    drawn = made_draw(3)
    changed = made_images(16, 7, 5, 3, seed=2)
    changed[5] = images[5]
    np.testing.assert_array_equal(
        apply(drawn, images, pictures)[5], apply(drawn, changed, pictures)[5]
    )


def test_a_sharded_batch_is_mixed_where_it_lies():
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    sharded, replicated = (jax.NamedSharding(mesh, jax.P(*a)) for a in (("data",), ()))
    images, pictures = made_images(16, 7, 5, 3), made_images(3, 7, 5, 3, seed=1)
    step = jax.jit(
        pixmix.apply_pixmix,
        in_shardings=(sharded, sharded, replicated),
        out_shardings=sharded,
    )
    drawn = made_draw(3)
    compiled = step.lower(drawn, images, pictures).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    found = compiled(*jax.device_put((drawn, images, pictures), (sharded, sharded, replicated)))
    np.testing.assert_allclose(found, apply(drawn, images, pictures), atol=1e-6)


# Fractals.


def test_fractals_are_pictures_that_all_differ():
    found = np.asarray(fractals(jax.random.key(0), 24, height=16, width=20))
    assert (found.dtype, found.shape) == (np.float32, (24, 16, 20, 3))
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert found.std((1, 2)).max(1).min() > 0.04
    distance = np.abs(found[:, None] - found[None]).mean((2, 3, 4))
    assert distance[~np.eye(24, dtype=bool)].min() > 0.05
    # Neither dust nor a blob: the background is one colour and covers a part of every picture.
    for picture in found:
        colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
        assert 0.05 < counts.max() / 320 < 0.99
        assert len(colours) > 8


def test_fractals_are_rough_at_every_scale():
    """Between lines and areas: boxes needed to cover them grow with a power between 1/2 and 2."""
    found = np.asarray(fractals(jax.random.key(1), 8, height=64, width=64, channels=1))
    slopes = []
    for picture in found[..., 0]:
        values, counts = np.unique(picture, return_counts=True)
        inked = picture != values[counts.argmax()]
        boxes = [inked.reshape(n, 64 // n, n, 64 // n).any((1, 3)).sum() for n in (4, 8, 16, 32)]
        slopes.append(np.polyfit(np.log([4, 8, 16, 32]), np.log(boxes), 1)[0])
    assert min(slopes) > 0.5 and max(slopes) < 2
    assert 1.0 < np.mean(slopes) < 1.95


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 4, 4, 3), (2, 1, 9, 2)])
def test_fractals_of_any_size(shape):
    count, height, width, channels = shape
    found = fractals(jax.random.key(0), count, height=height, width=width, channels=channels)
    assert found.shape == shape
    assert np.isfinite(np.asarray(found)).all()


def test_the_key_is_what_is_random_in_fractals():
    first, again, other = (
        np.asarray(fractals(jax.random.key(seed), 24, height=16, width=20)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1


IMAGES = np.zeros((2, 4, 3, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda key: pixmix.pixmix(key, IMAGES[0], IMAGES), ValueError, "images must be"),
        (lambda key: pixmix.pixmix(key, IMAGES, IMAGES[0]), ValueError, "pictures must be"),
        (lambda key: pixmix.pixmix(key, IMAGES, IMAGES[:, :2]), ValueError, r"pictures.*\(4, 3, 1"),
        (lambda key: pixmix.pixmix(key, IMAGES, IMAGES[:0]), ValueError, "pictures.*at least 1"),
        (lambda key: pixmix.pixmix(key, IMAGES.astype(int), IMAGES), TypeError, "images.*int"),
        (lambda key: pixmix.pixmix(key, IMAGES, IMAGES > 0), TypeError, "pictures.*bool"),
        (lambda key: pixmix.draw_pixmix(key, 2, 0), ValueError, "pictures.*found 0"),
        (lambda key: pixmix.draw_pixmix(key, 2, 1, k=-1), ValueError, "k must be.*-1"),
        (lambda key: pixmix.draw_pixmix(key, 2, 1, k=1.5), TypeError, "k must be.*1.5"),
        (lambda key: pixmix.draw_pixmix(key, 2, 1, beta=0.0), ValueError, "beta.*0.0"),
        (lambda key: pixmix.draw_pixmix(key, 2, 1, severity=11), ValueError, "severity.*11"),
        (
            lambda key: pixmix.apply_pixmix(made_draw(0, 64), IMAGES, IMAGES),
            ValueError,
            r"images must be the 64 of the draw.*\(2, 4",
        ),
        (
            lambda key: pixmix.fractal_pictures(key, -1, height=2, width=2),
            ValueError,
            "count.*-1",
        ),
        (
            lambda key: pixmix.fractal_pictures(key, 1, height=0, width=2),
            ValueError,
            "height must be at least 1",
        ),
        (
            lambda key: pixmix.fractal_pictures(key, 1, height=2, width=2.0),
            TypeError,
            "width.*2.0",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
