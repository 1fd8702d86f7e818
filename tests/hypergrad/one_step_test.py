"""The exact pull-back against plain autodiff, and against optax without this library."""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st

from skillearn_jax.errors import InputError
from skillearn_jax.hypergrad import Autodiff, Exact, FixedPoint, one_step, unroll

MOMENTUM = optax.sgd(0.3, momentum=0.9)


def clipped(limit):
    return optax.chain(
        optax.clip_by_global_norm(limit), optax.add_decayed_weights(0.1), MOMENTUM
    )


OPTIMIZERS = {
    "sgd": optax.sgd(0.3),
    "momentum": MOMENTUM,
    "nesterov": optax.sgd(0.3, momentum=0.9, nesterov=True),
    "clip_active": clipped(0.05),
    "clip_inactive": clipped(1e3),
    "adam": optax.adam(0.1, eps_root=1e-3),
    "adamw": optax.adamw(0.1, eps_root=1e-3, weight_decay=0.1),
    "schedule": optax.sgd(optax.linear_schedule(0.5, 0.1, 10), momentum=0.9),
}

OPTIMIZER = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def gradients(step, objective):
    """Returns the gradient of `objective(step(...))` in all four arguments."""

    def of(active, reads, opt_state, data):
        return objective(step(active, reads, opt_state, *data))

    return jax.grad(of, argnums=(0, 1, 2, 3), allow_int=True)


# One step.


@OPTIMIZER
def test_one_step_equals_autodiff_and_plain_optax(
    optimizer, problem, filled, plain_step, scramble, assert_close
):
    """In W, R, s and float data, from an objective of W', s', the loss and aux."""
    state = filled(optimizer.init(problem.active))
    plain = plain_step(problem.loss, optimizer)
    steps = {
        "exact": one_step(problem.loss, optimizer, Exact()),
        "autodiff": one_step(problem.loss, optimizer, Autodiff()),
    }

    def everything(step):
        def of(*args):
            active, reads, opt_state, data = args
            new_active, info = step(active, reads, opt_state, *data)
            # A plain tuple: the reference knows nothing of StepInfo.
            return (new_active, tuple(info)), gradients(step, scramble)(*args)

        return jax.jit(of)

    args = problem.active, problem.reads, state, problem.data
    want, want_gradients = everything(plain)(*args)
    for step in steps.values():
        got, got_gradients = everything(step)(*args)
        assert_close(got, want)
        assert_close(got_gradients, want_gradients)


def test_the_two_clips_are_on_both_sides_of_the_limit(problem):
    """Guards the parametrisation above: an inactive clip tests nothing."""
    gradient = jax.grad(problem.loss, has_aux=True)(
        problem.active, problem.reads, *problem.data
    )[0]
    assert 0.05 < optax.tree.norm(gradient) < 1e3


@pytest.mark.parametrize("part", ["W'", "s'", "loss", "aux"])
def test_each_output_alone_equals_plain_optax(
    part, problem, filled, plain_step, scramble, floats
):
    """Symbolic zeros on the other outputs change nothing; zeros must be zeros here."""
    optimizer = OPTIMIZERS["clip_active"]
    state = filled(optimizer.init(problem.active))

    def objective(outputs):
        new_active, (opt_state, loss, aux) = outputs
        parts = {"W'": new_active, "s'": opt_state, "loss": loss, "aux": aux}
        return scramble(parts[part])

    args = problem.active, problem.reads, state, problem.data
    got, want = (
        floats(jax.jit(gradients(step, objective))(*args))
        for step in (
            one_step(problem.loss, optimizer),
            plain_step(problem.loss, optimizer),
        )
    )
    assert got.keys() == want.keys()
    assert any(np.any(leaf) for leaf in want.values())
    chex.assert_trees_all_close(got, want, rtol=1e-11, atol=1e-13)


def test_jit_changes_nothing(filled, scramble, assert_close):
    """On one vector: without jit, every operation is compiled by itself."""
    optimizer = OPTIMIZERS["clip_active"]
    w, a, x = jnp.asarray(np.random.default_rng(11).normal(size=(3, 4)))
    state = filled(optimizer.init(w))
    step = one_step(lambda w, a, x: jnp.sum(jnp.sin(w * a * x)), optimizer)
    of = gradients(step, lambda outputs: scramble(outputs[0]))
    assert_close(of(w, a, state, (x,)), jax.jit(of)(w, a, state, (x,)))
    assert_close(step(w, a, state, x), jax.jit(step)(w, a, state, x))


