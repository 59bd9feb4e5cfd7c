"""Laws of experiments.datasets.cifar: what TFDS would have written, or nothing at all."""

import contextlib
import gzip
import io
import json
import tarfile
import tempfile

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums, downloader, resource

from experiments.datasets import cifar, data, loading

# Per data set: folder in the archive, label files with their names, train files, test files.
LAYOUT = {
    "cifar10": (
        "cifar-10-batches-bin/",
        {"batches.meta.txt": [f"class {k}".replace(" ", "_") for k in range(10)]},
        [f"data_batch_{i}.bin" for i in range(1, 6)],
        "test_batch.bin",
    ),
    "cifar100": (
        "cifar-100-binary/",
        {
            "coarse_label_names.txt": [f"coarse_{k}" for k in range(20)],
            "fine_label_names.txt": [f"fine_{k}" for k in range(100)],
        },
        ["train.bin"],
        "test.bin",
    ),
}
NAMES = sorted(LAYOUT)


def _contents(name, rows_per_file=20):
    """Returns ({member: bytes}, {split: (labels [N,L], images [N,32,32,3])}) of a made archive."""
    prefix, label_files, train_files, test_file = LAYOUT[name]
    classes = [len(names) for names in label_files.values()]
    generator = np.random.default_rng(len(name))
    files = {
        prefix + file: ("\n".join(names) + "\n").encode() for file, names in label_files.items()
    }
    splits = {"train": [], "test": []}
    for file in [*train_files, test_file]:
        labels = generator.integers(0, classes, (rows_per_file, len(classes)), np.uint8)
        images = generator.integers(0, 256, (rows_per_file, 32, 32, 3), np.uint8)
        # The format: label bytes, then a red, a green and a blue plane.
        planes = images.transpose(0, 3, 1, 2).reshape(rows_per_file, -1)
        files[prefix + file] = np.concatenate([labels, planes], axis=1).tobytes()
        splits["test" if file == test_file else "train"].append((labels, images))
    return files, {
        split: tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))
        for split, rows in splits.items()
    }


def _tar(files):
    """Returns a .tar.gz of {name: bytes, or a TarInfo for anything but a regular file}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    # Without a time stamp: the same files give the same bytes.
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)


def _manual(root, name):
    return root / "downloads" / "manual" / cifar.ARCHIVES[name]


def _place(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def declare(monkeypatch, tmp_path):
    """Returns a function that makes TFDS take `content` for the official archive of `name`."""

    def _declare(name, content):
        path = _place(tmp_path / "declared" / cifar.ARCHIVES[name], content)
        builder = cifar.builder(name)
        (url,) = builder.url_infos
        monkeypatch.setattr(builder, "url_infos", {url: checksums.compute_url_info(path)})
        return url

    return _declare


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _temporary_files(tmp_path_factory, monkeypatch):
    """Keeps the empty directory that each TFDS builder leaves in the system's out of there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Counts the requests made, all of which fail as they do without a network."""
    asked = []

    def send(self, request, **kwargs):
        asked.append(request.url)
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests.Session, "send", send)
    return asked


def _load(root, name="cifar10", **options):
    return loading.load(name, data_dir=str(root), **options)


def _left(root, name="cifar10"):
    """What a failed preparation left of the data set, whole or not."""
    return list((root / name).glob("*"))


@pytest.mark.parametrize("name", NAMES)
def test_every_row_of_the_archive_is_prepared_under_its_number(declare, root, name):
    files, splits = _contents(name)
    declare(name, _tar(files))
    _place(_manual(root, name), _tar(files))
    cifar.prepare(name, root)
    builder = tfds.builder_from_directory(next((root / name).glob("*.*.*")))
    for split, (labels, images) in splits.items():
        source = builder.as_data_source(split)
        assert len(source) == len(images)
        for row in source:
            prefix, number = row["id"].decode().split("_")
            assert prefix == split
            np.testing.assert_array_equal(row["image"], images[int(number)])
            assert row["label"] == labels[int(number), -1]
            assert row.get("coarse_label", labels[int(number), 0]) == labels[int(number), 0]


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_tfds_own_data_set(declare, root, name):
    files, _ = _contents(name)
    declare(name, _tar(files))
    _place(_manual(root, name), _tar(files))
    cifar.prepare(name, root)
    genuine = tfds.builder(name, data_dir=root)
    assert genuine.is_prepared()
    assert genuine.info.file_format.value == "array_record"
    assert (genuine.name, genuine.info.features["label"].names) == (
        name,
        list(LAYOUT[name][1].values())[-1],
    )


