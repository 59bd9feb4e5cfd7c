"""SaliencyMix: the peak of each row's own partner, and the box of CutMix around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as plain
import saliency_reference as reference

from semjax.policies.cutmix import cutmix
from semjax.policies.saliencymix import saliency_peak, saliencymix

SIZES = [(8, 8), (6, 10), (7, 5), (1, 9), (1, 1)]


def drawn(policy, saliency, seed=0):
    """The mix of one key, with NumPy leaves."""
    shape = {"image": jax.ShapeDtypeStruct((*saliency.shape, 3), jnp.float32)}
    probe = reference.Answers(saliency=jnp.asarray(saliency))
    mix = jax.jit(lambda key: policy(key, shape, probe))(jax.random.key(seed))
    return jax.tree.map(np.asarray, mix)


def maps(rows, height, width):
    return np.random.default_rng(rows).uniform(size=(rows, height, width)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_the_peak_is_the_first_of_the_largest_pixels(size):
    saliency = np.random.default_rng(0).integers(0, 4, (20, *size)).astype(np.float32)
    peak = saliency_peak(saliency)
    assert peak.dtype == jnp.int32
    np.testing.assert_array_equal(peak, reference.saliency_peak(saliency))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scope", ["batch", "pair", "sample"])
def test_the_box_is_that_of_cutmix_around_the_peak_of_the_partner(scope, size):
    """Each row has a peak of its own, even if the batch shares the size of the box."""
    saliency = maps(12, *size)
    options = {"weight_scope": scope, "pairing": "roll", "alpha": 1.0}
    mix = drawn(saliencymix(**options), saliency)
    shape = {"image": jax.ShapeDtypeStruct((12, *size, 3), jnp.float32)}
    asked = cutmix(correction=False, **options)(jax.random.key(0), shape)
    np.testing.assert_array_equal(mix.partner, np.roll(np.arange(12), 1))
    centre = reference.saliency_peak(saliency)[mix.partner]
    expected = plain.cutmix_mask(np.asarray(asked.weight), centre, *size)
    np.testing.assert_array_equal(mix.mask, expected)
    assert mix.mask.dtype == mix.weight.dtype == np.float32
    np.testing.assert_allclose(mix.weight, mix.mask.mean((1, 2, 3), dtype=float), atol=1e-6)


def test_the_peak_is_inside_the_box_of_every_row_and_peaks_differ():
    saliency = maps(40, 9, 12)
    mix = drawn(saliencymix(weight_scope="sample", pairing="roll"), saliency)
    peaks = reference.saliency_peak(saliency)[mix.partner]
    pasted = mix.weight < 1
    assert pasted.sum() > 25
    assert all(mix.mask[i, a, b, 0] == 0 for i, (a, b) in enumerate(peaks) if pasted[i])
    assert len({tuple(peak) for peak in peaks}) > 20


def test_partners_stay_in_their_groups_and_so_do_their_peaks():
    saliency = maps(12, 9, 9)
    mix = drawn(saliencymix(pairing="roll", groups=3), saliency)
    assert mix.groups == 3
    assert mix.partner.tolist() == plain.partners("roll", 12, 3)
    peaks = reference.saliency_peak(saliency)[mix.partner]
    assert all(mix.mask[i, a, b, 0] == 0 for i, (a, b) in enumerate(peaks))


def test_probability_zero_and_alpha_zero_leave_every_row_alone():
    for options in ({"probability": 0.0}, {"alpha": 0}):
        mix = drawn(saliencymix(pairing="roll", **options), maps(12, 8, 8))
        np.testing.assert_array_equal(mix.weight, np.ones(12))
        np.testing.assert_array_equal(mix.mask, np.ones((12, 8, 8, 1)))


def test_rows_decide_for_themselves_whether_to_mix():
    options = {"weight_scope": "sample", "pairing": "roll", "alpha": 5.0}
    always = drawn(saliencymix(**options), maps(400, 8, 8))
    mix = drawn(saliencymix(probability=0.3, **options), maps(400, 8, 8))
    mixed = mix.weight < 1
    possible = (always.weight < 1).mean()
    assert abs(mixed.mean() - 0.3 * possible) < 4 * np.sqrt(0.3 * 0.7 / 400)
    np.testing.assert_array_equal(mix.mask[mixed], always.mask[mixed])
    assert (mix.mask[~mixed] == 1).all()


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"alpha must be.*-1"):
        saliencymix(alpha=-1)
    with pytest.raises(ValueError, match=r"probability must be.*2"):
        saliencymix(probability=2)
    with pytest.raises(ValueError, match=r"\[B, H, W, C\].*\(4, 7\)"):
        saliencymix()(jax.random.key(0), {"image": jnp.zeros((4, 7))}, reference.Answers())


def test_without_a_probe_the_error_says_where_to_draw():
    with pytest.raises(ValueError, match="saliencymix looks at the model"):
        saliencymix()(jax.random.key(0), {"image": jnp.zeros((4, 7, 7, 1))})
