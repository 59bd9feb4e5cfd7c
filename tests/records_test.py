"""What a run leaves on disk and shows, with kills, torn lines and bad directories."""

import io
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import records


def lines(workdir: Path) -> list[str]:
    return (workdir / "metrics.jsonl").read_text().splitlines()


def run(workdir: Path, steps: range, *, resume_step: int | None) -> None:
    with records.MetricsLog(workdir, resume_step=resume_step) as log:
        for step in steps:
            log.write(step, {"loss": 1 / step})


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory nobody may write in: for root, by giving root's rights up for a while."""
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield tmp_path
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)


# write_atomically


def test_write_atomically_replaces_the_whole_text_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flags"
    records.write_atomically(path, "a much longer first text")
    records.write_atomically(path, "zweites, ü")
    assert path.read_text(encoding="utf-8") == "zweites, ü"
    assert list(path.parent.iterdir()) == [path]


def test_write_atomically_keeps_the_old_text_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "flags"
    records.write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write flags \(No space left on device\)"):
        records.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_without_the_right_to_write_is_named(read_only: Path) -> None:
    with pytest.raises(
        PermissionError, match=r"cannot write flags .*choose another directory"
    ) as e:
        records.write_atomically(read_only / "flags", "text")
    assert e.value.filename == str(read_only / "flags")


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a directory")
    with pytest.raises(OSError, match=r"cannot write metrics\.jsonl .*run/metrics\.jsonl"):
        records.MetricsLog(tmp_path / "run", resume_step=None)


# MetricsLog


def test_each_line_is_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    with records.MetricsLog(tmp_path, resume_step=None) as log:
        log.write(3, {"loss": 0.5, "images": 128})
        assert lines(tmp_path) == ['{"step": 3, "loss": 0.5, "images": 128}']


