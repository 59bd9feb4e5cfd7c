"""The method's loss: its equation in NumPy, its laws and each of its options.

Most tests hand the loss a mix of their own in `batch["mix"]`, so that the numbers do not hang on a
random stream.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads
from sem_example import (
    CHOSEN,
    TERMS,
    WEIGHTS,
    assert_terms,
    assert_trees_equal,
    batch_of,
    expected,
    grads,
    grouped,
    halving,
    masked_rows,
    mix_of,
    mlp,
    normal,
    pointwise,
    spatial,
    terms,
    weights_of,
)

import semjax
from semjax import Mix, Outputs, make_sem_loss
from semjax.drawing import draw_mix

# --- the equation -----------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_terms_equal_the_numpy_reference(masked, reduction):
    mix = mix_of(shape=(4, 6) if masked else None)
    options = {"sem_weight": 0.7, "clean_weight": 0.4, "reduction": reduction}
    assert_terms(terms(batch=batch_of(mix=mix), **options), expected(mix=mix, **options))


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine", "normalised_mse"])
@pytest.mark.parametrize("masked", [False, True])
def test_valid_rows_alone_count_in_every_term(distance, masked):
    batch, rows = masked_rows(masked)
    options = {"distance": distance, "clean_weight": 0.5}
    numbers = expected(batch, mix=batch["mix"], rows=rows, **options)
    assert_terms(terms(batch=batch, **options), numbers)


@pytest.mark.parametrize("label_loss", ["ce", "bce"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_label_losses_and_smoothing_equal_the_numpy_reference(label_loss, smoothing):
    aux = terms(label_loss=label_loss, label_smoothing=smoothing, clean_weight=1.0)
    numbers = expected(label_loss=label_loss, smoothing=smoothing, clean_weight=1.0)
    assert_terms(aux, numbers)


def test_soft_labels_equal_the_numpy_reference():
    soft = np.random.default_rng(8).dirichlet(np.ones(5), 7).astype(np.float32)
    batch = {**batch_of(), "label": soft}
    aux = terms(batch={**batch, "mix": mix_of()}, clean_weight=1.0)
    assert_terms(aux, expected(batch, clean_weight=1.0))


def test_soft_one_hot_labels_are_the_class_ids():
    batch = batch_of(mix=mix_of())
    hard = terms(batch=batch, clean_weight=1.0)
    soft = terms(batch={**batch, "label": np.eye(5)[batch["label"]]}, clean_weight=1.0)
    assert_trees_equal(hard, soft)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_regmixup_is_the_clean_term_alone(reduction):
    """The paper adds two means; its authors' code takes one mean over the 2B rows."""
    numbers = expected(sem_weight=0.0)
    total = numbers["mixed_loss"] + numbers["clean_loss"]
    total = total if reduction == "sum" else total / 2
    aux = terms(sem_weight=0.0, clean_weight=1.0, reduction=reduction)
    np.testing.assert_allclose(aux["loss"], total, rtol=1e-5)


def test_gap_is_outside_the_mean_of_the_label_losses():
    aux = terms(sem_weight=3.0, clean_weight=0.25, reduction="mean")
    label_part = (aux["mixed_loss"] + 0.25 * aux["clean_loss"]) / 1.25
    np.testing.assert_allclose(aux["loss"], label_part + 3 * aux["gap"], rtol=1e-6)


def test_gradient_equals_finite_differences():
    batch = batch_of(mix=mix_of(shape=(4, 6)), step=jnp.array(2))
    loss = make_sem_loss(
        mlp, sem_weight=2.0, schedule=lambda step: step / 4, clean_weight=0.5, label_smoothing=0.1
    )

    def total(params):
        return loss(params, batch, jax.random.key(0))[0]

    check_grads(jax.jit(total), (weights_of(48),), order=1, atol=1e-2, rtol=1e-2, eps=1e-2)


