"""What a run is, as one frozen value: its flags, their checks, and the file that repeats it.

The fields of `Config` are the flags: name, default, help and the values allowed stand here and
nowhere else. What is wrong with them is said before any data is read or any program compiled.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from absl import flags

import semjax
from experiments import models, policies
from experiments.command_line import conflicts, flagfields
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError
from experiments.datasets import decoded
from experiments.datasets.data import SAMPLINGS
from experiments.layers import convolution
from experiments.lifecycle import compile_cache
from semjax import losses, options

# What a flag file that repeats the run leaves out.
_OF_THE_PROCESS = ("workdir", "distributed", "coordinator_address", "num_processes", "process_id")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a run is: one field a flag. The defaults train the embedded digits.

    Raises:
      ConfigError: a value out of range, or two that exclude each other.

    Example:
      >>> Config(learning_rate=-1.0)
      Traceback (most recent call last):
      ...
      experiments.command_line.flagfiles.ConfigError: --learning_rate=-1.0: must be above 0
    """

    # Where the run lives.
    workdir: str = flag("", "run directory; without it runs/FLAGFILE-SEED", keeps_result=True)
    seed: int = flag(
        0, "seed of initialisation, data order, augmentation and mixing", at_least=0, below=2**32
    )

    # The data.
    dataset: str = flag(
        "digits",
        "digits, digit_factors or coloured_digits[:STRENGTH] (embedded), a TFDS name such as "
        "cifar100, or folder:PATH with PATH/SPLIT/CLASS/*",
    )
    data_dir: str = flag(
        "", "where TFDS keeps prepared data; without it TFDS's own default", keeps_result=True
    )
    download: bool = flag(
        False, "download and prepare the data set when it is missing", keeps_result=True
    )
    data_cache: str = flag("auto", decoded.HELP, keeps_result=True)
    classes: int = flag(
        0, "keep the rows of the first so many classes only; 0: all of them", at_least=0
    )
    image_size: int = flag(0, "side to which images are resized; 0 keeps theirs", at_least=0)
    streaming: str = flag(
        "auto",
        "whether images stay on disk and are read while training: on, off, or auto, which streams "
        "a TFDS set or a folder whose pixels would take more than 4 GiB",
        choices=("auto", "on", "off"),
    )
    stored_size: int = flag(
        0,
        "with --random_resized_crop, side of the squares that rows are read as, before the crop; "
        "0: 8/7 of --image_size",
        at_least=0,
    )
    damaged_images: str = flag(
        "skip",
        "images that cannot be decoded: leave them out, count and name them (skip; more than one "
        "in a hundred is an error), or stop (refuse)",
        choices=("skip", "refuse"),
    )
    data_workers: int = flag(
        0,
        "processes that read and decode a streamed data set; 0: threads of this one",
        at_least=0,
        keeps_result=True,
    )
    sampling: str = flag(
        "uniform",
        "training rows: each once an epoch, or each pair of label and group (without groups: each "
        "label) equally often",
        choices=SAMPLINGS,
    )
    validation_fraction: float = flag(
        0.0,
        "share of the training split held out for choosing the best checkpoint; 0 as published",
        at_least=0,
        below=1,
    )

    test_split: str = flag(
        "test",
        "the rows that test figures are of: test, or validation, so that options can be compared "
        "without a look at the test split",
        choices=("test", "validation"),
    )

    # The model.
    model: str = flag("cnn", ", ".join(models.NAMES))
    compute_dtype: str = flag(
        "float32",
        "what the model computes in; parameters and reductions are float32",
        choices=("float32", "bfloat16"),
    )
    convolutions: str = flag(
        "auto",
        "what computes convolutions: on one CPU device oneDNN where it is installed, else XLA, by "
        "phases where strided (auto), or one of these; the same values to rounding",
        choices=("auto", *convolution.LOWERINGS),
        keeps_result=True,
    )
    remat: bool = flag(
        False,
        "compute the inside of residual blocks again in the backward pass instead of keeping it: "
        "less memory, more time",
    )

    # The method.
    policy: str = flag(
        "mixup",
        "how rows are mixed: none, or policies joined by + to switch between: "
        + ", ".join((*policies.POLICIES, *policies.GROUP_POLICIES)),
    )
    policy_probabilities: str = flag(
        "", "probability of each policy of --policy, joined by commas; without it all alike"
    )
    policy_scope: str = flag(
        "batch", "who shares the choice of a policy", choices=semjax.policies.CHOICE_SCOPES
    )
    policy_options: str = flag(
        "",
        "further options, such as 'fmix.decay_power=2;cutmix.layers=(0,1);cutmix.noise=(0.4,0.2)'",
    )
    mix_from_step: int = flag(0, "first step that mixes", at_least=0)
    mix_until_step: int = flag(0, "first step that mixes no more; 0: no end", at_least=0)
    mix_ramp_steps: int = flag(
        0, "steps over which the probability of mixing a batch rises from 0 to 1", at_least=0
    )
    alpha: float = flag(
        0.0, "parameter of the Beta law of the weight; 0: the policy's own", at_least=0
    )
    weight_scope: str = flag(
        "batch", "rows that share a mixing weight", choices=semjax.policies.WEIGHT_SCOPES
    )
    mix_probability: float = flag(
        1.0, "probability of mixing at all, drawn once per weight_scope", at_least=0, at_most=1
    )
    pairing: str = flag(
        "permutation",
        "who mixes with whom; rules that name a group need a data set with groups",
        choices=(*policies.PAIRINGS, *policies.GROUP_PAIRINGS, "near_label"),
    )
    pairing_groups: int = flag(
        1, "groups of the global batch inside which rows are paired", at_least=1
    )
    pairing_bandwidth: float = flag(
        1.0, "bandwidth of --pairing=near_label, in units of the label", above=0
    )
    correction: bool = flag(True, "CutMix: take the label weight from the pixels really pasted")
    sem_weight: float = flag(20.0, "weight of the gap between representations; 0: none", at_least=0)
    sem_ramp_steps: int = flag(
        0, "steps over which sem_weight rises linearly from 0; 0: constant", at_least=0
    )
    sem_every: int = flag(
        1,
        "k: the gap is part of every k-th step only, from the first on; sem_weight is not scaled "
        "up for it, so that on the whole the gap counts 1 / k as much",
        at_least=1,
    )
    sem_fraction: float = flag(
        1.0,
        "1 / k, the share of the rows whose clean representation is forwarded and whose gap is "
        "measured; k must divide --pairing_groups",
        above=0,
        at_most=1,
    )
    distance: str = flag("mse", "distance of the gap", choices=losses.DISTANCES)
    representation: str = flag(
        "pooled",
        "what the gap compares: pooled features, the last feature map cell by cell (spatial), or "
        "so the output of hidden layer 1, 2, ... (in a residual network a stage)",
        choices=("pooled", "spatial", "layer1", "layer2", "layer3", "layer4"),
    )
    stop_gradient: str = flag(
        "none", "side of the gap that is held constant", choices=options.STOP_GRADIENTS
    )
    clean_weight: float = flag(
        None,
        "weight of the label loss on the rows as they are (RegMixup: 1); unset: 1 where every step "
        "has a gap of all rows, else 0",
        at_least=0,
    )
    consistency_weight: float = flag(
        0.0,
        "weight of the Jensen-Shannon divergence of clean rows and two AugMix views (AugMix: 12)",
        at_least=0,
    )
    umix_from: str = flag(
        "", "run directory whose recorded errors weight the rows (UMIX); without it all alike"
    )
    umix_eta: float = flag(
        80.0, "how much more a row counts that was always misclassified", at_least=0
    )
    umix_first_step: int = flag(
        0, "first step whose recorded errors count; the first epochs tell little", at_least=0
    )
    reduction: str = flag(
        "sum",
        "mixed + clean_weight * clean (sum), or that divided by 1 + clean_weight (mean)",
        choices=options.REDUCTIONS,
    )
    label_loss: str = flag("ce", "softmax or sigmoid cross-entropy", choices=("ce", "bce"))
    label_smoothing: float = flag(0.0, "label smoothing", at_least=0, at_most=1)
    passes: str = flag(
        "separate",
        "mixed and clean rows in two forward passes, or joint in one",
        choices=options.PASSES,
    )
    state_from: str = flag(
        "auto",
        "pass that updates BatchNorm's statistics; auto: clean where every step has all of it",
        choices=options.STATE_FROMS,
    )
    share_prefix: bool = flag(
        False,
        "where all mixing is at one hidden layer, as with --policy_options=mixup.layers=(1,): the "
        "clean pass goes on from what the mixed pass computed up to there, so that the layers "
        "before are passed once, forward and backward; the same values to rounding",
        keeps_result=True,
    )

    # Augmentation, before mixing.
    crop_padding: int = flag(0, "pixels of reflect padding before a random crop", at_least=0)
    random_resized_crop: bool = flag(
        False,
        "crop a random part of random aspect ratio and resize it to --image_size, on the devices; "
        "needs a streamed data set",
    )
    crop_scale: float = flag(
        0.08, "smallest share of the picture in a random resized crop", above=0, at_most=1
    )
    flip: bool = flag(False, "random horizontal flips")
    augmentation: str = flag(
        "none",
        "further augmentation of every row: AugMix, PixMix with generated fractal pictures, or "
        "RandAugment",
        choices=("none", "augmix", "pixmix", "randaugment"),
    )
    randaugment_layers: int = flag(2, "operations of RandAugment on a row", at_least=1)
    randaugment_magnitude: float = flag(
        9.0, "strength of RandAugment's operations, of 30", at_least=0, at_most=30
    )
    mixed_augmentation: str = flag(
        "none",
        "augmentation of the rows that are mixed alone, in place of --augmentation, which the "
        "clean pass sees: the gap then compares the mix of augmented rows with clean ones",
        choices=("none", "augmix", "randaugment"),
    )
    cutout_size: int = flag(0, "side of the square that cutout blanks; 0: none", at_least=0)

    # Optimisation.
    batch_size: int = flag(128, "rows of the global batch", at_least=1)
    epochs: float = flag(40.0, "passes over the training split", above=0)
    steps: int = flag(0, "steps in all, overrides --epochs; 0: from --epochs", at_least=0)
    optimizer: str = flag("sgd", "optimiser", choices=("sgd", "adamw"))
    learning_rate: float = flag(0.1, "peak learning rate", above=0)
    warmup_steps: int = flag(0, "steps of linear warm-up", at_least=0)
    decay: str = flag("cosine", "learning rate after the warm-up", choices=("cosine", "constant"))
    momentum: float = flag(0.9, "SGD momentum", at_least=0, below=1)
    nesterov: bool = flag(False, "Nesterov momentum")
    weight_decay: float = flag(
        5e-4, "weight decay of kernels (biases and BatchNorm have none)", at_least=0
    )
    clip_norm: float = flag(0.0, "largest global norm of the gradient; 0: no limit", at_least=0)
    ema_decay: float = flag(
        0.0,
        "decay of a moving average of the weights, used for evaluation; 0: none",
        at_least=0,
        below=1,
    )
    accumulate: int = flag(1, "parts in which a batch is forwarded, to save memory", at_least=1)
    skip_limit: int = flag(
        20, "non-finite steps in a row after which the run stops", at_least=1, keeps_result=True
    )

    # Where it runs.
    device_data_mib: int = flag(
        1024,
        "largest training split, in MiB, that is put on every device, where steps gather their "
        "rows; a larger one is copied batch by batch; 0: never",
        at_least=0,
        keeps_result=True,
    )
    compile_cache: str = flag("auto", compile_cache.HELP, keeps_result=True)
    distributed: str = flag(
        "auto",
        "whether this process is one of several that train together: on, off, or auto, which looks "
        "for --num_processes, a TPU pod, SLURM or Open MPI",
        choices=("auto", "on", "off"),
        keeps_result=True,
    )
    coordinator_address: str = flag(
        "", "host:port of process 0; without it what the cluster tells", keeps_result=True
    )
    num_processes: int = flag(
        0, "processes that train together; 0: what the cluster tells", at_least=0, keeps_result=True
    )
    process_id: int = flag(
        -1, "number of this process; -1: what the cluster tells", at_least=-1, keeps_result=True
    )
    stuck_after: float = flag(
        1800.0,
        "seconds without progress (a step, an evaluation, a checkpoint, input) after which the run "
        "shows where it hangs and ends; 0: never",
        at_least=0,
        keeps_result=True,
    )

    # What is written and shown.
    eval_batch_size: int = flag(
        0, "rows per evaluation batch; 0: batch_size", at_least=0, keeps_result=True
    )
    eval_every: int = flag(0, "steps between evaluations; 0: an epoch", at_least=0)
    checkpoint_every: int = flag(0, "steps between checkpoints; 0: eval_every", at_least=0)
    log_every: int = flag(50, "steps between lines of metrics.jsonl", at_least=1)
    eval_gap: bool = flag(
        False,
        "at every evaluation also measure the gap of mixup on the rows evaluated, whatever the "
        "method; one forward pass more of twice the rows",
        keeps_result=True,
    )
    record_errors: bool = flag(
        False, "at every evaluation write which training rows are misclassified", keeps_result=True
    )
    tensorboard: bool = flag(False, "write TensorBoard events too", keeps_result=True)

    def __post_init__(self) -> None:
        """Fills in what follows from others, then checks each field, then those together."""
        if self.clean_weight is None:
            object.__setattr__(self, "clean_weight", self._default_clean_weight())
        flagfields.check(self)
        conflicts.check(self)

    def _default_clean_weight(self) -> float:
        gap = self.policy != "none" and self.sem_weight > 0
        # With --sem_every the steps without a gap would forward clean rows for this loss alone.
        return float(gap and self.sem_fraction == 1 and self.sem_every == 1)

    def without_effect(self) -> list[str]:
        """The flags that were set but do nothing, because of another flag that is said beside."""
        return conflicts.without_effect(self)

    def total_steps(self, steps_per_epoch: int) -> int:
        """The steps of the whole run: --steps, or --epochs in steps, at least 1."""
        return self.steps or max(1, round(self.epochs * steps_per_epoch))

    def to_flags(self) -> str:
        """The text of a flag file that repeats the run, in any directory, by any processes."""
        lines = [
            f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in dataclasses.asdict(self).items()
            if name not in _OF_THE_PROCESS
        ]
        return "\n".join(lines) + "\n"


