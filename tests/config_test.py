"""What a run is: flags, their checks, flag files, and the file that repeats a run."""

import dataclasses
import pathlib

import pytest
from absl import flags

from experiments import config as config_lib
from experiments.command_line import flagfiles
from experiments.config import Config, ConfigError


def parse(*args: str) -> Config:
    values = flags.FlagValues()
    config_lib.define_flags(values)
    return config_lib.parse(["train", *args], values)


def test_every_field_is_a_flag_with_help_and_the_same_default():
    values = flags.FlagValues()
    config_lib.define_flags(values)
    for field in dataclasses.fields(Config):
        assert len(values[field.name].help) > 5
        assert values[field.name].default == field.default


def test_every_flag_reaches_the_config():
    changed = {
        field.name: _another_value(field)
        for field in dataclasses.fields(Config)
        # Those that exclude each other are set together below.
        if field.name not in APART
    }
    args = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in changed.items()
    ]
    config = parse(*args)
    for name, value in changed.items():
        assert getattr(config, name) == value, name
    assert parse("--policy=cutmix").policy == "cutmix"
    mixed = parse(
        "--policy=cutmix+fmix", "--policy_probabilities=0.2,0.3", "--policy_options=fmix.alpha=2"
    )
    assert mixed.policy_probabilities == "0.2,0.3"
    assert mixed.policy_options == "fmix.alpha=2"
    umix = parse("--umix_from=runs/erm", "--umix_first_step=7")
    assert (umix.umix_from, umix.umix_first_step) == ("runs/erm", 7)
    window = parse("--mix_from_step=3", "--mix_until_step=9")
    assert (window.mix_from_step, window.mix_until_step) == (3, 9)
    assert parse("--sem_weight=2").sem_weight == 2
    assert parse("--sem_fraction=0.5", "--pairing_groups=2").sem_fraction == 0.5
    assert parse("--share_prefix", "--policy_options=mixup.layers=(1,)").share_prefix
    assert parse("--nesterov").nesterov
    assert parse("--representation=spatial").representation == "spatial"
    assert parse("--mixed_augmentation=augmix").mixed_augmentation == "augmix"
    assert parse("--pairing_groups=2", "--accumulate=2").accumulate == 2
    crops = parse("--random_resized_crop", "--image_size=8", "--stored_size=12", "--crop_scale=0.3")
    assert (crops.random_resized_crop, crops.stored_size, crops.crop_scale) == (True, 12, 0.3)


APART = (
    *("policy", "policy_probabilities", "policy_options", "mix_from_step", "mix_until_step"),
    *("umix_from", "umix_first_step"),
    *("sem_weight", "sem_fraction", "share_prefix", "nesterov", "representation"),
    *("mixed_augmentation", "accumulate"),
    *("random_resized_crop", "stored_size"),
)


@pytest.mark.parametrize(
    ("flags", "clean_weight"),
    [
        ((), 1.0),
        (("--sem_weight=0",), 0.0),
        (("--policy=none", "--sem_weight=0"), 0.0),
        (("--sem_every=2",), 0.0),
        (("--sem_fraction=0.5", "--pairing_groups=2"), 0.0),
        (("--clean_weight=0",), 0.0),
        (("--sem_every=2", "--clean_weight=0.5"), 0.5),
    ],
)
def test_the_clean_loss_is_part_of_every_step_with_a_gap_of_all_rows(flags, clean_weight):
    config = parse(*flags)
    assert config.clean_weight == clean_weight
    assert f"--clean_weight={clean_weight}\n" in config.to_flags()


def _another_value(field: dataclasses.Field) -> object:
    special = {
        "dataset": "cifar100",
        "classes": 4,  # one class is no classification
        "model": "wrn_16_2",
        "weight_scope": "pair",
        "pairing_groups": 2,
        "batch_size": 64,
        "passes": "separate",  # joint excludes the state_from below
    }
    if field.name in special:
        return special[field.name]
    if field.metadata["choices"]:
        return next(c for c in field.metadata["choices"] if c != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, int):
        return field.default + 1
    if field.type is float:
        return 0.25 if field.default != 0.25 else 0.5
    return "somewhere"