def test_spatial_rule_mixes_cell_by_cell_on_the_coarser_grid():
    """An encoder that halves the grid: the mask is averaged over blocks of 2 x 2."""
    params, mix, batch = weights_of(2), mix_of(shape=(4, 6)), batch_of()
    aux = terms(halving, params, {**batch, "mix": mix}, distance="mse")

    def encode(x):
        return np.tanh(x @ np.float64(params["w"])).reshape(7, 2, 2, 3, 2, 4).mean((2, 4))

    mask = np.float64(mix.mask)
    coarse = mask.reshape(7, 2, 2, 3, 2, 1).mean((2, 4))
    mixed = encode(reference.interpolate_spatial(mix.partner, mask, batch["image"]))
    target = reference.interpolate_spatial(mix.partner, coarse, encode(batch["image"]))
    np.testing.assert_allclose(aux["gap"], np.square(mixed - target).mean(), rtol=1e-5)


# --- the laws ---------------------------------------------------------------------------------


def affine(params, images, rng):
    outputs = mlp(params, images, rng)
    features = images.reshape(len(images), -1) @ params["w"] + params["b"][None]
    return dataclasses.replace(outputs, representation=features)


@pytest.mark.parametrize("scope", ["batch", "pair", "sample"])
def test_affine_representation_has_no_gap(scope):
    policy = semjax.mixup(weight_scope=scope, pairing="derangement")
    options = {"policy": policy, "distance": "l1", "batch": batch_of()}
    assert terms(affine, **options)["gap"] < 3e-6
    assert terms(mlp, **options)["gap"] > 1e-2


@pytest.mark.parametrize("shape", [(4, 6, 2), (5, 7, 2), (7, 3, 2)])
def test_pointwise_affine_map_has_no_gap_under_masks(shape):
    policy, batch = (
        semjax.cutmix(weight_scope="sample", pairing="derangement"),
        batch_of(shape=shape),
    )
    batch["mix"] = draw_mix(policy, batch, jax.random.key(0))
    options = {"params": weights_of(2), "batch": batch, "distance": "l1", "compiled": True}

    def pooled(params, images, rng):
        outputs = pointwise(params, images, rng)
        return dataclasses.replace(outputs, representation=outputs.representation.mean((1, 2)))

    assert terms(pointwise, **options)["gap"] < 3e-6
    # The pooled rule cannot do that: a box holds other pixels than the average ones.
    assert terms(pooled, **options)["gap"] > 1e-2


def test_spatial_and_pooled_targets_agree_under_a_constant_mask():
    targets = []

    def keep(prediction, target):
        targets.append(target)
        return jnp.abs(prediction - target).reshape(len(target), -1).mean(1)

    def map_on_another_grid(params, images, rng):
        outputs = spatial(params, images, rng)
        return dataclasses.replace(outputs, representation=outputs.representation[:, ::2, :5])

    def pooled(params, images, rng):
        outputs = map_on_another_grid(params, images, rng)
        return dataclasses.replace(outputs, representation=outputs.representation.mean((1, 2)))

    plain = mix_of()
    mask = jnp.broadcast_to(plain.weight.reshape(7, 1, 1, 1), (7, 4, 6, 1))
    batch = batch_of(mix=dataclasses.replace(plain, mask=mask))
    for encoder in (map_on_another_grid, pooled):
        terms(encoder, weights_of(2), batch, distance=keep)
    of_map, of_pooled = targets
    assert of_map.shape == (7, 2, 5, 4)
    np.testing.assert_allclose(of_map.mean((1, 2)), of_pooled, atol=1e-6)


@pytest.mark.parametrize("policy", [semjax.mixup(alpha=0), semjax.cutmix(alpha=0)])
@pytest.mark.parametrize("distance", ["mse", "l1", "normalised_mse"])
def test_weight_1_has_no_gap(policy, distance):
    aux = terms(batch=batch_of(), policy=policy, distance=distance)
    assert (aux["gap"], aux["weight"], aux["unmixed"]) == (0, 1, 1)
    np.testing.assert_allclose(aux["mixed_loss"], expected()["clean_loss"], rtol=1e-5)


