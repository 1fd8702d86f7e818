"""Implicit adjoints against closed forms: truncated values, not only their limits."""

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
    unroll,
)

N, M, RATE = 4, 3, 0.2


def spd(rng, n):
    a = rng.normal(size=(n, n))
    return a @ a.T / n + np.eye(n)


@pytest.fixture
def quadratic():
    """Inner w'Hw/2 + w'(Ba + c), outer |w - goal|^2/2 + sum a^3, at the solution."""
    rng = np.random.default_rng(0)
    h, b, c = spd(rng, N), rng.normal(size=(N, M)), rng.normal(size=N)
    a, goal = rng.normal(size=M), rng.normal(size=N)
    solution = -np.linalg.solve(h, b @ a + c)
    return h, b, c, a, goal, solution


def inner(w, a, h, b, c):
    return w @ h @ w / 2 + w @ (b @ a + c)


def hypergrad(adjoint, quadratic, start, optimizer=None, fn=inner):
    """Returns the gradient in a, and the residual, of one step from `start`."""
    h, b, c, a, goal, _ = quadratic
    optimizer = optimizer or optax.sgd(RATE)
    step = one_step(fn, optimizer, adjoint)

    def outer(a, probe):
        w, _ = step(jnp.asarray(start), a, optimizer.init(start), h, b, c, probe=probe)
        return jnp.sum((w - goal) ** 2) / 2 + jnp.sum(a**3)

    return jax.jit(jax.grad(outer, argnums=(0, 1)))(a, 0.0)


def truncated_neumann(h, v, terms, rate):
    power = np.linalg.matrix_power(np.eye(len(h)) - rate * h, terms)
    return np.linalg.solve(h, (np.eye(len(h)) - power) @ v)


@pytest.mark.parametrize("terms", [1, 2, 5, 30])
def test_truncated_neumann_series(quadratic, terms, assert_close):
    """q = H^-1 (1 - (1 - step H)^k) v, and its residual |(1 - step H)^k v| / |v|."""
    h, b, _, a, goal, solution = quadratic
    v = solution - goal
    got, residual = hypergrad(Neumann(terms, RATE), quadratic, solution)
    q = truncated_neumann(h, v, terms, RATE)
    assert_close(got, 3 * a**2 - b.T @ q)
    assert_close(residual, np.linalg.norm(h @ q - v) / np.linalg.norm(v), 1e-10)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_truncated_conjugate_gradient(quadratic, steps, damping, assert_close):
    """The best point of the Krylov space: q = V (V'AV)^-1 V'v, V a basis of it."""
    h, b, _, a, goal, solution = quadratic
    v, damped = solution - goal, h + damping * np.eye(N)
    krylov = np.stack([np.linalg.matrix_power(damped, i) @ v for i in range(steps)], 1)
    basis, _ = np.linalg.qr(krylov)
    q = basis @ np.linalg.solve(basis.T @ damped @ basis, basis.T @ v)
    got, residual = hypergrad(ConjugateGradient(steps, damping), quadratic, solution)
    assert_close(got, 3 * a**2 - b.T @ q, 1e-10)
    error = np.linalg.norm(damped @ q - v) / np.linalg.norm(v)
    np.testing.assert_allclose(residual, error, rtol=1e-8, atol=1e-12)


def test_conjugate_gradient_stops_when_it_is_done(quadratic, assert_close):
    """More steps than dimensions: no division of zero by zero."""
    h, b, _, a, goal, solution = quadratic
    got, residual = hypergrad(ConjugateGradient(100), quadratic, solution)
    assert_close(got, 3 * a**2 - b.T @ np.linalg.solve(h, solution - goal), 1e-10)
    assert residual < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_fixed_point_of_gradient_descent_is_neumann(quadratic, steps, assert_close):
    _, _, _, _, _, solution = quadratic
    got = hypergrad(FixedPoint(steps), quadratic, solution)
    assert_close(got, hypergrad(Neumann(steps, RATE), quadratic, solution), 1e-10)


