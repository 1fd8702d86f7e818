"""What a step begins with: a fresh optimiser, hyperparameters that the reads decide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Program, Stage, Validation
from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FirstOrder,
    Steps,
)
from skillearn_jax.hypergrad.hyperparams import with_hyperparams
from skillearn_jax.tree import Sharded, form

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

TARGET = np.array([1.0, -2.0, 0.5])


def loss(moves, reads, model_state, batch, key):
    return jnp.sum((moves["w"] - TARGET) ** 4) / 4


def outer(moves, reads, model_state, batch, key):
    return jnp.sum((reads["w"] - 0.9 * TARGET) ** 2)


def program(minimize, **changes):
    stage = Stage("learner", **{"moves": ("w",), "loss_fn": loss, **changes})
    judge = Validation(outer, reads=("w",), minimize=minimize, indirect=tuple(minimize))
    return Program((stage,), judge)


def test_a_learned_initialisation_forgets_its_momentum():
    """The initialisation rests, so every step does the same as the first."""
    changes = {
        "optimizer": optax.sgd(0.05, momentum=0.9),
        "solver": Steps(2),
        "start": {"w": "init"},
    }
    ends = {}
    for restart in (False, True):
        made = program({"init": optax.sgd(0.0)}, restart=restart, **changes)
        state = made.init({"w": jnp.zeros(3), "init": jnp.zeros(3)}, jax.random.key(0))
        step = jax.jit(made.step)
        ends[restart] = []
        for _ in range(3):
            state, _ = step(state, {})
            ends[restart].append(np.asarray(state.params["w"]))
    first, second, third = ends[True]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(first, ends[False][0])
    assert np.abs(ends[False][1] - first).max() > 0.01
    assert "w from init, its optimizer anew" in str(made)


def rates(reads):
    return {"learning_rate": jnp.exp(reads["log_rate"]), "momentum": reads["mass"]}


def learned_rates(**changes):
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    supporting = {"log_rate": optax.sgd(0.1), "mass": optax.sgd(0.1)}
    return program(
        supporting,
        reads=("log_rate", "mass"),
        optimizer=optax.chain(optax.clip_by_global_norm(1.0), optimizer),
        hyperparams=rates,
        **changes,
    )


def start(made):
    params = {
        "w": jnp.zeros(3),
        "log_rate": jnp.asarray(-2.0),
        "mass": jnp.asarray(0.8),
    }
    return made.init(params, jax.random.key(0))


def by_hand(log_rate, mass, w, trace):
    grad = (w - TARGET) ** 3
    grad = grad * jnp.minimum(1.0, 1.0 / jnp.linalg.norm(grad))
    trace = grad + mass * trace
    return w - jnp.exp(log_rate) * trace, trace


def test_learning_rate_and_momentum_are_learned():
    """Over several steps, with the gradient of the formulas written out."""
    made, traces = learned_rates(), []
    state = start(made)

    @jax.jit
    def step(state, batches):
        traces.append(state)
        return made.step(state, batches)

    log_rate, mass, w, trace = jnp.asarray(-2.0), jnp.asarray(0.8), jnp.zeros(3), 0.0

    def objective(log_rate, mass):
        return jnp.sum((by_hand(log_rate, mass, w, trace)[0] - 0.9 * TARGET) ** 2)

    for _ in range(4):
        grads, _ = made.hypergrad(state, {})
        wanted = jax.grad(objective, argnums=(0, 1))(log_rate, mass)
        np.testing.assert_allclose(grads["log_rate"], wanted[0], rtol=1e-12)
        np.testing.assert_allclose(grads["mass"], wanted[1], rtol=1e-12, atol=1e-15)
        state, _ = step(state, {})
        log_rate, mass = log_rate - 0.1 * wanted[0], mass - 0.1 * wanted[1]
        w, trace = by_hand(log_rate, mass, w, trace)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-12)
    assert grads["mass"] != 0
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("adjoint", "rtol"), [(Exact(), 1e-12), (FiniteDifference(1e-3), 1e-3)]
)
@pytest.mark.parametrize("solver", [None, Steps(3)])
def test_every_derivative_of_a_step_reaches_them(adjoint, rtol, solver):
    made = learned_rates(adjoint=adjoint, solver=solver)
    state = start(made)
    grads, _ = jax.jit(made.hypergrad)(state, {})
    wanted, _ = jax.jit(made.with_adjoint(Autodiff()).hypergrad)(state, {})
    for name, value in wanted.items():
        np.testing.assert_allclose(grads[name], value, rtol=rtol, atol=1e-15)


def test_at_a_solution_they_do_not_matter():
    made = learned_rates(adjoint=ConjugateGradient(), solver=Steps(3))
    grads, _ = jax.jit(made.hypergrad)(start(made), {})
    assert (grads["log_rate"], grads["mass"]) == (0, 0)
    cut = "  (cut: ConjugateGradient(num_steps=10, damping=0.0))"
    assert f"    tunes    its optimizer by rates{cut}\n" in str(made)


def test_at_first_order_they_act_on_a_constant_gradient():
    """w' = w - rate (g + mass trace): of one step, the derivative is the exact one."""
    made = learned_rates(adjoint=FirstOrder("lookahead"))
    state, _ = made.step(start(made), {})
    grads, _ = made.hypergrad(state, {})
    wanted, _ = made.with_adjoint(Autodiff()).hypergrad(state, {})
    assert grads["mass"] != 0
    for name, value in wanted.items():
        np.testing.assert_allclose(grads[name], value, rtol=1e-12)
    assert "    tunes    its optimizer by rates\n" in str(made)
    assert "    log_rate -> learner -> objective" in str(made)
    with pytest.raises(InputError, match="'log_rate' has no path to the objective"):
        made.with_adjoint(FirstOrder("current"))


