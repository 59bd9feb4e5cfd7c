"""What a policy may ask of the model: answers against closed forms, how often the model is run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saliency_reference as reference
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import semjax
from semjax.probing import ModelProbe, asked

RNG = np.random.default_rng(0)
SIZE = (4, 6, 3)
PARAMS = {
    "kernel": np.float32(RNG.standard_normal((np.prod(SIZE), 5))),
    "filter": np.float32(RNG.standard_normal((3, 2))),
}
POLICIES = {
    "saliencymix": semjax.saliencymix,
    "attentive_cutmix": semjax.attentive_cutmix,
    "puzzlemix": lambda **options: semjax.puzzlemix(block_counts=[2], **options),
    "alignmix": semjax.alignmix,
}
each_policy = pytest.mark.parametrize("name", POLICIES)


def batch_of(rows, valid=None):
    random = np.random.default_rng(rows)
    batch = {
        "image": jnp.float32(random.uniform(size=(rows, *SIZE))),
        "label": jnp.int32(random.integers(0, 5, rows)),
    }
    return batch if valid is None else {**batch, "valid": jnp.asarray(valid)}


def linear(params, images, rng):
    """Logits linear in the pixels, and a feature map of the image's grid."""
    return semjax.Outputs(
        logits=images.reshape(len(images), -1) @ params["kernel"],
        representation=images @ params["filter"],
    )


def deep(params, images, rng, hidden):
    """A model with a hidden layer that is a feature map of half the grid, and batch statistics."""
    images = images - images.mean((0, 1, 2), keepdims=True)
    features = jnp.tanh(images @ params["filter"])
    features = hidden(1, features.reshape(-1, 2, 2, 3, 2, 2).mean((2, 4)))
    logits = jnp.tanh(features.reshape(len(images), -1)) @ params["kernel"][:12]
    return semjax.Outputs(logits=logits, representation=features)


def counted(apply_fn):
    """An apply function and the list of what it was fed."""
    fed = []

    def counting(params, images, rng):
        fed.append(images)
        return apply_fn(params, images, rng)

    return counting, fed


def probe_of(apply_fn=linear, batch=None, params=PARAMS, **options):
    return ModelProbe(apply_fn, params, batch or batch_of(4), jax.random.key(0), **options)


# --- Answers -----------------------------------------------------------------------------------


def test_saliency_is_the_norm_over_channels_of_the_gradient():
    batch = batch_of(4)
    saliency = probe_of(batch=batch).saliency()
    assert (saliency.dtype, saliency.shape) == (jnp.float32, (4, 4, 6))
    expected = reference.linear_saliency(PARAMS["kernel"], batch["image"], batch["label"])
    np.testing.assert_allclose(saliency, expected, rtol=1e-4, atol=1e-6)


def test_saliency_is_of_the_label_loss_that_was_given():
    saliency = probe_of(label_loss=lambda logits, label: 3 * logits[:, 1]).saliency()
    gradient = 3 * PARAMS["kernel"][:, 1].reshape(SIZE)
    expected = np.sqrt((gradient.astype(np.float64) ** 2).mean(-1))
    np.testing.assert_allclose(saliency, np.broadcast_to(expected, (4, 4, 6)), rtol=1e-5)


def test_features_are_the_feature_map_or_else_a_representation_of_rank_4():
    batch = batch_of(4)
    own = np.asarray(batch["image"]) @ PARAMS["filter"]
    np.testing.assert_allclose(probe_of(batch=batch).features(), own, rtol=1e-5)

    def with_map(params, images, rng):
        return dataclasses.replace(
            linear(params, images, rng), feature_map=jnp.bfloat16(images[:, ::2])
        )

    features = probe_of(with_map, batch).features()
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, batch["image"][:, ::2], rtol=1e-2)


def test_images_are_the_rows_as_they_are():
    batch = batch_of(4)
    np.testing.assert_array_equal(probe_of(batch=batch).images(), batch["image"])


def test_saliency_of_images_of_two_bytes_has_four():
    batch = batch_of(4)
    batch["image"] = batch["image"].astype(jnp.bfloat16)
    assert probe_of(batch=batch).saliency().dtype == jnp.float32


def test_padding_counts_for_nothing():
    """Whatever it holds: rows of zeros, whose loss is not looked at."""
    batch = batch_of(4, [True, False, True, True])
    dirty = {
        **batch,
        "image": batch["image"].at[1].set(jnp.nan),
        "label": batch["label"].at[1].set(-7),
    }
    zero = {**batch, "image": batch["image"].at[1].set(0), "label": batch["label"].at[1].set(0)}

    def normalised(params, images, rng):
        return linear(params, images - images.mean(0, keepdims=True), rng)

    for question in ("saliency", "features", "images"):
        found, expected = (
            getattr(probe_of(normalised, each), question)() for each in (dirty, zero)
        )
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(found, expected)
    alone = probe_of(batch=dirty).saliency()
    assert (alone[1] == 0).all()
    assert (alone[0] > 0).all()


