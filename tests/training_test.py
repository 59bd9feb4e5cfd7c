"""The step: what it updates, what it refuses to update, and that it is a function of its arguments.

The model is one linear layer behind a normalisation with running statistics, written here so that
its state is in plain sight.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

import semjax
from semjax import Mix, Outputs, TrainState, make_sem_loss, train_step
from semjax.training import decay_mask, eval_step, init_state, make_optimizer

CLASSES = 3


def mlp(params, images, rng):
    features = jnp.tanh(images.reshape(len(images), -1) @ params["w"] + params["b"][None])
    return Outputs(logits=features @ params["head"], representation=features)


def recording(model_state, params, images, rng):
    """A model whose state is what it was shown last."""
    return dataclasses.replace(mlp(params, images, rng), model_state={"seen": images})


def normalised(model_state, params, images, rng):
    """Normalisation over the batch, with a running mean."""
    mean = images.mean(0)
    outputs = mlp(params, images - mean[None], rng)
    state = {"mean": 0.9 * model_state["mean"] + 0.1 * mean}
    return dataclasses.replace(outputs, model_state=state)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def params_of():
    return {"w": normal(8, 4, seed=1), "b": normal(4, seed=2), "head": normal(4, CLASSES, seed=3)}


def batch_of(rows=8, **extra):
    """Classes that can be told apart: each lights a pixel of its own."""
    label = np.arange(rows) % CLASSES
    image = np.array(normal(rows, 2, 2, 2, seed=4)) * 0.3
    image.reshape(rows, 8)[np.arange(rows), label] += 2
    return {"image": image, "label": label, **extra}


def stateless(**options):
    loss = make_sem_loss(mlp, **options)
    return lambda model_state: loss


def step_of(make_loss=None, optimizer=None, **options):
    return functools.partial(
        train_step,
        make_loss=make_loss or stateless(),
        optimizer=optimizer or optax.sgd(0.1),
        **options,
    )


def state_of(optimizer=None, **options):
    return init_state(params_of(), optimizer or optax.sgd(0.1), **options)


def noisy(key, images):
    return images + jax.random.normal(key, images.shape)


def stateful_step(apply, **options):
    def make_loss(model_state):
        return make_sem_loss(functools.partial(apply, model_state), state_from="mixed")

    return step_of(make_loss, **options)


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_trees_close(a, b, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 1e-6}
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), a, b)


# --- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_reduce_the_loss(name):
    optimizer = make_optimizer(name, 0.1, weight_decay=1e-4, clip_norm=5.0)
    step = jax.jit(step_of(stateless(policy=None, sem_weight=0), optimizer))
    state, losses = state_of(optimizer), []
    for _ in range(30):
        state, logs = step(state, batch_of(), jax.random.key(0))
        losses.append(float(logs["loss"]))
    assert losses[-1] < 0.1 * losses[0]
    assert int(state.step) == 30


def test_logs_are_scalars_with_the_norm_of_the_gradient():
    batch, rng = batch_of(), 3
    _, logs = step_of()(state_of(), batch, jax.random.key(rng))
    after, _ = step_of(optimizer=optax.sgd(1.0))(state_of(), batch, jax.random.key(rng))
    moved = jax.tree.map(lambda a, b: np.square(a - b).sum(), params_of(), after.params)
    np.testing.assert_allclose(logs["grad_norm"], np.sqrt(sum(moved.values())), rtol=1e-5)
    assert {"loss", "mixed_loss", "clean_loss", "gap", "accuracy", "weight"} <= set(logs)
    assert "model_state" not in logs
    assert all(value.shape == () for value in logs.values())
    assert logs["skipped"] == 0


# --- optimisers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_equals_the_numpy_reference(momentum, nesterov):
    gradients = [
        {name: scale * normal(*p.shape, seed=seed + 10) for name, p in params_of().items()}
        for seed, scale in ((0, 1.0), (1, 0.01), (2, 3.0))
    ]
    optimizer = make_optimizer(
        "sgd", 0.2, weight_decay=0.05, clip_norm=2.0, momentum=momentum, nesterov=nesterov
    )
    params, opt_state = params_of(), optimizer.init(params_of())
    for grad in gradients:
        updates, opt_state = optimizer.update(grad, opt_state, params)
        params = optax.apply_updates(params, updates)
    wanted = reference.sgd_steps(
        params_of(), gradients, rate=0.2, momentum=momentum, decay=0.05, clip_norm=2.0,
        nesterov=nesterov,
    )  # fmt: skip
    assert_trees_close(params, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_is_for_kernels_alone(name):
    """With a gradient of 0 whatever moves is moved by the decay."""
    optimizer, params = make_optimizer(name, 0.2, weight_decay=0.05), params_of()
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    shrunk = jax.tree.map(lambda p: -0.2 * 0.05 * p if p.ndim > 1 else jnp.zeros_like(p), params)
    assert_trees_close(updates, shrunk, rtol=1e-6)


def test_adamw_clips_before_it_adapts():
    """Adam alone would not notice a gradient scaled by a constant."""
    params = {"b": jnp.ones(2)}

    def moved(second, **options):
        optimizer = make_optimizer("adamw", 0.1, **options)
        opt_state = optimizer.init(params)
        for grad in (jnp.array([0.6, 0.8]), second):
            updates, opt_state = optimizer.update({"b": grad}, opt_state, params)
        return updates["b"]

    long, clipped = jnp.array([-8e3, 6e3]), jnp.array([-0.8, 0.6])
    np.testing.assert_allclose(moved(long, clip_norm=1.0), moved(clipped), rtol=1e-5)
    assert abs(moved(long) - moved(clipped)).max() > 1e-2


def test_learning_rate_may_be_a_schedule():
    optimizer = make_optimizer("sgd", lambda count: 1.0 / (1 + count), momentum=0.0)
    ones, opt_state = {"b": jnp.ones(2)}, optimizer.init({"b": jnp.ones(2)})
    for rate in (1, 1 / 2, 1 / 3):
        updates, opt_state = optimizer.update(ones, opt_state, ones)
        np.testing.assert_allclose(updates["b"], -rate, rtol=1e-6)


def test_decay_mask_follows_the_structure():
    mask = decay_mask({"conv": {"kernel": np.ones((3, 3, 1, 2)), "bias": np.ones(2)}, "s": 1.0})
    assert mask == {"conv": {"kernel": True, "bias": False}, "s": False}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {}, "optimizer must be one of sgd, adamw; found 'adam'"),
        ("sgd", {"weight_decay": -1.0}, "weight_decay must be at least 0; found -1.0"),
        ("sgd", {"clip_norm": 0.0}, "clip_norm must be above 0, or None; found 0.0"),
    ],
)
def test_optimizer_options_out_of_range_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, 0.1, **options)


# --- the moving average -----------------------------------------------------------------------


def test_ema_follows_its_recursion():
    step, state = jax.jit(step_of(ema_decay=0.75)), state_of(ema=True)
    average = jax.tree.map(np.array, state.params)
    for _ in range(3):
        state, _ = step(state, batch_of(), jax.random.key(0))
        average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, average, state.params)
        assert_trees_close(state.ema_params, average)
    assert abs(average["w"] - state.params["w"]).max() > 1e-3


def test_no_average_is_kept_unless_asked_for():
    state, _ = step_of(ema_decay=0.9)(state_of(), batch_of(), jax.random.key(0))
    assert state.ema_params is None


# --- the guard --------------------------------------------------------------------------------


def guarded():
    """A step and a state with everything a step may change."""
    optimizer = make_optimizer("sgd", 0.1, weight_decay=1e-2)
    state = state_of(optimizer, ema=True, model_state={"mean": jnp.ones((2, 2, 2))})
    return jax.jit(stateful_step(normalised, optimizer=optimizer, ema_decay=0.5)), state


def test_nan_batch_changes_nothing_and_is_counted():
    step, state = guarded()
    state, _ = step(state, batch_of(), jax.random.key(0))
    bad = batch_of()
    bad["image"][3, 0, 0, 0] = np.nan
    after, logs = step(state, bad, jax.random.key(0))
    assert (logs["skipped"], int(after.step), int(after.skipped)) == (1, 2, 1)
    assert_trees_equal(dataclasses.replace(after, step=state.step, skipped=state.skipped), state)


def test_steps_go_on_after_a_skipped_one():
    step, state = guarded()
    bad = batch_of()
    bad["image"][:] = np.inf
    after, _ = step(state, bad, jax.random.key(0))
    after, logs = step(after, batch_of(), jax.random.key(0))
    # As if the run had stood at step 1 with nothing done.
    wanted, _ = step(dataclasses.replace(state, step=state.step + 1), batch_of(), jax.random.key(0))
    assert_trees_equal(dataclasses.replace(after, skipped=wanted.skipped), wanted)
    assert (logs["skipped"], int(after.skipped)) == (0, 1)
    assert abs(after.params["w"] - state.params["w"]).max() > 1e-4


def test_gradient_that_is_not_finite_is_refused_though_the_loss_is():
    def steep(params, images, rng):
        outputs = mlp(params, images, rng)
        # The slope of the root at 0 is infinite, its value 0.
        return dataclasses.replace(outputs, logits=outputs.logits + jnp.sqrt(params["zero"]))

    params = {**params_of(), "zero": jnp.zeros((1, 1))}
    loss = make_sem_loss(
        lambda p, x, rng: steep({**p, "zero": p["zero"] * jnp.ones((8, 3))}, x, rng)
    )
    state = init_state(params, optax.sgd(0.1))
    after, logs = step_of(lambda _: loss)(state, batch_of(), jax.random.key(0))
    assert np.isfinite(logs["loss"])
    assert logs["skipped"] == 1
    assert_trees_equal(after.params, params)


def test_model_state_that_is_not_finite_is_refused():
    def broken(model_state, params, images, rng):
        return dataclasses.replace(mlp(params, images, rng), model_state={"mean": jnp.log(-1.0)})

    state = state_of(model_state={"mean": jnp.zeros(())})
    after, logs = stateful_step(broken)(state, batch_of(), jax.random.key(0))
    assert (logs["skipped"], after.model_state["mean"]) == (1, 0)
    assert_trees_equal(after.params, state.params)


# --- accumulation -----------------------------------------------------------------------------

POLICIES = {
    "mixup": semjax.mixup(groups=4, weight_scope="sample"),
    "cutmix": semjax.cutmix(groups=4, weight_scope="pair", pairing="reverse"),
    "roll": semjax.mixup(groups=2, pairing="roll"),
}


@pytest.mark.parametrize(("name", "padded"), [("mixup", True), ("cutmix", False), ("roll", True)])
def test_accumulated_step_equals_the_whole_step(name, padded):
    policy = POLICIES[name]
    make_loss = stateless(policy=policy, clean_weight=0.5, sem_weight=lambda step: 2.0 + step)
    # All of a part's padding in one place, so that the parts weigh differently.
    valid = {"valid": np.arange(16) < 11} if padded else {}
    batch = batch_of(16, **valid)
    if padded:
        batch["image"][11:] = np.nan
    whole, parts = (
        jax.jit(step_of(make_loss, accumulate=count, policy=policy))(
            state_of(), batch, jax.random.key(0)
        )
        for count in (1, 2)
    )
    assert_trees_close(parts[0].params, whole[0].params)
    scale_free = {"normalised_gap"}  # a ratio of means, not a mean
    for log in set(whole[1]) - scale_free:
        np.testing.assert_allclose(parts[1][log], whole[1][log], rtol=1e-5, atol=1e-6, err_msg=log)


def test_accumulation_without_mixing_equals_the_whole_step():
    make_loss = stateless(policy=None, sem_weight=0)
    whole, parts = (
        step_of(make_loss, accumulate=count)(state_of(), batch_of(12), jax.random.key(0))
        for count in (1, 4)
    )
    assert_trees_close(parts[0].params, whole[0].params)


def test_accumulation_augments_the_whole_batch():
    make_loss = stateless(policy=semjax.mixup(groups=4, pairing="roll"))
    policy = semjax.mixup(groups=4, pairing="roll")
    whole, parts = (
        step_of(make_loss, accumulate=count, policy=policy, augment=noisy)(
            state_of(), batch_of(16), jax.random.key(0)
        )
        for count in (1, 2)
    )
    assert_trees_close(parts[0].params, whole[0].params)


def test_accumulation_with_parts_that_are_all_padding():
    policy = POLICIES["mixup"]
    batch = batch_of(8, valid=np.arange(8) < 1)
    batch["image"][1:] = np.nan
    step = step_of(stateless(policy=policy), policy=policy, accumulate=4)
    _, logs = step(state_of(), batch, jax.random.key(0))
    assert logs["skipped"] == 0
    assert logs["loss"] > 0


def mixed_rows_of(accumulate, policy, rows=16):
    """Every row the model was shown in one step, in an order that does not matter."""

    def collecting(model_state, params, images, rng):
        seen = jnp.concatenate([model_state["seen"][len(images) :], images])
        return dataclasses.replace(mlp(params, images, rng), model_state={"seen": seen})

    def make_loss(model_state):
        apply_fn = functools.partial(collecting, model_state)
        return make_sem_loss(apply_fn, policy=policy, sem_weight=0)

    state = state_of(model_state={"seen": jnp.zeros((rows, 2, 2, 2))})
    step = step_of(make_loss, accumulate=accumulate, policy=policy)
    state, _ = step(state, batch_of(rows), jax.random.key(0))
    seen = np.asarray(state.model_state["seen"]).reshape(rows, -1)
    return seen[np.lexsort(seen.T)]


def test_accumulation_keeps_who_mixes_with_whom():
    policy = POLICIES["mixup"]
    np.testing.assert_allclose(mixed_rows_of(4, policy), mixed_rows_of(1, policy), atol=1e-6)


def test_accumulated_parts_take_every_other_group_and_update_the_state_in_turn():
    policy = semjax.mixup(alpha=0, groups=4)
    state = state_of(model_state={"mean": jnp.zeros((2, 2, 2))})
    step = stateful_step(normalised, accumulate=2, policy=policy)
    batch = batch_of(16)
    after, _ = step(state, batch, jax.random.key(0))
    groups = batch["image"].reshape(4, 4, 2, 2, 2)
    first, second = groups[[0, 2]].mean((0, 1)), groups[[1, 3]].mean((0, 1))
    wanted = 0.9 * (0.1 * first) + 0.1 * second
    np.testing.assert_allclose(after.model_state["mean"], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("groups", "rows", "accumulate"), [(1, 8, 2), (2, 8, 4), (3, 9, 2), (4, 8, 0), (4, 8, -2)]
)
def test_groups_that_no_part_can_hold_are_refused(groups, rows, accumulate):
    policy = semjax.mixup(groups=groups)
    step = step_of(stateless(policy=policy), accumulate=accumulate, policy=policy)
    with pytest.raises(ValueError, match=f"accumulate={accumulate} must divide the policy's group"):
        step(state_of(), batch_of(rows), jax.random.key(0))


def test_batch_that_parts_do_not_divide_is_refused():
    step = step_of(stateless(policy=None, sem_weight=0), accumulate=3)
    with pytest.raises(ValueError, match=r"accumulate=3 must divide .* a batch of 8 rows"):
        step(state_of(), batch_of(8), jax.random.key(0))


def test_accumulation_of_a_loss_that_mixes_needs_its_policy():
    step = step_of(stateless(policy=semjax.mixup(groups=2)), accumulate=2)
    with pytest.raises(TypeError, match="hand the loss's policy to train_step too"):
        step(state_of(), batch_of(), jax.random.key(0))


def test_accumulation_takes_a_mix_drawn_beforehand():
    mix = Mix(jnp.array([1, 0, 3, 2, 5, 4, 7, 6]), jnp.linspace(0, 1, 8), groups=4)
    policy = semjax.mixup(groups=4)
    whole, parts = (
        step_of(stateless(policy=policy), accumulate=count, policy=policy)(
            state_of(), batch_of(mix=mix), jax.random.key(0)
        )
        for count in (1, 2)
    )
    assert_trees_close(parts[0].params, whole[0].params)


def test_accumulation_keeps_the_dtype_of_the_parameters():
    policy = semjax.mixup(groups=2)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params_of())
    state = init_state(params, optax.sgd(0.1))
    step = step_of(stateless(policy=policy), accumulate=2, policy=policy)
    after, _ = step(state, batch_of(), jax.random.key(0))
    assert {p.dtype for p in jax.tree.leaves(after.params)} == {jnp.dtype("bfloat16")}


# --- a function of its arguments --------------------------------------------------------------


def shown(step_number, seed, *, params=None, augment=None):
    state = state_of(model_state={"seen": jnp.zeros((8, 2, 2, 2))})
    state = dataclasses.replace(state, step=jnp.array(step_number), params=params or state.params)
    step = stateful_step(recording, augment=augment)
    after, logs = step(state, batch_of(), jax.random.key(seed))
    return np.asarray(after.model_state["seen"]), float(logs["weight"])


@pytest.mark.parametrize("augment", [None, noisy])
def test_randomness_is_a_function_of_rng_and_step(augment):
    first, _ = shown(3, 0, augment=augment)
    other_params = jax.tree.map(lambda p: 2 * p, params_of())
    np.testing.assert_array_equal(shown(3, 0, augment=augment, params=other_params)[0], first)
    assert (shown(4, 0, augment=augment)[0] != first).any()
    assert (shown(3, 1, augment=augment)[0] != first).any()


def test_augmentation_has_a_stream_of_its_own():
    (plain, weight), (augmented, same_weight) = shown(3, 0), shown(3, 0, augment=noisy)
    assert weight == same_weight
    assert (plain != augmented).all()


def test_augmentation_may_take_integer_images():
    batch = {**batch_of(), "image": np.full((8, 2, 2, 2), 255, np.uint8)}
    step = step_of(augment=lambda key, images: images / jnp.float32(255))
    _, logs = step(state_of(), batch, jax.random.key(0))
    assert logs["skipped"] == 0


def test_state_taken_up_half_way_goes_on_alike():
    step = jax.jit(step_of(optimizer=optax.adam(0.1), ema_decay=0.5))
    state = state_of(optax.adam(0.1), ema=True)
    for _ in range(2):
        state, _ = step(state, batch_of(), jax.random.key(0))
    resumed = jax.tree.map(np.array, state)
    for _ in range(2):
        state, _ = step(state, batch_of(), jax.random.key(0))
        resumed, _ = step(resumed, batch_of(), jax.random.key(0))
    assert_trees_equal(resumed, state)


def test_step_is_compiled_once_and_gives_its_state_away():
    traces = []

    def make_loss(model_state):
        traces.append(1)
        return make_sem_loss(functools.partial(normalised, model_state), sem_weight=lambda s: s / 9)

    optimizer = make_optimizer("sgd", optax.linear_schedule(0.1, 0.0, 10), weight_decay=1e-3)
    step = jax.jit(step_of(make_loss, optimizer, ema_decay=0.9), donate_argnums=0)
    state = state_of(optimizer, ema=True, model_state={"mean": jnp.zeros((2, 2, 2))})
    for _ in range(3):
        old = state
        state, _ = step(state, batch_of(), jax.random.key(0))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves((old.params, old.ema_params)))
    assert step._cache_size() == 1
    rebuilt = jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), state)
    state, _ = step(rebuilt, batch_of(), jax.random.key(0))
    step(jax.tree.map(np.array, state), batch_of(), jax.random.key(0))
    assert len(traces) == 1


def test_state_is_made_of_strongly_typed_arrays():
    state = state_of(ema=True)
    assert isinstance(state, TrainState)
    counters = {"step": state.step, "skipped": state.skipped}
    for name, leaf in counters.items():
        assert (leaf.dtype, leaf.shape, leaf.weak_type) == (jnp.int32, (), False), name
    assert_trees_equal(state.ema_params, state.params)
    shared = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)}
    assert shared.isdisjoint(
        leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.ema_params)
    )


# --- evaluation -------------------------------------------------------------------------------


@pytest.mark.parametrize("ema", [False, True])
def test_evaluation_sums_over_valid_rows_of_the_weights_it_is_for(ema):
    """The average predicts class 0, the last weights class 1; the state adds to class 2."""
    state = init_state({"w": jnp.eye(3)[1:2]}, optax.sgd(0.1), model_state=jnp.zeros(3), ema=ema)
    if ema:
        state = dataclasses.replace(state, ema_params={"w": jnp.eye(3)[0:1]})

    def logits_fn(params, model_state, images):
        return images * params["w"] + model_state[None]

    batch = {
        "image": np.array([[5.0], [5.0], [5.0], [np.nan]], np.float32),
        "label": np.array([0, 1, 1, 1]),
        "valid": np.array([True, True, True, False]),
    }
    sums = eval_step(state, batch, logits_fn=logits_fn)
    assert (float(sums.count), float(sums.correct)) == (3, 1 if ema else 2)
    assert np.isfinite(sums.nll)
    state = dataclasses.replace(state, model_state=jnp.array([0.0, 0.0, 9.0]))
    assert eval_step(state, batch, logits_fn=logits_fn).correct == 0
    del batch["valid"]
    batch["image"][3] = 5.0
    assert eval_step(state, batch, logits_fn=logits_fn).count == 4
