"""What others may have written is read within limits and shown in one line."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import untrusted


def test_text_json_and_arrays_come_back_as_they_were_written(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("Grüße\n", encoding="utf-8")
    assert untrusted.read_text(path) == "Grüße\n"
    path.write_text(json.dumps({"a": [1, 0.1, None]}))
    assert untrusted.read_json(path) == {"a": [1, 0.1, None]}
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    found = untrusted.read_array(path)
    np.testing.assert_array_equal(found, array)
    assert type(found) is np.ndarray and not found.flags.writeable


@pytest.mark.parametrize("read", [untrusted.read_text, untrusted.read_array])
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a" * 101, "more than 100 bytes"),
        (b"a\0b", "NUL"),
        (b"\xff", "utf-8"),
        (b"{", "Expecting"),
        (b"[" * 100, "Expecting|too deeply"),
    ],
)
def test_what_is_no_text_or_no_json_is_a_value_error(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        untrusted.read_json(path, at_most=100)


def test_json_nested_too_deeply_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        untrusted.parse_json("[" * 200_000 + "]" * 200_000)


def test_missing_files_are_os_errors(tmp_path: Path):
    for read in (untrusted.read_text, untrusted.read_json, untrusted.read_array):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")


def test_an_archive_of_arrays_and_python_objects_are_refused(tmp_path: Path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"not an array in \.npy format"):
        untrusted.read_array(tmp_path / "a.npz")
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    (tmp_path / "b.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + bytes([118, 0]) + header + b"\x80\x04N."
    )
    with pytest.raises(ValueError, match=r"not an array in \.npy format"):
        untrusted.read_array(tmp_path / "b.npy")


def test_a_message_is_one_printable_line():
    shown = untrusted.one_line("a\n\nb\r\x1b[31m\0\u2028c\ud800 " + "long " * 10_000)
    assert shown.isprintable() and shown.startswith("a b \ufffd[31m\ufffd c\ufffd long")
    assert len(shown) < 1100
    assert re.fullmatch("(.).*", untrusted.one_line(ValueError("x")))
