"""Hypergradients of problems solved by hand; the algebra is numpy's, not JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.hypergrad import Autodiff, Exact, FiniteDifference, one_step

ADJOINTS = pytest.mark.parametrize(
    ("adjoint", "rtol"),
    [
        (Exact(), 1e-12),
        (Autodiff(), 1e-12),
        # Exact on quadratics up to its subtraction: machine epsilon / radius.
        (FiniteDifference(), 1e-10),
    ],
    ids=["exact", "autodiff", "finite_difference"],
)


def spd(rng, n):
    half = rng.normal(size=(n, n))
    return half @ half.T / n + np.eye(n)


# A. The scalar toy of the DARTS paper (figure 2).


def darts_inner(w, a):
    return w**2 - 2 * a * w + a**2


def darts_outer(a, w, xi, adjoint=None):
    optimizer = optax.sgd(xi)
    step = one_step(darts_inner, optimizer, adjoint or Exact())
    w_new, _ = step(w, a, optimizer.init(w))
    return a * w_new - 2 * a + 1


@ADJOINTS
@pytest.mark.parametrize("xi", [0.0, 0.1, 0.25, 0.5, 0.7])
def test_darts_toy_at_the_start(xi, adjoint, rtol):
    gradient = jax.grad(darts_outer)(2.0, -2.0, xi, adjoint)
    np.testing.assert_allclose(gradient, -4 + 12 * xi, rtol=rtol)


@pytest.mark.parametrize("xi", [0.0, 0.1, 0.25, 0.5, 0.7])
def test_darts_toy_converges_where_the_one_step_gradient_says(xi):
    def alternate(point, _):
        a, w = point
        a = a - 0.05 * jax.grad(darts_outer)(a, w, xi)
        return (a, w - 0.05 * jax.grad(darts_inner)(w, a)), ()

    start = jnp.asarray(2.0), jnp.asarray(-2.0)
    point, _ = jax.lax.scan(alternate, start, length=3000)
    np.testing.assert_allclose(point, [2 / (1 + 2 * xi)] * 2, rtol=1e-12)


# B. Ridge regression with one log-penalty per coordinate.


@ADJOINTS
def test_ridge_with_a_penalty_per_coordinate(adjoint, rtol, assert_close):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(10, 4)), rng.normal(size=10)
    x_val, y_val = rng.normal(size=(7, 4)), rng.normal(size=7)
    w, t, eta = rng.normal(size=4), rng.normal(size=4), 0.3

    def inner(w, t):
        return jnp.mean((x @ w - y) ** 2) / 2 + jnp.sum(jnp.exp(t) * w**2) / 2

    optimizer = optax.sgd(eta)
    step = one_step(inner, optimizer, adjoint)

    def outer(t):
        w_new, _ = step(jnp.asarray(w), t, optimizer.init(w))
        return jnp.mean((x_val @ w_new - y_val) ** 2) / 2

    w_new = w - eta * (x.T @ (x @ w - y) / 10 + np.exp(t) * w)
    v = x_val.T @ (x_val @ w_new - y_val) / 7
    assert_close(jax.jit(jax.grad(outer))(t), -eta * np.exp(t) * w * v, rtol)


# C. The quadratic bilevel problem of the benchmark literature.


@ADJOINTS
def test_quadratic_bilevel(adjoint, rtol, assert_close):
    rng = np.random.default_rng(3)
    n, m, eta = 4, 3, 0.2
    a_, f_, h_ = spd(rng, n), spd(rng, n), spd(rng, m)
    c_, k_ = rng.normal(size=(m, n)), rng.normal(size=(m, n))
    a, f, h = rng.normal(size=n), rng.normal(size=n), rng.normal(size=m)
    z, x = rng.normal(size=n), rng.normal(size=m)

    def inner(z, x):
        return z @ a_ @ z / 2 + x @ c_ @ z + a @ z

    optimizer = optax.sgd(eta)
    step = one_step(inner, optimizer, adjoint)

    def outer(z, x):
        z, _ = step(z, x, optimizer.init(z))
        return z @ f_ @ z / 2 + x @ h_ @ x / 2 + x @ k_ @ z + f @ z + h @ x

    z_new = z - eta * (a_ @ z + c_.T @ x + a)
    v = f_ @ z_new + k_.T @ x + f
    got = jax.jit(jax.grad(outer, argnums=(0, 1)))(z, x)
    want = v - eta * a_ @ v, h_ @ x + k_ @ z_new + h - eta * c_ @ v
    assert_close(got, want, rtol)


# D. Chains of K stages.

LEVELS = pytest.mark.parametrize(
    ("levels", "adjoint", "rtol"),
    [
        *((levels, Exact(), 1e-12) for levels in range(1, 7)),
        (3, Autodiff(), 1e-12),
        (3, FiniteDifference(), 1e-10),
    ],
    ids=str,
)


def chain(rng, sizes, m):
    """Returns the matrices of K quadratic stages and of the objective."""
    return [
        {
            "h": spd(rng, n),
            "b": rng.normal(size=(n, m)),
            "c": rng.normal(size=(n, previous)) / 2,
            "w": rng.normal(size=n),
            "eta": 0.1 + 0.05 * k,
            "goal": rng.normal(size=n),
        }
        for k, (n, previous) in enumerate(
            zip(sizes, (sizes[0], *sizes[:-1]), strict=True)
        )
    ]


def stage_loss(w, reads, h, b, c):
    a, previous = reads
    return w @ h @ w / 2 + w @ (b @ a) + w @ (c @ previous)


@LEVELS
def test_chain_that_reads_the_previous_result(levels, adjoint, rtol, assert_close):
    """Widths differ from stage to stage, so that no transpose goes unnoticed."""
    rng = np.random.default_rng(levels)
    m, sizes = 3, (2, 4, 3, 5, 2, 4)[:levels]
    stages = chain(rng, sizes, m)
    a, start = rng.normal(size=m), np.zeros(sizes[0])

    def objective(a):
        previous, total = jnp.asarray(start), jnp.sum(a**3)
        for s in stages:
            optimizer = optax.sgd(s["eta"])
            step = one_step(stage_loss, optimizer, adjoint)
            w, state = jnp.asarray(s["w"]), optimizer.init(s["w"])
            previous, _ = step(w, (a, previous), state, s["h"], s["b"], s["c"])
            total += jnp.sum((previous - s["goal"]) ** 2) / 2
        return total

    previous, jacobian, want = start, np.zeros((sizes[0], m)), 3 * a**2
    for s in stages:
        slope = s["h"] @ s["w"] + s["b"] @ a + s["c"] @ previous
        jacobian = -s["eta"] * (s["b"] + s["c"] @ jacobian)
        previous = s["w"] - s["eta"] * slope
        want = want + jacobian.T @ (previous - s["goal"])
    assert_close(jax.jit(jax.grad(objective))(a), want, rtol)


@LEVELS
def test_chain_that_starts_from_the_previous_result(
    levels, adjoint, rtol, assert_close
):
    """Each stage both starts from the previous result and reads it."""
    rng = np.random.default_rng(10 + levels)
    n, m = 4, 3
    stages = chain(rng, (n,) * levels, m)
    a, start = rng.normal(size=m), rng.normal(size=n)

    def objective(a, w):
        total = jnp.sum(a**3)
        for s in stages:
            optimizer = optax.sgd(s["eta"])
            step = one_step(stage_loss, optimizer, adjoint)
            w, _ = step(w, (a, w), optimizer.init(w), s["h"], s["b"], s["c"])
            total += jnp.sum((w - s["goal"]) ** 2) / 2
        return total

    w, to_a, to_start = start, np.zeros((n, m)), np.eye(n)
    want_a, want_start = 3 * a**2, np.zeros(n)
    for s in stages:
        slope = s["h"] + s["c"]
        to_a = to_a - s["eta"] * (slope @ to_a + s["b"])
        to_start = to_start - s["eta"] * slope @ to_start
        w = w - s["eta"] * (slope @ w + s["b"] @ a)
        want_a = want_a + to_a.T @ (w - s["goal"])
        want_start = want_start + to_start.T @ (w - s["goal"])
    got = jax.jit(jax.grad(objective, argnums=(0, 1)))(a, start)
    assert_close(got, (want_a, want_start), rtol)


# E. The optimiser inside the step. The loss is w'Hw/2 + w'a, so that g = Hw + a and the
# Jacobian of W' in a is the optimiser's own.

ETA, MU, N = 0.3, 0.9, 4


@pytest.fixture
def slope():
    rng = np.random.default_rng(4)
    h, w, a = spd(rng, N), rng.normal(size=N), rng.normal(size=N)
    return h, w, a, h @ w + a


def jacobians(optimizer, opt_state, slope):
    """Returns W' and its Jacobians in w and a."""
    h, w, a, _ = slope

    def loss(w, a):
        return w @ h @ w / 2 + w @ a

    step = one_step(loss, optimizer)

    @jax.jit
    def of(w, a):
        def result(w, a):
            return step(w, a, opt_state)[0]

        return result(w, a), *jax.jacrev(result, argnums=(0, 1))(w, a)

    return of(w, a)


