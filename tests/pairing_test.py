"""Who mixes with whom: what every rule guarantees, and the laws of those that draw."""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import stats

from semjax import pairing as pairing_lib
from semjax import policies
from semjax.pairing import BIJECTIONS, PAIRINGS, SELECTIONS, mirror, near_label, pair

KEYS = 40
VALID = {
    "all": [True] * 12,
    "some": [True, False, True, True, False, True, False, True, True, True, True, False],
    # In 4 groups: two without a valid row, one with a single valid row, one with two.
    "few": [False] * 6 + [True, False, False, True, True, False],
    "one": [False] * 7 + [True] + [False] * 4,
    "no": [False] * 12,
}
each_pairing = pytest.mark.parametrize("pairing", BIJECTIONS)
each_selection = pytest.mark.parametrize("pairing", SELECTIONS)


def draws(count, batch_size, seed=0, valid=None, **options):
    """The partners under `count` keys, as a NumPy array of [count, B]."""
    keys = jax.random.split(jax.random.key(seed), count)
    valid = None if valid is None else jnp.asarray(valid)
    return np.asarray(drawer(batch_size, **options)(keys, valid))


@functools.cache
def drawer(batch_size, **options):
    """One compilation for all the keys and validities of a test."""

    def draw(key, valid):
        return pair(key, batch_size, valid=valid, **options)

    return jax.jit(jax.vmap(draw, in_axes=(0, None)))


def assert_uniform(outcomes, possible):
    """A chi-square test that a fair draw fails once in a hundred thousand seeds."""
    counts = collections.Counter(outcomes)
    assert set(counts) == set(possible)
    assert stats.chisquare([counts[outcome] for outcome in possible]).pvalue > 1e-5


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
@each_pairing
def test_the_guarantees(pairing, valid, groups):
    partners = draws(KEYS, 12, pairing=pairing, groups=groups, valid=valid)
    valid = np.array(valid)
    rows, group = np.arange(12), np.arange(12) // (12 // groups)
    assert partners.dtype == np.int32
    for partner in partners:
        assert sorted(partner) == list(rows), "a bijection"
        np.testing.assert_array_equal(group[partner], group, "inside the group")
        np.testing.assert_array_equal(valid[partner], valid, "valid with valid")
        np.testing.assert_array_equal(partner[~valid], rows[~valid], "invalid rows alone")
        for g in range(groups):
            if (valid & (group == g)).sum() == 1:
                alone = rows[valid & (group == g)]
                np.testing.assert_array_equal(partner[alone], alone, "nobody to meet")


@pytest.mark.parametrize("valid", ["all", "some"])
def test_a_derangement_has_no_fixed_point(valid):
    mask = np.array(VALID[valid])
    for groups in (1, 2):
        partners = draws(KEYS, 12, pairing="derangement", groups=groups, valid=VALID[valid])
        assert (partners != np.arange(12))[:, mask].all()


def test_a_permutation_is_uniform():
    outcomes = map(tuple, draws(12_000, 4).tolist())
    assert_uniform(outcomes, list(itertools.permutations(range(4))))


def test_a_permutation_is_uniform_among_the_valid_rows_of_a_group():
    partners = draws(6_000, 10, groups=2, valid=jnp.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 1], bool))
    outcomes = map(tuple, partners[:, [6, 7, 9]].tolist())
    assert_uniform(outcomes, list(itertools.permutations([6, 7, 9])))


def test_a_derangement_is_uniform_over_the_others():
    partners = draws(8_000, 6, pairing="derangement", valid=jnp.array([1, 0, 1, 1, 1, 1], bool))
    for row in (0, 2, 3, 4, 5):
        assert_uniform(partners[:, row].tolist(), [j for j in (0, 2, 3, 4, 5) if j != row])


def test_groups_draw_independently():
    partners = draws(4_000, 6, groups=2)
    assert_uniform(
        [(tuple(p[:3]), tuple(p[3:] - 3)) for p in partners],
        list(itertools.product(itertools.permutations(range(3)), repeat=2)),
    )


def test_roll_is_a_roll():
    rows = jnp.arange(7)
    np.testing.assert_array_equal(pair(jax.random.key(0), 7, pairing="roll"), jnp.roll(rows, 1))


def test_reverse_reverses():
    assert pair(jax.random.key(0), 5, pairing="reverse").tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("pairing", ["roll", "reverse"])
@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
@pytest.mark.parametrize("groups", [1, 4])
def test_rules_that_draw_nothing_match_a_loop_over_groups(groups, valid, pairing):
    expected = reference.partners(pairing, 12, groups, valid)
    for partner in draws(2, 12, pairing=pairing, groups=groups, valid=valid):
        assert partner.tolist() == expected


@pytest.mark.parametrize("valid", VALID.values(), ids=VALID.keys())
@pytest.mark.parametrize("groups", [1, 4])
def test_mirror_is_reverse_without_a_key(groups, valid):
    expected = reference.partners("reverse", 12, groups, valid)
    assert mirror(12, groups=groups, valid=valid).tolist() == expected


