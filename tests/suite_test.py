"""Laws of all nineteen corruptions, and the error over them."""

import functools

import corruption_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from semjax import corruptions
from semjax.corruptions import BENCHMARK, CORRUPTIONS, HELD_OUT, corrupt, mean_corruption_error

each_name = pytest.mark.parametrize("name", CORRUPTIONS)
DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate"} | {
    *("jpeg_compression", "gaussian_blur", "saturate")
}
# Severities over which a corruption grows by its constants for CIFAR, where it is not all five in
# order: shuffles of glass grow with the number of passes; the fourth motion only has a longer tail,
# of no weight, and the fourth frost less of the image; elastic's affine part shrinks and its ripple
# grows; saturation first falls, then rises; spatter is first water, then mud.
ORDERS = {
    "motion_blur": [(1, 2), (2, 3), (3, 5), (4, 5)],
    "frost": [(1, 2), (2, 3), (4, 5)],
    "glass_blur": [(1, 4), (2, 4), (3, 4), (3, 5)],
    "elastic_transform": [(2, 1), (3, 2), (4, 3), (5, 4)],
    "saturate": [(1, 2), (3, 4), (4, 5)],
    "spatter": [(1, 2), (2, 3), (4, 5)],
}
IN_ORDER = [(1, 2), (2, 3), (3, 4), (4, 5)]
ROWS = 8


@functools.cache
def photographs():
    return reference.photographs(ROWS, 32, 32)


@functools.cache
def program(name):
    """One compiled program for each corruption, for all severities."""
    return jax.jit(functools.partial(corrupt, name=name))


def corrupted(name, severity, rows=slice(None)):
    images, index = photographs()[rows], jnp.arange(ROWS, dtype=jnp.int32)[rows]
    found = program(name)(jax.random.key(7), images, severity=severity, index=index)
    return np.asarray(found)


def test_there_are_fifteen_and_four():
    assert (len(BENCHMARK), len(HELD_OUT), len(set(CORRUPTIONS))) == (15, 4, 19)
    assert CORRUPTIONS == BENCHMARK + HELD_OUT
    # In the order of the paper: noise, blur, weather, digital.
    assert [BENCHMARK[i] for i in (0, 3, 7, 11)] == [
        *("gaussian_noise", "defocus_blur", "snow", "contrast")
    ]


@each_name
def test_strength_grows_with_severity(name):
    images = photographs()
    found = [corrupted(name, severity) for severity in range(1, 6)]
    assert all(x.dtype == np.uint8 and x.shape == images.shape for x in found)
    change = [abs(x.astype(float) - images).mean() for x in found]
    unlike = [
        1
        - np.mean(
            [structural_similarity(a, b, channel_axis=-1) for a, b in zip(x, images, strict=True)]
        )
        for x in found
    ]
    for less, more in ORDERS.get(name, IN_ORDER):
        # Frost and snow also darken or brighten, so that one of the two may stand still.
        grows = [x[more - 1] / x[less - 1] for x in (change, unlike)]
        assert max(grows) > 1.005, (less, more, change, unlike)
        assert min(grows) > 0.85, (less, more, change, unlike)


@each_name
def test_a_row_is_the_same_at_any_place_in_any_batch_and_program(name):
    whole = corrupted(name, 4)
    # Other places and neighbours, in the same program.
    order = np.array([5, 2, 2, 7, 0, 0, 1, 6])
    np.testing.assert_array_equal(corrupted(name, 4, order), whole[order])
    # A batch of one, outside of jit, severity and index being plain numbers.
    one = getattr(corruptions, name)(jax.random.key(7), photographs()[3:4], 4, index=[3])
    np.testing.assert_array_equal(one, whole[3:4])


@each_name
def test_only_what_draws_looks_at_key_and_index(name):
    images = np.repeat(photographs()[:1], ROWS, 0)
    key = jax.random.key(7)
    found = np.asarray(program(name)(key, images, severity=5, index=jnp.arange(ROWS)))
    other = np.asarray(program(name)(jax.random.key(8), images, severity=5, index=jnp.arange(ROWS)))
    plain = name in DETERMINISTIC
    assert (found == found[:1]).all() == plain
    assert (found == other).all() == plain
    # No index is 0, 1, 2, ...
    default = program(name)(key, images, severity=5, index=None)
    np.testing.assert_array_equal(default, found)


@each_name
@pytest.mark.parametrize(
    ("shape", "family"), [((1, 8, 8, 3), "cifar"), ((2, 9, 12, 1), "imagenet")]
)
def test_small_grey_and_oblong_images_are_corrupted(name, shape, family):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    found = corrupt(jax.random.key(0), images, name=name, severity=5, constants=family)
    assert found.shape == shape and found.dtype == jnp.uint8
    stays = name == "saturate" and shape[-1] == 1
    assert (np.asarray(found) == images).all() == stays


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur"])
def test_keys_may_be_mapped_over(name):
    images = photographs()[:2]
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.vmap(lambda key: corrupt(key, images, name=name, severity=2))(keys)
    for key, found in zip(keys, mapped, strict=True):
        np.testing.assert_array_equal(found, corrupt(key, images, name=name, severity=2))


@pytest.mark.parametrize("name", ["brightness", "impulse_noise"])
def test_constants_are_chosen_by_name(name):
    found = {
        family: np.asarray(
            corrupt(jax.random.key(0), photographs(), name=name, severity=5, constants=family)
        )
        for family in ("auto", "cifar", "imagenet")
    }
    np.testing.assert_array_equal(found["auto"], found["cifar"])
    assert (found["cifar"] != found["imagenet"]).any()


def test_the_mean_error_weighs_all_sets_alike():
    accuracy = np.random.default_rng(0).random((15, 5))
    np.testing.assert_allclose(mean_corruption_error(accuracy), 1 - accuracy.mean(), rtol=1e-5)


OK = np.zeros((1, 8, 8, 3), np.uint8)


@each_name
def test_every_corruption_checks_its_arguments(name):
    key = jax.random.key(0)
    for images, severity, options, error, message in (
        (OK / 255, 1, {}, TypeError, "images must be uint8"),
        (OK[0], 1, {}, ValueError, "images must be"),
        (OK[..., :2], 1, {}, ValueError, "C 1 or 3"),
        (OK, 6, {}, ValueError, "severity.*found 6"),
        (OK, 1, {"constants": "mnist"}, ValueError, "constants.*'mnist'"),
        (OK, 1, {"index": [1, 2]}, ValueError, r"index.*\(1,\).*\(2,\)"),
    ):
        with pytest.raises(error, match=message):
            corrupt(key, images, name=name, severity=severity, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: corrupt(jax.random.key(0), OK, name="gausian_noise", severity=1),
            "'gausian_noise'; did you mean 'gaussian_noise'",
        ),
        (
            lambda: corrupt(jax.random.key(0), OK, name="xyz", severity=1),
            "'xyz'; there are gaussian_noise,",
        ),
        (lambda: mean_corruption_error(np.ones(5)), r"\[corruptions, severities\]; found.*\(5,\)"),
        (lambda: mean_corruption_error(np.ones((0, 5))), r"found shape \(0, 5\)"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
