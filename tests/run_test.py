"""The benchmarks' figures: each has a ratio or a reason, in both files; no time is judged."""

import doctest
import importlib.util
import json
import statistics

import pytest

from benchmarks import figures, machine, ratios, report, run, throughput, work, worker, workers
from benchmarks.figures import Figure, Settings
from benchmarks.report import Result
from benchmarks.workers import Measured

# Of the table, by figure.
TARGETS = {
    "resnet18": 1.0,
    "resnet18_bf16": 1.25,
    "wrn_16_4": 1.0,
    "resnet20": 1.0,
    "bare_jnp": 1.03,
    "sem_resnet20": 2.03,
    "sem_resnet18": 2.03,
    "loop_resnet18": 1.02,
    "loop_digits": 1.15,
    "input_resnet18": 0.03,
    "memory": 1.1,
    "memory_remat": 0.6,
    "time_remat": 1.35,
}


@pytest.mark.parametrize("module", [figures, machine, ratios, report, work, worker])
def test_examples_run(module):
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_smoke_measures_draws_and_writes_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stem = tmp_path / "out" / "found"
    names = ["resnet20", "bare_jnp", "sem_held_resnet20"]
    command = ["--smoke", f"--only={','.join(names)}", f"--output={stem}"]
    assert run.main(command) == 0
    found = json.loads(stem.with_suffix(".json").read_text())
    shown = stem.with_suffix(".md").read_text()
    assert [figure["name"] for figure in found["figures"]] == [
        *("resnet20", "resnet20_bf16"),
        *("bare_jnp", "sem_held_resnet20"),
    ]
    for figure in found["figures"]:
        assert f"| {figure['name']} |" in shown
        assert not figure["failed"]
        if importlib.util.find_spec("torch") or not figure["name"].startswith("resnet20"):
            assert figure["spread"]["median"] > 0
        else:
            assert "pip install 'semjax[peers]'" in figure["skipped"]
            assert f"Skipped: {figure['name']}: " in shown
    assert found["command"] == f"python -m benchmarks.run --smoke --only={','.join(names)} " + (
        f"--output={stem}"
    )
    assert machine.line(found["machine"]) in shown
    assert shown.splitlines()[-1] in capsys.readouterr().out


def _pretended(subjects, **_):
    """Measured, in three rounds of made-up seconds."""
    found = Measured()
    for place, (name, subject) in enumerate(subjects.items(), start=1):
        if reason := subject.missing():
            found.skipped[name] = reason
            continue
        found.seconds[name] = [place, 2.0 * place, 4.0 * place]
        found.facts[name] = {"peak_mib": 100.0 * place, "platform": "cpu"}
    return found


def _all_figures(monkeypatch, **settings) -> list[Result]:
    monkeypatch.setattr(workers, "measure", _pretended)
    monkeypatch.setattr(
        throughput, "measure", lambda *_, **__: [Result("corruptions", "", ratios.spread([12.0]))]
    )
    chosen = Settings(**settings)
    names = figures.checked_names(figures.groups(chosen), ("startup", "corruptions"), "")
    return [result for part in run.results(chosen, names, lambda _: None) for result in part]


def test_every_figure_of_the_table_is_measured_against_its_target(monkeypatch):
    monkeypatch.setattr(workers.Subject, "missing", lambda _: None)
    found = {result.name: result for result in _all_figures(monkeypatch)}
    assert {name: found[name].target for name in TARGETS} == TARGETS
    assert {name for name, result in found.items() if result.skipped} == {
        "startup_cold",
        "startup_warm",
    }
    for name, result in found.items():
        assert result.skipped or result.spread.median > 0
        assert f"| {name} | {result.title} |" in report.table([result])
    ours = found["resnet18"].details["subjects"]["semjax float32"]
    assert statistics.median(ours["seconds"]) == 2.0
    assert found["resnet18"].parts == "2 s / 4 s"
    assert found["memory"].parts == "100 MiB / 300 MiB"


def test_without_peers_what_compares_with_them_is_skipped(monkeypatch):
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda _: None)
    found = {result.name: result for result in _all_figures(monkeypatch)}
    assert found["sem_resnet18"].spread and found["bare_jnp"].spread
    reason = "torch float32: torch is not installed: pip install 'semjax[peers]'"
    assert found["resnet18"].skipped == reason
    assert f"\nSkipped: resnet18: {reason}." in report.table(list(found.values()))


def test_names_of_figures_and_groups_are_distinct_and_select():
    groups = figures.groups(Settings())
    names = [figure.name for group in groups for figure in group.figures]
    assert len(set(names)) == len(names)
    for group in groups:
        alone = group.only({group.figures[-1].name})
        assert list(alone.subjects) == [
            name for name in group.subjects if name in alone.figures[0].subjects()
        ]
        assert group.only({group.name}).figures == group.figures


def test_an_unknown_name_ends_the_command_with_the_allowed_ones(capsys):
    assert run.main(["--only=resnet18,resnet19"]) == 2
    error = capsys.readouterr().err
    assert "there is no resnet19; allowed: resnet18, wrn_16_4" in error
    assert "startup, imports, corruptions" in error


# Three rounds; the second one at half the machine's speed.
MEASURED = Measured(
    seconds={"a": [3.0, 8.0, 2.0], "b": [2.0, 4.0, 2.0], "f": [1.0, 1.0, 0.5]},
    facts={name: {"peak_mib": size} for name, size in (("a", 90.0), ("b", 60.0), ("f", 1.0))},
    failed={"x": "it fell"},
)


def test_a_ratio_is_the_median_of_those_of_each_round():
    result = run.drawn(Figure("n", "a / b", "a", "b", 1.4), MEASURED)
    assert result.spread.rounds == (1.5, 2.0, 1.0)
    assert (result.spread.least, result.spread.median, result.spread.greatest) == (1.0, 1.5, 2.0)
    assert result.met() is False


def test_the_bound_of_a_side_without_gradient_is_the_forward_pass_as_measured():
    result = run.drawn(Figure("n", "a / b", "a", "b", free="f"), MEASURED)
    assert result.target == pytest.approx(1.02 * (1 + 0.25))


def test_memory_is_that_of_the_processes():
    result = run.drawn(Figure("n", "a / b", "a", "b", 1.5, quantity="peak_mib"), MEASURED)
    assert result.spread.rounds == (1.5,)
    assert result.met() is True


def test_a_figure_of_a_subject_that_failed_says_so():
    result = run.drawn(Figure("n", "a / x", "a", "x"), MEASURED)
    assert (result.failed, result.spread) == ("x: it fell", None)


def test_subjects_on_different_devices_are_not_compared():
    facts = {"a": {"platform": "cpu"}, "b": {"platform": "cuda"}}
    measured = Measured(seconds=MEASURED.seconds, facts=facts)
    result = run.drawn(Figure("n", "a / b", "a", "b"), measured)
    assert result.failed.startswith("not all run on the same device")