def test_config_flags_repeats_the_config_but_not_its_directory(tmp_path: pathlib.Path):
    config = parse(
        "--flagfile=cifar100_cutmix.flags", "--seed=7", "--workdir=here", "--ema_decay=0.9"
    )
    written = tmp_path / "config.flags"
    written.write_text(config.to_flags())
    again = parse(f"--flagfile={written}", "--workdir=here")
    assert again == config
    assert config_lib.read(written) == dataclasses.replace(config, workdir="runs/config-7")


@pytest.mark.parametrize("path", sorted(flagfiles.FLAG_DIR.glob("*.flags")), ids=lambda p: p.stem)
def test_every_flag_file_parses_and_says_what_to_expect(path: pathlib.Path):
    config = parse(f"--flagfile={path.name}")
    assert config.workdir == f"runs/{path.stem}-0"
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert "measured" in first or "%" in first
    assert config.without_effect() == []


@pytest.mark.parametrize("data", ["digits", "cifar10", "cifar100"])
def test_baselines_differ_from_the_main_file_in_the_method_only(data: str):
    main = parse(f"--flagfile={data}.flags")
    method = {"workdir", "policy", "sem_weight", "alpha", "clean_weight"}
    for name in ("erm", "mixup", "cutmix", "regmixup"):
        other = parse(f"--flagfile={data}_{name}.flags")
        changed = {
            field.name
            for field in dataclasses.fields(Config)
            if getattr(main, field.name) != getattr(other, field.name)
        }
        assert changed <= method
        assert other.sem_weight == 0 < main.sem_weight


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (
            "coloured_digits",
            {
                "mixup": {"policy": "mixup"},
                "sem": {"policy": "mixup", "sem_weight": 20.0, "clean_weight": 1.0},
                "lisa": {"policy": "lisa"},
                "balanced": {"sampling": "balanced"},
            },
        ),
        (
            "digit_factors",
            {
                "mixup": {"policy": "mixup"},
                "sem": {"policy": "mixup", "sem_weight": 20.0, "clean_weight": 1.0},
            },
        ),
    ],
)
def test_embedded_studies_differ_in_the_method_only(data: str, changes: dict[str, dict]):
    erm = parse(f"--flagfile={data}_erm.flags", "--workdir=x")
    assert (erm.dataset, erm.policy, erm.sem_weight) == (data, "none", 0)
    for name, method in changes.items():
        other = parse(f"--flagfile={data}_{name}.flags", "--workdir=x")
        assert other == dataclasses.replace(erm, **method)


def test_the_published_settings_are_the_published_ones():
    config = parse("--flagfile=cifar100.flags")
    assert (config.model, config.epochs, config.batch_size) == ("resnet18", 200, 100)
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.1, 0.9, 1e-4)
    assert (config.crop_padding, config.flip, config.decay) == (4, True, "cosine")
    assert config.validation_fraction == 0


