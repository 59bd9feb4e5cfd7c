"""From a config to the functions that are compiled: model, loss, step and evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

import semjax
from experiments import models, policies, sharding
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.datasets.data import Data
from experiments.layers import convolution
from experiments.training import feed
from semjax import augment, augmix, pixmix, randaugment, resized_crop, training
from semjax.options import fraction_parts

# Mixing pictures of PixMix, generated once a run, and the options that give their size.
_PICTURES = 128
_PICTURE = ("height", "width", "channels")

Collections = dict[str, Any]
Step = Callable[..., tuple[training.TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A run's compiled functions.

    Attributes:
      init: `init() -> TrainState`, made on the devices from the seed alone.
      step: `step(state, batch, rng) -> (state, logs)`; the state given is donated, the batch is
        one of `experiments.training.feed`.
      plain_step: the same without the gap, for the steps that leave it out; None if none does.
      evaluate: `evaluate(state, batch) -> semjax.metrics.Sums`.
      correct: `correct(state, batch) -> f32[B]`, which rows are right.
      gap: `gap(state, batch) -> (f32[], f32[])`, the normalised gap of mixup in evaluation mode,
        and the rows that it is a mean over.
      learning_rate: `learning_rate(step) -> f32[]`.
      state_shape: the state as shapes with shardings, the template a checkpoint is restored into.
      rng: the root key of the steps.
      sem_every: k, the gap is part of every k-th step from the first on.
    """

    init: Callable[[], training.TrainState]
    step: Step
    plain_step: Step | None
    evaluate: Callable[..., semjax.metrics.Sums]
    correct: Callable[..., jax.Array]
    gap: Callable[..., tuple[jax.Array, jax.Array]]
    learning_rate: Callable[[Any], Any]
    state_shape: training.TrainState
    rng: jax.Array
    sem_every: int = 1

    def step_at(self, step: int) -> Step:
        """The step function of a step counted from 0, as `state.step` counts."""
        if self.plain_step is not None and step % self.sem_every:
            return self.plain_step
        return self.step


def build(config: Config, data: Data, total_steps: int, mesh: Mesh) -> Program:
    """Builds the program of a run; nothing is compiled before its functions are called.

    Args:
      config: what the run is.
      data: gives the image shape, the classes and the normalisation.
      total_steps: length of the learning-rate schedule.
      mesh: the devices.

    Returns:
      A Program.

    Raises:
      ConfigError: --convolutions=onednn where it cannot be used.
    """
    try:
        lowering = convolution.choose(
            config.convolutions, platform=jax.default_backend(), devices=mesh.size
        )
    except ValueError as error:
        raise ConfigError(f"--convolutions={config.convolutions}: {error}") from error
    module = models.create(
        config.model,
        data.num_classes,
        compute_dtype=config.compute_dtype,
        lowering=lowering,
        remat=config.remat,
    )
    learning_rate = _learning_rate(config, total_steps)
    optimizer = _optimizer(config, learning_rate)
    init_key, rng = jax.random.split(jax.random.key(config.seed))
    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)

    image_shape = data.image_shape
    init = jax.jit(
        functools.partial(_init, module, optimizer, image_shape, config.ema_decay > 0),
        out_shardings=everywhere,
    )
    policy = policies.build(dataclasses.asdict(config), len(models.hidden_modules(config.model)))
    policy = policy and sharding.drawn_replicated(policy, mesh)

    def compiled(config: Config) -> Step:
        train_step = functools.partial(
            training.train_step,
            make_loss=_loss_maker(config, module, policy),
            optimizer=optimizer,
            augment=_augmentation(config, data),
            ema_decay=config.ema_decay,
            accumulate=config.accumulate,
            policy=policy,
        )

        def step(state: training.TrainState, batch: Any, rng: jax.Array) -> Any:
            return train_step(state, feed.batch_of(batch, mesh), rng)

        return jax.jit(
            step,
            # A batch comes as its columns or as its rows; both bring their shardings.
            in_shardings=(everywhere, None, everywhere),
            out_shardings=everywhere,
            donate_argnums=0,
        )

    logits_fn = _logits_fn(module, data)
    evaluate = functools.partial(training.eval_step, logits_fn=logits_fn)

    def correct(state: training.TrainState, batch: dict[str, jax.Array]) -> jax.Array:
        params = state.params if state.ema_params is None else state.ema_params
        logits = logits_fn(params, state.model_state, batch["image"])
        return semjax.metrics.correct(logits, batch["label"])

    return Program(
        init=lambda: init(init_key),
        step=compiled(config),
        # A program of its own: a conditional inside one would lose the CPU's threads.
        plain_step=compiled(without_gap(config)) if config.sem_every > 1 else None,
        evaluate=jax.jit(evaluate, in_shardings=(everywhere, rows), out_shardings=everywhere),
        correct=jax.jit(correct, in_shardings=(everywhere, rows), out_shardings=everywhere),
        gap=jax.jit(
            functools.partial(_gap, module, data),
            in_shardings=(everywhere, rows),
            out_shardings=everywhere,
        ),
        learning_rate=learning_rate,
        state_shape=state_template(config, image_shape, data.num_classes, mesh),
        rng=sharding.put_everywhere(rng, mesh),
        sem_every=config.sem_every,
    )


