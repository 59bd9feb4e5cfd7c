"""What flags say of each other: which exclude each other, and which do nothing beside others.

What one flag may be by itself stands with it in `experiments.config`.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import models, policies
from experiments.command_line.flagfiles import ConfigError
from semjax import options

if TYPE_CHECKING:
    from experiments.config import Config


def check(config: "Config") -> None:
    """Refuses flags that do not go together.

    Args:
      config: what a run is, each flag of it checked by itself.

    Raises:
      ConfigError: the message names the flags, what was found and what is allowed.
    """
    try:
        options.fraction_parts(config.sem_fraction)
    except ValueError as error:
        raise ConfigError(f"--sem_fraction={config.sem_fraction}: {error}") from error
    try:
        models.create(config.model, num_classes=2, remat=config.remat)
    except ValueError as error:
        named = "--remat with " if str(error).startswith("remat") else ""
        raise ConfigError(f"{named}--model={config.model}: {error}") from error
    try:
        members = policies.names(config.policy)
        policies.build(dataclasses.asdict(config), len(models.hidden_modules(config.model)))
    except ValueError as error:
        named = "" if str(error).startswith("--") else f"--policy={config.policy}: "
        raise ConfigError(f"{named}{error}") from error
    for wrong, message in _conflicts(config, members):
        if wrong:
            raise ConfigError(message)


def without_effect(config: "Config") -> list[str]:
    """The flags that were set but do nothing, because of another flag that is said beside.

    Args:
      config: what a run is.

    Returns:
      Names of flags, each with the reason.
    """
    mixes, sem = config.policy != "none", config.sem_weight > 0
    clean_loss = config.clean_weight > 0
    mixing_flags = (
        *("alpha", "weight_scope", "mix_probability", "pairing", "pairing_groups"),
        *("policy_probabilities", "mix_from_step", "mix_until_step", "mix_ramp_steps"),
    )
    members = policies.names(config.policy)
    has_alpha = any(policies.has_option(name, "alpha") for name in members)
    own_rules = mixes and not any(policies.has_option(name, "pairing") for name in members)
    used: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
        ("--policy=none", mixes, mixing_flags),
        (f"--policy={config.policy}", "cutmix" in members, ("correction",)),
        (f"--policy={config.policy}", has_alpha or not mixes, ("alpha",)),
        (
            f"--policy={config.policy}",
            not own_rules,
            ("weight_scope", "mix_probability", "pairing"),
        ),
        (f"--policy={config.policy}", len(members) > 1, ("policy_scope",)),
        (f"--pairing={config.pairing}", config.pairing == "near_label", ("pairing_bandwidth",)),
        ("no --umix_from", bool(config.umix_from), ("umix_eta", "umix_first_step")),
        ("--sem_weight=0", sem, ("distance", "representation", "stop_gradient")),
        ("--clean_weight=0", clean_loss, ("reduction",)),
        ("no second pass", sem or clean_loss or config.consistency_weight > 0, ("passes",)),
        (f"--optimizer={config.optimizer}", config.optimizer == "sgd", ("momentum",)),
        ("no --random_resized_crop", config.random_resized_crop, ("crop_scale",)),
        (
            f"--augmentation={config.augmentation}",
            "randaugment" in (config.augmentation, config.mixed_augmentation),
            ("randaugment_layers", "randaugment_magnitude"),
        ),
    )
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return [
        f"--{name} ({reason})"
        for reason, is_used, names in used
        for name in names
        if not is_used and getattr(config, name) != defaults[name]
    ]


def _layer(config: "Config") -> int:
    return int(config.representation.removeprefix("layer"))


def _conflicts(config: "Config", members: list[str]) -> list[tuple[bool, str]]:
    clean_pass = config.sem_weight > 0 or config.clean_weight > 0
    maps = [name for name in members if name in policies.NEEDS_FEATURE_MAP]
    sem_parts = options.fraction_parts(config.sem_fraction)
    every_clean_row = config.clean_weight > 0 or config.consistency_weight > 0
    hidden_layers = len(models.hidden_modules(config.model))
    layers = policies.mixed_layers(dataclasses.asdict(config), hidden_layers)
    return [
        (
            config.policy == "none" and clean_pass,
            "--policy=none: nothing is mixed, so --sem_weight and --clean_weight must be 0; "
            f"found --sem_weight={config.sem_weight} --clean_weight={config.clean_weight}",
        ),
        (
            config.state_from in ("clean", "both") and (config.passes == "joint" or not clean_pass),
            f"--state_from={config.state_from}: needs a clean pass of its own, that is "
            "--passes=separate and --sem_weight or --clean_weight above 0",
        ),
        (
            config.sem_ramp_steps > 0 and config.sem_weight == 0,
            f"--sem_ramp_steps={config.sem_ramp_steps}: needs --sem_weight above 0; found 0",
        ),
        (
            config.sem_every > 1 and config.sem_weight == 0,
            f"--sem_every={config.sem_every}: needs --sem_weight above 0; found 0",
        ),
        (
            config.sem_every > 1
            and config.state_from in ("clean", "both")
            and config.clean_weight == 0,
            f"--sem_every={config.sem_every}: steps without the gap have no clean pass, which "
            f"--state_from={config.state_from} needs; allowed: auto, mixed, or --clean_weight "
            "above 0",
        ),
        (
            sem_parts > 1 and config.sem_weight == 0,
            f"--sem_fraction={config.sem_fraction}: needs --sem_weight above 0; found 0",
        ),
        (
            sem_parts > 1 and (every_clean_row or config.passes == "joint"),
            f"--sem_fraction={config.sem_fraction}: allowed with --clean_weight=0, "
            "--consistency_weight=0 and --passes=separate, since the other clean rows are not "
            f"forwarded; found --clean_weight={config.clean_weight} "
            f"--consistency_weight={config.consistency_weight} --passes={config.passes}",
        ),
        (
            sem_parts > 1 and config.pairing_groups % (sem_parts * config.accumulate) > 0,
            f"--sem_fraction={config.sem_fraction}: --pairing_groups={config.pairing_groups} must "
            f"be a multiple of {sem_parts * config.accumulate} (the {sem_parts} of the fraction "
            f"times --accumulate={config.accumulate}), so that partners are measured together",
        ),
        (
            config.random_resized_crop and (config.image_size == 0 or config.streaming == "off"),
            "--random_resized_crop: needs --image_size, and --streaming=on or auto; found "
            f"--image_size={config.image_size} --streaming={config.streaming}",
        ),
        (
            config.random_resized_crop and config.crop_padding > 0,
            f"--random_resized_crop: crops already; found --crop_padding={config.crop_padding}; "
            "allowed: one of the two",
        ),
        (
            config.stored_size > 0 and not config.random_resized_crop,
            f"--stored_size={config.stored_size}: needs --random_resized_crop",
        ),
        (
            config.share_prefix and not (clean_pass or config.consistency_weight > 0),
            "--share_prefix: needs a clean pass, that is --sem_weight or --clean_weight above "
            f"0; found --sem_weight={config.sem_weight} --clean_weight={config.clean_weight}",
        ),
        (
            config.share_prefix and (len(layers) != 1 or 0 in layers),
            "--share_prefix: needs a policy that mixes every batch at one hidden layer, such "
            "as --policy=mixup --policy_options=mixup.layers=(1,); found --policy="
            f"{config.policy}, which mixes at the layers {layers} (0: the input, or no mixing)",
        ),
        (
            config.share_prefix and (config.passes == "joint" or sem_parts > 1),
            "--share_prefix: allowed with --passes=separate and --sem_fraction=1; found "
            f"--passes={config.passes} --sem_fraction={config.sem_fraction}",
        ),
        (
            config.share_prefix and config.remat,
            "--share_prefix: --remat computes the inside of blocks again, where the hidden "
            "layers are; allowed: one of the two",
        ),
        (
            config.classes == 1,
            "--classes=1: must be 0, for all of them, or at least 2",
        ),
        (
            # A folder may have validation rows of its own, which is known when it is read.
            config.test_split == "validation"
            and not (config.validation_fraction or config.dataset.startswith("folder:")),
            "--test_split=validation: needs --validation_fraction above 0; found 0",
        ),
        (
            config.mixed_augmentation != "none" and (config.policy == "none" or not clean_pass),
            f"--mixed_augmentation={config.mixed_augmentation}: needs mixed rows and a clean pass, "
            "that is a --policy and --sem_weight or --clean_weight above 0; allowed without: "
            "--augmentation",
        ),
        (
            config.mixed_augmentation != "none"
            and (config.consistency_weight > 0 or config.share_prefix),
            f"--mixed_augmentation={config.mixed_augmentation}: allowed with "
            "--consistency_weight=0 and without --share_prefix; found "
            f"--consistency_weight={config.consistency_weight} "
            f"--share_prefix={config.share_prefix}",
        ),
        (
            config.representation.startswith("layer")
            and (config.remat or config.model == "vit_s_16" or _layer(config) > hidden_layers),
            f"--representation={config.representation}: --model={config.model} has the hidden "
            f"layers 1 to {hidden_layers}, which are read without --remat and where they are no "
            "tokens (vit_s_16)",
        ),
        (
            config.representation.startswith("layer")
            and config.sem_weight > 0
            and max(layers, default=0) >= _layer(config),
            f"--representation={config.representation}: rows must be mixed before that layer, or "
            f"what the gap compares there is not mixed yet; found --policy={config.policy}, which "
            f"mixes at the layers {layers} (0: the input)",
        ),
        (
            config.representation == "spatial" and config.model == "mlp",
            "--representation=spatial: --model=mlp has no feature map; allowed: pooled",
        ),
        (
            bool(maps) and config.model == "mlp",
            f"--policy={config.policy}: {'+'.join(maps)} looks at a feature map, which "
            "--model=mlp does not have",
        ),
        (
            "alignmix" in members and config.model == "vit_s_16",
            f"--policy={config.policy}: alignmix moves the cells of a hidden feature map; the "
            "hidden layers of --model=vit_s_16 are tokens",
        ),
        (
            policies.looks_at_model(config.policy) and config.accumulate > 1,
            f"--policy={config.policy}: looks at the model before mixing, which "
            f"--accumulate={config.accumulate} cannot do; allowed: 1",
        ),
        (
            0 < config.mix_until_step <= config.mix_from_step,
            f"--mix_until_step={config.mix_until_step}: must be above "
            f"--mix_from_step={config.mix_from_step}, or 0",
        ),
        (
            config.batch_size % config.pairing_groups > 0,
            f"--pairing_groups={config.pairing_groups}: must divide "
            f"--batch_size={config.batch_size}",
        ),
        (
            config.batch_size % config.accumulate > 0,
            f"--accumulate={config.accumulate}: must divide --batch_size={config.batch_size}",
        ),
        (
            config.policy != "none" and config.pairing_groups % config.accumulate > 0,
            f"--accumulate={config.accumulate}: must divide "
            f"--pairing_groups={config.pairing_groups}, so that partners stay in one part",
        ),
        (
            config.nesterov and (config.optimizer != "sgd" or config.momentum == 0),
            f"--nesterov: needs --optimizer=sgd with --momentum above 0; found "
            f"--optimizer={config.optimizer} --momentum={config.momentum}",
        ),
    ]
