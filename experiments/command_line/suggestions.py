"""What a mistyped name may have meant: `; did you mean NAME?` at the end of a message."""

import difflib
import re
from collections.abc import Callable, Iterable

# A longer one is no slip of the finger, and comparing takes time with the square of the length.
_LONGEST = 64
_ALIKE = 0.65  # of 1, as difflib counts: two letters of three in their order, such as mpl for mlp
_EMBEDDED = ("digits", "digit_factors", "coloured_digits")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name that a mistyped one is most like.

    Args:
      word: what was written.
      known: the names that there are.

    Returns:
      The name that looks most alike, else the only one whose initials were written; None where
      nothing comes near.

    Example:
      >>> nearest("sem_wieght", ["sem_weight", "seed"]), nearest("lr", ["alpha", "learning_rate"])
      ('sem_weight', 'learning_rate')
    """
    names = list(dict.fromkeys(known))
    if not word or len(word) > _LONGEST:
        return None
    if alike := difflib.get_close_matches(word, names, n=1, cutoff=_ALIKE):
        return alike[0]
    short = [name for name in names if "_" in name and _initials(name) == word]
    return short[0] if len(short) == 1 else None


def hint(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """The end of a message that names what a mistyped name may have meant.

    Args:
      word: what was written.
      known: the names that there are.
      prefix: stands before the name that is shown.

    Returns:
      The text; empty where nothing comes near, or where the word is one of the names.

    Example:
      >>> hint("msee", ["mse", "cosine"])
      '; did you mean mse?'
    """
    names = list(known)
    found = None if word in names else nearest(word, names)
    return f"; did you mean {prefix}{found}?" if found else ""


def of_error(error: object) -> str:
    """The hint that goes with an error about a model or a data set.

    What knows the name of a model or of a data set does not know all others that there are.

    Args:
      error: what a run is refused with, or its message.

    Returns:
      As `hint`.

    Example:
      >>> of_error("--model=resnt18: unknown model 'resnt18': expected one of ...")
      '; did you mean resnet18?'
    """
    for pattern, known in _NAMES:
        if found := re.match(pattern, str(error)):
            return hint(found[1], known())
    return ""


def _initials(name: str) -> str:
    return "".join(part[:1] for part in name.split("_"))


def _models() -> Iterable[str]:
    from experiments import models  # heavy, and not every program that gives hints has models

    return models.NAMES


def _data_sets() -> list[str]:
    """The embedded ones, those of the project's flag files and, if TFDS is there, all of TFDS."""
    from experiments.command_line import listing  # it reads flag files, which give hints too

    found = {*_EMBEDDED, *(entry.data_set for entry in listing.entries())}
    try:
        import tensorflow_datasets

        found |= set(tensorflow_datasets.list_builders(with_community_datasets=False))
    except Exception:  # a hint is not worth another error
        pass
    return sorted(found)


# How messages begin that a hint may follow, and the names that may have been meant.
_NAMES: tuple[tuple[str, Callable[[], Iterable[str]]], ...] = (
    (r"--model=(\S+): unknown model ", _models),
    (r"([^\s/:]+) is not prepared in ", _data_sets),
    (r"TFDS knows no data set ([^\s/:]+)", _data_sets),
    (r"unknown data set '([^\s/:']+)", _data_sets),
)
