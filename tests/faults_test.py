"""The fault matrix of docs/faults.md: faults that are made to happen, and what is left of a run.

Whole programs under hard limits of time. A run that was resumed is compared with one that nothing
happened to, in every bit of its state and every line of its metrics.
"""

import ast
import contextlib
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import made_sets
import numpy as np
import pytest
import runs

from experiments import sharding, train
from experiments.lifecycle import exit_codes
from experiments.training import loop

ROOT = Path(__file__).resolve().parents[1]
# Quick steps; a checkpoint, a line or an evaluation at almost any moment.
FLAGS = (
    *("--model=mlp", "--policy=mixup", "--crop_padding=0", "--steps=400", "--log_every=30"),
    *("--checkpoint_every=40", "--eval_every=200", "--validation_fraction=0.2", "--record_errors"),
)
LAST = "400"
# Root may write everywhere, unless what lets it is given up for good.
WITHOUT_PRIVILEGE = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def spawn(
    workdir: Path, *args: str, unprivileged: bool = False, **environment: str
) -> runs.Running:
    program = ["-m", "experiments.train", f"--workdir={workdir}", *runs.TINY, *FLAGS, *args]
    before = ["-c", WITHOUT_PRIVILEGE] if unprivileged else []
    return runs.Running([sys.executable, *before, *program], **environment)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    runs.finish(spawn(workdir))
    return workdir


def assert_as_if_never(workdir: Path, whole: Path) -> None:
    """A run has left what one has left that nothing happened to."""
    runs.assert_same_bits(workdir, whole)
    assert runs.snapshot(workdir / "errors") == runs.snapshot(whole / "errors")
    for name in ("steps", "best_step", "best_test_accuracy", "test_nll"):
        assert runs.summary(workdir)[name] == runs.summary(whole)[name]


@contextlib.contextmanager
def stopped(process: runs.Running, step: str, workdir: Path) -> Iterator[None]:
    """A run that is held up once a step is saved, for a fault to happen."""
    runs.wait_for(workdir / "checkpoints" / step, process)
    process.send_signal(signal.SIGSTOP)
    yield
    process.send_signal(signal.SIGCONT)


# --- Processes that end --------------------------------------------------------------------------


def killed(workdir: Path, moment: Callable[[runs.Running], None]) -> bool:
    """Starts a run, or goes on with one, and kills it; whether it was there to be killed."""
    with spawn(workdir) as process:
        moment(process)
        process.send_signal(signal.SIGKILL)
        return process.wait(60) == -signal.SIGKILL


def after(seconds: float) -> Callable[[runs.Running], None]:
    """So many seconds after the start, or at the end if that is earlier."""

    def moment(process: runs.Running) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)

    return moment


def beyond(workdir: Path, step: int, seconds: float) -> Callable[[runs.Running], None]:
    """So many seconds after a step is saved."""

    def moment(process: runs.Running) -> None:
        runs.wait_for(workdir / "checkpoints" / str(step), process)
        time.sleep(seconds)

    return moment


def test_killed_at_random_moments_a_run_ends_as_if_it_never_was(whole: Path, tmp_path: Path):
    draw, workdir = random.Random(), tmp_path / "run"
    early, late = (40 * draw.randint(*steps) for steps in ((1, 3), (5, 7)))
    assert killed(workdir, after(draw.uniform(0, 1)))
    for step in (early, late):
        assert killed(workdir, beyond(workdir, step, draw.uniform(0, 0.05)))
    runs.finish(spawn(workdir))
    assert_as_if_never(workdir, whole)


@pytest.mark.long
def test_each_of_many_kills_is_resumed_bit_for_bit(whole: Path, tmp_path: Path):
    draw, kills = random.Random(), 0
    for number in range(36):
        workdir = tmp_path / str(number)
        if number % 3:
            step, seconds = 40 * draw.randint(1, 9), draw.uniform(0, 0.1)
            moment, told = beyond(workdir, step, seconds), f"{seconds:.3f} s after step {step}"
        else:
            seconds = draw.uniform(0.05, 4)
            moment, told = after(seconds), f"{seconds:.3f} s after the start"
        was_killed = killed(workdir, moment)
        found = sorted(path.name for path in (workdir / "checkpoints").glob("*"))
        print(f"kill {told}: {'done' if was_killed else 'too late'}, leaves {found}", flush=True)
        kills += was_killed
        runs.finish(spawn(workdir))
        assert_as_if_never(workdir, whole)
        shutil.rmtree(workdir)
    assert kills >= 20