@pytest.mark.parametrize(
    ("optimizer", "decay"),
    [
        (optax.sgd(RATE), 0),
        (optax.sgd(RATE, momentum=0.8), 0),
        (optax.sgd(RATE, momentum=0.5, nesterov=True), 0),
        (optax.chain(optax.add_decayed_weights(0.1), optax.sgd(RATE)), 0.1),
        (
            optax.sgd(optax.constant_schedule(RATE)),
            0,
        ),  # counts: its state holds integers
    ],
    ids=["sgd", "heavy_ball", "nesterov", "decay", "schedule"],
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_fixed_point_is_the_way_through_as_many_steps_that_stand_still(
    quadratic, steps, optimizer, decay, assert_close
):
    """On a quadratic all steps have one Jacobian, so k terms are k steps unrolled."""
    h, b, c, a, goal, _ = quadratic
    # Decay moves the fixed point; momentum does not.
    start = -np.linalg.solve(h + decay * np.eye(N), b @ a + c)
    got, _ = hypergrad(FixedPoint(steps), (h, b, c, a, goal, start), start, optimizer)
    step = unroll(inner, optimizer, steps, Autodiff())
    stacked = [np.broadcast_to(x, (steps, *x.shape)) for x in (h, b, c)]

    def outer(a):
        w, _ = step(jnp.asarray(start), a, optimizer.init(start), *stacked)
        return jnp.sum((w - goal) ** 2) / 2 + jnp.sum(a**3)

    assert_close(got, jax.jit(jax.grad(outer))(a), 1e-10)


def test_one_term_of_the_fixed_point_is_a_step_from_where_the_step_ended(
    quadratic, assert_close
):
    """(dPhi/da)^T v at (W', s'): of Adam, with the moments as the step has left them."""
    h, b, c, a, goal, _ = quadratic
    start, optimizer = np.array([1.0, -2.0, 0.5, 3.0]), optax.adam(RATE, eps_root=1e-8)
    got, _ = hypergrad(FixedPoint(1), quadratic, start, optimizer)
    step = one_step(inner, optimizer)
    w, info = step(jnp.asarray(start), a, optimizer.init(start), h, b, c)
    pulled = jax.vjp(lambda a: step(w, a, info.opt_state, h, b, c)[0], a)[1](w - goal)
    assert_close(got, 3 * a**2 + pulled[0], 1e-10)


def test_every_adjoint_converges_to_the_exact_implicit_gradient(
    quadratic, assert_close
):
    h, b, _, a, goal, solution = quadratic
    want = 3 * a**2 - b.T @ np.linalg.solve(h, solution - goal)
    for adjoint in (Neumann(400, RATE), ConjugateGradient(N), FixedPoint(400)):
        got, residual = hypergrad(adjoint, quadratic, solution)
        assert_close(got, want, 1e-10)
        assert residual < 1e-10


def test_damping_stands_for_weight_decay_in_the_optimiser(quadratic, assert_close):
    """The fixed point has H + decay; without damping the residual sees nothing of it."""
    h, b, c, a, goal, _ = quadratic
    decayed = h + 0.3 * np.eye(N)
    start = -np.linalg.solve(decayed, b @ a + c)
    optimizer = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(RATE))
    want = 3 * a**2 - b.T @ np.linalg.solve(decayed, start - goal)
    got, _ = hypergrad(ConjugateGradient(N, 0.3), quadratic, start, optimizer)
    assert_close(got, want, 1e-10)
    wrong, residual = hypergrad(ConjugateGradient(N), quadratic, start, optimizer)
    assert residual < 1e-10
    assert np.linalg.norm(wrong - want) > 0.01 * np.linalg.norm(want)


def test_away_from_a_solution_the_step_is_taken_and_then_believed(
    quadratic, assert_close
):
    """W' is the optimiser's; H and v are those at W', wherever it lies."""
    h, b, c, a, goal, _ = quadratic
    start = np.array([1.0, -2.0, 0.5, 3.0])
    w = start - RATE * (h @ start + b @ a + c)
    got, _ = hypergrad(ConjugateGradient(N), quadratic, start)
    assert_close(got, 3 * a**2 - b.T @ np.linalg.solve(h, w - goal), 1e-10)


# Ridge regression, one log-penalty a coordinate: a sum broadcast over the vector shows.


def ridge_problem():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, N)), rng.normal(size=12)
    x_val, y_val = rng.normal(size=(9, N)), rng.normal(size=9)
    return x, y, x_val, y_val, rng.normal(size=N)


def ridge(w, t, x, y):
    return jnp.mean((x @ w - y) ** 2) / 2 + jnp.sum(jnp.exp(t) * w**2) / 2