def test_vmap_over_reads(problem, filled, scramble, assert_close):
    optimizer = OPTIMIZERS["clip_active"]
    state = filled(optimizer.init(problem.active))
    of = gradients(one_step(problem.loss, optimizer), scramble)
    several = [
        jax.tree.map(lambda leaf, s=scale: s * leaf, problem.reads)
        for scale in (1.0, -0.5, 2.0)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    got = jax.jit(jax.vmap(of, in_axes=(None, 0, None, None)))(
        problem.active, stacked, state, problem.data
    )
    single = jax.jit(of)
    want = [single(problem.active, reads, state, problem.data) for reads in several]
    for i, one in enumerate(want):
        mine = jax.tree.map(
            lambda leaf, i=i: (
                leaf[i] if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf
            ),
            got,
        )
        assert_close(mine, one)


# Several steps.


def after_steps(step, cut=lambda opt_state: opt_state):
    """Returns `(active, reads, opt_state, batches) -> active` after a step per batch."""

    def of(active, reads, opt_state, batches):
        for batch in batches:
            active, (opt_state, *_) = step(active, reads, opt_state, *batch)
            opt_state = cut(opt_state)
        return active

    return of


def grad_of(function, scramble):
    return jax.jit(
        jax.grad(lambda *args: scramble(function(*args)), argnums=(0, 1, 2, 3))
    )


@pytest.mark.parametrize("count", [2, 5])
def test_momentum_carried_over_steps(
    count, problem, filled, plain_step, scramble, assert_close
):
    state = filled(MOMENTUM.init(problem.active))
    args = problem.active, problem.reads, state, problem.batches[:count]
    exact = after_steps(one_step(problem.loss, MOMENTUM))
    plain = after_steps(plain_step(problem.loss, MOMENTUM))
    # Rounding is carried through `count` steps.
    assert_close(
        grad_of(exact, scramble)(*args), grad_of(plain, scramble)(*args), 1e-11
    )


@pytest.mark.parametrize(("count", "same"), [(1, True), (2, False)])
def test_cutting_the_state_is_exact_for_one_step_and_wrong_for_two(
    count, same, problem, filled, scramble, floats
):
    state = filled(MOMENTUM.init(problem.active))
    args = problem.active, problem.reads, state, problem.batches[:count]
    step = one_step(problem.loss, MOMENTUM)
    whole = floats(grad_of(after_steps(step), scramble)(*args)[1])
    cut = floats(grad_of(after_steps(step, jax.lax.stop_gradient), scramble)(*args)[1])
    for path, leaf in whole.items():
        error = np.max(np.abs(cut[path] - leaf)) / np.max(np.abs(leaf))
        assert error < 1e-12 if same else error > 1e-2, path


def test_scan_over_steps(problem, filled, plain_step, scramble, assert_close):
    optimizer = OPTIMIZERS["clip_active"]
    state = filled(optimizer.init(problem.active))
    step = one_step(problem.loss, optimizer)

    def scanned(active, reads, opt_state, batches):
        def body(carry, batch):
            active, opt_state = carry
            active, info = step(active, reads, opt_state, *batch)
            return (active, info.opt_state), info.loss

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        (active, _), losses = jax.lax.scan(body, (active, opt_state), stacked)
        return active, losses

    def unrolled(active, reads, opt_state, batches):
        plain, losses = plain_step(problem.loss, optimizer), []
        for batch in batches:
            active, (opt_state, loss, _) = plain(active, reads, opt_state, *batch)
            losses.append(loss)
        return active, jnp.stack(losses)

    args = jax.tree.map(jnp.asarray, (problem.active, problem.reads))
    args = *args, state, problem.batches[:3]
    # Rounding is carried through three clipped steps.
    assert_close(
        grad_of(scanned, scramble)(*args), grad_of(unrolled, scramble)(*args), 1e-11
    )


def test_two_stages_with_different_optimizers(
    problem, filled, plain_step, scramble, assert_close
):
    """The second stage reads the first one's result, as a supporting set."""
    first, second = OPTIMIZERS["clip_active"], OPTIMIZERS["adam"]
    states = [filled(optimizer.init(problem.active)) for optimizer in (first, second)]

    def composed(make):
        def of(active, reads, states, batches):
            taught, _ = make(problem.loss, first)(active, reads, states[0], *batches[0])
            supported = {**reads, "teacher": taught["head"][0]}
            learnt, _ = make(problem.loss, second)(
                active, supported, states[1], *batches[1]
            )
            return learnt, taught

        return jax.jit(
            jax.grad(
                lambda *args: scramble(of(*args)), argnums=(0, 1, 3), allow_int=True
            )
        )

    args = problem.active, problem.reads, states, problem.batches[:2]
    assert_close(composed(one_step)(*args), composed(plain_step)(*args), 1e-11)


def test_a_step_inside_the_loss_of_a_step(assert_close):
    """Nested, not chained: the outer pull-back differentiates the inner one."""
    rng = np.random.default_rng(7)
    w, x, a = rng.normal(size=(3, 4))

    def inner(w, reads):
        return jnp.sum(jnp.sin(w * reads)) + jnp.sum(w**4) / 4

    def total(adjoint):
        step = one_step(inner, MOMENTUM, adjoint)

        def outer(x, a):
            w_new, info = step(jnp.asarray(w), a * x, MOMENTUM.init(jnp.asarray(w)))
            return jnp.sum(jnp.cos(w_new * x) * a) + info.loss**2

        outer_step = one_step(outer, MOMENTUM, adjoint)
        return jax.jit(
            jax.grad(
                lambda x, a: jnp.sum(outer_step(x, a, MOMENTUM.init(x))[0] ** 3),
                argnums=(0, 1),
            )
        )

    x, a = jnp.asarray(x), jnp.asarray(a)
    assert_close(total(Exact())(x, a), total(Autodiff())(x, a))


# Hyperparameters, keys, integers and model state.


def test_learning_rate_in_the_state_gets_its_gradient(
    problem, filled, plain_step, scramble, assert_close
):
    """Over two steps against plain optax, and for one step by hand: -<v, mu s + g>."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.3, momentum=0.9)
    state = optimizer.init(problem.active)
    state = state._replace(inner_state=filled(state.inner_state))

    def of_rates(make, batches):
        step = make(problem.loss, optimizer)

        def objective(hyperparams):
            args = state._replace(hyperparams=hyperparams), batches
            return scramble(after_steps(step)(problem.active, problem.reads, *args))

        return jax.jit(jax.grad(objective))(state.hyperparams)

    two = problem.batches[:2]
    assert_close(of_rates(one_step, two), of_rates(plain_step, two), 1e-11)

    one = of_rates(one_step, problem.batches[:1])["learning_rate"]
    new_active, info = one_step(problem.loss, optimizer)(
        problem.active, problem.reads, state, *problem.batches[0]
    )
    v = jax.grad(scramble)(new_active)
    trace = optax.tree.get(info.opt_state, "trace")
    np.testing.assert_allclose(one, -optax.tree.vdot(v, trace), rtol=1e-12)


def test_the_pull_back_draws_the_same_dropout_as_the_step(assert_close):
    rng = np.random.default_rng(8)
    w, a, x = rng.normal(size=6), rng.normal(size=6), rng.normal(size=(5, 6))

    def loss(w, a, x, key):
        kept = jax.random.bernoulli(key, 0.5, x.shape)
        hidden = jnp.tanh(jnp.where(kept, x, 0) @ w)
        return jnp.mean((hidden - jnp.tanh(x @ a)) ** 2)

    def of(adjoint, key):
        step = one_step(loss, MOMENTUM, adjoint)

        def objective(w, a):
            w_new, _ = step(w, a, MOMENTUM.init(w), x, key)
            return jnp.sum(w_new**3)

        return jax.jit(jax.grad(objective, argnums=(0, 1)))(w, a)

    w, a = jnp.asarray(w), jnp.asarray(a)
    assert_close(of(Exact(), jax.random.key(0)), of(Autodiff(), jax.random.key(0)))
    here, there = of(Exact(), jax.random.key(0)), of(Exact(), jax.random.key(1))
    assert np.max(np.abs(here[1] - there[1])) > 1e-3  # the mask matters here


def test_integers_and_none_in_reads_and_data_pass_through(assert_close):
    rng = np.random.default_rng(9)
    w = {"table": jnp.asarray(rng.normal(size=(5, 3))), "unused": None}
    reads = {
        "a": jnp.asarray(rng.normal(size=3)),
        "op": jnp.asarray(2),
        "on": jnp.asarray([True, False, True]),
        "absent": None,
    }
    rows, classes = jnp.asarray([0, 3, 3, 1]), jnp.asarray([0, 2, 1, 1])

    def loss(w, reads, rows, classes):
        logits = w["table"][rows] * jnp.where(reads["on"], reads["a"], 1.0)[None]
        logits = logits ** (1 + reads["op"])
        each = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
        return each.mean()

    def of(adjoint):
        step = one_step(loss, MOMENTUM, adjoint)

        def objective(w, reads):
            w_new, _ = step(w, reads, MOMENTUM.init(w), rows, classes)
            return jnp.sum(jnp.sin(w_new["table"]))

        gradient = jax.grad(objective, argnums=(0, 1), allow_int=True)
        return jax.jit(gradient)(w, reads)

    got = of(Exact())
    assert_close(got, of(Autodiff()))
    assert got[1]["op"].dtype == got[1]["on"].dtype == jax.dtypes.float0


def test_model_state_goes_through_aux(plain_step, scramble, assert_close):
    """Running statistics: read as data, returned in aux, read by the next step."""
    rng = np.random.default_rng(10)
    batches = rng.normal(size=(2, 6, 3))

    def loss(w, a, running, x):
        hidden = jnp.tanh(x @ w)
        running = {"mean": 0.9 * running["mean"] + 0.1 * hidden.mean(axis=0)}
        centred = hidden - running["mean"][None]
        return jnp.mean((centred @ a) ** 2), running

    def of(make):
        step = make(loss, MOMENTUM)

        def objective(w, a, running):
            state = MOMENTUM.init(w)
            for x in batches:
                w, (state, _, running) = step(w, a, state, running, x)
            return scramble((w, running))

        return jax.jit(jax.grad(objective, argnums=(0, 1, 2)))

    args = rng.normal(size=(3, 4)), rng.normal(size=4), {"mean": rng.normal(size=4)}
    args = jax.tree.map(jnp.asarray, args)
    assert_close(of(one_step)(*args), of(plain_step)(*args))


# What cannot be differentiated says so.


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("where", ["loss", "optimizer"])
def test_closing_over_a_differentiated_value_raises(where, wrap):
    """Never a silent zero: whoever forgets to pass a value learns of it."""
    w = jnp.asarray([1.0, -2.0])

    @wrap
    def objective(a):
        if where == "loss":
            step = one_step(lambda w, _: jnp.sum(jnp.sin(w * a)), MOMENTUM)
        else:
            step = one_step(lambda w, _: jnp.sum(jnp.sin(w)), optax.sgd(a, 0.9))
        return jnp.sum(step(w, (), MOMENTUM.init(w))[0])

    objective(0.5)
    # Inside jit it is a private exception of JAX's, when the trace has ended.
    refused, message = (
        (Exception, "closed-over value|unexpected tracer")
        if wrap is jax.jit
        else (
            InputError,
            r"or its optimizer seems to close over .* set adjoint=Autodiff\(\)",
        )
    )
    with pytest.raises(refused, match=message):
        jax.grad(objective)(0.5)


@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()])
@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (lambda w, a: w * a, r"a value of shape \(3,\)"),
        (lambda w, a: None, "a value of type NoneType"),
        (lambda w, a: jnp.sum(w > a), r"a value of type int\d+"),
        (lambda w, a: jnp.sum(w * 1j), r"a value of type complex\d+"),
        (lambda w, a: (jnp.sum(w), 1, 2), "3 things"),
    ],
)
def test_a_loss_that_is_no_scalar_float_is_told_so(adjoint, loss, found):
    w = jnp.ones(3)
    match = rf"<lambda> returned {found}, but a scalar float is needed"
    with pytest.raises(InputError, match=match):
        one_step(loss, MOMENTUM, adjoint)(w, w, MOMENTUM.init(w))


@pytest.mark.parametrize("make", [one_step, functools.partial(unroll, num_steps=2)])
def test_what_no_step_can_be_made_of_is_refused(make):
    def loss(w, a):
        return jnp.sum((w - a) ** 2)

    with pytest.raises(InputError, match="loss_fn=None; it must be a function"):
        make(None, optimizer=MOMENTUM)(1.0, 1.0, MOMENTUM.init(1.0))
    with pytest.raises(InputError, match="of loss has the optimizer 'sgd'; it must be"):
        make(loss, optimizer="sgd")(1.0, 1.0, ())
    with pytest.raises(
        InputError, match=r"of loss has adjoint=<class .*; it must be a"
    ):
        make(loss, optimizer=MOMENTUM, adjoint=Exact)(1.0, 1.0, MOMENTUM.init(1.0))
    with pytest.raises(
        InputError, match=r"active is int.*; what is moved holds floats"
    ):
        make(loss, optimizer=MOMENTUM)(2, 1.0, MOMENTUM.init(2))
    match = (
        r"opt_state is of another .*: it is \(EmptyState, EmptyState\) of 0 arrays, and"
    )
    with pytest.raises(InputError, match=match):
        make(loss, optimizer=MOMENTUM)(2.0, 1.0, optax.sgd(0.1).init(2.0))
    match = r"other parameters: \[0\].trace has the shape \(2, 3\), and .* gives \(3,\)"
    with pytest.raises(InputError, match=match):
        make(loss, optimizer=MOMENTUM)(
            np.zeros(3), 1.0, MOMENTUM.init(np.zeros((2, 3)))
        )
    match = r"reads\['mode'\] is 'fast'; it must be an array or a number"
    with pytest.raises(InputError, match=match):
        make(loss, optimizer=MOMENTUM)(2.0, {"mode": "fast"}, MOMENTUM.init(2.0))
    search = optax.lbfgs()
    match = r"this one asks for more \(.*'value'.*take one without a line search"
    with pytest.raises(InputError, match=match):
        make(loss, optimizer=search)(np.ones(3), 1.0, search.init(np.ones(3)))


def test_injected_hyperparameters_may_have_another_shape():
    """A rate for each coordinate, where init has one for all."""
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    w, rates = jnp.ones(3), jnp.asarray([0.1, 0.2, 0.3])
    state = optimizer.init(w)._replace(hyperparams={"learning_rate": rates})
    moved, _ = one_step(lambda w, a: jnp.sum(w**2) * a / 2, optimizer)(w, 1.0, state)
    np.testing.assert_allclose(moved, 1 - rates, rtol=1e-14)


@pytest.mark.parametrize(("eps_root", "finite"), [(0.0, False), (1e-8, True)])
def test_adam_needs_eps_root_where_a_gradient_is_zero(eps_root, finite):
    """As documented; the coordinate with a gradient is right either way."""
    optimizer = optax.adam(0.1, eps_root=eps_root)
    w, a = jnp.asarray([0.0, 1.0]), jnp.asarray([1.0, 2.0])
    step = one_step(lambda w, a: jnp.sum(a * w**2), optimizer)
    of = jax.jit(jax.grad(lambda a: jnp.sum(step(w, a, optimizer.init(w))[0])))
    gradient = of(a)
    assert np.isfinite(gradient[0]) == finite
    assert np.isfinite(gradient[1])


@pytest.mark.parametrize("adjoint", [Exact(), FixedPoint(2)], ids=repr)
def test_the_loss_alone_asks_nothing_of_the_optimizer(adjoint):
    optimizer = optax.adam(0.1)
    w, a = jnp.asarray([0.0, 1.0]), jnp.asarray([1.0, 2.0])
    step = one_step(lambda w, a: jnp.sum(a * w**2), optimizer, adjoint)
    of = jax.grad(lambda state: step(w, a, state)[1].loss, allow_int=True)
    np.testing.assert_array_equal(of(optimizer.init(w))[0].nu, np.zeros(2))

    def looped(a):
        """The loop has a cotangent for the counter, though it is of type float0."""
        first, *rest = optimizer.init(w)

        def body(count, _):
            info = step(w, a, (first._replace(count=count), *rest))[1]
            return info.opt_state[0].count, info.loss

        return jnp.sum(jax.lax.scan(body, first.count, length=3)[1])

    np.testing.assert_array_equal(jax.grad(looped)(a), [0, 3])


# Types and compilations.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
@pytest.mark.parametrize("name", ["clip_active", "adam", "inject"])
def test_types_stay_and_nothing_recompiles(name, dtype, problem, floats):
    """Outputs feed the next call: a weak type or a promotion would compile again."""
    optimizer = {
        **OPTIMIZERS,
        "inject": optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.9),
    }[name]
    step = one_step(problem.loss, optimizer)

    traces = []

    @jax.jit
    def hypergrad(active, reads, opt_state, data):
        traces.append("traced")

        def objective(active, reads, data):
            new_active, info = step(active, reads, opt_state, *data)
            loss = problem.loss(new_active, reads, *data)[0]
            return loss + info.loss, (new_active, info.opt_state)

        return jax.grad(objective, argnums=(0, 1, 2), has_aux=True)(active, reads, data)

    active, reads, data = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype),
        (problem.active, problem.reads, problem.data),
    )
    state = optimizer.init(active)
    for _ in range(4):
        before = active, state
        gradient, (active, state) = hypergrad(active, reads, state, data)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, (active, state))
        assert {leaf.dtype for leaf in floats(gradient).values()} == {jnp.dtype(dtype)}
        # The reads move as an architecture would.
        reads = jax.tree.map(
            lambda r, g: r - jnp.asarray(0.1, dtype) * g, reads, gradient[1]
        )
    assert len(traces) == 1
    chex.assert_tree_all_finite((gradient, active))


def test_each_leaf_keeps_its_own_type():
    """Half-precision weights, float32 reads, float64 data: each gradient like its own."""
    w = {"half": jnp.ones(3, jnp.bfloat16), "full": jnp.ones(3, jnp.float32)}
    a, x = jnp.ones(3, jnp.float32), jnp.ones(3, jnp.float64)

    def loss(w, a, x):
        hidden = jnp.sin(w["half"].astype(jnp.float32) * a) * w["full"]
        return jnp.sum(hidden.astype(jnp.float64) * x)

    step = one_step(loss, MOMENTUM)

    def objective(w, a, x):
        new, _ = step(w, a, MOMENTUM.init(w), x)
        return jnp.sum(new["half"].astype(jnp.float32) * new["full"])

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1, 2)))(w, a, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, (w, a, x))


# Any pytree, any optimiser.


def random_optimizer(draw):
    """Draws a chain: a clip, a decay, then a rule."""
    rate = draw(st.sampled_from([0.05, 0.5]))
    rule = draw(
        st.sampled_from(
            [
                optax.sgd(rate),
                optax.sgd(rate, momentum=0.7),
                optax.sgd(rate, momentum=0.7, nesterov=True),
                optax.adam(rate, eps_root=1e-2),
                optax.rmsprop(rate, eps=1e-2),
            ]
        )
    )
    parts = [rule]
    if draw(st.booleans()):
        parts.insert(0, optax.add_decayed_weights(0.1))
    if draw(st.booleans()):
        parts.insert(0, optax.clip_by_global_norm(draw(st.sampled_from([0.1, 100.0]))))
    return optax.chain(*parts)


@st.composite
def cases(draw):
    """Draws an optimiser, W and R: nested trees of arrays of rank 0 to 2."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    leaf = st.lists(st.integers(1, 3), max_size=2).map(
        lambda shape: jnp.asarray(rng.normal(size=shape))
    )
    tree = st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, min_size=1, max_size=2)
            | st.dictionaries(st.sampled_from("ab"), inner, min_size=1)
            | st.tuples(inner, st.none())
        ),
        max_leaves=3,
    )
    return random_optimizer(draw), draw(tree), draw(tree)


@hypothesis.settings(
    derandomize=True,
    deadline=None,
    max_examples=8,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(case=cases())
def test_any_tree_and_any_optimizer(case, scramble, filled, assert_close):
    optimizer, active, reads = case

    def loss(active, reads):
        # Every leaf of W meets every leaf of R, through two scalars.
        return jnp.sin(scramble(active)) * scramble(reads) + 0.3 * scramble(active) ** 2

    state = filled(optimizer.init(active))

    def of(adjoint):
        step = one_step(loss, optimizer, adjoint)
        return gradients(step, scramble)

    exact, autodiff = jax.jit(
        lambda *args: (of(Exact())(*args), of(Autodiff())(*args))
    )(active, reads, state, ())
    # 1e-10: a drawn gradient may be small through cancellation.
    assert_close(exact, autodiff, rtol=1e-10)
