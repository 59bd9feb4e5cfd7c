"""What is measured: groups of subjects that take turns, and the ratios that are drawn from them.

Everything that a figure is made of stands here; how it is measured stands in `workers` (subjects
that take steps), `startup` and `throughput`.
"""

import dataclasses
from collections.abc import Sequence

from benchmarks.workers import Subject
from experiments.lifecycle import allocator

# Of the bound of a clean side without gradient: 1.02 * (1 + forward / step).
_SLACK = 1.02
# The gap alone: a label loss of the clean rows would differentiate a side that is to be held.
_PLAIN = ("sem_weight=0", "clean_weight=0")
_HUGE_PAGES = (("GLIBC_TUNABLES", allocator.TUNABLES),)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a person chooses.

    Attributes:
      batch_size: B.
      rounds: counted rounds.
      turn_seconds: a turn takes about so long, at least one step.
      data_dir: root of TFDS with CIFAR-100; empty: what needs it is skipped.
      smoke: small stand-ins for all networks, to see that everything runs.
    """

    batch_size: int = 128
    rounds: int = 7
    turn_seconds: float = 2.0
    data_dir: str = ""
    smoke: bool = False


@dataclasses.dataclass(frozen=True)
class Figure:
    """A ratio of two subjects of a group.

    Attributes:
      name: in --only, and in the table.
      title: what over what.
      over: the subject that is divided.
      under: the subject it is divided by.
      target: what the ratio must not exceed; None for a figure that is only shown.
      free: a subject F that instead sets the target, to 1.02 * (1 + F / under) as measured.
      quantity: seconds of a step, or peak_mib of the process.
    """

    name: str
    title: str
    over: str
    under: str
    target: float | None = None
    free: str = ""
    quantity: str = "seconds"

    def subjects(self) -> list[str]:
        """The names of the subjects it is drawn from."""
        return [self.over, self.under, *([self.free] if self.free else [])]

    def bound(self, free: float | None) -> float | None:
        """The target, given the median of F / under where there is an F."""
        return self.target if free is None else _SLACK * (1 + free)


@dataclasses.dataclass(frozen=True)
class Group:
    """Subjects that take turns.

    Attributes:
      name: in --only.
      subjects: by name.
      figures: drawn from them.
      turn_seconds: times that of the settings.
    """

    name: str
    subjects: dict[str, Subject]
    figures: tuple[Figure, ...]
    turn_seconds: float = 1.0

    def only(self, names: set[str]) -> "Group":
        """The figures asked for, by their names or the group's, and what these need."""
        figures = tuple(f for f in self.figures if self.name in names or f.name in names)
        used = {name for figure in figures for name in figure.subjects()}
        subjects = {name: s for name, s in self.subjects.items() if name in used}
        return dataclasses.replace(self, subjects=subjects, figures=figures)


def groups(settings: Settings) -> list[Group]:
    """All that takes turns, in the order of the table.

    Args:
      settings: what a person chose.

    Returns:
      Groups with names of their own, of figures with names of their own.

    Example:
      >>> [group.name for group in groups(Settings())][:3]
      ['resnet18', 'wrn_16_4', 'resnet20']
    """
    make = _Makers(settings)
    return [
        make.peers("resnet18", "ResNet-18", (1.0, 1.25)),
        make.peers("wrn_16_4", "WRN-16-4", (1.0, None)),
        make.peers("resnet20", "ResNet-20", (1.0, None)),
        make.variants(),
        make.bare(),
        *make.sem("resnet20", "ResNet-20", late=2),
        *make.sem("resnet18", "ResNet-18", late=3),
        make.loop("resnet18", "ResNet-18", 1.02),
        make.loop("digits", "digits CNN", 1.15),
        make.input(),
        make.memory(),
    ]