@pytest.mark.parametrize("adjoint", [ConjugateGradient(N), Neumann(2000, 0.2)])
def test_ridge(adjoint, assert_close):
    x, y, x_val, y_val, t = ridge_problem()
    h = x.T @ x / 12 + np.diag(np.exp(t))
    w = np.linalg.solve(h, x.T @ y / 12)
    solution = at_solution(ridge, adjoint)

    def outer(t, x, y):
        return jnp.mean((x_val @ solution(w, t, x, y) - y_val) ** 2) / 2

    q = np.linalg.solve(h, x_val.T @ (x_val @ w - y_val) / 9)
    to_t, to_x, to_y = jax.jit(jax.grad(outer, argnums=(0, 1, 2)))(t, x, y)
    assert_close(to_t, -np.exp(t) * w * q, 1e-10)
    # Float data are reads too: d2L/dx dw . q and d2L/dy dw . q.
    to_x_want = -(np.outer(x @ w - y, q) + np.outer(x @ q, w)) / 12
    assert_close((to_x, to_y), (to_x_want, x @ q / 12), 1e-10)


def test_pytrees_integers_and_keys(problem, assert_close):
    """A nonlinear problem on pytrees, against the dense linear solve."""
    from jax.flatten_util import ravel_pytree

    images, labels = problem.data
    key, index = jax.random.key(0), jnp.arange(5)

    def loss(active, reads, batch):
        images, labels, index, _ = batch
        pull = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(active))
        value, aux = problem.loss(active, reads, images[index], labels[index])
        return value + pull, aux

    batch = images, labels, index, key
    flat, unravel = ravel_pytree(problem.active)
    flat_reads, unravel_reads = ravel_pytree(problem.reads)

    def flat_loss(w, r):
        return loss(unravel(w), unravel_reads(r), batch)[0]

    hessian = jax.jit(jax.hessian(flat_loss))(flat, flat_reads)
    mixed = jax.jit(jax.jacfwd(jax.grad(flat_loss), argnums=1))(flat, flat_reads)
    assert np.linalg.eigvalsh(hessian)[0] > 0
    q = np.linalg.solve(hessian, np.cos(flat))
    solution = at_solution(loss, ConjugateGradient(len(flat) + 20))

    def outer(reads):
        found = solution(problem.active, reads, batch)
        return jnp.sum(jnp.sin(ravel_pytree(found)[0]))

    got = ravel_pytree(jax.jit(jax.grad(outer))(problem.reads))[0]
    assert_close(got, -mixed.T @ q, 1e-9)


def test_two_levels_of_solutions(quadratic, assert_close):
    """dw2*/da = -H2^-1 (B2 + C2 dw1*/da), with dw1*/da = -H1^-1 B1."""
    h, b, c, a, goal, w1 = quadratic
    rng = np.random.default_rng(2)
    h2, b2, c2 = spd(rng, N), rng.normal(size=(N, M)), rng.normal(size=(N, N))
    w2 = -np.linalg.solve(h2, b2 @ a + c2 @ w1)

    def second(w, reads):
        a, previous = reads
        return w @ h2 @ w / 2 + w @ (b2 @ a + c2 @ previous)

    first = at_solution(inner, ConjugateGradient(N))
    then = at_solution(second, ConjugateGradient(N))

    def outer(a):
        found = then(w2, (a, first(w1, a, h, b, c)))
        return jnp.sum((found - goal) ** 2) / 2

    jacobian = -np.linalg.solve(h2, b2 - c2 @ np.linalg.solve(h, b))
    assert_close(jax.jit(jax.grad(outer))(a), jacobian.T @ (w2 - goal), 1e-10)


@pytest.mark.parametrize(
    "adjoint", [Neumann(3, 0.1), ConjugateGradient(3), FixedPoint(3)], ids=repr
)
def test_nothing_flows_to_the_start_or_to_the_state(quadratic, adjoint):
    h, b, c, a, _, solution = quadratic
    optimizer = optax.sgd(RATE, momentum=0.9)
    step = one_step(inner, optimizer, adjoint)

    def outer(w, state):
        w, info = step(w, a, state, h, b, c)
        return jnp.sum(w**2) + jnp.sum(info.opt_state[0].trace ** 2)

    state = jax.tree.map(lambda x: x + 0.3, optimizer.init(solution))
    grads = jax.jit(jax.grad(outer, argnums=(0, 1)))(jnp.asarray(solution), state)
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, np.zeros(N))