MOMENTS: dict[str, Callable[[runs.Running, Path], None]] = {
    "start": lambda process, workdir: runs.at_start(process),
    "compilation": lambda process, workdir: runs.in_compilation(process),
    "step": lambda process, workdir: runs.in_step(process, 30),
    "save": runs.in_save,
    "evaluation": lambda process, workdir: runs.in_evaluation(process, workdir, 200),
}


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, exit_codes.PREEMPTED), (signal.SIGINT, exit_codes.INTERRUPTED)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_stopped_at_each_moment_a_run_ends_as_if_it_never_was(
    moment: str, number: signal.Signals, code: int, whole: Path, tmp_path: Path
):
    workdir = tmp_path / "run"
    process = spawn(workdir)
    MOMENTS[moment](process, workdir)
    process.send_signal(number)
    assert f"stopped by {number.name}" in runs.finish(process, code)
    runs.finish(spawn(workdir))
    assert_as_if_never(workdir, whole)


def together(workdir: Path, *args: str) -> list[runs.Running]:
    """Two processes of one run, without a launcher."""
    with socket.socket() as held:
        held.bind(("localhost", 0))
        address = f"localhost:{held.getsockname()[1]}"
    told = (f"--coordinator_address={address}", "--num_processes=2")
    return [spawn(workdir, *args, *told, f"--process_id={number}") for number in (0, 1)]


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "stuck"])
def test_who_loses_a_peer_ends_and_both_resume_bit_for_bit(
    fault: signal.Signals, victim: int, tmp_path: Path
):
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    for process in together(whole):
        runs.finish(process)
    processes = together(lost)
    with processes[victim]:
        runs.wait_for(lost / "checkpoints" / "40", processes[0])
        processes[victim].send_signal(fault)
        runs.finish(processes[1 - victim], exit_codes.PEER_LOST, limit=100)
    for process in together(lost):
        runs.finish(process)
    assert_as_if_never(lost, whole)


# --- Files and directories -----------------------------------------------------------------------


def no_room(process: runs.Running, workdir: Path) -> Callable[[], None]:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (65536, 65536))
    return lambda: None


def read_only(process: runs.Running, workdir: Path) -> Callable[[], None]:
    (workdir / "checkpoints").chmod(0o555)
    return lambda: (workdir / "checkpoints").chmod(0o755)


@pytest.mark.parametrize(
    "fault", [no_room, pytest.param(read_only, marks=pytest.mark.long)], ids=lambda f: f.__name__
)
def test_a_save_that_fails_ends_the_run_and_the_step_before_stays(
    fault: Callable[[runs.Running, Path], Callable[[], None]],
    whole: Path,
    tmp_path: Path,
):
    workdir = tmp_path / "run"
    process = spawn(workdir, unprivileged=True)
    with stopped(process, "40", workdir):
        repair = fault(process, workdir)
    said = runs.finish(process, exit_codes.NOT_SAVED)
    assert said.splitlines()[-1].startswith("error: ") and "Traceback" not in said
    assert not (workdir / "checkpoints" / LAST).exists()
    assert all(np.isfinite(leaf).all() for leaf in runs.final_state(workdir))
    repair()
    runs.finish(spawn(workdir))
    assert_as_if_never(workdir, whole)


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path):
    tmp_path.chmod(0o555)
    try:
        said = runs.finish(spawn(tmp_path / "run", unprivileged=True), exit_codes.REFUSED)
    finally:
        tmp_path.chmod(0o755)
    assert f"cannot write in {tmp_path / 'run'}" in said and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    workdir = tmp_path / "run"
    process = spawn(workdir)
    with stopped(process, "40", workdir), pytest.raises(SystemExit) as end:
        train.main(runs.parse(f"--workdir={workdir}", *runs.TINY, *FLAGS))
    assert end.value.code == exit_codes.REFUSED
    assert "another process writes in" in capsys.readouterr().err
    runs.finish(process)
    assert_as_if_never(workdir, whole)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)


def truncate(checkpoint: Path) -> None:
    path = largest(checkpoint)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(checkpoint: Path) -> None:
    path = largest(checkpoint)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def remove_files(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "state")


