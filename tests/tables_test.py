"""The cells of a study's tables, recomputed from its results."""

import json
import re

import numpy as np
import pytest
from scipy import stats
from study_results_example import make_results, make_study

from experiments.studying import measures, tables
from experiments.studying.tables import STAR, Code, Table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("tables") / "study")


@pytest.fixture(scope="module")
def results(study):
    return make_results(study)


@pytest.fixture(scope="module")
def block(study, results):
    return measures.blocks(study, results)[0]


def changed(study, results, change):
    """The first block of results after a change."""
    found = json.loads(json.dumps(results))
    change(found)
    return measures.blocks(study, found)[0]


def cells(found, method):
    """The cells of a method by the title of the column."""
    if isinstance(found, list):
        return {title: cell for table in found for title, cell in cells(table, method).items()}
    (row,) = [row for row in found.rows if row[0] == method]
    return dict(zip(found.head, row, strict=True))


def seeds_of(results, method, read):
    return np.array([read(results[f"{method}@100-{seed}"]) for seed in (0, 1, 2)])


def test_the_headline_is_mean_and_deviation_of_every_measure_that_was_made(block, results):
    found = cells(tables.headline(block), "sem")
    assert {k: found[k] for k in ("method", "n", "rows/step", "steps")} == {
        "method": "sem",
        "n": "3",
        "rows/step": "64",
        "steps": "100",
    }
    accuracy = 100 * seeds_of(results, "sem", lambda kept: kept["metrics"]["accuracy"])
    assert found["accuracy, % ↑"] == f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f}"
    nll = seeds_of(results, "sem", lambda kept: kept["metrics"]["nll"])
    assert found["NLL ↓"] == f"{nll.mean():.3f} ± {nll.std(ddof=1):.3f}"
    noise = seeds_of(
        results, "sem", lambda kept: 1 - np.mean(list(kept["corruptions"].values())[:3])
    )
    assert found["error under noise, % ↓"].startswith(f"{100 * noise.mean():.1f} ± ")
    # No run made these.
    assert not [title for title in found if re.search("FGSM|worst-group|probe", title)]


def test_a_table_has_at_most_twelve_columns_and_all_methods(block, study):
    found = tables.headline(block)
    assert len(found) == 2 and [len(table.head) for table in found] == [12, 9]
    for table in found:
        assert [row[0] for row in table.rows] == list(study.methods)
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_what_has_not_run_is_said_to_be_so(study, results):
    def change(found):
        for seed in (0, 1, 2):
            del found[f"erm@100-{seed}"]
        del found["mixup@100-2"]

    block = changed(study, results, change)
    erm, mixup = (cells(tables.headline(block), method) for method in ("erm", "mixup"))
    assert (erm["n"], erm["accuracy, % ↑"], erm["steps"]) == ("not run", "-", "100")
    assert mixup["n"] == "2 of 3"
    accuracy = [100 * results[f"mixup@100-{s}"]["metrics"]["accuracy"] for s in (0, 1)]
    expected = f"{np.mean(accuracy):.1f} ± {np.std(accuracy, ddof=1):.1f}"
    assert mixup["accuracy, % ↑"] == expected  # two of two that have run
    assert set(cells(tables.difference_table(block), "erm").values()) == {"erm", "-"}
    assert cells(tables.difference_table(block), "mixup")["NLL ↓"].endswith(" (2)")


def test_a_study_without_results_has_its_rows(study):
    block = measures.blocks(study, {})[0]
    (table,) = tables.headline(block)
    assert table.head == ("method", "n", "rows/step", "steps")
    assert [row[1] for row in table.rows] == ["not run"] * 5
    assert tables.corruption_tables(block) == {} == tables.factor_tables(block)
    assert "Nothing could be tested" in tables.family_of(block)