@each_pairing
def test_all_valid_is_no_valid_at_all(pairing):
    options = {"pairing": pairing, "groups": 2}
    np.testing.assert_array_equal(
        draws(KEYS, 12, valid=np.ones(12, bool), **options), draws(KEYS, 12, **options)
    )


def test_one_key_shuffles_alike_for_every_rule():
    """The cycle of a derangement runs through the rows in the order of the permutation."""
    orders, cycles = draws(KEYS, 12), draws(KEYS, 12, pairing="derangement")
    for order, cycle in zip(orders, cycles, strict=True):
        np.testing.assert_array_equal(cycle[order], np.roll(order, -1))


@pytest.mark.parametrize("pairing", ["permutation", "derangement"])
def test_keys_make_the_difference_and_nothing_else_does(pairing):
    first, again = (draws(KEYS, 12, seed=3, pairing=pairing) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len({tuple(partner) for partner in first.tolist()}) == KEYS


@each_pairing
@pytest.mark.parametrize("batch_size", [1, 2])
def test_small_batches(batch_size, pairing):
    partner = pair(jax.random.key(1), batch_size, pairing=pairing)
    assert sorted(partner.tolist()) == list(range(batch_size))
    if pairing != "permutation" and batch_size == 2:
        assert partner.tolist() == [1, 0]


def test_jit_agrees_with_eager():
    options = {"groups": 2, "valid": jnp.array(VALID["some"])}
    key = jax.random.split(jax.random.key(5), 1)[0]
    np.testing.assert_array_equal(draws(1, 12, seed=5, **options)[0], pair(key, 12, **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "shuffle"}, "pairing must be one of permutation.*'shuffle'"),
        ({"groups": 0}, "groups must be.*0"),
        ({"groups": 2.0}, "groups must be.*2.0"),
        ({"groups": 4}, "groups=4 must divide.*6"),
        ({"valid": jnp.ones(5, bool)}, r"valid must have shape \(6,\).*\(5,\)"),
        ({"valid": jnp.ones((6, 1), bool)}, r"valid must have shape \(6,\).*\(6, 1\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pair(jax.random.key(0), 6, **options)


def test_mirror_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="groups=4 must divide"):
        mirror(6, groups=4)
    with pytest.raises(ValueError, match="valid must have shape"):
        mirror(6, valid=jnp.ones(5, bool))


@pytest.mark.parametrize("pairing", [*PAIRINGS, near_label()])
def test_check_pairing_accepts_every_rule(pairing):
    pairing_lib.check_pairing(pairing, 3)


# --- partners chosen by what they are ---------------------------------------------------------

# Class 3 and subpopulation 2 have one row each, so that every rule has rows without a partner.
LABEL = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 0, 1])
GROUP = np.array([0, 0, 1, 1, 0, 1, 1, 0, 0, 2, 1, 0])


def eligible(pairing, i, groups=1, valid=None):
    """The rows that may be the partner of row i, by a loop."""
    size, valid = len(LABEL) // groups, np.ones(12, bool) if valid is None else np.array(valid)
    rows = []
    for j in range(12):
        fits = {
            "same_class": LABEL[i] == LABEL[j],
            "other_class": LABEL[i] != LABEL[j],
            "same_class_other_group": LABEL[i] == LABEL[j] and GROUP[i] != GROUP[j],
            "other_class_same_group": LABEL[i] != LABEL[j] and GROUP[i] == GROUP[j],
        }[pairing]
        if fits and i != j and i // size == j // size and valid[i] and valid[j]:
            rows.append(j)
    return rows or [i]


def selected(count, pairing, groups=1, valid=None, label=LABEL, group=GROUP, seed=0):
    """The partners under `count` keys, as draws does it for the rules that look at nothing."""
    valid = np.ones(len(label), bool) if valid is None else np.array(valid)
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(selector(pairing, groups)(keys, valid, label, group))


@functools.cache
def selector(pairing, groups):
    """One compilation for all the validities of a rule."""

    def draw(key, valid, label, group):
        options = {"valid": valid, "label": label, "group": group}
        return pair(key, len(label), pairing=pairing, groups=groups, **options)

    return jax.jit(jax.vmap(draw, in_axes=(0, None, None, None)))


@pytest.mark.parametrize(("groups", "valid"), [(1, "all"), (2, "some")])
@each_selection
def test_selections_are_uniform_over_the_rows_that_are_eligible(pairing, groups, valid):
    """And nothing else is ever drawn: no invalid row, no row of another group of the batch."""
    partners = selected(20_000, pairing, groups, VALID[valid])
    assert partners.dtype == np.int32
    for row in range(12):
        possible = eligible(pairing, row, groups, VALID[valid])
        if len(possible) == 1:
            assert (partners[:, row] == possible[0]).all()
        else:
            assert_uniform(partners[:, row].tolist(), possible)


