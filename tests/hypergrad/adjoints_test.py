"""What each choice of adjoint does to the derivative, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import (
    Autodiff,
    Exact,
    FiniteDifference,
    FirstOrder,
    one_step,
    unroll,
)

OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.add_decayed_weights(0.1),
    optax.sgd(0.3, momentum=0.9),
)
ADJOINTS = [
    Exact(),
    FiniteDifference(),
    FirstOrder("current"),
    FirstOrder("lookahead"),
    Autodiff(),
]


@pytest.fixture
def hypergrad(problem, filled, scramble):
    """`adjoint -> gradient` of a function of `(W', s')` in W, R, s and data."""
    state = filled(OPTIMIZER.init(problem.active))

    def of(adjoint, objective=lambda new_active, info: (new_active, info.opt_state)):
        step = one_step(problem.loss, OPTIMIZER, adjoint)

        def value(active, reads, opt_state, data):
            return scramble(objective(*step(active, reads, opt_state, *data)))

        args = problem.active, problem.reads, state, problem.data
        return jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*args)

    return of


def assert_all_zero(tree):
    for leaf in jax.tree.leaves(tree):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_only_first_order_at_the_current_point_takes_no_step(
    problem, filled, assert_close
):
    state = filled(OPTIMIZER.init(problem.active))
    results = jax.jit(
        lambda *args: [
            one_step(problem.loss, OPTIMIZER, adjoint)(*args) for adjoint in ADJOINTS
        ]
    )(problem.active, problem.reads, state, *problem.data)
    want, want_info = results[ADJOINTS.index(Autodiff())]
    for adjoint, (got, info) in zip(ADJOINTS, results, strict=True):
        if adjoint == FirstOrder("current"):
            assert_close((got, info.opt_state), (problem.active, state), rtol=0)
            assert_close((info.loss, info.aux), (want_info.loss, want_info.aux))
        else:
            assert_close((got, info), (want, want_info))


def test_finite_difference_errs_by_the_radius_squared(hypergrad):
    """Through clip, decay and momentum: only the second derivative is approximate."""
    exact = ravel_pytree(hypergrad(Exact()))[0]
    far, near = (
        np.linalg.norm(ravel_pytree(hypergrad(FiniteDifference(radius)))[0] - exact)
        for radius in (0.04, 0.02)
    )
    assert np.log2(far / near) == pytest.approx(2, abs=0.05)
    assert 1e-9 < near / np.linalg.norm(exact) < 1e-3


def test_finite_difference_pulls_the_optimizer_back_exactly(hypergrad, assert_close):
    """The cotangent of the optimiser's state needs no second derivative at all."""
    got, want = hypergrad(FiniteDifference()), hypergrad(Exact())
    assert_close(got[2], want[2])


def test_finite_difference_is_the_architecture_gradient_of_darts(problem, scramble):
    """dR = grad_R f - xi (grad_R L(W+) - grad_R L(W-)) / 2 eps, eps = 0.01 / |v|.

    1e-9: machine epsilon over the radius, in the difference of two sums.
    """
    xi = 0.3
    step = one_step(problem.loss, optax.sgd(xi), FiniteDifference(0.01))
    state = optax.sgd(xi).init(problem.active)

    def outer(reads):
        new_active, _ = step(problem.active, reads, state, *problem.batches[0])
        return problem.loss(new_active, reads, *problem.batches[1])[0]

    def gradient(active, batch):
        of = jax.grad(problem.loss, argnums=(0, 1), has_aux=True)
        return jax.jit(of)(active, problem.reads, *batch)[0]

    by_weights, _ = gradient(problem.active, problem.batches[0])
    moved = jax.tree.map(lambda w, g: w - xi * g, problem.active, by_weights)
    v, direct = gradient(moved, problem.batches[1])
    eps = 0.01 / np.linalg.norm(ravel_pytree(v)[0])
    plus, minus = (
        gradient(
            jax.tree.map(lambda w, v, s=sign: w + s * eps * v, problem.active, v),
            problem.batches[0],
        )[1]
        for sign in (1, -1)
    )
    want = jax.tree.map(
        lambda d, p, m: d - xi * (p - m) / (2 * eps), direct, plus, minus
    )
    got, want = (
        ravel_pytree(jax.jit(jax.grad(outer))(problem.reads))[0],
        ravel_pytree(want)[0],
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9 * np.max(np.abs(want)))


def test_first_order_at_the_current_point_is_the_identity(
    hypergrad, problem, filled, scramble, assert_close
):
    to_active, to_reads, to_state, to_data = hypergrad(FirstOrder("current"))
    state = filled(OPTIMIZER.init(problem.active))
    want = jax.jit(jax.grad(scramble))((problem.active, state))
    assert_close((to_active, to_state), want)
    assert_all_zero((to_reads, to_data))