def test_steps_override_epochs():
    assert parse("--epochs=2").total_steps(10) == 20
    assert parse("--epochs=2", "--steps=7").total_steps(10) == 7
    assert parse("--epochs=0.01").total_steps(10) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lr=0.3"], "Unknown command line flag 'lr'"),
        (["--learning_rat=0.3"], "learning_rate"),
        (["learning_rate=0.3"], "left over: learning_rate=0.3"),
        (["--batch_size=many"], "--batch_size=many"),
        (["--batch_size=0"], "--batch_size=0: must be at least 1"),
        (["--epochs=0"], "--epochs=0.0: must be above 0"),
        (["--epochs=nan"], "--epochs=nan: must be finite"),
        (["--steps=-1"], "--steps=-1: must be at least 0"),
        (["--learning_rate=-0.1"], "--learning_rate=-0.1: must be above 0"),
        (["--alpha=-0.5"], "--alpha=-0.5: must be at least 0"),
        (["--alpha=inf"], "--alpha=inf: must be finite"),
        (["--sem_weight=-1"], "--sem_weight=-1.0: must be at least 0"),
        (["--clean_weight=-1"], "--clean_weight=-1.0: must be at least 0"),
        (["--mix_probability=1.5"], "--mix_probability=1.5: must be at least 0 and at most 1"),
        (["--validation_fraction=1"], "--validation_fraction=1.0: must be at least 0 and below 1"),
        (["--label_smoothing=2"], "--label_smoothing=2.0"),
        (["--policy=mixupp"], "--policy=mixupp: no policy 'mixupp': did you mean mixup?"),
        (["--policy=mixup+mixup"], "--policy=mixup+mixup: names a policy twice"),
        (["--policy=mixup+"], "no policy ''"),
        (["--policy_probabilities=0.5,0.5"], "--policy_probabilities=0.5,0.5: must be 1 number"),
        (["--policy_probabilities=2"], "--policy_probabilities=2: must be 1 number"),
        (["--policy_probabilities=half"], "--policy_probabilities=half"),
        (["--policy_options=cutmix.alpha=1"], "'cutmix' is not part of --policy=mixup"),
        (["--policy=lisa", "--policy_options=lisa.pairing='roll'"], "lisa has no option 'pairing'"),
        (["--policy=lisa", "--policy_options=lisa.same_class=2"], "same_class must be in [0, 1]"),
        (["--policy=lsa"], "did you mean lisa?"),
        (["--sampling=even"], "--sampling=even"),
        (["--policy_options=mixup.power=1"], "mixup has no option 'power'; it has alpha"),
        (["--policy_options=mixup.alpha"], "write POLICY.OPTION=VALUE"),
        (["--policy_options=mixup.alpha=a b"], "the value must be a number"),
        (["--policy_options=mixup.alpha=-1"], "alpha must be finite and at least 0; found -1"),
        (
            ["--policy=manifold_mixup", "--policy_options=manifold_mixup.layers=(0,9)"],
            "--model=cnn offers the layers 0 to 3",
        ),
        (["--policy_options=mixup.layers=(0,9)"], "offers the layers 0 to 3"),
        (["--policy_options=mixup.noise=0.3"], "--policy=mixup: "),
        (
            ["--policy=alignmix", "--policy_options=alignmix.layers=(0,)"],
            "alignmix has no option 'layers'",
        ),
        (["--pairing_bandwidth=0"], "--pairing_bandwidth=0.0: must be above 0"),
        (["--consistency_weight=-1"], "--consistency_weight=-1.0: must be at least 0"),
        (["--augmentation=augmix2"], "--augmentation=augmix2"),
        (["--distance=l2"], "--distance=l2"),
        (["--model=resnet19"], "--model=resnet19"),
        (["--model=wrn_17_2"], "--model=wrn_17_2"),
        (["--compute_dtype=float16"], "--compute_dtype=float16"),
        (["--seed=-1"], "--seed=-1"),
        (["--flagfile=nothing.flags"], "--flagfile=nothing.flags: no such file"),
        (["--flagfile="], "--flagfile=: no such file"),
    ],
)
def test_a_wrong_command_is_one_message_that_names_the_flag(args: list[str], message: str):
    with pytest.raises(ConfigError) as error:
        parse(*args)
    assert message in str(error.value)


def test_differences_name_what_changes_the_result_and_nothing_else():
    earlier = parse("--workdir=a")
    later = parse("--workdir=b", "--data_dir=elsewhere", "--steps=9", "--distance=l1")
    assert config_lib.differences(earlier, later) == ["--distance=l1 (the run has mse)"]


def test_a_run_from_before_a_flag_existed_is_read_with_its_default(tmp_path: pathlib.Path):
    path, config = tmp_path / "config.flags", parse("--seed=4", "--workdir=runs/config-4")
    lines = config.to_flags().splitlines(keepends=True)
    older = [line for line in lines if not line.startswith("--sampling=")]
    assert len(older) == len(lines) - 1
    path.write_text("".join(older))
    assert config_lib.read(path) == config
    balanced = dataclasses.replace(config, sampling="balanced")
    found = config_lib.differences(config_lib.read(path), balanced)
    assert found == ["--sampling=balanced (the run has uniform)"]


def test_a_damaged_config_flags_is_named(tmp_path: pathlib.Path):
    path = tmp_path / "config.flags"
    path.write_text("--seed=minus one\n")
    with pytest.raises(ConfigError, match="is damaged"):
        config_lib.read(path)