@pytest.mark.parametrize("valid", ["few", "one", "no"])
@each_selection
def test_rows_without_a_partner_are_left_alone(pairing, valid):
    partners = selected(20_000, pairing, 2, VALID[valid])
    for row in range(12):
        assert set(partners[:, row]) == set(eligible(pairing, row, 2, VALID[valid]))


def test_rows_draw_independently():
    partners = selected(20_000, "same_class", label=np.zeros(4, int), group=None)
    assert_uniform(
        [tuple(pair) for pair in partners[:, :2].tolist()],
        list(itertools.product([1, 2, 3], [0, 2, 3])),
    )


def test_soft_labels_have_the_class_of_their_largest_share():
    soft = 0.6 * np.eye(4)[LABEL] + 0.1
    hard = selected(20_000, "same_class")
    np.testing.assert_array_equal(selected(20_000, "same_class", label=soft), hard)


def law(label, bandwidth, allowed=None):
    """The probabilities of C-Mixup without the row itself, row by row."""
    label = np.float64(label).reshape(len(label), -1)
    rows = []
    for i, own in enumerate(label):
        odds = [np.exp(-np.square(own - other).sum() / (2 * bandwidth**2)) for other in label]
        odds[i] = 0
        odds = np.array(odds) * (1 if allowed is None else allowed)
        rows.append(odds / odds.sum())
    return np.stack(rows)


@pytest.mark.parametrize("dimensions", [1, 2])
def test_near_labels_are_drawn_by_their_kernel(dimensions):
    label = np.random.default_rng(1).normal(size=(6, dimensions)).astype(np.float32)
    label = label[:, 0] if dimensions == 1 else label
    valid = np.array([1, 1, 1, 0, 1, 1], bool)
    partners = selected(20_000, near_label(bandwidth=0.8), valid=valid, label=label, group=None)
    expected = law(label, 0.8, valid)
    for row in np.flatnonzero(valid):
        counts = np.bincount(partners[:, row], minlength=6)
        possible = expected[row] > 0
        assert counts[~possible].sum() == 0
        assert stats.chisquare(counts[possible], 20_000 * expected[row, possible]).pvalue > 1e-5
    assert (partners[:, 3] == 3).all()


def test_a_narrow_kernel_draws_the_nearest_and_a_wide_one_all_alike():
    label = np.array([3, 0, 9, 4])
    narrow = selected(200, near_label(bandwidth=0.01), label=label, group=None)
    # So far apart that every other kernel is 0 in float32, but never their logarithm.
    assert (narrow == [3, 0, 3, 0]).all()
    wide = selected(20_000, near_label(bandwidth=1e4), label=label, group=None)
    assert_uniform(wide[:, 0].tolist(), [1, 2, 3])


def test_a_kernel_is_handed_the_rows_of_a_group():
    """And what it forbids is not drawn, though the row be left alone."""

    def larger_label_of_the_subpopulation(rows):
        assert rows["label"].shape == rows["group"].shape == (6,)
        fits = rows["group"][:, None] == rows["group"][None]
        fits &= rows["label"][:, None] < rows["label"][None]
        return jnp.where(fits, 0.0, -jnp.inf)

    partners = selected(200, larger_label_of_the_subpopulation, groups=2)
    for row in range(12):
        possible = [
            j
            for j in range(12)
            if row // 6 == j // 6 and GROUP[row] == GROUP[j] and LABEL[row] < LABEL[j]
        ]
        assert set(partners[:, row]) == set(possible or [row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairing": "same_class"}, "pairing='same_class' looks at 'label', which is not in"),
        ({"pairing": near_label()}, "looks at 'label', which is not in the batch"),
        (
            {"pairing": "other_class_same_group", "label": LABEL[:6]},
            "pairing='other_class_same_group' looks at 'group'",
        ),
        ({"pairing": "same_class", "label": LABEL}, r"label must have shape \(6,\).*\(12,\)"),
        (
            {"pairing": "same_class", "label": LABEL[:6], "group": GROUP[:6, None]},
            r"group must have shape \(6,\); found \(6, 1\)",
        ),
        (
            {"pairing": lambda rows: rows["label"], "label": LABEL[:6], "groups": 2},
            r"must return \[n, n\] for n rows, \(3, 3\); found \(3,\)",
        ),
    ],
)
def test_rules_without_what_they_look_at_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pair(jax.random.key(0), 6, **options)


@pytest.mark.parametrize("bandwidth", [0, -1.0, float("inf"), float("nan")])
def test_bandwidths_out_of_range_are_refused(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be finite and above 0; found"):
        near_label(bandwidth=bandwidth)


def test_a_policy_hands_on_what_the_rule_looks_at():
    pairing = "same_class_other_group"
    batch = {"image": jnp.zeros((12, 3)), "label": jnp.asarray(LABEL), "group": jnp.asarray(GROUP)}
    partner = policies.mixup(pairing=pairing)(jax.random.key(0), batch).partner.tolist()
    assert all(j in eligible(pairing, i) for i, j in enumerate(partner))
