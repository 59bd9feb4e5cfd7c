"""The rules by which methods are compared, as code that refuses a study that breaks them.

1. All methods see the same data, model, augmentation, schedule and seeds. What a method may set is
   listed here; anything else is set once, for all. A study may name further flags in `varies`, and
   every table then says so.
2. Methods are compared at equal steps, or at equal forwarded rows to one in a hundred, never across
   the two.
3. Options are chosen on validation rows: such a study holds rows out and never measures the test
   split. A study of the test split measures the final weights of every run, so that rows it may
   hold out choose nothing.
4. A run is measured once. A result that is there is kept, and a study whose flags are no longer
   those of a result is refused.
"""

from collections.abc import Collection, Mapping
from typing import Any

from experiments.config import Config

# What makes a method: how rows are mixed, and what is asked of the mixes.
METHOD_FLAGS = frozenset(
    (
        *("policy", "policy_probabilities", "policy_scope", "policy_options"),
        *("mix_from_step", "mix_until_step", "mix_ramp_steps", "mixed_augmentation"),
        *("alpha", "weight_scope", "mix_probability", "correction"),
        *("pairing", "pairing_groups", "pairing_bandwidth"),
        *("sem_weight", "sem_ramp_steps", "sem_every", "sem_fraction"),
        *("distance", "representation", "stop_gradient", "clean_weight", "consistency_weight"),
        *("umix_from", "umix_eta", "umix_first_step", "reduction", "label_loss"),
        *("passes", "state_from", "share_prefix"),
    )
)
# What the study sets by itself.
OWN_FLAGS = frozenset(("seed", "steps", "epochs", "eval_every", "workdir", "test_split"))
# Where a machine keeps things: for the command line of the study.
PLACES = frozenset(("data_dir", "data_cache", "compile_cache", "download"))


def broken(
    *,
    train: Mapping[str, Any],
    methods: Mapping[str, Mapping[str, Any]],
    varies: Collection[str] = (),
) -> str:
    """Which rule the flags of a study break.

    Args:
      train: the flags that all runs have.
      methods: each method's own flags.
      varies: further flags that methods may set.

    Returns:
      A sentence that names the place and what is allowed; "" if they break none.

    Example:
      >>> broken(train={}, methods={"erm": {"learning_rate": 0.2}})
      "methods.erm: learning_rate is not a method's to set: set it in [train] for all"
    """
    for place, found in [
        ("train", train),
        *((f"methods.{name}", it) for name, it in methods.items()),
    ]:
        if own := sorted(OWN_FLAGS & found.keys()):
            return f"{place}: {own[0]} is set by the study itself, from seeds, budgets and split"
        if places := sorted(PLACES & found.keys()):
            return (
                f"{place}: {places[0]} belongs on the command line: it is no part of the question"
            )
    for name, found in methods.items():
        if foreign := sorted(found.keys() - METHOD_FLAGS - set(varies)):
            return (
                f"methods.{name}: {foreign[0]} is not a method's to set: set it in [train] for all"
            )
    return ""


def wrong_rows(split: str, config: Config) -> str:
    """Whether a run would choose on the rows that its figures are of.

    Args:
      split: the split that the figures are of, `validation` or `test`.
      config: what the run is before the study says so, whatever flag file it comes from.

    Returns:
      A sentence that names what is allowed; "" if nothing is wrong.

    Example:
      >>> wrong_rows("validation", Config())
      'a study of the validation split needs validation_fraction above 0 in [train]; found 0.0'
    """
    held_out = config.validation_fraction
    # A folder can have validation rows of its own.
    if split == "validation" and not (held_out or config.dataset.startswith("folder:")):
        return (
            "a study of the validation split needs validation_fraction above 0 in [train]; found "
            f"{held_out}"
        )
    if split == "test" and config.test_split != "test":
        return f"a study of the test split needs test_split=test; found {config.test_split}"
    return ""
