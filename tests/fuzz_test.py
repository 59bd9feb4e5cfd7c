"""Whatever is in the files, a program succeeds or ends with a documented code and one line.

Flag files, data sets and run directories are damaged at random and given to the programs, in this
process and up to where training would begin. CI runs a few cases of each kind; `-m long` runs more
than ten thousand.
"""

import contextlib
import dataclasses
import functools
import io
import json
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import damaging
import made_sets
import pytest
import report_example
import runs
from absl import flags
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from experiments import config as config_lib
from experiments import evaluate, policies, report, train
from experiments import program as program_lib
from experiments.command_line import flagfiles
from experiments.config import Config
from experiments.datasets import loading
from experiments.evaluation import runner
from experiments.lifecycle import exit_codes
from experiments.reporting import report_page
from experiments.training import feed

CODES = {value for name, value in vars(exit_codes).items() if name.isupper()}
STUCK_AFTER = 15.0  # seconds, of a case that takes milliseconds


def cases(few: int, many: int) -> pytest.MarkDecorator:
    """Runs a test with a few cases, and by `-m long` with many."""
    marked = pytest.param(many, marks=pytest.mark.long, id=f"{many} cases")
    return pytest.mark.parametrize("count", [pytest.param(few, id=f"{few} cases"), marked])