def with_trace(optimizer, buffer):
    """Returns the optimiser's state with every trace set to `buffer`."""
    state = optimizer.init(jnp.zeros(N))
    return jax.tree.map(lambda _: jnp.asarray(buffer), state)


def test_sgd(slope, assert_close):
    h, w, _, g = slope
    optimizer = optax.sgd(ETA)
    w_new, to_w, to_a = jacobians(optimizer, optimizer.init(w), slope)
    eye = np.eye(N)
    assert_close((w_new, to_w, to_a), (w - ETA * g, eye - ETA * h, -ETA * eye))


def test_heavy_ball_at_a_nonzero_buffer(slope, assert_close):
    """The buffer moves W', is a constant to a, and has its own Jacobian -eta mu."""
    h, w, a, g = slope
    buffer = np.array([1.0, -2.0, 0.5, 3.0])
    optimizer = optax.sgd(ETA, momentum=MU)
    state = with_trace(optimizer, buffer)
    w_new, to_w, to_a = jacobians(optimizer, state, slope)
    eye = np.eye(N)
    want = w - ETA * (MU * buffer + g), eye - ETA * h, -ETA * eye
    assert_close((w_new, to_w, to_a), want)

    step = one_step(lambda w, a: w @ h @ w / 2 + w @ a, optimizer)
    w, a = jnp.asarray(w), jnp.asarray(a)
    to_buffer = jax.jit(jax.jacrev(lambda s: step(w, a, s)[0]))(state)
    trace_to_a = jax.jit(jax.jacrev(lambda a: step(w, a, state)[1].opt_state))(a)
    (to_buffer,), (trace_to_a,) = map(jax.tree.leaves, (to_buffer, trace_to_a))
    assert_close((to_buffer, trace_to_a), (-ETA * MU * eye, eye))