def test_what_is_held_fixed_passes_no_gradient_on():
    made = learned_rates()
    (stage,) = made.stages
    fixed = dataclasses.replace(stage, detached=("log_rate",))
    reads = {"log_rate": jnp.asarray(-2.0), "mass": jnp.asarray(0.8)}
    opt_state = stage.transformation.init({"w": jnp.zeros(3)})

    def rate(reads, stage):
        begun = stage.begin(opt_state, {"w": jnp.zeros(3)}, reads)
        return optax.tree.get(begun, "learning_rate")

    assert jax.grad(rate)(reads, stage)["log_rate"] == pytest.approx(np.exp(-2.0))
    assert jax.grad(rate)(reads, fixed)["log_rate"] == 0


INJECTED = optax.inject_hyperparams(optax.sgd)


@pytest.mark.parametrize(
    ("optimizer", "hyperparams", "message"),
    [
        (
            optax.sgd(0.1),
            lambda reads: {"learning_rate": reads["rate"]},
            r"returned \['learning_rate'\], .*: make the optimizer by optax.inject_hyper",
        ),
        (
            INJECTED(0.1),
            lambda reads: {"count": reads["rate"]},
            r"returned \['count'\], .* does not hold: it holds \['learning_rate'\]",
        ),
        (
            INJECTED(optax.constant_schedule(0.1)),
            lambda reads: {"learning_rate": reads["rate"]},
            r"returned \['learning_rate'\], which the optimizer has a schedule for",
        ),
        (
            INJECTED(0.1),
            lambda reads: {"learning_rate": reads["rate"].reshape(1, 1)},
            r"'learning_rate' of shape \(1, 1\), but the optimizer's own has the shape \(\)",
        ),
        (INJECTED(0.1), lambda reads: 0.1, "returned float; it must map names"),
        (  # which would be cut off to 0
            INJECTED(1),
            lambda reads: {"learning_rate": reads["rate"]},
            r"'learning_rate' as float\d+, but the optimizer holds it as int\d+: give .*1.0",
        ),
        (
            INJECTED(0.1),
            lambda reads: {"learning_rate": reads["other"]},
            r"asks for 'other'; it is given \['rate'\]: declare it in reads=",
        ),
    ],
)
def test_hyperparameters_that_cannot_be_are_refused(optimizer, hyperparams, message):
    made = program(
        {"rate": optax.sgd(0.1)},
        reads=("rate",),
        optimizer=optimizer,
        hyperparams=hyperparams,
    )
    params = {"w": jnp.zeros(3), "rate": jnp.asarray(0.1)}
    state = made.init(params, jax.random.key(0))
    with pytest.raises(InputError, match=f"hyperparams of stage 'learner' .*{message}"):
        made.step(state, {})


@pytest.mark.parametrize("decided", [1, np.float64(0.5)])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_what_is_decided_takes_the_form_of_what_the_state_holds(decided, shape):
    """Else the next step would compile anew."""
    state = INJECTED(jnp.full(shape, 0.1, jnp.float32)).init(jnp.zeros(3, jnp.float32))
    new = with_hyperparams("it", state, {"learning_rate": decided})
    assert form(new) == form(state)
    assert np.all(new.hyperparams["learning_rate"] == decided)


def test_what_decides_them_is_a_function():
    with pytest.raises(InputError, match=r"hyperparams=.*; it must be a function"):
        program({}, optimizer=INJECTED(0.1), hyperparams={"learning_rate": 0.1})


def test_keys_and_rates_for_each_number_stay_as_they_are():
    optimizer = optax.chain(
        optax.add_noise(0.0, 0.0, key=jax.random.key(1)), INJECTED(jnp.full(3, 0.1))
    )
    made = program(
        {"rate": optax.sgd(0.1)},
        reads=("rate",),
        optimizer=optimizer,
        hyperparams=lambda reads: {"learning_rate": reads["rate"]},
    )
    params = {"w": jnp.zeros(3), "rate": jnp.asarray([0.1, 0.2, 0.0])}
    state, _ = made.step(made.init(params, jax.random.key(0)), {})
    grad = -(TARGET**3)
    moved = params["rate"] - 0.1 * jax.grad(
        lambda rate: jnp.sum((-rate * grad - 0.9 * TARGET) ** 2)
    )(params["rate"])
    np.testing.assert_allclose(state.params["w"], -moved * grad, rtol=1e-12)


def test_a_state_that_is_split_over_devices_is_not_begun_anew():
    (stage,) = program(
        {"a": optax.sgd(0.1)}, reads=("a",), optimizer=optax.adam(0.1), restart=True
    ).stages
    moves = {"w": jnp.zeros(3)}
    split = Sharded.of(stage.transformation.init(moves))
    with pytest.raises(InputError, match=r"restart=True, but .* split over devices"):
        stage.begin(split, moves, {})


def test_forward_mode_through_a_step_of_plain_autodiff():
    made = learned_rates(adjoint=Autodiff())
    state = start(made)

    def after(log_rate):
        params = {**state.params, "log_rate": log_rate}
        return made.training_only().step(state._replace(params=params), {})[0].params

    value, tangent = jax.jvp(after, (jnp.asarray(-2.0),), (jnp.asarray(1.0),))
    wanted = jax.jacrev(after)(jnp.asarray(-2.0))
    np.testing.assert_allclose(tangent["w"], wanted["w"], rtol=1e-12)
    assert np.abs(tangent["w"]).max() > 0
    assert value["w"].shape == (3,)
