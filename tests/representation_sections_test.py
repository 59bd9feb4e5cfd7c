"""What the page shows of the representation, of groups and of pictures."""

import numpy as np
import pytest
from report_example import example, png
from report_sections_test import cells

from experiments.reporting import representation_sections as sections


@pytest.fixture(scope="module")
def parts():
    return {name: part["result"] for name, part in example()["parts"].items()}


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every figure that is drawn."""
    found = []

    def recording(original):
        def recorded(*args, **options):
            found.append((args, options))
            return original(*args, **options)

        return recorded

    for name in ("curves", "bars", "projection"):
        monkeypatch.setattr(sections.plots, name, recording(getattr(sections.plots, name)))
    return found


def test_gaps_are_drawn_raw_and_scale_free_for_each_policy_and_layer(parts, drawn):
    gaps = parts["equivariance"]
    rows = cells(sections.equivariance(gaps))
    assert len(drawn) == 2
    for key, ((panels,), _) in zip(("gap", "normalised_gap"), drawn, strict=True):
        assert list(panels) == ["mixup", "cutmix", "fmix"]
        for policy, entry in gaps["policies"].items():
            for layer, found in entry["layers"].items():
                assert panels[policy][layer].y == found[key]
                assert panels[policy][layer].x == gaps["weight"]
                means = (found["mean_gap"], found["mean_normalised_gap"])
                assert [policy, layer, *(f"{value:.4f}" for value in means)] in rows


def test_no_policy_is_no_figure(parts, drawn):
    assert "<figure" not in sections.equivariance({**parts["equivariance"], "policies": {}})
    assert drawn == []


def test_probes_are_drawn_beside_chance(parts, drawn):
    factors = parts["probes"]["factors"]
    rows = cells(sections.probes(parts["probes"]))
    (((labels, values), options),) = drawn
    assert labels[0] == "brightness (R²)" and labels[2] == "rotation (accuracy)"
    assert values == {"score": [found["score"] for found in factors.values()]}
    assert options["chance"] == [found["chance"] for found in factors.values()]
    turned = factors["rotation"]
    assert ["rotation", "accuracy", f"{turned['score']:.3f}", "0.250", "4"] in rows
    assert "4,000 images and scored on 2,000" in sections.probes(parts["probes"])


def test_groups_stand_from_the_worst_to_the_best_and_empty_ones_last(parts, drawn):
    found = sections.groups(parts["groups"])
    names = [row[0] for row in cells(found)[1:]]
    assert names[0] == parts["groups"]["worst_group"] and names[-1] == "empty"
    (((labels, values), options),) = drawn
    lengths = values["accuracy"][:-1]
    assert lengths == sorted(lengths) and values["accuracy"][-1] is None
    assert labels[0] == "waterbird, land (642)"
    assert options["line"] == ("average", parts["groups"]["average"])


def test_of_many_groups_only_the_worst_are_drawn_but_all_are_listed(parts, drawn):
    many = [{"name": f"g{n}", "count": 1, "accuracy": n / 50} for n in reversed(range(50))]
    found = sections.groups({**parts["groups"], "groups": many, "average": None})
    (((labels, _), options),) = drawn
    assert labels == [f"g{n} (1)" for n in range(30)] and options["line"] is None
    assert len(cells(found)) == 51 and "the 30 worst of 50 groups" in found


def test_pictures_stand_with_their_captions_and_broken_ones_with_the_reason(parts):
    found = sections.pictures({**parts["pictures"], "saliency": {"png": "?", "caption": "<b>"}})
    assert found.count("<img") == 2 and "unreadable: picture is not base64" in found
    assert "Rows, partners and mixes of one batch. Look whether" in found
    assert parts["pictures"]["strip"]["png"] in found
    other = sections.pictures({"new": {"png": png(np.random.default_rng(0)), "caption": "<b>x."}})
    assert "<h3>new</h3>" in other and "&lt;b&gt;x." in other and "<b>" not in other


def test_the_projection_counts_its_points(parts, drawn):
    found = sections.projection(parts["projection"])
    assert "PCA of the representation; 300 clean images and 40 mixed ones." in found
    assert drawn == [((parts["projection"],), {})]
