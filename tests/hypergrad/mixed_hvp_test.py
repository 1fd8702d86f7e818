"""The products with second derivatives, against dense Hessians and the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import (
    FiniteDifference,
    central_difference,
    central_difference_per_set,
    mixed_hvp,
    one_step,
)


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


def test_each_set_is_moved_alone_at_its_own_distance(
    problem, gradient_fn, direction, assert_close
):
    """eps_s = r / |u_s| along u_s alone, added up; 1e-10 as above."""
    radius, parts = 0.01, []
    direction = {**direction, "head": optax.tree.scale(1e-3, direction["head"])}
    for name, part in direction.items():
        eps = radius / np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(part)))

        def at(distance, name=name, part=part):
            moved = jax.tree.map(
                lambda w, u: w + distance * u, problem.active[name], part
            )
            return gradient_fn({**problem.active, name: moved})

        parts.append(
            jax.tree.map(lambda p, m: (p - m) / (2 * eps), at(eps), at(-eps))  # noqa: B023
        )
    want = jax.tree.map(lambda a, b: a + b, *parts)
    args = (gradient_fn, problem.active, direction, radius)
    got = central_difference_per_set(*args)
    assert_close(got, want, rtol=1e-10)
    with pytest.raises(AssertionError):  # one distance for both is another number
        assert_close(central_difference(*args), want, rtol=1e-6)


def test_a_step_per_set_pulls_back_through_each_set(problem, assert_close):
    """The response of the reads to a cotangent on both sets, against the product."""
    xi = 0.1
    step = one_step(problem.loss, optax.sgd(xi), FiniteDifference(0.02, per_set=True))
    rng = np.random.default_rng(7)
    v = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), problem.active)

    def objective(reads):
        state = optax.sgd(xi).init(problem.active)
        new, _ = step(problem.active, reads, state, *problem.data)
        return optax.tree.vdot(new, v)

    def gradient_fn(active):
        return jax.grad(problem.loss, argnums=1, has_aux=True)(
            active, problem.reads, *problem.data
        )[0]

    u = optax.tree.scale(-xi, v)
    want = central_difference_per_set(gradient_fn, problem.active, u, 0.02)
    assert_close(jax.jit(jax.grad(objective))(problem.reads), want, rtol=1e-10)


def test_a_difference_per_set_needs_sets():
    step = one_step(
        lambda w, a: (w - a) ** 2, optax.sgd(0.1), FiniteDifference(1, True)
    )
    with pytest.raises(InputError, match=r"needs named sets, .*: set per_set=False"):
        jax.grad(lambda a: step(1.0, a, optax.sgd(0.1).init(1.0))[0])(2.0)
    with pytest.raises(InputError, match="needs named sets, a non-empty mapping"):
        central_difference_per_set(lambda w: w, {}, {}, 0.1)
    assert repr(FiniteDifference(0.1)) == "FiniteDifference(radius=0.1)"
    assert repr(FiniteDifference(0.1, True)) == (
        "FiniteDifference(radius=0.1, per_set=True)"
    )


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


def test_a_difference_takes_numbers_of_python(x64):
    slope = central_difference(lambda w: 3 * w**2, 2.0, 0.5, radius=0.01)
    np.testing.assert_allclose(slope, 0.5 * 12, rtol=1e-12)
