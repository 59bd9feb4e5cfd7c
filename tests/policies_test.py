"""From flags to policies: names, options, switching, and when mixing is on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import semjax
from experiments import models, policies
from experiments.config import Config

BATCH = {
    "image": jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.float32),
    "label": jnp.arange(8) // 2,
    "step": jnp.int32(0),
}
DRAWN_ALONE = sorted(set(policies.POLICIES) - set(policies.LOOKS_AT_MODEL))


def mix_of(seed=0, step=0, **flags):
    policy = policies.build(dataclasses.asdict(Config(**flags)), hidden_layers=3)
    return policy(jax.random.key(seed), {**BATCH, "step": jnp.int32(step)})


def test_none_is_no_policy():
    assert policies.build({"policy": "none"}, 3) is None


@pytest.mark.parametrize("name", DRAWN_ALONE)
def test_every_name_builds_the_policy_of_that_name(name):
    found = mix_of(policy=name, pairing="roll")
    expected = policies.POLICIES[name](pairing="roll")(jax.random.key(0), BATCH)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_common_flags_reach_the_policy():
    mix = mix_of(pairing="reverse", pairing_groups=2, weight_scope="sample", alpha=3.0)
    assert mix.groups == 2
    assert mix.partner.tolist() == [3, 2, 1, 0, 7, 6, 5, 4]
    assert len(set(mix.weight.tolist())) == 8
    one = mix_of(weight_scope="sample")
    assert (mix.weight != one.weight).all()
    assert (mix_of(mix_probability=0.0).weight == 1).all()


def test_alpha_zero_is_the_own_default_of_each_policy():
    own = mix_of(policy="manifold_mixup")
    np.testing.assert_array_equal(own.weight, mix_of(policy="manifold_mixup", alpha=2.0).weight)


def test_correction_is_for_cutmix():
    options = {"policy": "cutmix", "weight_scope": "sample"}
    assert (mix_of(**options).weight != mix_of(**options, correction=False).weight).any()


def test_options_are_of_one_policy():
    plain = mix_of(policy="fmix", weight_scope="sample")
    rough = mix_of(policy="fmix", weight_scope="sample", policy_options="fmix.decay_power=0.5")
    assert (plain.mask != rough.mask).any()
    layers = mix_of(policy="manifold_mixup", policy_options="manifold_mixup.layers=(3,)").layer
    assert layers.tolist() == [3] * 8


def test_every_policy_can_be_mixed_at_hidden_layers_and_with_noise():
    mix = mix_of(policy="cutmix", policy_options="cutmix.layers=(1,2);cutmix.noise=(0.3,0.0)")
    assert mix.layers == (1, 2)
    assert (mix.noise.add > 0).all() and (mix.noise.multiply == 0).all()
    twice = mix_of(policy="noisy_feature_mixup", policy_options="noisy_feature_mixup.add=0.0")
    assert (twice.noise.add == 0).all()


def test_classes_are_paired_by_flag():
    mix = mix_of(pairing="same_class")
    assert mix.partner.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    near = mix_of(pairing="near_label", pairing_bandwidth=0.01)
    assert near.partner.tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


GROUPED = {**BATCH, "label": jnp.arange(8) // 4, "group": jnp.arange(8) // 2 % 2}


def test_lisa_is_built_with_its_own_rules():
    flags = {"policy": "lisa", "pairing_groups": 2, "alpha": 3.0}
    flags["policy_options"] = "lisa.same_class=1.0"
    policy = policies.build(dataclasses.asdict(Config(**flags)), hidden_layers=3)
    expected = semjax.lisa(alpha=3.0, same_class=1.0, groups=2)
    batch = {**GROUPED, "group": jnp.arange(8) % 2}
    found, expected = (policy(jax.random.key(0), batch) for policy in (policy, expected))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_groups_are_paired_by_flag():
    for pairing, same_label in (("same_class_other_group", 1), ("other_class_same_group", 0)):
        policy = policies.build(dataclasses.asdict(Config(pairing=pairing)), hidden_layers=3)
        partner = policy(jax.random.key(0), GROUPED).partner
        for name, same in (("label", same_label), ("group", 1 - same_label)):
            assert ((GROUPED[name][partner] == GROUPED[name]) == bool(same)).all()


@pytest.mark.parametrize(
    ("flags", "asks"),
    [
        ({}, ""),
        ({"policy": "none", "sem_weight": 0.0, "pairing": "same_class_other_group"}, ""),
        ({"policy": "cutmix+lisa"}, "--policy=cutmix+lisa"),
        ({"pairing": "other_class_same_group"}, "--pairing=other_class_same_group"),
        (
            {"policy_options": "mixup.pairing='same_class_other_group'"},
            "--policy_options=mixup.pairing='same_class_other_group'",
        ),
        ({"pairing": "other_class_same_group", "policy_options": "mixup.pairing='roll'"}, ""),
    ],
)
def test_what_looks_at_groups_is_named(flags, asks):
    assert policies.needs_groups(dataclasses.asdict(Config(**flags))) == asks


def test_policies_are_switched_by_probability():
    sure = mix_of(policy="mixup+cutmix", policy_probabilities="0,1")
    assert set(np.unique(sure.mask)) <= {0.0, 1.0}
    assert (mix_of(policy="mixup", policy_probabilities="0").weight == 1).all()
    rows = mix_of(policy="mixup+cutmix", policy_scope="sample", weight_scope="sample", seed=1)
    boxes = [set(np.unique(mask)) <= {0.0, 1.0} for mask in np.asarray(rows.mask)]
    assert 0 < sum(boxes) < 8


@pytest.mark.parametrize(("step", "mixes"), [(0, False), (4, True), (8, True), (9, False)])
def test_mixing_is_on_in_a_window_of_steps(step, mixes):
    mix = mix_of(step=step, mix_from_step=4, mix_until_step=9)
    assert (mix.weight < 1).all() == mixes


def test_the_probability_of_mixing_rises():
    mixed = [
        [(mix_of(seed, step, mix_ramp_steps=8).weight < 1).all() for seed in range(20)]
        for step in (0, 4, 8)
    ]
    none, half, all_ = (sum(row) for row in mixed)
    assert none == 0 and 3 < half < 17 and all_ == 20


def test_alignmix_mixes_at_the_last_layer_and_looks_at_the_model():
    assert policies.looks_at_model("mixup+alignmix")
    assert not policies.looks_at_model("mixup+cutmix")
    assert not policies.looks_at_model("none")
    with pytest.raises(ValueError, match="alignmix looks at the model"):
        mix_of(policy="alignmix")


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"policy": "manifold_mixup"},
        {"policy_options": "mixup.layers=(2,)"},
        {"policy_options": "mixup.layers=(2,)", "policy_probabilities": "0.5"},
        {"policy_options": "mixup.layers=(2,)", "mix_from_step": 1},
        {"policy_options": "mixup.layers=(2,)", "mix_ramp_steps": 1},
        {"policy": "mixup+cutmix", "policy_options": "mixup.layers=(2,);cutmix.layers=(3,1)"},
        {"policy": "mixup+cutmix", "policy_options": "mixup.layers=(2,)"},
    ],
    ids=str,
)
def test_the_layers_named_are_those_of_the_mixes_drawn(flags):
    given = dataclasses.asdict(Config(**flags))
    drawn = jax.eval_shape(policies.build(given, 3), jax.random.key(0), BATCH)
    assert policies.mixed_layers(given, 3) == tuple(sorted(drawn.layers or (0,)))


def test_the_layers_of_other_policies_are_named():
    assert policies.mixed_layers(dataclasses.asdict(Config(policy="alignmix")), 3) == (3,)
    none = Config(policy="none", sem_weight=0, mix_from_step=1)
    assert policies.mixed_layers(dataclasses.asdict(none), 3) == ()


@pytest.mark.parametrize(
    "name", ["resnet18", "preact_resnet18", "resnet20", "wrn_10_1", "cnn", "mlp"]
)
def test_hidden_modules_are_modules_of_the_network(name):
    module = models.create(name, 3)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    assert set(models.hidden_modules(name)) <= set(shapes["params"])
