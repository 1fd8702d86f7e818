"""Exact is plain autodiff on random trees, shapes, optimisers, losses and step counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FixedPoint,
    Neumann,
    at_solution,
    unroll,
)

COMMON = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}
SHAPES = st.lists(
    st.tuples(*[st.integers(1, 3)] * 2) | st.tuples(st.integers(1, 3)) | st.just(()),
    min_size=1,
    max_size=3,
)
RATES = st.floats(1e-3, 0.5)
OPTIMIZERS = st.one_of(
    RATES.map(optax.sgd),
    st.builds(lambda r, m, n: optax.sgd(r, m, n), RATES, RATES, st.booleans()),
    st.builds(lambda r: optax.adam(r, eps_root=1e-6), RATES),
    st.builds(
        lambda c, d, r: optax.chain(
            optax.clip_by_global_norm(c),
            optax.add_decayed_weights(d),
            optax.sgd(r, momentum=0.9),
        ),
        st.floats(0.05, 5.0),
        RATES,
        RATES,
    ),
    st.builds(lambda r: optax.rmsprop(r, eps=1e-3), RATES),
)


def nested(leaves):
    """Returns the leaves in a tree of all kinds of containers."""
    return {"first": leaves[0], "rest": [tuple(leaves[1:]), {}]}


def tree(shapes, rng):
    return nested([jnp.asarray(rng.normal(size=shape)) for shape in shapes])


def loss(active, reads, x):
    """Every number of one meets every number of the other, nonlinearly."""
    w = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(active)])
    a = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(reads)])
    meeting = jnp.tanh(w[:, None] * a[None, :] + jnp.sum(x))
    return jnp.mean(meeting**2) + jnp.sum(jnp.cosh(0.5 * w)) * (1 + a[0] ** 2)


def outer(active):
    return sum(jnp.sum(jnp.sin(leaf + 0.3)) for leaf in jax.tree.leaves(active))


@settings(max_examples=6, **COMMON)
@given(SHAPES, SHAPES, OPTIMIZERS, st.integers(1, 3), st.integers(0, 99))
def test_exact_is_autodiff(active_shapes, reads_shapes, optimizer, steps, seed):
    rng = np.random.default_rng(seed)
    active, reads = tree(active_shapes, rng), tree(reads_shapes, rng)
    data = jnp.asarray(rng.normal(size=(steps, 2)))
    state = optimizer.init(active)

    def gradient(adjoint):
        step = unroll(loss, optimizer, steps, adjoint)

        def value(active, reads, data):
            new, info = step(active, reads, state, data)
            return outer(new) + jnp.sum(info.loss)

        return jax.jit(jax.grad(value, argnums=(0, 1, 2)))(active, reads, data)

    got, want = gradient(Exact()), gradient(Autodiff())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@settings(max_examples=4, **COMMON)
@given(SHAPES, SHAPES, st.integers(1, 4), st.integers(0, 99))
def test_implicit_adjoints_are_their_dense_closed_forms(
    active_shapes, reads_shapes, terms, seed
):
    """On whatever tree: the truncated series and the solve with the full Hessian."""
    rng = np.random.default_rng(seed)
    active, reads = tree(active_shapes, rng), tree(reads_shapes, rng)
    x = jnp.asarray(rng.normal(size=2))
    flat, unravel = jax.flatten_util.ravel_pytree(active)
    flat_reads, unravel_reads = jax.flatten_util.ravel_pytree(reads)

    def of_flat(w, a):
        return loss(unravel(w), unravel_reads(a), x)

    hessian = np.asarray(jax.jit(jax.hessian(of_flat))(flat, flat_reads))
    mixed = np.asarray(
        jax.jit(jax.jacfwd(jax.grad(of_flat), argnums=1))(flat, flat_reads)
    )
    v, n, rate = np.cos(np.asarray(flat) + 0.3), len(flat), 0.05

    def gradient(adjoint):
        solution = at_solution(loss, adjoint)
        of_reads = jax.jit(jax.grad(lambda reads: outer(solution(active, reads, x))))
        return jax.flatten_util.ravel_pytree(of_reads(reads))[0]

    series = rate * sum(
        np.linalg.matrix_power(np.eye(n) - rate * hessian, i) @ v for i in range(terms)
    )
    np.testing.assert_allclose(
        gradient(Neumann(terms, rate)), -mixed.T @ series, rtol=1e-9, atol=1e-11
    )
    damping = 1.0 + max(0.0, -2 * float(np.linalg.eigvalsh(hessian)[0]))
    solved = np.linalg.solve(hessian + damping * np.eye(n), v)
    np.testing.assert_allclose(
        gradient(ConjugateGradient(3 * n + 5, damping)),
        -mixed.T @ solved,
        rtol=1e-8,
        atol=1e-10,
    )


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_adjoint_through_nested_levels(levels, assert_close):
    """K levels, each the mean of what one adjoint of each kind must be: its dense form.

    The stages are quadratic and at their solutions, so that `Exact` with one step, one
    term of `Neumann` and one of `FixedPoint` are the same linear map, level by level.
    """
    rng = np.random.default_rng(levels)
    n, m, rate = 3, 2, 0.1
    hs = [np.eye(n) + 0.3 * (r @ r.T) for r in rng.normal(size=(levels, n, n))]
    bs, cs = rng.normal(size=(levels, n, m)), 0.5 * rng.normal(size=(levels, n, n))
    a = rng.normal(size=m)
    starts, previous = [], np.zeros(n)
    for h, b, c in zip(hs, bs, cs, strict=True):
        previous = -np.linalg.solve(h, b @ a + c @ previous)
        starts.append(previous)

    def stage(w, reads, h, b, c):
        a, previous = reads
        return w @ h @ w / 2 + w @ (b @ a + c @ previous)

    def gradient(adjoint):
        step = unroll(stage, optax.sgd(rate), 1, adjoint)

        def value(a):
            previous = jnp.zeros(n)
            for w, h, b, c in zip(starts, hs, bs, cs, strict=True):
                state = optax.sgd(rate).init(w)
                data = (x[None] for x in (h, b, c))
                previous, _ = step(jnp.asarray(w), (a, previous), state, *data)
            return jnp.sum(jnp.sin(previous)) + jnp.sum(a**3)

        return jax.jit(jax.grad(value))(a)

    jacobian = np.zeros((n, m))
    solved = np.zeros((n, m))
    for h, b, c in zip(hs, bs, cs, strict=True):
        jacobian = -rate * (b + c @ jacobian)
        solved = -np.linalg.solve(h, b + c @ solved)
    want = 3 * a**2 + jacobian.T @ np.cos(previous)
    for adjoint in (Exact(), Autodiff(), Neumann(1, rate), FixedPoint(1)):
        assert_close(gradient(adjoint), want, 1e-10)
    limit = 3 * a**2 + solved.T @ np.cos(previous)
    assert_close(gradient(ConjugateGradient(n)), limit, 1e-10)
