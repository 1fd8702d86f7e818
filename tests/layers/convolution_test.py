import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from skillearn_jax.layers.convolution import convolve

pytestmark = pytest.mark.usefixtures("quick_module")

CASES = [  # height, taps, stride, dilation, padding
    (8, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    (7, (5, 5), (2, 2), (1, 1), ((2, 2), (2, 2))),
    (8, (5, 5), (2, 2), (2, 2), ((4, 4), (4, 4))),
    (8, (3, 3), (1, 1), (2, 2), ((2, 2), (2, 2))),
    (8, (1, 1), (2, 2), (1, 1), ((0, 0), (0, 0))),
    (8, (3, 5), (1, 2), (2, 1), ((2, 1), (3, 0))),
    # More taps than the 8 pixels of a row, the 16 of two rows.
    (1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
    (2, (5, 5), (2, 2), (1, 1), ((2, 2), (2, 2))),
    (2, (5, 5), (1, 2), (2, 1), ((4, 4), (2, 1))),
]


def reference(x, kernel, stride, dilation, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def sines(conv, *options):
    return lambda x, kernel: jnp.sum(jnp.sin(conv(x, kernel, *options)))


def derivatives(conv, x, kernel, directions):
    """Returns the value and derivatives of every mode up to the second order."""
    loss = sines(conv)
    gradient = jax.grad(loss, (0, 1))

    def squares(*arguments):
        return sum(jnp.sum(g**2) for g in gradient(*arguments))

    return (
        conv(x, kernel),
        gradient(x, kernel),
        jax.jvp(conv, (x, kernel), directions),
        jax.jvp(gradient, (x, kernel), directions),
        jax.grad(squares, (0, 1))(x, kernel),
        jax.vmap(conv, (0, None))(jnp.stack([x, -x]), kernel),
        jax.vmap(jax.grad(loss, 1))(jnp.stack([x, -x]), jnp.stack([kernel] * 2)),
    )


def of_several_models(conv, x, kernel, directions):
    """Returns derivatives inside and around maps over models, two times three."""
    axes = (0, 2, 0, 2)
    factors = jnp.array([[1.0, -0.5, 0.25], [-1.0, 0.75, 2.0]])
    arrays = [
        jnp.stack([jnp.stack([f * array for f in row], axis) for row in factors])
        for array, axis in zip((x, kernel, *directions), axes, strict=True)
    ]
    loss = sines(conv)
    gradient = jax.grad(loss, (0, 1))

    def curvature(x, kernel, *directions):
        return jax.jvp(gradient, (x, kernel), directions)

    def total(x, kernel):
        return jnp.sum(jax.vmap(jax.vmap(loss, axes[:2]))(x, kernel))

    def around(x, kernel, *directions):
        return jax.jvp(jax.grad(total, (0, 1)), (x, kernel), directions)

    return jax.vmap(jax.vmap(curvature, axes))(*arrays), around(*arrays)


def test_no_convolution_of_several_models_is_a_grouped_one():
    x, kernel = jnp.ones((5, 2, 8, 8, 3)), jnp.ones((5, 3, 3, 3, 4))
    options = ((1, 1), (1, 1), ((1, 1), (1, 1)))

    def grouped(conv):
        gradient = jax.vmap(jax.grad(sines(conv, *options), (0, 1)))
        text = jax.jit(gradient).lower(x, kernel).as_text()
        return len(re.findall("(?:batch|feature)_group_count = 5", text))

    assert (grouped(convolve), grouped(reference)) == (0, 3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("results", "case"),
    [
        *((derivatives, case) for case in CASES),
        (of_several_models, CASES[0]),
        (of_several_models, CASES[5]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_convolve_and_its_derivatives_are_those_of_jax(results, case):
    height, taps, *options = case
    rng = np.random.default_rng(0)
    x, dx = rng.normal(size=(2, 2, height, 8, 3))
    kernel, dkernel = rng.normal(size=(2, *taps, 3, 4))
    options = dict(zip(("stride", "dilation", "padding"), options, strict=True))
    got, want = (
        jax.jit(functools.partial(results, functools.partial(conv, **options)))(
            x, kernel, (dx, dkernel)
        )
        for conv in (convolve, reference)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-11)


def test_every_derivative_lies_in_the_order_of_eigen():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    options = ((1, 1), (1, 1), ((1, 1), (1, 1)))

    def orders(conv):
        def curvature(*arguments):
            gradient = jax.grad(sines(conv, *options), (0, 1))
            return jax.jvp(gradient, arguments, arguments)

        text = jax.jit(curvature).lower(x, kernel).as_text()
        return set(re.findall(r"dim_numbers = (\S+, .*?), window", text))

    assert orders(convolve) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    assert len(orders(reference)) > 1


def test_no_derivative_of_a_strided_convolution_fills_gaps_with_zeros():
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((5, 5, 3, 4))
    options = ((2, 2), (1, 1), ((2, 2), (2, 2)))

    def gaps(conv):
        gradient = jax.grad(sines(conv, *options))
        text = jax.jit(gradient).lower(x, kernel).as_text()
        return text.count("lhs_dilate = [2, 2]")

    assert (gaps(convolve), gaps(reference)) == (0, 1)


def test_a_kernel_with_more_taps_than_pixels_is_a_product():
    pads = ((1, 1), (1, 1))

    def conv(x, kernel):
        return convolve(x, kernel, (1, 1), (1, 1), pads)

    def gradients(x, kernel):
        y, pull = jax.vjp(conv, x, kernel)
        return pull(y)

    def text(side):
        x, kernel = jnp.ones((4, side, side, 3)), jnp.ones((3, 3, 3, 5))
        return jax.jit(gradients).lower(x, kernel).as_text()

    # By the kernel, image and cotangent are of one size.
    assert text(2).count("stablehlo.convolution") == 1
    assert text(3).count("stablehlo.convolution") == 3
