"""The whole program: nothing is lost, and a wrong command changes nothing."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import (
    TINY,
    assert_same_bits,
    final_state,
    finish,
    lines,
    parse,
    run,
    snapshot,
    spawn,
    wait_for,
)

from experiments import cost, program, sharding, train
from experiments.datasets import data as data_lib
from experiments.datasets import loading
from experiments.datasets.data import DataError
from experiments.lifecycle import exit_codes
from experiments.reporting import training_curves
from experiments.training import loop


def at_most_once(*functions):
    """Whether none was compiled twice; JAX drops what it has compiled when it holds too much."""
    return all(function._cache_size() <= 1 for function in functions)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[program.Program]:
    """The programs that the runs of a test make."""
    found, build = [], program.build
    monkeypatch.setattr(program, "build", lambda *args: found.append(build(*args)) or found[-1])
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An uninterrupted run on one device, started as a person starts it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    out = finish(spawn(workdir))
    assert "rows per step" in out and "test accuracy" in out
    # What the result says last: where to look, and what to do next.
    assert f"curves             {workdir}/curves.png" in out
    assert f"python -m experiments.evaluate --workdir={workdir}\n" in out
    return workdir


def test_a_run_leaves_its_flags_metrics_checkpoints_and_summary(finished: pathlib.Path):
    summary = json.loads((finished / "summary.json").read_text())
    for name in ("test_accuracy", "test_nll", "test_ece", "steps", "images_per_second", "seed"):
        assert name in summary
    assert 0 <= summary["test_accuracy"] <= 1 and 0 <= summary["test_ece"] <= 1
    assert (summary["steps"], summary["seed"]) == (6, 0)
    assert summary["wall_time"] > 0 and summary["images_per_second"] > 0
    assert summary["jax"] == jax.__version__
    start = summary["startup"]
    assert list(start) == ["imports", "data", "build", "compile", "first_step", "total"]
    assert min(start.values()) > 0
    steps = [line["step"] for line in lines(finished) if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    terms = {"gap", "accuracy", "mixed_loss", "clean_loss", "learning_rate"}
    assert terms <= set(lines(finished)[0])
    # The term is not part of the program, so its 0 is not written down.
    assert "consistency" not in lines(finished)[0]
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["4", "6"]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_golden_three_steps_of_the_whole_program(finished: pathlib.Path):
    # Data order, initialisation, augmentation, mixing, loss and optimiser all enter here. If it
    # changes with no intent, something that was a function of (seed, step) no longer is what it
    # was; if it changes by intent, say in the changelog that earlier runs cannot be repeated.
    losses = [line["loss"] for line in lines(finished)[:3]]
    np.testing.assert_allclose(losses, GOLDEN, rtol=2e-4)


GOLDEN = [4.963294, 5.348150, 5.240979]


def test_config_flags_repeats_the_run_bit_for_bit(finished: pathlib.Path, tmp_path: pathlib.Path):
    again = tmp_path / "again"
    command = [sys.executable, "-m", "experiments.train", f"--workdir={again}"]
    flagfile = f"--flagfile={finished / 'config.flags'}"
    subprocess.run([*command, flagfile], check=True, capture_output=True, timeout=300)
    for a, b in zip(final_state(finished), final_state(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_says_so_and_stays_as_it_is(
    finished: pathlib.Path, capsys: pytest.CaptureFixture
):
    before = snapshot(finished)
    summary = run(finished)
    assert "is finished: 6 steps" in capsys.readouterr().out
    assert summary == json.loads((finished / "summary.json").read_text())
    assert snapshot(finished) == before


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    finished: pathlib.Path, tmp_path: pathlib.Path
):
    workdir = tmp_path / "killed"
    with spawn(workdir) as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, 10)  # so that the kill is not late
        wait_for(workdir / "checkpoints" / "2", process)
    assert not (workdir / "summary.json").exists()
    assert "resumed from" in finish(spawn(workdir))
    assert_same_bits(workdir, finished)


@pytest.mark.long
def test_resumed_on_eight_devices_equals_one(finished: pathlib.Path, tmp_path: pathlib.Path):
    workdir = tmp_path / "moved"
    shutil.copytree(finished, workdir)
    for name in ("checkpoints/6", "summary.json"):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    # This process has eight devices, the run so far had one.
    run(workdir)
    for a, b in zip(final_state(finished), final_state(workdir), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_more_steps_go_on(
    finished: pathlib.Path, tmp_path: pathlib.Path, built: list[program.Program]
):
    workdir = tmp_path / "longer"
    shutil.copytree(finished, workdir)
    summary = run(workdir, "--steps=8")
    assert summary["steps"] == 8
    assert [line["step"] for line in lines(workdir) if "loss" in line] == list(range(1, 9))
    assert next(iter(summary["startup"])) == "data"  # no process was started for it
    # A restored state is of the same kind as one that a step has made.
    assert at_most_once(built[0].step, built[0].evaluate)


def test_the_best_on_validation_is_reported_apart_from_the_final_weights(
    tmp_path: pathlib.Path, built: list[program.Program]
):
    summary = run(tmp_path / "run", "--validation_fraction=0.2", "--eval_every=2")
    accuracies = {
        line["step"]: line["validation_accuracy"]
        for line in lines(tmp_path / "run")
        if "validation_accuracy" in line
    }
    assert set(accuracies) == {2, 4, 6}
    assert summary["best_validation_accuracy"] == pytest.approx(max(accuracies.values()))
    assert accuracies[summary["best_step"]] == max(accuracies.values())
    assert 0 <= summary["best_test_accuracy"] <= 1 and "test_accuracy" in summary
    # While training, the test split was not looked at.
    assert not any("test_accuracy" in line for line in lines(tmp_path / "run"))
    # Training, evaluation and checkpoints take turns and no program is compiled again, not for the
    # weights of a checkpoint either.
    assert at_most_once(built[0].step, built[0].evaluate)


def test_only_one_step_in_k_has_a_gap_and_both_programs_are_compiled_once(
    tmp_path: pathlib.Path, built: list[program.Program]
):
    args = ("--model=mlp", "--policy=mixup", "--crop_padding=0", "--sem_every=2", "--steps=5")
    run(tmp_path / "run", *args)
    steps = [line for line in lines(tmp_path / "run") if "loss" in line]
    for name in ("gap", "normalised_gap", "clean_accuracy"):
        assert [line["step"] for line in steps if name in line] == [1, 3, 5]
    assert all(line["gap"] > 0 for line in steps if "gap" in line)
    assert len({line["loss"] for line in steps}) == 5
    assert at_most_once(built[0].step, built[0].plain_step)


def test_groups_reach_the_step_and_rows_are_sampled_as_asked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    seen, original = [], data_lib.rows_at

    def rows_at(split, step, **options):
        seen.append(options)
        return original(split, step, **options)

    monkeypatch.setattr(data_lib, "rows_at", rows_at)
    args = ("--dataset=coloured_digits", "--image_size=8", "--model=mlp", "--crop_padding=0")
    method = ("--policy=lisa", "--sem_weight=0", "--sampling=balanced", "--steps=1")
    summary = run(tmp_path / "run", *args, *method)
    # LISA would have raised in a step without groups.
    assert np.isfinite(summary["test_nll"])
    assert seen == [{"batch_size": 16, "seed": 0, "sampling": "balanced"}]


def test_steps_that_are_not_finite_stop_the_run_and_the_last_good_state_loads(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    args = ("--learning_rate=1e30", "--skip_limit=2", "--steps=12")
    config = parse(f"--workdir={tmp_path / 'run'}", *TINY, *args)
    with pytest.raises(SystemExit) as stop:
        train.main(config)
    assert stop.value.code == exit_codes.NOT_FINITE
    assert "not finite for 2 steps in a row" in capsys.readouterr().err
    assert all(np.isfinite(leaf).all() for leaf in final_state(tmp_path / "run"))


def test_a_damaged_checkpoint_is_set_aside_and_the_run_goes_on_from_the_one_before(
    finished: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    for path in (workdir / "checkpoints" / "6").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-100])
    run(workdir)
    moved = workdir / "damaged" / "6"
    said = capsys.readouterr().err
    assert f"the checkpoint of step 6 is damaged and was moved to {moved}" in said
    assert moved.is_dir()
    for a, b in zip(final_state(finished), final_state(workdir), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert [line["step"] for line in lines(workdir)] == [line["step"] for line in lines(finished)]


def test_what_fails_in_mid_run_has_its_exit_code_and_leaves_the_last_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    feed = loop.feed

    def failing(*args):
        batch_at = feed(*args)

        def at(step):
            if step == 4:
                raise DataError("7.png: it is gone")
            return batch_at(step)

        return at

    monkeypatch.setattr(loop, "feed", failing)
    args = ("--model=mlp", "--policy=mixup", "--crop_padding=0")
    with pytest.raises(SystemExit) as stop:
        train.main(parse(f"--workdir={tmp_path}", *TINY, *args))
    assert stop.value.code == exit_codes.DATA_LOST
    assert "error: 7.png: it is gone. The same command resumes" in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / "4").exists()
    assert not (tmp_path / "summary.json").exists()


QUICK = ("--model=mlp", "--policy=mixup", "--crop_padding=0", "--sem_weight=0")


def test_a_picture_that_cannot_be_drawn_fails_no_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def failing(workdir):
        raise RuntimeError("no font\nat all")

    monkeypatch.setattr(training_curves, "write", failing)
    summary = run(tmp_path, *QUICK, "--steps=2")
    said = capsys.readouterr()
    assert "careful: no curves.png: no font at all\n" in said.err
    assert "curves.png" not in said.out and "experiments.evaluate --workdir" in said.out
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_dry_run_says_what_a_run_would_be_and_cost_and_leaves_its_directory_as_it_is(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    args = (f"--workdir={tmp_path}", *TINY, *QUICK, "--eval_every=2", "--checkpoint_every=2")
    train.main(parse(*args, "--steps=2"))
    before = snapshot(tmp_path), tmp_path.stat().st_mtime_ns
    capsys.readouterr()
    train.main(parse(*args, "--steps=4"), dry=True)
    said = capsys.readouterr().out
    for told in ("rows per step", "resumed from   step 2", "would cost", "  temporaries", "GFLOP"):
        assert told in said
    # What is dear to find out stands in the tests of experiments.cost.
    monkeypatch.setattr(cost, "of_run", lambda *_: {"state": "small"})
    train.main(parse(*args, "--steps=2"), dry=True)
    assert "is finished: 2 steps, none would be taken" in capsys.readouterr().out
    assert (snapshot(tmp_path), tmp_path.stat().st_mtime_ns) == before
    train.main(parse(*args, "--steps=4"))
    assert [line["step"] for line in lines(tmp_path) if "loss" in line] == [1, 2, 3, 4]
    assert "dry_run" not in (tmp_path / "config.flags").read_text()


def test_a_dry_run_is_refused_for_what_a_run_is_refused_for(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
):
    for args, message in (
        (("--batch_size=12",), "--batch_size=12: must be a multiple of the 8 devices"),
        (("--dataset=digitss", f"--data_dir={tmp_path}"), "; did you mean digits?"),
    ):
        with pytest.raises(SystemExit) as stop:
            train.main(parse(f"--workdir={tmp_path / 'run'}", *TINY, *args), dry=True)
        assert stop.value.code == exit_codes.REFUSED
        said = capsys.readouterr()
        assert message in said.err and "would cost" not in said.out
    assert not (tmp_path / "run").exists()


def test_the_program_itself_makes_a_dry_run_when_told_to(tmp_path: pathlib.Path):
    said = finish(spawn(tmp_path / "run", *QUICK, "--dry_run"))
    assert "would cost" in said and "test accuracy" not in said
    assert not (tmp_path / "run").exists()


def test_another_seed_is_another_run(finished: pathlib.Path, tmp_path: pathlib.Path):
    run(tmp_path / "run", "--seed=1")
    assert lines(tmp_path / "run")[0]["loss"] != lines(finished)[0]["loss"]


@pytest.mark.parametrize(
    "args",
    [
        ("--alpha=0.2",),
        ("--weight_scope=sample",),
        ("--mix_probability=0.5",),
        ("--pairing=reverse",),
        ("--policy=mixup",),
        ("--nocorrection",),
        ("--sem_weight=5",),
        ("--sem_ramp_steps=3",),
        ("--distance=cosine",),
        ("--representation=spatial",),
        ("--stop_gradient=clean",),
        ("--clean_weight=0",),
        ("--clean_weight=0.5",),
        ("--reduction=mean",),
        ("--label_loss=bce",),
        ("--label_smoothing=0.1",),
        ("--passes=joint",),
        ("--state_from=mixed",),
        ("--pairing_groups=4",),
        ("--pairing_groups=4", "--accumulate=2"),
        ("--pairing_groups=4", "--sem_fraction=0.5"),
        ("--crop_padding=2",),
        ("--flip",),
        ("--cutout_size=3",),
        ("--compute_dtype=bfloat16",),
        ("--model=mlp",),
        ("--optimizer=adamw",),
        ("--learning_rate=0.2",),
        ("--warmup_steps=3",),
        ("--decay=constant",),
        ("--momentum=0.5",),
        ("--nesterov",),
        ("--weight_decay=0.1",),
        ("--clip_norm=0.01",),
        ("--ema_decay=0.5",),
    ],
    ids=" ".join,
)
def test_every_option_changes_the_program(args: tuple[str, ...], base: str):
    text = _lowered(*args)
    assert text != base
    if len(args) == 2:  # the second is there to be seen beside the first
        assert text != _lowered(args[0])


@pytest.fixture(scope="module")
def base() -> str:
    return _lowered()


def _lowered(*args: str) -> str:
    """The step before it is compiled: what it computes, option by option."""
    config = parse(*TINY, *args)
    built = program.build(config, loading.load("digits"), 6, sharding.make_mesh())
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), np.uint8),
        "label": jax.ShapeDtypeStruct((16,), np.int32),
    }
    return built.step.lower(built.state_shape, batch, built.rng).as_text()


def test_the_program_itself_keeps_what_it_compiles_where_it_is_told(tmp_path: pathlib.Path):
    args = ("--dataset=folder:nowhere", f"--compile_cache={tmp_path / 'compiled'}")
    for given in (str(tmp_path / "given"), ""):
        process = spawn(tmp_path / "run", *args, JAX_COMPILATION_CACHE_DIR=given)
        assert "nowhere" in finish(process, code=2)
        assert (tmp_path / "compiled").exists() == (not given)


def test_importing_the_program_loads_nothing_that_no_first_step_needs():
    heavy = ("orbax", "tensorstore", "sklearn", "scipy", "matplotlib", "PIL", "pandas")
    more = ("tensorflow_datasets", "tensorboardX", "requests")
    code = f"import sys, experiments.train; print([m for m in {heavy + more} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_program_itself_exits_with_2_and_one_line(tmp_path: pathlib.Path):
    for args, hint in (
        (("--lr=1",), "did you mean --learning_rate?\n"),
        (("--model=mpl",), "did you mean mlp?\n"),
        (("left over",), ""),
        (("--alpha=-1",), ""),
    ):
        message = finish(spawn(tmp_path / "run", *args), code=2)
        assert message.startswith("error: ") and "Traceback" not in message
        assert message.endswith(hint) and len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()