def define_flags(values: flags.FlagValues) -> None:
    """Defines one absl flag per field of `Config`.

    Args:
      values: the flags to define them in, `flags.FLAGS` for a program.
    """
    flagfields.define(Config, values)


def parse(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> Config:
    """Reads a command line into a Config.

    Flag files are found in the project's own folder when they are not a path, may name other flag
    files beside them, and stand for their lines: the last setting of a flag wins.

    Args:
      argv: the program's name and its arguments.
      values: the flags, defined by `define_flags`.

    Returns:
      The config, with `workdir` filled in: runs/FLAGFILE-SEED, or runs/DATASET-SEED without a flag
      file.

    Raises:
      ConfigError: an unknown flag, an argument left over, an impossible value or a missing flag
        file.

    Example:
      >>> values = flags.FlagValues()
      >>> define_flags(values)
      >>> parse(["train", "--flagfile=digits_erm.flags", "--seed=3"], values).workdir
      'runs/digits_erm-3'
    """
    config, names = flagfields.parse(Config, argv, values)
    if config.workdir:
        return config
    name = names[-1] if names else config.dataset.split(":")[-1].strip("/").replace("/", "-")
    return dataclasses.replace(config, workdir=f"runs/{name}-{config.seed}")


def read(path: pathlib.Path) -> Config:
    """Reads the `config.flags` of a run directory.

    Args:
      path: the file, as `Config.to_flags` wrote it.

    Returns:
      The config of that run.

    Raises:
      ConfigError: the file cannot be read or is damaged.
    """
    values = flags.FlagValues()
    define_flags(values)
    try:
        return parse(["", f"--flagfile={path}"], values)
    except ConfigError as error:
        raise ConfigError(f"{path} is damaged: {error}") from error


def differences(earlier: Config, config: Config) -> list[str]:
    """The flags in which two configs differ so that their results would.

    Directories and what is written or shown are not compared, nor are --steps and --epochs, which a
    resumed run may raise.

    Args:
      earlier: the config a run was started with.
      config: the config it is to be resumed with.

    Returns:
      One text a flag: `--name=new (the run has OLD)`.

    Example:
      >>> differences(Config(), Config(seed=1, steps=10))
      ['--seed=1 (the run has 0)']
    """
    return [
        f"--{field.name}={getattr(config, field.name)} (the run has {getattr(earlier, field.name)})"
        for field in dataclasses.fields(Config)
        if field.name not in ("steps", "epochs")
        and not field.metadata["keeps_result"]
        and getattr(earlier, field.name) != getattr(config, field.name)
    ]
