"""Laws of datasets.sources: what is read, and what is said of missing or damaged data."""

import io
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import pytest
import requests
from made_sets import colour as _colour
from made_sets import encoded as _encoded
from made_sets import features as _features
from made_sets import image as _image
from made_sets import prepare as _prepare
from made_sets import rows as _rows
from made_sets import toy as _toy
from made_sets import write as _write
from PIL import Image

from experiments.datasets import data, loading, sources


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path_factory, monkeypatch):
    """Keeps the empty directory that each TFDS builder leaves in the system's out of there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))


# ------------------------------------------------------------------------------------------ folders


def _pets(**more):
    """A small valid folder data set with two classes, as `_write` takes it."""
    return {
        "train/dog/b.png": _colour(1),
        "train/dog/a.png": _colour(2),
        "train/cat/c.png": _colour(3),
        "test/cat/d.png": _colour(4),
        "test/dog/e.png": _colour(5),
    } | {name.replace("__", "/").replace("_png", ".png"): image for name, image in more.items()}


def _reds(split):
    return split.image[:, 0, 0, 0].tolist()


def test_folder_reads_splits_and_sorted_classes(tmp_path):
    loaded = loading.load(_write(tmp_path, _pets()))
    assert (loaded.num_classes, loaded.validation) == (2, None)
    assert loaded.train.image.shape == (3, 4, 5, 3)
    assert (_reds(loaded.train), loaded.train.label.tolist()) == ([3, 2, 1], [0, 1, 1])
    assert (_reds(loaded.test), loaded.test.label.tolist()) == ([4, 5], [0, 1])
    np.testing.assert_array_equal(loaded.train.image[0, 2, 3], [3, 20, 30])


def test_folder_reads_jpeg_and_capital_suffixes_and_skips_the_rest(tmp_path):
    more = {
        "train/cat/2.JPG": _image((90, 90, 90)),
        "train/cat/3.jpeg": _image((90, 90, 90)),
        "train/cat/notes.txt": b"no image",
        "train/cat/._c.png": b"no image",
        "train/.cache/x.png": b"no image",
        "train/readme.png": b"in no class folder",
    }
    assert len(loading.load(_write(tmp_path, _pets() | more)).train) == 5


def test_folder_keeps_one_channel_when_all_images_are_grey(tmp_path):
    grey = {name: _image(value, mode="L") for value, name in enumerate(_pets())}
    loaded = loading.load(_write(tmp_path, grey))
    assert loaded.train.image.shape == (3, 4, 5, 1)
    assert _reds(loaded.train) == [2, 1, 0]


def test_folder_with_one_colour_image_has_three_channels_everywhere(tmp_path):
    images = {name: _image(value, mode="L") for value, name in enumerate(_pets())}
    images["test/cat/d.png"] = _colour(200)
    loaded = loading.load(_write(tmp_path, images))
    assert loaded.train.image.shape[-1] == loaded.test.image.shape[-1] == 3
    np.testing.assert_array_equal(loaded.train.image[0, 0, 0], [2, 2, 2])


def test_folder_reads_palette_images_with_transparency(tmp_path):
    image = _colour(9).convert("P")
    image.info["transparency"] = bytes(range(256))
    loaded = loading.load(_write(tmp_path, _pets() | {"train/cat/c.png": _encoded(image)}))
    np.testing.assert_allclose(loaded.train.image[0, 0, 0], [9, 20, 30], atol=26)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_folder_validation_split_is_used(tmp_path, name):
    loaded = loading.load(_write(tmp_path, _pets() | {f"{name}/dog/v.png": _colour(77)}))
    assert (_reds(loaded.validation), loaded.validation.label.tolist()) == ([77], [1])


def test_folder_validation_fraction_holds_out_train_rows_instead(tmp_path):
    source = _write(tmp_path, _pets() | {"val/dog/v.png": _colour(77)})
    loaded = loading.load(source, validation_fraction=0.4)
    assert len(loaded.validation) == 1
    assert sorted(_reds(loaded.validation) + _reds(loaded.train)) == [1, 2, 3]


def test_folder_test_may_lack_a_class(tmp_path):
    files = _pets()
    del files["test/cat/d.png"]
    loaded = loading.load(_write(tmp_path, files))
    assert (loaded.num_classes, loaded.test.label.tolist()) == (2, [1])


def test_folder_images_of_different_sizes_need_image_size(tmp_path):
    source = _write(tmp_path, _pets() | {"train/dog/a.png": _image((2, 2, 2), size=(6, 4))})
    with pytest.raises(data.DataError, match=r"dog/a\.png: the image is 4x6x3 .* 4x5x3; set image"):
        loading.load(source)
    loaded = loading.load(source, image_size=3)
    assert loaded.train.image.shape == (3, 3, 3, 3)
    assert loaded.train.image[1].tolist() == [[[2, 2, 2]] * 3] * 3


def test_folder_splits_of_different_sizes_need_image_size(tmp_path):
    files = _pets()
    files |= {name: _image((1, 1, 1), size=(9, 9)) for name in files if name.startswith("test")}
    with pytest.raises(data.DataError, match="differ in size between splits"):
        loading.load(_write(tmp_path, files))


@pytest.mark.parametrize(
    "content",
    [
        b"this is no image",
        b"",
        _encoded(Image.effect_noise((64, 64), 50))[:2000],
        _encoded(Image.effect_noise((64, 64), 50), "JPEG")[:700],
    ],
    ids=["garbage", "empty", "cut_png", "cut_jpeg"],
)
def test_folder_names_the_image_it_cannot_read(tmp_path, content):
    source = _write(tmp_path, _pets() | {"train/dog/bad.png": content})
    with pytest.raises(data.DataError, match=r"train/dog/bad\.png is not a readable image"):
        loading.load(source, image_size=4)


def test_images_are_decoded_in_order_and_the_first_bad_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_READ_ROWS", 6)
    monkeypatch.setattr(sources, "_TASK_ROWS", 2)
    files = {f"train/dog/{i:02}.png": _colour(i) for i in range(15)}
    source = _write(tmp_path, files | {"test/dog/a.png": _colour(1)})
    assert _reds(loading.load(source).train) == list(range(15))
    for bad in ("12", "09", "08", "03"):
        path = tmp_path / "train" / "dog" / f"{bad}.png"
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(data.DataError, match=rf"{bad}\.png is not a readable image"):
            loading.load(source)


def test_folder_refuses_16_bit_images(tmp_path):
    deep = Image.fromarray(np.full((4, 5), 40000, np.uint16))
    with pytest.raises(data.DataError, match=r"dog/a\.png: pixels of mode I;16"):
        loading.load(_write(tmp_path, _pets() | {"train/dog/a.png": deep}))


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_without_a_split_says_which_is_missing(tmp_path, split):
    source = _write(tmp_path, {name: i for name, i in _pets().items() if split not in name})
    with pytest.raises(data.DataError, match=f"no directory {tmp_path}/{split}:"):
        loading.load(source)


def test_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(data.DataError, match=f"no directory {tmp_path}/nothing/train"):
        loading.load(f"folder:{tmp_path}/nothing")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_with_an_empty_class_names_it(tmp_path, split):
    source = _write(tmp_path, _pets() | {f"{split}/cow/notes.txt": b""})
    with pytest.raises(data.DataError, match=rf"{split}: no .*\.png.* class folders \['cow'\]"):
        loading.load(source)


def test_folder_without_class_folders_says_where_images_belong(tmp_path):
    source = _write(tmp_path, _pets())
    shutil.rmtree(tmp_path / "test")
    _write(tmp_path, {"test/loose.png": _colour(1)})
    with pytest.raises(data.DataError, match="test holds no class folders"):
        loading.load(source)


def test_folder_test_class_unknown_to_train_is_named(tmp_path):
    with pytest.raises(data.DataError, match=r"test: no folder in train for the .* \['cow'\]"):
        loading.load(_write(tmp_path, _pets() | {"test/cow/x.png": _colour(1)}))


def test_folder_with_two_validation_splits_is_ambiguous(tmp_path):
    more = {"val/dog/v.png": _colour(1), "validation/dog/v.png": _colour(1)}
    with pytest.raises(data.DataError, match="both validation and val"):
        loading.load(_write(tmp_path, _pets() | more))


def test_a_constant_channel_has_std_one(tmp_path):
    loaded = loading.load(_write(tmp_path, _pets()))
    np.testing.assert_allclose(loaded.mean, np.array([2, 20, 30]) / 255, rtol=1e-6)
    np.testing.assert_allclose(loaded.std, [np.std([1, 2, 3]) / 255, 1, 1], rtol=1e-6)


# --------------------------------------------------------------------------------------------- TFDS


@pytest.fixture
def toy(tmp_path):
    """A prepared data set of 9 and 6 rows; returns its version directory."""
    return _prepare(tmp_path, _features(), {"train": _rows(9), "test": _rows(6)})


def _reload(directory, name="toy", **options):
    return loading.load(name, data_dir=str(directory.parents[1]), **options)


def _record_file(directory, split="train"):
    return next(directory.glob(f"toy-{split}*"))


def test_tfds_set_is_read_whole(toy):
    loaded = _reload(toy)
    assert (loaded.name, loaded.num_classes, loaded.validation) == ("toy", 3, None)
    assert loaded.train.image.shape == (9, 4, 5, 3)
    assert sorted(zip(_reds(loaded.train), loaded.train.label, strict=True)) == [
        (i, i % 3) for i in range(9)
    ]
    assert sorted(_reds(loaded.test)) == list(range(6))


def test_tfds_data_dir_may_be_relative(toy, monkeypatch):
    monkeypatch.chdir(toy.parents[2])
    assert len(loading.load("toy", data_dir=toy.parents[1].name).train) == 9


def test_tfds_data_dir_defaults_to_the_environment(toy, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(toy.parents[1]))
    assert len(loading.load("toy").train) == 9


def test_tfds_validation_is_held_out_of_train(toy):
    loaded = _reload(toy, validation_fraction=1 / 3)
    assert sorted(loaded.validation.label) == [0, 1, 2]
    assert sorted(_reds(loaded.train) + _reds(loaded.validation)) == list(range(9))


def test_tfds_shards_are_all_read(tmp_path):
    splits = {"train": _rows(9), "test": _rows(6)}
    directory = _prepare(tmp_path, _features(), splits, num_shards=3)
    assert len(list(directory.glob("toy-train*"))) == 3
    assert sorted(_reds(_reload(directory).train)) == list(range(9))


def test_tfds_validation_stands_in_for_a_missing_test(tmp_path):
    splits = {"train": _rows(3), "validation": _rows(2)}
    loaded = _reload(_prepare(tmp_path, _features(), splits))
    assert (len(loaded.test), loaded.validation) == (2, None)


def test_tfds_validation_is_not_used_beside_a_test(tmp_path):
    splits = {"train": _rows(3), "validation": _rows(2), "test": _rows(1)}
    loaded = _reload(_prepare(tmp_path, _features(), splits))
    assert (len(loaded.train), len(loaded.test), loaded.validation) == (3, 1, None)


def test_tfds_newest_version_is_read_unless_one_is_named(toy):
    splits = {"train": _rows(4), "test": _rows(1)}
    _prepare(toy.parents[1], _features(), splits, version="1.10.0")
    _prepare(toy.parents[1], _features(), {"train": _rows(5), "test": _rows(1)}, version="1.9.0")
    assert len(_reload(toy).train) == 4
    assert len(_reload(toy, "toy:1.9.0").train) == 5
    assert len(_reload(toy, "toy:1.0.0").train) == 9


def test_tfds_keys_come_from_the_data_set(tmp_path):
    features = {"picture" if k == "image" else "kind": f for k, f in _features().items()}
    rows = [{"picture": row["image"], "kind": row["label"]} for row in _rows(3)]
    keys = ("picture", "kind")
    splits = {"train": rows, "test": rows}
    loaded = _reload(_prepare(tmp_path, features, splits, supervised_keys=keys))
    assert sorted(loaded.train.label) == [0, 1, 2]


def test_tfds_images_of_other_sizes_need_image_size(tmp_path):
    rows = [*_rows(3), *_rows(1, size=(7, 4))]
    splits = {"train": rows, "test": _rows(1)}
    directory = _prepare(tmp_path, _features((None, None, 3)), splits)
    with pytest.raises(data.DataError, match=r"array_record.*, record \d: the image is 4x\dx3"):
        _reload(directory)
    assert _reload(directory, image_size=2).train.image.shape == (4, 2, 2, 3)


def test_tfds_set_without_labels_names_its_features(tmp_path):
    features = {"image": _features()["image"]}
    rows = [{"image": row["image"]} for row in _rows(2)]
    splits = {"train": rows, "test": rows}
    directory = _prepare(tmp_path, features, splits, supervised_keys=None)
    with pytest.raises(data.DataError, match=r"not image classification: .*'image': Image\("):
        _reload(directory)


def test_tfds_label_that_is_no_class_is_refused(tmp_path):
    features = _features() | {"label": np.int64}
    splits = {"train": _rows(2), "test": _rows(2)}
    with pytest.raises(data.DataError, match="needs a uint8 image and a class label"):
        _reload(_prepare(tmp_path, features, splits))


def test_tfds_set_without_test_and_validation_names_its_splits(tmp_path):
    with pytest.raises(data.DataError, match=r"has the splits \['train'\]"):
        _reload(_prepare(tmp_path, _features(), {"train": _rows(2)}))


def test_tfds_label_out_of_range_names_the_record(toy):
    features = json.loads((toy / "features.json").read_text())
    label = features["featuresDict"]["features"]["label"]["classLabel"]
    assert label["numClasses"] == "3"
    label["numClasses"] = "2"
    (toy / "features.json").write_text(json.dumps(features))
    with pytest.raises(data.DataError, match=r"toy-train.*, record \d: label 2 not in \[0, 2\)"):
        _reload(toy)


@pytest.mark.parametrize("kept", [0, 100, 70000, -8])
def test_tfds_truncated_file_is_named(toy, kept):
    path = _record_file(toy)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(data.DataError, match=f"{path} holds 0 readable records, not the 9"):
        _reload(toy)


def test_tfds_changed_byte_is_found(tmp_path):
    splits = {"train": _rows(9), "test": _rows(6)}
    directory = _prepare(tmp_path, _features(), splits, num_shards=3)
    path = sorted(directory.glob("toy-train*"))[1]
    content = bytearray(path.read_bytes())
    content[content.index(b"IHDR")] ^= 1
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=f"{path} is damaged near record 0: .*mismatch"):
        _reload(directory)


def test_tfds_missing_file_is_named(toy):
    path = _record_file(toy, "test")
    path.unlink()
    with pytest.raises(data.DataError, match=f"{path} is missing"):
        _reload(toy)


@pytest.mark.parametrize("claimed", ["8", "10"])
def test_tfds_wrong_record_count_is_found(toy, claimed):
    info = json.loads((toy / "dataset_info.json").read_text())
    info["splits"][0]["shardLengths"] = [claimed]
    (toy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(data.DataError, match=f"holds 9 readable records, not the {claimed}"):
        _reload(toy)


def test_tfds_other_file_format_is_refused(toy):
    info = json.loads((toy / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (toy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(data.DataError, match="stored as tfrecord, which cannot be read without"):
        _reload(toy)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", ["", '{"name": "toy', "[]", "\0" * 50])
def test_tfds_damaged_description_is_named(toy, name, content):
    (toy / name).write_text(content)
    with pytest.raises(data.DataError, match=f"{toy}: dataset_info.json or features.json"):
        _reload(toy)


def test_tfds_missing_features_are_named(toy):
    (toy / "features.json").unlink()
    with pytest.raises(data.DataError, match=f"{toy}: dataset_info.json or features.json"):
        _reload(toy)


def test_tfds_missing_description_is_named(toy):
    (toy / "dataset_info.json").unlink()
    with pytest.raises(data.DataError, match=f"{toy} has no dataset_info.json: delete it"):
        _reload(toy)


def test_tfds_record_that_is_no_image_is_named(tmp_path):
    broken = io.BytesIO(_encoded(_colour(1))[:-30])
    splits = {"train": [*_rows(2), {"image": broken, "label": 0}], "test": _rows(1)}
    with pytest.raises(data.DataError, match=r"toy-train.*, record \d is not a readable image"):
        _reload(_prepare(tmp_path, _features(), splits))


@pytest.fixture
def no_network(monkeypatch):
    """Counts the requests made, all of which fail as they do without a network."""
    asked = []

    def send(self, request, **kwargs):
        asked.append(request.url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests.Session, "send", send)
    return asked


@pytest.mark.parametrize("name", ["mnist", "cifar10_corrupted/brightness_1", "no_such_data_set"])
def test_an_unprepared_set_is_reported_without_asking_the_network(tmp_path, no_network, name):
    looked_for = f"{tmp_path}/{name}/<version>/dataset_info.json"
    with pytest.raises(data.DataError, match=r"pass --download .*--data_dir") as caught:
        loading.load(name, data_dir=str(tmp_path))
    assert looked_for in str(caught.value)
    assert not no_network
    assert not list(tmp_path.iterdir())


def test_a_relative_data_dir_is_reported_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError, match=f"mnist is not prepared in {tmp_path}/sets "):
        loading.load("mnist", data_dir="sets")


def test_a_download_without_network_is_tried_once(tmp_path, no_network):
    with pytest.raises(data.DataError, match=r"cannot reach http.*no network"):
        loading.load("mnist", data_dir=str(tmp_path), download=True)
    assert len(no_network) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_data_set", "TFDS knows no data set no_such_data_set"),
        ("mnist:0.0.1", "TFDS knows no data set mnist 0.0.1"),
        ("cifar10_corrupted", "needs a configuration: cifar10_corrupted/brightness_1"),
    ],
)
def test_a_download_of_what_tfds_does_not_have_says_so(tmp_path, no_network, name, message):
    with pytest.raises(data.DataError, match=message):
        loading.load(name, data_dir=str(tmp_path), download=True)
    assert not no_network


def test_download_prepares_a_set_in_the_right_format(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    toy = _toy(_features(), {"train": _rows(4), "test": _rows(2)})
    monkeypatch.setattr(tfds, "builder", lambda name, **options: toy(**options))
    assert len(loading.load("toy", data_dir=str(tmp_path), download=True).train) == 4
    monkeypatch.undo()
    assert len(loading.load("toy", data_dir=str(tmp_path)).train) == 4


def test_a_set_that_only_tensorflow_can_prepare_says_so(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def rows():
        raise ModuleNotFoundError("No module named 'tensorflow'")
        yield

    toy = _toy(_features(), {"train": rows()})
    toy._split_generators = lambda self, dl_manager: {"train": rows()}
    monkeypatch.setattr(tfds, "builder", lambda name, **options: toy(**options))
    with pytest.raises(data.DataError, match=r"could not prepare toy .*its TFDS code needs Tensor"):
        loading.load("toy", data_dir=str(tmp_path), download=True)
    assert not list(tmp_path.glob("toy/*"))


@pytest.mark.parametrize("name", ["", "x y", "../secrets", "a/../b", "a/b/c", "toy:latest", "a\n"])
def test_names_that_no_source_has_are_refused(tmp_path, name):
    with pytest.raises(data.DataError, match="unknown data set"):
        loading.load(name, data_dir=str(tmp_path))


# ------------------------------------------------------------------------------------ TFDS, factors


def _factor_features():
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=(4, 5, 1)),
        "label_shape": tfds.features.ClassLabel(num_classes=3),
        "label_scale": tfds.features.ClassLabel(num_classes=6),
        "value_shape": tfds.features.Tensor(shape=[], dtype=np.float32),
        "value_scale": tfds.features.Tensor(shape=[], dtype=np.float32),
        "id": tfds.features.Text(),
    }


def _factor_rows(count, ink):
    """Rows whose scale says which they are, in the number of inked pixels too."""
    for row in range(count):
        pixels = np.zeros(20, np.uint8)
        pixels[:row] = ink
        yield {
            "image": Image.fromarray(pixels.reshape(4, 5)),
            "label_shape": row % 3,
            "label_scale": row % 6,
            "value_shape": 1.0 + row % 3,
            "value_scale": row / 4,
            "id": str(row),
        }


@pytest.fixture(scope="module")
def factor_sets(tmp_path_factory):
    """A root with 20 rows of masks, as dsprites are, and 20 of grey pixels, named shapes3d."""
    root = tmp_path_factory.mktemp("factors")
    for called, ink in (("dsprites", 1), ("shapes3d", 90)):
        splits = {"train": list(_factor_rows(20, ink))}
        options = {"supervised_keys": None, "called": called, "num_shards": 2}
        _prepare(root, _factor_features(), splits, **options)
    return str(root)


@pytest.mark.parametrize(("name", "ink"), [("dsprites", 255), ("shapes3d", 90)])
def test_tfds_factors_come_with_their_rows(factor_sets, name, ink):
    loaded = loading.load(name, data_dir=factor_sets)
    assert loaded.num_classes == 3
    for split in (loaded.train, loaded.test):
        row = (split.image > 0).sum((1, 2, 3))
        np.testing.assert_array_equal(split.label, row % 3)
        # The label under its other name is no factor of its own.
        assert set(split.factors) == {"label_scale", "value_scale"}
        np.testing.assert_array_equal(split.factors["label_scale"], row % 6)
        np.testing.assert_array_equal(split.factors["value_scale"], row / 4)
        assert split.factors["label_scale"].dtype == np.int32
        assert split.factors["value_scale"].dtype == np.float32
        assert set(np.unique(split.image)) == {0, ink}


def test_tfds_sets_of_one_split_are_split_once_for_all(factor_sets, monkeypatch):
    def rows(split):
        return (split.image > 0).sum((1, 2, 3)).tolist()

    whole = loading.load("dsprites", data_dir=factor_sets)
    assert (len(whole.test), len(whole.train)) == (2, 18)
    assert sorted(rows(whole.test) + rows(whole.train)) == list(range(20))
    monkeypatch.setattr(sources, "_FACTOR_ROWS", {"train": 7, "test": 2})
    fewer = loading.load("dsprites", data_dir=factor_sets)
    assert rows(fewer.test) == rows(whole.test)
    assert len(fewer.train) == 7 and set(rows(fewer.train)) < set(rows(whole.train))


@pytest.mark.parametrize("name", ["toy", "dsprites"])
def test_tfds_set_is_the_same_from_the_cache(toy, factor_sets, tmp_path, monkeypatch, name):
    root = factor_sets if name == "dsprites" else str(toy.parents[1])
    options = {"data_dir": root, "cache": str(tmp_path / "cache")}
    plain = loading.load(name, data_dir=root)
    loading.load(name, **options)
    monkeypatch.setattr(sources, "_read_tfds", lambda *_: pytest.fail("it was decoded again"))
    kept = loading.load(name, **options)
    assert kept.num_classes == plain.num_classes
    for a, b in ((plain.train, kept.train), (plain.test, kept.test)):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.label, b.label)
        assert list(a.factors or ()) == list(b.factors or ())
        for factor, values in (a.factors or {}).items():
            np.testing.assert_array_equal(values, b.factors[factor])


@pytest.mark.parametrize("changed", ["dataset_info.json", "features.json", "record file"])
def test_tfds_set_that_changed_is_decoded_again(toy, tmp_path, changed):
    cache = tmp_path / "cache"
    assert len(_reload(toy, cache=str(cache)).train) == 9
    path = _record_file(toy) if changed == "record file" else toy / changed
    state = path.stat()
    if changed == "record file":
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    else:  # the same size and time, so that only the content tells
        path.write_bytes(path.read_bytes().replace(b"  ", b" \t", 1))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert path.stat().st_size == state.st_size
    assert len(_reload(toy, cache=str(cache)).train) == 9
    assert len(list(cache.iterdir())) == 2


def test_tfds_damage_is_not_hidden_by_the_cache(toy, tmp_path):
    cache = str(tmp_path / "cache")
    _reload(toy, cache=cache)
    path = _record_file(toy)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(data.DataError, match=f"{path} holds 0 readable records"):
        _reload(toy, cache=cache)
    path.unlink()
    with pytest.raises(data.DataError, match=f"{path} is missing"):
        _reload(toy, cache=cache)


def test_tfds_factor_set_without_its_label_is_named(tmp_path):
    rows = [{"image": _image(3, mode="L"), "other": 1}] * 7
    features = {"image": _factor_features()["image"], "other": np.int64}
    options = {"supervised_keys": None, "called": "dsprites"}
    _prepare(tmp_path, features, {"train": rows}, **options)
    with pytest.raises(data.DataError, match=r"not image classification.*'label_shape'\)"):
        loading.load("dsprites", data_dir=str(tmp_path))


# ---------------------------------------------------------------------------------------- real data

_REAL = os.environ.get("SEMJAX_DATA_DIR", "")


@pytest.mark.skipif(
    not list(pathlib.Path(_REAL or "/nonexistent").glob("cifar100/*/dataset_info.json")),
    reason="SEMJAX_DATA_DIR names no directory with a prepared cifar100",
)
def test_real_cifar100_is_what_it_is_known_to_be():
    loaded = loading.load("cifar100", data_dir=_REAL)
    assert (loaded.train.image.shape, len(loaded.test)) == ((50000, 32, 32, 3), 10000)
    np.testing.assert_array_equal(np.bincount(loaded.train.label), np.full(100, 500))
    np.testing.assert_array_equal(np.bincount(loaded.test.label), np.full(100, 100))
    np.testing.assert_allclose(loaded.mean, [0.507, 0.487, 0.441], atol=5e-4)
    np.testing.assert_allclose(loaded.std, [0.267, 0.256, 0.276], atol=5e-4)
