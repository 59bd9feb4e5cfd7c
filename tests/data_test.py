"""Laws of experiments.data: order, splits, sources, and what it says of missing or damaged data."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import requests
from PIL import Image

from experiments import data

# ------------------------------------------------------------------------------- order and batches


def _numbered(count):
    """A split whose image and label both say which row it is."""
    label = np.arange(count, dtype=np.int32)
    image = np.zeros((count, 2, 3, 1), np.uint8)
    image[...] = (label % 256)[:, None, None, None]
    return data.Split(image, label)


def _epoch(split, epoch, *, batch_size, seed):
    steps = data.steps_per_epoch(split, batch_size)
    batches = [
        data.batch_at(split, step, batch_size=batch_size, seed=seed)
        for step in range(epoch * steps, (epoch + 1) * steps)
    ]
    return np.concatenate([batch["label"] for batch in batches])


def _run(code, **environment):
    """Runs Python code in a fresh process and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=pathlib.Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_importing_the_module_imports_no_heavy_package():
    heavy = ("tensorflow_datasets", "sklearn", "PIL", "jax", "requests")
    code = f"import sys, experiments.data; print([m for m in {heavy} if m in sys.modules])"
    assert _run(code) == "[]"


def test_each_epoch_is_a_permutation_of_the_split():
    split = _numbered(60)
    for epoch in range(3):
        np.testing.assert_array_equal(
            np.sort(_epoch(split, epoch, batch_size=12, seed=3)), np.arange(60)
        )


def test_the_remainder_is_dropped_and_differs_between_epochs():
    split = _numbered(23)
    left_over = []
    for epoch in range(4):
        rows = _epoch(split, epoch, batch_size=5, seed=0)
        assert len(set(rows)) == len(rows) == 20
        left_over.append(frozenset(range(23)) - set(rows))
    assert len(set(left_over)) > 1


def test_image_and_label_of_a_batch_come_from_the_same_rows():
    batch = data.batch_at(_numbered(50), 7, batch_size=8, seed=1)
    assert batch["image"].shape == (8, 2, 3, 1)
    assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
    expected = np.broadcast_to(batch["label"][:, None, None, None], (8, 2, 3, 1))
    np.testing.assert_array_equal(batch["image"], expected)


def test_batches_do_not_depend_on_the_order_they_are_asked_for():
    split = _numbered(40)
    forward = [data.batch_at(split, step, batch_size=7, seed=5)["label"] for step in range(20)]
    for step in np.random.default_rng(0).permutation(20):
        # Other seeds in between push this one's epochs out of any cache.
        for seed in range(6):
            data.batch_at(split, 3, batch_size=7, seed=100 + seed)
        again = data.batch_at(split, step, batch_size=7, seed=5)["label"]
        np.testing.assert_array_equal(again, forward[step])


def test_batches_are_the_same_in_another_process():
    code = (
        "import numpy as np\n"
        "from experiments import data\n"
        "split = data.Split(np.zeros((40, 1, 1, 1), np.uint8), np.arange(40, dtype=np.int32))\n"
        "print(data.batch_at(split, 13, batch_size=7, seed=5)['label'].tolist())"
    )
    here = data.batch_at(_numbered(40), 13, batch_size=7, seed=5)["label"].tolist()
    assert _run(code, PYTHONHASHSEED="123") == str(here)


def test_the_order_is_pinned():
    rows = data.batch_at(_numbered(1000), 0, batch_size=8, seed=42)["label"].tolist()
    assert rows == [219, 322, 311, 675, 377, 174, 866, 100], (
        "the order of the training rows changed: runs of earlier versions can no longer be"
        " resumed or repeated"
    )


def test_global_random_state_changes_nothing():
    split = _numbered(40)
    first = data.batch_at(split, 3, batch_size=7, seed=5)["label"]
    np.random.seed(7)
    data._order.cache_clear()
    np.testing.assert_array_equal(data.batch_at(split, 3, batch_size=7, seed=5)["label"], first)


