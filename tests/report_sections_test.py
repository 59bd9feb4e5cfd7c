"""What the page shows of clean, corrupted, foreign and attacked images."""

import re

import numpy as np
import pytest
from report_example import BENCHMARK, HELD_OUT, example

from experiments.reporting import report_sections


@pytest.fixture(scope="module")
def parts():
    return {name: part["result"] for name, part in example()["parts"].items()}


def cells(markup):
    """The texts of the rows of all tables."""
    rows = re.findall(r"<tr>(.*?)</tr>", markup, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]


def curve_panels(monkeypatch):
    """The panels of the curves that are drawn, in order."""
    drawn = []
    original = report_sections.plots.curves

    def recorded(panels, **options):
        drawn.append(panels)
        return original(panels, **options)

    monkeypatch.setattr(report_sections.plots, "curves", recorded)
    return drawn


def test_clean_shows_calibration_before_and_after_and_its_bins(parts, monkeypatch):
    drawn = curve_panels(monkeypatch)
    clean = parts["clean"]
    found = report_sections.clean(clean)
    rows = {row[0]: row[1:] for row in cells(found)}
    after = clean["calibrated"]
    assert rows["NLL"] == [f"{clean['nll']:.4f}", f"{after['nll']:.4f}"]
    assert rows["ECE, 15 bins of equal width, %"] == [
        f"{100 * clean['ece']:.2f}",
        f"{100 * after['ece']:.2f}",
    ]
    assert f"T = {clean['temperature']:.4f} from validation" in found
    assert f"area under the curve is {clean['aurc']:.4f}" in found
    assert rows["15"][0] == f"{clean['bins']['count'][14]:,}"
    assert rows["15"][5] == f"{100 * clean['calibrated_bins']['confidence'][14]:.2f}"
    assert rows["1"] == ["0", "-", "-", "0", "-", "-"]
    (line,) = drawn[0][""].values()
    assert (line.x, line.y) == tuple(clean["risk_coverage"].values())


def test_corruptions_show_every_name_severity_and_mean(parts, monkeypatch):
    drawn = curve_panels(monkeypatch)
    corrupted = parts["corruptions"]
    found = report_sections.corruptions(corrupted)
    rows = cells(found)
    for name, accuracy in corrupted["accuracy"].items():
        kind = "benchmark" if name in BENCHMARK else "held out"
        shown = [f"{100 * value:.1f}" for value in [*accuracy, np.mean(accuracy)]]
        assert [name, kind, *shown] in rows
        assert [name, *(f"{value:.4f}" for value in corrupted["nll"][name])] in rows
        assert [name, *(f"{100 * value:.2f}" for value in corrupted["ece"][name])] in rows
        assert drawn[0][name]["accuracy"].y == accuracy
        assert drawn[0][name]["ECE"].y == corrupted["ece"][name]
    (mean,) = [row for row in rows if row[0] == "mean over the benchmark"]
    assert mean[-1] == f"{100 * (1 - corrupted['mce']):.1f}"
    assert corrupted["source"] in found and "10,000 images a set" in found


def test_the_mean_over_the_benchmark_leaves_held_out_corruptions_out(parts):
    corrupted = parts["corruptions"]
    expected = np.mean([corrupted["ece"][name] for name in BENCHMARK], axis=0)
    assert report_sections.benchmark_mean(corrupted, "ece") == pytest.approx(expected)
    with_hole = {"benchmark": ["fog"], "ece": {"fog": [0.5, None], HELD_OUT[0]: [0.1, 0.1]}}
    assert report_sections.benchmark_mean(with_hole, "ece") == [0.5, None]


def test_ood_shows_every_set_and_score(parts):
    rows = cells(report_sections.ood(parts["ood"]))
    for name, found in parts["ood"]["sets"].items():
        for score, values in found["scores"].items():
            shown = [f"{100 * values[key]:.2f}" for key in ("auroc", "aupr", "fpr95")]
            assert [name, report_sections.SCORES[score], f"{found['count']:,}", *shown] in rows


def test_ood_without_histograms_has_no_figure(parts):
    sets = {"svhn": {**parts["ood"]["sets"]["svhn"], "histograms": {}}}
    assert "<figure" not in report_sections.ood({**parts["ood"], "sets": sets})
    assert "<figure" in report_sections.ood(parts["ood"])


def test_attacks_begin_at_the_clean_accuracy(parts, monkeypatch):
    drawn = curve_panels(monkeypatch)
    attacks = parts["attacks"]
    rows = cells(report_sections.attacks(attacks))
    clean = f"{100 * attacks['clean_accuracy']:.2f}"
    assert rows[1] == ["0/255", clean, clean]
    assert rows[-1][0] == "8/255" and rows[-1][2] == f"{100 * attacks['pgd'][-1]:.2f}"
    lines = drawn[0][""]
    assert lines["FGSM"].y == [attacks["clean_accuracy"], *attacks["fgsm"]]
    assert lines["PGD"].y == [attacks["clean_accuracy"], *attacks["pgd"]]
    assert lines["PGD"].x == pytest.approx([0, 1, 2, 4, 8], abs=1e-3)
