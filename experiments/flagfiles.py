"""Flag files: found by name or by path, nested, and read with errors that name the file."""

import pathlib
from collections.abc import Sequence

FLAG_DIR = pathlib.Path(__file__).parent / "flags"


class ConfigError(ValueError):
    """A flag that cannot be; the message names it, what was found and what is allowed."""


def expand_flag_files(
    args: Sequence[str], above: tuple[str, ...] = ()
) -> tuple[list[str], list[str]]:
    """Replaces every --flagfile=NAME by the lines of the file, nested files included.

    absl would read flag files too, but only by path, and would report a mistake in one with a
    traceback.

    Args:
      args: command-line arguments, or the lines of a flag file.
      above: the files being read, to find one that names itself.

    Returns:
      The arguments without flag files, and the names of the files named in `args` itself.

    Raises:
      ConfigError: a file that does not exist, cannot be read, or names itself.
    """
    expanded: list[str] = []
    names: list[str] = []
    for arg in args:
        flag, _, name = arg.partition("=")
        if flag not in ("--flagfile", "-flagfile"):
            expanded.append(arg)
            continue
        path = _find_flag_file(name, pathlib.Path(above[-1]).parent if above else pathlib.Path())
        if str(path) in above:
            raise ConfigError(f"--flagfile={name}: the file names itself")
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--flagfile={name}: cannot be read: {error}") from error
        kept = [line for line in lines if line and not line.startswith(("#", "//"))]
        if stray := [line for line in kept if not line.startswith("-")]:
            raise ConfigError(f"--flagfile={name}: not a flag: {stray[0]!r}; write --name=value")
        expanded += expand_flag_files(kept, (*above, str(path)))[0]
        names.append(path.stem)
    return expanded, names


def _find_flag_file(name: str, beside: pathlib.Path) -> pathlib.Path:
    for path in (beside / name, FLAG_DIR / name):
        if name and path.is_file():
            return path.resolve()
    known = ", ".join(sorted(path.name for path in FLAG_DIR.glob("*.flags")))
    raise ConfigError(f"--flagfile={name}: no such file; the project's own are {known}")