def test_a_measure_that_one_method_lacks_is_a_dash_there(study, results):
    def change(found):
        for seed in (0, 1, 2):
            found[f"mixup@100-{seed}"]["metrics"]["nll"] = None
        found["heavy_sem@100-1"]["metrics"]["nll"] = None

    block = changed(study, results, change)
    assert cells(tables.headline(block), "mixup")["NLL ↓"] == "-"
    assert cells(tables.headline(block), "heavy sem")["NLL ↓"].endswith(" (2)")
    assert cells(tables.difference_table(block), "mixup")["NLL ↓"] == "-"
    assert cells(tables.difference_table(block), "heavy sem")["NLL ↓"].count("(2)") == 1


def test_one_seed_has_neither_deviation_nor_interval(tmp_path):
    study = make_study(tmp_path / "one", seeds=(4,))
    block = measures.blocks(study, make_results(study))[0]
    assert re.fullmatch(r"\d\d\.\d ± -", cells(tables.headline(block), "sem")["accuracy, % ↑"])
    found = cells(tables.difference_table(block), "mixup")
    assert re.fullmatch(r"[+-]\d+\.\d -", found["accuracy, % ↑"])
    assert STAR not in "".join(found.values())


def test_differences_are_paired_with_intervals_and_stars_after_holm(block, results):
    found = tables.differences(block)
    # An independent account: SciPy's test for each, Holm's rule by sorting.
    tests = {}
    for method, name in found:
        mine, theirs = (
            seeds_of(results, slug, lambda kept, name=name: kept["metrics"].get(name, np.nan))
            for slug in (method.replace(", ", "_").replace(" ", "_"), "sem")
        )
        if np.ptp(mine - theirs) > 1e-12:
            tests[method, name] = stats.ttest_rel(mine, theirs)
    ranked = sorted(tests, key=lambda key: tests[key].pvalue)
    family = len(ranked) + len(block.others)  # and the noise errors, which are read elsewhere
    assert family == len([one for one in found.values() if one.p is not None])
    for key, test in tests.items():
        interval = test.confidence_interval(0.95)
        assert found[key].p == pytest.approx(test.pvalue)
        assert (found[key].low, found[key].high) == pytest.approx((interval.low, interval.high))
    smallest = min((one for one in found.values() if one.p is not None), key=lambda one: one.p)
    assert smallest.adjusted == pytest.approx(family * smallest.p)
    table = tables.difference_table(block)
    test = tests["heavy sem", "accuracy"].confidence_interval(0.95)
    mine, theirs = (
        seeds_of(results, slug, lambda kept: kept["metrics"]["accuracy"])
        for slug in ("heavy_sem", "sem")
    )
    mean = (mine - theirs).mean()
    shown = f"{100 * mean:+.1f} [{100 * test.low:.1f}, {100 * test.high:.1f}] {STAR}"
    assert cells(table, "heavy sem")["accuracy, % ↑"] == shown
    stars = sum(cell.endswith(STAR) for row in table.rows for cell in row)
    assert stars == sum(one.significant for one in found.values()) > 0
    assert sum(one.p < 0.05 for one in found.values() if one.p is not None) > stars


def test_all_that_can_be_compared_fits_into_a_table_of_twelve_columns(study, results):
    def change(found):
        for kept in found.values():
            kept["metrics"] |= {"probe_score": 0.5, "worst_group": 0.25}

    table = tables.difference_table(changed(study, results, change))
    assert table.head[-2:] == ("mean probe score above chance ↑", "worst-group accuracy, % ↑")
    assert len(table.head) == 12


def test_the_family_is_told(block):
    told = tables.family_of(block)
    assert "Method minus sem" in told
    # PGD accuracy is 0 in all runs, so that it does not vary and is not tested.
    assert "all 32 tests of this table (4 methods; accuracy, NLL, ECE, " in told
    assert "PGD" not in told


def test_differences_without_spread_have_no_interval(block):
    assert cells(tables.difference_table(block), "mixup")["PGD accuracy, % ↑"] == "+0.0 -"


def test_what_rounds_to_zero_has_no_minus():
    metric = measures.MEASURES[0]
    assert tables._show(metric, -0.0001) == "0.0"
    assert tables._show(metric, -0.0001, sign=True) == "+0.0"
    assert tables._show(metric, -0.001, sign=True) == "-0.1"


