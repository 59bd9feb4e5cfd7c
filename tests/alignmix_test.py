"""AlignMix: plans against loops and the exact assignment, what is moved, the coin."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saliency_reference as reference
import solver_reference
from policy_draws import assert_same
from scipy import stats

import semjax
from semjax.hidden import MixingHook
from semjax.mixing import interpolate_spatial
from semjax.policies.alignmix import alignment, alignmix

RNG = np.random.default_rng(0)


def maps(seed, *shape):
    return np.float32(np.random.default_rng(seed).standard_normal(shape))


def drawn(policy, features, seed=0):
    """The mix of one key, with NumPy leaves."""
    shape = {"image": jax.ShapeDtypeStruct((len(features), 8, 8, 3), jnp.float32)}
    probe = reference.Answers(features=jnp.asarray(features))
    mix = jax.jit(lambda key: policy(key, shape, probe))(jax.random.key(seed))
    return jax.tree.map(np.asarray, mix)


def square(transport):
    """A transport as a matrix a row."""
    cells = transport.shape[1] * transport.shape[2]
    return np.asarray(transport, np.float64).reshape(-1, cells, cells)


# The uniform law, for it compiles faster than any other.
rolled = functools.partial(alignmix, alpha=1.0, weight_scope="sample", pairing="roll")


def stays(transport):
    matrix = square(transport)
    return (matrix == np.eye(matrix.shape[1])).all((1, 2))


# --- Plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"epsilon": 0.5, "iterations": 2}, {"epsilon": 0.03, "iterations": 60}]
)
def test_the_plan_is_that_of_loops(options):
    """Features have any length, and a cell that is all zero stays so."""
    a, b = (maps(seed, 3, 2, 3, 4) * np.float32(10 ** RNG.uniform(-2, 2)) for seed in (0, 1))
    a[1, 0, 1] = b[1, 1, 2] = b[1, 0, 0] = 0
    plan = alignment(a, b, **options)
    assert (plan.dtype, plan.shape) == (jnp.float32, (3, 2, 3, 2, 3))
    for found, x, y in zip(square(plan), a, b, strict=True):
        np.testing.assert_allclose(found, reference.alignment(x, y, **options), atol=1e-5)


def test_rows_sum_to_one_and_columns_nearly():
    plan = square(alignment(maps(2, 20, 4, 4, 8), maps(3, 20, 4, 4, 8)))
    assert (plan >= 0).all()
    np.testing.assert_allclose(plan.sum(2), 1, atol=1e-6)
    error = np.abs(plan.sum(1) - 1).max()
    assert error < 0.02  # 0.0066


@pytest.mark.parametrize(
    ("epsilon", "mean", "worst"),
    [(0.1, 0.05, 0.08), (0.01, 0.002, 0.005)],  # 0.039 and 0.051; 0.0007 and 0.0019
)
def test_plans_of_small_epsilon_cost_little_more_than_the_best_assignment(epsilon, mean, worst):
    a, b = maps(4, 20, 4, 4, 8), maps(5, 20, 4, 4, 8)
    plans = square(alignment(a, b, epsilon=epsilon, iterations=1000))
    gaps = []
    for plan, x, y in zip(plans, a, b, strict=True):
        cost = reference.alignment_cost(x, y)
        best = -solver_reference.greatest_benefit(-cost)
        gaps.append((plan * cost).sum() / best - 1)
    # Columns that do not quite sum to 1 may even cost less.
    assert np.min(gaps) > -5e-4
    assert np.mean(gaps) < mean
    assert np.max(gaps) < worst


def test_cells_that_were_permuted_are_found_again():
    x = maps(6, 5, 3, 4, 16)
    order = np.stack([np.random.default_rng(i).permutation(12) for i in range(5)])
    shuffled = np.take_along_axis(x.reshape(5, 12, 16), order[:, :, None], 1).reshape(x.shape)
    plan = square(alignment(x, 3 * shuffled, epsilon=0.02))
    # Cell order[k] of x is cell k of the shuffled map.
    np.testing.assert_array_equal(plan.argmax(1), order)
    assert plan.max(2).min() > 0.999


def test_the_plan_is_held_constant():
    x, y = maps(7, 1, 2, 2, 3), maps(8, 1, 2, 2, 3)
    gradient = jax.grad(lambda x: (alignment(x, y) ** 2).sum())(x)
    np.testing.assert_array_equal(gradient, np.zeros_like(x))


# --- The policy --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"epsilon": 0.4, "iterations": 3}])
def test_one_of_both_is_moved_to_where_the_other_is_alike(options):
    features = maps(9, 12, 2, 3, 4)
    mix = drawn(rolled(**options), features)
    kept = stays(mix.own_transport)
    np.testing.assert_array_equal(kept, ~stays(mix.transport))
    assert 0 < kept.sum() < 12
    for i, j in enumerate(mix.partner):
        assert j == (i - 1) % 12
        first, second = (features[i], features[j]) if kept[i] else (features[j], features[i])
        found = square(mix.transport if kept[i] else mix.own_transport)[i]
        np.testing.assert_allclose(found, reference.alignment(first, second, **options), atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_hidden_layer_is_the_weighted_sum_of_row_and_moved_partner(scale):
    """On the map itself, and on one of another width; whichever of both moves."""
    features = maps(10, 12, 2, 3, 4)
    mix = drawn(rolled(layer=2), features)
    x = maps(11, 12, 2 * scale, 3 * scale, 5)
    hook = MixingHook(mix, 12)
    np.testing.assert_array_equal(hook(1, x), x)
    mixed = np.asarray(hook(2, x))

    def moved(transport, each):
        matrix = square(transport[None])[0]
        blocks = each.reshape(2, scale, 3, scale, 5).swapaxes(1, 2).reshape(6, -1)
        return (matrix @ blocks).reshape(2, 3, scale, scale, 5).swapaxes(1, 2).reshape(each.shape)

    for i, j in enumerate(mix.partner):
        own, other = moved(mix.own_transport[i], x[i]), moved(mix.transport[i], x[j])
        expected = mix.weight[i] * own + (1 - mix.weight[i]) * other
        np.testing.assert_allclose(mixed[i], expected, atol=1e-5)
    assert mix.mask is None
    assert mix.layers == (2,)
    np.testing.assert_array_equal(mix.layer, np.full(12, 2))


def test_the_coin_is_fair_and_of_each_row():
    rows = 4000
    mix = drawn(alignmix(alpha=1.0, pairing="roll", iterations=2), maps(12, rows, 1, 2, 3))
    own, partner = ~stays(mix.own_transport), ~stays(mix.transport)
    assert not (own & partner).any()
    assert (own | partner).all()
    assert abs(own.mean() - 0.5) < 4 * np.sqrt(0.25 / rows)
    both = own[:-1] & own[1:]
    assert abs(both.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / rows)
    assert len(np.unique(mix.weight)) == 1


def test_the_weight_is_drawn_from_the_beta_law():
    features = np.ones((4000, 1, 1, 1), np.float32)
    for options, alpha in (({}, 2.0), ({"alpha": 1.0}, 1.0)):
        mix = drawn(alignmix(weight_scope="sample", iterations=1, **options), features)
        assert mix.weight.dtype == np.float32
        assert stats.kstest(mix.weight, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_rows_that_are_not_mixed_do_not_move():
    features = maps(13, 12, 2, 2, 3)
    always = drawn(rolled(groups=2), features)
    mix = drawn(rolled(groups=2, probability=0.5), features)
    assert mix.groups == 2
    assert mix.partner.tolist() == [5, 0, 1, 2, 3, 4, 11, 6, 7, 8, 9, 10]
    alone = mix.weight == 1
    assert 0 < alone.sum() < 12
    assert stays(mix.transport)[alone].all()
    assert stays(mix.own_transport)[alone].all()
    for field in ("weight", "transport", "own_transport"):
        found, expected = getattr(mix, field), getattr(always, field)
        np.testing.assert_allclose(found[~alone], expected[~alone], rtol=0, atol=1e-6)


def test_alpha_zero_mixes_and_moves_nothing():
    mix = drawn(alignmix(alpha=0, pairing="roll"), maps(14, 6, 2, 2, 3))
    np.testing.assert_array_equal(mix.weight, np.ones(6))
    assert stays(mix.own_transport).all()
    assert stays(mix.transport).all()


def test_a_row_that_is_its_own_partner_is_left_as_it_is():
    x = maps(15, 1, 2, 2, 3)
    for seed in range(2):
        mix = drawn(alignmix(alpha=1.0), x, seed)
        assert mix.weight < 1
        np.testing.assert_allclose(interpolate_spatial(mix, x), x, rtol=1e-6)


# --- In the loss -------------------------------------------------------------------------------


def apply_fn(params, images, rng, hidden):
    features = jnp.tanh(images @ params["filter"])
    features = hidden(1, features.reshape(-1, 2, 2, 3, 2, 4).mean((2, 4)))
    return semjax.Outputs(
        logits=jnp.tanh(features.mean((1, 2))) @ params["head"],
        representation=jnp.tanh(features),
        feature_map=features,
    )


def test_the_gradient_of_the_loss_is_finite_and_that_of_a_constant_plan():
    params = {"filter": maps(16, 3, 4), "head": maps(17, 4, 5)}
    batch = {"image": jnp.asarray(maps(18, 6, 4, 6, 3)), "label": jnp.arange(6) % 5}
    policy = rolled()
    step = jax.jit(jax.grad(semjax.make_sem_loss(apply_fn, policy=policy), has_aux=True))
    inside, aux = step(params, batch, jax.random.key(0))
    mix = semjax.draw_mix(policy, batch, jax.random.key(0), apply_fn=apply_fn, params=params)
    handed, _ = step(params, {**batch, "mix": mix}, jax.random.key(0))
    assert float(aux["gap"]) > 0
    for found, expected in zip(jax.tree.leaves(inside), jax.tree.leaves(handed), strict=True):
        assert np.isfinite(found).all()
        assert np.abs(found).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_layer_that_the_model_does_not_offer_is_told():
    params = {"filter": maps(16, 3, 4), "head": maps(17, 4, 5)}
    batch = {"image": jnp.asarray(maps(18, 6, 4, 6, 3)), "label": jnp.arange(6) % 5}
    loss = semjax.make_sem_loss(apply_fn, policy=alignmix(layer=2))
    with pytest.raises(ValueError, match=r"hidden layers \[2\].*offered \[1\]"):
        loss(params, batch, jax.random.key(0))


# --- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 0}, "layer must be an integer of at least 1; found 0"),
        ({"layer": 1.0}, "layer must be.*1.0"),
        ({"epsilon": 0.0}, "epsilon must be finite and above 0; found 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be.*nan"),
        ({"iterations": 0}, "iterations must be an integer of at least 1; found 0"),
        ({"alpha": -1.0}, "alpha must be.*-1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        alignmix(**options)


def test_the_defaults_are_those_of_the_paper():
    features = maps(19, 4, 2, 2, 3)
    paper = alignmix(alpha=2.0, layer=1, epsilon=0.1, iterations=100)
    assert_same(drawn(alignmix(), features), drawn(paper, features))
