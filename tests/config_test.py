"""What a run is: flags, their checks, flag files, and the file that repeats a run."""

import dataclasses
import pathlib

import pytest
from absl import flags

from experiments import config as config_lib
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
        if field.name not in ("policy", "sem_weight", "nesterov", "representation", "accumulate")
    }
    args = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in changed.items()
    ]
    config = parse(*args)
    for name, value in changed.items():
        assert getattr(config, name) == value, name
    assert parse("--policy=cutmix").policy == "cutmix"
    assert parse("--sem_weight=2").sem_weight == 2
    assert parse("--nesterov").nesterov
    assert parse("--representation=spatial").representation == "spatial"
    assert parse("--pairing_groups=2", "--accumulate=2").accumulate == 2


def _another_value(field: dataclasses.Field) -> object:
    special = {
        "dataset": "cifar100",
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
    if isinstance(field.default, float):
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


@pytest.mark.parametrize("path", sorted(config_lib.FLAG_DIR.glob("*.flags")), ids=lambda p: p.stem)
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


def test_the_published_settings_are_the_published_ones():
    config = parse("--flagfile=cifar100.flags")
    assert (config.model, config.epochs, config.batch_size) == ("resnet18", 200, 100)
    assert (config.learning_rate, config.momentum, config.weight_decay) == (0.1, 0.9, 1e-4)
    assert (config.crop_padding, config.flip, config.decay) == (4, True, "cosine")
    assert config.validation_fraction == 0


def test_the_last_setting_wins_and_comments_and_nesting_work(tmp_path: pathlib.Path):
    (tmp_path / "base.flags").write_text("# comment\n// another\n\n--seed=1\n--epochs=3\n")
    (tmp_path / "mine.flags").write_text("--flagfile=base.flags\n--seed=2\n")
    config = parse(f"--flagfile={tmp_path / 'mine.flags'}", "--epochs=4")
    assert (config.seed, config.epochs, config.workdir) == (2, 4.0, "runs/mine-2")


def test_steps_override_epochs():
    assert parse("--epochs=2").total_steps(10) == 20
    assert parse("--epochs=2", "--steps=7").total_steps(10) == 7
    assert parse("--epochs=0.01").total_steps(10) == 1


def test_flags_without_effect_are_named():
    idle = parse(
        "--policy=none", "--sem_weight=0", "--pairing=roll", "--distance=l1"
    ).without_effect()
    assert idle == ["--pairing (--policy=none)", "--distance (--sem_weight=0)"]
    assert parse("--nocorrection").without_effect() == ["--correction (--policy=mixup)"]


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
        (["--policy=mixupp"], "--policy=mixupp"),
        (["--distance=l2"], "--distance=l2"),
        (["--model=resnet19"], "--model=resnet19"),
        (["--model=wrn_17_2"], "--model=wrn_17_2"),
        (["--compute_dtype=float16"], "--compute_dtype=float16"),
        (["--seed=-1"], "--seed=-1"),
        (["--policy=none"], "--sem_weight and --clean_weight must be 0"),
        (["--state_from=clean", "--passes=joint"], "--state_from=clean"),
        (["--model=mlp", "--representation=spatial"], "--representation=spatial"),
        (["--pairing_groups=3"], "must divide --batch_size=128"),
        (["--accumulate=3"], "--accumulate=3: must divide --batch_size=128"),
        (["--accumulate=2"], "must divide --pairing_groups=1"),
        (["--sem_weight=0", "--sem_ramp_steps=5"], "--sem_ramp_steps=5"),
        (["--nesterov", "--optimizer=adamw"], "--nesterov"),
        (["--flagfile=nothing.flags"], "--flagfile=nothing.flags: no such file"),
        (["--flagfile="], "--flagfile=: no such file"),
    ],
)
def test_a_wrong_command_is_one_message_that_names_the_flag(args: list[str], message: str):
    with pytest.raises(ConfigError) as error:
        parse(*args)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--flagfile=loop.flags", "names itself"),
        ("seed=3", "not a flag: 'seed=3'"),
        ("--no_such_flag=3", "no_such_flag"),
        ("\xff\xfe", "cannot be read"),
    ],
)
def test_a_wrong_flag_file_is_one_message(tmp_path: pathlib.Path, text: str, message: str):
    path = tmp_path / "loop.flags"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        parse(f"--flagfile={path}")


def test_differences_name_what_changes_the_result_and_nothing_else():
    earlier = parse("--workdir=a")
    later = parse("--workdir=b", "--data_dir=elsewhere", "--steps=9", "--distance=l1")
    assert config_lib.differences(earlier, later) == ["--distance=l1 (the run has mse)"]


def test_a_damaged_config_flags_is_named(tmp_path: pathlib.Path):
    path = tmp_path / "config.flags"
    path.write_text("--seed=minus one\n")
    with pytest.raises(ConfigError, match="is damaged"):
        config_lib.read(path)