def fuzz(count: int, strategy: st.SearchStrategy, case: Callable[[Any], None]) -> None:
    """Runs a case so many times; CI's few are the same every time."""
    ran = 0

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=count < 1000,
        suppress_health_check=list(HealthCheck),
        # What fails is small as it is.
        phases=[Phase.generate],
    )
    @given(strategy)
    def check(drawn: Any) -> None:
        nonlocal ran
        ran += 1
        with _limited():
            case(drawn)

    check()
    print(f"{ran} cases")
    assert ran >= count


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stuck(*_: object) -> None:
        raise AssertionError(f"a case takes longer than {STUCK_AFTER} s")

    earlier = signal.signal(signal.SIGALRM, stuck)
    signal.setitimer(signal.ITIMER_REAL, STUCK_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


class Reached(BaseException):
    """Raised where training, or measuring, would begin."""


def outcome(program: Callable[[], Any]) -> int:
    """Runs a program to its end; returns the exit code, -1 if it got to where work would begin."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            program()
        except Reached:
            return -1
        except SystemExit as stop:
            code = stop.code
        else:
            return exit_codes.FINISHED
    assert code in CODES - {exit_codes.FINISHED}
    lines = err.getvalue().split("\n")
    assert lines.pop() == "" and lines
    assert lines[-1].startswith("error: ") and lines[-1].isprintable()
    assert len(lines[-1]) < 4100
    for line in lines[:-1]:
        assert line.startswith(("warning: ", "careful: ")) and line.isprintable()
    return code


# -------------------------------------------------------------------------------------- flag files


NAMES = [field.name for field in dataclasses.fields(Config)]
VALUES = st.one_of(
    damaging.TEXTS,
    st.sampled_from(damaging.NUMBERS).map(str),
    st.integers(-100, 100).map(str),
    st.floats().map(str),
    st.sampled_from(
        [*policies.POLICIES, *policies.GROUP_POLICIES, "mixup+cutmix", "0x" + "f" * 5000]
    ),
    st.builds("wrn_{}_{}".format, st.integers(-2, 10**9), st.integers(-2, 10**9)),
)
# Of one policy, so that they are looked at.
OPTIONS = st.builds(
    "--policy={0}\n--policy_options={0}.{1}={2}".format,
    st.sampled_from(sorted(policies.POLICIES)),
    st.sampled_from(["layers", "noise", "pairing", "alpha", "decay_power", "layer", "x"]),
    st.one_of(
        st.sampled_from(["5", "()", "(0,)", "(99,)", "'a'", "None", "(0.1, 0.2)", "{}"]),
        st.sampled_from(["(" * 3000, "[" * 200, "-" * 3000 + "1", "1" * 4000, "a", "1j"]),
        damaging.TEXTS,
    ),
)
LINES = st.one_of(
    st.builds("--{}={}".format, st.sampled_from(NAMES), VALUES),
    OPTIONS,
    st.sampled_from(NAMES).map("--{}".format),
    st.sampled_from(NAMES).map("--no{}".format),
    st.sampled_from(["--flagfile=some.flags", "--flagfile=digits.flags", "--flagfile=/dev/zero"]),
    st.sampled_from(["--help", "--undefok=x", "--run_with_pdb", "--", "-", "---", "--verbosity=3"]),
    st.builds("--flagfile={}".format, damaging.TEXTS),
    st.builds("--{}".format, st.text(max_size=2000)),
    st.text(max_size=40),
)
SAVED = tuple(path.read_bytes() for path in sorted(flagfiles.FLAG_DIR.glob("*.flags")))
FLAG_FILES = st.one_of(
    st.binary(max_size=200),
    st.lists(LINES, min_size=1, max_size=6).map(
        lambda lines: "\n".join(lines).encode("utf-8", "replace")
    ),
    st.builds(
        lambda content, edits: functools.reduce(lambda c, edit: edit(c), edits, content),
        st.sampled_from((*SAVED, Config().to_flags().encode())),
        st.lists(damaging.EDITS, min_size=1, max_size=4),
    ),
)


def fresh_flags() -> flags.FlagValues:
    """The flags of the program as it starts: its own, and those of absl."""
    values = flags.FlagValues()
    config_lib.define_flags(values)
    for name in ("run_with_pdb", "verbosity", "help"):
        flags.DEFINE_string(name, None, "as absl has", flag_values=values)
    return values


@cases(70, 6000)
def test_a_flag_file_is_read_or_refused_and_what_is_read_can_be_written(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse, path = config_lib.parse, tmp_path / "some.flags"
    monkeypatch.setattr(config_lib, "parse", lambda argv: parse(argv, fresh_flags()))

    def case(content: bytes) -> None:
        path.write_bytes(content)
        read: list[Config] = []
        code = outcome(lambda: read.append(train._parse(["train", f"--flagfile={path}"])))
        assert code in (exit_codes.FINISHED, exit_codes.REFUSED)
        if read:
            path.write_text(read[0].to_flags(), encoding="utf-8")
            again = parse(["train", f"--flagfile={path}"], fresh_flags())
            own = {name: getattr(read[0], name) for name in config_lib._OF_THE_PROCESS}
            assert dataclasses.replace(again, **own) == read[0]

    fuzz(count, FLAG_FILES, case)


# --------------------------------------------------------------------------------------- data sets


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a run where its data is read and its program would be built."""

    def build(config: Config, data: Any, total: int, mesh: Any) -> None:
        batch_at = feed.feed(config, data.train, mesh)
        for step in range(2):
            batch_at(step)
        getattr(batch_at, "close", lambda: None)()
        assert list(feed.evaluation_batches(data.test, 8, mesh))
        raise Reached

    monkeypatch.setattr(program_lib, "build", build)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder of pictures, and a TFDS root with a set called toy."""
    root = tmp_path_factory.mktemp("sets")
    pictures = iter(made_sets.noise(12))
    files = {
        f"{split}/{label}/{row}.{kind}": made_sets.encoded(next(pictures), kind)
        for split in ("train", "test")
        for label in ("a", "b")
        for row, kind in enumerate(("png", "jpeg", "png"))
    }
    made_sets.write(root / "folder", files)
    rows = {"train": made_sets.rows(12), "test": made_sets.rows(6)}
    with pytest.MonkeyPatch.context() as patch:
        # Each TFDS builder leaves an empty directory there.
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))
        made_sets.prepare(root / "tfds", made_sets.features(), rows)
        yield {"folder": root / "folder", "tfds": root / "tfds"}


DATA_FLAGS = st.lists(
    st.sampled_from(
        ["--image_size=8", "--damaged_images=refuse", "--validation_fraction=0.2", "--streaming=on"]
    ),
    max_size=3,
)


@pytest.mark.parametrize("kind", ["folder", "tfds"])
@cases(15, 1250)
def test_a_damaged_data_set_is_read_or_refused(
    kind: str, count: int, sets: dict[str, Path], reached: None
) -> None:
    def case(drawn: tuple[list[damaging.Damage], list[str]]) -> None:
        with damaged(sets[kind], drawn[0]) as root:
            named = ["--dataset=toy", f"--data_dir={root}"]
            config = runs.parse(
                f"--workdir={root.parent / 'run'}",
                "--batch_size=8",
                "--data_cache=none",
                *(named if kind == "tfds" else [f"--dataset=folder:{root}"]),
                *drawn[1],
            )
            assert outcome(lambda: train.main(config)) in (-1, exit_codes.REFUSED)
            assert not (root.parent / "run").exists()

    fuzz(count, st.tuples(damaging.DAMAGES, DATA_FLAGS), case)


@contextlib.contextmanager
def damaged(original: Path, damages: list[damaging.Damage]) -> Iterator[Path]:
    """A damaged copy of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / original.name
        shutil.copytree(original, root, copy_function=shutil.copy)
        for damage in damages:
            # Damage to what is damaged already may not be possible.
            with contextlib.suppress(OSError):
                damage(root)
        yield root


# ---------------------------------------------------------------------------------- run directories


RUN = ("--model=mlp", "--policy=mixup", "--sem_weight=0", "--batch_size=64", "--eval_batch_size=64")
MORE = ("--checkpoint_every=2", "--eval_every=2", "--log_every=1", "--validation_fraction=0.2")


def parsed(workdir: Path, *args: str) -> Config:
    return runs.parse(f"--workdir={workdir}", *RUN, *MORE, *args)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has all that a run directory can hold."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        train.run(parsed(workdir, "--steps=4", "--record_errors"))
    (workdir / "report.json").write_text(json.dumps(report_example.example()))
    return workdir


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads data and traces programs once, and ends where training or measuring would begin."""

    def stop(*_: object, **__: object) -> None:
        raise Reached

    load, template = loading.load, program_lib.state_template
    built: dict[Any, Any] = {}

    def build(config: Config, data: Any, total: int, mesh: Any) -> Any:
        key = (dataclasses.replace(config, workdir=""), total)
        if key not in built:
            built[key] = real_build(config, data, total, mesh)
        return built[key]

    real_build = program_lib.build
    monkeypatch.setattr(loading, "load", functools.cache(load))
    monkeypatch.setattr(program_lib, "state_template", functools.cache(template))
    monkeypatch.setattr(program_lib, "build", build)
    monkeypatch.setattr(train, "Trainer", stop)
    monkeypatch.setattr(runner, "evaluate", stop)
    # Figures take seconds; another test draws them.
    monkeypatch.setattr(report_page, "render", lambda *_, **__: "")
    monkeypatch.setattr(report_page, "render_comparison", lambda *_, **__: "")


PROGRAMS: dict[str, Callable[[Path], Any]] = {
    "finished": lambda run: train.main(parsed(run, "--steps=4")),
    "resume": lambda run: train.main(parsed(run, "--steps=6")),
    "evaluate": lambda run: evaluate.main(evaluate.Command(workdir=str(run))),
    "best": lambda run: evaluate.main(evaluate.Command(workdir=str(run), weights="best")),
    "umix": lambda run: train.main(
        parsed(run.with_name("next"), f"--umix_from={run}", "--steps=1")
    ),
    "report": lambda run: report._run(report.Request((str(run),))),
    "compare": lambda run: report._run(
        report.Request((str(run), str(run / "other.json")), output=str(run / "out"))
    ),
}


@cases(25, 3000)
def test_a_damaged_run_directory_is_gone_on_with_or_refused(
    count: int, finished: Path, quick: None
) -> None:
    def case(drawn: tuple[list[damaging.Damage], str]) -> None:
        damages, name = drawn
        with damaged(finished, damages) as run:
            if name == "compare":
                other = report_example.example("mixup", seed=1)
                (run / "other.json").write_text(json.dumps(other))
            outcome(lambda: PROGRAMS[name](run))

    fuzz(count, st.tuples(damaging.DAMAGES, st.sampled_from(sorted(PROGRAMS))), case)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_what_is_not_damaged_is_accepted(name: str, finished: Path, quick: None) -> None:
    with damaged(finished, []) as run:
        (run / "other.json").write_text(json.dumps(report_example.example("mixup", seed=1)))
        done = name in ("finished", "report", "compare")
        assert outcome(lambda: PROGRAMS[name](run)) == (exit_codes.FINISHED if done else -1)


@cases(2, 200)
def test_a_page_is_drawn_of_whatever_a_report_holds(count: int, tmp_path: Path) -> None:
    whole = report_example.example(missing=("corruptions", "ood", "equivariance"))

    def case(drawn: tuple[float, Any]) -> None:
        paths = damaging.nodes(whole)
        value = damaging.replaced(whole, paths[int(drawn[0] * len(paths)) - 1], drawn[1])
        (tmp_path / "report.json").write_text(json.dumps(value))
        code = outcome(lambda: report._run(report.Request((str(tmp_path),))))
        assert code in (exit_codes.FINISHED, exit_codes.REFUSED)

    fuzz(count, st.tuples(st.floats(0, 1), damaging.JSON), case)