def test_seeds_and_epochs_give_different_orders():
    split = _numbered(64)
    orders = [
        _epoch(split, epoch, batch_size=16, seed=seed) for seed in range(4) for epoch in range(4)
    ]
    assert len({tuple(order) for order in orders}) == 16


def test_seed_and_epoch_do_not_stand_in_for_each_other():
    split = _numbered(64)
    one = _epoch(split, 1, batch_size=16, seed=0)
    assert not np.array_equal(one, _epoch(split, 0, batch_size=16, seed=1))


def test_the_order_does_not_depend_on_the_batch_size():
    split = _numbered(60)
    np.testing.assert_array_equal(
        _epoch(split, 2, batch_size=12, seed=0), _epoch(split, 2, batch_size=20, seed=0)
    )


def test_a_batch_is_the_callers_to_change():
    split = _numbered(10)
    batch = data.batch_at(split, 0, batch_size=10, seed=0)
    batch["image"][...] = 255
    batch["label"][...] = -1
    np.testing.assert_array_equal(split.label, np.arange(10))
    assert split.image.max() == 9


def test_numpy_integers_are_steps_too():
    split = _numbered(10)
    expected = data.batch_at(split, 9, batch_size=3, seed=2)["label"]
    actual = data.batch_at(split, np.int64(9), batch_size=3, seed=np.int32(2))["label"]
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step must be 0 or positive, got -1"),
        ({"seed": -1}, "seed must be in .*got -1"),
        ({"seed": 2**63}, "seed must be in"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"batch_size": 11}, "batch_size is 11 but the split has 10 rows"),
    ],
)
def test_batch_at_refuses_impossible_arguments(arguments, message):
    arguments = {"step": 0, "batch_size": 2, "seed": 0} | arguments
    with pytest.raises(ValueError, match=message):
        data.batch_at(_numbered(10), arguments.pop("step"), **arguments)


def test_a_fractional_step_is_a_type_error():
    with pytest.raises(TypeError):
        data.batch_at(_numbered(10), 1.5, batch_size=2, seed=0)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 10), (3, 3), (5, 2), (10, 1)])
def test_steps_per_epoch_counts_full_batches(batch_size, steps):
    assert data.steps_per_epoch(_numbered(10), batch_size) == steps


def test_a_split_smaller_than_a_batch_is_a_data_error():
    with pytest.raises(data.DataError, match="11 but the split has 10"):
        data.steps_per_epoch(_numbered(10), 11)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_eval_batches_hold_each_row_once_and_pad_with_zeros(count, batch_size):
    split = _numbered(count)
    batches = list(data.eval_batches(split, batch_size))
    assert len(batches) == -(-count // batch_size)
    assert all(batch["image"].shape == (batch_size, 2, 3, 1) for batch in batches)
    image, label, valid = (
        np.concatenate([batch[key] for batch in batches]) for key in ("image", "label", "valid")
    )
    np.testing.assert_array_equal(valid, np.arange(len(valid)) < count)
    np.testing.assert_array_equal(label[valid], split.label)
    np.testing.assert_array_equal(image[valid], split.image)
    assert not image[~valid].any()
    assert not label[~valid].any()
    assert (image.dtype, label.dtype, valid.dtype) == (np.uint8, np.int32, np.bool_)


def test_eval_batches_refuses_a_batch_of_none_at_the_call():
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        data.eval_batches(_numbered(3), 0)


# ------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.zeros((2, 3, 3, 1), np.float32), np.zeros(2, np.int32), r"image .* float32\[2, 3"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32), r"image .* uint8\[2, 3, 3\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64), r"label .* int64\[2\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int32), r"label must be int32\[2\]"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros((2, 1), np.int32), r"label .* int32\[2, 1\]"),
    ],
)
def test_a_split_checks_its_arrays(image, label, message):
    with pytest.raises(ValueError, match=message):
        data.Split(image, label)


