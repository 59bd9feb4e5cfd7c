"""Laws of datasets.decoded: what comes from the cache is what was decoded, or it is not used."""

import errno
import os
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

from experiments.datasets import decoded, loading, sources
from experiments.datasets.data import Split


def _split(rows, seed=0):
    """A split with everything that a split can have."""
    draw = np.random.default_rng(seed)
    return Split(
        draw.integers(0, 256, (rows, 3, 4, 3), np.uint8),
        draw.integers(0, 5, rows).astype(np.int32),
        sample_weight=draw.random(rows, np.float32),
        group=draw.integers(0, 2, rows).astype(np.int32),
        factors={"z": draw.random(rows, np.float32), "a": np.arange(rows, dtype=np.int32)},
        source=np.arange(rows, dtype=np.int32),
    )


def _arrays(split):
    return dict(decoded._columns(split))


def _assert_equal(found, expected):
    assert (found[0], list(found[1])) == (expected[0], list(expected[1]))
    for name, split in expected[1].items():
        columns = _arrays(found[1][name])
        assert list(columns) == list(_arrays(split))
        for column, values in _arrays(split).items():
            assert columns[column].dtype == values.dtype
            np.testing.assert_array_equal(columns[column], values)


class _Source:
    """A source that counts how often it is read."""

    def __init__(self, **description):
        self.description, self.reads = description, 0
        self.decoded = 5, {"train": _split(7), "test": _split(2, seed=1)}

    def describe(self):
        return self.description

    def read(self):
        self.reads += 1
        return self.decoded

    def through(self, cache):
        return decoded.through(str(cache), self.describe, self.read)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def source():
    return _Source(name="toy")


def _only(cache):
    """The one folder of a cache."""
    (folder,) = cache.iterdir()
    return folder


def test_the_second_time_it_is_mapped_and_not_read(cache, source, capsys):
    _assert_equal(source.through(cache), source.decoded)
    found = source.through(cache)
    _assert_equal(found, source.decoded)
    assert source.reads == 1
    assert isinstance(found[1]["train"].image.base, np.memmap)
    assert type(found[1]["train"].image) is np.ndarray
    assert capsys.readouterr().err == ""


def test_mapped_arrays_cannot_be_changed(cache, source):
    source.through(cache)
    for values in _arrays(source.through(cache)[1]["train"]).values():
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0