def test_a_resumed_run_leaves_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path / "whole", range(1, 10), resume_step=None)
    run(tmp_path / "killed", range(1, 8), resume_step=None)
    with open(tmp_path / "killed/metrics.jsonl", "a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    run(tmp_path / "killed", range(6, 10), resume_step=5)
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


@pytest.mark.parametrize("torn", ['{"step": 8, "lo', "{", "8", '"step"', "\x00\x00", '{"step": 8}'])
def test_a_torn_last_line_is_dropped_and_a_whole_one_without_newline_is_not(
    tmp_path: Path, torn: str
) -> None:
    run(tmp_path, range(1, 4), resume_step=None)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(torn)
    run(tmp_path, range(9, 10), resume_step=8)
    whole = [8] if torn == '{"step": 8}' else []
    assert [json.loads(line)["step"] for line in lines(tmp_path)] == [1, 2, 3, *whole, 9]


def test_a_line_torn_inside_a_character_is_dropped(tmp_path: Path) -> None:
    run(tmp_path, range(1, 3), resume_step=None)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 3, "\xc3')
    run(tmp_path, range(3, 4), resume_step=2)
    assert [record["step"] for record in records.read_metrics(tmp_path)] == [1, 2, 3]


def test_lines_of_the_resumed_step_stay_and_a_new_run_starts_empty(tmp_path: Path) -> None:
    run(tmp_path, range(1, 6), resume_step=None)
    run(tmp_path, range(0), resume_step=3)
    assert [record["step"] for record in records.read_metrics(tmp_path)] == [1, 2, 3]
    run(tmp_path, range(0), resume_step=None)
    assert lines(tmp_path) == []


def test_a_file_that_needs_no_cut_is_not_rewritten(tmp_path: Path) -> None:
    run(tmp_path, range(1, 4), resume_step=None)
    before = (tmp_path / "metrics.jsonl").stat().st_ino
    run(tmp_path, range(4, 5), resume_step=3)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before


@pytest.mark.parametrize("broken", ["garbage", '{"loss": 1}', '{"step": "2"}', "[1]"])
def test_a_broken_line_that_is_not_the_last_is_named_and_nothing_is_lost(
    tmp_path: Path, broken: str
) -> None:
    text = f'{{"step": 1}}\n{broken}\n{{"step": 3}}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is not a record"):
        records.MetricsLog(tmp_path, resume_step=3)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_nan_and_infinities_are_null_in_valid_json(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    with records.MetricsLog(tmp_path, resume_step=None) as log:
        log.write(1, {"a": float("nan"), "b": np.float32("inf"), "c": jnp.array(-jnp.inf)})
    (line,) = lines(tmp_path)
    found = json.loads(line, parse_constant=refuse)
    assert found == {"step": 1, "a": None, "b": None, "c": None}
    assert records.read_metrics(tmp_path) == [found]


def test_numbers_of_every_library_are_written_exactly(tmp_path: Path) -> None:
    with records.MetricsLog(tmp_path, resume_step=None) as log:
        log.write(1, {"a": jnp.float32(0.1), "b": np.int64(7), "c": np.float64(0.1), "d": True})
    (record,) = records.read_metrics(tmp_path)
    assert record == {"step": 1, "a": float(np.float32(0.1)), "b": 7, "c": 0.1, "d": 1}


@pytest.mark.parametrize("value", ["0.5", None, [1], np.zeros(2), 1j])
def test_a_metric_that_is_not_a_number_is_refused_by_name(tmp_path: Path, value: object) -> None:
    with records.MetricsLog(tmp_path, resume_step=None) as log:
        with pytest.raises(TypeError, match="metric 'loss' must be a number"):
            log.write(1, {"loss": value})
        assert lines(tmp_path) == []


def test_a_metric_called_step_is_refused(tmp_path: Path) -> None:
    with (
        records.MetricsLog(tmp_path, resume_step=None) as log,
        pytest.raises(ValueError, match="step"),
    ):
        log.write(1, {"step": 2})


def test_read_metrics_of_a_run_without_metrics_is_empty(tmp_path: Path) -> None:
    assert records.read_metrics(tmp_path) == []


# TensorBoard


def test_tensorboard_without_tensorboardx_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"--tensorboard needs tensorboardX.*pip install"):
        records.TensorBoard(tmp_path, resume_step=None)


def test_tensorboard_gets_the_finite_scalars_and_hides_what_a_resume_undoes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    class Writer:
        def __init__(self, directory: str, purge_step: int) -> None:
            seen.append((directory, purge_step))

        def add_scalar(self, *arguments: object) -> None:
            seen.append(arguments)

        def close(self) -> None:
            seen.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    with records.TensorBoard(tmp_path, resume_step=4) as board:
        board.write(5, {"loss": jnp.float32(0.5), "gap": float("nan")})
    assert seen == [(str(tmp_path / "tensorboard"), 5), ("loss", 0.5, 5), "closed"]


def test_tensorboardx_itself_writes_an_event_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    with records.TensorBoard(tmp_path, resume_step=None) as board:
        board.write(1, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


# Tables


def test_a_table_aligns_values_and_shows_every_kind_of_one() -> None:
    rows = {"a": None, "long label": jnp.float32(0.5), "big": 123456.7, "small": 1e-5}
    nested = {"jax": {"version": "1.2", "x64": False}}
    table = records.format_table({**rows, **nested, "inf": float("inf")}, title="Run")
    assert table.splitlines() == [
        "Run",
        "  a           -",
        "  long label  0.5",
        "  big         123,457",
        "  small       1e-05",
        "  jax",
        "    version   1.2",
        "    x64       False",
        "  inf         inf",
    ]


def test_print_table_goes_to_the_stream_and_by_default_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = io.StringIO()
    records.print_table({"a": 1}, stream=stream)
    records.print_table({"b": 2}, title="T")
    assert stream.getvalue() == "  a  1\n"
    assert capsys.readouterr().out == "T\n  b  2\n"


def test_an_empty_table_is_empty() -> None:
    assert records.format_table({}) == ""


# environment


@pytest.fixture
def outside_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory whose revision does not depend on where the tests run."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(records, "__file__", str(tmp_path / "records.py"))
    return tmp_path


@pytest.fixture
def checkout(outside_git: Path) -> Path:
    (outside_git / "records.py").write_text("first")
    person = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "records.py"], ["commit", "-q", "-m", "First"]):
        subprocess.run(["git", "-C", str(outside_git), *person, *command], check=True)
    return outside_git


def test_the_environment_names_versions_and_devices() -> None:
    found = records.environment()
    packages = {"semjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"}
    machine = {"revision", "python", "platform", "device_kind", "device_count"}
    assert found.keys() == packages | machine
    assert (found["jax"], found["numpy"]) == (jax.__version__, np.__version__)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (found["platform"], found["device_count"]) == ("cpu", 8)
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_installed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PACKAGES", ("no-such-package",))
    assert records.environment()["no-such-package"] == "unknown"


def test_the_revision_is_the_commit_and_says_whether_it_was_changed(checkout: Path) -> None:
    head = subprocess.check_output(["git", "-C", checkout, "rev-parse", "HEAD"], text=True).strip()
    assert records.environment()["revision"] == head
    (checkout / "records.py").write_text("second")
    assert records.environment()["revision"] == f"{head}-dirty"


def test_code_installed_below_somebody_elses_checkout_has_no_revision(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "site-packages").mkdir()
    (checkout / "site-packages/records.py").write_text("installed")
    monkeypatch.setattr(records, "__file__", str(checkout / "site-packages/records.py"))
    assert records.environment()["revision"] is None


def test_no_checkout_and_no_git_are_no_revision(
    outside_git: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert records.environment()["revision"] is None
    monkeypatch.setenv("PATH", str(outside_git))
    assert records.environment()["revision"] is None
