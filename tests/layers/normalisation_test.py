import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.layers import BatchNorm, SideBySide

pytestmark = pytest.mark.usefixtures("quick_module")


def _images(shape, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, shape).astype(np.float32)


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


@pytest.mark.usefixtures("x64")
def test_derivatives_over_devices_are_those_of_the_whole_batch():
    rng = np.random.default_rng(0)
    x, direction, weights = jnp.array(rng.normal(size=(3, 3, 4, 2)))

    def normalised(x, axis_name=None):
        norm = BatchNorm(affine=False, axis_name=axis_name)
        variables = norm.init(jax.random.key(0), x, train=False)
        return norm.apply(variables, x, train=True)

    def mapped(x):
        return jax.vmap(lambda x: normalised(x, "d"), axis_name="d")(x)

    def whole(x):
        return normalised(x.reshape(12, 2)).reshape(3, 4, 2)

    def derivatives(function):
        gradient = jax.grad(lambda x: jnp.sum(weights * jnp.sin(function(x))))
        return jax.jvp(gradient, (x,), (direction,))

    for got, want in zip(derivatives(mapped), derivatives(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


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
    with pytest.raises(
        InputError, match=r"more than one .* shape \(1, 1, 1, 2\): give"
    ):
        BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scaled", [False, True])
def test_second_derivatives_are_those_of_the_definition(scaled):
    rng = np.random.default_rng(0)
    x, direction, weights = jnp.array(rng.normal(size=(3, 4, 3, 3, 4)))
    scale = jnp.array([0.7, -1.3])
    norm = SideBySide()
    stats = {"batch_stats": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}

    def ours(x, scale):
        arrays, scales = [x], [scale if scaled else None]
        outputs, updates = norm.apply(
            stats, arrays, scales, train=True, mutable=["batch_stats"]
        )
        return outputs[0], updates["batch_stats"]

    def theirs(x, scale):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        y = (x - mean[None, None, None]) / jnp.sqrt(var + 1e-5)[None, None, None]
        if scaled:
            y *= jnp.repeat(scale, 2)[None, None, None]
        n = x.size / 4
        return y, {"mean": 0.1 * mean, "var": 0.9 + 0.1 * var * n / (n - 1)}

    def derivatives(function):
        def loss(x, scale):
            y, stats = function(x, scale)
            moments = jnp.sum(jnp.sin(stats["mean"]) * stats["var"] ** 2)
            return jnp.sum(weights * jnp.sin(y)) + moments

        def along(x, scale):
            tangents = direction, jnp.array([0.4, 0.9])
            return jax.jvp(jax.grad(loss, (0, 1)), (x, scale), tangents)

        return function(x, scale), along(x, scale)

    got, want = (jax.tree.leaves(derivatives(f)) for f in (ours, theirs))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_several_arrays_are_normalised_as_one_by_one_and_share_their_statistics():
    arrays = [_images((4, 3, 3, 2)), _images((4, 3, 3, 3), 1)]
    norm = SideBySide()
    variables = norm.init(jax.random.key(0), arrays, [None, None], train=True)
    outputs, updates = norm.apply(
        variables, arrays, [None, jnp.array([2.0])], train=True, mutable=["batch_stats"]
    )
    alone = BatchNorm(affine=False)
    means = []
    for x, y, factor in zip(arrays, outputs, (1, 2), strict=True):
        own = alone.init(jax.random.key(0), x, train=True)
        expected, moved = alone.apply(own, x, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(y, factor * expected, rtol=1e-6, atol=1e-6)
        means.append(moved["batch_stats"]["mean"])
    np.testing.assert_allclose(
        updates["batch_stats"]["mean"], np.concatenate(means), rtol=1e-6
    )


def test_arrays_of_several_sizes_are_not_normalised_together():
    """Their variances would be corrected by the count of the first."""
    arrays = [_images((2, 2, 2, 3)), _images((2, 3, 3, 3))]
    with pytest.raises(
        ValueError, match=r"\(2, 2, 2, 3\), \(2, 3, 3, 3\)\] are not norm"
    ):
        SideBySide().init(jax.random.key(0), arrays, [None, None], train=True)


@pytest.mark.usefixtures("x64")
def test_running_statistics_move_from_where_they_are_and_serve_their_own_arrays():
    arrays = [jnp.array(_images((3, 2, 2, 4), seed), float) for seed in (0, 1)]
    scales = [jnp.array([2.0, -3.0]), None]
    mean, var = np.arange(8.0), np.arange(1.0, 9.0)
    stats = {"batch_stats": {"mean": jnp.array(mean), "var": jnp.array(var)}}
    outputs = SideBySide().apply(stats, arrays, scales, train=False)
    both = np.concatenate(arrays, axis=-1)
    expected = (both - mean) / np.sqrt(var + 1e-5) * [2, 2, -3, -3, 1, 1, 1, 1]
    np.testing.assert_allclose(np.concatenate(outputs, -1), expected, rtol=1e-12)
    _, moved = SideBySide(momentum=0.3).apply(
        stats, arrays, scales, train=True, mutable=["batch_stats"]
    )
    rows, moved = both.reshape(-1, 8), moved["batch_stats"]
    expected = 0.7 * mean + 0.3 * rows.mean(0)
    np.testing.assert_allclose(moved["mean"], expected, rtol=1e-12)
    expected = 0.7 * var + 0.3 * rows.var(0, ddof=1)
    np.testing.assert_allclose(moved["var"], expected, rtol=1e-12)