@pytest.mark.parametrize("count", [1, 7, 50, 90])
def test_stratified_marks_each_class_in_proportion(count):
    label = np.repeat(np.arange(4, dtype=np.int32), (10, 20, 30, 40))
    marked = data.stratified(label, count)
    assert marked.sum() == count
    sizes = np.bincount(label[marked], minlength=4)
    assert np.abs(sizes - np.array([10, 20, 30, 40]) * count / 100).max() < 1


def test_stratified_never_empties_a_class():
    label = np.array([0] * 10 + [1], np.int32)
    assert not data.stratified(label, 10)[label == 1].any()
    assert data.stratified(label, 10).sum() == 9


def test_stratified_does_not_simply_take_the_first_rows():
    label = np.zeros(100, np.int32)
    assert not data.stratified(label, 50)[:50].all()


def _keys(split):
    """The rows of a split as hashable values."""
    return [
        (image.tobytes(), int(label)) for image, label in zip(split.image, split.label, strict=True)
    ]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def held_out():
    return data.load("digits", validation_fraction=0.25)


def test_digits_are_scikit_learns(digits):
    from sklearn import datasets

    source = datasets.load_digits()
    image = np.concatenate([digits.train.image, digits.test.image])
    assert (image.shape, image.dtype, digits.num_classes) == ((1797, 8, 8, 1), np.uint8, 10)
    assert (image.min(), image.max()) == (0, 255)
    # 16 grey levels survive the rescaling, so the original can be had back.
    rows = {
        (np.rint(i[..., 0] / 255 * 16).tobytes(), int(k))
        for i, k in zip(image, np.concatenate([digits.train.label, digits.test.label]), strict=True)
    }
    assert rows == {
        (i.tobytes(), int(k)) for i, k in zip(source.images, source.target, strict=True)
    }


def test_digits_test_split_is_stratified_and_disjoint(digits):
    assert (len(digits.train), len(digits.test), digits.validation) == (1437, 360, None)
    assert not set(_keys(digits.train)) & set(_keys(digits.test))
    share = np.bincount(digits.test.label) / np.bincount(
        np.concatenate([digits.train.label, digits.test.label])
    )
    np.testing.assert_allclose(share, 360 / 1797, atol=1 / 174)


def test_the_hold_out_leaves_the_test_split_alone(digits, held_out):
    assert _keys(held_out.test) == _keys(digits.test)


def test_the_hold_out_and_the_rest_are_the_train_split(digits, held_out):
    assert (len(held_out.train), len(held_out.validation)) == (1078, 359)
    parts = _keys(held_out.train) + _keys(held_out.validation)
    assert sorted(parts) == sorted(_keys(digits.train))


def test_the_hold_out_is_stratified(digits, held_out):
    share = np.bincount(held_out.validation.label) / np.bincount(digits.train.label)
    np.testing.assert_allclose(share, 0.25, atol=1 / 138)


def test_the_hold_out_is_the_same_whatever_happened_before(held_out):
    np.random.seed(11)
    data.batch_at(held_out.train, 1000, batch_size=32, seed=9)
    data._order.cache_clear()
    again = data.load("digits", validation_fraction=0.25)
    assert _keys(again.validation) == _keys(held_out.validation)


def test_mean_and_std_are_of_the_rows_trained_on(held_out):
    scaled = held_out.train.image.astype(np.float64) / 255
    np.testing.assert_allclose(held_out.mean, [scaled.mean()], rtol=1e-6)
    np.testing.assert_allclose(held_out.std, [scaled.std()], rtol=1e-6)
    assert held_out.mean.dtype == held_out.std.dtype == np.float32


def test_image_size_resizes_digits():
    resized = data.load("digits", image_size=12)
    assert resized.train.image.shape == (1437, 12, 12, 1)
    assert resized.test.image.shape == (360, 12, 12, 1)


