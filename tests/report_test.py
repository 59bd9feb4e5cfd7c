"""The command: what it prints and writes, and every way it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from report_example import example
from study_results_example import make_results, make_study

from experiments import report
from experiments.report import ReportError
from experiments.reporting import comparison, report_page
from experiments.reporting.headline import METRICS, headline
from experiments.studying.plan import StudyError
from experiments.studying.summary import OutdatedError

PARTS = ("corruptions", "equivariance", "probes", "pictures", "projection", "ood")


def parse(*args):
    values = flags.FlagValues()
    report.define_flags(values)
    return report.parse(["report", *args], values)


def write(folder, *args, **options):
    """A run directory with a small report."""
    folder.mkdir(parents=True, exist_ok=True)
    found = example(*args, **{"missing": PARTS, **options})
    (folder / "report.json").write_text(json.dumps(found))
    return found


def test_one_run_is_printed_and_its_page_written_again(tmp_path, capsys):
    found = write(tmp_path / "run", failed=("attacks",))
    report.main(parse(str(tmp_path / "run")))
    page = tmp_path / "run" / "report.html"
    assert page.read_text(encoding="utf-8") == report_page.render(found)
    assert {path.name for path in page.parent.iterdir()} == {"report.json", "report.html"}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sem_mixup-0: sem_mixup, seed 0, cifar100, resnet18"
    accuracy = METRICS[0].show(headline(found)["accuracy"])
    assert re.fullmatch(rf"  accuracy, % ↑ +{re.escape(accuracy)}", lines[1])
    assert any(re.fullmatch(r"  PGD accuracy, % ↑ +failed: ValueError: .*", x) for x in lines)
    assert any(re.fullmatch(r"  mean probe score above chance ↑ +not measured", x) for x in lines)
    assert lines[-1] == str(page) and len(lines) == 2 + len(METRICS)


def test_the_output_folder_can_be_chosen(tmp_path, capsys):
    write(tmp_path / "run")
    report.main(parse(str(tmp_path / "run" / "report.json"), f"--output={tmp_path / 'new'}"))
    assert (tmp_path / "new" / "report.html").is_file()
    assert not (tmp_path / "run" / "report.html").exists()


def test_several_runs_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [(method, seed) for method in ("erm", "mixup") for seed in (0, 1)]
    reports = [write(Path(f"{method}-{seed}"), method, seed) for method, seed in names]
    report.main(parse("erm-0", "erm-1", "mixup-0/report.json", "mixup-1", "--baseline=mixup"))
    found = json.loads(Path("report/comparison.json").read_text())
    assert found == comparison.compare(reports, baseline="mixup")
    page = Path("report/comparison.html").read_text(encoding="utf-8")
    assert page == report_page.render_comparison(reports, baseline="mixup")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cifar100: mean ± sd (seeds)" and lines[1].split() == ["erm", "mixup"]
    means = [group["metrics"]["nll"]["mean"] for group in found["datasets"][0]["groups"]]
    (nll,) = [line for line in lines if line.startswith("  NLL")]
    assert re.findall(r"(\S+) ± \S+ \(2\)", nll) == [f"{mean:.4f}" for mean in means]
    assert len({len(line) for line in lines[1 : 2 + len(METRICS)]}) == 1  # columns are aligned
    assert lines[-2:] == ["report/comparison.json", "report/comparison.html"]


def test_warnings_are_printed_and_data_sets_stand_apart(tmp_path, capsys):
    write(tmp_path / "a", "erm")
    write(tmp_path / "b", "erm", dataset="digits")
    report.main(parse(str(tmp_path / "a"), str(tmp_path / "b"), f"--output={tmp_path}"))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith("(seeds)")] == [
        "cifar100: mean ± sd (seeds)",
        "digits: mean ± sd (seeds)",
    ]
    assert "careful: different data set: cifar100 (erm-0); digits (erm-0); they are" in lines[-3]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), r"no run: write python -m experiments\.report RUN"),
        (("a", "--baseline=x"), "--baseline=x: one run has nothing to compare with"),
        (("a", "--unknown=1"), "unknown"),
        (("a", "--check"), "--check: needs --readme"),
        (("a", "--readme=b"), "--readme=b: only studies are written into a README; a is a run"),
    ],
)
def test_wrong_commands_are_refused(args, message):
    with pytest.raises(ReportError, match=message):
        parse(*args)


@pytest.mark.parametrize("name", ["empty", "absent", "empty/report.json"])
def test_a_run_without_report_is_told_what_to_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    folder = tmp_path / name.removesuffix("/report.json")
    advice = rf"no report\.json; make it by python -m experiments\.evaluate --workdir={folder}$"
    with pytest.raises(ReportError, match=advice):
        report.main(parse(str(tmp_path / name)))


def _changed(change):
    found = example(missing=PARTS)
    change(found)
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 1, "ru', "is damaged: "),
        ("\xff", "is damaged: "),
        ("[" * 100_000, "is damaged: "),
        ("[]", "is of schema None; this version reads 1"),
        (_changed(lambda r: r.update(schema=2)), "is of schema 2; this version reads 1"),
        (_changed(lambda r: r.pop("parts")), "'parts' is not an object"),
        (_changed(lambda r: r.update(options=[])), "'options' is not an object"),
        (_changed(lambda r: r["run"].update(method=None)), "run.method must be a text; found None"),
        (_changed(lambda r: r["run"].update(seed="0")), "run.seed must be a whole number"),
        (_changed(lambda r: r["parts"].update(ood=3)), "the status of 'ood' must be one of done"),
        (_changed(lambda r: r["parts"].update(ood={"status": "x"})), "found 'x'"),
    ],
)
def test_a_report_that_cannot_be_read_is_refused_by_its_path(tmp_path, text, message):
    (tmp_path / "report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ReportError, match=message) as error:
        report.main(parse(str(tmp_path)))
    assert str(error.value).startswith(str(tmp_path / "report.json"))
    assert not (tmp_path / "report.html").exists()


def test_an_unknown_baseline_and_a_run_given_twice_are_refused(tmp_path):
    write(tmp_path / "a", "erm")
    write(tmp_path / "b", "mixup")
    a, b, output = str(tmp_path / "a"), str(tmp_path / "b"), f"--output={tmp_path / 'out'}"
    with pytest.raises(ReportError, match=r"baseline 'x': no run .* found \['erm', 'mixup'\]"):
        report.main(parse(a, b, output, "--baseline=x"))
    twice = rf"{a}/report\.json and {a}/report\.json are both method 'erm', seed 0"
    with pytest.raises(ReportError, match=twice):
        report.main(parse(a, b, a, output))
    assert not (tmp_path / "out").exists()


def test_the_program_itself_exits_with_2_and_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.report", str(tmp_path)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.fixture
def study(tmp_path):
    """A study of which little is done, so that no figure can be drawn."""
    study = make_study(tmp_path / "study", seeds=(0, 1))
    make_results(study, without=("sem",), corruptions=None, curve=None, projection=None)
    return study.folder


def test_a_study_is_printed_and_written_beside_its_results(study, capsys):
    report.main(parse(str(study)))
    page = (study / "report" / "tables.md").read_text(encoding="utf-8")
    assert page.startswith("# Does the gap help?\n")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "study: Does the gap help?"
    assert sum(line.startswith("heavy sem ") for line in lines) == 4
    assert lines[-2].endswith("study/report/tables.md")
    assert lines[-1].endswith("study/report/trade_off.png")


def test_the_output_folder_of_a_study_can_be_chosen(study, tmp_path):
    report.main(parse(str(study / "study.toml"), f"--output={tmp_path / 'out'}"))
    assert (tmp_path / "out" / "tables.md").is_file() and not (study / "report").exists()


def test_a_readme_is_written_and_checked(study, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- study study -->\n<!-- end of study study -->\n")
    with pytest.raises(OutdatedError, match="study study is not what its results give"):
        report.main(parse(str(study), f"--readme={readme}", "--check"))
    assert not (study / "report").exists()
    report.main(parse(str(study), f"--readme={readme}"))
    assert "](study/report/trade_off.png)" in readme.read_text(encoding="utf-8")
    report.main(parse(str(study), f"--readme={readme}", "--check"))
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{readme} says what the results")


def test_runs_and_studies_are_not_mixed(study, tmp_path):
    message = rf"{tmp_path}/run is no study, {study} is one: .* by two commands"
    for args in ((study, tmp_path / "run"), (tmp_path / "run", study)):
        with pytest.raises(ReportError, match=message):
            parse(*map(str, args))


def test_a_study_has_its_own_baseline(study):
    with pytest.raises(ReportError, match="--baseline=sem: a study names its reference itself"):
        parse(str(study), "--baseline=sem")


def test_a_study_that_cannot_be_read_is_refused_by_its_path(study):
    (study / "study.toml").write_text("title = ")
    with pytest.raises(StudyError, match=rf"{study}/study\.toml cannot be read"):
        report.main(parse(str(study)))


def test_the_program_exits_with_1_if_a_readme_must_be_made_again(study, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- study study -->\n<!-- end of study study -->\n")
    args = [str(study), f"--readme={readme}", "--check"]
    command = [sys.executable, "-m", "experiments.report", *args]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {readme}: study study is not what its results give: ")
    assert len(done.stderr.splitlines()) == 1
