"""An export says in another process, without flax, what the model says here, to the last bit."""

import dataclasses
import errno
import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import compiling
import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from absl import flags
from exported_models import MODULES, READER, made, outputs, run_program, some_images
from flax import traverse_util

from experiments import export, models, read_export, train, trained
from experiments.command_line import flagfields
from experiments.command_line.flagfiles import ConfigError
from experiments.config import Config
from experiments.datasets import loading
from experiments.lifecycle import exit_codes
from semjax import augment

PAGE = Path(__file__).resolve().parents[1] / "docs" / "export.md"
WIDTH = {"resnet18": 512, "preact_resnet18": 512, "resnet50": 2048, "vit_s_16": 384}
SMALL = [
    ("cnn", (8, 8, 1), "float32"),
    ("cnn", (9, 7, 3), "bfloat16"),
    ("mlp", (8, 8, 1), "float32"),
    ("resnet20", (8, 8, 3), "float32"),
    ("wrn_10_1", (8, 8, 3), "float32"),
]
ALL = [
    (name, (32, 32, 3), compute_dtype)
    for name in (*models.NAMES, "wrn_16_2")
    if name != "wrn_D_W"
    for compute_dtype in ("float32", "bfloat16")
]


def expected(model, images):
    """What the module itself says of bytes, in this process."""
    module = models.create(model.config.model, 5, compute_dtype=model.config.compute_dtype)

    def run(params, state, images):
        images = augment.normalise(images, np.array(model.inputs.mean), np.array(model.inputs.std))
        return module.apply({"params": params, **state}, images, train=False)

    features = jax.jit(run)(model.params, model.model_state or {}, images)
    return {"logits": features.logits, "representation": features.pooled}


def export_all(folder, zoo):
    folders = []
    for name, image_shape, compute_dtype in zoo:
        place = folder / f"{name}-{compute_dtype}"
        model = made(name, image_shape, compute_dtype)
        folders.append(export.write(model, place / "export", platforms=("cpu", "cuda", "tpu")))
        np.save(place / "images.npy", some_images(image_shape))
    return folders


def same_bits(found, reference, name):
    assert sorted(found) == sorted(reference) == ["logits", "representation"]
    for output, value in reference.items():
        assert np.isfinite(value).all() and np.ptp(value) > 0
        np.testing.assert_array_equal(found[output], value, err_msg=f"{name} {output}")


def test_a_process_without_flax_has_the_same_bits(tmp_path):
    folders = export_all(tmp_path, SMALL)
    # The tests of this process compile so; the programs of the long test do not.
    settings = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": compiling.flags()}
    run_program(READER, folders, **settings)
    for folder, (name, image_shape, compute_dtype) in zip(folders, SMALL, strict=True):
        found = outputs(folder, "read")
        reference = expected(made(name, image_shape, compute_dtype), some_images(image_shape))
        same_bits(found, reference, f"{name} {compute_dtype}")


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "resnet50", "vit_s_16"])
def test_large_models_are_lowered_for_every_platform_and_gather_nothing(name):
    """A gather is what slicing becomes where the number of images is open: slow, and other bits."""
    module = models.create(name, 5)
    variables = jax.eval_shape(
        lambda: module.init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32), train=False)
    )
    model = dataclasses.replace(made("mlp", (32, 32, 3)), config=Config(model=name))
    weights = traverse_util.flatten_dict(variables, sep=".")
    function = export.function_of(model, weights, export.PLATFORMS)
    assert function.platforms == export.PLATFORMS
    assert not re.search(r"stablehlo\.\w*gather", str(function.mlir_module()))
    assert [str(value.shape) for value in function.out_avals] == ["(b, 5)", f"(b, {WIDTH[name]})"]


@pytest.mark.long
@pytest.mark.parametrize(("name", "image_shape", "compute_dtype"), ALL)
def test_every_model_of_the_zoo_has_the_same_bits_optimised(
    tmp_path, name, image_shape, compute_dtype
):
    folders = export_all(tmp_path, [(name, image_shape, compute_dtype)])
    run_program(READER, folders)
    run_program(MODULES, folders)
    same_bits(outputs(folders[0], "read"), outputs(folders[0], "expected"), name)


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "digits-0"
    config = Config(workdir=str(workdir), model="mlp", batch_size=32, steps=2, ema_decay=0.5)
    train.run(config)
    return workdir


@pytest.fixture
def exported(run_directory, tmp_path):
    command = export.Command(workdir=str(run_directory), output=str(tmp_path / "export"))
    export.main(command)
    return tmp_path / "export"


