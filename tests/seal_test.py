"""The seal tells damage from another format, and a newer format from a damaged one."""

import json
from typing import Any

import jax.numpy as jnp
import pytest
from checkpoint_example import make_state

from experiments.checkpointing import seal
from experiments.checkpointing.errors import CheckpointMismatch

STATE = {"w": jnp.arange(3.0), "step": jnp.zeros((), jnp.int32)}


def stored(content: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(content))


def test_a_seal_says_what_was_saved():
    found = seal.read(stored(seal.sealed(STATE)))
    assert found.kinds == {"w": "float32[3]", "step": "int32[]"}
    assert found.crc32.keys() == {"w", "step"}
    seal.verify(STATE, found)


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "w": jnp.array([0.0, 1.0, -2.0])},
        {**STATE, "w": jnp.array([0.0, 1.0, 2.0]).astype(jnp.bfloat16)},
        {**STATE, "v": jnp.zeros(1)},
    ],
)
def test_other_bytes_are_noticed_by_name(other: Any):
    with pytest.raises(ValueError, match=r"do not match their checksum in [wv]$"):
        seal.verify(other, seal.read(seal.sealed(STATE)))


def test_minus_zero_and_payloads_of_nan_count_as_bytes_do():
    zero, minus = ({"w": jnp.array([value])} for value in (0.0, -0.0))
    with pytest.raises(ValueError, match="in w"):
        seal.verify(minus, seal.read(seal.sealed(zero)))
    nan = {"w": jnp.array([jnp.nan])}
    seal.verify(nan, seal.read(seal.sealed(nan)))


def test_every_flipped_bit_of_a_seal_is_noticed_or_harmless():
    content = json.dumps(seal.sealed(STATE)).encode()
    whole = seal.read(json.loads(content))
    noticed = 0
    for place in range(len(content)):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            try:
                assert seal.read(json.loads(flipped)) == whole
            except (ValueError, RecursionError):  # a CheckpointMismatch would be wrong
                noticed += 1
    assert noticed > 0.9 * 8 * len(content)


@pytest.mark.parametrize(
    "content",
    [None, [], 3, {"format": 2}, {"format": "2"}, {"format": True}, {"format": 1, "crc32": {}}],
)
def test_what_is_no_seal_is_damaged(content: Any):
    with pytest.raises(ValueError, match="list of checksums is damaged"):
        seal.read(content)


def test_a_seal_may_leave_out_the_kinds_but_not_hold_others():
    content = {"format": 2, "crc32": {"w": 1}}
    assert seal.read({**content, "self": seal._own_crc32(content)}) == seal.Seal({"w": 1}, None)
    content = {"format": 2, "crc32": {"w": 1}, "arrays": {"w": 3}}
    with pytest.raises(ValueError, match="damaged"):
        seal.read({**content, "self": seal._own_crc32(content)})


@pytest.mark.parametrize("more", [{}, {"crc32": {}}, {"blake3": {"w": "a"}}])
def test_a_newer_format_is_named_with_those_that_are_read(more: dict):
    content = {"format": 9, **more}
    message = "written by a newer semjax, in format 9, where this one reads formats 1 to 2"
    for sealed in (content, {**content, "self": seal._own_crc32(content)}):
        with pytest.raises(CheckpointMismatch, match=message):
            seal.read(sealed)
    with pytest.raises(ValueError, match="damaged"):
        seal.read({**content, "self": 1})


def test_there_is_a_migration_from_every_earlier_format():
    assert sorted(seal._MIGRATIONS) == list(range(1, seal.FORMAT))
    state = make_state(3)
    crc32 = seal.sealed(state)["crc32"]
    found = seal.read(stored(crc32))  # format 1
    assert found == seal.Seal(crc32, None)
    seal.verify(state, found)
