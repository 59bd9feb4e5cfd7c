"""The rules of the public API and of the source, as tests instead of prose.

What a linter can tell is told there: ruff forbids `assert`, blanket suppressions and unsorted
`__all__` (pyproject.toml). Here stands what needs the imported package or the whole repository.
"""

import ast
import configparser
import dataclasses
import importlib
import importlib.metadata
import inspect
import io
import pkgutil
import re
import subprocess
import sys
import tokenize
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import semjax

ROOT = Path(__file__).resolve().parents[1]
# Of the packages inside semjax too.
FOUND = list(pkgutil.walk_packages(semjax.__path__, "semjax."))
MODULES = [importlib.import_module(info.name) for info in FOUND if not info.ispkg]
PACKAGES = [semjax, *(importlib.import_module(info.name) for info in FOUND if info.ispkg)]
# What the method may be made of: pure computation. No file, flag, clock, log or module system.
ALLOWED_IN_SEMJAX = {
    *("semjax", "jax", "optax", "chex", "numpy"),
    *("abc", "collections", "dataclasses", "enum", "functools", "itertools", "math", "operator"),
    *("types", "typing"),
    "inspect",  # whether a model takes the hook for its hidden layers stands in its signature
}
# The one module that sets up the process it runs in: it looks into jaxlib for what XLA knows, and
# changes an environment variable.
ALLOWED_IN_CPU = {"importlib", "mmap", "os", "pathlib", "warnings"}
# Of what takes time to load: jax.extend loads Pallas.
HEAVY = (
    *("flax", "tensorflow_datasets", "orbax", "sklearn", "PIL", "tensorboardX", "experiments"),
    "jax.extend",
)


def _defined_in(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public functions and classes that a module defines itself."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value)):
            yield name, value


PUBLIC = {f"{m.__name__}.{name}": value for m in MODULES for name, value in _defined_in(m)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if not inspect.isclass(value)}
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}

each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
each_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES.keys())


def _section(value: Any, title: str) -> str | None:
    """The body of one section of a Google-style docstring; None if there is no such section."""
    match = re.search(
        rf"^{title}:\n((?:[ ]+.*(?:\n|$)|\n)+)", inspect.getdoc(value) or "", re.MULTILINE
    )
    return inspect.cleandoc("\n" + match.group(1)) if match else None


def _described(section: str) -> list[str]:
    """The names that an Args or Attributes section describes, `a, b: text` as two."""
    heads = re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: \([^)]*\))?:", section, re.MULTILINE)
    return [name.strip(" *") for head in heads for name in head.split(",")]


def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(path: Path) -> set[str]:
    """The top-level packages that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("semjax" if node.level else (node.module or "").partition(".")[0])
    return names


def _sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


# --- What is public ----------------------------------------------------------------------------


each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)


@each_package
def test_all_is_exactly_what_the_package_re_exports(package: ModuleType) -> None:
    tree = _parse(Path(str(package.__file__)))
    imported = [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(package.__all__) == sorted(imported)


@each_package
def test_the_package_file_holds_no_logic(package: ModuleType) -> None:
    body = _parse(Path(str(package.__file__))).body
    kinds = [type(node) for node in body if not isinstance(node, ast.ImportFrom)]
    assert kinds == [ast.Expr, ast.Assign]  # the docstring and __all__


def test_the_names_of_the_method_are_at_the_top() -> None:
    expected = {"Mix", "Outputs", "interpolate", "interpolate_spatial", "mixup", "cutmix"}
    assert expected | {"make_sem_loss", "gap"} <= set(semjax.__all__)


# --- Docstrings are contracts ------------------------------------------------------------------


@pytest.mark.parametrize("value", PUBLIC.values(), ids=PUBLIC.keys())
def test_every_public_symbol_opens_with_one_line(value: Any) -> None:
    first, *rest = (vars(value).get("__doc__") or value.__doc__ or "").strip().splitlines()
    assert first.endswith((".", "?"))
    assert not rest or not rest[0].strip()


@each_function
def test_args_describe_every_parameter_and_no_other(function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters)
    assert _described(_section(function, "Args") or "") == parameters


@each_function
def test_returns_are_described(function: Callable[..., Any]) -> None:
    returns = typing.get_type_hints(function)["return"]
    assert (_section(function, "Returns") is None) == (returns is type(None))


@each_function
def test_errors_raised_in_the_body_are_described(function: Callable[..., Any]) -> None:
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(inspect.unwrap(function))))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    }
    assert raised <= set(_described(_section(function, "Raises") or ""))


@each_function
def test_functions_have_an_example_that_runs(function: Callable[..., Any]) -> None:
    assert ">>> " in (_section(function, "Example") or "")


@each_class
def test_classes_have_an_example_unless_they_are_protocols(cls: type) -> None:
    if not getattr(cls, "_is_protocol", False):
        assert ">>> " in (_section(cls, "Example") or "")


@each_class
def test_attributes_describe_every_field_and_no_other(cls: type) -> None:
    if dataclasses.is_dataclass(cls):
        fields = [field.name for field in dataclasses.fields(cls)]
        assert _described(_section(cls, "Attributes") or "") == fields


# --- Signatures --------------------------------------------------------------------------------


@each_function
def test_every_parameter_has_an_annotation_that_evaluates(function: Callable[..., Any]) -> None:
    hints = typing.get_type_hints(function)
    assert set(hints) == {*inspect.signature(function).parameters, "return"}


@each_function
def test_options_are_keyword_only(function: Callable[..., Any]) -> None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty:
            assert parameter.kind is parameter.KEYWORD_ONLY, parameter.name


@each_function
def test_a_key_comes_first(function: Callable[..., Any]) -> None:
    parameters = list(inspect.signature(function).parameters)
    if "key" in parameters:
        assert parameters[0] == "key"


# What a policy made of another one is made of comes first; every other option has a name.
POSITIONAL = {"choose": 1, "scheduled": 1, "at_layers": 1, "with_noise": 1, "make_sem_loss": 1}
FACTORIES = [name for name, value in vars(semjax.policies).items() if inspect.isfunction(value)]


@pytest.mark.parametrize("factory", [*FACTORIES, "make_sem_loss"])
def test_factories_take_options_by_name(factory: str) -> None:
    parameters = inspect.signature(getattr(semjax, factory)).parameters.values()
    by_place = [p.kind is not p.KEYWORD_ONLY for p in parameters].count(True)
    assert by_place == POSITIONAL.get(factory, 0)


# --- What the library may load -----------------------------------------------------------------


def test_importing_semjax_loads_no_study_package_and_starts_no_backend() -> None:
    program = f"""