def state_template(
    config: Config, image_shape: tuple[int, ...], num_classes: int, mesh: Mesh
) -> training.TrainState:
    """The state of a run as shapes with shardings: what a checkpoint of it is restored into.

    Args:
      config: what the run is.
      image_shape: (H, W, C).
      num_classes: K.
      mesh: the devices.

    Returns:
      A state of `jax.ShapeDtypeStruct`s.

    Raises:
      ConfigError: a model that does not take images of this size.
    """
    try:
        models.check_image(config.model, image_shape)
    except ValueError as error:
        raise ConfigError(f"--model={config.model}: {error}; --image_size changes them") from error
    module = models.create(config.model, num_classes, compute_dtype=config.compute_dtype)
    # The length of a schedule changes no shape.
    optimizer = _optimizer(config, _learning_rate(config, 1))
    init = functools.partial(_init, module, optimizer, image_shape, config.ema_decay > 0)
    everywhere = sharding.replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        jax.eval_shape(init, jax.random.key(0)),
    )


def without_gap(config: Config) -> Config:
    """What a step is that leaves the gap out: the same, without what belongs to the gap.

    Where it has no clean pass, --mixed_augmentation is the augmentation of all rows that are left.

    Args:
      config: what the run is.

    Returns:
      A Config that is good for its steps alone.
    """
    mixed_alone = config.mixed_augmentation != "none" and config.clean_weight == 0
    clean_pass = config.clean_weight > 0 or config.consistency_weight > 0
    return dataclasses.replace(
        config,
        augmentation=config.mixed_augmentation if mixed_alone else config.augmentation,
        mixed_augmentation="none" if mixed_alone else config.mixed_augmentation,
        sem_weight=0.0,
        sem_ramp_steps=0,
        sem_every=1,
        sem_fraction=1.0,
        share_prefix=config.share_prefix and clean_pass,
        state_from=config.state_from if config.clean_weight > 0 else "auto",
    )


def rows_per_step(config: Config) -> float:
    """Rows forwarded per step, the mean over steps.

    B for the mixed batch; B more for the clean rows that a gap, a clean term or the consistency
    with views asks for (B / k with --sem_fraction=1/k), B for a policy that looks at the model, and
    2B for two views. With --share_prefix the clean rows are counted whole, though they pass only
    the layers from the one mixed on.
    """
    if config.sem_every > 1:
        with_gap = rows_per_step(dataclasses.replace(config, sem_every=1))
        plain = rows_per_step(without_gap(config))
        return plain + (with_gap - plain) / config.sem_every
    mixes, views = config.policy != "none", config.consistency_weight > 0
    clean = config.sem_weight > 0 or config.clean_weight > 0 or (views and mixes)
    clean_rows = clean * config.batch_size // fraction_parts(config.sem_fraction)
    whole = 1 + 2 * views + policies.looks_at_model(config.policy)
    return config.batch_size * whole + clean_rows