def test_a_run_is_exported_as_it_is(run_directory, capsys):
    export.main(export.Command(workdir=str(run_directory), platforms="cpu,tpu"))
    assert capsys.readouterr().out.splitlines()[-1] == str(run_directory / "export")
    model = trained.load(run_directory)
    images = loading.load("digits").test.image[:7]
    logits = read_export.load(run_directory / "export")(images)["logits"]
    probabilities = jax.nn.softmax(logits)
    np.testing.assert_allclose(probabilities, model.predict(images), rtol=1e-4, atol=1e-5)

    about = read_export.describe(run_directory / "export")
    assert about["platforms"] == ["cpu", "tpu"]
    assert about["images"]["image_shape"] == [8, 8, 1]
    assert about["model"] == {
        "model": "mlp",
        "dataset": "digits",
        "compute_dtype": "float32",
        "num_classes": 10,
        "step": 2,
        "weights": "ema",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(model.params)),
    }
    # The folder is a part of the run directory that a second look does not trip over.
    assert trained.load(run_directory).step == 2


def test_the_weights_carry_their_names_and_what_they_are_for(exported, run_directory):
    weights = safetensors.numpy.load_file(exported / "model.safetensors")
    params = trained.load(run_directory).params
    assert set(weights) == {
        f"params.{layer}.{kind}" for layer in params for kind in ("kernel", "bias")
    }
    np.testing.assert_array_equal(weights["params.head.kernel"], params["head"]["kernel"])
    with safetensors.safe_open(exported / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
    about = read_export.describe(exported)
    assert metadata["format"] == "1" and metadata["model"] == "mlp"
    assert json.loads(metadata["image_shape"]) == [8, 8, 1]
    assert json.loads(metadata["mean"]) == about["images"]["mean"]
    assert (metadata["num_classes"], metadata["step"]) == ("10", "2")


def test_an_export_tells_nothing_of_the_machine(exported):
    places = (str(PAGE.parents[1]), str(exported.parent), sys.prefix)
    for path in exported.iterdir():
        content = path.read_bytes()
        assert not [place for place in places if place.encode() in content], path


def test_the_copy_of_the_reader_is_the_reader(exported):
    spec = importlib.util.spec_from_file_location("copied", exported / "read_export.py")
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    images = some_images((8, 8, 1))
    found = copy.load(exported)(images)
    np.testing.assert_array_equal(found["logits"], read_export.load(exported)(images)["logits"])


def test_a_second_export_replaces_the_first_as_a_whole(exported, run_directory, tmp_path):
    (exported / "__pycache__").mkdir()
    command = export.Command(
        workdir=str(run_directory), output=str(tmp_path / "export"), platforms="cpu"
    )
    export.main(command)
    assert read_export.describe(exported)["platforms"] == ["cpu"]
    assert sorted(path.name for path in exported.iterdir()) == sorted(export._FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    mask = os.umask(0)
    os.umask(mask)
    assert exported.stat().st_mode & 0o777 == 0o777 & ~mask


@pytest.mark.parametrize("failing", ["fsync", "rename"])
def test_a_full_disk_leaves_the_export_that_was_there(
    exported, run_directory, tmp_path, monkeypatch, capsys, failing
):
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    if failing == "fsync":

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    else:
        rename = type(exported).rename

        def full_at_the_end(path, target):
            if path.name.startswith(".export.") and not path.name.endswith(".before"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return rename(path, target)

        monkeypatch.setattr(type(exported), "rename", full_at_the_end)
    with pytest.raises(SystemExit) as stop:
        export.main(export.Command(workdir=str(run_directory), output=str(exported)))
    assert stop.value.code == exit_codes.NOT_SAVED
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and "could not be written" in error[0] and "No space left" in error[0]
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_what_is_not_an_export_is_not_replaced(run_directory, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    (tmp_path / "file").write_text("")
    for output, words in ((tmp_path, "holds file"), (tmp_path / "file", "found a file")):
        with pytest.raises(SystemExit) as stop:
            export.main(export.Command(workdir=str(run_directory), output=str(output)))
        assert stop.value.code == exit_codes.REFUSED
        assert words in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "irreplaceable"


def test_a_run_that_cannot_be_exported_is_one_line(run_directory, tmp_path, capsys):
    for command in (
        export.Command(workdir=str(tmp_path)),
        export.Command(workdir=str(run_directory), weights="best", output=str(tmp_path / "new")),
    ):
        with pytest.raises(SystemExit) as stop:
            export.main(command)
        assert stop.value.code == exit_codes.REFUSED
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and error[0].startswith("error: --workdir=")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["safetensors", "flatbuffers"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install \"semjax\[export\]\""):
        export.write(made("mlp", (2, 2, 1)), tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("platforms", ["", "cpu,gpu", "cpu,cpu", "cpu tpu"])
def test_platforms_are_those_of_jax(platforms):
    with pytest.raises(ConfigError, match=f"--platforms={platforms}: must be some of cpu, cuda"):
        export.Command(workdir="runs/x", platforms=platforms)


def test_a_run_must_be_named():
    with pytest.raises(ConfigError, match="--workdir: must name the directory of a run"):
        export.Command()


def test_the_commands_of_the_documents_are_accepted():
    commands = re.findall(r"^python -m experiments.export (.*)$", PAGE.read_text("utf-8"), re.M)
    assert commands
    for arguments in commands:
        values = flags.FlagValues()
        flagfields.define(export.Command, values)
        flagfields.parse(export.Command, ["export", *arguments.split()], values)
