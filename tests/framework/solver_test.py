"""Stages that take several steps, and stages whose result counts as a solution."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Program, Stage, Validation
from skillearn_jax.framework.advance import advance
from skillearn_jax.hypergrad import (
    Autodiff,
    ConjugateGradient,
    Exact,
    FiniteDifference,
    FirstOrder,
    FixedPoint,
    Neumann,
    Steps,
)

COUNT = 3


pytestmark = pytest.mark.usefixtures("quick_compilation")


def loss(moves, reads, model_state, batch, key):
    """Draws from its key and counts its calls, so that each step shows."""
    x = batch["many"] + 0.1 * jax.random.normal(key, batch["many"].shape)
    out = jnp.tanh(x @ moves["w"]) * reads["a"][None]
    aux = Aux(
        {"size": jnp.mean(out)}, {"seen": model_state["seen"] + jnp.sum(batch["many"])}
    )
    return jnp.mean((out - 0.5) ** 2), aux


def second(moves, reads, model_state, batch, key):
    del model_state, key
    out = jnp.tanh(batch["one"] @ moves["v"]) * jax.nn.sigmoid(reads["a"])[None]
    return jnp.mean((out - batch["one"] @ jnp.sin(reads["w"])) ** 2)


def objective(moves, reads, model_state, batch, key):
    del model_state, key
    out = jnp.tanh(batch["val"] @ reads["w"] + batch["val"] @ reads["v"])
    return jnp.mean(out**3) + jnp.sum(moves["a"] ** 3)


@pytest.fixture
def chain():
    """`(solver, first adjoint, second adjoint) -> program, state, batches`."""
    rng = np.random.default_rng(0)

    def make(solver=Steps(COUNT), first=Exact(), then=Exact(), **changes):  # noqa: B008
        program = Program(
            (
                Stage(
                    "many",
                    moves=("w",),
                    reads=("a",),
                    data=("many",),
                    loss_fn=loss,
                    optimizer=optax.sgd(0.3, momentum=0.9),
                    solver=solver,
                    adjoint=first,
                ),
                Stage(
                    "one",
                    moves=("v",),
                    reads=("a", "w"),
                    data=("one",),
                    loss_fn=second,
                    optimizer=optax.adam(0.1, eps_root=1e-8),
                    adjoint=then,
                ),
            ),
            Validation(
                objective,
                reads=("w", "v"),
                data=("val",),
                minimize={"a": optax.sgd(0.1)},
            ),
            **changes,
        )
        params = {"w": rng.normal(size=(3, 2)), "v": rng.normal(size=(3, 2))}
        params["a"] = rng.normal(size=2)
        state = program.init(params, jax.random.key(1), {"seen": jnp.zeros(())})
        batches = {
            "many": rng.normal(size=(COUNT, 5, 3)),
            "one": rng.normal(size=(5, 3)),
            "val": rng.normal(size=(5, 3)),
        }
        if solver is None:
            batches["many"] = batches["many"][0]
        return program, state, jax.tree.map(jnp.asarray, batches)

    return make


@pytest.mark.parametrize("loop", ["python", "scan"])
@pytest.mark.parametrize("segment", [None, 3])
def test_several_steps_are_differentiated_exactly(chain, segment, loop, assert_close):
    program, state, batches = chain(Steps(COUNT, segment, loop))
    grads, info = jax.jit(program.hypergrad)(state, batches)
    want, _ = jax.jit(program.with_adjoint(Autodiff()).hypergrad)(state, batches)
    assert_close(grads, want)
    assert np.all(info.terms["many"]["a"] != 0)


def test_the_real_steps_are_those_of_the_optimizer(chain, assert_close):
    """k steps on k batches and keys, from the old values with the new support."""
    program, state, batches = chain()
    after, metrics = jax.jit(program.step)(state, batches)
    reads = {"a": after.params["a"]}
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
    keys = jax.random.split(key, COUNT)
    optimizer = optax.sgd(0.3, momentum=0.9)
    w = {"w": state.params["w"]}
    opt_state, seen, sizes = optimizer.init(w), {"seen": jnp.zeros(())}, []
    for i in range(COUNT):
        batch = {"many": batches["many"][i]}
        loss_key = jax.random.split(keys[i])[0]
        (_, aux), gradient = jax.value_and_grad(loss, has_aux=True)(
            w, reads, seen, batch, loss_key
        )
        updates, opt_state = optimizer.update(gradient, opt_state, w)
        w, seen = optax.apply_updates(w, updates), aux.model_state
        sizes.append(aux.metrics["size"])
    got = {"w": after.params["w"]}, after.opt_states["many"], after.model_state
    assert_close(got, (w, opt_state, seen))
    assert metrics["many/size"] == pytest.approx(np.mean(sizes))
    assert after.model_state["seen"] == pytest.approx(float(jnp.sum(batches["many"])))


def test_several_steps_return_the_model_states_that_they_change(chain):
    """The others are not averaged over devices."""
    program, state, batches = chain()
    stage = program.stages[0]
    _, _, aux = advance(
        stage,
        Exact(),
        None,
        {"w": state.params["w"]},
        {"a": state.params["a"]},
        state.opt_states["many"],
        {**state.model_state, "other": jnp.ones(2)},
        {"many": batches["many"]},
        state.key,
    )
    assert set(aux.model_state) == {"seen"}


def test_one_step_is_a_solver_of_one(chain, assert_close):
    """`Steps(1)` wants a leading axis of one; the step differs by its key alone."""
    program, state, batches = chain(Steps(1))
    batches["many"] = batches["many"][:1]
    grads, _ = program.hypergrad(state, batches)
    want, _ = program.with_adjoint(Autodiff()).hypergrad(state, batches)
    assert_close(grads, want)


def test_adjoints_mix_from_stage_to_stage(chain, assert_close):
    program, state, batches = chain(first=FiniteDifference(1e-4), then=Autodiff())
    exact = program.with_adjoint(Exact())
    got, _ = jax.jit(program.hypergrad)(state, batches)
    want, _ = jax.jit(exact.hypergrad)(state, batches)
    assert_close(got, want, 1e-6)
    assert np.any(got["a"] != want["a"])


@pytest.mark.parametrize(
    "adjoint",
    [Neumann(4, 0.1), ConjugateGradient(4, 2.0), FixedPoint(4)],
    ids=repr,
)
@pytest.mark.parametrize("solver", [None, Steps(COUNT)], ids=str)
def test_residuals_are_reported(chain, adjoint, solver):
    program, state, batches = chain(solver, adjoint)
    grads, info = jax.jit(program.hypergrad)(state, batches)
    assert set(info.residuals) == {"many"}
    assert 0 < info.residuals["many"] < 3
    assert np.all(np.isfinite(grads["a"]))
    _, metrics = jax.jit(program.step)(state, batches)
    assert metrics["many/residual"] == pytest.approx(float(info.residuals["many"]))


def test_an_implicit_stage_does_not_change_what_a_later_one_passes(chain, assert_close):
    """The terms through the other stage are those of the exact program."""
    program, state, batches = chain(first=ConjugateGradient(6, 2.0))
    _, info = program.hypergrad(state, batches)
    _, want = program.with_adjoint(Exact()).hypergrad(state, batches)
    assert_close(info.terms["one"], want.terms["one"])
    assert_close(info.direct, want.direct)


def test_an_implicit_adjoint_ends_the_path_from_the_start(chain):
    """A stage that goes on from an implicit result reads a solution, no way to it."""
    stages = chain()[0].stages
    again = Stage(
        "again",
        moves=("w",),
        reads=(),
        data=("one",),
        loss_fn=lambda m, r, s, b, k: jnp.mean((b["one"] @ m["w"]) ** 2),
        optimizer=optax.sgd(0.1),
        adjoint=Neumann(3, 0.1),
    )
    with pytest.raises(InputError, match="no path to the objective"):
        Program(
            (stages[0], again),
            Validation(
                lambda m, r, s, b, k: jnp.sum(r["w"] ** 2),
                reads=("w",),
                minimize={"a": optax.sgd(0.1)},
                indirect=("a",),
            ),
        )


def test_the_printout_names_the_solver(chain):
    program, _, _ = chain(Steps(COUNT, 2))
    assert "solver   Steps(num_steps=3, segment=2, loop='auto')" in str(program)


def test_a_stream_of_the_wrong_length_is_refused(chain):
    program, state, batches = chain(first=FirstOrder("lookahead"))
    batches["many"] = batches["many"][:2]
    with pytest.raises(InputError, match=r"many.*\(2, 5, 3\), but 3 steps"):
        program.step(state, batches)


@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()], ids=repr)
def test_the_model_state_of_a_step_is_no_path_to_the_next(adjoint):
    """w'' = w - m - (m + a): the state takes the value of a along, and no gradient."""

    def drifting(moves, reads, model_state, batch, key):
        m = model_state["m"]
        return moves["w"] * m, Aux(model_state={"m": m + reads["a"]})

    stage = Stage(
        "many",
        moves=("w",),
        reads=("a",),
        loss_fn=drifting,
        optimizer=optax.sgd(1.0),
        solver=Steps(2),
        adjoint=adjoint,
    )
    judge = Validation(
        lambda moves, reads, *_: reads["w"],
        reads=("w",),
        minimize={"a": optax.sgd(0.1)},
    )
    program = Program((stage,), judge)
    state = program.init({"w": 1.0, "a": 3.0}, jax.random.key(0), {"m": 2.0})
    grads, info = program.hypergrad(state, {})
    assert float(info.lookahead["w"]) == 1 - 2 - (2 + 3)
    assert float(grads["a"]) == 0


@pytest.mark.parametrize("loop", ["python", "scan"])
@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"new": 1.0}, r"stage 'many': it returned model states \['new'\], but"),
        ({"seen": np.ones(2)}, "'seen' in another form: float64.2. for float64.."),
    ],
    ids=["unknown", "another form"],
)
def test_model_states_are_checked_in_every_loop(chain, loop, changed, match):
    program, state, batches = chain(Steps(COUNT, loop=loop))

    def returning(*args):
        return loss(*args)[0], Aux(model_state=changed)

    first = dataclasses.replace(program.stages[0], loss_fn=returning)
    program = program.replace(stages=(first, program.stages[1]))
    with pytest.raises(InputError, match=match):
        program.step(state, batches)
