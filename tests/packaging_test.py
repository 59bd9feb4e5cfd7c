"""What is installed: complete metadata, the files that are not Python, bounds that are tested.

With `-m long`, which needs a package index: the wheel alone in a fresh environment, and a part of
the tests with the oldest releases that setup.cfg allows.
"""

import configparser
import email.message
import email.parser
import fnmatch
import json
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import semjax

ROOT = Path(__file__).resolve().parents[1]
OLDEST = ROOT / ".ci" / "oldest.txt"
# Whose bounds are tested: those of what the package runs on. Of the tools of developers, which any
# release of the last years replaces, the test runners alone.
BOUNDED = ("experiments", "tensorboard", "export")
RUNNERS = ("pytest", "hypothesis")
CORE = {"jax", "numpy", "optax", "chex"}
# What those need in turn, and what every environment starts with.
NEEDED_BY_CORE = {"absl-py", "jaxlib", "ml-dtypes", "opt-einsum", "scipy", "toolz"}
NEEDED_BY_CORE |= {"typing-extensions", "pip", "setuptools"}
TESTED_WITH_OLDEST = ("sem_test.py", "mixing_test.py", "policies_test.py")


def _setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def _requirements(lines: str) -> dict[str, str]:
    """Name, lower-case, and bound of each requirement, without extras and markers."""
    found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?(?:>=([\w.]+))?", lines.strip(), re.MULTILINE)
    return {name.lower().replace("_", "-"): bound for name, bound in found}


def _oldest() -> dict[str, str]:
    lines = [line for line in OLDEST.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines)
    }


# --- Metadata ----------------------------------------------------------------------------------


def test_the_core_is_four_packages() -> None:
    assert set(_requirements(_setup()["options"]["install_requires"])) == CORE


def test_the_extras_are_what_the_documents_may_name() -> None:
    assert set(_setup()["options.extras_require"]) == {
        *("cuda", "tpu", "experiments", "tensorboard", "export", "peers", "docs", "test"),
    }


@pytest.mark.parametrize(("extra", "jax_extra"), [("cuda", "cuda13"), ("tpu", "tpu")])
def test_an_accelerator_is_an_extra_of_jax_within_the_bound_of_the_core(
    extra: str, jax_extra: str
) -> None:
    config = _setup()
    bound = _requirements(config["options"]["install_requires"])["jax"]
    (requirement,) = config["options.extras_require"][extra].strip().splitlines()
    assert requirement.partition(";")[0].strip() == f"jax[{jax_extra}]>={bound}"


def test_every_requirement_has_a_lower_bound() -> None:
    config = _setup()
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = {name: bound for group in groups for name, bound in _requirements(group).items()}
    found.pop("semjax")  # the extras of a developer are its own
    assert [name for name, bound in found.items() if not bound] == []


def test_the_oldest_releases_are_the_lower_bounds() -> None:
    config = _setup()
    extras = config["options.extras_require"]
    expected = _requirements(config["options"]["install_requires"])
    for extra in BOUNDED:
        expected |= _requirements(extras[extra])
    runners = _requirements(extras["test"])
    expected |= {name: runners[name] for name in RUNNERS}
    assert _oldest() == expected, f"make {OLDEST.relative_to(ROOT)} and setup.cfg agree"


def test_the_classifiers_name_the_pythons_that_are_tested() -> None:
    metadata = _setup()["metadata"]["classifiers"]
    named = re.findall(r"Python :: (3\.\d+)", metadata)
    assert named[0] == _setup()["options"]["python_requires"].removeprefix(">=")
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert f"python{named[0]}" in script and f"find_python {named[-1]}" in script


# --- Files -------------------------------------------------------------------------------------


def _beside_the_code() -> set[str]:
    """Every file of the packages that a program reads, by its path in the repository."""
    return {
        str(path.relative_to(ROOT))
        for folder in ("semjax", "experiments")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
        if not {"results", "report"} & set(path.parts)  # what a study has found
    }


def test_flag_files_studies_and_the_mark_of_types_are_shipped() -> None:
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, lines in _setup()["options.package_data"].items()
        for pattern in lines.split()
    ]
    files = _beside_the_code()
    assert "semjax/py.typed" in files and "experiments/flags/digits.flags" in files
    left_out = [
        file for file in files if not any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
    ]
    assert left_out == []


# --- Habits ------------------------------------------------------------------------------------


