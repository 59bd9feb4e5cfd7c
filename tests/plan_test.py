"""The flags of an evaluation: lists are checked and put in order, epsilons read as fractions."""

import dataclasses

import pytest

from experiments.command_line.flagfiles import ConfigError
from experiments.evaluation.plan import GAP_POLICIES, PARTS, Plan
from semjax.corruptions import CORRUPTIONS


def test_all_is_everything():
    assert Plan().listed("parts") == PARTS
    assert Plan().listed("corruptions") == CORRUPTIONS
    assert len(CORRUPTIONS) == 19


def test_a_list_is_in_the_order_of_the_whole():
    assert Plan(parts="ood, clean").listed("parts") == ("clean", "ood")
    assert Plan(ood_sets="b,a").listed("ood_sets") == ("b", "a")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("parts", "clean,nothing"),
        ("parts", ""),
        ("parts", "clean,clean"),
        ("corruptions", "fogg"),
        ("severities", "0"),
        ("severities", "1,6"),
        ("gap_policies", "manifold_mixup"),
        ("epsilons", "0"),
        ("epsilons", "1/0"),
        ("epsilons", "x"),
        ("epsilons", "0.2,0.1"),
        ("epsilons", "0.1,0.1"),
        ("epsilons", "2"),
        ("attack_steps", 0),
        ("attack_restarts", 0),
        ("gap_bins", 0),
        ("limit", -1),
    ],
)
def test_what_cannot_be_names_the_flag(flag: str, value: str | int):
    with pytest.raises(ConfigError, match=f"--{flag}={value}"):
        Plan(**{flag: value})


def test_epsilons_are_fractions_or_numbers():
    assert Plan(epsilons="2/255, 0.5").epsilon_values() == (2 / 255, 0.5)


def test_policies_whose_gap_is_measured_mix_the_input():
    assert "mixup" in GAP_POLICIES
    assert "manifold_mixup" not in GAP_POLICIES


def test_only_the_batch_size_leaves_results_as_they_are():
    kept = [field.name for field in dataclasses.fields(Plan) if field.metadata["keeps_result"]]
    assert kept == ["batch_size"]