def test_the_builders_are_tfds_own_with_their_checksums():
    known = {"cifar10": "c4a38c50a1bc5f3a", "cifar100": "58a81ae192c23a4b"}
    for name, start in known.items():
        builder = cifar.builder(name)
        assert issubclass(builder, type(tfds.builder(name)))
        assert type(tfds.builder(name)) is not builder
        ((url, info),) = builder.url_infos.items()
        assert url.endswith(cifar.ARCHIVES[name]) and info.filename == cifar.ARCHIVES[name]
        assert info.checksum.startswith(start)


@pytest.mark.parametrize("name", NAMES)
def test_load_prepares_from_the_manual_archive_without_network(declare, root, name, no_network):
    files, splits = _contents(name)
    declare(name, _tar(files))
    _place(_manual(root, name), _tar(files))
    loaded = _load(root, name)
    assert len(loaded.train) == len(splits["train"][0])
    assert loaded.num_classes == {"cifar10": 10, "cifar100": 100}[name]
    # The fine label, not the coarse one.
    assert sorted(loaded.test.label) == sorted(splits["test"][0][:, -1])
    assert not no_network


def test_a_prepared_set_needs_the_archive_no_more(declare, root):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    _place(_manual(root, "cifar10"), _tar(files))
    first = _load(root)
    _manual(root, "cifar10").unlink()
    np.testing.assert_array_equal(_load(root).train.image, first.train.image)


def test_preparing_twice_gives_the_same_order(declare, tmp_path):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    loaded = []
    for root in (tmp_path / "one", tmp_path / "two"):
        _place(_manual(root, "cifar10"), _tar(files))
        loaded.append(_load(root).train.image)
    np.testing.assert_array_equal(*loaded)


@pytest.mark.parametrize("name", NAMES)
def test_without_archive_the_message_says_what_to_do(root, name, no_network):
    with pytest.raises(data.DataError, match=f"{name} is not prepared in {root} ") as caught:
        _load(root, name)
    for hint in ("--download", "--data_dir", str(_manual(root, name))):
        assert hint in str(caught.value)
    assert not no_network
    assert not root.exists()


def test_a_download_without_network_is_tried_once_and_leaves_nothing(root, no_network):
    with pytest.raises(data.DataError, match=r"cannot reach https://.*cifar-10-binary.*no network"):
        _load(root, download=True)
    assert len(no_network) == 1
    assert not root.exists()


def _answer(monkeypatch, status):
    def send(self, request, **kwargs):
        answer = requests.Response()
        answer.status_code, answer.url = status, request.url
        return answer

    monkeypatch.setattr(requests.Session, "send", send)


def test_a_download_from_a_failing_server_is_not_retried(root, monkeypatch):
    _answer(monkeypatch, 503)
    with pytest.raises(data.DataError, match=r"cannot fetch https://.*the server answers 503"):
        _load(root, download=True)


def _serve(monkeypatch, content):
    """Lets TFDS's own downloader receive `content` from any address."""
    _answer(monkeypatch, 200)

    @contextlib.contextmanager
    def open_url(url, **kwargs):
        answer = requests.Response()
        answer.url = url
        yield answer, [content[:1000], content[1000:]]

    monkeypatch.setattr(downloader, "_open_url", open_url)


