"""Mean curves over seeds, and the figures of a comparison."""

import numpy as np
import pytest
from report_example import example

from experiments.reporting import comparison_curves as curves
from experiments.reporting.comparability import grouped
from experiments.reporting.headline import look_up


def accuracies(*rows):
    """Runs whose accuracy under fog is given."""
    runs = [example("erm", seed) for seed in range(len(rows))]
    for run, row in zip(runs, rows, strict=True):
        run["parts"]["corruptions"]["result"]["accuracy"]["fog"] = row
    return runs


def fog(runs):
    return curves.mean_curve(
        runs,
        "corruptions",
        lambda found: look_up(found, "severities"),
        lambda found: look_up(found, "accuracy", "fog"),
    )


def test_a_mean_curve_has_the_mean_and_deviation_of_every_place():
    found = fog(accuracies([0.5, 0.4, 0.3, 0.2, 0.1], [0.7, 0.4, 0.5, 0.4, 0.1]))
    assert found.x == [1, 2, 3, 4, 5]
    assert found.y == pytest.approx([0.6, 0.4, 0.4, 0.3, 0.1])
    assert found.spread == pytest.approx(np.sqrt([0.02, 0, 0.02, 0.02, 0]))


def test_one_seed_has_no_band_and_none_no_curve():
    assert fog(accuracies([0.5] * 5)).spread == ()
    assert fog([example(failed=("corruptions",))]) is None


def test_a_place_that_one_seed_lacks_is_left_out():
    found = fog(accuracies([0.5, None, 0.3, 0.2, 0.1], [0.5] * 5))
    assert np.isnan(found.y[1]) and found.y[0] == 0.5


def test_runs_of_other_places_are_left_out_of_the_mean():
    runs = accuracies([0.5] * 5, [0.1] * 5, [0.1] * 4)
    runs[1]["parts"]["corruptions"]["result"]["severities"] = [1, 2, 3, 4, 6]
    assert fog(runs).y == [0.5] * 5


def test_pooled_bins_are_the_bins_of_all_images_together():
    runs = [example("erm", 0), example("erm", 1), example("erm", 2, missing=("clean",))]
    rows = (([0, 10, 30], [None, 0.5, 0.9]), ([0, 30, 10], [None, 0.1, 0.5]))
    for run, (count, accuracy) in zip(runs, rows, strict=False):
        run["parts"]["clean"]["result"]["bins"] = {
            "count": count,
            "accuracy": accuracy,
            "confidence": accuracy,
        }
    found = curves.pooled_bins(runs, "bins")
    assert found["count"] == [0, 40, 40]
    np.testing.assert_allclose(found["accuracy"], [np.nan, 0.2, 0.8])
    np.testing.assert_allclose(found["confidence"], [np.nan, 0.2, 0.8])
    assert curves.pooled_bins(runs[2:], "bins") is None


def test_what_is_not_missing_is_known():
    assert curves.known([1, None, 0]) == [1, 0]


@pytest.fixture(scope="module")
def drawn():
    """What each figure of a comparison shows, and the markup."""
    runs = [example(method, seed) for method in ("erm", "mixup") for seed in (0, 1)]
    runs.append(example("sem_mixup", 0, failed=("attacks",)))
    found = []
    with pytest.MonkeyPatch.context() as patch:

        def recording(original):
            def recorded(*args, **options):
                found.append((args, options))
                return original(*args, **options)

            return recorded

        for name in ("curves", "bars", "reliability"):
            patch.setattr(curves.plots, name, recording(getattr(curves.plots, name)))
        markup = curves.curves(grouped(runs)["cifar100"], 7)
    return runs, found, markup


def test_every_figure_has_a_line_for_each_method_that_measured_it(drawn):
    _, found, markup = drawn
    methods = ["erm", "mixup", "sem_mixup"]
    panels = [list(args[0].items()) for args, _ in found[:-1]]
    assert [len(figure) for figure in panels] == [2, 2, 19, 2, 3, 3]
    for place, figure in enumerate(panels):
        expected = methods[:2] if place == 3 else methods  # the attacks of one failed
        assert all(list(lines) == expected for _, lines in figure)
    assert "unreadable" not in markup and 'id="severity-7-' in markup


def test_lines_are_the_means_over_seeds(drawn):
    runs, found, _ = drawn
    pairs = [run["parts"] for run in runs[:2]]
    fog = np.mean([part["corruptions"]["result"]["accuracy"]["fog"] for part in pairs], axis=0)
    np.testing.assert_allclose(found[2][0][0]["fog"]["erm"].y, fog)
    mce = np.mean([part["corruptions"]["result"]["mce_per_severity"] for part in pairs], axis=0)
    np.testing.assert_allclose(found[1][0][0]["mean accuracy"]["erm"].y, 1 - mce, atol=2e-6)
    attacks = [part["attacks"]["result"] for part in pairs]
    pgd = found[3][0][0]["PGD"]["erm"]
    clean = np.mean([one["clean_accuracy"] for one in attacks])
    np.testing.assert_allclose(pgd.y, [clean, *np.mean([one["pgd"] for one in attacks], axis=0)])
    np.testing.assert_allclose(pgd.x, [0, 1, 2, 4, 8], atol=1e-3)
    for place, key in ((4, "gap"), (5, "normalised_gap")):
        gaps = [
            part["equivariance"]["result"]["policies"]["fmix"]["layers"]["representation"][key]
            for part in pairs
        ]
        np.testing.assert_allclose(found[place][0][0]["fmix"]["erm"].y, np.mean(gaps, axis=0))


def test_probe_bars_have_means_deviations_and_chance(drawn):
    runs, found, _ = drawn
    (names, bars), options = found[-1]
    scores = [run["parts"]["probes"]["result"]["factors"]["rotation"]["score"] for run in runs]
    place = names.index("rotation")
    assert bars["erm"][place] == pytest.approx(np.mean(scores[:2]))
    assert options["spread"]["erm"][place] == pytest.approx(np.std(scores[:2], ddof=1))
    assert options["spread"]["sem_mixup"][place] is None
    assert options["chance"][place] == 0.25


def test_nothing_measured_is_said_under_every_title():
    nothing = [example("erm", 0, missing=("clean", "corruptions", "attacks", "equivariance"))]
    nothing[0]["parts"].pop("probes")
    markup = curves.curves(grouped(nothing)["cifar100"], 0)
    assert markup.count("<h3>") == markup.count("not measured") == 5


def test_a_curve_that_cannot_be_read_costs_only_its_figure():
    run = example("erm", missing=("clean", "corruptions", "equivariance"))
    run["parts"]["attacks"]["result"]["epsilons"] = ["x"]
    markup = curves.curves(grouped([run])["cifar100"], 0)
    assert markup.count("unreadable: ValueError") == 1
    assert "Scores of linear probes" in markup
