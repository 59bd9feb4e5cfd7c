"""The arrays of a state by name: their kinds, and how two states differ."""

import jax
import jax.numpy as jnp
import pytest
from checkpoint_example import like, make_state

from experiments.checkpointing import arrays


def test_a_state_and_its_shapes_have_the_same_names_and_kinds():
    state = make_state(ema=True)
    assert arrays.kinds(state) == arrays.kinds(like(state))
    assert arrays.kinds(state)["params/dense/kernel"] == "float32[8,16]"
    assert arrays.kinds(state)["step"] == "int32[]"
    assert arrays.kinds({"n": 3}) == {"n": "int"}


def test_differences_name_what_is_missing_unexpected_and_of_another_kind():
    found, expected = {"a": "int32[]", "b": "int32[]"}, {"b": "float32[]", "c": "int32[2]"}
    assert arrays.differences(found, expected) == [
        "a (int32[]) is not expected",
        "b is int32[] (float32[] expected)",
        "c is missing (int32[2] expected)",
    ]
    assert arrays.differences(found, found) == []


def test_only_what_comes_back_as_it_is_may_be_saved():
    arrays.require_arrays({"x": jnp.zeros(2), "absent": None})
    with pytest.raises(TypeError, match=r"state leaf a/0 must be .* got float: wrap it"):
        arrays.require_arrays({"a": [0.5]})


def test_a_template_says_where_its_leaves_lie():
    arrays.require_shardings({"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"template leaf x \(ShapeDtypeStruct\) has no sharding"):
        arrays.require_shardings({"x": jax.ShapeDtypeStruct((2,), jnp.float32)})
