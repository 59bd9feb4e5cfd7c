"""Cells side by side: each is made once, what fails says why, and nothing stays behind a stop."""

import functools
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from study_example import SHORT, Asked, execute, make_study, put_stand_ins, starts
from waiting import until

from experiments.lifecycle.signals import Stop
from experiments.studying import execution, results
from experiments.studying.execution import Pace, Place, places
from experiments.studying.plan import Study, StudyError

LIMIT = 30.0  # seconds that anything is waited for


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two runs."""
    return make_study(tmp_path / "study", SHORT)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return functools.partial(put_stand_ins, monkeypatch)


# --- What is run ---------------------------------------------------------------------------------


def test_every_cell_is_trained_evaluated_and_kept(tmp_path: Path, stand_in: Callable[..., None]):
    stand_in()
    study = make_study(tmp_path / "study")
    made = execute(study, tmp_path / "runs", jobs=2, train_flags=["--data_dir=D"])
    assert not made.failed
    kept = results.read_all(study)
    assert list(kept) == [cell.name for cell in study.cells()]
    assert {found["metrics"]["accuracy"] for found in kept.values()} == {0.75}
    for cell in study.cells():
        workdir = tmp_path / "runs" / cell.name
        own = f"--workdir={workdir}"
        ((_, trained),) = starts(workdir)
        assert trained == [*cell.arguments, "--data_dir=D", "--distributed=off", own]
        ((_, evaluated),) = starts(workdir, "experiments.evaluate")
        assert evaluated == ["--parts=clean", own]


def test_a_result_that_came_meanwhile_is_not_made_again(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in()
    execute(study, tmp_path / "elsewhere")
    execute(study, tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*/*"))


def test_a_trial_keeps_nothing_but_the_speeds(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in()
    earlier = tmp_path / "trial" / study.cells()[0].name
    (earlier / "checkpoints").mkdir(parents=True)
    made = execute(study, tmp_path / "trial", keeps=False)
    assert made.speeds == {"erm": 100.0}
    assert list((tmp_path / "trial").iterdir()) == []
    assert not (study.folder / "results").exists()


def test_of_a_trial_that_fails_the_log_stays(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in(train="end('error: no', 2)")
    made = execute(study, tmp_path / "trial", keeps=False)
    assert sorted(path.name for path in (tmp_path / "trial").iterdir()) == [
        f"{name}.log" for name in sorted(made.failed)
    ]


# --- What fails ----------------------------------------------------------------------------------


def test_what_fails_is_tried_again_and_what_is_refused_or_not_finite_is_not(
    tmp_path: Path, stand_in: Callable[..., None]
):
    codes = {"erm@10-0": 1, "erm@10-1": 7, "erm@10-2": 2, "erm@10-3": 3}
    study = make_study(tmp_path / "study", SHORT.replace("[0, 1]", "[0, 1, 2, 3]"))
    stand_in(train=f"time_of == 1 and end('error: once', {codes}[workdir.name])")
    lines: list[str] = []
    made = execute(study, tmp_path / "runs", retries=2, said=lines)
    assert sorted(made.failed) == ["erm@10-2", "erm@10-3"]
    tries = {name: len(starts(tmp_path / "runs" / name)) for name in codes}
    assert tries == {"erm@10-0": 2, "erm@10-1": 2, "erm@10-2": 1, "erm@10-3": 1}
    said = "\n".join(lines)
    assert "erm@10-0: experiments.train ended with exit code 1: error: once" in said
    assert len(re.findall("tried again", said)) == 2
    assert "2 of 4 done; 2 failed" in said


def test_after_the_last_try_the_others_go_on(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in(train="workdir.name.endswith('0') and end('error: never', 1)")
    made = execute(study, tmp_path / "runs", retries=1)
    assert list(made.failed) == ["erm@10-0"]
    assert len(starts(tmp_path / "runs" / "erm@10-0")) == 2
    assert list(results.read_all(study)) == ["erm@10-1"]


@pytest.mark.parametrize(
    ("program", "text", "why"),
    [
        # What is wrong is not always said last.
        (
            "train",
            "print('error: of the flags'); end('a table\\n\\n', 2)",
            r"experiments.train ended with exit code 2: error: of the flags \(more in .*10-0.log\)",
        ),
        ("train", "end('x\\rTypeError: odd\\n', 1)", "exit code 1: TypeError: odd"),
        ("train", "os._exit(5)", "exit code 5: it said nothing"),
        (
            "train",
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was ended by SIGKILL, perhaps for lack of memory",
        ),
        ("train", "os.kill(os.getpid(), 35)", "was ended by signal 35"),
        (
            "evaluate",
            "print('clean failed: no rows'); end('report.html', 1)",
            "experiments.evaluate ended with exit code 1: clean failed: no rows",
        ),
        ("evaluate", "os._exit(0)", "No such file or directory: .*report.json"),
        ("evaluate", "note('report.json', '[]'); os._exit(0)", "TypeError"),
        ("evaluate", "note('report.json', '{'); os._exit(0)", "JSONDecodeError"),
    ],
)
def test_a_failure_says_why(
    study: Study, tmp_path: Path, stand_in: Callable[..., None], program: str, text: str, why: str
):
    stand_in(**{program: text})
    made = execute(study, tmp_path / "runs", cells=study.cells()[:1])
    assert re.search(why, made.failed["erm@10-0"]), made.failed
    assert not results.read_all(study)


def test_of_a_log_the_lines_of_earlier_tries_do_not_speak_for_the_last(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in(train="end('error: first' if time_of == 1 else 'Killed', 1)")
    made = execute(study, tmp_path / "runs", retries=1, cells=study.cells()[:1])
    assert "exit code 1: Killed" in made.failed["erm@10-0"]
    assert (tmp_path / "runs" / "erm@10-0.log").read_text() == "error: first\nKilled\n"


def test_each_run_has_a_log_of_its_own_whatever_points_its_name_has(
    tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in()
    study = make_study(tmp_path / "study")
    execute(study, tmp_path / "runs")
    logs = {path.name for path in (tmp_path / "runs").glob("*.log")}
    assert logs == {f"{cell.name}.log" for cell in study.cells()}
    assert "sem_sem_weight_0.5@10-0.log" in logs


def test_two_studies_never_make_the_same_run_at_once(
    study: Study,
    tmp_path: Path,
    stand_in: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(execution, "_PATIENCE", 0.0)
    stand_in(train="time.sleep(60)")
    stop = Asked()
    first = threading.Thread(target=execute, args=(study, tmp_path), kwargs={"stop": stop})
    first.start()
    until(lambda: starts(tmp_path / "erm@10-0"))
    made = execute(study, tmp_path, cells=study.cells()[:1])
    assert "another study makes this run now" in made.failed["erm@10-0"]
    stop.ask()
    first.join(LIMIT)
    assert len(starts(tmp_path / "erm@10-0")) == 1


# --- Stops ---------------------------------------------------------------------------------------


def test_a_stop_is_told_once_waited_for_and_nothing_more_begins(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    # A second signal would end at once what is still saving.
    stand_in(
        train="""
heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
note("ready")
while not heard:
    time.sleep(0.01)
time.sleep(0.2)
note("saved", str(len(heard)))
os._exit(75)
"""
    )
    stop = Asked()
    ended: list[execution.Execution] = []
    run = threading.Thread(
        target=lambda: ended.append(execute(study, tmp_path, retries=3, stop=stop))
    )
    run.start()
    until((tmp_path / "erm@10-0" / "ready").exists)
    stop.ask()
    run.join(LIMIT)
    assert (tmp_path / "erm@10-0" / "saved").read_text() == "1"
    assert len(starts(tmp_path / "erm@10-0")) == 1
    assert not (tmp_path / "erm@10-1").exists()
    assert not ended[0].failed and not results.read_all(study)


def test_what_was_stopped_between_its_programs_goes_on_with_the_next(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    class AfterTraining(Stop):
        def asked(self) -> bool:
            return (tmp_path / "erm@10-0" / "summary.json").exists()

    stand_in()
    execute(study, tmp_path, stop=AfterTraining())
    assert not starts(tmp_path / "erm@10-0", "experiments.evaluate")
    execute(study, tmp_path)
    assert len(starts(tmp_path / "erm@10-0")) == 2
    assert len(results.read_all(study)) == 2


def test_what_a_program_leaves_running_is_ended_with_it(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in(
        train="""
