"""The reader tells every damage in one line, and needs nothing of what the model was made with."""

import ast
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from exported_models import made, some_images

from experiments import export, read_export
from experiments.read_export import ExportError

FILES = ("export.json", "model.safetensors", "model.jaxexp")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "export"
    return export.write(made("mlp", (4, 4, 1)), folder, platforms=("cpu", "cuda"))


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "export")


def rewrite(folder, **changes):
    """Changes export.json, with the checksum that it then has."""
    about = json.loads((folder / "export.json").read_text()) | changes
    del about["sha256"]
    about["sha256"] = read_export.digest_of(about)
    (folder / "export.json").write_text(json.dumps(about))


def refusal(folder):
    with pytest.raises(ExportError) as error:
        read_export.load(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_imports_only_what_it_says():
    tree = ast.parse(Path(read_export.__file__).read_text("utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names - sys.stdlib_module_names == {"jax", "numpy", "safetensors"}


def test_any_number_of_images_gets_the_rows_it_gets_alone(folder):
    model, images = read_export.load(folder), some_images((4, 4, 1), rows=5)
    together = model(images)
    assert together["logits"].shape == (5, 5) and together["representation"].shape == (5, 256)
    for row in (0, 4):
        alone = model(images[row : row + 1])
        np.testing.assert_allclose(alone["logits"][0], together["logits"][row], rtol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_truncated_or_a_folder_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 2):
        path.write_bytes(content[:size])
        assert refusal(folder).startswith(f"{path}: is damaged")
    path.unlink()
    assert refusal(folder) == f"{path}: cannot be read: No such file or directory"
    path.mkdir()
    assert refusal(folder).startswith(f"{path}: ")
    path.rmdir()
    path.write_bytes(content)
    read_export.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_told(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    # Every byte of the description, some of the others.
    places = range(len(content))
    if name != "export.json":
        places = np.random.default_rng(0).choice(len(content), 40, replace=False)
    for place in places:
        bit = 1 << (place % 8)
        content[place] ^= bit
        path.write_bytes(content)
        assert str(path) in refusal(folder)
        content[place] ^= bit


def test_files_of_another_export_are_told(folder, tmp_path):
    other = export.write(made("mlp", (4, 4, 3)), tmp_path / "other", platforms=("cpu",))
    for name in ("model.safetensors", "model.jaxexp"):
        kept = (folder / name).read_bytes()
        shutil.copy(other / name, folder)
        assert refusal(folder).startswith(f"{folder / name}: is damaged")
        (folder / name).write_bytes(kept)
    # Weights of another model that the description vouches for.
    shutil.copy(other / "model.safetensors", folder)
    files = json.loads((folder / "export.json").read_text())["files"]
    others = json.loads((other / "export.json").read_text())["files"]
    rewrite(folder, files=files | {"model.safetensors": others["model.safetensors"]})
    found = refusal(folder)
    assert "model.safetensors and model.jaxexp are of different models" in found
    assert "params.dense1.kernel is ((48, 256), 'float32'), wanted ((16, 256), 'float32')" in found


@pytest.mark.parametrize("name", ["model.safetensors", "model.jaxexp"])
def test_a_file_of_another_kind_is_told_though_its_checksum_is_right(folder, name):
    content = b"\xff" * 64
    (folder / name).write_bytes(content)
    files = json.loads((folder / "export.json").read_text())["files"]
    files[name] = {"bytes": 64, "sha256": read_export.hashlib.sha256(content).hexdigest()}
    rewrite(folder, files=files)
    words = {"model.safetensors": "holds no weights", "model.jaxexp": "cannot read what jax"}
    assert refusal(folder).startswith(f"{folder / name}: ")
    assert words[name] in refusal(folder)


def test_weights_that_lack_one_are_told(folder):
    weights = safetensors.numpy.load_file(folder / "model.safetensors")
    del weights["params.head.bias"]
    content = safetensors.numpy.save(weights)
    (folder / "model.safetensors").write_bytes(content)
    files = json.loads((folder / "export.json").read_text())["files"]
    digest = read_export.hashlib.sha256(content).hexdigest()
    rewrite(folder, files=files | {"model.safetensors": {"bytes": len(content), "sha256": digest}})
    assert "params.head.bias is missing, wanted ((5,), 'float32')" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[]", "does not describe an export"),
        (b'{"format": "1"}', "does not describe an export"),
        (b'{"format": 1}', "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"format": ' + 5000 * b"1" + b"}", "is damaged"),
        (b" " * (1 << 20) + b"{}", "does not describe an export"),
        (b"\x00\xff", "is damaged"),
    ],
    ids=lambda value: str(value[:12]),
)
def test_a_description_that_is_none_is_told(folder, content, words):
    (folder / "export.json").write_bytes(content)
    assert refusal(folder).startswith(f"{folder / 'export.json'}: {words}")


def test_a_newer_format_sends_to_its_own_reader(folder):
    rewrite(folder, format=2)
    assert "has format 2, newer than 1" in refusal(folder)
    assert "use the read_export.py beside it" in refusal(folder)
    for changes in ({"format": 0}, {"files": []}, {"made_by": None}):
        rewrite(folder, **{"format": 1, **changes})
        assert "does not describe an export" in refusal(folder)


def test_a_description_without_a_file_is_told(folder):
    rewrite(folder, files={"model.safetensors": {"bytes": 1}})
    assert "does not tell of model.safetensors" in refusal(folder)


def test_a_platform_that_the_export_is_not_for_is_told(tmp_path):
    folder = export.write(made("mlp", (4, 4, 1)), tmp_path / "export", platforms=("tpu", "cuda"))
    assert refusal(folder).endswith("model.jaxexp: runs on tpu, cuda; this process runs on cpu")


@pytest.mark.parametrize("package", ["safetensors", "flatbuffers"])
def test_a_missing_package_is_named(folder, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(folder) == f"reading an export needs {package}: pip install {package}"


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 4, 1)),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4, 4, 1), np.uint8),
        np.uint8(0),
    ],
    ids=lambda images: f"{images.dtype}{list(images.shape)}",
)
def test_other_images_are_refused(original, images):
    model = read_export.load(original)
    with pytest.raises(ExportError, match=r"images must be uint8 \[N, 4, 4, 1\]") as error:
        model(images)
    assert str(error.value).endswith(f"found {images.dtype} {list(images.shape)}")