def test_none_keeps_nothing(cache, source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    source.through("none")
    source.through("none")
    assert source.reads == 2 and not cache.exists()


def test_auto_is_the_users_cache_folder(cache, source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    source.through("auto")
    assert len(list((cache / "semjax" / "datasets").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(cache / "home"))
    assert decoded.default() == cache / "home" / ".cache" / "semjax" / "datasets"


def test_without_a_home_nothing_is_kept(source, monkeypatch, capsys):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(decoded.Path, "expanduser", homeless)
    _assert_equal(source.through("auto"), source.decoded)
    assert capsys.readouterr().err.count("\n") == 1


def test_another_description_is_another_data_set(cache, source):
    other = _Source(name="other")
    other.decoded = 3, {"test": _split(1, seed=2)}
    for _ in range(2):
        _assert_equal(source.through(cache), source.decoded)
        _assert_equal(other.through(cache), other.decoded)
    assert source.reads == other.reads == 1


def test_a_later_format_does_not_read_an_earlier_one(cache, source, monkeypatch):
    source.through(cache)
    monkeypatch.setattr(decoded, "_FORMAT", decoded._FORMAT + 1)
    source.through(cache)
    assert source.reads == 2


def _damages():
    """Ways of damaging a file, by name."""

    def flipped(place):
        def damage(path):
            content = bytearray(path.read_bytes())
            content[int(place * (len(content) - 1))] ^= 1
            path.write_bytes(content)

        return damage

    return {
        "first_bit": flipped(0),
        "early_bit": flipped(0.3),
        "last_bit": flipped(1),
        "short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "empty": lambda path: path.write_bytes(b""),
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "gone": lambda path: path.unlink(),
        "folder": lambda path: (path.unlink(), path.mkdir()),
    }


@pytest.mark.parametrize("damage", _damages())
@pytest.mark.parametrize("file", ["index.json", "train.image.npy", "test.factors.z.npy"])
def test_damage_is_found_said_and_repaired(cache, source, capsys, file, damage):
    source.through(cache)
    _damages()[damage](_only(cache) / file)
    _assert_equal(source.through(cache), source.decoded)
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and said.count("\n") == 1 and str(_only(cache)) in said
    _assert_equal(source.through(cache), source.decoded)
    assert (source.reads, capsys.readouterr().err) == (2, "")


def test_every_bit_of_the_index_counts(cache, source):
    source.through(cache)
    content = (_only(cache) / "index.json").read_bytes()
    for reads, place in enumerate(range(0, len(content), 131), start=2):
        wrong = content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]
        (_only(cache) / "index.json").write_bytes(wrong)
        _assert_equal(source.through(cache), source.decoded)
        assert source.reads == reads


def test_the_files_of_another_data_set_are_not_taken_for_it(cache, source, capsys):
    source.through(cache)
    other = _Source(name="other")
    other.decoded = 3, {"test": _split(1, seed=2)}
    folder = _only(cache)
    other.through(cache)
    (wrong,) = set(cache.iterdir()) - {folder}
    shutil.rmtree(folder)
    wrong.rename(folder)
    _assert_equal(source.through(cache), source.decoded)
    assert "of another data set" in capsys.readouterr().err


@pytest.mark.parametrize("number", range(3))
def test_what_was_interrupted_while_writing_is_never_read(cache, source, monkeypatch, number):
    save, calls = np.save, []

    def interrupted(stream, array, **options):
        calls.append(array)
        save(stream, array, **options)
        if len(calls) > number:
            raise KeyboardInterrupt

    monkeypatch.setattr(decoded.np, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.through(cache)
    assert list(cache.iterdir()) == []
    # A killed process cleans nothing up.
    monkeypatch.setattr(decoded.shutil, "rmtree", lambda *args, **options: None)
    with pytest.raises(KeyboardInterrupt):
        source.through(cache)
    monkeypatch.undo()
    _assert_equal(source.through(cache), source.decoded)
    assert source.reads == 3


def test_a_full_disk_stops_nothing(cache, source, monkeypatch, capsys):
    def full(stream, array, **options):
        stream.write(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(decoded.np, "save", full)
        _assert_equal(source.through(cache), source.decoded)
    said = capsys.readouterr().err
    assert "No space left" in said and said.count("\n") == 1 and "--data_cache=none" in said
    assert list(cache.iterdir()) == []


def test_a_disk_is_never_filled_beyond_half_of_what_is_free(cache, source, monkeypatch, capsys):
    size = sum(v.nbytes for split in source.decoded[1].values() for v in _arrays(split).values())
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: usage._replace(free=2 * size - 1))
    _assert_equal(source.through(cache), source.decoded)
    assert "MiB left there" in capsys.readouterr().err
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: usage._replace(free=2 * size))
    source.through(cache)
    assert len(list(cache.iterdir())) == 1


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, source, capsys):
    (tmp_path / "file").write_text("no folder")
    _assert_equal(source.through(tmp_path / "file" / "cache"), source.decoded)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path}/file/cache" in said


def test_many_writers_at_once_harm_nobody(cache, source, capsys):
    barrier, found = threading.Barrier(4), []

    def read():
        barrier.wait(10)  # so that all of them find nothing, and all of them write
        return source.decoded

    def run():
        found.append(decoded.through(str(cache), source.describe, read))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in [*found, source.through(cache)]:
        _assert_equal(each, source.decoded)
    assert (source.reads, capsys.readouterr().err) == (0, "")
    assert len(found) == 4 and _only(cache).is_dir()


def test_what_is_replaced_stays_whole_for_who_has_mapped_it(cache, source):
    source.through(cache)
    mapped = source.through(cache)
    (_only(cache) / "index.json").unlink()
    source.through(cache)
    _assert_equal(mapped, source.decoded)


def test_a_source_that_changes_while_it_is_read_is_not_kept(cache, source):
    def read():
        source.description = {"name": "changed"}
        return source.read()

    decoded.through(str(cache), source.describe, read)
    assert not cache.exists()


def test_a_source_that_cannot_be_described_is_read(cache, source):
    def describe():
        raise FileNotFoundError("gone")

    _assert_equal(decoded.through(str(cache), describe, source.read), source.decoded)
    assert not cache.exists()


