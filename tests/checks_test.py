"""One wording for the faults of every image operation."""

import jax.numpy as jnp
import numpy as np
import pytest

from semjax.checks import checked_images, checked_integer


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.float32, jnp.bfloat16])
def test_images_pass_as_they_are(dtype):
    images = jnp.ones((1, 2, 3, 1), dtype)
    assert checked_images(images) is images


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (
            np.ones((2, 2, 3)),
            ValueError,
            r"pictures must be \[B, H, W, C\]; found shape \(2, 2, 3\)",
        ),
        (np.ones((1, 2, 2, 3), int), TypeError, "pictures must be uint8 or floating; found int32"),
    ],
)
def test_other_images_are_named(images, error, message):
    with pytest.raises(error, match=message):
        checked_images(images, name="pictures")


def test_integers():
    assert checked_integer("k", np.int64(-3)) == -3
    assert checked_integer("k", 0, natural=True) == 0
    with pytest.raises(ValueError, match="k must be 0 or more; found -3"):
        checked_integer("k", -3, natural=True)
    with pytest.raises(TypeError, match=r"k must be a static integer; found 1\.5"):
        checked_integer("k", 1.5)
