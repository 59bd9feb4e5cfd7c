"""Every policy is as near to its reference as docs/parity.md says."""

import math
import re
from pathlib import Path

import numpy as np
import parity
import policy_reference
import pytest

from semjax.policies.cutmix import cutmix_mask

ROWS = {row.policy: row for row in parity.ROWS}


@pytest.mark.parametrize("row", parity.ROWS, ids=ROWS.keys())
def test_the_deviation_is_within_the_tolerance(row):
    assert parity.deviation_of(row) <= row.tolerance


def test_the_page_is_up_to_date():
    found = parity.PAGE.read_text("utf-8") if parity.PAGE.is_file() else ""
    assert found == parity.render(), "run: python tests/parity.py"


def test_a_policy_has_one_row():
    assert len(ROWS) == len(parity.ROWS)


def test_the_tests_that_the_fixtures_name_exist():
    for row in parity.ROWS:
        names = re.findall(r"`(\w+\.py)`", row.fixtures)
        assert names, row.policy
        for name in names:
            assert (Path(__file__).parent / name).is_file()


def test_the_number_of_boxes_is_the_tables():
    agree = 0
    for side, weight, centre, box, after in policy_reference.BOXES:
        found = np.asarray(cutmix_mask([weight], [[centre, centre]], height=side, width=side))
        corners = [[box[0], box[0], box[1], box[1]]]
        expected = policy_reference.box_mask(corners, side, side)
        agree += bool((found == expected).all() and abs(found.mean() - after) < 5e-7)
    text = f"{agree} of {len(policy_reference.BOXES)} boxes"
    assert text == "10 of 10 boxes"
    assert ROWS["cutmix"].fixtures.startswith(text)


def test_a_deviation_is_shown_as_a_power_of_ten():
    assert parity.bound(0.0) == "exact"
    assert parity.bound(2e-8) == "<= 1e-7"
    assert parity.bound(6e-8) == "<= 1e-6"
    assert math.isinf(parity._gap(np.zeros(2), np.zeros(3)))


def test_a_policy_that_is_wrong_would_be_told():
    """The comparison sees a swap of H and W, a swap of the labels and the wrong axis."""
    mask = policy_reference.smoothmix_mask([0.3], [[0.2, 0.9]], 4, 4)
    assert parity._gap(mask, mask.transpose(0, 2, 1, 3)) > 0.1
    assert parity._gap(mask, 1 - mask) > 0.1
    noise = np.random.default_rng(0).standard_normal((1, 8, 5, 2))
    default, compat = (policy_reference.fmix_field(noise, 8, 8, 3.0, c) for c in (False, True))
    assert parity._gap(default / np.abs(default).max(), compat / np.abs(compat).max()) > 0.1