class _Makers:
    """Groups in one person's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        size = 8 if settings.smoke else settings.batch_size
        self._sizes = [f"batch_size={size}"]
        if settings.smoke:
            self._sizes += ["pixels=8", "classes=10"]

    def _ours(
        self,
        model: str,
        *options: str,
        maker: str = "step",
        period: int = 1,
        stand_in: str = "mlp",
    ) -> Subject:
        smoke, sizes = self._settings.smoke, self._sizes
        if model == "digits" and not smoke:
            sizes = [*self._sizes[:1], "pixels=8", "channels=1", "classes=10", "rows=1437"]
        network = stand_in if smoke else "cnn" if model == "digits" else model
        given = (f"model={network}", "policy=mixup", *_PLAIN, *sizes, *options)
        # As the trainer starts itself, see `experiments.lifecycle.allocator`.
        return Subject(
            f"benchmarks.jax_steps:{maker}", given, period=period, environment=_HUGE_PAGES
        )

    def _theirs(
        self,
        model: str,
        *options: str,
        tool: str = "",
        environment: tuple[tuple[str, str], ...] = (),
    ) -> Subject:
        network = "resnet20" if self._settings.smoke else model
        given = (f"model={network}", *self._sizes, *options)
        maker = "benchmarks.torch_steps:step"
        return Subject(maker, given, needs="torch", tool=tool, environment=environment)

    def peers(self, model: str, title: str, targets: tuple[float, float | None]) -> Group:
        subjects, figures = {}, []
        for dtype, short, target in zip(
            ("float32", "bfloat16"), ("float32", "bf16"), targets, strict=True
        ):
            ours, theirs = f"semjax {short}", f"torch {short}"
            subjects[ours] = self._ours(model, f"compute_dtype={dtype}")
            subjects[theirs] = self._theirs(model, f"compute_dtype={dtype}")
            peer = "PyTorch channels_last" if short == "float32" else "PyTorch bf16 autocast"
            name = model if short == "float32" else f"{model}_bf16"
            line = f"{title} mixup step, {short}: semjax / {peer}"
            figures.append(Figure(name, line, ours, theirs, target))
        return Group(model, subjects, tuple(figures))

    def variants(self) -> Group:
        """ResNet-18 in float32 with other choices on either side, to be seen beside the first."""
        ours, theirs = "semjax", "torch"
        subjects = {
            ours: self._ours("resnet18"),
            theirs: self._theirs("resnet18"),
            "semjax by XLA": self._ours("resnet18", "convolutions=phased"),
        }
        line = "ResNet-18 mixup step, float32: {} / {}"
        without = line.format("semjax without oneDNN (--convolutions=phased)", "PyTorch")
        figures = [Figure("resnet18_phased", without, "semjax by XLA", theirs)]
        if not self._settings.smoke:
            # Compiling takes a minute, and a variable of its own a process.
            subjects["torch compiled"] = self._theirs("resnet18", "compile=1", tool="g++")
            subjects["torch, huge pages"] = self._theirs("resnet18", environment=_HUGE_PAGES)
            for name, how, subject in (
                ("resnet18_compiled", "PyTorch through torch.compile", "torch compiled"),
                (
                    "resnet18_huge_pages",
                    "PyTorch with the GLIBC_TUNABLES of semjax",
                    "torch, huge pages",
                ),
            ):
                figures.append(Figure(name, line.format("semjax", how), ours, subject))
        return Group("variants", subjects, tuple(figures))

    def bare(self) -> Group:
        blocks = 1 if self._settings.smoke else 3
        subjects = {
            "semjax": self._ours("resnet20"),
            "bare jnp": Subject(
                "benchmarks.bare_jnp:step",
                (*self._sizes, f"blocks={blocks}"),
                environment=_HUGE_PAGES,
            ),
        }
        line = "ResNet-20 mixup step: semjax (Linen, optax, metrics, guard) / bare jnp"
        return Group("bare", subjects, (Figure("bare_jnp", line, "semjax", "bare jnp", 1.03),))

    def sem(self, model: str, title: str, late: int) -> list[Group]:
        """In three groups: all processes of one are alive at once, and hold their memory."""
        late = 1 if self._settings.smoke else late
        held, fourth = "stop_gradient=clean", "sem_every=4"
        half = ("sem_fraction=0.5", "pairing_groups=2")
        after = ("share_prefix=true", f"policy_options=mixup.layers=({late},)")
        stage = f"mixed after stage {late} only, --share_prefix"
        without = "clean side without gradient"
        subjects = {"forward": self._ours(model, maker="forward")}
        line = f"{title} forward pass in training mode / mixup step"
        forward = Figure(f"forward_{model}", line, "forward", "mixup")

        def figure(
            name: str, how: str, *given: str, target: float | None = None, free: str = ""
        ) -> Figure:
            period = 4 if fourth in given else 1
            subjects[name] = self._ours(model, "sem_weight=1", *given, period=period)
            line = f"{title} sem step ({how}) / mixup step"
            return Figure(f"{name}_{model}", line, name, "mixup", target, free)

        figures = {
            "sem": (
                figure("sem", "both gradients", target=2.03),
                figure("sem_held", without, held, free="forward"),
                forward,
            ),
            "cheap": (
                figure("sem_half", "half of the rows", *half),
                figure("sem_half_held", f"half of the rows, {without}", *half, held),
                figure("sem_4th", "every 4th step", fourth),
                figure("sem_4th_held", f"every 4th step, {without}", fourth, held),
                figure(
                    "sem_4th_half_held",
                    f"every 4th step, half of the rows, {without}",
                    *(fourth, *half, held),
                    target=1.10,
                ),
            ),
            "late": (
                figure("sem_late", stage, *after),
                figure("sem_late_held", f"{stage}, {without}", *after, held),
            ),
        }
        subjects["mixup"] = self._ours(model)
        groups = [Group(f"{name}_{model}", subjects, drawn) for name, drawn in figures.items()]
        return [group.only({group.name}) for group in groups]

    def loop(self, model: str, title: str, target: float) -> Group:
        rows = () if model == "digits" and not self._settings.smoke else (self._rows(),)
        subjects = {
            "loop": self._ours(model, *rows, maker="loop"),
            "step": self._ours(model, *rows),
        }
        line = f"{title} training loop (without evaluation and checkpoints) / bare jitted step"
        figure = Figure(f"loop_{model}", line, "loop", "step", target)
        return Group(f"loop_{model}", subjects, (figure,), turn_seconds=3)

    def input(self) -> Group:
        given = (f"crop_padding={2 if self._settings.smoke else 4}", "flip=true", self._rows())
        subjects = {
            "input": self._ours("resnet18", *given, maker="inputs"),
            "step": self._ours("resnet18", *given),
        }
        line = "ResNet-18 input, crop, flip and mixing / mixup step"
        figure = Figure("input_resnet18", line, "input", "step", 0.03)
        return Group("input", subjects, (figure,))

    def memory(self) -> Group:
        sem, remat = "sem", "sem, remat"
        # As many steps under way as the trainer has: each holds memory.
        given = ("sem_weight=1", "in_flight=3")
        subjects = {
            sem: self._ours("resnet18", *given, stand_in="wrn_10_1"),
            remat: self._ours("resnet18", *given, "remat=true", stand_in="wrn_10_1"),
            "torch 2B": self._theirs("resnet18", "loss=sem_joint"),
            "torch B + B": self._theirs("resnet18", "loss=sem_separate"),
        }
        line = "ResNet-18 peak memory, sem step (both gradients): {} / {}"
        joint, parted = "PyTorch, one pass of 2B rows", "PyTorch, two passes of B rows"
        peak = "peak_mib"
        again = "semjax with rematerialisation"
        figures = (
            Figure("memory", line.format("semjax", joint), sem, "torch 2B", 1.1, quantity=peak),
            Figure(
                "memory_remat", line.format(again, joint), remat, "torch 2B", 0.6, quantity=peak
            ),
            Figure(
                "memory_parted", line.format("semjax", parted), sem, "torch B + B", quantity=peak
            ),
            Figure(
                "time_parted",
                f"ResNet-18 sem step (both gradients): semjax / {parted}",
                sem,
                "torch B + B",
            ),
            Figure(
                "time_remat",
                "ResNet-18 sem step (both gradients): with rematerialisation / without",
                remat,
                sem,
                1.35,
            ),
        )
        return Group("memory", subjects, figures, turn_seconds=6)

    def _rows(self) -> str:
        return "rows=256" if self._settings.smoke else "rows=50000"


def checked_names(groups: list[Group], further: Sequence[str], asked: str) -> set[str]:
    """The names in `--only`.

    Args:
      groups: those that take turns.
      further: names of figures that are measured in another way.
      asked: names of groups and figures joined by commas; empty for all.

    Returns:
      The names asked for, or those of all groups and all other figures.

    Raises:
      ValueError: an unknown name.
    """
    allowed = [*(group.name for group in groups), *further]
    figures = {figure.name for group in groups for figure in group.figures}
    names = set(filter(None, asked.split(",")))
    if unknown := sorted(names - figures - set(allowed)):
        raise ValueError(
            f"--only={asked}: there is no {', '.join(unknown)}; allowed: {', '.join(allowed)}, "
            f"and of single figures {', '.join(sorted(figures - set(allowed)))}"
        )
    return names or set(allowed)