def plain_mixup(params, images, label, partner, weight):
    """Mixup without this library."""
    mixed = weight * images + (1 - weight) * images[partner]
    logits = jnp.tanh(mixed.reshape(len(images), -1) @ params["w"]) @ params["head"]
    one_hot = jnp.eye(5)[label]
    targets = weight * one_hot + (1 - weight) * one_hot[partner]
    return -(targets * jax.nn.log_softmax(logits)).sum(1).sum() / len(images)


def test_sem_weight_0_has_the_gradients_of_plain_mixup_to_the_last_bit():
    partner, weight, batch = np.array([1, 2, 3, 4, 5, 6, 0]), np.float32(0.3), batch_of()
    plain = jax.grad(plain_mixup)(weights_of(48), batch["image"], batch["label"], partner, weight)
    batch["mix"] = Mix(jnp.asarray(partner), jnp.full(7, weight))
    assert_trees_equal(grads(batch=batch, sem_weight=0), plain)
    assert_trees_equal(grads(batch=batch, sem_weight=0.0), plain)


@pytest.mark.parametrize("option", ["schedule", "sem_weight"])
def test_schedule_that_reaches_0_has_the_gradients_of_plain_mixup(option):
    batch = batch_of(mix=mix_of(), step=jnp.array(10))
    ramp = grads(batch=batch, **{option: lambda step: jnp.maximum(1 - step / 10, 0)})
    plain = grads(batch=batch, sem_weight=0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-6), ramp, plain)


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine", "normalised_mse"])
@pytest.mark.parametrize("encoder", ["pooled", "map", "map and mask"])
def test_gap_is_symmetric_in_who_is_the_partner(encoder, distance):
    """(weight, partner) and ((1 - weight)[inverse], inverse) make the same rows, reordered."""
    mix = mix_of(shape=(4, 6) if encoder == "map and mask" else None)
    apply_fn, params = (mlp, weights_of(48)) if encoder == "pooled" else (halving, weights_of(2))
    inverse = jnp.argsort(mix.partner)
    mask = None if mix.mask is None else (1 - mix.mask)[inverse]
    swapped = Mix(inverse.astype(jnp.int32), (1 - mix.weight)[inverse], mask)
    gaps = [
        terms(apply_fn, params, batch_of(mix=m), distance=distance)["gap"] for m in (mix, swapped)
    ]
    assert gaps[0] > 1e-3
    np.testing.assert_allclose(*gaps, rtol=1e-5)


OPTIONS = (
    {"sem_weight": 0},
    {"clean_weight": 1.0, "reduction": "mean"},
    {"distance": "cosine", "stop_gradient": "clean"},
    {"label_loss": "bce", "label_smoothing": 0.2},
    {"passes": "joint"},
    {"schedule": lambda step: 0.5},
)


@pytest.mark.parametrize("policy", [semjax.mixup(weight_scope="sample"), semjax.cutmix()])
def test_mix_depends_on_no_other_option(policy):
    seen = []

    def recording(params, images, rng):
        seen.append(np.asarray(images[:7]))
        return mlp(params, images, rng)

    batch = batch_of(step=jnp.array(3))
    mix = draw_mix(policy, batch, jax.random.key(0))
    drawn = (
        reference.interpolate(mix.partner, mix.weight, batch["image"])
        if mix.mask is None
        else reference.interpolate_spatial(mix.partner, mix.mask, batch["image"])
    )
    for options in OPTIONS:
        terms(recording, batch=batch, policy=policy, **options)
        np.testing.assert_allclose(seen[0], drawn, atol=1e-6)
        seen.clear()


def test_mix_does_not_depend_on_the_pixels():
    policy, batch = semjax.cutmix(), batch_of()
    other = {**batch, "image": np.flip(batch["image"]) * 3}
    mixes = [draw_mix(policy, b, jax.random.key(0)) for b in (batch, other)]
    assert_trees_equal(*mixes)


def test_given_mix_replaces_the_draw():
    aux = terms(batch=batch_of(mix=mix_of()), policy=semjax.cutmix(), clean_weight=1.0)
    assert_terms(aux, expected(clean_weight=1.0))


# --- the options ------------------------------------------------------------------------------


