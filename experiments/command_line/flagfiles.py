"""Flag files: found by name or by path, nested, and read with errors that name the file.

A flag file may come from anybody: it is text within limits, and sets flags of the program alone.
"""

import pathlib
from collections.abc import Collection, Sequence

from experiments import untrusted
from experiments.command_line import suggestions

FLAG_DIR = pathlib.Path(__file__).parents[1] / "flags"
# Of a file and all that it names. Without them a few small files that name each other often would
# keep a program reading for ever.
_MOST_BYTES = 2**20
_MOST_FILES = 64
_MOST_DEEP = 8


class ConfigError(ValueError):
    """A flag that cannot be; the message names it, what was found and what is allowed."""


def expand_flag_files(
    args: Sequence[str], *, foreign: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Replaces every --flagfile=NAME by the lines of the file, nested files included.

    absl would read flag files too, but only by path, and would report a mistake in one with a
    traceback.

    Args:
      args: command-line arguments.
      foreign: flags that belong on the command line alone, such as those of libraries, of which
        some start a debugger or write files.

    Returns:
      The arguments without flag files, and the names of the files named in `args` itself.

    Raises:
      ConfigError: a file that does not exist, cannot be read, is no text, names itself, sets a
        foreign flag, or is too long, too deep or too many with those that it names.

    Example:
      >>> expand_flag_files(["--flagfile=digits_erm.flags", "--seed=1"])[1]
      ['digits_erm']
    """
    return _expand(args, (), foreign, [])


def _expand(
    args: Sequence[str], above: tuple[pathlib.Path, ...], foreign: Collection[str], sizes: list[int]
) -> tuple[list[str], list[str]]:
    """As `expand_flag_files`, inside the files `above`, after files of these sizes."""
    expanded: list[str] = []
    names: list[str] = []
    for arg in args:
        flag, _, name = arg.partition("=")
        if flag not in ("--flagfile", "-flagfile"):
            expanded.append(arg)
            continue
        path = _find_flag_file(name, above[-1].parent if above else pathlib.Path())
        if path in above:
            raise _error(name, "the file names itself")
        lines = _lines(name, path, sizes)
        if len(above) == _MOST_DEEP or len(sizes) > _MOST_FILES or sum(sizes) > _MOST_BYTES:
            raise _error(
                name,
                f"with the files it names, at most {_MOST_DEEP} deep, {_MOST_FILES} files and "
                f"{_MOST_BYTES:,} bytes are read",
            )
        for line in lines:
            if not line.startswith("-"):
                raise _error(name, f"not a flag: {line[:80]!r}; write --name=value")
            if (own := line.lstrip("-").partition("=")[0]) in foreign:
                raise _error(name, f"--{own} is not for flag files; write it on the command line")
        expanded += _expand(lines, (*above, path), foreign, sizes)[0]
        names.append(path.stem)
    return expanded, names


def _lines(name: str, path: pathlib.Path, sizes: list[int]) -> list[str]:
    """The lines of a file that are no remarks."""
    try:
        text = untrusted.read_text(path, at_most=_MOST_BYTES)
    except (OSError, ValueError) as error:
        raise _error(name, f"cannot be read: {untrusted.one_line(error)}") from error
    sizes.append(len(text))
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "//"))]


def _find_flag_file(name: str, beside: pathlib.Path) -> pathlib.Path:
    for path in (beside / name, FLAG_DIR / name):
        try:
            if name and path.is_file():
                return path.resolve()
        except (OSError, ValueError):  # a name that no file can have, or a directory not to look in
            continue
    known = sorted(path.name for path in FLAG_DIR.glob("*.flags"))
    # By the name alone: the folder, or the ending, may be what is wrong.
    stems = {path.removesuffix(".flags"): path for path in known}
    stem = pathlib.PurePath(name).name.removesuffix(".flags")
    meant = stem if stem in stems else suggestions.nearest(stem, stems)
    if meant is None:
        raise _error(name, f"no such file; the project's own are {', '.join(known)}")
    raise _error(
        name,
        f"no such file; did you mean {stems[meant]}? `python -m experiments.train --list` shows "
        "the project's own",
    )


def _error(name: str, message: str) -> ConfigError:
    return ConfigError(f"--flagfile={untrusted.one_line(name)}: {message}")
