"""A study's page and its block in a README: what they hold, and what is refused."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from study_results_example import made_up, make_results, make_study, write

from experiments.studying import figures, looks, summary
from experiments.studying.looks import Picture
from experiments.studying.plan import StudyError
from experiments.studying.summary import OutdatedError

README = """# Experiments

Before.

<!-- study gap -->
old
<!-- end of study gap -->

After.
"""
FIGURES = ["trade_off.png", "differences.png", "corruptions.png", "gap.png", "projection.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study, seen from the folder in which the commands are started."""
    folder = tmp_path_factory.mktemp("summary") / "studies" / "gap"
    make_results(make_study(folder), without=("erm", "mixup@100-2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent.parent)
        yield folder


@pytest.fixture(scope="module")
def found(folder):
    return summary.read(str(folder))


@pytest.fixture
def readme(folder):
    path = folder.parent.parent / "README.md"
    path.write_text(README)
    return path


@pytest.fixture
def plain_pictures(monkeypatch):
    """Names instead of figures: what they show is tested elsewhere."""
    pictures = {name: Picture(Figure(), f"alt of {name}", f"caption of {name}") for name in FIGURES}
    monkeypatch.setattr(figures, "draw", lambda study, blocks: pictures)
    monkeypatch.setattr(looks, "png", lambda figure: b"PNG")


def test_a_study_is_told_by_its_file(folder):
    assert summary.is_study(str(folder)) and summary.is_study(str(folder / "study.toml"))
    assert not summary.is_study(str(folder / "results"))
    assert not summary.is_study(str(folder.parent / "other" / "study.toml"))


def test_the_page_says_how_much_is_done(found):
    lines = summary.page(found).splitlines()
    assert lines[0] == "# Does the gap help?"
    # 5 methods by 3 seeds; erm and mixup have other steps within the rows, the others the same.
    assert lines[2].startswith("14 of 21 cells. ")
    assert "validation rows, on which options are chosen; the test split was not used" in lines[2]
    assert "Seeds: 0, 1, 2." in lines[2]
    start = lines.index("## At equal steps: 100")
    assert lines[start + 2] == "11 of 15 cells."
    start = lines.index("## At equal forwarded rows: 6,400")
    assert lines[start + 2] == "12 of 15 cells."
    assert any(line.startswith("| erm | not run |") for line in lines)
    assert any(line.startswith("| mixup | 2 of 3 |") for line in lines)


def test_budgets_never_share_a_table(found):
    page = summary.page(found)
    first, second = page.split("## At equal forwarded rows: 6,400")
    assert "| mixup | 2 of 3 | 32 | 100 |" in first and "| mixup | 3 | 32 | 200 |" in second
    assert "| 200 |" not in first


def test_the_page_holds_all_that_is_needed_to_make_it_again(found):
    page = summary.page(found)
    shared = (
        "--dataset=digits --model=mlp --batch_size=32 --validation_fraction=0.2 --clean_weight=0.0"
    )
    assert f"the training flags `{shared}`" in page
    assert "the evaluation flags `--parts=clean,corruptions`" in page
    assert "| heavy sem | `--sem_weight=10.0` |" in page
    assert "python -m experiments.study studies/gap\n" in page
    assert "python -m experiments.report studies/gap\n" in page
    assert "revision `0123abcd`; JAX `0.10.0`; device `cpu`." in page
    assert "machine may have been shared" in page
    assert "Careful" not in page


def test_a_test_split_and_further_differences_are_told(found):
    study = dataclasses.replace(found.study, split="test", varies=("learning_rate",), train={})
    page = summary.page(dataclasses.replace(found, study=study))
    assert "test rows; nothing was chosen on them" in page
    assert "Careful: methods also differ in `learning_rate`, which is no part" in page
    assert "the training flags of the defaults" in page


def test_results_of_several_versions_are_counted(found):
    changed = json.loads(json.dumps(found.results))
    changed["sem@100-0"]["environment"] = {"jax": "0.11.0", "revision": None}
    page = summary.page(dataclasses.replace(found, results=changed))
    assert "revision `0123abcd` (13 runs), `unknown` (1 run)" in page
    assert "JAX `0.10.0` (13 runs), `0.11.0` (1 run)" in page


def test_every_section_is_there_once_a_budget(found):
    page = summary.page(found)
    for title in ("### Differences from sem", "### Probe score above chance", "<details>"):
        assert page.count(title) == 2
    assert page.count("</details>") == 2
    assert page.count("Holm's correction over the family of all") == 2


def test_a_reference_without_results_is_told(tmp_path):
    study = make_study(tmp_path / "study", seeds=(0, 1))
    make_results(study, without=("sem",))
    page = summary.page(summary.read(str(tmp_path / "study")))
    assert page.count("The reference, sem, has no result yet: no differences.") == 2
    assert "★" not in page and "differences.png" not in page
    assert "| sem | not run | 64 | 100 |" in page


def test_a_study_that_has_not_begun_has_a_page(tmp_path):
    make_study(tmp_path / "study")
    found = summary.read(str(tmp_path / "study"))
    page = summary.page(found)
    assert "0 of 21 cells." in page and page.count("| not run |") == 10
    assert "## Figures" not in page and "The results are of" not in page
    assert summary.headline(found).count("0 of 15 cells") == 2


def test_figures_are_shown_with_what_to_say_of_them(found):
    assert list(found.pictures) == FIGURES
    page = summary.page(found)
    for name, picture in found.pictures.items():
        assert f"![{picture.alt}]({name})\n\n{picture.caption}" in page


def test_the_text_does_not_depend_on_how_the_path_was_given(folder, plain_pictures):
    page = summary.page(summary.read("studies/gap"))
    for path in (folder, folder / "study.toml", "studies/../studies/gap/"):
        assert summary.page(summary.read(str(path))) == page


def test_titles_are_escaped(found):
    study = dataclasses.replace(found.study, title="a|b *c*", reference="s*m")
    page = summary.page(dataclasses.replace(found, study=study))
    assert page.startswith("# a\\|b \\*c\\*\n") and r"compared with s\*m on" in page


def test_the_terminal_shows_the_headlines(found):
    lines = summary.headline(found).splitlines()
    assert lines[0] == "gap: Does the gap help?"
    assert "At equal steps: 100 (11 of 15 cells); mean ± sd over seeds" in lines
    assert any(line.split()[:3] == ["erm", "not", "run"] for line in lines)


def test_a_report_is_a_page_and_its_figures(folder, tmp_path, plain_pictures):
    told = summary.report([str(folder)], output=str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*FIGURES, "tables.md"])
    assert told[1:] == [str(tmp_path / "out" / name) for name in ("tables.md", *FIGURES)]
    assert (tmp_path / "out" / "tables.md").read_text() == summary.page(summary.read(str(folder)))


def test_several_studies_have_folders_of_their_own(folder, tmp_path, plain_pictures):
    study = make_study(tmp_path / "second")
    write(study, "sem@100-0", made_up(study, study.cell("sem", "steps", 0)))
    summary.report([str(folder), str(tmp_path / "second")], output=str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["gap", "second"]
    with pytest.raises(StudyError, match="two studies are called gap"):
        summary.report([str(folder), str(folder / "study.toml")])


def test_a_readme_gets_the_block_and_keeps_the_rest(folder, readme, found, plain_pictures):
    told = summary.report(["studies/gap"], readme="README.md")
    text = readme.read_text()
    assert text.startswith("# Experiments\n\nBefore.\n\n<!-- study gap -->\n\n14 of 21 cells")
    assert text.endswith("<!-- end of study gap -->\n\nAfter.\n") and "old" not in text
    assert "\n### At equal steps: 100\n" in text and "\n#### Differences from sem\n" in text
    for name in FIGURES:
        assert f"](studies/gap/report/{name})" in text
        assert (folder / "report" / name).is_file()
    assert told[-1] == "README.md"
    # Once more changes nothing.
    summary.report(["studies/gap"], readme="README.md")
    assert readme.read_text() == text


def test_the_check_passes_on_what_was_written_and_writes_nothing(folder, readme, plain_pictures):
    summary.report(["studies/gap"], readme="README.md")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}
    told = summary.report(["studies/gap"], readme="README.md", check=True)
    assert told == ["README.md says what the results of gap give"]
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*") if p.is_file()} == before


def test_the_check_tells_what_differs(folder, readme, plain_pictures):
    with pytest.raises(OutdatedError) as error:
        summary.report(["studies/gap"], readme="README.md", check=True)
    told = str(error.value)
    assert told.startswith("README.md: study gap is not what its results give: line 6 should be ''")
    again = "make it by python -m experiments.report studies/gap --readme=README.md"
    assert again in told
    assert readme.read_text() == README
    summary.report(["studies/gap"], readme="README.md")
    text = readme.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| sem | 3 |"))
    readme.write_text(text.replace(row, row.replace("±", "+", 1)))
    with pytest.raises(OutdatedError, match=r"line \d+ should be '\| sem \| 3 \| 64 \| 100 \|"):
        summary.report(["studies/gap"], readme="README.md", check=True)
    # What stands outside the marks is nobody's business.
    readme.write_text(text.replace("Before", "Changed"))
    summary.report(["studies/gap"], readme="README.md", check=True)


def test_the_check_finds_a_figure_missing(folder, readme, plain_pictures):
    summary.report(["studies/gap"], readme="README.md")
    (folder / "report" / "gap.png").unlink()
    with pytest.raises(OutdatedError, match=r"the figure studies/gap/report/gap\.png is missing"):
        summary.report(["studies/gap"], readme="README.md", check=True)


FIRST, LAST = summary.marks("gap")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", f"the mark {FIRST} is missing: write {FIRST} and {LAST} once each"),
        (FIRST, f"the mark {LAST} is missing"),
        (f"{FIRST}\n{FIRST}\n{LAST}", f"the mark {FIRST} is there 2 times"),
        (f"{LAST}\n{FIRST}", f"the mark {LAST} stands before {FIRST}"),
        ("<!-- study gaps -->\n<!-- end of study gaps -->", f"the mark {FIRST} is missing"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_a_readme_without_marks_is_refused_and_nothing_is_written(
    folder, readme, tmp_path, text, message, check, plain_pictures
):
    readme.write_text(text)
    with pytest.raises(StudyError) as error:
        summary.report([str(folder)], readme=str(readme), output=str(tmp_path / "out"), check=check)
    assert str(error.value).startswith(f"{readme}: {message}")
    assert readme.read_text() == text and not (tmp_path / "out").exists()


def test_a_readme_that_is_not_there_is_refused(folder, tmp_path, plain_pictures):
    with pytest.raises(StudyError, match=r"absent\.md cannot be read"):
        summary.report([str(folder)], readme=str(tmp_path / "absent.md"))


def test_a_damaged_result_is_refused_by_its_path(tmp_path):
    study = make_study(tmp_path / "study")
    make_results(study, without=("erm",))
    (tmp_path / "study" / "results" / "sem@100-1.json").write_text('{"schema"')
    with pytest.raises(StudyError, match=r"sem@100-1\.json is damaged"):
        summary.report([str(tmp_path / "study")])
    assert not (tmp_path / "study" / "report").exists()
