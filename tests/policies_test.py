"""What the policies draw: boxes against loops, laws against SciPy, and who shares a draw."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from semjax.mixing import Mix
from semjax.pairing import BIJECTIONS
from semjax.policies import common as policies
from semjax.policies.cutmix import cutmix, cutmix_mask
from semjax.policies.mixup import mixup

FACTORIES = [mixup, cutmix]
each_factory = pytest.mark.parametrize("factory", FACTORIES)
MANY = 4_000
sized_mask = jax.jit(cutmix_mask, static_argnames=("height", "width"))

# Side, proportion asked for, centre, box, proportion after clipping.
BOXES = [
    (32, 0.5, 16, (5, 27), 0.527344),
    (32, 0.5, 0, (0, 11), 0.881836),
    (32, 0.5, 31, (20, 32), 0.859375),
    (32, 0.35, 16, (4, 28), 0.4375),
    (32, 0.9, 5, (0, 10), 0.902344),
    (32, 0.0, 16, (0, 32), 0.0),
    (32, 1.0, 16, (0, 0), 1.0),
    (224, 0.5, 112, (33, 191), 0.502471),
    (7, 0.5, 3, (1, 5), 0.673469),
    (2, 0.9, 1, (0, 0), 1.0),
]
SIZES = [(8, 8), (6, 10), (7, 5), (1, 1), (1, 9)]


def image_of(rows, height, width):
    return {"image": jax.ShapeDtypeStruct((rows, height, width, 3), jnp.float32)}


def drawn(policy, seed=0, rows=12, size=(16, 16), valid=None):
    """The mix of one key, with NumPy leaves."""
    batch = image_of(rows, *size)
    if valid is not None:
        batch["valid"] = jnp.asarray(valid)
    return jax.tree.map(np.asarray, policy(jax.random.key(seed), batch))


def many(policy, size=(16, 16), keys=1):
    """The mixes of `keys` keys with MANY rows each, one after the other, partners left out."""
    mixes = [drawn(policy, seed, MANY, size) for seed in range(keys)]
    masks = [] if mixes[0].mask is None else np.concatenate([mix.mask for mix in mixes])
    return np.concatenate([mix.weight for mix in mixes]), masks


def mixed_rows(mix):
    """Whether each row got a share of its partner."""
    return mix.weight < 1


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# Boxes.


@pytest.mark.parametrize(("side", "weight", "centre", "box", "after"), BOXES)
def test_boxes_worked_by_hand(side, weight, centre, box, after):
    centres = jnp.full((1, 2), centre)
    mask = np.asarray(sized_mask(jnp.array([weight]), centres, height=side, width=side))
    expected = np.ones((1, side, side, 1), np.float32)
    expected[:, slice(*box), slice(*box)] = 0
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(mask.mean(), after, atol=5e-7)
    again = reference.cutmix_mask([weight], [(centre, centre)], side, side) if side < 50 else mask
    np.testing.assert_array_equal(mask, again)


@pytest.mark.parametrize(("height", "width"), [(12, 5), (7, 9), (1, 6)])
def test_boxes_of_images_that_are_not_square(height, width):
    """Rows and columns have sides and limits of their own."""
    proportions = np.float32([0.03, 0.33, 0.61, 0.87])
    corners = itertools.product([0, height // 2, height - 1], [0, width // 2, width - 1])
    weight, centre = zip(*itertools.product(proportions, corners), strict=True)
    found = sized_mask(jnp.array(weight), jnp.array(centre), height=height, width=width)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, reference.cutmix_mask(weight, centre, height, width))


@pytest.mark.parametrize("size", SIZES)
def test_the_weight_is_the_mean_of_the_mask(size):
    for seed in range(4):
        mix = drawn(cutmix(weight_scope="sample"), seed, size=size)
        assert mix.mask.shape == (12, *size, 1)
        assert set(np.unique(mix.mask)) <= {0.0, 1.0}
        means = mix.mask.mean((1, 2, 3), dtype=np.float64)
        np.testing.assert_allclose(mix.weight, means, rtol=0, atol=1e-6)


def test_boxes_reach_every_row_and_column():
    weight, mask = many(cutmix(weight_scope="sample"), (24, 4))
    small = mask[weight > 0.75, ..., 0] == 0
    assert small.any((0, 2)).all()
    assert small.any((0, 1)).all()


@pytest.mark.parametrize(("side", "published"), [(32, 0.701), (64, 0.690)])
def test_the_mean_weight_of_cutmix(side, published):
    expected = reference.expected_cutmix_weight(side)
    assert abs(expected - published) < 5e-4
    policy = cutmix(weight_scope="sample")
    weight = np.concatenate([drawn(policy, seed, MANY, (side, side)).weight for seed in range(5)])
    error = weight.std() / np.sqrt(weight.size)
    assert error < 0.003
    assert abs(weight.astype(np.float64).mean() - expected) < 4 * error


# The law of the weights.


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 10])
def test_weights_follow_the_beta_law(alpha):
    weight, _ = many(mixup(alpha=alpha, weight_scope="sample"), keys=5)
    assert stats.kstest(weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [1e-3, 1e-2, 0.1])
def test_weights_of_a_small_alpha_follow_the_beta_law(alpha):
    """A ratio of two float32 gammas would be 0 / 0 for many a draw."""
    weight, _ = many(mixup(alpha=alpha, weight_scope="sample"), keys=5)
    weight = weight.astype(np.float64)
    assert np.isfinite(weight).all()
    assert ((weight >= 0) & (weight <= 1)).all()
    for place in (1e-30, 1e-6, 0.5, 1 - 1e-6):
        expected = stats.beta.cdf(place, alpha, alpha)
        error = np.sqrt(expected * (1 - expected) / len(weight))
        assert abs((weight <= place).mean() - expected) < 4 * error + 1e-4, place


@pytest.mark.parametrize("alpha", [0.5, 2])
def test_boxes_are_drawn_from_the_beta_law(alpha):
    weight, _ = many(cutmix(alpha=alpha, weight_scope="sample", correction=False), keys=5)
    assert stats.kstest(weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


@pytest.mark.parametrize("options", [{}, {"correction": False}])
@pytest.mark.parametrize("scope", policies.WEIGHT_SCOPES)
def test_alpha_zero_leaves_every_row_alone(scope, options):
    for factory in FACTORIES if not options else [cutmix]:
        mix = drawn(factory(alpha=0, weight_scope=scope, **options))
        np.testing.assert_array_equal(mix.weight, np.ones(12))
        assert mix.mask is None or (mix.mask == 1).all()


def test_mixup_has_no_mask_and_cutmix_has_one():
    assert drawn(mixup()).mask is None
    assert drawn(cutmix()).mask.shape == (12, 16, 16, 1)


# Who shares a draw.


def mirrored(rows, groups=1, valid=None):
    return np.array(reference.partners("reverse", rows, groups, valid))


def distinct(values):
    return len(np.unique(values.reshape(len(values), -1), axis=0))


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
    policy = factory(weight_scope="pair", groups=groups)
    mix = drawn(policy, valid=valid)
    other, real = mirrored(12, groups, valid), np.array(valid)
    pairs = {frozenset((i, j)) for i, j in enumerate(other) if real[i]}
    # Two boxes may have one area.
    values = [mix.weight] if mix.mask is None else [mix.mask, mix.weight]
    assert distinct(values[0][real]) == len(pairs)
    for value in values:
        np.testing.assert_array_equal(value, value[other])


def uncorrected(factory, **options):
    """A policy whose weight is below 1 just where the row is mixed, whatever the box."""
    return factory(**options, **({"correction": False} if factory is cutmix else {}))


@each_factory
def test_the_batch_decides_together_whether_to_mix(factory):
    """And the probability acts once: were it applied twice, 0.09 of the batches would be mixed."""
    policy, keys = uncorrected(factory, probability=0.3), jax.random.split(jax.random.key(7), 2_000)
    draw = jax.jit(jax.vmap(lambda key: policy(key, image_of(3, 16, 16)).weight))
    mixed = np.asarray(draw(keys)) < 1
    np.testing.assert_array_equal(mixed, mixed[:, :1] & [True] * 3)
    assert abs(mixed[:, 0].mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2_000)


@each_factory
@pytest.mark.parametrize("scope", ["pair", "sample"])
def test_pairs_and_samples_decide_for_themselves_whether_to_mix(scope, factory):
    weight, _ = many(uncorrected(factory, probability=0.3, weight_scope=scope))
    first, second = (weight < 1)[: MANY // 2], (weight < 1)[::-1][: MANY // 2]
    assert abs(first.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(first))
    if scope == "pair":
        np.testing.assert_array_equal(first, second)
    else:
        assert abs((first & second).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / len(first))


@each_factory
@pytest.mark.parametrize("scope", policies.WEIGHT_SCOPES)
def test_probability_zero_never_mixes_and_one_always_does(scope, factory):
    for never in (0, 0.0):
        mix = drawn(factory(weight_scope=scope, probability=never))
        np.testing.assert_array_equal(mix.weight, np.ones(12))
        assert mix.mask is None or (mix.mask == 1).all()
    for always in (1, 1.0):
        mix = drawn(factory(weight_scope=scope, probability=always))
        assert mixed_rows(mix).any()
        assert_same(mix, drawn(factory(weight_scope=scope)))


@each_factory
def test_the_probability_leaves_the_draws_of_mixed_rows_alone(factory):
    sometimes = drawn(factory(weight_scope="sample", probability=0.5))
    always = drawn(factory(weight_scope="sample"))
    mixed = mixed_rows(sometimes)
    assert 0 < mixed.sum() < 12
    np.testing.assert_array_equal(sometimes.weight[mixed], always.weight[mixed])
    if factory is cutmix:
        np.testing.assert_array_equal(sometimes.mask[mixed], always.mask[mixed])
        assert (sometimes.mask[~mixed] == 1).all()


# Correction.


def test_correction_moves_the_weight_and_not_the_box():
    options = {"weight_scope": "sample"}
    corrected = drawn(cutmix(**options))
    drawn_weight = drawn(cutmix(correction=False, **options))
    np.testing.assert_array_equal(corrected.mask, drawn_weight.mask)
    assert (corrected.weight >= drawn_weight.weight).all()
    assert (corrected.weight - drawn_weight.weight).max() > 0.05


def test_without_correction_the_weight_is_what_the_box_was_drawn_for():
    weight, mask = many(cutmix(correction=False, weight_scope="sample"))
    boxes = 1 - mask[..., 0]
    inside = ~(boxes[:, [0, -1]].any((1, 2)) | boxes[:, :, [0, -1]].any((1, 2)))
    sides = np.floor(16 * np.sqrt(1 - weight)).astype(int) // 2 * 2
    assert inside.sum() > 100
    np.testing.assert_array_equal(boxes.sum((1, 2))[inside], (sides**2)[inside])


# Partners.


@each_factory
@pytest.mark.parametrize("pairing", BIJECTIONS)
def test_the_partner_is_the_same_whatever_else_is_asked_for(pairing, factory):
    variants = [
        {"alpha": 0.3},
        {"weight_scope": "sample", "probability": 0.5},
        {"weight_scope": "pair", "probability": 0.0},
    ]
    variants += [{"correction": False}] if factory is cutmix else []
    for groups in (1, 2):
        common = {"pairing": pairing, "groups": groups}
        expected = drawn(mixup(**common)).partner
        for options in variants:
            mix = drawn(factory(**common, **options))
            np.testing.assert_array_equal(mix.partner, expected)


@each_factory
@pytest.mark.parametrize("pairing", ["roll", "reverse"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("valid", [None, [True, False, True, True] * 3])
def test_pairing_groups_and_validity_reach_the_partner(valid, groups, pairing, factory):
    mix = drawn(factory(pairing=pairing, groups=groups), valid=valid)
    assert mix.groups == groups
    assert mix.partner.tolist() == reference.partners(pairing, 12, groups, valid)


@each_factory
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
@pytest.mark.parametrize("scope", policies.WEIGHT_SCOPES)
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
    key = jax.random.key(0)
    found = factory()(key, image_of(12, 16, 16), probe=lambda images: 1 / 0)
    assert_same(found, drawn(factory()))


@pytest.mark.parametrize(("factory", "scope"), [(mixup, "pair"), (cutmix, "batch")])
def test_jit_agrees_with_eager(factory, scope):
    policy = factory(weight_scope=scope, probability=0.7, groups=2)
    valid = jnp.array([True] * 10 + [False] * 2)
    jitted = jax.jit(lambda key, valid: policy(key, {**image_of(12, 16, 16), "valid": valid}))
    found, eager = jitted(jax.random.key(3), valid), drawn(policy, 3, valid=valid)
    assert isinstance(found, Mix)
    np.testing.assert_array_equal(found.partner, eager.partner)
    np.testing.assert_allclose(found.weight, eager.weight, rtol=1e-6)
    np.testing.assert_array_equal(found.mask, eager.mask)


@each_factory
def test_a_legacy_key_draws_what_a_typed_key_draws(factory):
    policy = factory(weight_scope="pair", probability=0.7)
    found = policy(jax.random.PRNGKey(5), image_of(12, 16, 16))
    assert_same(found, drawn(policy, 5))


@pytest.mark.parametrize("policy", [mixup(), mixup(alpha=0), cutmix(correction=False)])
def test_a_mix_is_float32_where_float64_is_the_default(policy):
    with jax.enable_x64(True):
        mix = drawn(policy)
    assert mix.partner.dtype == np.int32
    assert mix.weight.dtype == np.float32
    assert mix.mask is None or mix.mask.dtype == np.float32


@each_factory
def test_a_batch_of_one_row_keeps_to_itself(factory):
    assert drawn(factory(), rows=1).partner.tolist() == [0]


# Faults.


@each_factory
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha must be finite and at least 0; found -0.1"),
        ({"alpha": float("nan")}, "alpha must be finite.*nan"),
        ({"alpha": float("inf")}, "alpha must be finite.*inf"),
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


@each_factory
def test_groups_must_divide_the_batch(factory):
    with pytest.raises(ValueError, match="groups=5 must divide"):
        drawn(factory(groups=5))


def test_boxes_need_images():
    with pytest.raises(ValueError, match=r"\[B, H, W, C\].*\(4, 7\)"):
        cutmix()(jax.random.key(0), {"image": jnp.zeros((4, 7))})


def test_mixup_needs_rows_only():
    mix = mixup()(jax.random.key(0), {"image": jnp.zeros((4, 7))})
    assert mix.weight.shape == (4,)
