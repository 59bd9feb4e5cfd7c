"""No file that is read can run code: held over the source, and over every reader of arrays.

What unpickles, evaluates or hands a text to a shell is not in the repository. The one exception is
the test that runs the code of the documents.
"""

import ast
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments import uncertainty, untrusted
from experiments.datasets import data as data_lib
from experiments.datasets import decoded
from experiments.datasets.data import DataError, Split

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("semjax", "experiments", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# This file makes what must be refused.
MAY_PICKLE = {"no_pickle_test.py"}
MAY_RUN_CODE = {"readme_test.py"}

PICKLING = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    *("jsonpickle", "pandas.read_pickle"),
}
RUNNING = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn"}
# Readers that unpickle, or build any object, unless they are told otherwise.
LOADERS = {
    **{f"{module}.load": "allow_pickle" for module in ("np", "numpy", "jnp", "jax.numpy")},
    "torch.load": "weights_only",
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
}


def faults(source: str, name: str = "module.py") -> Iterator[str]:
    """What in a source could run code that a file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) and name not in MAY_PICKLE:
            module = getattr(node, "module", None)
            names = [alias.name for alias in node.names]
            found = [module, *(f"{module}.{n}" for n in names)] if module else names
            for one in found:
                if one.partition(".")[0] in PICKLING or one in PICKLING:
                    yield f"line {node.lineno}: imports {one}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in RUNNING and name not in MAY_RUN_CODE:
            yield f"line {node.lineno}: calls {called}"
        if given.get("shell", "False") != "False":
            yield f"line {node.lineno}: gives a text to a shell"
        if given.get("allow_pickle", "False") != "False" and name not in MAY_PICKLE:
            yield f"line {node.lineno}: allows pickle"
        if called in LOADERS:
            option = LOADERS[called]
            safe = {"allow_pickle": "False", "weights_only": "True"}
            if option is None or given.get(option) != safe[option]:
                yield f"line {node.lineno}: {called} without {option}={safe.get(option or '')}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_source_unpickles_evaluates_or_starts_a_shell(path: Path) -> None:
    assert list(faults(path.read_text(encoding="utf-8"), path.name)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, dill as d",
        "from joblib import load",
        "from multiprocessing import connection\ndef f():\n    import marshal",
        "from pandas import read_pickle",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "numpy.load(path)",
        "np.lib.format.read_array(file, allow_pickle=True)",
        "np.save(path, array, allow_pickle=True)",
        "torch.load(path)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_each_way_to_run_code_is_found(source: str) -> None:
    assert list(faults(source))


def test_what_runs_no_code_is_fine() -> None:
    source = (
        "np.load(path, allow_pickle=False)\nast.literal_eval(text)\nre.compile(text)\nf.eval(x)"
    )
    assert list(faults(source)) == []


class _Trap:
    """What pickle writes of this runs code when it is read back."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self._path), "w")


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """A .npy file that runs code in whoever unpickles it; in the end nobody has."""
    sprung, buffer = tmp_path / "sprung", io.BytesIO()
    np.save(buffer, np.array([_Trap(sprung)] * 3, object), allow_pickle=True)
    yield buffer.getvalue()
    assert not sprung.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()


def test_recorded_errors_that_hold_objects_are_refused(trap: bytes, tmp_path: Path) -> None:
    (tmp_path / "errors").mkdir()
    (tmp_path / "errors" / "5.npy").write_bytes(trap)
    with pytest.raises(DataError, match=r"5\.npy is damaged"):
        uncertainty.sample_weights(tmp_path, 3, eta=1.0)


def test_arrays_that_hold_objects_are_refused(trap: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels.npy").write_bytes(trap)
    with pytest.raises(ValueError, match="not an array"):
        untrusted.read_array(tmp_path / "labels.npy")


def test_a_cached_data_set_that_holds_objects_is_read_again(
    trap: bytes, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    split = Split(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int32))

    def through() -> data_lib.Split:
        return decoded.through(str(tmp_path / "cache"), dict, lambda: (2, {"test": split}))[1][
            "test"
        ]

    through()
    (label,) = (tmp_path / "cache").glob("*/test.label.npy")
    label.write_bytes(trap)
    np.testing.assert_array_equal(through().label, split.label)
    assert "is decoded again" in capsys.readouterr().err