def test_a_download_is_prepared(declare, root, monkeypatch):
    files, splits = _contents("cifar10")
    declare("cifar10", _tar(files))
    _serve(monkeypatch, _tar(files))
    assert len(_load(root, download=True).train) == len(splits["train"][0])


def test_a_download_of_something_else_is_refused(declare, root, monkeypatch):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    _serve(monkeypatch, b"<html>please log in</html>")
    with pytest.raises(data.DataError, match=r"could not prepare cifar10 .*wrong checksum"):
        _load(root, download=True)
    assert not _left(root)


def _cache(root, url, content, declared):
    """Places a file where TFDS keeps what it fetched, with the note that it keeps beside it."""
    file_name = resource.get_dl_fname(url, declared.checksum)
    path = _place(root / "downloads" / "cifar10" / file_name, content)
    info = {"size": int(declared.size), "checksum": declared.checksum, "filename": "x.tar.gz"}
    path.with_suffix(path.suffix + ".INFO").write_text(json.dumps({"url_info": info}))


def test_what_tfds_fetched_before_needs_no_network(declare, root, no_network):
    files, splits = _contents("cifar10")
    url = declare("cifar10", _tar(files))
    _cache(root, url, _tar(files), cifar.builder("cifar10").url_infos[url])
    assert len(_load(root, download=True).train) == len(splits["train"][0])
    assert not no_network


def test_what_tfds_fetched_before_is_checked_again(declare, root):
    files, _ = _contents("cifar10")
    url = declare("cifar10", _tar(files))
    _cache(root, url, _tar(files)[:-5], cifar.builder("cifar10").url_infos[url])
    with pytest.raises(data.DataError, match="is not the official archive"):
        _load(root, download=True)
    assert not _left(root)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: b"",
    ],
    ids=["half", "one_byte_short", "one_byte_more", "one_bit", "empty"],
)
@pytest.mark.parametrize("download", [False, True])
def test_a_damaged_archive_is_refused_before_anything_is_written(declare, root, damage, download):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    path = _place(_manual(root, "cifar10"), damage(_tar(files)))
    with pytest.raises(data.DataError, match=f"{path} is not the official archive: .*SHA-256"):
        _load(root, download=download)
    assert not (root / "cifar10").exists()


def _without(files, part):
    return {name: content for name, content in files.items() if part not in name}


def _changed(files, part, change):
    return {name: change(c) if part in name else c for name, c in files.items()}


def _link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return {name: member}


TEST_FILE = "cifar-10-batches-bin/test_batch.bin"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: b"no archive at all", "is damaged: .*; fetch it again"),
        (lambda files: gzip.compress(b"no archive at all"), "is damaged"),
        (lambda files: _tar(files)[:20000], "is damaged"),
        (lambda files: _tar(_without(files, "data_batch_3")), "is damaged: .*data_batch_3.bin"),
        (lambda files: _tar(_without(files, "meta")), "is damaged: .*batches.meta.txt"),
        (
            lambda files: _tar(_without(files, "test") | _link(TEST_FILE, "/etc/passwd")),
            "is damaged: .*test_batch.bin is not a regular file",
        ),
        (
            lambda files: _tar(_changed(files, "test", lambda content: content[:-1])),
            "a CIFAR file of 61459 bytes is not a whole number of records",
        ),
        (
            lambda files: _tar(_changed(files, "test", lambda content: b"\x0a" + content[1:])),
            "could not prepare cifar10",
        ),
        (
            lambda files: _tar(_changed(files, "meta", lambda content: b"only_one\n")),
            "could not prepare cifar10",
        ),
        (
            lambda files: _tar(_changed(files, "meta", lambda content: b"\xff\xfe")),
            "could not prepare cifar10",
        ),
    ],
    ids=[
        "no_gzip",
        "no_tar",
        "cut",
        "no_batch",
        "no_names",
        "link",
        "odd_size",
        "label_10",
        "one_name",
        "no_text",
    ],
)
def test_an_archive_with_wrong_contents_leaves_nothing_behind(declare, root, spoil, message):
    """Even where the hash is right, so that TFDS itself is at work when the fault shows."""
    files, _ = _contents("cifar10")
    content = spoil(files)
    declare("cifar10", content)
    _place(_manual(root, "cifar10"), content)
    with pytest.raises(data.DataError, match=message):
        _load(root)
    assert not _left(root)