def test_corruptions_stand_in_a_table_for_each_kind(block, results):
    found = tables.corruption_tables(block)
    assert list(found) == ["noise", "blur", "weather", "digital", "held out"]
    rows = cells(found["weather"], "heavy sem")
    assert list(rows) == [
        "method",
        *(f"{name}, % ↓" for name in ("snow", "frost", "fog", "brightness", "mean: weather")),
    ]
    error = {
        name: 100
        - 100 * seeds_of(results, "heavy_sem", lambda k, n=name: k["corruptions"][n]).mean()
        for name in ("snow", "frost", "fog", "brightness")
    }
    assert rows["fog, % ↓"] == f"{error['fog']:.1f}"
    assert rows["mean: weather, % ↓"] == f"{np.mean(list(error.values())):.1f}"


def test_one_corruption_of_a_kind_needs_no_mean(study, results):
    def change(found):
        for kept in found.values():
            kept["corruptions"] = {"jpeg_compression": [0.25, 0.75]}

    (table,) = tables.corruption_tables(changed(study, results, change)).values()
    assert table.head == ("method", "jpeg compression, % ↓")
    assert {row[1] for row in table.rows} == {"50.0"}


def test_factors_and_groups_have_columns_of_their_own(block, results):
    probes, groups = tables.factor_tables(block).values()
    assert (probes.head, groups.head) == (("method", "rotation", "contrast"), ("method", "3, red"))
    score = seeds_of(
        results, "sem", lambda kept: (kept["probes"]["rotation"]["score"] - 0.25) / 0.75
    )
    shown = f"{score.mean():.3f} ± {score.std(ddof=1):.3f}"
    assert cells(probes, "sem")["rotation"] == shown
    accuracy = 100 * seeds_of(results, "sem", lambda kept: kept["groups"]["groups"][0]["accuracy"])
    shown = f"{accuracy.mean():.1f} ± {accuracy.std(ddof=1):.1f}"
    assert cells(groups, "sem")["3, red"] == shown


def test_a_method_is_told_by_its_flags(study):
    found = tables.methods(study)
    assert cells(found, "sem, l1")["flags"] == "--sem_weight=1.0 --distance=l1"
    assert cells(found, "erm")["flags"] == "--policy=none --sem_weight=0.0"
    assert "`--sem_weight=1.0 --distance=l1`" in tables.markdown(found, words=2)


def test_costs_are_rows_and_times(study, results, block):
    found = cells(tables.cost(block), "mixup")
    assert found == {
        "method": "mixup",
        "rows forwarded": "3,200",
        "s/step": "0.050 ± 0.000",
        "images/s": "392 ± 1",
    }
    by_rows = measures.blocks(study, results)[1]
    assert cells(tables.cost(by_rows), "mixup")["rows forwarded"] == "6,400"

    def change(kept):
        kept["mixup@100-0"]["seconds"] = {"train": None}
        kept["mixup@100-1"]["seconds"] = {}
        kept["mixup@100-2"].pop("seconds")

    assert cells(tables.cost(changed(study, results, change)), "mixup")["s/step"] == "-"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sem_mixup", "sem_mixup"),
        ("_sem_", r"\_sem\_"),
        ("a|b *c* `d` [e](f) <g>", r"a\|b \*c\* \`d\` \[e\](f) \<g\>"),
        ("two\nlines\x00", "two lines\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_names_are_shown_as_they_are(text, shown):
    assert tables.escaped(text) == shown
    assert tables.markdown(Table((text,), ((text,),))).splitlines() == [
        f"| {shown} |",
        "| :--- |",
        f"| {shown} |",
    ]


def test_code_holds_bars_and_backquotes():
    table = tables.markdown(Table(("a", "b"), (("x", Code("--y=1|2")),)), words=2)
    assert table.splitlines()[1:] == ["| :--- | :--- |", r"| x | `--y=1\|2` |"]
    assert tables.code("a`b") == "`` a`b ``"


def test_a_terminal_has_aligned_columns():
    table = Table(("method", "n"), (("a", "10"), ("longer one", "3")))
    assert tables.aligned(table).splitlines() == [
        "method       n",
        "a           10",
        "longer one   3",
    ]
