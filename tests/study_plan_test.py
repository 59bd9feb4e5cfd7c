"""A study as a value: the runs that it makes, and the faults that it is refused for."""

import datetime
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from study_example import SHORT, TOML, make_study

from experiments.studying import plan, results
from experiments.studying.plan import Study, StudyError

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted(path.parent for path in (ROOT / "experiments" / "studies").glob("*/study.toml"))
each_study = pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make_study(tmp_path / "gap")


def refused(folder: Path, text: str) -> str:
    """What a study.toml is refused with; one line."""
    with pytest.raises(StudyError) as error:
        make_study(folder, text)
    said = str(error.value)
    assert said.startswith(f"{folder / 'study.toml'}") and "\n" not in said
    return said


# --- What a study is -----------------------------------------------------------------------------


def test_a_study_is_read_from_its_folder_or_its_file(study: Study):
    assert plan.read(study.folder / "study.toml") == plan.read(str(study.folder)) == study
    assert (study.name, study.split, study.seeds) == ("gap", "validation", (0, 1))
    assert study.command() == f"python -m experiments.study {study.folder.as_posix()}"


def test_a_list_stands_for_a_method_each_and_like_for_the_flags_of_another(study: Study):
    assert study.methods == {
        "erm": {"policy": "none", "sem_weight": 0.0},
        "sem, sem_weight=0.5": {"sem_weight": 0.5},
        "sem, sem_weight=1.0": {"sem_weight": 1.0},
        "sem, l1": {"sem_weight": 0.5, "distance": "l1"},
    }


def test_two_lists_stand_for_every_pair(tmp_path: Path):
    text = SHORT + '[methods.x]\nalpha = [0.5, 2.0]\ndistance = ["mse", "l1"]\n'
    assert list(make_study(tmp_path, text).methods)[1:] == [
        "x, alpha=0.5, distance=mse",
        "x, alpha=0.5, distance=l1",
        "x, alpha=2.0, distance=mse",
        "x, alpha=2.0, distance=l1",
    ]


def test_every_run_stands_once_and_seeds_come_before_methods(tmp_path: Path):
    # A step of erm forwards 32 rows, one of sem 64: at equal rows sem takes half the steps.
    text = TOML.replace("steps = 10", "steps = 10\nrows = 320")
    study = make_study(tmp_path, text)
    assert [cell.name for cell in study.cells()] == [
        f"{name}-{seed}"
        for seed in (0, 1)
        for name in (
            # Of erm the two budgets are one run.
            *("erm@10", "sem_sem_weight_0.5@10", "sem_sem_weight_1.0@10", "sem_l1@10"),
            *("sem_sem_weight_0.5@5", "sem_sem_weight_1.0@5", "sem_l1@5"),
        )
    ]
    assert {cell.rows for cell in study.cells() if cell.name.startswith("sem_l1@5")} == {320.0}


def test_a_run_has_the_flags_of_all_those_of_its_method_and_the_studys_own(study: Study):
    cell = study.cell("sem, l1", "steps", 1)
    assert cell.flags == {
        **study.train,
        "sem_weight": 0.5,
        "distance": "l1",
        "test_split": "validation",
        "steps": 10,
        "eval_every": 2,
        "seed": 1,
    }
    assert "--validation_fraction=0.2" in cell.arguments
    assert (cell.config.distance, cell.config.seed, cell.config.model) == ("l1", 1, "mlp")


def test_a_flag_file_comes_first_so_that_the_study_overrides_it(tmp_path: Path):
    text = SHORT.replace('model = "mlp"', 'model = "mlp"\nflagfile = "digits_mixup.flags"')
    cell = make_study(tmp_path, text).cells()[0]
    assert cell.arguments[0] == "--flagfile=digits_mixup.flags"
    assert (cell.config.policy, cell.config.steps) == ("none", 10)


@pytest.mark.parametrize(("evaluations", "steps", "every"), [(1, 10, 10), (3, 10, 4), (99, 10, 1)])
def test_a_run_is_evaluated_so_often_while_it_is_trained(
    tmp_path: Path, evaluations: int, steps: int, every: int
):
    study = make_study(tmp_path, f"evaluations = {evaluations}\n" + SHORT)
    assert study.cells()[0].flags["eval_every"] == every


