"""Images that cannot be decoded: how many may be left out, and what is said of them."""

import sys
from collections.abc import Callable

from experiments import untrusted
from experiments.datasets.data import DataError

RULES = ("skip", "refuse")
# So many are always allowed, above that one in a hundred.
_ALLOWED = 3
_NAMED = 8


class DamagedImage(DataError):
    """One image cannot be decoded; the others of its data set may be good."""


def say(line: str) -> None:
    """Prints a line on stderr."""
    print(line, file=sys.stderr, flush=True)


class Damaged:
    """Those of one split: counted, named, and at some point too many.

    The first 8 are named on stderr as they are found. Of later ones the count is told whenever it
    has doubled, so that no data set floods a terminal. An image that is met again, in another
    epoch, counts once.
    """

    def __init__(
        self,
        rule: str,
        total: int,
        where: str = "the data set",
        *,
        say: Callable[[str], None] = say,
    ) -> None:
        """None are found yet.

        Args:
          rule: `skip`, or `refuse`, with which the first is an error.
          total: the images of the split.
          where: names the split.
          say: prints a line.
        """
        if rule not in RULES:
            raise ValueError(f"damaged must be one of {', '.join(RULES)}; got {rule!r}")
        self.total = total
        self._rule, self._where, self._say = rule, where, say
        self._found: dict[str, str] = {}

    def __len__(self) -> int:
        """How many different ones were found."""
        return len(self._found)

    def add(self, name: str, message: str) -> None:
        """Counts one.

        Args:
          name: of the image; the same image has the same name.
          message: what is wrong with it, its name included.

        Raises:
          DataError: none may be left out, or these are more than one in a hundred.

        Example:
          >>> damaged = Damaged("skip", 1000, say=print)
          >>> damaged.add("a.png", "a.png is not a readable image: it is empty")
          warning: left out, 1 so far: a.png is not a readable image: it is empty
        """
        message = untrusted.one_line(message)
        if self._rule == "refuse":
            raise DataError(f"{message}; --damaged_images=skip leaves such images out")
        if name in self._found:
            return
        self._found[name] = message
        count = len(self)
        if count > _ALLOWED and 100 * count > self.total:
            raise DataError(
                f"{self._where}: {count} of {self.total} images cannot be decoded, more than one "
                f"in a hundred: {self._names()}"
            )
        if count <= _NAMED:
            self._say(f"warning: left out, {count} so far: {message}")
        elif count & (count - 1) == 0:
            self._say(f"warning: {count} damaged images were left out so far")

    def finish(self) -> None:
        """Says how many they were, where not all were named."""
        if len(self) > _NAMED:
            self._say(f"warning: {self._where}: {len(self)} damaged images were left out")

    def _names(self) -> str:
        names = list(self._found)[:_NAMED]
        rest = len(self) - len(names)
        return ", ".join(names) + (f" and {rest} more" if rest else "")