def test_default_is_mixup_with_the_gap_and_the_clean_loss():
    batch = batch_of()
    written_out = terms(
        batch=batch,
        policy=semjax.mixup(alpha=1.0),
        sem_weight=20.0,
        schedule=None,
        sem_fraction=1.0,
        distance="mse",
        stop_gradient="none",
        clean_weight=1.0,
        reduction="sum",
        label_loss="ce",
        label_smoothing=0.0,
        passes="separate",
        state_from="clean",
        share_prefix=False,
        mixed_from="image",
        axis_name=None,
    )
    found = make_sem_loss(mlp)(weights_of(48), batch, jax.random.key(0))[1]
    assert_trees_equal(found, written_out)


@pytest.mark.parametrize(
    ("options", "clean_weight"),
    [
        ({}, 1.0),
        ({"sem_weight": 0}, 0.0),
        ({"sem_weight": 0.0, "consistency_weight": 1.0}, 0.0),
        ({"sem_weight": lambda step: 2.0 * step}, 1.0),
        ({"sem_fraction": 1 / 3}, 0.0),
        ({"stop_gradient": "clean", "passes": "joint"}, 1.0),
        ({"clean_weight": 0.25}, 0.25),
        ({"clean_weight": 0}, 0.0),
    ],
)
def test_clean_rows_have_a_loss_where_all_are_forwarded_for_a_gap(options, clean_weight):
    batch = {**grouped(), "step": jnp.int32(2), "views": normal(12, 2, 4, 6, 2)}
    run = {"batch": batch, "compiled": True}
    found = terms(**run, **{"sem_weight": 20.0, "clean_weight": None, **options})
    written_out = terms(**run, **{"sem_weight": 20.0, **options, "clean_weight": clean_weight})
    assert_trees_equal(found, written_out)
    assert (found["clean_loss"] > 0) == (clean_weight > 0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_gap_of_a_fraction_is_that_of_every_kth_group(masked, padded):
    batch = grouped(masked, padded)
    apply_fn, params = (halving, weights_of(2)) if masked else (mlp, weights_of(48))
    aux = terms(apply_fn, params, batch, sem_fraction=1 / 3, sem_weight=2.0, compiled=True)

    def mixed(x):
        partner, weight, mask = batch["mix"].partner, batch["mix"].weight, batch["mix"].mask
        if mask is None or x.ndim == 2:
            return reference.interpolate(partner, weight, x)
        return reference.interpolate_spatial(partner, mask, x)

    images = np.nan_to_num(batch["image"])
    clean = apply_fn(params, images, None)
    prediction = apply_fn(params, jnp.float32(mixed(images)), None).representation
    target = mixed(clean.representation)
    valid = batch.get("valid", np.ones(12, bool))[CHOSEN]
    for name, distance in (("gap", "mse"), ("normalised_gap", "normalised_mse")):
        wanted = reference.gap(np.array(prediction)[CHOSEN], target[CHOSEN], distance, valid)
        assert wanted > 1e-3
        np.testing.assert_allclose(aux[name], wanted, rtol=2e-5)
    np.testing.assert_allclose(aux["loss"], aux["mixed_loss"] + 2 * aux["gap"], rtol=1e-6)
    hit = np.argmax(clean.logits, 1) == batch["label"]
    np.testing.assert_allclose(aux["clean_accuracy"], hit[CHOSEN][valid].mean(), rtol=1e-6)
    if not (masked or padded):  # what is no part of the gap is over all rows as before
        numbers = expected(batch, mix=batch["mix"])
        assert_terms(aux, numbers, ("mixed_loss", "accuracy", "weight"))


@pytest.mark.parametrize("stop", ["none", "clean"])
def test_gradient_of_a_fraction_is_that_of_the_gap_of_its_rows(stop):
    batch, params = grouped(), weights_of(48)
    mix = batch["mix"]
    mixed = jnp.float32(reference.interpolate(mix.partner, mix.weight, batch["image"]))

    def gap(params):
        clean = mlp(params, batch["image"], None).representation
        weight = mix.weight[:, None]
        target = weight * clean + (1 - weight) * clean[mix.partner]
        target = jax.lax.stop_gradient(target) if stop == "clean" else target
        return jnp.square(mlp(params, mixed, None).representation - target)[CHOSEN].mean()

    loss = make_sem_loss(mlp, sem_weight=1.0, sem_fraction=1 / 3, stop_gradient=stop)

    def without_mixed_loss(params):
        total, aux = loss(params, batch, jax.random.key(0))
        return total - aux["mixed_loss"]

    found, wanted = jax.jit(lambda p: (jax.grad(without_mixed_loss)(p), jax.grad(gap)(p)))(params)
    np.testing.assert_allclose(found["w"], wanted["w"], atol=2e-6)


@pytest.mark.parametrize("state_from", ["auto", "mixed", "clean", "both"])
def test_a_fraction_forwards_its_rows_alone(state_from):
    """In the order of the batch, with the statistics of these rows."""
    seen = []

    def recording(params, images, rng):
        seen.append(np.asarray(images))
        state = {"mean": images.mean(0), "rows": jnp.array(len(images))}
        return dataclasses.replace(mlp(params, images, rng), model_state=state)

    batch = grouped()
    state = terms(recording, batch=batch, sem_fraction=1 / 3, state_from=state_from)["model_state"]
    assert [len(images) for images in seen] == [12, 4]
    np.testing.assert_array_equal(seen[1], batch["image"][CHOSEN])
    mixed, clean = (images.mean(0) for images in seen)
    wanted = {"auto": mixed, "mixed": mixed, "clean": clean, "both": (mixed + clean) / 2}
    np.testing.assert_allclose(state["mean"], wanted[state_from], atol=1e-6)
    assert state["rows"] == (4 if state_from == "clean" else 12)


def test_a_fraction_takes_trees_of_inputs_and_hidden_layers():
    """The hook is of the pass of all rows; the clean one meets no mixing."""
    params = {"first": normal(3, 4, seed=1), "second": normal(4, 4, seed=2)}

    def tree(params, inputs, rng, hidden):
        x = hidden(1, jnp.tanh(inputs["a"] @ params["first"] + inputs["b"]))
        features = jnp.tanh(x @ params["second"])
        return Outputs(logits=features, representation=features)

    inputs = {"a": normal(12, 3, seed=3), "b": normal(12, 4, seed=4)}
    mix = dataclasses.replace(grouped()["mix"], layer=jnp.ones(12, jnp.int32), layers=(1,))
    batch = {"image": inputs, "label": np.arange(12) % 4, "mix": mix}
    aux = terms(tree, params, batch, sem_fraction=1 / 3)
    x = np.tanh(inputs["a"] @ params["first"] + inputs["b"])
    mixed, clean = (
        np.tanh(x @ params["second"])
        for x in (reference.interpolate(mix.partner, mix.weight, x), x)
    )
    target = reference.interpolate(mix.partner, mix.weight, clean)
    wanted = reference.gap(mixed[CHOSEN], target[CHOSEN], "mse")
    np.testing.assert_allclose(aux["gap"], wanted, rtol=2e-5)


@pytest.mark.parametrize("stop", ["none", "clean", "mixed"])
def test_stop_gradient_keeps_its_side_constant(stop):
    batch, mix, params = batch_of(mix=mix_of()), mix_of(), weights_of(48)
    mixed = jnp.asarray(reference.interpolate(mix.partner, mix.weight, batch["image"]), jnp.float32)

    def gap(of_mixed, of_clean):
        clean = mlp(of_clean, batch["image"], None).representation
        weight = mix.weight[:, None]
        target = weight * clean + (1 - weight) * clean[mix.partner]
        return jnp.square(mlp(of_mixed, mixed, None).representation - target).mean()

    by_mixed, by_clean = jax.grad(gap, argnums=(0, 1))(params, params)
    wanted = {
        "none": by_mixed["w"] + by_clean["w"],
        "clean": by_mixed["w"],
        "mixed": by_clean["w"],
    }[stop]
    with_gap, without = grads(stop_gradient=stop, batch=batch), grads(sem_weight=0, batch=batch)
    np.testing.assert_allclose(with_gap["w"] - without["w"], wanted, atol=2e-6)


def test_distance_may_be_a_function():
    def fourth_power(prediction, target):
        return ((prediction - target) ** 4).sum(1)

    aux = terms(distance=fourth_power, sem_weight=2.0)
    targets = []

    def keep(prediction, target):
        targets.append(np.sum((np.float64(prediction) - np.float64(target)) ** 4, 1))
        return prediction[:, 0]

    terms(distance=keep)
    np.testing.assert_allclose(aux["gap"], targets[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(aux["loss"], aux["mixed_loss"] + 2 * aux["gap"], rtol=1e-6)


def test_normalised_gap_is_reported_whatever_the_distance():
    numbers = expected(distance="normalised_mse")
    np.testing.assert_allclose(terms(distance="l1")["normalised_gap"], numbers["gap"], rtol=1e-5)


def test_normalised_gap_of_a_model_twice_as_large_is_the_same():
    def doubled(params, images, rng):
        outputs = mlp(params, images, rng)
        return dataclasses.replace(outputs, representation=2 * outputs.representation)

    small, large = terms(mlp), terms(doubled)
    np.testing.assert_allclose(large["gap"], 4 * small["gap"], rtol=1e-5)
    np.testing.assert_allclose(large["normalised_gap"], small["normalised_gap"], rtol=1e-4)


@pytest.mark.parametrize("step", [0, 1, 5])
def test_schedules_are_functions_of_the_step(step):
    options = {
        "sem_weight": lambda step: 3.0 + step,
        "schedule": lambda step: step / 2,
        "clean_weight": lambda step: 0.25 * step,
        "reduction": "mean",
    }
    aux = terms(batch=batch_of(mix=mix_of(), step=jnp.array(step)), **options)
    numbers = expected(
        sem_weight=(3.0 + step) * step / 2, clean_weight=0.25 * step, reduction="mean"
    )
    assert_terms(aux, numbers)


def test_schedule_multiplies_a_number():
    batch = batch_of(mix=mix_of(), step=jnp.array(3))
    aux = terms(batch=batch, sem_weight=2.0, schedule=lambda step: step / 6)
    assert_terms(aux, expected(sem_weight=1.0), ("loss", "gap"))


def test_weights_may_be_traced_arrays():
    def loss(weight):
        aux = terms(sem_weight=weight, clean_weight=weight)
        return aux["loss"], aux

    slope, aux = jax.jit(jax.grad(loss, has_aux=True))(jnp.array(0.5))
    assert_terms(aux, expected(sem_weight=0.5, clean_weight=0.5))
    np.testing.assert_allclose(slope, aux["clean_loss"] + aux["gap"], rtol=1e-6)


def test_label_loss_may_be_a_function():
    seen = []

    def brier(logits, targets):
        seen.append(np.asarray(targets))
        return jnp.square(jax.nn.softmax(logits) - targets).sum(1)

    aux = terms(label_loss=brier, label_smoothing=0.2, clean_weight=1.0)
    smooth = 0.8 * np.eye(5)[batch_of()["label"]] + 0.2 / 5
    mix = mix_of()
    np.testing.assert_allclose(
        seen[0], reference.interpolate(mix.partner, mix.weight, smooth), atol=1e-6
    )
    np.testing.assert_allclose(seen[1], smooth, atol=1e-6)
    total = aux["mixed_loss"] + aux["clean_loss"] + aux["gap"]
    np.testing.assert_allclose(aux["loss"], total, rtol=1e-6)


def stateful(params, images, rng):
    """The state tells which rows the pass was given; the counter has no mean."""
    state = {"first": images[0].mean(), "rows": jnp.array(len(images))}
    return dataclasses.replace(mlp(params, images, rng), model_state=state)


@pytest.mark.parametrize("state_from", ["auto", "mixed", "clean", "both"])
def test_state_is_that_of_the_pass_asked_for(state_from):
    state = terms(stateful, state_from=state_from)["model_state"]
    batch, mix = batch_of(), mix_of()
    mixed = reference.interpolate(mix.partner, mix.weight, batch["image"])[0].mean()
    clean = batch["image"][0].mean()
    wanted = {"auto": clean, "mixed": mixed, "clean": clean, "both": (mixed + clean) / 2}
    np.testing.assert_allclose(state["first"], wanted[state_from], atol=1e-6)
    assert state["rows"] == 7
    assert state["rows"].dtype == jnp.int32


def test_joint_pass_has_one_state():
    assert terms(stateful, passes="joint")["model_state"]["rows"] == 14


def test_state_is_none_for_a_model_without():
    assert terms(state_from="both")["model_state"] is None


def test_policy_none_trains_on_the_rows_as_they_are():
    seen = []

    def recording(params, images, rng):
        seen.append(np.asarray(images))
        return mlp(params, images, rng)

    batch = batch_of()
    aux = terms(recording, batch=batch, policy=None, sem_weight=0)
    np.testing.assert_array_equal(seen[0], batch["image"])
    np.testing.assert_allclose(aux["loss"], expected()["clean_loss"], rtol=1e-5)
    assert (aux["weight"], aux["unmixed"], aux["gap"]) == (1, 1, 0)


# --- what comes back --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sem_weight": 0}, {"clean_weight": 1.0}])
def test_aux_holds_float32_scalars_and_the_state(options):
    batch = batch_of(mix=mix_of())
    loss = make_sem_loss(mlp, **WEIGHTS | options)
    loss, aux = loss(weights_of(48), batch, jax.random.key(0))
    further = {"model_state", "normalised_gap", "clean_accuracy", "unmixed", "consistency"}
    assert set(TERMS) | further == set(aux)
    numbers = {name: value for name, value in aux.items() if name != "model_state"}
    assert all(v.shape == () and v.dtype == jnp.float32 for v in [loss, *numbers.values()])
    assert loss == aux["loss"]
    assert (aux["clean_loss"] == 0) == ("clean_weight" not in options)
    assert (aux["gap"] == 0) == (options == {"sem_weight": 0})


def fixed(guess):
    """A model that predicts these classes whatever it sees."""

    def apply_fn(params, images, rng):
        return Outputs(logits=jnp.eye(5)[jnp.asarray(guess)], representation=images[:, 0, 0])

    return apply_fn


def test_accuracy_is_the_weight_of_the_class_predicted():
    mix = Mix(jnp.array([1, 0, 3, 3]), jnp.array([0.75, 0.25, 0.5, 0.125]))
    batch = {**batch_of(4, mix=mix), "label": np.array([0, 1, 2, 2])}
    # In turn: the row's own class, neither, both (the row and its partner agree), both.
    aux = terms(fixed([0, 4, 2, 2]), {}, batch, compiled=True)
    assert aux["accuracy"] == (0.75 + 0 + 1 + 1) / 4
    # The partner's class in rows 0 and 1; the clean rows are hit in row 3 alone.
    aux = terms(fixed([1, 0, 4, 2]), {}, batch, compiled=True)
    assert aux["accuracy"] == (0.25 + 0.75 + 0 + 1) / 4
    assert aux["clean_accuracy"] == 1 / 4


def test_unmixed_rows_are_counted():
    weight = jnp.array([0.5, 1.0, 0.5, 1.0, 0.0, 0.2, 0.3])
    mix = Mix(jnp.array([1, 0, 2, 3, 4, 6, 5]), weight)
    np.testing.assert_allclose(terms(batch=batch_of(mix=mix))["unmixed"], 4 / 7)
    valid = np.arange(7) < 3
    np.testing.assert_allclose(terms(batch=batch_of(mix=mix, valid=valid))["unmixed"], 2 / 3)


def test_batch_is_left_as_it_was():
    batch, _ = masked_rows(masked=True)
    keys, before = list(batch), jax.tree.map(np.array, batch)
    terms(batch=batch, clean_weight=1.0)
    assert list(batch) == keys
    assert_trees_equal(batch, before)
