"""The products with second derivatives, against dense Hessians and the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from skillearn_jax.hypergrad import central_difference, mixed_hvp


@pytest.fixture
def gradient_fn(problem):
    """`W -> grad_(W, R) L(W, R)`."""

    def of(active):
        return jax.grad(problem.loss, argnums=(0, 1), has_aux=True)(
            active, problem.reads, *problem.data
        )[0]

    return jax.jit(of)


@pytest.fixture
def direction(problem):
    """A direction in W."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), problem.active)


def test_mixed_hvp_is_the_column_block_of_the_dense_hessian(
    problem, gradient_fn, direction, assert_close
):
    flat, unravel = ravel_pytree((problem.active, problem.reads))

    def loss(flat):
        return problem.loss(*unravel(flat), *problem.data)[0]

    columns = jax.jit(jax.hessian(loss))(flat)[
        :, : ravel_pytree(problem.active)[0].size
    ]
    got = mixed_hvp(gradient_fn, problem.active, direction)
    assert_close(got, unravel(columns @ ravel_pytree(direction)[0]))


def test_mixed_hvp_is_the_gradient_of_a_dot_product(
    problem, gradient_fn, direction, assert_close
):
    def dot(active, reads):
        gradient = jax.grad(problem.loss, has_aux=True)(active, reads, *problem.data)[0]
        return optax.tree.vdot(gradient, direction)

    want = jax.jit(jax.grad(dot, argnums=(0, 1)))(problem.active, problem.reads)
    assert_close(mixed_hvp(gradient_fn, problem.active, direction), want)


def test_mixed_hvp_is_linear_in_the_direction(
    problem, gradient_fn, direction, assert_close
):
    got = mixed_hvp(gradient_fn, problem.active, optax.tree.scale(-3e5, direction))
    want = mixed_hvp(gradient_fn, problem.active, direction)
    assert_close(got, optax.tree.scale(-3e5, want))


def test_central_difference_is_the_formula_of_darts(
    problem, gradient_fn, direction, assert_close
):
    """(grad(W+) - grad(W-)) / 2 eps with W+- = W +- eps u, eps = r / |u| over all leaves.

    1e-10: the two sides round differently before a subtraction at distance 0.01.
    """
    radius = 0.01
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(direction)))
    eps = radius / norm
    plus = jax.tree.map(lambda w, u: w + eps * u, problem.active, direction)
    minus = jax.tree.map(lambda w, u: w - eps * u, problem.active, direction)
    want = jax.tree.map(
        lambda p, m: (p - m) / (2 * eps), gradient_fn(plus), gradient_fn(minus)
    )
    got = central_difference(gradient_fn, problem.active, direction, radius)
    assert_close(got, want, rtol=1e-10)


def test_central_difference_errs_by_the_radius_squared(problem, gradient_fn, direction):
    exact = ravel_pytree(mixed_hvp(gradient_fn, problem.active, direction))[0]
    radii = np.array([0.08, 0.04, 0.02, 0.01])
    errors = []
    for radius in radii:
        near = central_difference(gradient_fn, problem.active, direction, radius)
        difference = ravel_pytree(near)[0] - exact
        errors.append(jnp.linalg.norm(difference) / jnp.linalg.norm(exact))
    slope = np.polyfit(np.log(radii), np.log(errors), 1)[0]
    assert slope == pytest.approx(2, abs=0.02)
    assert 1e-9 < errors[-1] < 1e-3


@pytest.mark.parametrize("scale", [-1.0, 1e-7, 1e7])
def test_central_difference_ignores_the_length_of_the_direction(
    scale, problem, gradient_fn, direction, assert_close
):
    """The points stay where they are, so a tiny step size costs no digits.

    1e-10: rounding of W +- eps u, divided by the radius.
    """
    scaled = optax.tree.scale(scale, direction)
    got = central_difference(gradient_fn, problem.active, scaled, 0.01)
    want = central_difference(gradient_fn, problem.active, direction, 0.01)
    assert_close(got, optax.tree.scale(scale, want), rtol=1e-10)


def test_central_difference_is_exact_on_a_quadratic(assert_close):
    rng = np.random.default_rng(6)
    half, w, u = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    matrix = half @ half.T
    got = central_difference(lambda w: matrix @ w, w, u, radius=0.5)
    assert_close(got, jnp.asarray(matrix @ u))


@pytest.mark.parametrize(
    "product", [mixed_hvp, lambda *args: central_difference(*args, radius=0.01)]
)
def test_a_zero_direction_gives_exact_zeros(product, problem, gradient_fn):
    zero = optax.tree.zeros_like(problem.active)
    for leaf in jax.tree.leaves(product(gradient_fn, problem.active, zero)):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
