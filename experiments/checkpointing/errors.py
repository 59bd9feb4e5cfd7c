"""What can be wrong with checkpoints, said in one line."""

__all__ = ["CheckpointDamaged", "CheckpointError", "CheckpointMismatch", "digest", "listed"]

_SHOWN = 8  # items spelt out in one message


class CheckpointError(RuntimeError):
    """Says in one line where, what was found, what was expected and what to do."""


class CheckpointMismatch(CheckpointError):
    """A sound checkpoint of another run: its structure, shapes, dtypes or format do not fit."""


class CheckpointDamaged(CheckpointError):
    """A checkpoint cannot be read, or reads as something else than what was saved."""


def listed(items: list[str]) -> str:
    """The first items, and how many more there are.

    Example:
      >>> listed(list("abcdefghij"))
      'a; b; c; d; e; f; g; h; and 2 more'
    """
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def digest(error: BaseException) -> str:
    """One short line for an error whose own text may run to pages.

    Example:
      >>> digest(ValueError("no [tensorstore_spec={}]"))
      'ValueError: no'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).splitlines() or [""]
    # TensorStore appends its whole configuration in brackets.
    line = lines[0].split(" [tensorstore_spec=")[0].split(" [source locations=")[0]
    line = line if len(line) <= 400 else f"{line[:200]} ... {line[-200:]}"
    return f"{type(error).__name__}: {line}"
