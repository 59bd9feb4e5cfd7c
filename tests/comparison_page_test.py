"""The page of many runs: tables, marks, warnings, and one block for each data set."""

import re

import pytest
from report_example import example
from report_page_test import EVIL, Page, section
from report_sections_test import cells

from experiments.reporting import comparison, comparison_page
from experiments.reporting.headline import METRICS, headline
from experiments.reporting.report_html import Markup


@pytest.fixture
def without_curves(monkeypatch):
    """Leaves the figures out, which take nearly all of the time."""
    monkeypatch.setattr(comparison_page, "curves", lambda groups, place: Markup(""))


def runs_of(seeds=(0, 1, 2), **options):
    methods = ("erm", "sem_mixup")
    return [example(method, seed, **options) for method in methods for seed in seeds]


def test_the_whole_page_is_sound_and_alone():
    runs = [*runs_of((0, 1)), example("mixup", 0, failed=("attacks",))]
    text = comparison_page.render_comparison(runs)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids)) and len(text.encode()) < 3_000_000
    assert "http" not in text.replace("http-equiv", "") and "unreadable" not in text
    links = {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert links and links <= set(page.ids)
    assert "cifar100: attacks of mixup-0 failed: ValueError: attacks met" in text


def test_the_same_reports_give_the_same_bytes():
    runs = runs_of((0, 1), missing=("corruptions", "equivariance"))
    text = comparison_page.render_comparison(runs)
    assert comparison_page.render_comparison(runs) == text


def test_the_headline_has_mean_deviation_and_seeds_of_every_method(without_curves):
    runs = runs_of()
    shown = cells(section(comparison_page.render_comparison(runs), "headline-0"))
    assert shown[0] == ["measure", "better", "erm", "sem_mixup"]
    groups = comparison.compare(runs)["datasets"][0]["groups"]
    for metric, row in zip(METRICS, shown[1:], strict=True):
        found = [group["metrics"][metric.name] for group in groups]
        assert row == [
            metric.title,
            metric.arrow,
            *(f"{metric.show(one['mean'])} ± {metric.show(one['sd'])} (3)" for one in found),
        ]


def test_one_seed_is_shown_without_deviation_and_without_interval(without_curves):
    text = comparison_page.render_comparison(runs_of((0,)))
    accuracy = METRICS[0].show(headline(example("erm"))["accuracy"])
    assert cells(section(text, "headline-0"))[1][2] == f"{accuracy} (1)"
    assert section(text, "differences-0").count("(one seed)") == len(METRICS)
    assert "[" not in section(text, "differences-0")


def test_differences_show_their_interval_and_whether_they_are_better(without_curves):
    runs = runs_of()
    runs[3]["parts"]["groups"]["result"]["worst"] = 0.1  # spreads the differences
    for run in runs[3:]:
        run["parts"]["clean"]["result"]["brier"] += 1.0
    text = section(comparison_page.render_comparison(runs), "differences-0")
    found = {one["metric"]: one for one in comparison.compare(runs)["datasets"][0]["differences"]}
    for name, verdict in (("accuracy", "better"), ("brier", "worse"), ("worst_group", "")):
        metric = next(metric for metric in METRICS if metric.name == name)
        shown = [metric.show(found[name][k], sign=True) for k in ("difference", "low", "high")]
        text_of = f"{shown[0]} [{shown[1]}, {shown[2]}] (3)"
        mark = (
            rf'<td class="n {verdict}"><strong>{verdict}</strong>\s*'
            if verdict
            else '<td class="n">'
        )
        assert re.search(mark + re.escape(text_of) + "</td>", text), name
    assert "Method minus erm" in text and "95 % t interval" in text


def test_methods_without_a_common_seed_have_no_difference(without_curves):
    runs = [example("erm", 0), example("mixup", 1)]
    text = section(comparison_page.render_comparison(runs), "differences-0")
    assert text.count("not measured") == len(METRICS)


def test_the_baseline_can_be_chosen(without_curves):
    text = comparison_page.render_comparison(runs_of((0,)), baseline="sem_mixup")
    assert "cifar100: differences from sem_mixup" in text and "Method minus sem_mixup" in text
    with pytest.raises(ValueError, match="baseline 'x'"):
        comparison_page.render_comparison(runs_of((0,)), baseline="x")


def test_warnings_are_visible_and_their_absence_is_said(without_curves):
    fine = section(comparison_page.render_comparison(runs_of((0,))), "comparable")
    assert "Yes: same data" in fine and "alert" not in fine
    runs = runs_of((0,))
    runs[1]["run"]["step"] = 7
    warned = section(comparison_page.render_comparison(runs), "comparable")
    assert 'class="warnings" role="alert"' in warned
    assert "different number of training steps: 78200 (erm-0); 7 (sem_mixup-0)" in warned


def test_data_sets_stand_apart(without_curves):
    runs = [*runs_of((0,)), *runs_of((0,), dataset="digits")]
    text = comparison_page.render_comparison(runs)
    for place, name in enumerate(("cifar100", "digits")):
        assert f"{name}: headline" in section(text, f"headline-{place}")
        assert len(cells(section(text, f"headline-{place}"))[0]) == 4
        assert "one seed" in section(text, f"differences-{place}")
    alone = comparison_page.render_comparison([*runs_of((0,)), example("x", dataset="digits")])
    assert "no other method to compare with" in section(alone, "differences-1")


def test_corruptions_and_runs_are_listed(without_curves):
    runs = runs_of()
    text = comparison_page.render_comparison(runs)
    groups = comparison.compare(runs)["datasets"][0]["groups"]
    rows = cells(section(text, "corruptions-0"))
    assert ["fog", *(f"{100 * group['corruptions']['fog']:.1f}" for group in groups)] in rows
    mean = [f"{100 * (1 - group['metrics']['mce']['mean']):.1f}" for group in groups]
    assert rows[-1] == ["mean over the benchmark", *mean]
    listed = cells(section(text, "runs-0"))[1:]
    assert [row[0] for row in listed] == [run["run"]["name"] for run in runs]
    assert [row[4] for row in listed] == list("012012")
    assert listed[0][6] == METRICS[0].show(headline(runs[0])["accuracy"])
    nothing = comparison_page.render_comparison(runs_of((0,), missing=("corruptions",)))
    assert "not measured" in section(nothing, "corruptions-0")


def test_no_text_of_a_report_becomes_markup():
    parts = ("clean", "ood", "attacks", "groups")
    runs = [example(EVIL, seed, dataset=EVIL, model=EVIL, missing=parts) for seed in (0, 1)]
    runs.append(example("b", 0, dataset=EVIL, model="m", failed=("clean",)))
    for run in runs:
        run["options"] = {EVIL: run["run"]["seed"]}
        for name, key in (("corruptions", "accuracy"), ("probes", "factors")):
            found = run["parts"][name]["result"]
            found[key] = {EVIL: next(iter(found[key].values()))}
    text = comparison_page.render_comparison(runs)
    page = Page(text)
    assert "<script" not in text and "unreadable" not in text
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