def parameter_count(state_shape: training.TrainState) -> int:
    """The number of the model's parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(state_shape.params))


def _optimizer(config: Config, learning_rate: Callable[[Any], Any]) -> optax.GradientTransformation:
    return training.make_optimizer(
        config.optimizer,  # type: ignore[arg-type]  # the config has checked the choice
        learning_rate,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm or None,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def _init(
    module: Any,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    ema: bool,
    key: jax.Array,
) -> training.TrainState:
    variables = dict(module.init(key, jnp.zeros((1, *image_shape)), train=False))
    params = variables.pop("params")
    return training.init_state(params, optimizer, model_state=variables or None, ema=ema)


def _loss_maker(
    config: Config, module: Any, policy: semjax.Policy | None
) -> Callable[[Collections | None], semjax.sem.SemLoss]:
    """`make_loss(model_state) -> sem_loss`, as `train_step` takes it."""
    layers, wanted = models.hidden_modules(config.model), config.representation

    def apply(
        model_state: Collections | None,
        params: Any,
        images: jax.Array,
        rng: jax.Array,
        hidden: semjax.outputs.Hidden,
    ) -> semjax.Outputs:
        # No model here draws at random in its forward pass, so rng is not used.
        kept: list[jax.Array] = []

        def keeping(layer: int, x: jax.Array) -> jax.Array:
            x = hidden(layer, x)
            # No other: what a model computes inside of jax.checkpoint must not be held.
            if wanted == f"layer{layer}":
                kept.append(x)
            return x

        with nn.intercept_methods(semjax.interceptor(keeping, layers)):
            features, new_state = module.apply(
                {"params": params, **(model_state or {})},
                images,
                train=True,
                mutable=list(model_state or {}),
            )
        return semjax.Outputs(
            logits=features.logits,
            representation=kept[0] if kept else getattr(features, wanted),
            feature_map=features.spatial,
            model_state=new_state or None,
        )

    ramp = optax.linear_schedule(0.0, 1.0, config.sem_ramp_steps) if config.sem_ramp_steps else None
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in (
            "sem_weight",
            "sem_fraction",
            "distance",
            "stop_gradient",
            "clean_weight",
            "consistency_weight",
            "reduction",
            "label_loss",
            "label_smoothing",
            "passes",
            "state_from",
            "share_prefix",
        )
    }
    every_step_has_clean = config.clean_weight > 0 or config.consistency_weight > 0
    if config.sem_every > 1 and config.state_from == "auto" and not every_step_has_clean:
        options["state_from"] = "mixed"  # else the statistics would be of both kinds in turns
    options["mixed_from"] = "image" if config.mixed_augmentation == "none" else "views"
    return lambda model_state: semjax.make_sem_loss(
        functools.partial(apply, model_state), policy=policy, schedule=ramp, **options
    )


def _augmentation(config: Config, data: Data) -> Callable[..., Any]:
    """Ops on pixels, then the scaling every model expects, then cutout.

    On pixels are crops, flips and one of AugMix, PixMix and RandAugment.
    """
    pictures = None
    if config.augmentation == "pixmix":
        make = jax.jit(pixmix.fractal_pictures, static_argnums=1, static_argnames=_PICTURE)
        sizes = dict(zip(_PICTURE, data.image_shape, strict=True))
        pictures = make(jax.random.key(config.seed), _PICTURES, **sizes)

    def scaled(key: jax.Array, images: jax.Array) -> jax.Array:
        images = augment.normalise(images, data.mean, data.std)
        if config.cutout_size:
            # After scaling, so that the hole is the mean colour.
            images = augment.random_cutout(key, images, size=config.cutout_size)
        return images

    def apply(key: jax.Array, images: jax.Array, aspect: jax.Array | None = None) -> Any:
        crop_key, flip_key, cutout_key, pixel_key, views_key = jax.random.split(key, 5)
        if config.random_resized_crop:
            images = resized_crop.random_resized_crop(
                crop_key,
                images,
                size=data.image_shape[0],
                aspect=aspect,
                scale=(config.crop_scale, 1.0),
            )
        if config.crop_padding:
            images = augment.random_crop(crop_key, images, padding=config.crop_padding)
        if config.flip:
            images = augment.random_flip(flip_key, images)
        views = []
        if config.consistency_weight:
            for view_key in jax.random.split(views_key):
                mix_key, hole_key = jax.random.split(view_key)
                views.append(scaled(hole_key, augmix.augmix(mix_key, images)))
        if config.mixed_augmentation != "none":
            mix_key, hole_key = jax.random.split(views_key)
            changed = _augmented(config, config.mixed_augmentation, mix_key, images)
            views.append(scaled(hole_key, changed))
        images = _augmented(config, config.augmentation, pixel_key, images)
        if pictures is not None:
            images = pixmix.pixmix(pixel_key, images, pictures)
        images = scaled(cutout_key, images)
        return {"image": images, "views": jnp.stack(views, axis=1)} if views else images

    return apply


def _augmented(config: Config, name: str, key: jax.Array, images: jax.Array) -> jax.Array:
    """AugMix or RandAugment of pixels; under another name the images as they are."""
    if name == "augmix":
        return augmix.augmix(key, images)
    if name == "randaugment":
        return randaugment.randaugment(
            key,
            images,
            layers=config.randaugment_layers,
            magnitude=config.randaugment_magnitude,
        )
    return images


def _logits_fn(module: Any, data: Data) -> Callable[[Any, Any, jax.Array], jax.Array]:
    def logits(params: Any, model_state: Any, images: jax.Array) -> jax.Array:
        images = augment.normalise(images, data.mean, data.std)
        return module.apply({"params": params, **(model_state or {})}, images, train=False).logits

    return logits


def _gap(
    module: Any, data: Data, state: training.TrainState, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """The gap of a method that need not know of any; every batch is mixed by the same draw."""

    def apply(params: Any, images: jax.Array, rng: jax.Array) -> semjax.Outputs:
        features = module.apply(
            {"params": params, **(state.model_state or {})}, images, train=False
        )
        return semjax.Outputs(logits=features.logits, representation=features.pooled)

    measure = semjax.make_sem_loss(apply, policy=semjax.mixup(weight_scope="sample"))
    images = augment.normalise(batch["image"], data.mean, data.std)
    params = state.params if state.ema_params is None else state.ema_params
    _, aux = measure(params, {**batch, "image": images}, jax.random.key(0))
    valid = batch.get("valid", jnp.ones(len(images), bool))
    return aux["normalised_gap"], valid.sum(dtype=jnp.float32)


def _learning_rate(config: Config, total_steps: int) -> Callable[[Any], Any]:
    peak, warmup = config.learning_rate, min(config.warmup_steps, total_steps)
    after = (
        optax.cosine_decay_schedule(peak, max(total_steps - warmup, 1))
        if config.decay == "cosine"
        else optax.constant_schedule(peak)
    )
    if not warmup:
        return after
    # From peak / warmup, not 0: a first step of size 0 would be a step wasted.
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])
