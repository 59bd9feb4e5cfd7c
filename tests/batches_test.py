"""What a batch must hold; most faults are tested with the loss that names them."""

import jax.numpy as jnp
import pytest

from semjax.batches import check_batch, check_views, main_input, sample_weights
from semjax.rows import Rows


def test_labels_are_float32_where_they_are_soft_or_numbers():
    image = jnp.ones((2, 4))
    for label, regression, dtype in (
        (jnp.arange(2), False, jnp.int32),
        (jnp.arange(2), True, jnp.float32),
        (jnp.ones((2, 3), jnp.bfloat16), False, jnp.float32),
    ):
        _, found = check_batch({"image": image, "label": label}, regression=regression)
        assert found.dtype == dtype


def test_every_input_of_a_tree_has_the_rows_of_the_others():
    batch = {"image": {"a": jnp.ones((2, 4)), "b": jnp.ones((3, 4))}, "label": jnp.arange(2)}
    with pytest.raises(ValueError, match=r"found shape \(3, 4\)"):
        check_batch(batch)


def test_a_policy_sees_the_first_image_of_a_tree():
    flat, photo = jnp.ones((2, 4)), jnp.ones((2, 4, 4, 1))
    assert main_input([flat, photo]) is photo
    assert main_input([flat]) is flat
    with pytest.raises(ValueError, match="found none"):
        main_input([])


def test_views_have_the_shape_of_the_images():
    with pytest.raises(ValueError, match=r"found \(2, 3, 5\)"):
        check_views({"views": jnp.ones((2, 3, 5))}, jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="floating"):
        check_views({"views": jnp.ones((2, 3, 4), int)}, jnp.ones((2, 4)))


@pytest.mark.parametrize("asked_by", ["consistency_weight", "mixed_from='views'"])
def test_the_option_that_needs_views_is_named(asked_by):
    image, option = jnp.ones((2, 4)), {"asked_by": asked_by}
    assert check_views({"views": jnp.ones((2, 1, 4))}, image, **option).shape == (2, 1, 4)
    for views in (None, jnp.ones((2, 0, 4)), jnp.ones((2, 4))):
        with pytest.raises(ValueError, match=rf"^{asked_by} needs batch\['views'\]"):
            check_views({"views": views}, image, **option)
    with pytest.raises(ValueError, match=rf"^{asked_by} is for one input; .* a tree of 2"):
        check_views({"views": image}, {"a": image, "b": image}, **option)


def test_weights_of_padding_are_zero():
    rows = Rows(2, jnp.array([True, False]))
    assert sample_weights({"sample_weight": [2.0, jnp.nan]}, rows).tolist() == [2, 0]
    assert sample_weights({}, rows) is None
