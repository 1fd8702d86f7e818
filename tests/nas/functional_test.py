import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.errors import InputError
from skillearn_jax.nas import functional
from skillearn_jax.nas.functional import (
    avg_pool,
    conv2d_together,
    factorized_reduce,
    max_pool,
    pixels_together,
    scaled,
    separable_conv,
)

pytestmark = pytest.mark.usefixtures("quick_module")

WINDOW = (1, 3, 3, 1)
PADDING = ((0, 0), (1, 1), (1, 1), (0, 0))


def _normal(shape, seed=0):
    return jnp.array(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("size", "stride", "dilation", "width"), [(3, 2, 1, 6), (5, 1, 2, 6), (5, 1, 2, 8)]
)
def test_both_forms_of_a_separable_convolution_agree(size, stride, dilation, width):
    x = _normal((2, 5, width, 3))
    depthwise, pointwise = _normal((size, size, 3, 2), 1), _normal((3, 2 * 4), 2)

    @functools.partial(jax.jit, static_argnames="form")
    def values_and_gradients(form):
        def loss(*args):
            y = separable_conv(*args, stride=stride, dilation=dilation, form=form)
            return jnp.sum(jnp.sin(y)), y

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            x, depthwise, pointwise
        )

    dense, depth = map(values_and_gradients, ("dense", "depthwise"))
    assert dense[0][1].shape == (2, -(-5 // stride), width // stride, 8)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12),
        dense,
        depth,
    )


def test_branches_lie_side_by_side():
    x, depthwise = _normal((1, 4, 4, 2)), _normal((3, 3, 2, 2), 1)
    pointwise = _normal((2, 6), 2)
    both = separable_conv(x, depthwise, pointwise)
    for branch in range(2):
        alone = separable_conv(
            x,
            depthwise[..., branch : branch + 1],
            pointwise[:, 3 * branch : 3 * branch + 3],
        )
        got = both[..., 3 * branch : 3 * branch + 3]
        np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("given", [True, False])
def test_an_unknown_form_is_refused_be_it_given_or_chosen(given, monkeypatch):
    monkeypatch.setattr(functional, "separable_form", lambda: "sparse")
    arrays = map(jnp.ones, ((1, 4, 4, 2), (3, 3, 2, 1), (2, 5)))
    with pytest.raises(InputError, match="form='sparse'; it must be one of 'dense', '"):
        separable_conv(*arrays, **({"form": "sparse"} if given else {}))


def _reference_max_pool(x, stride):
    strides = (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, WINDOW, strides, PADDING)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("size", "dilation", "pixels"), [(3, 1, 4), (5, 2, 2), (5, 1, 4), (3, 2, 2)]
)
def test_neighbours_computed_together_are_the_same_convolution(size, dilation, pixels):
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(2, 5, 8, 3)))
    kernel = jnp.array(rng.normal(size=(size, size, 3, 2)))
    weights = jnp.array(rng.normal(size=(2, 5, 8, 2)))
    pad = (dilation * (size - 1) // 2,) * 2

    def plain(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            (pad, pad),
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def together(x, kernel):
        return conv2d_together(x, kernel, pixels, dilation)

    np.testing.assert_allclose(together(x, kernel), plain(x, kernel), rtol=1e-12)
    gradients = [
        jax.grad(lambda *args, f=f: jnp.sum(weights * jnp.sin(f(*args))), (0, 1))
        for f in (together, plain)
    ]
    got, want = (gradient(x, kernel) for gradient in gradients)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("width", "features", "pixels"),
    [(32, 4, 2), (32, 16, 2), (8, 16, 2), (32, 17, 1), (6, 8, 1), (9, 8, 1)],
)
def test_narrow_convolutions_are_computed_pixels_together(width, features, pixels):
    assert pixels_together(width, features) == pixels


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (1, 1, 2, 1)])
def test_max_pool_and_its_gradient_equal_reduce_window_with_ties(stride, shape):
    # Few distinct values, all negative: many ties, and a zero padding would win.
    x = jnp.array(np.random.default_rng(0).integers(-3, 0, shape), jnp.float32)
    weight = _normal(_reference_max_pool(x, stride).shape, 1)

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(weight * pool(x, stride)))(x)

    np.testing.assert_array_equal(max_pool(x, stride), _reference_max_pool(x, stride))
    np.testing.assert_allclose(
        gradient(max_pool), gradient(_reference_max_pool), rtol=1e-6, atol=1e-6
    )


@pytest.mark.usefixtures("x64")
def test_max_pool_is_differentiable_twice_in_either_order():
    x, v = _normal((1, 4, 5, 2)), _normal((1, 4, 5, 2), 1)

    def f(x):
        return jnp.sum(max_pool(jnp.sin(x), 1) ** 3)

    def slope(x):
        return jax.jvp(f, (x,), (v,))[1]

    forward_over_reverse = jax.jvp(jax.grad(f), (x,), (v,))[1]
    reverse_over_forward = jax.grad(slope)(x)
    step = 1e-5
    difference = (jax.grad(f)(x + step * v) - jax.grad(f)(x - step * v)) / (2 * step)
    np.testing.assert_allclose(forward_over_reverse, reverse_over_forward, atol=1e-12)
    np.testing.assert_allclose(forward_over_reverse, difference, atol=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_avg_pool_does_not_count_the_padding(stride, side):
    x = np.asarray(_normal((1, side, 4, 2)))
    rows, columns = range(0, side, stride), range(0, 4, stride)
    expected = [
        [
            x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean((0, 1))
            for j in columns
        ]
        for i in rows
    ]
    got = avg_pool(jnp.array(x), stride)
    np.testing.assert_allclose(got[0], expected, rtol=1e-5, atol=1e-6)


def test_factorized_reduce_reads_even_pixels_then_odd_ones():
    x = _normal((1, 4, 5, 2))
    kernel = _normal((2, 2, 3, 1), 1)
    got = np.asarray(factorized_reduce(x, kernel)).reshape(2, 3, 3, 2)
    even = np.einsum("hwc,ctd->hwtd", x[0, ::2, ::2], kernel[0])
    odd = np.einsum("hwc,ctd->hwtd", x[0, 1::2, 1::2], kernel[1])
    np.testing.assert_allclose(got[..., :1], even, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[:, :2, :, 1:], odd, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[:, 2, :, 1], 0)  # beyond the odd side


def test_the_derivative_by_a_scale_is_summed_in_its_own_dtype():
    """In bfloat16 the sum of 8192 ones is 256."""
    x = jnp.ones((2, 16, 16, 16), jnp.bfloat16)

    def total(scale):
        y = scaled(x, scale)
        assert y.dtype == x.dtype
        return jnp.sum(y, dtype=jnp.float32)

    assert jax.jit(jax.grad(total))(jnp.full(1, 0.25)).tolist() == [8192]
    assert float(total(jnp.float32(0.25))) == 2048