@pytest.mark.parametrize(
    "adjoint", [Neumann(3, 0.1), ConjugateGradient(3), FixedPoint(3)], ids=repr
)
def test_the_residual_is_that_of_the_values_that_were_used(
    quadratic, adjoint, assert_close
):
    """The probe changes nothing, and no objective means no equation to solve."""
    _, _, _, _, _, solution = quadratic
    h, b, c, a, *_ = quadratic
    step = one_step(inner, optax.sgd(RATE), adjoint)
    state = optax.sgd(RATE).init(solution)

    def value(a, probe):
        w, _ = step(jnp.asarray(solution), a, state, h, b, c, probe=probe)
        return jnp.sum(jnp.sin(w))

    plain = jax.jit(jax.grad(lambda a: value(a, None)))(a)
    probed, residual = jax.jit(jax.grad(value, argnums=(0, 1)))(a, 0.7)
    assert_close(plain, probed, 0)
    assert residual > 1e-6
    unused = jax.grad(lambda p: 0.0 * value(a, p))(0.7)
    np.testing.assert_array_equal(unused, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Neumann(0), "Neumann num_terms is 0; .* at least 1"),
        (lambda: Neumann(3, -0.1), "Neumann step=-0.1; it must be a finite number > 0"),
        (lambda: ConjugateGradient(0), "num_steps is 0; .* at least 1"),
        (
            lambda: ConjugateGradient(3, -1.0),
            "damping=-1.0; it must be a finite number >= 0",
        ),
        (
            lambda: Neumann(3, "0.1"),
            "Neumann step='0.1'; it must be a finite number > 0",
        ),
        (
            lambda: ConjugateGradient(3, None),
            "damping=None; it must be a finite number >= 0",
        ),
        (lambda: FixedPoint(0), "FixedPoint num_steps is 0"),
        (lambda: at_solution(None, Neumann()), "at_solution has loss_fn=None; it must"),
        (lambda: at_solution(inner, FixedPoint()), "must be Neumann or Conjugate"),
        (lambda: at_solution(inner, Exact()), "must be Neumann or ConjugateGradient"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_half_precision_solves_in_single(quadratic):
    """Half-precision parameters: the series is summed in float32, or terms are lost."""
    h, b, c, a, goal, solution = (jnp.asarray(x, jnp.bfloat16) for x in quadratic)
    step = one_step(inner, optax.sgd(RATE), Neumann(600, 0.0025))

    def outer(a):
        w, _ = step(solution, a, optax.sgd(RATE).init(solution), h, b, c)
        return jnp.sum((w - goal) ** 2) / 2

    got = jax.jit(jax.grad(outer))(a)
    assert got.dtype == jnp.bfloat16
    exact_h, exact_b = np.asarray(h, float), np.asarray(b, float)
    v = np.asarray(solution - goal, float)
    want = -exact_b.T @ truncated_neumann(exact_h, v, 600, 0.0025)
    error = np.linalg.norm(np.asarray(got, float) - want) / np.linalg.norm(want)
    assert error < 2e-2


@pytest.mark.parametrize(
    "adjoint", [Neumann(9, 0.1), ConjugateGradient(3), FixedPoint(9)], ids=str
)
def test_what_the_loss_closes_over_is_differentiated_too(adjoint, quadratic, x64):
    h, b, c, a, goal, start = quadratic
    sgd = optax.sgd(RATE)

    def outer(a, explicit):
        def closing(w, bias):
            return inner(w, a, h, b, bias)

        def opening(w, reads):
            return inner(w, reads[1], h, b, reads[0])

        loss, reads = (opening, (c, a)) if explicit else (closing, c)
        step = one_step(loss, sgd, adjoint)
        w, _ = step(jnp.asarray(start), reads, sgd.init(start))
        return jnp.sum((w - goal) ** 2)

    got, want = (
        jax.jit(jax.grad(outer), static_argnums=1)(a, e) for e in (False, True)
    )
    assert np.linalg.norm(want) > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("adjoint", [Neumann(3, 0.1), ConjugateGradient(3)], ids=repr)
def test_nothing_flows_to_a_solution_that_is_given(quadratic, adjoint):
    h, b, c, a, goal, start = quadratic
    solution = at_solution(inner, adjoint)

    def slopes(w):
        def outer(a):
            return jnp.sum((solution(w, a, h, b, c) - goal) ** 2)

        return outer(a), jax.grad(outer)(a)

    jacobians = jax.jit(jax.jacrev(slopes))(jnp.asarray(start))
    for leaf in jacobians:
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_a_solution_depends_on_what_its_loss_closes_over(x64):
    """w = 3 / (1 + t), so dw/dt = -3 / (1 + t)^2."""

    def slope(t):
        solution = at_solution(
            lambda w, _: (1 + t) * w**2 / 2 - 3 * w, ConjugateGradient()
        )
        return solution(3 / (1 + jax.lax.stop_gradient(t)), ())

    np.testing.assert_allclose(jax.grad(slope)(0.5), -3 / 1.5**2, rtol=1e-14)


def test_a_traced_step_sweeps_over_many(quadratic, x64):
    steps = jnp.array([0.05, 0.1])
    _, _, _, a, *_ = quadratic
    start = quadratic[-1]

    def slope(step):
        return hypergrad(Neumann(4, step), quadratic, start)[0]

    swept = jax.jit(jax.vmap(slope))(steps)
    for row, step in zip(swept, steps, strict=True):
        np.testing.assert_allclose(row, slope(float(step)), rtol=1e-12)
    assert swept.shape == (2, len(a))


def test_the_auxiliary_output_may_be_anything():
    def loss(w, a):
        return (w - a) ** 2, {"name": "x"}

    sgd = optax.sgd(0.1)
    step = one_step(loss, sgd, ConjugateGradient(3))
    slope, info = jax.grad(lambda a: step(1.0, a, sgd.init(1.0)), has_aux=True)(2.0)
    assert slope == 1
    assert info.aux == {"name": "x"}


@pytest.mark.parametrize("adjoint", [Neumann(3), ConjugateGradient(3)])
def test_complex_parameters_are_refused(adjoint):
    """A product with their Hessian is not linear, and the series would be wrong."""

    def outer(a):
        solution = at_solution(lambda w, a: jnp.abs(w - a).sum() ** 2, adjoint)
        return jnp.abs(solution(jax.lax.stop_gradient(a * (1 + 0j)), a)).sum()

    with pytest.raises(
        InputError, match="solution is complex128; what is moved is real: split it into"
    ):
        jax.grad(outer)(jnp.asarray([1.0, 2.0]))


@pytest.mark.parametrize(
    "adjoint", [Neumann(5, 0.1), ConjugateGradient(5, 0.1), FixedPoint(5)], ids=str
)
def test_leaves_of_several_types_are_solved_for_together(quadratic, adjoint):
    """What is single in a tree that is double keeps its type."""
    h, b, c, a, goal, solution = quadratic
    narrow = {"x": jnp.float32, "y": jnp.float64}

    def parted(w):
        return {"x": w[:2], "y": w[2:]}

    def split_inner(w, a, h, b, c):
        return inner(jnp.concatenate([w["x"].astype(h.dtype), w["y"]]), a, h, b, c)

    def gradient(types):
        start = jax.tree.map(
            lambda leaf, dtype: jnp.asarray(leaf, dtype), parted(solution), types
        )
        optimizer = optax.sgd(RATE, momentum=0.5)
        step = one_step(split_inner, optimizer, adjoint)

        def outer(a):
            w, _ = step(start, a, optimizer.init(start), h, b, c)
            assert jax.tree.map(jnp.result_type, w) == jax.tree.map(jnp.dtype, types)
            w = jnp.concatenate([w["x"].astype(h.dtype), w["y"]])
            return jnp.sum((w - goal) ** 2) / 2

        return jax.jit(jax.grad(outer))(a)

    want = gradient({"x": jnp.float64, "y": jnp.float64})
    np.testing.assert_allclose(gradient(narrow), want, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ((3, 1.0), "solution is int64; what is moved holds floats"),
        (({"w": "x"}, 1.0), r"solution\['w'\] is 'x'; it must be an array or a number"),
        ((3.0, {"mode": "fast"}), r"reads\['mode'\] is 'fast'; it must be an array"),
        ((3.0, 1.0, "fast"), r"data\[0\] is 'fast'; it must be an array or a number"),
    ],
)
def test_a_solution_is_of_arrays(given, match):
    solution = at_solution(lambda w, a, *data: (w - a) ** 2, ConjugateGradient())
    with pytest.raises(InputError, match=match):
        solution(*given)