def test_of_several_inputs_the_first_image_is_looked_at():
    batch = batch_of(4)
    tree = {**batch, "image": {"age": jnp.ones((4, 1)), "scan": batch["image"]}}

    def takes_tree(params, inputs, rng):
        assert inputs["age"].shape == (4, 1)
        return linear(params, inputs["scan"], rng)

    one, several = probe_of(batch=batch), probe_of(takes_tree, tree)
    np.testing.assert_array_equal(several.saliency(), one.saliency())
    np.testing.assert_array_equal(several.fresh().features(), one.features())
    np.testing.assert_array_equal(several.images(), one.images())


def test_a_model_with_hidden_layers_has_none_of_them_mixed():
    probe = probe_of(deep)
    assert probe.features().shape == (4, 2, 3, 2)
    assert (probe.saliency() > 0).any()


# --- How often the model is run ----------------------------------------------------------------


def test_a_probe_that_is_not_asked_runs_nothing():
    apply_fn, fed = counted(linear)
    probe_of(apply_fn).images()
    probe_of(apply_fn).fresh()
    assert not fed


def test_saliency_gives_the_features_too_and_asking_again_runs_nothing():
    apply_fn, fed = counted(linear)
    probe = probe_of(apply_fn)
    first = probe.saliency()
    assert probe.saliency() is first
    features = probe.features()
    assert probe.features() is features
    assert len(fed) == 1
    np.testing.assert_allclose(features, probe_of().features(), rtol=1e-6)


def test_a_fresh_probe_asks_the_same_again():
    apply_fn, fed = counted(linear)
    probe = probe_of(apply_fn, label_loss=lambda logits, label: logits[:, 0])
    first = probe.saliency()
    np.testing.assert_array_equal(probe.fresh().saliency(), first)
    assert len(fed) == 2


@pytest.mark.parametrize("questions", [("saliency", "features"), ("features", "saliency")])
def test_a_model_that_draws_may_be_asked_twice_and_draws_the_same(questions):
    def noisy(params, images, rng):
        return linear(params, images + jax.random.normal(rng, images.shape), rng)

    probe = probe_of(noisy)
    first, second = (getattr(probe, question)() for question in questions)
    answers = dict(zip(questions, (first, second), strict=True))
    for question, answer in answers.items():
        again = getattr(probe.fresh(), question)()
        np.testing.assert_allclose(answer, again, rtol=1e-5)