def test_loaded_arrays_cannot_be_changed_by_accident(digits):
    with pytest.raises(ValueError, match="read-only"):
        digits.test.image[0] = 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_validation_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="validation_fraction must be in"):
        data.load("digits", validation_fraction=fraction)


def test_a_hold_out_of_no_row_is_refused():
    with pytest.raises(data.DataError, match=r"validation_fraction 0\.0001 of 1437 train rows"):
        data.load("digits", validation_fraction=0.0001)


def test_a_negative_image_size_is_refused():
    with pytest.raises(ValueError, match="image_size must be 0 or positive, got -1"):
        data.load("digits", image_size=-1)


# ------------------------------------------------------------------------------------------ folders


def _image(value, *, size=(5, 4), mode="RGB"):
    """A (width, height) image of one colour."""
    return Image.new(mode, size, value)


def _colour(red):
    return _image((red, 20, 30))


def _write(root, files):
    """Writes {"train/cat/1.png": image or bytes} under `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
    return f"folder:{root}"


def _pets(**more):
    """A small valid folder data set with two classes, as `_write` takes it."""
    return {
        "train/dog/b.png": _colour(1),
        "train/dog/a.png": _colour(2),
        "train/cat/c.png": _colour(3),
        "test/cat/d.png": _colour(4),
        "test/dog/e.png": _colour(5),
    } | {name.replace("__", "/").replace("_png", ".png"): image for name, image in more.items()}


def _encoded(image, image_format="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=image_format)
    return buffer.getvalue()


def _reds(split):
    return split.image[:, 0, 0, 0].tolist()


def test_folder_reads_splits_and_sorted_classes(tmp_path):
    loaded = data.load(_write(tmp_path, _pets()))
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
    assert len(data.load(_write(tmp_path, _pets() | more)).train) == 5


def test_folder_keeps_one_channel_when_all_images_are_grey(tmp_path):
    grey = {name: _image(value, mode="L") for value, name in enumerate(_pets())}
    loaded = data.load(_write(tmp_path, grey))
    assert loaded.train.image.shape == (3, 4, 5, 1)
    assert _reds(loaded.train) == [2, 1, 0]


def test_folder_with_one_colour_image_has_three_channels_everywhere(tmp_path):
    images = {name: _image(value, mode="L") for value, name in enumerate(_pets())}
    images["test/cat/d.png"] = _colour(200)
    loaded = data.load(_write(tmp_path, images))
    assert loaded.train.image.shape[-1] == loaded.test.image.shape[-1] == 3
    np.testing.assert_array_equal(loaded.train.image[0, 0, 0], [2, 2, 2])


def test_folder_reads_palette_images_with_transparency(tmp_path):
    image = _colour(9).convert("P")
    image.info["transparency"] = bytes(range(256))
    loaded = data.load(_write(tmp_path, _pets() | {"train/cat/c.png": _encoded(image)}))
    np.testing.assert_allclose(loaded.train.image[0, 0, 0], [9, 20, 30], atol=26)


@pytest.mark.parametrize("name", ["val", "validation"])
def test_folder_validation_split_is_used(tmp_path, name):
    loaded = data.load(_write(tmp_path, _pets() | {f"{name}/dog/v.png": _colour(77)}))
    assert (_reds(loaded.validation), loaded.validation.label.tolist()) == ([77], [1])


def test_folder_validation_fraction_holds_out_train_rows_instead(tmp_path):
    source = _write(tmp_path, _pets() | {"val/dog/v.png": _colour(77)})
    loaded = data.load(source, validation_fraction=0.4)
    assert len(loaded.validation) == 1
    assert sorted(_reds(loaded.validation) + _reds(loaded.train)) == [1, 2, 3]


def test_folder_test_may_lack_a_class(tmp_path):
    files = _pets()
    del files["test/cat/d.png"]
    loaded = data.load(_write(tmp_path, files))
    assert (loaded.num_classes, loaded.test.label.tolist()) == (2, [1])


def test_folder_images_of_different_sizes_need_image_size(tmp_path):
    source = _write(tmp_path, _pets() | {"train/dog/a.png": _image((2, 2, 2), size=(6, 4))})
    with pytest.raises(data.DataError, match=r"dog/a\.png: the image is 4x6x3 .* 4x5x3; set image"):
        data.load(source)
    loaded = data.load(source, image_size=3)
    assert loaded.train.image.shape == (3, 3, 3, 3)
    assert loaded.train.image[1].tolist() == [[[2, 2, 2]] * 3] * 3


def test_folder_splits_of_different_sizes_need_image_size(tmp_path):
    files = _pets()
    files |= {name: _image((1, 1, 1), size=(9, 9)) for name in files if name.startswith("test")}
    with pytest.raises(data.DataError, match="differ in size between splits"):
        data.load(_write(tmp_path, files))


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
        data.load(source, image_size=4)


def test_folder_refuses_16_bit_images(tmp_path):
    deep = Image.fromarray(np.full((4, 5), 40000, np.uint16))
    with pytest.raises(data.DataError, match=r"dog/a\.png: pixels of mode I;16"):
        data.load(_write(tmp_path, _pets() | {"train/dog/a.png": deep}))


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_without_a_split_says_which_is_missing(tmp_path, split):
    source = _write(tmp_path, {name: i for name, i in _pets().items() if split not in name})
    with pytest.raises(data.DataError, match=f"no directory {tmp_path}/{split}:"):
        data.load(source)


def test_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(data.DataError, match=f"no directory {tmp_path}/nothing/train"):
        data.load(f"folder:{tmp_path}/nothing")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_with_an_empty_class_names_it(tmp_path, split):
    source = _write(tmp_path, _pets() | {f"{split}/cow/notes.txt": b""})
    with pytest.raises(data.DataError, match=rf"{split}: no .*\.png.* class folders \['cow'\]"):
        data.load(source)


def test_folder_without_class_folders_says_where_images_belong(tmp_path):
    source = _write(tmp_path, _pets())
    shutil.rmtree(tmp_path / "test")
    _write(tmp_path, {"test/loose.png": _colour(1)})
    with pytest.raises(data.DataError, match="test holds no class folders"):
        data.load(source)


def test_folder_test_class_unknown_to_train_is_named(tmp_path):
    with pytest.raises(data.DataError, match=r"test: no folder in train for the .* \['cow'\]"):
        data.load(_write(tmp_path, _pets() | {"test/cow/x.png": _colour(1)}))


def test_folder_with_two_validation_splits_is_ambiguous(tmp_path):
    more = {"val/dog/v.png": _colour(1), "validation/dog/v.png": _colour(1)}
    with pytest.raises(data.DataError, match="both validation and val"):
        data.load(_write(tmp_path, _pets() | more))


def test_a_constant_channel_has_std_one(tmp_path):
    loaded = data.load(_write(tmp_path, _pets()))
    np.testing.assert_allclose(loaded.mean, np.array([2, 20, 30]) / 255, rtol=1e-6)
    np.testing.assert_allclose(loaded.std, [np.std([1, 2, 3]) / 255, 1, 1], rtol=1e-6)


# --------------------------------------------------------------------------------------------- TFDS


def _toy(features, splits, supervised_keys=("image", "label"), version="1.0.0"):
    """Returns a TFDS builder class `toy` of the given features and {split: [example, ...]}."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    with registered.skip_registration():

        class Toy(tfds.core.GeneratorBasedBuilder):
            name = "toy"
            VERSION = tfds.core.Version(version)
            url_infos = None

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=supervised_keys,
                )

            def _split_generators(self, dl_manager):
                return {split: iter(enumerate(rows)) for split, rows in splits.items()}

            def _generate_examples(self):
                raise NotImplementedError

    return Toy