def put_something_else(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()
    (checkpoint / "notes.txt").write_text("my notes")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        *(
            pytest.param(other, marks=pytest.mark.long)
            for other in (truncate, remove_files, put_something_else)
        ),
    ],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_ends_as_if_it_never_was(
    damage: Callable[[Path], None], whole: Path, tmp_path: Path
):
    workdir = Path(shutil.copytree(whole, tmp_path / "run"))
    (workdir / "summary.json").unlink()
    damage(workdir / "checkpoints" / LAST)
    said = runs.finish(spawn(workdir))
    assert f"the checkpoint of step {LAST} is damaged and was moved to" in said
    assert (workdir / "damaged" / LAST).is_dir()
    assert_as_if_never(workdir, whole)


# --- Numbers and data ----------------------------------------------------------------------------


def test_a_batch_that_is_not_finite_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    feed = loop.feed

    def with_weights(config, split, mesh):
        batch_at = feed(config, split, mesh)

        def at(step):
            weight = np.full(config.batch_size, np.nan if step == 2 else 1, np.float32)
            return {**batch_at(step), **sharding.put_batch({"sample_weight": weight}, mesh)}

        return at

    monkeypatch.setattr(loop, "feed", with_weights)
    args = ("--steps=6", "--log_every=1", "--device_data_mib=0")
    train.main(runs.parse(f"--workdir={tmp_path}", *runs.TINY, *FLAGS, *args))
    steps = [line for line in runs.lines(tmp_path) if "loss" in line]
    assert [line["skipped"] for line in steps] == [0, 0, 1, 0, 0, 0]
    assert all(jnp.isfinite(leaf).all() for leaf in runs.final_state(tmp_path))
    assert runs.summary(tmp_path)["test_nll"] > 0


def test_a_corrupt_image_is_named_and_left_out_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
):
    data = made_sets.noise_folder(tmp_path / "data", train=(40, 40), size=(8, 8))
    path = tmp_path / "data" / "train" / "a" / "007.png"
    path.write_bytes(path.read_bytes()[:60])
    args = (f"--dataset={data}", "--image_size=8", "--data_cache=none", "--steps=1")

    def command(workdir: Path, *more: str) -> None:
        train.main(runs.parse(f"--workdir={workdir}", *runs.TINY, *FLAGS, *args, *more))

    command(tmp_path / "skip")
    assert f"warning: left out, 1 so far: {path}" in capsys.readouterr().err
    assert runs.summary(tmp_path / "skip")["steps"] == 1
    with pytest.raises(SystemExit) as end:
        command(tmp_path / "refuse", "--damaged_images=refuse")
    assert end.value.code == exit_codes.REFUSED
    assert f"error: {path}" in capsys.readouterr().err


@pytest.mark.parametrize("returns", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_data_set_that_goes_away_ends_the_run_and_its_return_resumes_it(
    returns: bool, tmp_path: Path
):
    data = made_sets.noise_folder(tmp_path / "data", train=(40, 40), test=(8, 8), size=(8, 8))
    workdir = tmp_path / "run"
    args = (f"--dataset={data}", "--image_size=8", "--streaming=on")
    process = spawn(workdir, *args)
    with stopped(process, "40", workdir):
        (tmp_path / "data").rename(tmp_path / "gone")
    said = runs.finish(process, exit_codes.DATA_LOST)
    assert said.splitlines()[-1].startswith("error: ") and "The same command resumes" in said
    (tmp_path / "gone").rename(tmp_path / "data")
    assert all(np.isfinite(leaf).all() for leaf in runs.final_state(workdir))
    if returns:
        assert "resumed from" in runs.finish(spawn(workdir, *args))
        runs.finish(spawn(tmp_path / "whole", *args))
        assert_as_if_never(workdir, tmp_path / "whole")


# --- The table -----------------------------------------------------------------------------------


def table() -> list[list[str]]:
    """The cells of the rows of the matrix."""
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[1:]]


def functions(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_row_of_the_table_has_its_tests_and_each_fault_made_here_its_row():
    named: set[str] = set()
    for *_, tests in table():
        found = re.findall(r"`(?:(\w+\.py)::)?(test_\w+)`", tests)
        assert found and ", ".join(tests.split(", ")) == tests
        for file, test in found:
            assert test in functions(file or "faults_test.py"), test
        named |= {test for file, test in found if not file}
    own = {name for name in functions("faults_test.py") if name.startswith("test_")}
    assert {name for name in own - named if "of_the_table" not in name} == set()


def test_exit_codes_of_the_table_are_those_of_the_program():
    known = {value for name, value in vars(exit_codes).items() if name.isupper()}
    found = {int(code) for *_, codes, _ in table() for code in codes.split(", ")}
    assert found == known - {exit_codes.FAILED} | {128 + signal.SIGKILL}
