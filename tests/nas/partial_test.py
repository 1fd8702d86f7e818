import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.nas.partial import bypass, shuffle_channels


@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (1, 4, 3, 1)])
def test_a_strided_bypass_and_its_gradient_equal_reduce_window_with_ties(shape):
    # Few distinct values, all negative: many ties, and a zero padding would win.
    x = jnp.array(np.random.default_rng(0).integers(-3, 0, shape), jnp.float32)
    padding = ((0, 0), (0, shape[1] % 2), (0, shape[2] % 2), (0, 0))

    def reference(x, stride):
        window = (1, stride, stride, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, window, padding)

    expected = reference(x, 2)
    weights = jnp.arange(1.0, expected.size + 1).reshape(expected.shape)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(weights * pool(x, 2)))(x)

    np.testing.assert_array_equal(bypass(x, 2), expected)
    np.testing.assert_array_equal(gradient(bypass), gradient(reference))
    np.testing.assert_array_equal(bypass(x, 1), x)


def test_a_shuffle_brings_the_first_channels_of_all_groups_to_the_front():
    x = jnp.arange(12)[None, None, None] + jnp.array([0, 100])[:, None, None, None]
    order = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    np.testing.assert_array_equal(shuffle_channels(x, 3), x[..., order])
    np.testing.assert_array_equal(shuffle_channels(x, 1), x)
