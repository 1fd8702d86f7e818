"""Several look-ahead steps: the same gradient in every form, in bounded memory."""

from types import SimpleNamespace

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
    FiniteDifference,
    FirstOrder,
    Neumann,
    Steps,
    at_solution,
    one_step,
    unroll,
)

OPTIMIZER = optax.chain(
    optax.clip_by_global_norm(0.5),
    optax.add_decayed_weights(0.1),
    optax.sgd(0.3, momentum=0.9),
)


@pytest.fixture
def hypergrad(problem, filled, scramble):
    """`(make, count) -> gradient` of W_k and s_k in W, R, s and the stacked data."""
    state = filled(OPTIMIZER.init(problem.active))

    def of(run, count=5):
        stacked = jax.tree.map(lambda *x: np.stack(x), *problem.batches[:count])

        def value(active, reads, opt_state, data):
            new_active, info = run(active, reads, opt_state, data)
            return scramble((new_active, info.opt_state, info.loss, info.aux))

        args = problem.active, problem.reads, state, stacked
        return jax.jit(jax.grad(value, argnums=(0, 1, 2, 3)))(*args)

    return of


def test_every_segment_length_and_loop_is_plain_autodiff(
    problem, plain_step, hypergrad, assert_close
):
    """All in one test, since all are compared with one gradient."""
    plain = plain_step(problem.loss, OPTIMIZER)

    def by_hand(active, reads, opt_state, data):
        infos = []
        for i in range(5):
            batch = jax.tree.map(lambda x, i=i: x[i], data)
            active, (opt_state, loss, aux) = plain(active, reads, opt_state, *batch)
            infos.append((loss, aux))
        loss, aux = jax.tree.map(lambda *x: jnp.stack(x), *infos)
        return active, SimpleNamespace(opt_state=opt_state, loss=loss, aux=aux)

    def got(adjoint, segment, loop):
        step = unroll(problem.loss, OPTIMIZER, 5, adjoint, segment=segment, loop=loop)
        return hypergrad(lambda w, reads, state, data: step(w, reads, state, *data))

    want = hypergrad(by_hand)
    for loop in ("python", "scan"):
        for segment in (1, 2, 5, None):  # by default 3
            assert_close(got(Exact(), segment, loop), want, 1e-10)
        assert_close(got(Autodiff(), 2, loop), want, 1e-10)
        assert_close(got(FiniteDifference(1e-4), 2, loop), want, 1e-5)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_gradient_descent_on_a_quadratic(count, assert_close):
    """dW_k/da = -eta sum_{i<k} (1 - eta H)^i B, the Neumann series."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    h, b = root @ root.T, rng.normal(size=(3, 2))
    a, w = rng.normal(size=2), rng.normal(size=3)
    step = unroll(
        lambda w, a, x: w @ h @ w / 2 + x * (w @ b @ a), optax.sgd(0.1), count
    )
    got = jax.jit(
        jax.jacrev(lambda a: step(w, a, optax.sgd(0.1).init(w), jnp.ones(count))[0])
    )(a)
    powers = [np.linalg.matrix_power(np.eye(3) - 0.1 * h, i) for i in range(count)]
    assert_close(got, -0.1 * sum(powers) @ b)


def test_an_implicit_adjoint_differentiates_the_last_point_only(problem, assert_close):
    """k steps are a solver; the derivative is that of a solution at W_k, last batch."""
    stacked = jax.tree.map(lambda *x: np.stack(x), *problem.batches)
    state = OPTIMIZER.init(problem.active)
    adjoint = Neumann(4, 0.05)
    step = unroll(problem.loss, OPTIMIZER, 5, adjoint)
    plain = unroll(problem.loss, OPTIMIZER, 5, Autodiff())
    solution = at_solution(problem.loss, adjoint)

    def total(active):
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(active))

    def implicit(reads, probe):
        new, _ = step(problem.active, reads, state, *stacked, probe=probe)
        return total(new)

    def by_hand(reads, probe):
        new, _ = plain(problem.active, reads, state, *stacked)
        return total(solution(new, reads, *problem.batches[-1], probe=probe))

    got, want = (
        jax.jit(jax.value_and_grad(fn, argnums=(0, 1)))(problem.reads, 0.0)
        for fn in (implicit, by_hand)
    )
    assert_close(got, want, 1e-10)


def test_first_order_passes_nothing_to_reads(problem):
    stacked = jax.tree.map(lambda *x: np.stack(x), *problem.batches[:3])
    for at in ("current", "lookahead"):
        step = unroll(problem.loss, OPTIMIZER, 3, FirstOrder(at))
        state = OPTIMIZER.init(problem.active)
        grads = jax.jit(
            jax.grad(
                lambda reads, step=step, state=state: jnp.sum(
                    step(problem.active, reads, state, *stacked)[0]["head"][1] ** 2
                )
            )
        )(problem.reads)
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))


def test_one_step_to_a_solution_is_one_step(problem, assert_close):
    adjoint, (batch, *_) = Neumann(4, 0.05), problem.batches
    state = OPTIMIZER.init(problem.active)
    one = one_step(problem.loss, OPTIMIZER, adjoint)
    of_one = unroll(problem.loss, OPTIMIZER, 1, adjoint)
    stacked = jax.tree.map(lambda x: x[None], batch)

    def slope(step, data):
        def value(reads):
            new, _ = step(problem.active, reads, state, *data)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(new))

        return jax.jit(jax.grad(value))(problem.reads)

    assert_close(slope(of_one, stacked), slope(one, batch))


def test_the_way_to_a_solution_is_taken_without_a_derivative():
    """The losses on the way count as constants, that of the last step does not."""
    step = unroll(lambda w, a: (w - a) ** 2, optax.sgd(0.1), 3, ConjugateGradient())
    slopes = jax.jacrev(lambda a: step(1.0, a, optax.sgd(0.1).init(1.0))[1].loss)(2.0)
    np.testing.assert_array_equal(slopes[:2], 0)
    assert slopes[2] != 0


@pytest.mark.parametrize(
    ("loop", "backend", "scans"),
    [
        ("auto", "cpu", False),
        ("auto", "gpu", True),
        ("scan", "cpu", True),
        ("python", "gpu", False),
    ],
)
def test_auto_writes_the_steps_out_on_cpu_alone(loop, backend, scans, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    sgd = optax.sgd(0.1)
    step = unroll(lambda w, a: (w - a) ** 2, sgd, 4, loop=loop)
    traced = jax.make_jaxpr(lambda a: step(1.0, a, sgd.init(1.0))[0])(2.0)
    assert ("scan[" in str(traced)) == scans


def test_unrolls_nest_into_levels(problem, assert_close):
    """Two levels of two steps each, beside the same written with `one_step`."""
    optimizer = optax.sgd(0.2, momentum=0.9)

    def second_loss(active, reads, images, labels):
        value, _ = problem.loss(active, reads[0], images, labels)
        pull = jax.tree.map(lambda w, u: jnp.sum(jnp.tanh(w * u)), active, reads[1])
        return value + sum(jax.tree.leaves(pull))

    stacked = jax.tree.map(lambda *x: np.stack(x), *problem.batches[:2])
    state = optimizer.init(problem.active)

    def value(reads, first, second):
        one, _ = first(problem.active, reads)
        two, _ = second(problem.active, (reads, one))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(two))

    def unrolled(loss):
        step = unroll(loss, optimizer, 2)
        return lambda active, reads: step(active, reads, state, *stacked)

    def composed(loss):
        step = one_step(loss, optimizer, Autodiff())

        def run(active, reads):
            opt_state = state
            for batch in problem.batches[:2]:
                active, info = step(active, reads, opt_state, *batch)
                opt_state = info.opt_state
            return active, info

        return run

    got, want = (
        jax.jit(jax.grad(value), static_argnums=(1, 2))(
            problem.reads, make(problem.loss), make(second_loss)
        )
        for make in (unrolled, composed)
    )
    assert_close(got, want, 1e-10)


def temporary_bytes(count, segment):
    """Memory of the hypergradient through `count` steps of a wide linear model."""
    width, optimizer = 256, optax.sgd(0.1, momentum=0.9)
    step = unroll(
        lambda w, a, x: jnp.mean((jnp.tanh(x @ w) * a) ** 2),
        optimizer,
        count,
        segment=segment,
        loop="scan",
    )
    w, a = jnp.ones((width, width)), jnp.ones(width)[None]
    batches = jnp.ones((count, 4, width))

    def outer(a):
        return jnp.sum(step(w, a, optimizer.init(w), batches)[0])

    memory = jax.jit(jax.grad(outer)).lower(a).compile().memory_analysis()
    return memory.temp_size_in_bytes / w.nbytes


def test_memory_grows_with_the_square_root(request):
    """In copies of the parameters: 64 steps against 16 cost about twice, not 4 times."""
    jax.config.update("jax_disable_most_optimizations", False)
    few, many = temporary_bytes(16, None), temporary_bytes(64, None)
    everything = temporary_bytes(64, 64)
    assert many < 2.5 * few
    assert many < everything / 2


SGD = optax.sgd(0.1)


def square(w, a):
    return (w - a) ** 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Steps(0), "num_steps is 0; it must be a whole number, at least 1"),
        (lambda: Steps(2.5), "num_steps is 2.5; it must be a whole number"),
        (lambda: Steps(4, segment=1.5), r"segment is 1.5; it must be a whole number"),
        (lambda: Steps(4, segment="2"), r"segment is '2'; it must be a whole number"),
        (lambda: Steps(4, segment=5), "segment is 5; it must be 1 to num_steps, 4"),
        (lambda: Steps(4, loop="while"), "loop='while'; it must be"),
        (
            lambda: unroll(None, SGD, 2),
            "unroll has loss_fn=None; it must be a function",
        ),
        (lambda: unroll(square, 0.1, 2), "unroll of square has the optimizer 0.1"),
        (lambda: unroll(square, SGD, 2, Exact), "unroll of square has adjoint=<class"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_data_of_another_length_are_refused():
    step = unroll(lambda w, a, x: w * a * x, optax.sgd(0.1), 3, ConjugateGradient())
    with pytest.raises(InputError, match=r"data\[0\] has shape \(2,\), but 3 steps"):
        step(1.0, 2.0, optax.sgd(0.1).init(1.0), jnp.ones(2))


@pytest.mark.parametrize("loop", ["python", "scan"])
@pytest.mark.parametrize("adjoint", [Exact(), ConjugateGradient(20)])
def test_without_data_all_steps_are_on_one_loss(loop, adjoint, x64):
    """w <- w - r h (w - a): after k steps w = a (1 - q) + q w_0 with q = (1 - r h)^k."""
    rate, h, count = 0.2, 1.7, 7
    sgd = optax.sgd(rate)
    step = unroll(
        lambda w, a: h * (w - a) ** 2 / 2, sgd, count, adjoint, segment=3, loop=loop
    )

    def solution(a):
        return step(jnp.asarray(0.5), a, sgd.init(0.5))[0]

    q = (1 - rate * h) ** count
    value, slope = jax.value_and_grad(solution)(2.0)
    np.testing.assert_allclose(value, 2 * (1 - q) + q * 0.5, rtol=1e-14)
    want = 1 - q if isinstance(adjoint, Exact) else 1.0
    np.testing.assert_allclose(slope, want, rtol=1e-12)


def test_a_probe_is_for_implicit_adjoints():
    step = unroll(lambda w, a: (w - a) ** 2, optax.sgd(0.1), 2)
    single = one_step(lambda w, a: w * a, optax.sgd(0.1))
    for refusing in (step, single):
        match = r"probe= is for implicit .* Exact\(\): leave"
        with pytest.raises(InputError, match=match):
            refusing(1.0, 2.0, optax.sgd(0.1).init(1.0), probe=0.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'"):
        step(1.0, 2.0, optax.sgd(0.1).init(1.0), scale=2.0)


def test_what_moves_holds_floats_and_data_are_arrays():
    step = unroll(lambda w, a: (w - a) ** 2, SGD, 2)
    with pytest.raises(InputError, match=r"active\['w'\] is 'x'; it must be an array"):
        step({"w": "x"}, 2.0, SGD.init(1.0))
    single = one_step(lambda w, a, mode: (w - a) ** 2, SGD, Autodiff())
    with pytest.raises(InputError, match=r"data\[0\] is 'fast'; it must be an array"):
        single(1.0, 2.0, SGD.init(1.0), "fast")
