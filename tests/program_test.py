"""From a config to compiled functions: what the flags do not show by themselves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import semjax
from experiments import models, program, sharding
from experiments.config import Config
from experiments.datasets import data as data_lib
from experiments.datasets import loading
from semjax import augment, augmix, randaugment

TINY = Config(model="mlp", batch_size=16, sem_weight=1.0, clean_weight=0.0)
SHARED = dataclasses.replace(TINY, share_prefix=True, policy_options="mixup.layers=(2,)")


@pytest.fixture(scope="module")
def digits() -> data_lib.Data:
    return loading.load("digits")


def _build(config: Config, data: data_lib.Data, total_steps: int = 10) -> program.Program:
    return program.build(config, data, total_steps, sharding.make_mesh())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"decay": "cosine"}, lambda t: 0.1 * 0.5 * (1 + np.cos(np.pi * t / 10))),
        ({"decay": "constant"}, lambda t: 0.1 + 0 * t),
        (
            {"decay": "cosine", "warmup_steps": 4},
            lambda t: np.where(
                t < 4, 0.1 * (t + 1) / 4, 0.1 * 0.5 * (1 + np.cos(np.pi * (t - 4) / 6))
            ),
        ),
    ],
)
def test_learning_rate(options: dict, expected, digits: data_lib.Data):
    schedule = _build(dataclasses.replace(TINY, **options), digits).learning_rate
    steps = np.arange(10)
    found = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose(found, expected(steps.astype(float)), rtol=1e-5)


def test_rows_per_step_doubles_with_a_clean_pass():
    assert program.rows_per_step(TINY) == 32
    assert program.rows_per_step(dataclasses.replace(TINY, sem_weight=0.0)) == 16
    both = dataclasses.replace(TINY, sem_weight=0.0, clean_weight=1.0)
    assert program.rows_per_step(both) == 32


def test_rows_per_step_counts_the_clean_rows_of_a_fraction():
    quarter = dataclasses.replace(TINY, sem_fraction=0.25, pairing_groups=4)
    assert program.rows_per_step(quarter) == 16 + 4
    seldom = dataclasses.replace(quarter, sem_every=2)
    assert program.rows_per_step(seldom) == 16 + 4 / 2
    assert program.without_gap(seldom).sem_fraction == 1
    shared = dataclasses.replace(SHARED, sem_every=2)
    assert program.rows_per_step(shared) == 16 + 16 / 2
    assert not program.without_gap(shared).share_prefix


def test_rows_per_step_are_a_mean_where_only_some_steps_have_a_gap():
    assert program.rows_per_step(dataclasses.replace(TINY, sem_every=4)) == 16 + 16 / 4
    clean = dataclasses.replace(TINY, sem_every=4, clean_weight=1.0)
    assert program.rows_per_step(clean) == 32


def test_one_step_in_k_has_the_gap_and_the_others_are_those_of_the_plain_method(
    digits: data_lib.Data,
):
    config = dataclasses.replace(TINY, sem_every=3, sem_ramp_steps=5)
    both = _build(config, digits)
    assert [both.step_at(step) is both.step for step in range(7)] == [
        *(True, False, False) * 2,
        True,
    ]
    with_gap = _build(dataclasses.replace(TINY, sem_ramp_steps=5), digits)
    plain = _build(dataclasses.replace(TINY, sem_weight=0.0), digits)
    assert with_gap.plain_step is plain.plain_step is None
    assert plain.step_at(1) is plain.step
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((16,), np.int32),
    }

    def text(step: program.Step) -> str:
        return step.lower(both.state_shape, batch, both.rng).as_text()

    assert text(both.step) == text(with_gap.step)
    assert text(both.plain_step) == text(plain.step) != text(with_gap.step)


@pytest.mark.parametrize("clean_weight", [0.0, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"passes": "joint"},
        {"state_from": "clean"},
        {"state_from": "both"},
        {"stop_gradient": "clean", "distance": "cosine"},
        {"representation": "layer1", "model": "resnet20"},
        {"mixed_augmentation": "augmix"},
        {"sem_ramp_steps": 3},
    ],
    ids=str,
)
def test_whatever_the_gap_is_asked_of_a_step_without_it_can_be(options: dict, clean_weight: float):
    config = dataclasses.replace(TINY, clean_weight=clean_weight, **options)
    assert program.rows_per_step(program.without_gap(config)) == 16 + 16 * (clean_weight > 0)


@pytest.mark.parametrize(
    ("options", "as_if"),
    [({}, "clean"), ({"sem_every": 2}, "mixed"), ({"sem_every": 2, "clean_weight": 1.0}, "clean")],
)
def test_statistics_are_of_one_kind_of_rows_in_all_steps(
    options: dict, as_if: str, digits: data_lib.Data
):
    config = dataclasses.replace(TINY, model="resnet20", **options)
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((16,), np.int32),
    }

    def text(state_from: str) -> str:
        chosen = dataclasses.replace(config, state_from=state_from, sem_every=1)
        chosen = config if state_from == "auto" else chosen
        built = _build(chosen, digits)
        return built.step.lower(built.state_shape, batch, built.rng).as_text()

    assert text("auto") == text(as_if)


def test_a_shared_prefix_is_part_of_the_step(digits: data_lib.Data):
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((16,), np.int32),
    }

    def text(config: Config) -> str:
        built = _build(config, digits)
        return built.step.lower(built.state_shape, batch, built.rng).as_text()

    assert text(SHARED) != text(dataclasses.replace(SHARED, share_prefix=False))


def test_parameter_count_is_of_the_parameters_alone(digits: data_lib.Data):
    config = dataclasses.replace(TINY, model="cnn", ema_decay=0.9)
    variables = models.create("cnn", 10).init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False
    )
    expected = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert program.parameter_count(_build(config, digits).state_shape) == expected


def test_init_is_a_function_of_the_seed_and_fits_the_template(digits: data_lib.Data):
    first, second = _build(TINY, digits), _build(dataclasses.replace(TINY, seed=1), digits)
    state = first.init()
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), state)
    template = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), first.state_shape)
    assert shapes == template
    again = _build(TINY, digits).init()
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
    kernels = [jax.tree.leaves(built.init().params)[-1] for built in (first, second)]
    assert not np.array_equal(*kernels)


def test_evaluation_counts_every_row_once_whatever_the_batch(digits: data_lib.Data):
    built = _build(TINY, digits)
    state, mesh = built.init(), sharding.make_mesh()
    totals = []
    for size in (64, 200):
        parts = [
            built.evaluate(state, sharding.put_batch(batch, mesh))
            for batch in data_lib.eval_batches(digits.test, size)
        ]
        totals.append(jax.tree.map(lambda *x: np.sum(x, axis=0), *parts))
    assert totals[0].count == totals[1].count == 360
    assert totals[0].correct == totals[1].correct
    np.testing.assert_allclose(totals[0].nll, totals[1].nll, rtol=1e-5)


def test_training_images_are_scaled_and_evaluation_ones_alike(digits: data_lib.Data):
    # With no augmentation asked for, both see (x / 255 - mean) / std.
    images = digits.train.image[:32]
    found = program._augmentation(TINY, digits)(jax.random.key(0), images)
    expected = (images / 255.0 - digits.mean) / digits.std
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# --- the layer that the gap compares ----------------------------------------------------------

MASK = (np.random.default_rng(2).random((6, 8, 8, 1)) < 0.5).astype(np.float32)
MIX = semjax.Mix(
    jnp.array([2, 0, 5, 1, 3, 4]), jnp.asarray(MASK.mean((1, 2, 3))), jnp.asarray(MASK)
)


@pytest.mark.parametrize(
    ("model", "layer", "module"),
    [("cnn", 1, "norm1"), ("cnn", 2, "norm2"), ("mlp", 1, "dense1"), ("mlp", 2, "dense2")],
)
def test_the_gap_of_a_hidden_layer_is_that_of_its_outputs(model: str, layer: int, module: str):
    """As Flax itself tells them, mixed by hand: cell by cell, or as wholes where there are none."""
    config = dataclasses.replace(TINY, model=model, representation=f"layer{layer}")
    network = models.create(model, 10)
    images = np.random.default_rng(3).normal(size=(6, 8, 8, 1)).astype(np.float32)
    init = jax.jit(functools.partial(network.init, train=False))
    variables = dict(init(jax.random.key(0), images))
    params = variables.pop("params")
    batch = {"image": images, "label": np.arange(6), "mix": MIX}
    loss = program._loss_maker(config, network, semjax.cutmix())(variables or None)
    aux = jax.jit(loss)(params, batch, jax.random.key(0))[1]

    @jax.jit
    def outputs(images: jax.Array) -> jax.Array:
        _, found = network.apply(
            {"params": params, **variables},
            images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda part, _: part.name == module,
        )
        return found["intermediates"][module]["__call__"][0]

    mixed = outputs(jnp.float32(reference.interpolate_spatial(MIX.partner, MASK, images)))
    clean = np.asarray(outputs(images))
    target = (
        reference.interpolate(MIX.partner, MIX.weight, clean)
        if clean.ndim == 2
        else reference.interpolate_spatial(MIX.partner, MASK, clean)
    )
    wanted = reference.gap(mixed, target, "mse")
    assert wanted > 1e-3
    np.testing.assert_allclose(aux["gap"], wanted, rtol=1e-4)


def test_a_hidden_layer_is_compared_after_the_mixing_before_it():
    """Mixed at layer 1, the rows of layer 2 come from what layer 1 became."""
    options = {"policy_options": "mixup.layers=(1,)", "representation": "layer2"}
    network = models.create("mlp", 10)
    images = np.random.default_rng(3).normal(size=(6, 8, 8, 1)).astype(np.float32)
    params = jax.jit(lambda key: network.init(key, images, train=False))(jax.random.key(0))[
        "params"
    ]
    mix = dataclasses.replace(MIX, mask=None, layer=jnp.ones(6, jnp.int32), layers=(1,))
    batch = {"image": images, "label": np.arange(6), "mix": mix}
    kernels = [np.float64(params[name]["kernel"]) for name in ("dense1", "dense2")]
    first = images.reshape(6, -1) @ kernels[0]
    mixed, clean = (
        np.maximum(x, 0) @ kernels[1]
        for x in (reference.interpolate(mix.partner, mix.weight, first), first)
    )
    wanted = reference.gap(mixed, reference.interpolate(mix.partner, mix.weight, clean), "mse")
    for share_prefix in (False, True):
        config = dataclasses.replace(TINY, share_prefix=share_prefix, **options)
        loss = program._loss_maker(config, network, semjax.mixup())(None)
        aux = jax.jit(loss)(params, batch, jax.random.key(0))[1]
        np.testing.assert_allclose(aux["gap"], wanted, rtol=1e-4)


# --- the augmentation of the mixed rows alone -------------------------------------------------


def test_the_rows_that_are_mixed_are_augmented_alone(digits: data_lib.Data):
    own = {"randaugment_layers": 1, "randaugment_magnitude": 20.0}
    config = dataclasses.replace(TINY, mixed_augmentation="randaugment", flip=True, **own)
    images, key = digits.train.image[:8], jax.random.key(4)
    _, flip_key, _, _, views_key = jax.random.split(jax.random.clone(key), 5)
    flipped = augment.random_flip(flip_key, images)
    mix_key, _ = jax.random.split(views_key)
    make = functools.partial(randaugment.randaugment, layers=1, magnitude=20.0)
    changed = jax.jit(make)(mix_key, flipped)
    assert np.abs(np.float32(changed) - np.float32(flipped)).max() > 10
    found = jax.jit(program._augmentation(config, digits))(key, images)
    assert set(found) == {"image", "views"}
    assert found["views"].shape == (8, 1, 8, 8, 1)
    for scaled, pixels in ((found["image"], flipped), (found["views"][:, 0], changed)):
        expected = (np.float32(pixels) / 255 - digits.mean) / digits.std
        np.testing.assert_allclose(scaled, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"clean_weight": 1.0},
        {"augmentation": "randaugment"},
        {"pairing_groups": 2, "accumulate": 2},
    ],
    ids=str,
)
def test_a_step_with_the_gap_and_one_without_see_the_rows_they_are_to_see(
    options: dict, digits: data_lib.Data, monkeypatch: pytest.MonkeyPatch
):
    """AugMix inverts and RandAugment halves here; nothing is mixed, so that rows are known."""
    monkeypatch.setattr(augmix, "augmix", lambda key, images: 255 - images)
    monkeypatch.setattr(randaugment, "randaugment", lambda key, images, **_: images // 2)
    config = dataclasses.replace(
        TINY, mixed_augmentation="augmix", mix_probability=0.0, sem_every=2, **options
    )
    built, mesh = _build(config, digits), sharding.make_mesh()
    state = built.init()
    params = jax.device_get(state.params)
    rows = {"image": digits.train.image[:16], "label": digits.train.label[:16]}
    batch = sharding.put_batch(rows, mesh)

    def outputs(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = ((pixels / 255.0 - digits.mean) / digits.std).reshape(16, -1)
        for name in ("dense1", "dense2", "head"):
            pooled = x
            x = pooled @ np.float64(params[name]["kernel"]) + params[name]["bias"]
            logits, x = x, np.maximum(x, 0)
        return logits, pooled

    one_hot = np.eye(10)[rows["label"]]
    logits, mixed = outputs(255 - rows["image"])
    changed = "augmentation" in options
    clean_logits, clean = outputs(rows["image"] // 2 if changed else rows["image"])
    # A step donates its state: the one without the gap is tried first, from a copy.
    _, plain = built.plain_step(jax.tree.map(jnp.copy, state), batch, built.rng)
    _, whole = built.step(state, batch, built.rng)
    for logs in (plain, whole):
        loss = reference.cross_entropy(logits, one_hot).mean()
        np.testing.assert_allclose(logs["mixed_loss"], loss, rtol=1e-4)
        if logs is whole or "clean_weight" in options:
            right = clean_logits.argmax(1) == rows["label"]
            np.testing.assert_allclose(logs["clean_accuracy"], right.mean(), rtol=1e-5)
    np.testing.assert_allclose(whole["gap"], reference.gap(mixed, clean, "mse"), rtol=1e-4)
    assert plain["gap"] == 0


def test_rows_per_step_do_not_grow_with_the_augmentation_of_the_mixed():
    for config in (TINY, dataclasses.replace(TINY, sem_every=2)):
        augmented = dataclasses.replace(config, mixed_augmentation="augmix")
        assert program.rows_per_step(augmented) == program.rows_per_step(config)
    plain = program.without_gap(augmented)
    assert (plain.augmentation, plain.mixed_augmentation) == ("augmix", "none")
    clean = program.without_gap(dataclasses.replace(augmented, clean_weight=1.0))
    assert (clean.augmentation, clean.mixed_augmentation) == ("none", "augmix")


def test_the_gap_of_an_evaluation_is_that_of_its_formula(digits: data_lib.Data):
    built = _build(Config(model="mlp", policy="none", sem_weight=0.0, batch_size=16), digits)
    state, rows = built.init(), 13
    images, labels = digits.test.image[:16], digits.test.label[:16]
    batch = {"image": images, "label": labels, "valid": np.arange(16) < rows}
    found, count = built.gap(state, batch)

    scaled = np.array(augment.normalise(images, digits.mean, digits.std))
    scaled[rows:] = 0
    key = jax.random.key(0)
    mix = semjax.draw_mix(semjax.mixup(weight_scope="sample"), {**batch, "image": scaled}, key)
    weight, partner = np.asarray(mix.weight), np.asarray(mix.partner)
    assert (partner[:rows] < rows).all() and (partner[:rows] != np.arange(rows)).any()

    def pooled(x: np.ndarray) -> np.ndarray:
        module = models.create("mlp", 10)
        return np.asarray(module.apply({"params": state.params}, x, train=False).pooled)

    def mixed(x: np.ndarray) -> np.ndarray:
        by = weight.reshape(-1, *(1,) * (x.ndim - 1))
        return by * x + (1 - by) * x[partner]

    target = mixed(pooled(scaled))[:rows]
    square = np.square(pooled(mixed(scaled))[:rows] - target).mean()
    np.testing.assert_allclose(found, square / (target.var(0).mean() + 1e-6), rtol=1e-4)
    assert count == rows
