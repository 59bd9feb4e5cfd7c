"""Mixes of augmented rows against clean ones: the option mixed_from of the loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from sem_example import (
    CHOSEN,
    assert_terms,
    assert_trees_equal,
    batch_of,
    grouped,
    masked_rows,
    mix_of,
    mlp,
    normal,
    spatial,
    terms,
    weights_of,
)

import semjax
from semjax import Mix, Outputs, make_sem_loss

# Two augmented copies of the rows of `batch_of()`, of which the first is mixed.
VIEWS = normal(7, 2, 4, 6, 2, seed=9)


LINEAR = weights_of(48)


def linear(params, images, rng):
    """No tanh anywhere: its mixes have no gap unless they are of other rows."""
    features = images.reshape(len(images), -1) @ params["w"] + params["b"][None]
    return Outputs(logits=features @ params["head"], representation=features)


@pytest.mark.parametrize(
    "options",
    [
        {"clean_weight": 0.5},
        {"passes": "joint", "consistency_weight": 2.0},
        {"stop_gradient": "clean", "distance": "cosine"},
        {"sem_weight": 0},
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_mixing_views_that_are_the_images_changes_no_bit(masked, options):
    batch, _ = masked_rows(masked)
    batch["views"] = np.stack([batch["image"], VIEWS[:, 1]], axis=1)
    found = []
    for source in ("views", "image"):
        loss = make_sem_loss(mlp, mixed_from=source, **options)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        found.append(run(weights_of(48), batch, jax.random.key(0)))
    assert_trees_equal(*found)


def expected_of_views(batch, rows=slice(None), distance="mse"):
    """The terms in NumPy of a linear model: mixes of the first views, against clean rows."""
    w, b, head = (np.float64(LINEAR[name]) for name in ("w", "b", "head"))
    partner, weight = (np.asarray(x) for x in (batch["mix"].partner, batch["mix"].weight))

    def encode(x):
        return np.float64(x).reshape(len(x), -1) @ w + b

    target = np.eye(5)[batch["label"]]
    mixed = encode(reference.interpolate(partner, weight, batch["views"][:, 0]))
    clean = encode(batch["image"])
    both = reference.interpolate(partner, weight, target)
    return {
        "mixed_loss": reference.cross_entropy(mixed @ head, both)[rows].mean(),
        "clean_loss": reference.cross_entropy(clean @ head, target)[rows].mean(),
        "gap": reference.gap(
            mixed[rows], reference.interpolate(partner, weight, clean)[rows], distance
        ),
        "clean_accuracy": (np.argmax(clean @ head, 1) == batch["label"])[rows].mean(),
    }


@pytest.mark.parametrize("passes", ["separate", "joint"])
@pytest.mark.parametrize("distance", ["mse", "normalised_mse"])
def test_mixes_of_views_are_compared_with_mixes_of_clean_rows(distance, passes):
    batch = batch_of(mix=mix_of(), views=VIEWS)
    options = {"distance": distance, "clean_weight": 0.5, "passes": passes}
    aux = terms(linear, batch=batch, mixed_from="views", compiled=True, **options)
    numbers = expected_of_views(batch, distance=distance)
    assert_terms(aux, numbers, names=numbers)
    assert aux["gap"] > 1e-2
    total = numbers["mixed_loss"] + 0.5 * numbers["clean_loss"] + numbers["gap"]
    np.testing.assert_allclose(aux["loss"], total, rtol=2e-5)


@pytest.mark.parametrize("dirt", [np.nan, 1e30])
def test_padding_of_views_goes_nowhere(dirt):
    batch, rows = masked_rows(masked=False)
    batch["views"] = np.where(batch["valid"].reshape(7, 1, 1, 1, 1), VIEWS, np.float32(dirt))
    options = {"mixed_from": "views", "clean_weight": 0.5}
    aux = terms(linear, batch=batch, compiled=True, **options)
    numbers = expected_of_views(batch | {"views": VIEWS}, rows)
    assert_terms(aux, numbers, names=numbers)
    run = jax.jit(jax.grad(make_sem_loss(linear, **options), has_aux=True))
    wanted = run(LINEAR, batch | {"views": VIEWS}, jax.random.key(0))
    assert_trees_equal(run(LINEAR, batch, jax.random.key(0)), wanted)


def test_views_are_mixed_and_compared_with_the_clean_predictions_too():
    """The mix takes the first view; the consistency is that of all views, as without it."""
    batch = batch_of(mix=mix_of(), views=VIEWS)
    options = {"batch": batch, "consistency_weight": 2.0, "compiled": True}
    views, image = (terms(mixed_from=source, **options) for source in ("views", "image"))
    np.testing.assert_allclose(views["consistency"], image["consistency"], rtol=1e-6)
    assert views["mixed_loss"] != image["mixed_loss"]
    other = batch | {"views": VIEWS[:, ::-1]}
    assert terms(mixed_from="views", **options | {"batch": other})["gap"] != views["gap"]


def test_mixes_of_views_without_a_gap_are_the_plain_method_on_the_views():
    batch = batch_of(mix=mix_of(), views=VIEWS)
    options = {"sem_weight": 0, "mixed_from": "views"}
    plain = batch | {"image": VIEWS[:, 0]}
    assert_trees_equal(terms(batch=batch, **options), terms(batch=plain, sem_weight=0))


def test_a_regression_mixes_views_too():
    batch = batch_of(mix=mix_of(), views=VIEWS)
    batch["label"] = normal(7, 5, seed=8)
    aux = terms(linear, batch=batch, mixed_from="views", label_loss="mse", compiled=True)
    mix, w = mix_of(), np.float64(LINEAR["w"])
    mixed = reference.interpolate(mix.partner, mix.weight, VIEWS[:, 0]).reshape(7, -1)
    logits = (mixed @ w + LINEAR["b"]) @ np.float64(LINEAR["head"])
    label = reference.interpolate(mix.partner, mix.weight, batch["label"])
    np.testing.assert_allclose(aux["mixed_loss"], np.square(logits - label).mean(), rtol=2e-5)
    classes = expected_of_views(batch | {"label": np.zeros(7, int)})
    np.testing.assert_allclose(aux["gap"], classes["gap"], rtol=2e-5)


def test_mixes_of_views_at_a_hidden_layer_are_of_what_the_views_became():
    batch = batch_of(mix=mix_of(), views=VIEWS)
    layer = jnp.ones(7, jnp.int32)
    batch["mix"] = dataclasses.replace(batch["mix"], layer=layer, layers=(1,))

    def hooked(params, images, rng, hidden):
        x = hidden(1, jnp.tanh(images.reshape(len(images), -1) @ params["w"]))
        return Outputs(logits=x @ params["head"], representation=x)

    aux = terms(hooked, batch=batch, mixed_from="views", compiled=True)
    mix, w = mix_of(), np.float64(LINEAR["w"])
    of_views, of_images = (
        reference.interpolate(mix.partner, mix.weight, np.tanh(np.float64(x).reshape(7, -1) @ w))
        for x in (VIEWS[:, 0], batch["image"])
    )
    np.testing.assert_allclose(aux["gap"], reference.gap(of_views, of_images, "mse"), rtol=2e-5)


def test_policies_that_look_at_the_model_are_shown_the_clean_rows():
    seen = []

    def policy(key, batch, probe=None):
        seen.extend((batch["image"], probe.saliency()))
        return mix_of()

    for source in ("image", "views"):
        terms(spatial, weights_of(2), batch_of(views=VIEWS), policy=policy, mixed_from=source)
    assert_trees_equal(seen[:2], seen[2:])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, ValueError, r"mixed_from='views' needs batch\['views'\].*found None"),
        ({"views": VIEWS[:, :0]}, ValueError, r"found \(7, 0, 4, 6, 2\)"),
        ({"views": VIEWS[:, 0]}, ValueError, r"found \(7, 4, 6, 2\)"),
        ({"views": VIEWS.astype(np.uint8)}, TypeError, "must be floating, as the images are"),
        (
            {"views": VIEWS, "image": {"a": VIEWS[:, 0], "b": VIEWS[:, 0]}},
            *(ValueError, "mixed_from='views' is for one input; .* is a tree of 2"),
        ),
    ],
)
def test_views_that_cannot_be_mixed_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        terms(batch={**batch_of(mix=mix_of()), **changes}, mixed_from="views")


def test_gap_of_a_fraction_compares_mixes_of_views_with_its_clean_rows():
    batch = grouped()
    batch["views"] = normal(12, 1, 4, 6, 2, seed=9)
    aux = terms(linear, batch=batch, mixed_from="views", sem_fraction=1 / 3, compiled=True)
    wanted = expected_of_views(batch, CHOSEN)
    assert_terms(aux, wanted, names=("gap", "clean_accuracy"))
    assert_terms(aux, expected_of_views(batch), names=("mixed_loss",))


def test_shards_mix_their_own_views():
    batch = grouped()
    batch["views"] = normal(12, 2, 4, 6, 2, seed=9)

    def halves(x):
        return jnp.asarray(x).reshape(2, 6, *jnp.shape(x)[1:])

    shards = {name: halves(batch[name]) for name in ("image", "label", "views")}
    partner = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32) ^ 1, (2, 6))
    shards["mix"] = Mix(partner, halves(batch["mix"].weight), groups=3)
    loss = make_sem_loss(linear, mixed_from="views", axis_name="shards")

    def of_shard(batch):
        return jax.lax.pmean(loss(LINEAR, batch, jax.random.key(0))[1], "shards")

    found = jax.jit(jax.vmap(of_shard, axis_name="shards"))(shards)
    for name in ("mixed_loss", "gap"):
        wanted = expected_of_views(batch)[name]
        np.testing.assert_allclose(found[name], [wanted, wanted], rtol=2e-5)


def test_parts_of_a_batch_mix_their_own_views():
    batch, optimizer = grouped(), optax.sgd(1.0)
    batch["views"] = normal(12, 2, 4, 6, 2, seed=9)
    step = functools.partial(
        semjax.train_step,
        make_loss=lambda model_state: make_sem_loss(linear, mixed_from="views"),
        optimizer=optimizer,
        accumulate=2,
    )
    state = semjax.training.init_state(jax.tree.map(jnp.asarray, LINEAR), optimizer)
    _, logs = jax.jit(step)(state, batch, jax.random.key(0))
    assert_terms(logs, expected_of_views(batch), names=("mixed_loss", "gap", "clean_accuracy"))