def test_nesterov(slope, assert_close):
    h, w, _, g = slope
    buffer = np.array([1.0, -2.0, 0.5, 3.0])
    optimizer = optax.sgd(ETA, momentum=MU, nesterov=True)
    w_new, to_w, to_a = jacobians(optimizer, with_trace(optimizer, buffer), slope)
    rate, eye = ETA * (1 + MU), np.eye(N)
    want = w - rate * g - ETA * MU**2 * buffer, eye - rate * h, -rate * eye
    assert_close((w_new, to_w, to_a), want)


def test_decoupled_decay_shrinks_only_the_path_from_the_start(slope, assert_close):
    h, w, _, g = slope
    optimizer = optax.chain(
        optax.add_decayed_weights(0.2), optax.scale_by_learning_rate(ETA)
    )
    w_new, to_w, to_a = jacobians(optimizer, optimizer.init(w), slope)
    eye = np.eye(N)
    want = w - ETA * (g + 0.2 * w), (1 - ETA * 0.2) * eye - ETA * h, -ETA * eye
    assert_close((w_new, to_w, to_a), want)


def test_active_clip_projects_out_the_gradient(slope, assert_close):
    h, w, _, g = slope
    limit = 0.5 * np.linalg.norm(g)
    optimizer = optax.chain(optax.clip_by_global_norm(limit), optax.sgd(ETA))
    w_new, to_w, to_a = jacobians(optimizer, optimizer.init(w), slope)
    unit = g / np.linalg.norm(g)
    clip = limit / np.linalg.norm(g) * (np.eye(N) - np.outer(unit, unit))
    want = w - ETA * limit * unit, np.eye(N) - ETA * clip @ h, -ETA * clip
    assert_close((w_new, to_w, to_a), want)


def test_sign_passes_exactly_nothing(slope):
    _, w, _, g = slope
    optimizer = optax.sign_sgd(ETA)
    w_new, to_w, to_a = jacobians(optimizer, optimizer.init(w), slope)
    np.testing.assert_allclose(w_new, w - ETA * np.sign(g), rtol=1e-12)
    np.testing.assert_array_equal(to_a, np.zeros((N, N)))
    np.testing.assert_array_equal(to_w, np.eye(N))


def test_adam_in_mid_training(slope, assert_close):
    h, w, _, g = slope
    b1, b2, eps, root, count = 0.8, 0.95, 1e-3, 1e-4, 6
    m, v = np.array([0.5, -1.0, 0.2, 0.4]), np.array([0.3, 0.8, 0.5, 1.2])
    optimizer = optax.adam(ETA, b1=b1, b2=b2, eps=eps, eps_root=root)
    adam, *rest = optimizer.init(jnp.zeros(N))
    adam = adam._replace(
        count=jnp.full_like(adam.count, count), mu=jnp.asarray(m), nu=jnp.asarray(v)
    )
    w_new, to_w, to_a = jacobians(optimizer, (adam, *rest), slope)

    c1, c2 = 1 - b1 ** (count + 1), 1 - b2 ** (count + 1)
    m_hat, v_hat = (b1 * m + (1 - b1) * g) / c1, (b2 * v + (1 - b2) * g**2) / c2
    spread = np.sqrt(v_hat + root)
    diagonal = (1 - b1) / c1 / (spread + eps)
    diagonal -= m_hat * (1 - b2) * g / c2 / (spread * (spread + eps) ** 2)
    update = m_hat / (spread + eps)
    pull = ETA * np.diag(diagonal)
    assert_close((w_new, to_w, to_a), (w - ETA * update, np.eye(N) - pull @ h, -pull))


def test_adam_from_a_fresh_state_passes_almost_nothing(slope):
    """Its first update is a sign, so that a first hypergradient through it is useless."""
    _, w, _, _ = slope
    optimizer = optax.adam(ETA, eps_root=1e-16)
    _, _, to_a = jacobians(optimizer, optimizer.init(jnp.asarray(w)), slope)
    assert 0 < np.max(np.abs(to_a)) < 1e-6 * ETA