def _prepare(root, features, splits, *, num_shards=None, **options):
    import tensorflow_datasets as tfds

    builder = _toy(features, splits, **options)(data_dir=root, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=num_shards)
    )
    return pathlib.Path(builder.data_dir)


def _features(shape=(4, 5, 3), num_classes=3):
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(num_classes=num_classes),
    }


def _rows(count, **kwargs):
    return [{"image": _image((i, 0, 9), **kwargs), "label": i % 3} for i in range(count)]


@pytest.fixture
def toy(tmp_path):
    """A prepared data set of 9 and 6 rows; returns its version directory."""
    return _prepare(tmp_path, _features(), {"train": _rows(9), "test": _rows(6)})


def _reload(directory, name="toy", **options):
    return data.load(name, data_dir=str(directory.parents[1]), **options)


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
    assert len(data.load("toy", data_dir=toy.parents[1].name).train) == 9


def test_tfds_data_dir_defaults_to_the_environment(toy, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(toy.parents[1]))
    assert len(data.load("toy").train) == 9


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
        data.load(name, data_dir=str(tmp_path))
    assert looked_for in str(caught.value)
    assert not no_network
    assert not list(tmp_path.iterdir())


def test_a_relative_data_dir_is_reported_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(data.DataError, match=f"mnist is not prepared in {tmp_path}/sets "):
        data.load("mnist", data_dir="sets")