def test_what_is_long_unused_is_removed_and_nothing_else(cache, source):
    source.through(cache)
    old = _only(cache)
    fresh, long_ago = time.time() - 29 * 86_400, time.time() - 31 * 86_400
    os.utime(old / "index.json", (fresh, fresh))
    strangers = [cache / "notes", cache / ("x" * 40), cache / f"{'0' * 40}.txt"]
    partial = cache / f"{old.name}.{'0' * 32}.partial"
    for folder in (*strangers, partial):
        folder.mkdir()
        (folder / "index.json").touch()
        os.utime(folder / "index.json", (long_ago, long_ago))
        os.utime(folder, (long_ago, long_ago))
    _Source(name="second").through(cache)
    assert old.is_dir() and not partial.exists()
    os.utime(old / "index.json", (long_ago, long_ago))
    source.through(cache)  # opening it counts as use
    _Source(name="third").through(cache)
    assert old.is_dir()
    os.utime(old / "index.json", (long_ago, long_ago))
    _Source(name="fourth").through(cache)
    assert not old.exists() and all(folder.is_dir() for folder in strangers)


def test_a_digest_tells_names_sizes_and_times(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"1")
        os.utime(path, ns=(10**18, 10**18))
    before = decoded.digest(paths)
    assert decoded.digest(paths) == before
    assert decoded.digest(paths[::-1]) != before
    assert decoded.digest(paths[:1]) != before
    os.utime(paths[0], ns=(10**18, 10**18 + 1))
    assert decoded.digest(paths) != before
    paths[0].write_bytes(b"12")
    os.utime(paths[0], ns=(10**18, 10**18))
    assert decoded.digest(paths) != before
    with pytest.raises(FileNotFoundError):
        decoded.digest([tmp_path / "c"])


# -------------------------------------------------------------------------------- through `loading`


@pytest.fixture
def pictures(tmp_path):
    """A folder data set of 5 and 2 images."""
    draw = np.random.default_rng(0)
    names = [f"train/{k}/{i}.png" for k in "ab" for i in range(3)] + [
        "test/a/0.png",
        "test/b/0.png",
    ]
    for name in names[1:]:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (5, 5, 3), np.uint8)).save(path)
    return tmp_path / "set"


def _load(pictures, cache, **options):
    return loading.load(f"folder:{pictures}", cache=str(cache), **options)


def _unread(monkeypatch):
    def read(*_):
        pytest.fail("the data set was decoded again")

    monkeypatch.setattr(sources, "_read_folder", read)


@pytest.mark.parametrize("options", [{}, {"image_size": 3}, {"validation_fraction": 0.4}])
def test_a_folder_is_the_same_from_the_cache(pictures, cache, monkeypatch, options):
    plain = _load(pictures, "none", **options)
    _load(pictures, cache, **options)
    _unread(monkeypatch)
    mapped = _load(pictures, cache, **options)
    for split in ("train", "validation", "test"):
        a, b = getattr(plain, split), getattr(mapped, split)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.label, b.label)
            assert type(b.take(np.array([0])).image) is np.ndarray
    np.testing.assert_array_equal((plain.mean, plain.std), (mapped.mean, mapped.std))


def test_data_in_the_size_of_other_data_is_kept_too(pictures, cache, monkeypatch):
    other = _load(pictures, "none", image_size=3)
    first = loading.load_like(other, f"folder:{pictures}", cache=str(cache))
    _unread(monkeypatch)
    second = loading.load_like(other, f"folder:{pictures}", cache=str(cache))
    assert second.test.image.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(first.test.image, second.test.image)


def test_a_folder_that_changed_is_read_again(pictures, cache):
    def rows():
        return len(_load(pictures, cache).train)

    assert rows() == 5
    shutil.copy(pictures / "train/a/1.png", pictures / "train/a/9.png")
    assert rows() == 6
    image = np.asarray(Image.open(pictures / "train/b/0.png")).copy()
    image[0, 0] ^= 255
    Image.fromarray(image).save(pictures / "train/b/0.png")
    assert (_load(pictures, cache).train.image == image).all((1, 2, 3)).any()
    assert _load(pictures, cache, image_size=2).train.image.shape[1:] == (2, 2, 3)


def test_what_decodes_is_part_of_the_description(pictures, cache, monkeypatch):
    _load(pictures, cache)
    monkeypatch.setattr("PIL.__version__", "0.0")
    _load(pictures, cache)
    assert len(list(cache.iterdir())) == 2