def test_first_order_at_the_lookahead_is_the_optimizer_at_a_constant_gradient(
    hypergrad, problem, filled, scramble, assert_close
):
    """Through clip, decay and momentum, at the gradient as a number."""
    gradient = jax.grad(problem.loss, has_aux=True)(
        problem.active, problem.reads, *problem.data
    )[0]

    def update(active, state):
        updates, state = OPTIMIZER.update(gradient, state, active)
        return scramble((optax.apply_updates(active, updates), state))

    to_active, to_reads, to_state, to_data = hypergrad(FirstOrder("lookahead"))
    want = jax.jit(jax.grad(update, argnums=(0, 1)))(
        problem.active, filled(OPTIMIZER.init(problem.active))
    )
    assert_close((to_active, to_state), want)
    assert_all_zero((to_reads, to_data))


def test_first_order_at_the_lookahead_is_that_of_maml():
    """k steps from a start: the derivative at their end, handed on as it is."""
    w = jnp.asarray([1.0, -2.0, 0.5])
    step = unroll(
        lambda w, _: jnp.sum(jnp.sin(w)), optax.sgd(0.3), 3, FirstOrder("lookahead")
    )

    def outer(w):
        return jnp.sum(w**3)

    def after(w):
        return outer(step(w, (), optax.sgd(0.3).init(w))[0])

    end = step(w, (), optax.sgd(0.3).init(w))[0]
    np.testing.assert_allclose(jax.grad(after)(w), jax.grad(outer)(end), rtol=1e-15)


def test_first_order_at_the_lookahead_holds_the_gradient_of_closures_too():
    """What the loss closes over has no path; what the optimiser closes over has."""
    w = jnp.asarray([1.0, -2.0])

    def value(a):
        optimizer = optax.sgd(a)
        step = one_step(
            lambda w, _: jnp.sum(jnp.sin(w * a)), optimizer, FirstOrder("lookahead")
        )
        return jnp.sum(step(w, (), optimizer.init(w))[0])

    # w' = w - a g, with g = a cos(w a) as a number.
    want = -jnp.sum(0.5 * jnp.cos(0.5 * w))
    np.testing.assert_allclose(jax.grad(value)(0.5), want, rtol=1e-15)


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=repr)
def test_the_loss_and_aux_are_always_differentiable(
    adjoint, hypergrad, problem, scramble, assert_close
):
    def value(active, reads, data):
        loss, aux = problem.loss(active, reads, *data)
        return scramble((loss, aux))

    want = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(
        problem.active, problem.reads, problem.data
    )
    to_active, to_reads, to_state, to_data = hypergrad(
        adjoint, lambda _, info: (info.loss, info.aux)
    )
    assert_close((to_active, to_reads, to_data), want)
    assert_all_zero(to_state)


def test_forward_mode_passes_through_autodiff_only(problem):
    state = OPTIMIZER.init(problem.active)

    def jvp(adjoint):
        step = one_step(problem.loss, OPTIMIZER, adjoint)

        @jax.jit
        def of(reads, tangent):
            def result(reads):
                return step(problem.active, reads, state, *problem.data)[0]

            return jax.jvp(result, (reads,), (tangent,))[1]

        return of(problem.reads, problem.reads)

    tangent = jvp(Autodiff())["encoder"]["kernel"]
    assert np.all(tangent != 0)
    for adjoint in (Exact(), FiniteDifference()):
        with pytest.raises(TypeError, match="forward-mode"):
            jvp(adjoint)


def test_adjoints_are_values():
    """Equal, hashable and frozen: they can be static arguments and config fields."""
    assert Exact() == Exact()
    assert FiniteDifference(0.01) == FiniteDifference() != FiniteDifference(0.1)
    assert len({*ADJOINTS, *ADJOINTS}) == len(ADJOINTS)


def test_a_radius_may_be_an_array_from_outside_of_jit():
    radius = jnp.asarray(0.25)
    assert jax.jit(lambda: FiniteDifference(radius).radius)() == 0.25


@pytest.mark.parametrize("radius", [0, 0.0, -0.01, float("nan")])
def test_a_radius_that_is_not_positive_is_refused(radius):
    with pytest.raises(
        InputError, match=f"radius={radius}; it must be a finite number > 0"
    ):
        FiniteDifference(radius)


def test_an_unknown_first_order_is_refused():
    with pytest.raises(InputError, match=r"at='nowhere'.*'current', 'lookahead'"):
        FirstOrder("nowhere")


def test_finite_difference_keeps_each_type():
    w, a = jnp.ones(3, jnp.float32), jnp.ones(3, jnp.bfloat16)
    step = one_step(
        lambda w, a: jnp.sum(jnp.sin(w * a.astype(w.dtype))),
        optax.sgd(0.1),
        FiniteDifference(),
    )

    def objective(w, a):
        return jnp.sum(step(w, a, optax.sgd(0.1).init(w))[0])

    to_w, to_a = jax.jit(jax.grad(objective, argnums=(0, 1)))(w, a)
    assert (to_w.dtype, to_a.dtype) == (w.dtype, a.dtype)
