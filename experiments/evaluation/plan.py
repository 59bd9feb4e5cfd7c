"""What is evaluated, as one frozen value whose fields are the flags of experiments.evaluate."""

import dataclasses
from fractions import Fraction

from experiments.command_line import flagfields
from experiments.command_line.flagfields import flag
from experiments.command_line.flagfiles import ConfigError
from experiments.policies import POLICIES
from semjax.corruptions import CORRUPTIONS

PARTS: tuple[str, ...] = (
    "clean",
    "corruptions",
    "ood",
    "attacks",
    "equivariance",
    "probes",
    "groups",
    "projection",
    "pictures",
)
# A gap at the input's weight is asked for, so what is mixed at a hidden layer has no place here.
_HIDDEN = ("manifold_mixup", "noisy_feature_mixup")
GAP_POLICIES = tuple(name for name in POLICIES if name not in _HIDDEN)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an evaluation measures: one field a flag.

    Raises:
      ConfigError: a value out of range or a name that is none.

    Example:
      >>> Plan(epsilons="2/255,8/255").epsilon_values()
      (0.00784313725490196, 0.03137254901960784)
    """

    parts: str = flag(
        "all", "what to measure: all, or some of " + ", ".join(PARTS) + ", joined by commas"
    )
    seed: int = flag(0, "seed of corruptions, attacks and mixes", at_least=0, below=2**32)
    batch_size: int = flag(250, "rows per forward pass", at_least=1, keeps_result=True)
    limit: int = flag(0, "rows of the test split that are used; 0: all", at_least=0)
    corruptions: str = flag(
        "all", "all, or some of " + ", ".join(CORRUPTIONS) + ", joined by commas"
    )
    severities: str = flag("1,2,3,4,5", "severities of the corruptions, joined by commas")
    official: str = flag(
        "", "folder of an unpacked CIFAR-10-C or CIFAR-100-C archive (NAME.npy), read instead"
    )
    ood_sets: str = flag(
        "noise,fractals,digits",
        "what lies outside of the training distribution: noise, fractals, digits or data sets as "
        "in --dataset of experiments.train, joined by commas",
    )
    bank_rows: int = flag(
        10000, "training rows that Mahalanobis and nearest-neighbour scores look at", at_least=2
    )
    neighbours: int = flag(50, "k of the nearest-neighbour score", at_least=1)
    attack_rows: int = flag(1000, "rows that are attacked; 0: all", at_least=0)
    epsilons: str = flag(
        "1/255,2/255,4/255,8/255",
        "largest changes of a pixel in [0, 1] that attacks may make, joined by commas",
    )
    attack_steps: int = flag(20, "gradient steps of PGD", at_least=1)
    attack_restarts: int = flag(1, "random starts of PGD", at_least=1)
    gap_policies: str = flag(
        "mixup,cutmix", "policies whose gap is measured, some of " + ", ".join(GAP_POLICIES)
    )
    gap_rows: int = flag(2000, "rows that are mixed to measure the gap; 0: all", at_least=0)
    gap_bins: int = flag(10, "bins of the mixing weight", at_least=1)
    probe_dataset: str = flag(
        "",
        "data set with factors for the linear probes; without it the run's own, else digit_factors",
    )

    def __post_init__(self) -> None:
        """Checks every flag."""
        flagfields.check(self)
        for name, allowed in (
            ("parts", PARTS),
            ("corruptions", CORRUPTIONS),
            ("severities", ("1", "2", "3", "4", "5")),
            ("gap_policies", GAP_POLICIES),
        ):
            found = self.listed(name)
            if unknown := [item for item in found if item not in allowed]:
                raise ConfigError(
                    f"--{name}={getattr(self, name)}: no {unknown[0]!r}; must be some of "
                    f"{', '.join(allowed)}, joined by commas"
                )
            given = getattr(self, name).split(",")
            if not found or len({item.strip() for item in given}) < len(given):
                raise ConfigError(f"--{name}={getattr(self, name)}: must name each at most once")
        self.epsilon_values()

    def listed(self, name: str) -> tuple[str, ...]:
        """The items of a flag that is a list joined by commas, `all` spelt out, in their order."""
        text = getattr(self, name)
        everything = {"parts": PARTS, "corruptions": CORRUPTIONS}.get(name, ())
        if text == "all" and everything:
            return everything
        items = tuple(item.strip() for item in text.split(",") if item.strip())
        return tuple(x for x in everything if x in items) if set(items) < set(everything) else items

    def epsilon_values(self) -> tuple[float, ...]:
        """The sizes of the attacks, ascending."""
        try:
            found = tuple(float(Fraction(item.strip())) for item in self.epsilons.split(","))
        except (ValueError, ZeroDivisionError):
            found = ()
        if not found or min(found) <= 0 or max(found) > 1 or sorted(set(found)) != list(found):
            raise ConfigError(
                f"--epsilons={self.epsilons}: must be ascending numbers in (0, 1], such as 2/255, "
                "joined by commas"
            )
        return found