def test_no_gradient_reaches_the_parameters():
    def total(params):
        probe = probe_of(params=params)
        return (probe.saliency() ** 2).sum() + (probe.features() ** 2).sum()

    for leaf in jax.tree.leaves(jax.grad(total)(PARAMS)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


# --- Shards ------------------------------------------------------------------------------------


def sharded(function, check_vma, out_specs):
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    specs = {"in_specs": (P(), P("data")), "out_specs": out_specs, "check_vma": check_vma}
    mapped = jax.jit(jax.shard_map(function, mesh=mesh, **specs))

    def run(params, batch):
        return mapped(params, jax.device_put(batch, NamedSharding(mesh, P("data"))))

    return run


@pytest.mark.parametrize("check_vma", [False, True])
def test_on_a_shard_the_answers_are_of_the_global_batch(check_vma):
    batch = batch_of(16, np.arange(16) % 5 != 3)

    def ask(params, shard):
        probe = ModelProbe(linear, params, shard, jax.random.key(0), axis_name="data")
        return jax.tree.map(lambda x: x[None], (probe.saliency(), probe.features(), probe.images()))

    found = sharded(ask, check_vma, P("data"))(PARAMS, batch)
    whole = probe_of(batch=batch)
    for each, expected in zip(
        found, (whole.saliency(), whole.features(), whole.images()), strict=True
    ):
        assert each.shape == (8, *expected.shape)
        for shard in each:
            np.testing.assert_allclose(shard, expected, rtol=1e-5, atol=1e-6)


def pointwise(params, images, rng, hidden):
    """As `deep`, without statistics of the batch, which would be those of the shard."""
    features = jnp.tanh(images @ params["filter"])
    features = hidden(1, features.reshape(-1, 2, 2, 3, 2, 2).mean((2, 4)))
    logits = jnp.tanh(features.reshape(len(images), -1)) @ params["kernel"][:12]
    return semjax.Outputs(logits=logits, representation=features)


@each_policy
def test_shards_draw_the_mix_of_the_global_batch(name):
    """Collectives are checked: the solvers' loops must carry what varies over shards."""
    batch = batch_of(16, np.arange(16) % 5 != 3)
    policy = POLICIES[name](groups=8, weight_scope="sample", pairing="roll")

    def share(params, shard):
        loss = semjax.make_sem_loss(pointwise, policy=policy, axis_name="data")
        return jax.lax.pmean(loss(params, shard, jax.random.key(3))[0], "data")

    whole, aux = semjax.make_sem_loss(pointwise, policy=policy)(PARAMS, batch, jax.random.key(3))
    assert aux["unmixed"] < 1
    found = sharded(share, True, P())(PARAMS, batch)
    np.testing.assert_allclose(found, whole, rtol=1e-5)


# --- Drawn outside the loss --------------------------------------------------------------------


@each_policy
@pytest.mark.parametrize("padded", [False, True])
def test_a_mix_drawn_with_the_model_is_the_mix_of_the_loss(padded, name):
    batch = batch_of(6, [True, True, False, True, True, True] if padded else None)
    if padded:
        batch["image"] = batch["image"].at[2].set(jnp.nan)
    policy = POLICIES[name](weight_scope="sample", pairing="roll")
    loss = semjax.make_sem_loss(deep, policy=policy)
    key = jax.random.key(5)
    mix = semjax.draw_mix(policy, batch, key, apply_fn=deep, params=PARAMS)
    inside, aux = loss(PARAMS, batch, jax.random.key(5))
    handed, same = loss(PARAMS, {**batch, "mix": mix}, jax.random.key(5))
    assert np.isfinite(inside)
    assert aux["unmixed"] < 1
    np.testing.assert_allclose(handed, inside, rtol=1e-6)
    assert aux["weight"] == pytest.approx(float(same["weight"]), abs=1e-6)
    weight = mix.weight if not padded else mix.weight[np.asarray(batch["valid"])]
    assert aux["weight"] == pytest.approx(float(weight.mean()), abs=1e-6)


def test_the_saliency_of_a_drawn_mix_is_that_of_the_label_loss():
    """A loss that looks at one class only has its peak where that class looks."""

    def corners(params, images, rng):
        flat = images.reshape(len(images), -1, images.shape[-1])
        return semjax.Outputs(logits=params * jnp.stack([flat[:, 0, 0], flat[:, -1, 0]], axis=1))

    def last_class(logits, targets):
        return logits[:, 1]

    image = jnp.ones((4, 8, 8, 1))
    batch = {"image": image, "label": jnp.zeros(4, int)}
    # Of ten keys some draw a box that is seen, and not all of the image.
    policy = POLICIES["saliencymix"](pairing="roll", weight_scope="sample")
    options = {"apply_fn": corners, "params": 1.0, "label_loss": last_class}
    mixes = [semjax.draw_mix(policy, batch, jax.random.key(seed), **options) for seed in range(10)]
    masks = np.concatenate([mix.mask for mix in mixes])
    boxed = masks.min((1, 2, 3)) == 0
    assert boxed.any()
    assert (masks[boxed, -1, -1] == 0).all()
    assert (masks[:, 0, 0] == 1).any()
    loss = semjax.make_sem_loss(corners, policy=policy, sem_weight=0, label_loss=last_class)
    _, aux = loss(1.0, batch, jax.random.key(0))
    assert aux["weight"] == pytest.approx(float(mixes[0].weight.mean()), abs=1e-6)


# --- Errors ------------------------------------------------------------------------------------


@each_policy
def test_without_a_probe_the_error_says_where_to_draw(name):
    message = f"{name} looks at the model: draw it inside make_sem_loss, or hand apply_fn"
    with pytest.raises(ValueError, match=message):
        POLICIES[name]()(jax.random.key(0), batch_of(4))
    with pytest.raises(ValueError, match=message):
        semjax.draw_mix(POLICIES[name](), batch_of(4), jax.random.key(0))


def test_a_probe_that_is_there_is_handed_on():
    probe = probe_of()
    assert asked(probe, "a policy") is probe


def test_saliency_needs_images():
    batch = {"image": jnp.ones((4, 72)), "label": jnp.arange(4)}
    with pytest.raises(ValueError, match=r"saliency needs images \[B, H, W, C\].*\(4, 72\)"):
        probe_of(batch=batch).saliency()


def test_features_need_a_feature_map():
    def pooled(params, images, rng):
        outputs = linear(params, images, rng)
        return dataclasses.replace(outputs, representation=outputs.logits)

    with pytest.raises(ValueError, match=r"feature map \[B, h, w, D\].*found neither"):
        probe_of(pooled).features()
