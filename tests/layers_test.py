import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.layers import BatchNorm, Conv, Dense, conv2d, torch_uniform


def _images(shape, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "stride", "dilation"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 2, 2), (5, 1, 2), (5, 2, 1)],
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


def test_batch_norm_in_training_normalises_with_the_biased_variance():
    x = _images((4, 3, 3, 2))
    norm = BatchNorm(affine=False)
    variables = norm.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(2))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(2))
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    stats = updates["batch_stats"]
    unbiased = x.reshape(-1, 2).var(0, ddof=1)
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_batch_norm_leaves_the_running_statistics_of_an_immutable_collection():
    x = _images((4, 2))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    kept = norm.apply(variables, x, train=True)
    moved, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(kept, moved)


def test_batch_norm_in_evaluation_uses_running_statistics_scale_and_bias():
    x = _images((4, 2))
    variables = {
        "params": {"scale": jnp.array([2.0, 3.0]), "bias": jnp.array([0.5, -1.0])},
        "batch_stats": {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([4.0, 9.0])},
    }
    y = BatchNorm().apply(variables, x, train=False)
    expected = (x - [1, 2]) / np.sqrt([4 + 1e-5, 9 + 1e-5]) * [2, 3] + [0.5, -1]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_over_devices_equals_the_whole_batch():
    x = jnp.array(_images((4, 3, 2)))
    variables = BatchNorm().init(jax.random.key(0), x[0], train=True)

    def apply(x, axis_name):
        norm = BatchNorm(axis_name=axis_name)
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    y, stats = jax.vmap(lambda x: apply(x, "devices"), axis_name="devices")(x)
    expected, whole = apply(x.reshape(12, 2), None)
    np.testing.assert_allclose(y.reshape(12, 2), expected, rtol=1e-5, atol=1e-5)
    for got, want in zip(jax.tree.leaves(stats), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(got, np.stack([want] * 4), rtol=1e-5)


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    x = jnp.array(_images((256, 2)), jnp.bfloat16)
    norm = BatchNorm(affine=False)
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    mean = updates["batch_stats"]["mean"]
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, 0.1 * np.float32(x).mean(0), rtol=1e-5)


def test_batch_norm_refuses_to_train_on_one_value_per_channel():
    x = jnp.ones((1, 1, 1, 2))
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    with pytest.raises(ValueError, match="more than one value per channel"):
        BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])


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