def test_a_study_of_the_test_split_looks_at_test_rows(tmp_path: Path):
    text = SHORT.replace('"validation"', '"test"').replace("validation_fraction = 0.2", "")
    config = make_study(tmp_path, text).cells()[0].config
    assert (config.test_split, config.validation_fraction) == ("test", 0.0)


def test_flags_that_methods_differ_in_can_be_named(tmp_path: Path):
    study = make_study(tmp_path, 'varies = ["flip"]\n' + SHORT + "flip = true\n")
    assert study.varies == ("flip",) and study.cells()[0].config.flip


# --- What it is refused for ----------------------------------------------------------------------

# What is changed in TOML: a part of it and what stands there instead; without a part, more text.
FAULTS: Mapping[str, tuple[str, str, str]] = {
    "no TOML": ("seeds = [0, 1]", "seeds = [0, 1", "cannot be read: "),
    "unknown key": ("title =", "titel =", "unknown key 'titel'; allowed are title, split"),
    "wrong type": ("seeds = [0, 1]", "seeds = 2", "seeds must be a list; found 2"),
    "truth for a number": ("[budgets]", "evaluations = true\n[budgets]", "a whole number; found T"),
    "table for a text": ('title = "Does the gap help?"', "title = {}", "title must be a text"),
    "no seeds": ("seeds = [0, 1]", "", "seeds is missing"),
    "empty seeds": ("seeds = [0, 1]", "seeds = []", "seeds is empty"),
    "no methods": (TOML[TOML.index("[methods.erm]") :], "", "methods is missing"),
    "empty methods": (TOML[TOML.index("[methods.erm]") :], "[methods]", "methods is empty"),
    "split": ('"validation"', '"train"', "split must be one of validation, test; found 'train'"),
    "seed twice": ("[0, 1]", "[0, 0]", "seeds must be different whole numbers"),
    "seed below 0": ("[0, 1]", "[-1]", "seeds must be different whole numbers of at least 0"),
    "seed above 32 bits": ("[0, 1]", "[4294967296]", "below 2**32; found [4294967296]"),
    "seed no number": ("[0, 1]", '["0"]', "seeds must be different whole numbers"),
    "seed true": ("[0, 1]", "[true]", "seeds must be different whole numbers"),
    "budget": ("steps = 10", "epochs = 10", "budgets must be some of steps, rows"),
    "budget of 0": ("steps = 10", "steps = 0", "whole numbers of at least 1; found steps = 0"),
    "budget no whole": ("steps = 10", "steps = 10.0", "found steps = 10.0"),
    "budget too large": ("steps = 10", "steps = 3_000_000_000", "--steps=3000000000: must be"),
    "rows no steps": (
        "steps = 10",
        "rows = 330",
        "methods.erm: budgets.rows = 330 is no whole number of steps, not even to 1%: a step "
        "forwards 32 rows",
    ),
    "evaluations": ("[budgets]", "evaluations = 0\n[budgets]", "evaluations must be at least 1"),
    "reference": ('reference = "erm"', 'reference = "x"', "reference: 'x' is no method; they are"),
    "reference of a list": ('reference = "erm"', 'reference = "sem"', "reference: 'sem' is no"),
    "shown": ("[budgets]", 'shown = ["x"]\n[budgets]', "shown: 'x' is no method; they are erm;"),
    "shown no name": (
        "[budgets]",
        "shown = [5]\n[budgets]",
        "shown must be a list of names; found [5]",
    ),
    "varies": ("[budgets]", 'varies = ["x"]\n[budgets]', "varies: 'x' is no flag of experiments.t"),
    # Flags.
    "train flag": ("batch_size", "batch_sise", "train.batch_sise is no flag of experiments.train"),
    "train flag and value": ("batch_size", '"seed=1 "', "train.seed=1  is no flag of"),
    "train value": ("batch_size = 32", "batch_size = 0", "--batch_size=0: must be at least 1"),
    "train list": ("batch_size = 32", "batch_size = [32]", "train.batch_size must be one value"),
    "train table": ("batch_size = 32", "batch_size = {a = 1}", "train.batch_size must be one"),
    "train no number": ("fraction = 0.2", 'fraction = "x"', "validation_fraction"),
    "train list of fraction": ("fraction = 0.2", "fraction = [0.2]", "must be one value"),
    "train date": ("batch_size = 32", "batch_size = 1979-05-27", "train.batch_size must be a text"),
    "train inf": (
        "fraction = 0.2",
        "fraction = inf",
        "train.validation_fraction must be a text, a",
    ),
    "flag file": ('model = "mlp"', 'flagfile = "no.flags"', "no.flags"),
    "model": ('"mlp"', '"mpl"', "--model=mpl"),
    "evaluate flag": ("parts =", "part =", "evaluate.part is no flag of experiments.evaluate that"),
    "evaluate place": ("parts =", "workdir =", "evaluate.workdir is no flag of"),
    "evaluate type": ('"clean"', "3", "evaluate.parts must be a text; found 3"),
    "evaluate number": ('"clean"', '"clean"\nlimit = 0.5', "evaluate.limit must be a whole number"),
    "evaluate value": ('"clean"', '"cleen"', "evaluate: --parts=cleen: no 'cleen'"),
    "evaluate gap": (
        '"clean"',
        '"equivariance"\ngap_policies = "cutmix"',
        "evaluate.gap_policies must hold mixup",
    ),
    # Methods.
    "method no table": ("[methods.erm]", '[methods]\nx = "y"\n[methods.erm]', "methods.x must be"),
    "method flag": ("", "sem_wight = 1\n", "methods.sem, l1.sem_wight is no flag"),
    "method value": ("", "sem_every = 0\n", "methods.sem, l1: --sem_every=0: must be at least 1"),
    "method table": ("", "alpha = {a = 1}\n", "methods.sem, l1.alpha must be one value, or a list"),
    "empty list": ("[0.5, 1.0]", "[]", "methods.sem.sem_weight must be one value, or a list"),
    "list of lists": ("[0.5, 1.0]", "[[0.5]]", "methods.sem.sem_weight.0 is nested too deeply"),
    "value twice": ("[0.5, 1.0]", "[0.5, 0.5]", "methods.sem, sem_weight=0.5 is there twice"),
    "like nothing": ('like = "sem, sem_weight=0.5"', 'like = "x"', "like = 'x' is no method above"),
    "like below": ("[methods.erm]", '[methods.x]\nlike = "erm"\n[methods.erm]', "they are none"),
    "like a list": ('like = "sem, sem_weight=0.5"', 'like = "sem"', "they are erm; sem, sem_weigh"),
    "like no name": ('like = "sem, sem_weight=0.5"', "like = [1]", "methods.sem, l1: like = [1]"),
    "same letters": ("", '[methods."Sem l1"]\n', "methods.Sem l1: must differ from 'sem, l1' in"),
    "no letters": ("", '[methods."--"]\n', "methods.--: a name has 1 to 150 letters a to z"),
    "spaces": ("", '[methods." x"]\n', "and no spaces at its ends"),
    "long name": ("", f"[methods.{'x' * 151}]\n", "a name has 1 to 150 letters"),
    "no effect": ("", "umix_eta = 3.0\n", "methods.sem, l1: without effect: --umix_eta (no --umix"),
    "conflict": ("", 'policy = "none"\n', "methods.sem, l1: --policy=none: nothing is mixed"),
    # What would make the comparison unfair.
    "own flag": ("batch_size = 32", "steps = 3", "train: steps is set by the study itself, from s"),
    "place": ("batch_size = 32", 'data_dir = "x"', "train: data_dir belongs on the command line"),
    "unfair": ("", "learning_rate = 0.2\n", "methods.sem, l1: learning_rate is not a method's to"),
    "unfair data": ("", "validation_fraction = 0.3\n", "validation_fraction is not a method's"),
    "unfair file": ("", 'flagfile = "digits.flags"\n', "flagfile is not a method's to set"),
    "nothing held out": ("validation_fraction = 0.2", "", "needs validation_fraction above 0"),
    # Too large, too deep, not to be shown.
    "large number": ("[0, 1]", f"[0x1{'0' * 2000}]", "seeds.0 is too large: a number of 8001 bits"),
    "digits": ("[0, 1]", f"[{'9' * 5000}]", "cannot be read: it has a line of more than 4,096"),
    "long line": ("", f"#{'x' * 4096}\n", "cannot be read: it has a line of more than 4,096 ch"),
    "nested lists": ("[0, 1]", "[" * 1500 + "]" * 1500, "it is nested too deeply"),
    "nested tables": ("", "a = " + "{a = " * 600 + "1" + "}" * 600 + "\n", "nested too deeply"),
    "nested keys": ("", "a." * 2000 + "a = 1\n", "methods.sem, l1.a.a is nested too deeply"),
    "control character": ('"Does', '"\\u001bDoes', "title must be one line without control"),
    "control in a name": ("", '[methods."x\\u0007"]\n', "must be one line without control"),
    "many methods": ("[0.5, 1.0]", str(list(range(500))) + "\nalpha = [1, 2, 3]", "at most 1,000"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_said_with_its_place(tmp_path: Path, fault: str):
    part, instead, said = FAULTS[fault]
    assert part in TOML
    text = TOML.replace(part, instead, 1) if part else TOML + instead
    assert said in refused(tmp_path / "s", text)


def test_a_study_has_an_end(tmp_path: Path):
    text = TOML.replace("[0, 1]", "[" + ",\n".join(map(str, range(2_501))) + "]")
    assert "at most 10,000 runs make a study" in refused(tmp_path, text)


def test_what_a_flag_file_sets_is_looked_at_too(tmp_path: Path):
    (tmp_path / "held.flags").write_text("--validation_fraction=0.2\n")
    named = f"flagfile = '{tmp_path / 'held.flags'}'"
    assert make_study(tmp_path / "s", SHORT.replace("validation_fraction = 0.2", named)).cells()
    (tmp_path / "held.flags").write_text("--seed=0\n")
    text = SHORT.replace("validation_fraction = 0.2", named)
    assert "needs validation_fraction above 0" in refused(tmp_path / "s", text)


def test_a_file_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(StudyError, match=r"study.toml cannot be read: .*No such file"):
        plan.read(tmp_path)
    with pytest.raises(StudyError, match=r"x cannot be read: .*No such file"):
        plan.read(tmp_path / "x")
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(StudyError, match="cannot be read: 'utf-8' codec"):
        plan.read(tmp_path)
    (tmp_path / "study.toml").write_text("#\n" * 40_000)
    with pytest.raises(StudyError, match="more than 65,536 bytes"):
        plan.read(tmp_path)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.just(datetime.date(1979, 5, 27)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
keys = st.sampled_from(
    [*plan._KEYS, "train.model", "train.flip", "methods.erm", "methods.erm.like", "evaluate.parts"]
)


@given(place=keys, value=junk)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_stands_at_a_key_is_accepted_or_refused_by_name(place: str, value: Any):
    found: dict[str, Any] = {
        "split": "validation",
        "seeds": [0],
        "reference": "erm",
        "budgets": {"steps": 1},
        "train": {"model": "mlp", "validation_fraction": 0.2},
        "methods": {"erm": {"policy": "none", "sem_weight": 0.0}},
    }
    *above, last = place.split(".")
    at = found
    for key in above:
        at = at.setdefault(key, {})
    at[last] = value
    try:
        study = plan._study("s", Path("s"), found)
    except ValueError as error:
        assert str(error)
    else:
        json.dumps([cell.arguments for cell in study.cells()])


def test_the_studies_that_are_shown_can_be_read(tmp_path: Path):
    docs = (ROOT / "docs" / "studies.md").read_text("utf-8")
    assert plan.__doc__ is not None
    for number, text in enumerate(
        (plan.__doc__.partition("\n\n")[2], docs.partition("```toml\n")[2].partition("```")[0])
    ):
        study = make_study(tmp_path / str(number), text)
        assert set(study.budgets) == set(plan.BUDGETS)
        assert len(study.methods) == 4 and "sem, l1" in study.methods


# --- The studies of the project ------------------------------------------------------------------


@each_study
def test_a_study_of_the_project_can_be_run(folder: Path):
    study = plan.read(folder)
    assert study.name == folder.name
    assert len(study.seeds) > 1 and study.title.endswith("?")
    for cell in study.cells():
        assert cell.config.seed == cell.seed and cell.config.steps == cell.steps


@each_study
def test_what_is_kept_of_a_study_of_the_project_is_of_its_runs(folder: Path):
    study = plan.read(folder)
    names = {path.stem for path in (folder / "results").glob("*.json")}
    assert set(results.read_all(study)) == names
    # Nothing else lies among them, such as a file that was half written.
    assert {path.stem for path in (folder / "results").glob("*")} == names


def test_reading_a_study_takes_no_device():
    # Each run is to have the accelerator for itself: the study must not hold it.
    text = f"""
import jax
from experiments.studying import plan
assert [cell.rows for cell in plan.read({str(STUDIES[0])!r}).cells()]
jax.config.update("jax_num_cpu_devices", 3)  # raises once there is a backend
"""
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
