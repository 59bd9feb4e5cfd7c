"""The method's loss on hostile batches: padding, low precision, single rows, large classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sem_example import (
    assert_terms,
    assert_trees_equal,
    batch_of,
    expected,
    grads,
    masked_rows,
    mix_of,
    mlp,
    terms,
    weights_of,
)

import semjax
from semjax import Mix, Outputs, make_sem_loss
from semjax.drawing import draw_mix

# --- the equation -----------------------------------------------------------------------------


@pytest.mark.parametrize("pairing", ["permutation", "derangement", "roll", "reverse"])
def test_batch_of_one_is_left_unmixed(pairing):
    policy, batch = semjax.mixup(pairing=pairing), batch_of(1)
    mix = draw_mix(policy, batch, jax.random.key(0))
    aux = terms(batch={**batch, "mix": mix}, distance="normalised_mse", compiled=True)
    one = Mix(jnp.array([0]), jnp.array([0.5]))
    np.testing.assert_allclose(aux["loss"], expected(batch, mix=one)["clean_loss"], rtol=1e-5)
    assert aux["unmixed"] == 1
    assert aux["gap"] < 1e-12


@pytest.mark.parametrize("policy", [semjax.mixup(), semjax.cutmix()])
@pytest.mark.parametrize("soft", [False, True])
def test_padding_changes_neither_loss_nor_gradients(policy, soft):
    """Bit for bit, whatever stands in the padding."""
    batch, _ = masked_rows(masked=False)
    batch["mix"] = draw_mix(policy, batch, jax.random.key(0))
    if soft:
        batch["label"] = np.eye(5, dtype=np.float32)[batch["label"]]
    padding = ~batch["valid"]
    loss = make_sem_loss(mlp, clean_weight=0.5, distance="cosine")
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    wanted = run(weights_of(48), batch, jax.random.key(0))
    for pixel, label in ((np.nan, np.nan if soft else 10**6), (1e30, -1)):
        dirty = {**batch, "image": batch["image"].copy(), "label": batch["label"].copy()}
        dirty["image"][padding] = pixel
        dirty["label"][padding] = label
        assert_trees_equal(run(weights_of(48), dirty, jax.random.key(0)), wanted)


def test_padded_batch_equals_the_batch_without_its_padding():
    batch, rows = masked_rows(masked=False)
    mix = batch["mix"]
    inside = Mix(jnp.array([2, 3, 1, 4, 0]), mix.weight[rows])
    small = {"image": batch["image"][rows], "label": batch["label"][rows], "mix": inside}
    options = {"clean_weight": 0.5, "distance": "normalised_mse"}
    wanted = terms(batch=small, compiled=True, **options)
    assert_terms(terms(batch=batch, **options), wanted, rtol=2e-6)


def test_batch_of_nothing_but_padding_has_loss_and_gradients_0():
    batch = batch_of(valid=np.zeros(7, bool))
    batch["image"][:] = np.nan
    assert terms(batch=batch)["loss"] == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads(batch=batch)))


def test_bfloat16_images_leave_weights_and_losses_in_float32():
    batch = batch_of(mix=mix_of())
    batch["image"] = jnp.asarray(batch["image"], jnp.bfloat16)
    seen = []

    def low(params, images, rng):
        seen.append(images.dtype)
        return mlp(jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params), images, rng)

    aux = terms(low, batch=batch, clean_weight=1.0, compiled=True)
    assert seen == [jnp.bfloat16, jnp.bfloat16]
    assert {v.dtype for v in jax.tree.leaves(aux)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(aux["weight"], np.mean(mix_of().weight), rtol=1e-6)
    assert_terms(aux, expected(clean_weight=1.0), ("loss", "mixed_loss", "clean_loss"), rtol=0.05)


def test_bfloat16_targets_are_mixed_in_float32():
    """Half of 1 and half of 1 + 2^-7 lies between two bfloat16 numbers."""

    def encoder(params, images, rng):
        clean = images[0, 0, 0, 0] == 1
        rows = jnp.where(clean, jnp.array([1, 1 + 2**-7]), 1.0)
        return Outputs(logits=jnp.zeros((2, 5)), representation=rows[:, None].astype(jnp.bfloat16))

    images = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    mix = Mix(jnp.array([1, 0]), jnp.full(2, 0.5))
    batch = {"image": images, "label": jnp.zeros(2, int), "mix": mix}
    aux = terms(encoder, {}, batch, compiled=True)
    assert aux["gap"] == 2**-16


def test_class_ids_above_256_survive_bfloat16_images():
    ids = np.array([257, 258, 999])

    def oracle(params, images, rng):
        return Outputs(logits=100 * jax.nn.one_hot(ids, 1000, dtype=jnp.bfloat16))

    batch = {"image": jnp.ones((3, 2, 2, 1), jnp.bfloat16), "label": ids}
    batch["mix"] = Mix(jnp.array([1, 2, 0]), jnp.full(3, 0.75))
    aux = terms(oracle, {}, batch, sem_weight=0, clean_weight=1.0, compiled=True)
    assert (aux["accuracy"], aux["clean_accuracy"], aux["clean_loss"]) == (0.75, 1, 0)
    np.testing.assert_allclose(aux["mixed_loss"], 25, rtol=1e-3)


def test_typed_and_legacy_keys_draw_the_same():
    loss, batch = make_sem_loss(mlp, policy=semjax.cutmix()), batch_of()
    typed = loss(weights_of(48), batch, jax.random.key(7))
    legacy = loss(weights_of(48), batch, jax.random.PRNGKey(7))
    assert_trees_equal(typed, legacy)


def test_jit_and_eager_agree():
    loss, batch = make_sem_loss(mlp, policy=semjax.cutmix()), batch_of()
    eager = loss(weights_of(48), batch, jax.random.key(7))[1]
    assert_terms(jax.jit(loss)(weights_of(48), batch, jax.random.key(7))[1], eager, rtol=1e-5)