import sys, jax, semjax
print([name for name in {HEAVY!r} if name in sys.modules])
# Raises once a backend runs. A cluster is set up after the import, so it must not.
jax.config.update("jax_num_cpu_devices", 3)
print(jax.device_count("cpu"))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.returncode) == (["[]", "3"], 0), done.stderr


@pytest.mark.parametrize("path", _sources("semjax"), ids=lambda path: path.name)
def test_semjax_imports_nothing_but_pure_computation(path: Path) -> None:
    more = ALLOWED_IN_CPU if path == ROOT / "semjax" / "cpu.py" else set()
    assert _imports(path) <= ALLOWED_IN_SEMJAX | more


@pytest.mark.parametrize("path", _sources("semjax"), ids=lambda path: path.name)
def test_semjax_opens_no_file_and_prints_nothing(path: Path) -> None:
    calls = {
        node.func.id
        for node in ast.walk(_parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval", "__import__"}


# --- Dependencies ------------------------------------------------------------------------------


def _declared(extra: str | None) -> set[str]:
    """The distributions that setup.cfg asks for: the core's, or one extra's."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = (
        config["options.extras_require"][extra] if extra else config["options"]["install_requires"]
    )
    names = re.findall(r"^[\w.-]+", lines, re.MULTILINE)
    return {name.lower().replace("_", "-") for name in names}


def _distributions(folder: str) -> set[str]:
    """The distributions that the files of a folder import."""
    known = importlib.metadata.packages_distributions()
    own = {"semjax", "experiments", "benchmarks", *(path.stem for path in _sources("tests"))}
    third_party = {
        name for path in _sources(folder) for name in _imports(path) - own - sys.stdlib_module_names
    }
    return {known.get(name, [name])[0].lower().replace("_", "-") for name in third_party}


def test_the_core_requires_exactly_what_semjax_imports() -> None:
    assert _declared(None) == _distributions("semjax")


def test_experiments_import_only_what_is_declared() -> None:
    extras = ("experiments", "tensorboard", "export")
    allowed = _declared(None).union(*map(_declared, extras))
    assert _distributions("experiments") <= allowed


def test_tests_import_only_what_is_declared() -> None:
    allowed = [_declared(extra) for extra in (None, "experiments", "tensorboard", "export", "test")]
    assert _distributions("tests") <= set().union(*allowed)


# --- The repository ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [path for path in _sources("semjax", "experiments") if path.name != "__init__.py"],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_every_module_has_its_test_file(path: Path) -> None:
    assert (ROOT / "tests" / f"{path.stem}_test.py").is_file()


@pytest.mark.parametrize("path", _sources("semjax", "experiments", "tests"), ids=lambda p: p.name)
def test_every_suppression_gives_its_reason(path: Path) -> None:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT:
            assert _gives_reason(token.string), f"line {token.start[0]}: {token.string}"


def _gives_reason(comment: str) -> bool:
    """Whether a comment that silences a tool, if it is one, also says why."""
    marker = r"#\s*(type:\s*ignore(\[[^\]]*\])?|noqa(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*)?)"
    reason, silenced = re.subn(marker, "", comment)
    return not silenced or len(re.findall(r"[A-Za-z]{2,}", reason)) >= 2


@pytest.mark.parametrize(
    ("comment", "fine"),
    [
        ("# a remark", True),
        ("# noqa: E501", False),
        ("# type: ignore[arg-type]", False),
        ("# type: ignore[arg-type]  # optax ships no types", True),
        ("# noqa: B008, E501: the table reads better in one line", True),
    ],
)
def test_the_reason_is_looked_for_beside_the_suppression(comment: str, fine: bool) -> None:
    assert _gives_reason(comment) is fine
