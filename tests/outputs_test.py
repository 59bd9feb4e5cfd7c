"""The contract between model and loss is a pytree."""

import jax
import jax.numpy as jnp
import pytest

from semjax import Outputs


def test_outputs_pass_through_jit_as_they_are():
    outputs = Outputs(logits=jnp.ones((2, 3)), model_state={"mean": jnp.zeros(3)})
    back = jax.jit(lambda x: x)(outputs)
    assert jax.tree.structure(back) == jax.tree.structure(outputs)
    assert back.representation is None
    assert back.feature_map is None


def test_outputs_are_named():
    with pytest.raises(TypeError, match="positional"):
        Outputs(jnp.ones((2, 3)))


def test_outputs_are_not_changed_in_place():
    with pytest.raises(AttributeError, match="cannot assign"):
        Outputs(logits=jnp.ones((2, 3))).logits = None