def test_nothing_is_unpacked_to_disk(declare, root):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar({"other/readme.txt": b"more"} | files))
    _place(_manual(root, "cifar10"), _tar({"other/readme.txt": b"more"} | files))
    cifar.prepare("cifar10", root)
    written = {path.name for path in root.parent.rglob("*") if path.is_file()}
    assert "readme.txt" not in written and "data_batch_1.bin" not in written


def _of_size(name, size, kind=tarfile.REGTYPE):
    """A member that says it has so many bytes, and has none."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf()


def _chain_of_headers(length):
    """Headers for the next member's name, each of which is for the next header."""
    return _of_size("././@LongLink", 0, tarfile.GNUTYPE_LONGNAME) * length


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: _tar({"../../escaped.txt": b"outside"}), r"\.\./escaped.txt lies outside of it"),
        (lambda: _tar({"/tmp/escaped.txt": b"outside"}), "/tmp/escaped.txt lies outside of it"),
        (lambda: _tar({f"{n}": b"" for n in range(100)}), "more than 64 members"),
        (lambda: gzip.compress(_of_size("big", 2**40)), "big has 1,099,511,627,776 bytes"),
        (
            lambda: gzip.compress(_of_size("x", 2**33, tarfile.XHDTYPE) + bytes(2**21)),
            "end of file",
        ),
        (lambda: gzip.compress(_chain_of_headers(5000)), "recursion"),
        (lambda: _tar(_link(TEST_FILE, "/etc/passwd")), "is not a regular file"),
        (
            lambda: gzip.compress(_of_size(TEST_FILE, 0, tarfile.GNUTYPE_SPARSE) + bytes(2048)),
            "is not a regular file",
        ),
    ],
    ids=["up", "absolute", "many", "big", "big_header", "headers", "link", "holes"],
)
def test_what_an_archive_says_of_itself_is_not_believed(content, message, tmp_path):
    path = _place(tmp_path / "made.tar.gz", content())
    with pytest.raises(data.DataError, match=f"{path} is damaged: .*{message}"):
        cifar._members(path, "cifar-10-batches-bin/", ["test_batch.bin"])


def test_no_more_is_unpacked_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_MOST_BYTES", 2**20)
    # A megabyte of zeros in a kilobyte, a thousand times.
    member = _of_size("zeros", 2**19) + bytes(2**19)
    path = _place(tmp_path / "bomb.tar.gz", gzip.compress(member * 3))
    with pytest.raises(data.DataError, match="it unpacks to more than 1,048,576 bytes"):
        cifar._members(path, "", ["none"])


def test_a_data_dir_that_cannot_be_written_to_is_named(declare, root):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    _place(_manual(root, "cifar10"), _tar(files))
    (root / "cifar10").write_text("a file where the directory belongs")
    with pytest.raises(data.DataError, match=f"could not prepare cifar10 in {root}"):
        _load(root)


def test_losing_the_race_against_another_process_is_no_error(declare, root, monkeypatch):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    _place(_manual(root, "cifar10"), _tar(files))
    builder = cifar.builder("cifar10")
    prepare = builder.download_and_prepare

    def lose(self, **options):
        prepare(self, **options)
        raise OSError("directory not empty")

    monkeypatch.setattr(builder, "download_and_prepare", lose)
    assert len(_load(root).train) == 100


def test_another_version_than_the_prepared_one_is_refused(declare, root):
    files, _ = _contents("cifar10")
    declare("cifar10", _tar(files))
    _place(_manual(root, "cifar10"), _tar(files))
    with pytest.raises(data.DataError, match=r"was prepared, but not in version 9\.9\.9"):
        _load(root, "cifar10:9.9.9")
