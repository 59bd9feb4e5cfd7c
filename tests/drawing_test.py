"""The mix of the rows at hand: of a batch, of a shard, or handed in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import semjax
from semjax.drawing import draw_mix, mix_of, streams

BATCH = {
    "image": jnp.arange(16.0).reshape(16, 1, 1, 1) * jnp.ones((1, 4, 6, 1)),
    "label": jnp.arange(16),
    "valid": jnp.arange(16) % 5 != 3,
}


@pytest.mark.parametrize("policy", [semjax.mixup, semjax.cutmix])
@pytest.mark.parametrize("scope", ["batch", "pair", "sample"])
def test_the_shards_of_a_mix_put_together_are_the_global_mix(policy, scope: str):
    policy = policy(groups=4, weight_scope=scope, probability=0.7)
    whole = policy(jax.random.key(0), BATCH)
    shards = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), BATCH)

    def draw(shard):
        return mix_of(jax.random.key(0), policy, shard, "rows", None)

    parts = jax.vmap(draw, axis_name="rows")(shards)
    assert parts.groups == 1
    partner = parts.partner + 4 * jnp.arange(4)[:, None]
    np.testing.assert_array_equal(partner.reshape(16), whole.partner)
    np.testing.assert_array_equal(parts.weight.reshape(16), whole.weight)
    if whole.mask is not None:
        np.testing.assert_array_equal(parts.mask.reshape(whole.mask.shape), whole.mask)


def test_partners_that_would_leave_their_shard_are_refused():
    shards = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), BATCH)
    policy = semjax.mixup(groups=2)
    with pytest.raises(ValueError, match="multiple of the 4 shards; found groups=2"):
        jax.vmap(
            lambda shard: mix_of(jax.random.key(0), policy, shard, "rows", None), axis_name="rows"
        )(shards)


def test_draw_mix_is_the_draw_of_the_loss():
    seen = []

    def apply_fn(params, images, rng):
        seen.append(images)
        return semjax.Outputs(logits=images.mean((1, 2)) * jnp.ones((1, 16)))

    batch = {name: BATCH[name] for name in ("image", "label")}
    policy = semjax.cutmix()
    semjax.make_sem_loss(apply_fn, policy=policy, sem_weight=0)({}, batch, jax.random.key(3))
    mix = draw_mix(policy, batch, jax.random.key(3))
    np.testing.assert_array_equal(seen[0], semjax.interpolate_spatial(mix, batch["image"]))


def test_no_policy_leaves_every_row_as_it_is():
    mix = mix_of(jax.random.key(0), None, BATCH, None, None)
    np.testing.assert_array_equal(mix.partner, np.arange(16))
    np.testing.assert_array_equal(mix.weight, np.ones(16))


def test_a_mix_handed_in_is_taken_as_it_is_and_checked():
    given = semjax.Mix(jnp.roll(jnp.arange(16), 3), jnp.full(16, 0.25))
    taken = mix_of(jax.random.key(0), semjax.mixup(), {**BATCH, "mix": given}, None, None)
    assert taken is given
    with pytest.raises(TypeError, match=r"must be a semjax\.Mix; found None"):
        mix_of(jax.random.key(0), semjax.mixup(), {**BATCH, "mix": None}, None, None)
    with pytest.raises(ValueError, match="mixes nothing"):
        mix_of(jax.random.key(0), None, {**BATCH, "mix": given}, None, None)
    short = semjax.Mix(jnp.arange(4), jnp.ones(4))
    with pytest.raises(ValueError, match="for a batch of 16 rows"):
        mix_of(jax.random.key(0), semjax.mixup(), {**BATCH, "mix": short}, None, None)


def test_every_use_has_a_stream_of_its_own():
    keys = streams(jax.random.key(0))
    assert keys._fields == ("mix", "mixed", "clean", "probe", "views")
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}) == 5


def test_a_policy_on_shards_sees_the_labels_groups_and_the_step_of_the_global_batch():
    """And the shape of its images, but none of its pixels."""
    seen = {}

    def policy(key, batch, probe=None):
        seen.update(batch)
        partner = jnp.arange(16, dtype=jnp.int32)
        weight = batch["label"] + 100.0 * batch["group"] + 1000.0 * batch["step"]
        return semjax.Mix(partner, weight, groups=4)

    shards = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), BATCH)
    shards |= {"group": jnp.arange(16).reshape(4, 4) % 3}

    def draw(shard):
        batch = {**shard, "step": jnp.int32(7), "sample_weight": jnp.ones(4)}
        return mix_of(jax.random.key(0), policy, batch, "rows", None)

    weight = jax.vmap(draw, axis_name="rows")(shards).weight.reshape(16)
    np.testing.assert_array_equal(weight, np.arange(16) + 100 * (np.arange(16) % 3) + 7000)
    assert set(seen) == {"image", "label", "valid", "group", "step"}
    assert isinstance(seen["image"], jax.ShapeDtypeStruct)
    assert seen["image"].shape == (16, 4, 6, 1)


def test_a_policy_that_looks_at_the_model_is_handed_it():
    def apply_fn(params, images, rng):
        return semjax.Outputs(logits=images.sum(-1).reshape(16, -1)[:, :16] * params)

    def policy(key, batch, probe=None):
        weight = probe.saliency().mean((1, 2))
        return semjax.Mix(jnp.arange(16, dtype=jnp.int32), weight)

    draws = [
        draw_mix(policy, BATCH, jax.random.key(0), apply_fn=apply_fn, params=jnp.float32(scale))
        for scale in (0.0, 0.1)
    ]
    assert (draws[0].weight == 0).all()
    assert (np.asarray(draws[1].weight)[BATCH["valid"]] > 0).all()


def test_a_policy_that_looks_at_no_model_is_handed_none():
    def policy(key, batch, probe=None):
        assert probe is None
        return semjax.Mix(jnp.arange(16, dtype=jnp.int32), jnp.ones(16))

    draw_mix(policy, BATCH, jax.random.key(0))
