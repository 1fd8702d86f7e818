"""Derivatives of implicit derivatives, and losses that hold a solution."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FixedPoint,
    Neumann,
    at_solution,
    one_step,
)

ADJOINTS = [ConjugateGradient(3), Neumann(60, 0.5), FixedPoint(60)]
SGD = optax.sgd(0.5)
HEAVY_BALL = optax.sgd(0.5, momentum=0.3)


def inner(w, t):
    """Minimised by w = 3 / (1 + t)."""
    return (1 + t) * w**2 / 2 - 3 * w


def solver(loss, adjoint):
    """Returns `(W*, reads, *data) -> W*`, whatever the adjoint needs."""
    if not isinstance(adjoint, FixedPoint):
        return at_solution(loss, adjoint)
    step = one_step(loss, HEAVY_BALL, adjoint)

    def solve(found, reads, *data):
        return step(found, reads, HEAVY_BALL.init(found), *data)[0]

    return solve


def solution(adjoint):
    """Returns `t -> W*(t)` of `inner`."""
    attached = solver(inner, adjoint)
    return lambda t: attached(3 / (1 + jax.lax.stop_gradient(t)), t)


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=lambda a: type(a).__name__)
def test_three_derivatives_of_a_solution(adjoint, assert_close):
    first = jax.grad(solution(adjoint))
    second = jax.grad(first)

    def all_of(t):
        forwards = jax.jacfwd(first)(t)
        return first(t), second(t), forwards, jax.grad(second)(t)

    want = -3 / 1.5**2, 6 / 1.5**3, 6 / 1.5**3, -18 / 1.5**4
    assert_close(jax.jit(all_of)(0.5), tuple(map(np.asarray, want)), 1e-10)


@pytest.mark.parametrize(
    "adjoint",
    [ConjugateGradient(8), FixedPoint(400)],
    ids=lambda a: type(a).__name__,
)
def test_hessian_of_a_ridge_in_its_penalties(adjoint, assert_close):
    """On a tree, with integers and keys among the data."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 4)), rng.normal(size=12)
    x_val, y_val = rng.normal(size=(9, 4)), rng.normal(size=9)
    t, key = 0.3 * rng.normal(size=4), jax.random.key(0)

    def ridge(w, t, x, y, index, key):
        error = jnp.mean((x[index] @ w["w"] - y[index]) ** 2)
        shift = 0.0 * jax.random.normal(key)
        return error / 2 + jnp.sum(jnp.exp(t["log"]) * w["w"] ** 2) / 2 + shift

    def solved(t, x):
        return jnp.linalg.solve(x.T @ x / 12 + jnp.diag(jnp.exp(t)), x.T @ y / 12)

    def validation(w):
        return jnp.mean((x_val @ w - y_val) ** 2) / 2

    attached = solver(ridge, adjoint)

    def outer(t, x):
        found = {"w": jax.lax.stop_gradient(solved(t, x))}
        return validation(attached(found, {"log": t}, x, y, np.arange(12), key)["w"])

    def closed(t, x):
        return validation(solved(t, x))

    def derivatives(of):
        """The gradient, its derivative in reverse mode, and along the data forwards."""

        def all_of(t, x):
            slope = jax.grad(of)
            along = jax.jvp(slope, (t, x), (jnp.zeros(4), x))[1]
            return slope(t, x), jax.jacrev(slope)(t, x), along

        return jax.jit(all_of)(t, x)

    assert_close(derivatives(outer), derivatives(closed), 1e-10)


@pytest.mark.parametrize("outer", [Exact(), Autodiff()], ids=str)
@pytest.mark.parametrize("adjoint", ADJOINTS, ids=lambda a: type(a).__name__)
def test_a_step_on_a_loss_that_holds_a_solution(adjoint, outer, assert_close):
    """u' = u - 0.5 (2 a w w' + u) with w = 3 / (1 + u), in `a` and in `u`."""
    found = solution(adjoint)

    def middle(u, a):
        return a * found(u) ** 2 + u**2 / 2

    step = one_step(middle, SGD, outer)

    def stepped(u, a):
        return step(u, a, SGD.init(u))[0]

    w, w1, w2 = 3 / 1.5, -3 / 1.5**2, 6 / 1.5**3
    want = 1 - 0.5 * (4 * (w1**2 + w * w2) + 1), -w * w1
    got = jax.jit(jax.grad(stepped, argnums=(0, 1)))(0.5, 2.0)
    assert_close(got, tuple(map(np.asarray, want)), 1e-10)


def test_a_solution_of_a_loss_that_holds_a_solution(assert_close):
    """u*: u = 3 a / (1 + u)^2, here u = 1 and a = 4/3; du/da by its derivative."""
    found = solution(ConjugateGradient(3))

    def middle(u, a):
        return u**2 / 2 + a * found(u)

    attached = at_solution(middle, ConjugateGradient(3))
    slope = jax.jit(jax.grad(lambda a: attached(jnp.asarray(1.0), a)))(4 / 3)
    assert_close(slope, np.asarray((3 / 4) / (1 + 6 * (4 / 3) / 8)), 1e-10)


def test_half_precision_keeps_its_type():
    second = jax.jit(jax.hessian(solution(Neumann(20, 0.5))))(jnp.bfloat16(0.5))
    assert second.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(second), 6 / 1.5**3, rtol=1e-2)


def test_over_devices_a_second_derivative_is_refused():
    attached = at_solution(inner, ConjugateGradient(3), axis_name="device")

    def second(t):
        return jax.grad(jax.grad(lambda t: attached(jnp.asarray(2.0), t)))(t)

    with pytest.raises(InputError, match="for one device, and this step"):
        jax.vmap(second, axis_name="device")(jnp.ones(2))
