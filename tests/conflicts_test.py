"""Flags that exclude each other are refused by name; flags that do nothing are named."""

import pytest
from absl import flags

from experiments import config as config_lib
from experiments.config import Config, ConfigError

SHARED = ("--share_prefix", "--policy_options=mixup.layers=(1,)")


def parse(*args: str) -> Config:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["train", *args], values)


def test_flags_without_effect_are_named():
    idle = parse(
        "--policy=none", "--sem_weight=0", "--pairing=roll", "--distance=l1"
    ).without_effect()
    assert idle == ["--pairing (--policy=none)", "--distance (--sem_weight=0)"]
    assert parse("--nocorrection").without_effect() == ["--correction (--policy=mixup)"]
    idle = parse("--policy=resizemix", "--alpha=2", "--policy_scope=sample").without_effect()
    assert idle == ["--alpha (--policy=resizemix)", "--policy_scope (--policy=resizemix)"]
    idle = parse("--pairing_bandwidth=3", "--mix_ramp_steps=2").without_effect()
    assert idle == ["--pairing_bandwidth (--pairing=permutation)"]
    own = ["--weight_scope=sample", "--mix_probability=0.5", "--pairing=roll", "--alpha=1"]
    found = parse("--policy=lisa", *own).without_effect()
    assert found == [
        f"--{name} (--policy=lisa)" for name in ("weight_scope", "mix_probability", "pairing")
    ]
    assert parse("--policy=lisa+mixup", *own).without_effect() == []
    found = parse("--crop_scale=0.5", "--randaugment_layers=3").without_effect()
    assert found == [
        "--crop_scale (no --random_resized_crop)",
        "--randaugment_layers (--augmentation=none)",
    ]
    found = parse("--mixed_augmentation=augmix", "--randaugment_layers=3").without_effect()
    assert found == ["--randaugment_layers (--augmentation=none)"]
    used = parse("--mixed_augmentation=randaugment", "--randaugment_layers=3")
    assert used.without_effect() == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy=alignmix", "--model=mlp"], "--model=mlp does not have"),
        (["--policy=puzzlemix", "--accumulate=2", "--pairing_groups=2"], "looks at the model"),
        (["--mix_from_step=5", "--mix_until_step=5"], "--mix_until_step=5: must be above"),
        (["--policy=alignmix", "--model=vit_s_16"], "--model=vit_s_16 are tokens"),
        (["--policy=none"], "--sem_weight and --clean_weight must be 0"),
        (["--state_from=clean", "--passes=joint"], "--state_from=clean"),
        (["--model=mlp", "--representation=spatial"], "--representation=spatial"),
        (["--pairing_groups=3"], "must divide --batch_size=128"),
        (["--accumulate=3"], "--accumulate=3: must divide --batch_size=128"),
        (["--accumulate=2"], "must divide --pairing_groups=1"),
        (["--sem_weight=0", "--sem_ramp_steps=5"], "--sem_ramp_steps=5"),
        (["--sem_weight=0", "--sem_every=2"], "--sem_every=2: needs --sem_weight above 0"),
        (["--sem_every=0"], "--sem_every=0: must be at least 1"),
        (["--random_resized_crop"], "--random_resized_crop: needs --image_size, and --streaming"),
        (
            ["--random_resized_crop", "--image_size=8", "--streaming=off"],
            "found --image_size=8 --streaming=off",
        ),
        (
            ["--random_resized_crop", "--image_size=8", "--crop_padding=1"],
            "--random_resized_crop: crops already",
        ),
        (["--stored_size=9"], "--stored_size=9: needs --random_resized_crop"),
        (["--sem_every=2", "--state_from=clean"], "--sem_every=2: steps without the gap have no"),
        (["--sem_fraction=0.4"], "--sem_fraction=0.4: sem_fraction must be 1 / k"),
        (["--sem_fraction=2"], "--sem_fraction=2.0: must be above 0 and at most 1"),
        (["--sem_fraction=0.5", "--sem_weight=0"], "--sem_fraction=0.5: needs --sem_weight above"),
        (["--sem_fraction=0.5", "--clean_weight=1"], "allowed with --clean_weight=0"),
        (["--sem_fraction=0.5", "--consistency_weight=1"], "--consistency_weight=0"),
        (["--sem_fraction=0.5", "--passes=joint"], "--passes=separate"),
        (["--sem_fraction=0.5"], "--pairing_groups=1 must be a multiple of 2"),
        (
            ["--sem_fraction=0.5", "--pairing_groups=2", "--accumulate=2"],
            "--pairing_groups=2 must be a multiple of 4",
        ),
        (["--share_prefix"], "found --policy=mixup, which mixes at the layers (0,)"),
        (["--share_prefix", "--policy=none", "--sem_weight=0"], "--share_prefix: needs a clean"),
        ([*SHARED, "--sem_weight=0"], "found --sem_weight=0.0 --clean_weight=0.0"),
        ([*SHARED, "--mix_from_step=1"], "which mixes at the layers (0, 1)"),
        ([*SHARED, "--policy_probabilities=0.5"], "which mixes at the layers (0, 1)"),
        ([*SHARED, "--passes=joint"], "found --passes=joint --sem_fraction=1.0"),
        ([*SHARED, "--sem_fraction=0.5", "--pairing_groups=2"], "--sem_fraction=0.5"),
        ([*SHARED, "--model=resnet20", "--remat"], "--share_prefix: --remat computes"),
        (["--nesterov", "--optimizer=adamw"], "--nesterov"),
        (["--classes=1"], "--classes=1: must be 0, for all of them, or at least 2"),
        (["--classes=-2"], "--classes=-2: must be at least 0"),
        (["--test_split=train"], "--test_split=train"),
        (["--test_split=validation"], "needs --validation_fraction above 0; found 0"),
        (["--mixed_augmentation=pixmix"], "--mixed_augmentation=pixmix"),
        (
            ["--mixed_augmentation=augmix", "--sem_weight=0"],
            "--mixed_augmentation=augmix: needs mixed rows and a clean pass",
        ),
        (
            ["--mixed_augmentation=randaugment", "--policy=none", "--consistency_weight=1"],
            "--policy=none: nothing is mixed",
        ),
        (
            [
                *("--mixed_augmentation=randaugment", "--policy=none"),
                *("--sem_weight=0", "--consistency_weight=1"),
            ],
            "--mixed_augmentation=randaugment: needs mixed rows and a clean pass",
        ),
        (
            ["--mixed_augmentation=augmix", "--consistency_weight=2"],
            "found --consistency_weight=2.0 --share_prefix=False",
        ),
        (
            ["--mixed_augmentation=augmix", *SHARED],
            "found --consistency_weight=0.0 --share_prefix=True",
        ),
        (["--representation=layer0"], "--representation=layer0"),
        (
            ["--representation=layer4"],
            "--representation=layer4: --model=cnn has the hidden layers 1 to 3",
        ),
        (["--model=mlp", "--representation=layer3"], "--model=mlp has the hidden layers 1 to 2"),
        (
            ["--model=resnet20", "--remat", "--representation=layer1"],
            "--representation=layer1: --model=resnet20 has the hidden layers 1 to 3, which are "
            "read without --remat",
        ),
        (["--model=vit_s_16", "--representation=layer1"], "where they are no tokens (vit_s_16)"),
        (
            ["--representation=layer2", "--policy=manifold_mixup"],
            "--representation=layer2: rows must be mixed before that layer, or what the gap "
            "compares there is not mixed yet; found --policy=manifold_mixup, which mixes at the "
            "layers (0, 1, 2)",
        ),
        (
            ["--representation=layer1", "--policy_options=mixup.layers=(1,)"],
            "which mixes at the layers (1,)",
        ),
        (["--representation=layer3", "--policy=alignmix"], "which mixes at the layers (3,)"),
    ],
)
def test_flags_that_exclude_each_other_are_one_message(args: list[str], message: str):
    with pytest.raises(ConfigError) as error:
        parse(*args)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "args",
    [
        ["--classes=2"],
        ["--test_split=validation", "--validation_fraction=0.1"],
        # Which may have validation rows of its own.
        ["--test_split=validation", "--dataset=folder:pictures"],
        ["--mixed_augmentation=augmix"],
        ["--mixed_augmentation=randaugment", "--sem_weight=0", "--clean_weight=1"],
        ["--mixed_augmentation=augmix", "--augmentation=pixmix", "--sem_every=2"],
        ["--mixed_augmentation=augmix", "--accumulate=2", "--pairing_groups=2"],
        ["--model=mlp", "--representation=layer2"],
        ["--model=resnet18", "--representation=layer4"],
        ["--representation=layer3", "--policy=manifold_mixup"],
        # Without a gap nothing is compared.
        ["--representation=layer1", "--policy=manifold_mixup", "--sem_weight=0"],
        ["--representation=layer1", "--policy=none", "--sem_weight=0"],
    ],
    ids=" ".join,
)
def test_flags_that_go_together_are_taken(args: list[str]):
    config = parse(*args)
    for name, _, value in (arg.removeprefix("--").partition("=") for arg in args):
        assert str(getattr(config, name)).removesuffix(".0") == value
