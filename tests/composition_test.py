"""Policies made of policies: how often each is drawn, and what a step switches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import semjax
from semjax import Mix, Outputs, make_sem_loss
from semjax.mixing import Noise, mix_inputs

ROWS = 4
BATCH = {"image": jax.ShapeDtypeStruct((ROWS, 4, 6, 1), jnp.float32)}
KEYS = jax.random.split(jax.random.key(17), 20_000)
MARK = {"a": 0.25, "b": 0.5, "c": 0.75}


def marked(name, **fields):
    """A policy that draws nothing; its weight tells that it was the one chosen."""

    def policy(key, batch, probe=None):
        partner = jnp.roll(jnp.arange(ROWS, dtype=jnp.int32), 1)
        return Mix(partner, jnp.full(ROWS, MARK[name], jnp.float32), **fields)

    return policy


def many(policy, batch=BATCH):
    """The mixes of all keys, with NumPy leaves [keys, rows, ...]."""
    mixes = jax.jit(jax.vmap(lambda key: policy(key, batch)))(jax.random.clone(KEYS))
    return jax.tree.map(np.asarray, mixes)


def assert_frequencies(weight, shares):
    """A chi-square test that a fair draw fails once in a hundred thousand seeds."""
    counts = [(weight == mark).sum() for mark in shares]
    assert sum(counts) == len(weight)
    expected = np.array(list(shares.values())) * len(weight)
    assert stats.chisquare(counts, expected).pvalue > 1e-5


# --- choose -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["batch", "sample"])
def test_policies_are_chosen_by_their_probability_and_what_is_missing_leaves_rows_unmixed(scope):
    policy = semjax.choose({marked("a"): 0.2, marked("b"): 0.35, marked("c"): 0.05}, scope=scope)
    weight = many(policy).weight
    shares = {0.25: 0.2, 0.5: 0.35, 0.75: 0.05, 1.0: 0.4}
    for row in range(ROWS):
        assert_frequencies(weight[:, row], shares)
    if scope == "batch":
        np.testing.assert_array_equal(weight, weight[:, :1] * np.ones((1, ROWS)))
    else:
        both = ((weight[:, 0] == 0.5) & (weight[:, 1] == 0.5)).mean()
        assert abs(both - 0.35**2) < 4 * np.sqrt(0.35**2 / len(weight))


def test_probabilities_of_1_always_mix_and_of_0_never_do():
    weight = many(semjax.choose({marked("a"): 0.3, marked("b"): 0.7, marked("c"): 0})).weight
    assert_frequencies(weight[:, 0], {0.25: 0.3, 0.5: 0.7})
    weight = many(semjax.choose({marked("a"): 0})).weight
    assert (weight == 1).all()


def test_probabilities_may_be_sums_of_floats():
    tenths = [marked("a") for _ in range(10)]
    policy = semjax.choose(dict.fromkeys(tenths, 0.1))
    assert (policy(jax.random.key(0), BATCH).weight == 0.25).all()


def test_what_a_policy_draws_does_not_depend_on_the_others():
    first = semjax.mixup(weight_scope="sample")
    mixes = [
        semjax.choose({first: 1.0, other: 0.0})(jax.random.key(4), BATCH)
        for other in (marked("a"), semjax.mixup(alpha=0))
    ]
    jax.tree.map(np.testing.assert_array_equal, *mixes)


def box(key, batch, probe=None):
    """Every field a mix can have, on 4 x 6 pixels."""
    mask = jnp.zeros((ROWS, 4, 6, 1)).at[:, :, :3].set(1.0)
    swap = jnp.array([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 1, 2, 1, 2).repeat(ROWS, 0)
    return dataclasses.replace(
        marked("b")(key, batch),
        mask=mask,
        zoom=jnp.array([[0.0, 0.5, 1.0, 0.5]] * ROWS),
        transport=swap,
        own_transport=swap,
        noise=Noise(jnp.arange(ROWS, dtype=jnp.uint32), jnp.ones(ROWS), jnp.ones(ROWS)),
    )


def test_rows_left_unmixed_keep_the_groups_of_the_others():
    policy = semjax.choose({semjax.mixup(groups=2): 0.5})
    mix = jax.eval_shape(lambda key: policy(key, BATCH), jax.random.key(0))
    assert mix.groups == 2


def test_fields_at_rest_are_exactly_neutral():
    policy = semjax.choose({marked("a"): 0.4, box: 0.3}, scope="sample")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(ROWS, 4, 6, 2)), jnp.float32)
    alone = {
        weight: jax.jit(lambda key, policy=policy: mix_inputs(policy(key, BATCH), x))(key)
        for weight, policy, key in zip(
            (0.25, 0.5), (marked("a"), box), jax.random.split(jax.random.key(9)), strict=True
        )
    }
    draw = jax.jit(jax.vmap(lambda key: policy(key, BATCH)))
    apply = jax.jit(jax.vmap(lambda mix: mix_inputs(mix, x)))
    mixes = draw(jax.random.split(jax.random.key(0), 5))
    for found, weights in zip(apply(mixes), mixes.weight.tolist(), strict=True):
        for row, weight in enumerate(weights):
            expected = {**alone, 1.0: x}[weight][row]
            # Two programs may round the last bit of a row that is mixed in two ways.
            atol = 0 if weight == 1 else 1e-6
            np.testing.assert_allclose(found[row], expected, rtol=0, atol=atol)
    assert set(np.unique(mixes.weight)) == {0.25, 0.5, 1.0}


def test_single_samples_may_not_be_mixed_at_different_layers():
    """At layer 1 a partner that is mixed at the input would be mixed already."""
    hidden = semjax.at_layers(marked("a"), layers=[1])
    policy = semjax.choose({hidden: 0.5, marked("b"): 0.5}, scope="sample")
    with pytest.raises(ValueError, match=r"one and the same layer.*found the layers \[0, 1\]"):
        policy(jax.random.key(0), BATCH)
    alone = semjax.choose({hidden: 0.5}, scope="sample")(jax.random.key(0), BATCH)
    np.testing.assert_array_equal(alone.layer == 1, alone.weight < 1)
    whole = semjax.choose({hidden: 0.5, marked("b"): 0.5})(jax.random.key(0), BATCH)
    assert whole.layers == (0, 1)


def tiny(params, images, rng):
    features = jnp.tanh(images @ params)
    return Outputs(logits=features.mean((1, 2)), representation=features)


REAL = {
    "image": np.random.default_rng(3).normal(size=(ROWS, 4, 6, 1)).astype(np.float32),
    "label": np.array([0, 1, 0, 1]),
}
WEIGHTS = np.random.default_rng(4).normal(size=(1, 2)).astype(np.float32)


def looks(key, batch, probe=None):
    """A policy that asks the model twice: its weight is what the model answers."""
    saliency, again = probe.saliency(), probe.saliency()
    features = probe.features()
    weight = (saliency + again).mean((1, 2)) + 0.01 * jnp.abs(features).mean((1, 2, 3))
    return dataclasses.replace(marked("a")(key, batch), weight=weight)


def looks_too(key, batch, probe=None):
    return dataclasses.replace(looks(key, batch, probe), groups=2)


def test_the_branches_of_an_accelerator_draw_what_the_cpu_draws(monkeypatch):
    """The compiled switch, with fields of one branch only and with policies that ask the model."""
    policy = semjax.choose({semjax.mixup(): 0.3, box: 0.2, looks: 0.2, looks_too: 0.2})

    def draw(key):
        return semjax.draw_mix(policy, REAL, key, apply_fn=tiny, params=WEIGHTS)

    keys = jax.random.split(jax.random.key(0), 24)
    cpu = jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.clone(keys))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jaxpr = str(jax.make_jaxpr(draw)(jax.random.key(0)))
    assert "cond[" in jaxpr
    gpu = jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.clone(keys))
    assert jax.tree.structure(cpu) == jax.tree.structure(gpu)
    for found, expected in zip(jax.tree.leaves(gpu), jax.tree.leaves(cpu), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    # All five places came up: two masks, one weight 1, and what the model answers.
    assert len(np.unique(cpu.weight[:, 0])) > 4


def test_a_loss_that_chooses_has_the_same_value_on_both(monkeypatch):
    policy = semjax.choose({looks: 0.5, box: 0.5})

    def value(key):
        return make_sem_loss(tiny, policy=policy, sem_weight=0)(WEIGHTS, REAL, key)[0]

    keys = jax.random.split(jax.random.key(1), 6)
    cpu = jax.jit(lambda keys: jax.lax.map(value, keys))(jax.random.clone(keys))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    gpu = jax.jit(lambda keys: jax.lax.map(value, keys))(jax.random.clone(keys))
    np.testing.assert_allclose(gpu, cpu, rtol=1e-5)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({}, "at least one policy; found none"),
        ({marked("a"): -0.1}, r"at least 0 and sum to at most 1; found \[-0.1\]"),
        ({marked("a"): 0.6, marked("b"): 0.6}, "with a sum of 1.2"),
        ({marked("a"): float("nan")}, r"found \[nan\]"),
    ],
)
def test_probabilities_out_of_range_are_refused(policies, message):
    with pytest.raises(ValueError, match=message):
        semjax.choose(policies)


def test_an_unknown_scope_is_refused():
    with pytest.raises(ValueError, match="scope must be one of batch, sample; found 'pair'"):
        semjax.choose({marked("a"): 1}, scope="pair")


def test_masks_on_different_grids_are_refused():
    policy = semjax.choose({box: 0.5, marked("a", mask=jnp.ones((ROWS, 2, 2, 1))): 0.5})
    with pytest.raises(ValueError, match="mask must have it on one grid"):
        policy(jax.random.key(0), BATCH)


# --- scheduled --------------------------------------------------------------------------------


def weights_at_steps(policy, steps=6):
    """One compiled step, handed one step after the other."""
    draw = jax.jit(lambda step: policy(jax.random.key(0), {**BATCH, "step": step}).weight[0])
    return [float(draw(jnp.int32(step))) for step in range(steps)]


def test_a_policy_is_on_between_its_steps():
    on, off = 0.25, 1.0
    policy = marked("a")
    assert weights_at_steps(semjax.scheduled(policy, on=(2, 4))) == [off, off, on, on, off, off]
    assert weights_at_steps(semjax.scheduled(policy, on=(3, None))) == [off] * 3 + [on] * 3
    assert weights_at_steps(semjax.scheduled(policy, on=(2, 2))) == [off] * 6
    even = semjax.scheduled(policy, on=lambda step: step % 2 == 0)
    assert weights_at_steps(even) == [on, off] * 3


def test_a_ramp_is_the_probability_of_the_batch_to_be_mixed():
    policy = semjax.scheduled(marked("a"), ramp=lambda step: step / 4)
    assert weights_at_steps(policy, 1) == [1.0]
    batch = {**BATCH, "step": jnp.int32(1)}
    weight = many(policy, batch).weight
    assert_frequencies(weight[:, 0], {0.25: 0.25, 1.0: 0.75})
    np.testing.assert_array_equal(weight, weight[:, :1] * np.ones((1, ROWS)))
    assert (many(policy, {**BATCH, "step": jnp.int32(4)}).weight == 0.25).all()


def test_on_and_ramp_must_both_agree():
    policy = semjax.scheduled(marked("a"), on=(2, 4), ramp=lambda step: 1.0)
    assert weights_at_steps(policy) == [1, 1, 0.25, 0.25, 1, 1]


def test_the_schedule_leaves_the_draws_of_mixed_steps_alone():
    """What is drawn while it is on is what would be drawn at every step."""
    policy = semjax.mixup(weight_scope="sample")
    draws = [
        semjax.scheduled(policy, on=on)(jax.random.key(3), {**BATCH, "step": jnp.int32(5)})
        for on in ((0, None), (5, 6))
    ]
    jax.tree.map(np.testing.assert_array_equal, *draws)
    assert (draws[0].weight < 1).all()


def test_a_policy_that_is_off_leaves_no_trace():
    policy = semjax.scheduled(semjax.at_layers(box, layers=[1]), on=(0, 3))

    def mixed(step):
        mix = policy(jax.random.key(0), {**BATCH, "step": step})
        return mix.layer, mix_inputs(mix, REAL["image"])

    layer, x = jax.jit(mixed)(jnp.int32(3))
    assert (layer == 0).all()
    np.testing.assert_array_equal(x, REAL["image"])


def test_the_loss_hands_the_step_to_the_policy():
    policy = semjax.scheduled(marked("a"), on=(1, None))
    loss = jax.jit(make_sem_loss(tiny, policy=policy))
    weights = [
        float(loss(WEIGHTS, {**REAL, "step": jnp.int32(step)}, jax.random.key(0))[1]["weight"])
        for step in range(3)
    ]
    assert weights == [1.0, 0.25, 0.25]


@pytest.mark.parametrize("on", [(4, 2), (-1, 3)])
def test_schedules_out_of_order_are_refused(on):
    with pytest.raises(
        ValueError, match=r"on must be \(first, end\) with 0 <= first <= end; found"
    ):
        semjax.scheduled(marked("a"), on=on)


def test_a_schedule_needs_on_or_ramp_and_the_step():
    with pytest.raises(ValueError, match="needs on or ramp; found neither"):
        semjax.scheduled(marked("a"))
    with pytest.raises(ValueError, match="batch needs 'step' because the policy is scheduled"):
        semjax.scheduled(marked("a"), on=(0, 1))(jax.random.key(0), BATCH)


# --- lisa -------------------------------------------------------------------------------------


def test_lisa_mixes_a_class_across_groups_or_a_group_across_classes():
    label, group = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    batch = {**BATCH, "label": jnp.asarray(label), "group": jnp.asarray(group)}
    policy = semjax.lisa(alpha=1.0, same_class=0.3)
    mixes = many(policy, batch)
    same_class = (mixes.partner == [1, 0, 3, 2]).all(1)
    same_group = (mixes.partner == [2, 3, 0, 1]).all(1)
    assert (same_class ^ same_group).all()
    assert abs(same_class.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(KEYS))
    assert stats.kstest(mixes.weight[:, 1], stats.uniform.cdf).pvalue > 1e-5
    assert (mixes.weight[:, 0] != mixes.weight[:, 1]).mean() > 0.99


def test_lisa_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"same_class must be in \[0, 1\]; found 1.5"):
        semjax.lisa(same_class=1.5)
    with pytest.raises(ValueError, match="alpha must be finite"):
        semjax.lisa(alpha=-1)
    with pytest.raises(ValueError, match="looks at 'group', which is not in the batch"):
        semjax.lisa(alpha=1.0)(jax.random.key(0), {**BATCH, "label": jnp.zeros(ROWS, int)})


# --- weights beyond the batch's own -----------------------------------------------------------


def test_weights_are_stretched_to_their_range():
    low, high = -0.5, 1.5
    policy = semjax.mixup(weight_range=(low, high), weight_scope="sample", probability=0.8)
    weight = many(policy).weight[:, 0]
    mixed = weight[weight != 1]
    assert abs((weight == 1).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(weight))
    assert stats.kstest(mixed, stats.uniform(low, high - low).cdf).pvalue > 1e-5


def test_a_range_of_one_value_is_that_weight_and_alpha_0_is_no_mixing():
    constant = semjax.mixup(weight_range=(0.3, 0.3))(jax.random.key(0), BATCH)
    np.testing.assert_allclose(constant.weight, np.full(ROWS, 0.3), rtol=1e-6)
    still = semjax.mixup(alpha=0, weight_range=(0.2, 0.3))(jax.random.key(0), BATCH)
    assert still.weight.tolist() == [1] * ROWS


@pytest.mark.parametrize("weight_range", [(1, 0), (0, float("inf")), (float("nan"), 1)])
def test_ranges_that_are_none_are_refused(weight_range):
    with pytest.raises(ValueError, match="weight_range must be finite and in order"):
        semjax.mixup(weight_range=weight_range)