def test_the_program_writes_the_logits_of_all_images(folder, tmp_path, capsys):
    images = some_images((4, 4, 1), rows=read_export._ROWS + 2)
    np.save(tmp_path / "images.npy", images)
    paths = [str(folder), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")]
    assert read_export.main(paths) == 0
    logits, model = np.load(tmp_path / "logits.npy", allow_pickle=False), read_export.load(folder)
    first = model(images[: read_export._ROWS])["logits"]
    np.testing.assert_array_equal(logits[: read_export._ROWS], first)
    np.testing.assert_array_equal(
        logits[read_export._ROWS :], model(images[read_export._ROWS :])["logits"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "export",
        "images.npy",
        "logits.npy",
    ]
    assert read_export.main(paths[:2]) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_the_program_says_in_one_line_what_is_wrong(folder, tmp_path, capsys):
    source = tmp_path / "images.npy"

    def said():
        assert read_export.main([str(folder), str(source), str(tmp_path / "logits.npy")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "logits.npy").exists()
        return line

    assert said().startswith(f"error: {source}: cannot be read as an array")
    np.save(source, np.array([{"code": "that unpickles"}]))
    assert "Python objects" in said()
    np.save(source, np.zeros((4, 4, 1), np.uint8))
    assert said() == f"error: {source}: must hold one array of images [N,H,W,C]"
    np.save(source, np.zeros((0, 4, 4, 1), np.uint8))
    assert "N at least 1" in said()
    np.save(source, np.zeros((2, 4, 4, 1), np.uint8))
    source.write_bytes(source.read_bytes()[:-3])
    assert "cannot be read as an array" in said()
    (folder / "model.jaxexp").unlink()
    assert said().startswith(f"error: {folder / 'model.jaxexp'}: cannot be read")