def test_the_hooks_are_the_checks_of_continuous_integration() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    (checks,) = re.findall(r"^ruff .*$", script, re.MULTILINE)
    assert re.findall(r"^ +entry: (.+)$", text, re.MULTILINE) == checks.split(" && ")
    assert re.findall(r"repo: (\S+)", text) == ["local"]
    assert set(re.findall(r"language: (\S+)", text)) == {"system"}


# --- The wheel, with a package index -----------------------------------------------------------


def _done(*command: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _environment(folder: Path) -> Path:
    """The interpreter of a fresh environment."""
    venv.create(folder, with_pip=True)
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of the source distribution, as an index would have it."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    # From a copy: building in place would leave a build folder, and could pick up an old one.
    with tarfile.open(folder / "copy.tar", "w") as archive:
        for name in ("semjax", "experiments", "setup.cfg", "pyproject.toml", "README.md"):
            archive.add(ROOT / name, name)
        archive.add(ROOT / "LICENSE", "LICENSE")
    with tarfile.open(folder / "copy.tar") as archive:
        archive.extractall(source, filter="data")
    python = _environment(folder / "building")
    _done(python, "-m", "pip", "install", "-q", "build")
    _done(python, "-m", "build", "--outdir", folder / "dist", source)
    assert len(list((folder / "dist").glob("*.tar.gz"))) == 1
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.mark.long
def test_the_wheel_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (described,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.parser.Parser().parsestr(archive.read(described).decode())
    code = {
        str(path.relative_to(ROOT))
        for folder in ("semjax", "experiments")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name for name in names if ".dist-info/" not in name} == code | _beside_the_code()
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    _complete(metadata)


def _complete(metadata: email.message.Message) -> None:
    for key in ("Name", "Version", "Summary", "Author", "Keywords", "License-Expression"):
        assert metadata[key], key
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).startswith("# semjax")
    extras = set(metadata.get_all("Provides-Extra") or ())
    assert extras == set(_setup()["options.extras_require"])
    bare = [line for line in metadata.get_all("Requires-Dist") or () if "extra ==" not in line]
    assert {re.split(r"[^\w-]", line)[0] for line in bare} == CORE


@pytest.mark.long
def test_the_bare_wheel_has_the_core_alone_and_runs_the_first_example(
    wheel: Path, tmp_path: Path
) -> None:
    python = _environment(tmp_path / "bare")
    _done(python, "-m", "pip", "install", "-q", wheel)
    listed = json.loads(_done(python, "-m", "pip", "list", "--format=json"))
    found = {each["name"].lower().replace("_", "-") for each in listed}
    assert found - NEEDED_BY_CORE == CORE | {"semjax"}
    readme = (ROOT / "README.md").read_text("utf-8")
    example = re.search(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert example
    (tmp_path / "example.py").write_text(example.group(1) + "\nprint(semjax.__file__)\n")
    said = _done(python, "-W", "error", tmp_path / "example.py", cwd=tmp_path).splitlines()
    assert re.fullmatch(r"loss \d\.\d+, gap \d\.\d+", said[0])
    assert Path(said[1]).is_relative_to(tmp_path / "bare")
    assert Path(said[1]) != Path(str(semjax.__file__))


@pytest.mark.long
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="the oldest releases are of Python 3.11"
)
def test_the_oldest_releases_that_are_allowed_pass_a_part_of_the_tests(
    wheel: Path, tmp_path: Path
) -> None:
    python = _environment(tmp_path / "oldest")
    what = [f"{wheel}[{','.join(BOUNDED)}]", *RUNNERS]
    _done(python, "-m", "pip", "install", "-q", "--constraint", OLDEST, *what)
    listed = json.loads(_done(python, "-m", "pip", "list", "--format=json"))
    found = {each["name"].lower().replace("_", "-"): each["version"] for each in listed}
    newer = {
        name: found[name] for name, bound in _oldest().items() if not _same(found[name], bound)
    }
    assert newer == {}
    _done(python, "-m", "pytest", "-q", *(f"tests/{name}" for name in TESTED_WITH_OLDEST))
    _done(
        *(python, "-m", "experiments.train", "--flagfile=digits.flags", "--steps=2"),
        f"--workdir={tmp_path / 'run'}",
        cwd=tmp_path,
    )


def _same(version: str, bound: str) -> bool:
    """Whether a release is the bound, `2.0.0` for `2.0`."""
    return re.sub(r"(\.0)+$", "", version) == re.sub(r"(\.0)+$", "", bound)
