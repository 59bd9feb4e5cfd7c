"""What a mistyped name may have meant: near names are named, far ones are not, on real errors."""

import pytest
from runs import parse

from experiments.command_line import suggestions
from experiments.command_line.flagfiles import ConfigError
from experiments.datasets import loading
from experiments.datasets.data import DataError

KNOWN = ("sem_weight", "seed", "learning_rate", "weight_decay", "alpha")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("sem_wieght", "sem_weight"),
        ("sem-weight", "sem_weight"),
        ("semweight", "sem_weight"),
        ("learning_rat", "learning_rate"),
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("zzz", None),
        ("", None),
        ("sem_weight" * 1000, None),
    ],
    ids=lambda text: str(text)[:12],
)
def test_the_nearest_name_is_found_or_none(word: str, meant: str | None):
    assert suggestions.nearest(word, KNOWN) == meant


def test_initials_that_two_names_share_mean_neither():
    assert suggestions.nearest("lr", (*KNOWN, "label_reach")) is None
    assert suggestions.nearest("lr", (*KNOWN, *KNOWN)) == "learning_rate"


def test_a_name_that_there_is_has_no_hint():
    assert suggestions.hint("seed", KNOWN) == ""
    assert suggestions.hint("sed", KNOWN, prefix="--") == "; did you mean --seed?"


@pytest.mark.parametrize(
    ("model", "end"),
    [("resnt18", "did you mean resnet18?"), ("vit_s16", "did you mean vit_s_16?"), ("zzz", "")],
)
def test_an_unknown_model_gets_a_hint(model: str, end: str):
    with pytest.raises(ConfigError, match=f"--model={model}: unknown model") as caught:
        parse(f"--model={model}")
    assert suggestions.of_error(caught.value) == (end and f"; {end}")


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("digitss", "did you mean digits?"),
        ("colored_digits", "did you mean coloured_digits?"),
        ("cifar1000", "did you mean cifar100?"),
        ("cifar10", ""),  # it is one, and only not prepared
        ("mnistt", "did you mean mnist?"),
        ("of_my_own", ""),
    ],
)
def test_a_data_set_that_is_not_there_gets_a_hint(name: str, end: str, tmp_path):
    with pytest.raises(DataError) as caught:
        loading.load(name, data_dir=str(tmp_path))
    assert suggestions.of_error(caught.value) == (end and f"; {end}")


def test_other_errors_get_none():
    assert suggestions.of_error(DataError("/data/x.png cannot be read")) == ""
