"""What all policies share: partners, who has a draw in common, whether a row is mixed at all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from policy_draws import (
    ALL,
    MANY,
    MASKED,
    assert_same,
    distinct,
    drawn,
    has_alpha,
    image_of,
    many,
    sure,
)

from semjax.mixing import Mix
from semjax.pairing import BIJECTIONS
from semjax.policies import common, cutmix, fmix, mixup
from semjax.policies.common import Common, image_size

each_factory = pytest.mark.parametrize("factory", ALL)
each_masked = pytest.mark.parametrize("factory", MASKED)
each_scope = pytest.mark.parametrize("scope", common.WEIGHT_SCOPES)


# Who shares a draw.


@each_factory
@pytest.mark.parametrize("field", ["weight", "mask"])
def test_the_batch_shares_one_draw(field, factory):
    for options in ({}, {"weight_scope": "batch"}):
        value = getattr(drawn(factory(**options)), field)
        assert value is None if factory is mixup and field == "mask" else distinct(value) == 1


@each_factory
def test_every_sample_has_a_draw_of_its_own(factory):
    weight, mask = many(factory(weight_scope="sample"))
    assert distinct(weight) > (0.99 * MANY if factory is mixup else 10)
    assert factory is mixup or distinct(mask) > 100


@each_factory
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padded", [False, True])
def test_a_pair_shares_a_draw(padded, groups, factory):
    """Rows i and n - 1 - i among the n valid rows of a group."""
    valid = [True, True, False, True, True, True, True, True, True, True, False, True]
    valid = valid if padded else [True] * 12
    mix = drawn(sure(factory, weight_scope="pair", groups=groups), valid=valid)
    other, real = np.array(reference.partners("reverse", 12, groups, valid)), np.array(valid)
    pairs = {frozenset((i, j)) for i, j in enumerate(other) if real[i]}
    # Two boxes may have one area.
    values = [mix.weight] if mix.mask is None else [mix.mask, mix.weight]
    assert distinct(values[0][real]) == len(pairs)
    for value in values:
        np.testing.assert_array_equal(value, value[other])


@each_factory
def test_the_batch_decides_together_whether_to_mix(factory):
    """And the probability acts once: were it applied twice, 0.09 of the batches would be mixed."""
    policy, keys = sure(factory, probability=0.3), jax.random.split(jax.random.key(7), 2_000)
    draw = jax.jit(jax.vmap(lambda key: policy(key, image_of(3, 16, 16)).weight))
    mixed = np.asarray(draw(keys)) < 1
    np.testing.assert_array_equal(mixed, mixed[:, :1] & [True] * 3)
    assert abs(mixed[:, 0].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2_000)


@each_factory
@pytest.mark.parametrize("scope", ["pair", "sample"])
def test_pairs_and_samples_decide_for_themselves_whether_to_mix(scope, factory):
    weight, _ = many(sure(factory, probability=0.3, weight_scope=scope))
    first, second = (weight < 1)[: MANY // 2], (weight < 1)[::-1][: MANY // 2]
    assert abs(first.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(first))
    if scope == "pair":
        np.testing.assert_array_equal(first, second)
    else:
        assert abs((first & second).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / len(first))


@each_factory
@each_scope
def test_probability_zero_never_mixes_and_one_always_does(scope, factory):
    for never in (0, 0.0):
        mix = drawn(factory(weight_scope=scope, probability=never))
        np.testing.assert_array_equal(mix.weight, np.ones(12))
        assert mix.mask is None or (mix.mask == 1).all()
    for always in (1, 1.0):
        mix = drawn(sure(factory, weight_scope=scope, probability=always))
        assert (mix.weight < 1).all()
        assert_same(mix, drawn(sure(factory, weight_scope=scope)))


@each_factory
def test_the_probability_leaves_the_draws_of_mixed_rows_alone(factory):
    sometimes = drawn(sure(factory, weight_scope="sample", probability=0.5))
    always = drawn(sure(factory, weight_scope="sample"))
    mixed = sometimes.weight < 1
    assert 0 < mixed.sum() < 12
    for field in ("weight", "mask", "zoom"):
        if getattr(always, field) is not None:
            found, expected = getattr(sometimes, field), getattr(always, field)
            np.testing.assert_array_equal(found[mixed], expected[mixed])
    assert sometimes.mask is None or (sometimes.mask[~mixed] == 1).all()


@pytest.mark.parametrize("factory", [factory for factory in ALL if has_alpha(factory)])
@each_scope
def test_alpha_zero_leaves_every_row_alone(scope, factory):
    mix = drawn(factory(alpha=0, weight_scope=scope))
    np.testing.assert_array_equal(mix.weight, np.ones(12))
    assert mix.mask is None or (mix.mask == 1).all()


# Partners.


@each_factory
@pytest.mark.parametrize("pairing", BIJECTIONS)
def test_the_partner_is_the_same_whatever_else_is_asked_for(pairing, factory):
    variants = [
        {"alpha": 0.0} if has_alpha(factory) else {},
        {"weight_scope": "sample", "probability": 0.5},
        {"weight_scope": "pair", "probability": 0.0},
    ]
    for groups in (1, 2):
        options = {"pairing": pairing, "groups": groups}
        expected = drawn(mixup(**options)).partner
        for variant in variants:
            mix = drawn(factory(**options, **variant))
            np.testing.assert_array_equal(mix.partner, expected)


@each_factory
@pytest.mark.parametrize("pairing", ["roll", "reverse"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("valid", [None, [True, False, True, True] * 3])
def test_pairing_groups_and_validity_reach_the_partner(valid, groups, pairing, factory):
    mix = drawn(factory(pairing=pairing, groups=groups), valid=valid)
    assert mix.groups == groups
    assert mix.partner.tolist() == reference.partners(pairing, 12, groups, valid)


@pytest.mark.parametrize("factory", [mixup, cutmix])
def test_random_pairings_reach_the_partner(factory):
    """Every group of four rows is a draw."""
    group = np.arange(MANY) // 4
    for pairing in ("permutation", "derangement"):
        partner = drawn(factory(pairing=pairing, groups=MANY // 4), rows=MANY).partner
        np.testing.assert_array_equal(partner // 4, group)
        found = {tuple(p) for p in (partner % 4).reshape(-1, 4).tolist()}
        # All the permutations, or the six that are one cycle.
        assert len(found) == {"permutation": 24, "derangement": 6}[pairing]


@each_factory
def test_pairing_and_groups_leave_the_other_draws_alone(factory):
    expected = drawn(factory(weight_scope="sample"))
    for options in ({"pairing": "roll"}, {"groups": 4}, {"pairing": "derangement", "groups": 2}):
        mix = drawn(factory(weight_scope="sample", **options))
        np.testing.assert_array_equal(mix.weight, expected.weight)
        np.testing.assert_array_equal(mix.mask, expected.mask)


@each_factory
@each_scope
def test_all_valid_is_no_valid_at_all(scope, factory):
    policy = factory(weight_scope=scope, probability=0.7)
    assert_same(drawn(policy, valid=np.ones(12, bool)), drawn(policy))


# What a policy is.


@each_factory
def test_a_policy_needs_the_shape_of_the_image_only(factory):
    policy = factory(weight_scope="sample")
    images = {"image": jnp.full((12, 16, 16, 3), jnp.nan, jnp.bfloat16), "label": None}
    assert_same(policy(jax.random.key(0), images), drawn(policy))


@each_factory
def test_a_policy_is_a_function_of_the_key(factory):
    policy = factory(weight_scope="sample")
    first, again, other = (drawn(policy, seed) for seed in (0, 0, 1))
    assert_same(first, again)
    assert (first.partner != other.partner).any()
    assert (first.weight != other.weight).any()
    assert factory is mixup or (first.mask != other.mask).any()


@each_factory
def test_a_policy_does_not_look_at_the_probe(factory):
    found = factory()(jax.random.key(0), image_of(12, 16, 16), probe=lambda images: 1 / 0)
    assert_same(found, drawn(factory()))


@each_factory
def test_jit_agrees_with_eager(factory):
    policy = factory(weight_scope="pair", probability=0.7, groups=2)
    valid = jnp.array([True] * 10 + [False] * 2)
    jitted = jax.jit(lambda key, valid: policy(key, {**image_of(12, 7, 9), "valid": valid}))
    found, eager = jitted(jax.random.key(3), valid), drawn(policy, 3, size=(7, 9), valid=valid)
    assert isinstance(found, Mix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), found, eager)


@each_factory
def test_a_legacy_key_draws_what_a_typed_key_draws(factory):
    policy = factory(weight_scope="pair", probability=0.7)
    found = policy(jax.random.PRNGKey(5), image_of(12, 16, 16))
    assert_same(found, drawn(policy, 5))


@pytest.mark.parametrize(
    "policy",
    [
        *(factory() for factory in ALL),
        mixup(alpha=0),
        cutmix(correction=False),
        cutmix(minmax=(0.2, 0.8)),
        fmix(reference_compat=True),
    ],
)
def test_a_mix_is_float32_where_float64_is_the_default(policy):
    with jax.enable_x64(True):
        mix = drawn(policy)
    assert mix.partner.dtype == np.int32
    assert {leaf.dtype for leaf in jax.tree.leaves((mix.weight, mix.mask, mix.zoom))} == {
        np.dtype(np.float32)
    }


@each_factory
def test_a_batch_of_one_row_keeps_to_itself(factory):
    assert drawn(factory(), rows=1).partner.tolist() == [0]


# Faults.


@each_factory
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_scope": "row"}, "weight_scope must be one of batch, pair, sample; found 'row'"),
        ({"probability": 1.5}, r"probability must be in \[0, 1\]; found 1.5"),
        ({"probability": -0.5}, r"probability must be in \[0, 1\]; found -0.5"),
        ({"probability": float("nan")}, "probability must be.*nan"),
        ({"pairing": "shuffle"}, "pairing must be one of permutation.*'shuffle'"),
        ({"groups": 0}, "groups must be.*0"),
    ],
)
def test_options_out_of_range_are_refused_at_once(options, message, factory):
    with pytest.raises(ValueError, match=message):
        factory(**options)


@pytest.mark.parametrize("factory", [factory for factory in ALL if has_alpha(factory)])
@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf")])
def test_an_alpha_out_of_range_is_refused_at_once(alpha, factory):
    with pytest.raises(ValueError, match=f"alpha must be finite and at least 0; found {alpha}"):
        factory(alpha=alpha)


@each_factory
def test_groups_must_divide_the_batch(factory):
    with pytest.raises(ValueError, match="groups=5 must divide"):
        drawn(factory(groups=5))


@each_masked
def test_masks_need_images(factory):
    with pytest.raises(ValueError, match=r"\[B, H, W, C\].*\(4, 7\)"):
        factory()(jax.random.key(0), {"image": jnp.zeros((4, 7))})


def test_the_size_of_images_is_height_and_width():
    assert image_size(image_of(2, 5, 3)) == (5, 3)


def test_a_draw_hands_out_rows_of_any_width():
    for scope, number in (("batch", 1), ("pair", 6), ("sample", 12)):
        draw = Common(weight_scope=scope).draw(jax.random.key(0), image_of(12, 4, 4))
        values = draw.per_scope(lambda key, rows: jax.random.uniform(key, (rows, 3)))
        assert values.shape == (12, 3)
        assert distinct(np.asarray(values)) == number
