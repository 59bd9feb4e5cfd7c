"""The loss's further terms and kinds of batches: consistency, sample weights, dense labels, more.

The equation itself, its laws and its errors stand in sem_test.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from sem_example import WEIGHTS

import semjax
from semjax import Mix, Outputs, make_sem_loss

ROWS, CLASSES = 5, 3
PARTNER = np.array([2, 0, 4, 1, 3])
WEIGHT = np.random.default_rng(1).random(ROWS).astype(np.float32)
MIX = Mix(jnp.asarray(PARTNER, jnp.int32), jnp.asarray(WEIGHT))
MASK = (np.random.default_rng(2).random((ROWS, 4, 6, 1)) < 0.5).astype(np.float32)
MASKED = Mix(MIX.partner, jnp.asarray(MASK.mean((1, 2, 3))), jnp.asarray(MASK))
LABEL = np.array([0, 2, 1, 1, 0])
AUX = {
    *("loss", "mixed_loss", "clean_loss", "gap", "normalised_gap", "consistency", "accuracy"),
    *("clean_accuracy", "weight", "unmixed", "model_state"),
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


IMAGES, VIEWS = normal(ROWS, 4, seed=3), normal(ROWS, 2, 4, seed=4)
PARAMS = {"w": normal(4, 6, seed=5), "head": normal(6, CLASSES, seed=6)}


def mlp(params, images, rng):
    features = jnp.tanh(images @ params["w"])
    return Outputs(logits=features @ params["head"], representation=features)


def mlp_by_hand(images):
    features = np.tanh(np.float64(images) @ np.float64(PARAMS["w"]))
    return features @ np.float64(PARAMS["head"]), features


def aux_of(apply_fn=mlp, params=PARAMS, batch=None, **options):
    batch = {"image": IMAGES, "label": LABEL, **(batch or {})}
    loss = make_sem_loss(apply_fn, **WEIGHTS | options)
    return jax.jit(loss)(params, batch, jax.random.key(0))[1]


def mixed(x, mix=MIX):
    return reference.interpolate(PARTNER, np.asarray(mix.weight), x)


def close(found, expected, **tolerance):
    np.testing.assert_allclose(found, expected, **(tolerance or {"rtol": 2e-5, "atol": 1e-6}))


# --- consistency ------------------------------------------------------------------------------


def divergence(logits):
    """The mean over V predictions of KL(p_k || M), a value a row."""
    p = [np.exp(z - np.log(np.exp(z).sum(-1, keepdims=True))) for z in np.float64(logits)]
    middle = np.clip(np.mean(p, 0), 1e-7, 1)
    return np.mean([(q * np.log(q / middle)).sum(-1) for q in p], 0)


def lookup(params, images, rng):
    """Logits that stand in the images."""
    return Outputs(logits=images)


def test_consistency_has_the_value_of_the_augmix_fixture():
    clean = np.float32([[2, 0, -1], [0, 1, 0]])
    views = np.float32([[[1, 0, 0], [0, 0, 0]], [[0, 0.5, 0.5], [1, 1, 0]]])
    batch = {"image": clean, "label": np.array([0, 1]), "views": views}
    loss, aux = make_sem_loss(lookup, policy=None, sem_weight=0, consistency_weight=12)(
        {}, batch, jax.random.key(0)
    )
    close(12 * aux["consistency"], 0.8415339715, rtol=1e-6)
    plain = reference.cross_entropy(clean, np.eye(3)[[0, 1]]).mean()
    close(loss, plain + 0.8415339715, rtol=1e-6)


@pytest.mark.parametrize("passes", ["separate", "joint"])
@pytest.mark.parametrize("sem_weight", [0, 0.7])
def test_views_are_compared_with_the_clean_rows_and_not_with_the_mixed(sem_weight, passes):
    valid = np.array([True, True, False, True, True])
    mix = dataclasses.replace(MIX, partner=jnp.array([3, 0, 2, 4, 1]))
    views = np.where(valid.reshape(-1, 1, 1), VIEWS, np.nan)
    batch = {"views": views, "valid": valid, "mix": mix}
    options = {"sem_weight": sem_weight, "consistency_weight": 3.0, "passes": passes}
    aux = aux_of(batch=batch, **options)
    logits = [mlp_by_hand(x)[0] for x in (IMAGES, VIEWS[:, 0], VIEWS[:, 1])]
    close(aux["consistency"], divergence(logits)[valid].mean())
    total = aux["mixed_loss"] + sem_weight * aux["gap"] + 3 * aux["consistency"]
    close(aux["loss"], total)
    without = aux_of(batch=batch, sem_weight=0.7)
    close(aux["mixed_loss"], without["mixed_loss"])
    close(aux["gap"], without["gap"] if sem_weight else 0)


@pytest.mark.parametrize(("mixes", "passes"), [(False, [5, 5, 5]), (True, [5, 5, 5, 5])])
def test_the_rows_forwarded_are_those_of_the_table(mixes, passes):
    seen = []

    def counting(params, images, rng):
        seen.append(len(images))
        return mlp(params, images, rng)

    policy = semjax.mixup() if mixes else None
    aux_of(counting, batch={"views": VIEWS}, policy=policy, sem_weight=0, consistency_weight=1)
    assert seen == passes


def test_every_pass_has_a_key_of_its_own():
    seen = []

    def recording(params, images, rng):
        seen.append(np.asarray(jax.random.key_data(rng)).tolist())
        return mlp(params, images, rng)

    batch = {"image": IMAGES, "label": LABEL, "views": VIEWS}
    make_sem_loss(recording, consistency_weight=1)(PARAMS, batch, jax.random.key(0))
    assert len({tuple(key) for key in seen}) == len(seen) == 4


def test_consistency_of_dense_predictions_is_the_mean_over_cells():
    images, views = normal(2, 2, 3, 3), normal(2, 2, 2, 3, 3, seed=1)
    batch = {"image": images, "label": np.zeros((2, 2, 3), int), "views": views}
    options = {"policy": None, "sem_weight": 0, "consistency_weight": 1.0}
    aux = aux_of(lookup, {}, batch, **options)
    close(aux["consistency"], divergence([images, views[:, 0], views[:, 1]]).mean())


def test_weights_may_follow_the_step():
    batch = {"views": VIEWS, "mix": MIX, "step": jnp.int32(2)}
    aux = aux_of(batch=batch, consistency_weight=lambda step: 0.5 * step)
    close(aux["loss"], aux["mixed_loss"] + aux["gap"] + aux["consistency"])
    with pytest.raises(ValueError, match="batch needs 'step' because consistency_weight is a"):
        aux_of(batch={"views": VIEWS}, consistency_weight=lambda step: step)


def test_a_python_weight_of_0_leaves_the_program_as_it_is():
    batch = {"image": IMAGES, "label": LABEL, "views": VIEWS}

    def program(**options):
        loss = make_sem_loss(mlp, **options)
        return str(jax.make_jaxpr(loss)(PARAMS, batch, jax.random.key(0)))

    assert program(consistency_weight=0) == program(consistency_weight=0.0) == program()
    assert program(consistency_weight=jnp.float32(0)) != program()


def test_other_options_leave_the_mix_alone():
    batch = {"image": IMAGES, "label": LABEL, "views": VIEWS}
    options = [{}, {"consistency_weight": 1}, {"sem_weight": 0}, {"clean_weight": 1}]
    weights = [float(aux_of(batch=batch, **each)["weight"]) for each in options]
    assert len(set(weights)) == 1


@pytest.mark.parametrize(
    "views", [None, VIEWS[:, 0], VIEWS[:3], VIEWS[:, :, :2], VIEWS[:, :0]], ids=repr
)
def test_views_that_do_not_fit_are_refused(views):
    with pytest.raises(ValueError, match=r"needs batch\['views'\].*\(5, 4\); found"):
        aux_of(batch={"views": views}, consistency_weight=1)


def test_views_must_be_floating_and_of_one_input():
    with pytest.raises(TypeError, match=r"batch\['views'\] must be floating.*found uint8"):
        aux_of(batch={"views": VIEWS.astype(np.uint8)}, consistency_weight=1)
    tree = {"image": {"a": IMAGES, "b": IMAGES}, "views": VIEWS}
    with pytest.raises(ValueError, match=r"is for one input; batch\['image'\] is a tree of 2"):
        aux_of(batch=tree, consistency_weight=1)


# --- sample weights ---------------------------------------------------------------------------

SAMPLE_WEIGHT = np.array([2.0, 0.5, 3.0, 1.0, 0.0], np.float32)


def test_sample_weights_weigh_both_labels_of_mixed_rows_and_clean_rows():
    aux = aux_of(batch={"sample_weight": SAMPLE_WEIGHT, "mix": MIX}, clean_weight=0.5)
    logits, one_hot = mlp_by_hand(mixed(IMAGES))[0], np.eye(CLASSES)[LABEL]
    own = SAMPLE_WEIGHT * reference.cross_entropy(logits, one_hot)
    other = SAMPLE_WEIGHT[PARTNER] * reference.cross_entropy(logits, one_hot[PARTNER])
    close(aux["mixed_loss"], (WEIGHT * own + (1 - WEIGHT) * other).mean())
    clean = SAMPLE_WEIGHT * reference.cross_entropy(mlp_by_hand(IMAGES)[0], one_hot)
    close(aux["clean_loss"], clean.mean())
    close(aux["loss"], aux["mixed_loss"] + 0.5 * aux["clean_loss"] + aux["gap"])
    close(aux["gap"], aux_of(batch={"mix": MIX})["gap"])


def test_sample_weights_of_padding_go_nowhere():
    valid = np.array([True, True, False, True, True])
    mix = dataclasses.replace(MIX, partner=jnp.array([3, 0, 2, 4, 1]))
    weights = [np.where(valid, SAMPLE_WEIGHT, other) for other in (0, np.nan)]
    batches = [{"sample_weight": w, "valid": valid, "mix": mix} for w in weights]
    assert aux_of(batch=batches[0])["loss"] == aux_of(batch=batches[1])["loss"]


@pytest.mark.parametrize("shape", [(4,), (5, 1), ()])
def test_sample_weights_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"'sample_weight'\] must have shape \(5,\); found"):
        aux_of(batch={"sample_weight": np.ones(shape, np.float32)})


# --- dense labels -----------------------------------------------------------------------------

PICTURES, DENSE = (
    normal(ROWS, 4, 6, 2, seed=7),
    np.random.default_rng(8).integers(0, 3, (ROWS, 4, 6)),
)
CELLS = {"w": normal(2, 6, seed=9), "head": PARAMS["head"]}


def pixelwise(params, images, rng):
    """A prediction for every pixel, or for blocks of 2 x 2."""
    cells = jnp.tanh(images @ params["w"])
    return Outputs(logits=cells @ params["head"], representation=cells)


def pixelwise_by_hand(images):
    cells = np.tanh(np.float64(images) @ np.float64(CELLS["w"]))
    return cells @ np.float64(CELLS["head"]), cells


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("masked", [True, False])
def test_dense_labels_are_mixed_as_their_pixels_are(masked, soft):
    mix = MASKED if masked else MIX
    by_hand = (
        mixed if not masked else functools.partial(reference.interpolate_spatial, PARTNER, MASK)
    )
    one_hot = np.eye(CLASSES, dtype=np.float32)[DENSE]
    batch = {"image": PICTURES, "label": one_hot if soft else DENSE, "mix": mix}
    aux = aux_of(pixelwise, CELLS, batch, clean_weight=1.0, label_smoothing=0.1)
    logits, features = pixelwise_by_hand(by_hand(PICTURES))
    clean_logits, clean = pixelwise_by_hand(PICTURES)
    smooth = 0.9 * one_hot + 0.1 / CLASSES

    def loss(logits, targets):
        return reference.cross_entropy(logits.reshape(-1, 3), targets.reshape(-1, 3)).mean()

    close(aux["mixed_loss"], loss(logits, by_hand(smooth)))
    close(aux["clean_loss"], loss(clean_logits, smooth))
    close(aux["gap"], np.square(features - by_hand(clean)).mean())
    share = MASK[..., 0] if masked else WEIGHT.reshape(-1, 1, 1)
    guess = logits.argmax(-1)
    hits = share * (guess == DENSE) + (1 - share) * (guess == DENSE[PARTNER])
    close(aux["accuracy"], hits.mean())
    close(aux["clean_accuracy"], (clean_logits.argmax(-1) == DENSE).mean())


def test_padded_dense_labels_count_nowhere():
    valid = np.array([True, True, False, True, True])
    mix = dataclasses.replace(MASKED, partner=jnp.array([3, 0, 2, 4, 1]))
    losses = []
    for other in (0, 99):
        label = np.where(valid.reshape(-1, 1, 1), DENSE, other)
        batch = {"image": PICTURES, "label": label, "valid": valid, "mix": mix}
        losses.append(aux_of(pixelwise, CELLS, batch)["loss"])
    assert losses[0] == losses[1]


# --- regression -------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_are_mixed_and_their_squared_error_is_the_loss(outputs):
    label = normal(ROWS, outputs, seed=10)
    params = {"w": PARAMS["w"], "head": PARAMS["head"][:, :outputs]}
    batch = {"label": label[:, 0] if outputs == 1 else label, "mix": MIX}
    aux = aux_of(mlp, params, batch, label_loss="mse", clean_weight=0.5)
    predicted = mlp_by_hand(mixed(IMAGES))[0][:, :outputs]
    close(aux["mixed_loss"], np.square(predicted - mixed(label)).mean())
    close(aux["clean_loss"], np.square(mlp_by_hand(IMAGES)[0][:, :outputs] - label).mean())
    close(aux["loss"], aux["mixed_loss"] + 0.5 * aux["clean_loss"] + aux["gap"])
    assert (aux["accuracy"], aux["clean_accuracy"]) == (0, 0)


def test_whole_numbers_may_be_labels_of_a_regression():
    params = {"w": PARAMS["w"], "head": PARAMS["head"][:, :1]}
    losses = [
        aux_of(mlp, params, {"label": LABEL.astype(dtype), "mix": MIX}, label_loss="mse")["loss"]
        for dtype in (np.int32, np.float32)
    ]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"consistency_weight": 1.0}])
def test_a_regression_has_no_classes(options):
    with pytest.raises(ValueError, match="label_loss='mse' has no classes"):
        make_sem_loss(mlp, label_loss="mse", **options)


def test_labels_of_a_regression_must_fit_the_outputs():
    with pytest.raises(ValueError, match=r"labels \(5,\) do not fit the model's output \(5, 3\)"):
        aux_of(label_loss="mse")


# --- trees of inputs --------------------------------------------------------------------------


def two_inputs(params, inputs, rng):
    flat = jnp.concatenate([inputs["picture"].mean((1, 2)), inputs["age"]], 1)
    features = jnp.tanh(flat @ params["w"])
    return Outputs(logits=features @ params["head"], representation=features)


TREE = {"age": normal(ROWS, 2, seed=11), "picture": PICTURES}


@pytest.mark.parametrize("passes", ["separate", "joint"])
@pytest.mark.parametrize("mix", [MIX, MASKED], ids=["weight", "mask"])
def test_every_input_of_a_tree_is_mixed_by_the_one_mix(mix, passes):
    """Pictures cell by cell, what has no cells by the weight."""
    aux = aux_of(two_inputs, batch={"image": TREE, "mix": mix}, passes=passes)
    picture = mixed(PICTURES)
    if mix.mask is not None:
        picture = reference.interpolate_spatial(PARTNER, MASK, PICTURES)

    def flat(picture, age):
        return np.concatenate([picture.mean((1, 2)), age], 1)

    logits, features = mlp_by_hand(flat(picture, mixed(TREE["age"], mix)))
    _, clean = mlp_by_hand(flat(PICTURES, TREE["age"]))
    targets = mixed(np.eye(CLASSES)[LABEL], mix)
    close(aux["mixed_loss"], reference.cross_entropy(logits, targets).mean())
    close(aux["gap"], np.square(features - mixed(clean, mix)).mean())


def test_policies_see_the_picture_of_a_tree():
    seen = []

    def policy(key, batch, probe=None):
        seen.append(batch["image"].shape)
        return MIX

    aux_of(two_inputs, batch={"image": TREE}, policy=policy)
    assert seen == [(ROWS, 4, 6, 2)]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ({}, ValueError, "must hold at least one array; found none"),
        ({**TREE, "age": np.ones((ROWS, 2), int)}, TypeError, "must be floating; found int"),
        ({**TREE, "age": TREE["age"][:3]}, ValueError, r"B >= 1; found shape \(3, 2\)"),
        ({**TREE, "age": TREE["age"][:, 0]}, ValueError, r"B >= 1; found shape \(5,\)"),
    ],
)
def test_trees_that_do_not_fit_are_refused(image, error, message):
    with pytest.raises(error, match=message):
        aux_of(two_inputs, batch={"image": image})


# --- what comes back, and the laws ------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"policy": None, "sem_weight": 0},
        {"consistency_weight": 12, "clean_weight": 1},
        {"sem_weight": 0, "label_loss": "bce"},
    ],
)
def test_aux_has_the_same_keys_whatever_the_options(options):
    aux = aux_of(batch={"views": VIEWS}, **options)
    assert set(aux) == AUX
    assert (aux["consistency"] == 0) == ("consistency_weight" not in options)
    numbers = [value for name, value in aux.items() if name != "model_state"]
    assert all(value.shape == () and value.dtype == jnp.float32 for value in numbers)


def test_an_affine_representation_has_no_gap_at_extrapolated_weights_either():
    def affine(params, images, rng):
        outputs = mlp(params, images, rng)
        return dataclasses.replace(outputs, representation=images @ params["w"] + 3)

    for bounds in ((1.5, 2.0), (-1.0, -0.5)):
        policy = semjax.mixup(weight_range=bounds, weight_scope="sample", pairing="derangement")
        aux = aux_of(affine, policy=policy, distance="l1")
        assert bounds[0] <= aux["weight"] <= bounds[1]
        assert aux["gap"] < 3e-6
        assert aux_of(policy=policy, distance="l1")["gap"] > 1e-2


def test_extrapolated_labels_are_extrapolated_too():
    mix = dataclasses.replace(MIX, weight=1 + MIX.weight)
    aux = aux_of(batch={"mix": mix})
    targets = mixed(np.eye(CLASSES)[LABEL], mix)
    logits = mlp_by_hand(mixed(IMAGES, mix))[0]
    close(aux["mixed_loss"], reference.cross_entropy(logits, targets).mean())


def test_a_policy_that_asks_the_model_is_handed_the_one_of_the_loss():
    """Its saliency is the gradient of the loss's own label loss at the clean rows."""
    seen = []

    def policy(key, batch, probe=None):
        seen.append(probe.saliency())
        return MIX

    batch = {"image": PICTURES, "label": DENSE}
    loss = make_sem_loss(pixelwise, policy=policy, label_smoothing=0.1)
    loss(CELLS, batch, jax.random.key(0))
    targets = 0.9 * np.eye(CLASSES)[DENSE] + 0.1 / CLASSES

    def total(images):
        logits = pixelwise(CELLS, images, None).logits
        return -(targets * jax.nn.log_softmax(logits)).sum() / 24

    gradient = jax.grad(total)(jnp.asarray(PICTURES))
    close(seen[0], np.sqrt(np.square(gradient).mean(-1)))