import subprocess
worker = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
note("worker", str(worker.pid))
"""
    )
    execute(study, tmp_path, cells=study.cells()[:1])
    worker = int((tmp_path / "erm@10-0" / "worker").read_text())
    until(lambda: _gone(worker))


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


# --- Where ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="cores are given on Linux only")
def test_places_divide_all_cores_and_no_more_than_there_are_runs(monkeypatch: pytest.MonkeyPatch):
    cores = (0, 1, 3, 4, 5, 6, 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))
    for jobs in range(8):
        for runs in (0, 1, 3, 20):
            found = places(jobs, [], runs=runs)
            assert len(found) == max(1, min(jobs or len(cores), runs))
            shares = [place.cores or cores for place in found]
            assert sum(shares, ()) == cores
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(StudyError, match="--jobs=8: must be at most 7"):
        places(8, [], runs=20)


def test_devices_are_each_for_one_run_at_a_time():
    assert [place.device for place in places(0, ["2", "0"], runs=5)] == ["2", "0"]
    assert [place.device for place in places(0, ["2", "0"], runs=1)] == ["2"]
    with pytest.raises(StudyError, match="--devices=0,0: must name different devices"):
        places(0, ["0", "0"], runs=5)
    with pytest.raises(StudyError, match="--devices=0,: must name different devices"):
        places(0, ["0", ""], runs=5)
    with pytest.raises(StudyError, match="--jobs=2: --devices=0,1 says already"):
        places(2, ["0", "1"], runs=5)


def test_a_place_sees_its_device_alone_or_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("OWN", "kept")
    one, cpu = Place(device="3").environment, Place().environment
    assert one["CUDA_VISIBLE_DEVICES"] == one["TPU_VISIBLE_CHIPS"] == "3"
    assert "JAX_PLATFORMS" not in one
    assert cpu["JAX_PLATFORMS"] == "cpu" and cpu["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert one["OWN"] == cpu["OWN"] == "kept"
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert Place().environment["JAX_PLATFORMS"] == "cuda"


@pytest.mark.skipif(sys.platform != "linux", reason="cores are given on Linux only")
def test_the_programs_of_a_place_have_its_cores_alone(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in(train="note('cores', json.dumps(sorted(os.sched_getaffinity(0))))")
    core = max(os.sched_getaffinity(0))
    made = execution.Execution(
        study, study.cells()[:1], workdir=tmp_path, retries=0, stop=Stop(), say=lambda _: None
    )
    made.run([Place(cores=(core,))])
    assert json.loads((tmp_path / "erm@10-0" / "cores").read_text()) == [core]


# --- How long ------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_places_side_by_side():
    now = [0.0]
    pace = Pace({name: 100.0 for name in "abcdef"}, clock=lambda: now[0])
    pace.begins("a")
    pace.begins("b")
    now[0] = 50.0
    pace.ends("a", seconds=50.0)
    pace.begins("c")
    # Of b nothing is left, of c all, and three more wait: four times 50 seconds on two places.
    assert pace.left(places=2) == 100.0
    now[0] = 60.0
    assert pace.left(places=2) == 95.0
    # However many places there are, the longest run must end.
    assert pace.left(places=100) == 50.0


def test_what_fails_says_nothing_of_how_long_others_take():
    now = [0.0]
    pace = Pace({name: 100.0 for name in "abcd"}, clock=lambda: now[0])
    pace.begins("a")
    now[0] = 1.0
    pace.ends("a", seconds=None)
    assert pace.left(places=1) is None
    pace.begins("b")
    now[0] = 11.0
    pace.ends("b", seconds=10.0)
    assert pace.left(places=1) == 20.0
    for name in "cd":
        pace.begins(name)
        pace.ends(name, seconds=10.0)
    assert pace.left(places=1) == 0.0


def test_a_run_that_was_there_already_counts_with_the_time_that_it_took(
    study: Study, tmp_path: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    stand_in(train=f"note('summary.json', {json.dumps(json.dumps(_HOUR))})\nos._exit(0)")
    said: list[str] = []
    execute(study, tmp_path, said=said)
    assert said[1] == "1 of 2 done; erm@10-0 in 60 min; ETA 60 min"


_HOUR = {"images_per_second": 10.0, "wall_time": 3600.0}


def test_runs_that_forward_more_rows_count_more(tmp_path: Path):
    study = make_study(tmp_path / "study")
    rows = {cell.method: cell.rows for cell in study.cells()}
    pace = Pace(rows)
    for method in rows:
        pace.begins(method)
    pace.ends("erm", seconds=10.0)
    left = pace.left(places=1)
    assert left == pytest.approx(10.0 * 3 * rows["sem, l1"] / rows["erm"], rel=0.05)
    assert rows["sem, l1"] == 2 * rows["erm"]


def test_a_cell_without_its_speed_is_no_failure(
    study: Study, tmp_path: Path, stand_in: Callable[..., None]
):
    stand_in(train="note('summary.json', '{\"wall_time\": null}'); os._exit(0)")
    made = execute(study, tmp_path)
    assert made.speeds == {} and not made.failed
    assert len(results.read_all(study)) == 2