def test_a_download_without_network_is_tried_once(tmp_path, no_network):
    with pytest.raises(data.DataError, match=r"cannot reach http.*no network"):
        data.load("mnist", data_dir=str(tmp_path), download=True)
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
        data.load(name, data_dir=str(tmp_path), download=True)
    assert not no_network


def test_download_prepares_a_set_in_the_right_format(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    toy = _toy(_features(), {"train": _rows(4), "test": _rows(2)})
    monkeypatch.setattr(tfds, "builder", lambda name, **options: toy(**options))
    assert len(data.load("toy", data_dir=str(tmp_path), download=True).train) == 4
    monkeypatch.undo()
    assert len(data.load("toy", data_dir=str(tmp_path)).train) == 4


def test_a_set_that_only_tensorflow_can_prepare_says_so(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def rows():
        raise ModuleNotFoundError("No module named 'tensorflow'")
        yield

    toy = _toy(_features(), {"train": rows()})
    toy._split_generators = lambda self, dl_manager: {"train": rows()}
    monkeypatch.setattr(tfds, "builder", lambda name, **options: toy(**options))
    with pytest.raises(data.DataError, match=r"could not prepare toy .*its TFDS code needs Tensor"):
        data.load("toy", data_dir=str(tmp_path), download=True)
    assert not list(tmp_path.glob("toy/*"))


@pytest.mark.parametrize("name", ["", "x y", "../secrets", "a/../b", "a/b/c", "toy:latest", "a\n"])
def test_names_that_no_source_has_are_refused(tmp_path, name):
    with pytest.raises(data.DataError, match="unknown data set"):
        data.load(name, data_dir=str(tmp_path))


# ---------------------------------------------------------------------------------------- real data

_REAL = os.environ.get("SEMJAX_DATA_DIR", "")


@pytest.mark.skipif(
    not list(pathlib.Path(_REAL or "/nonexistent").glob("cifar100/*/dataset_info.json")),
    reason="SEMJAX_DATA_DIR names no directory with a prepared cifar100",
)
def test_real_cifar100_is_what_it_is_known_to_be():
    loaded = data.load("cifar100", data_dir=_REAL)
    assert (loaded.train.image.shape, len(loaded.test)) == ((50000, 32, 32, 3), 10000)
    np.testing.assert_array_equal(np.bincount(loaded.train.label), np.full(100, 500))
    np.testing.assert_array_equal(np.bincount(loaded.test.label), np.full(100, 100))
    np.testing.assert_allclose(loaded.mean, [0.507, 0.487, 0.441], atol=5e-4)
    np.testing.assert_allclose(loaded.std, [0.267, 0.256, 0.276], atol=5e-4)
