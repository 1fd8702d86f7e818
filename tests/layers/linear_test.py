import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.layers import (
    Conv,
    Dense,
    conv2d,
    lecun_normal,
    torch_uniform,
)


def _images(shape, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [
        *((1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1)),
        *((3, 2, 2), (3, 2, 3), (5, 1, 2), (5, 2, 1)),
    ],
)
def test_conv2d_pads_both_sides_alike(size, stride, dilation):
    x, kernel = _images((1, 6, 5, 2)), _images((size, size, 2, 3), seed=1)
    pad = dilation * (size - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    expected = np.zeros((1, -(-6 // stride), -(-5 // stride), 3))
    for row, column in np.ndindex(expected.shape[1:3]):
        for i, j in np.ndindex(size, size):
            pixel = padded[
                0, row * stride + i * dilation, column * stride + j * dilation
            ]
            expected[0, row, column] += pixel @ kernel[i, j]
    got = conv2d(jnp.array(x), jnp.array(kernel), stride=stride, dilation=dilation)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (np.ones((2, 5, 5, 2), np.uint8), r"uint8\[2, 5, 5, 2\]"),
        (jnp.ones((5, 5, 2)), r"float32\[5, 5, 2\]"),
    ],
)
def test_what_is_no_batch_of_images_in_floats_is_refused(images, shown):
    kernel = jnp.full((3, 3, 2, 4), 0.5)  # as an integer, 0
    with pytest.raises(InputError, match=f"images are {shown}; they must be floats"):
        conv2d(images, kernel)


def test_torch_uniform_fills_its_bound_and_does_not_depend_on_the_shape():
    key = jax.random.key(1)
    draws = torch_uniform(16)(key, (10, 20, 5))
    assert 0.249 < jnp.abs(draws).max() <= 0.25
    assert jnp.abs(draws.mean()) < 0.02
    np.testing.assert_array_equal(draws.ravel(), torch_uniform(16)(key, (1000,)))


def test_conv_has_no_bias_and_dense_has_one():
    conv = Conv(4, size=3, stride=2).init(jax.random.key(0), jnp.ones((1, 5, 5, 2)))
    assert jax.tree.map(jnp.shape, conv) == {"params": {"kernel": (3, 3, 2, 4)}}
    assert jnp.abs(conv["params"]["kernel"]).max() <= 18**-0.5
    dense = Dense(3).init(jax.random.key(0), jnp.ones((1, 4)))
    zero = Dense(3).apply(dense, jnp.zeros((1, 4)))
    np.testing.assert_array_equal(zero[0], dense["params"]["bias"])
    assert jnp.abs(zero).min() > 0


def test_weights_and_biases_are_drawn_by_the_number_of_inputs_of_one_output():
    def number(fan_in):
        return lambda key, shape, dtype=float: jnp.full(shape, fan_in, dtype)

    key = jax.random.key(0)
    conv = Conv(4, size=3, draw=number).init(key, jnp.ones((1, 5, 5, 2)))
    dense = Dense(3, number, number).init(key, jnp.ones((1, 7)))
    assert set(np.unique(conv["params"]["kernel"])) == {18}
    assert [set(np.unique(leaf)) for leaf in jax.tree.leaves(dense)] == [{7}, {7}]


def test_lecun_normal_is_cut_and_has_its_variance():
    draws = lecun_normal(16)(jax.random.key(0), (100, 1000))
    assert np.var(draws) * 16 == pytest.approx(1, rel=0.01)
    assert np.abs(draws).max() * 4 == pytest.approx(2 / 0.8796, rel=1e-3)
