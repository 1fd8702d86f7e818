"""One step of a program against the same step written out in plain optax and jax.grad.

What must be equal to the bit runs without jit: a compiler may fuse two programs that
mean the same in two ways.
"""

import dataclasses
import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Program, Stage, Validation
from skillearn_jax.hypergrad import Autodiff, Exact, FiniteDifference, FirstOrder

STILL = optax.set_to_zero()

pytestmark = pytest.mark.usefixtures("quick_compilation")


def first_at(toy, batches, a):
    return lambda active: toy.first(active, {"a": a}, {}, batches, None)


def second_at(toy, batches, c, w):
    def loss(active):
        own = toy.second(active, {"c": c}, {}, batches, None)
        reads = {"c": c, "w": w}
        return own + toy.gamma * toy.agreement(active, reads, {}, batches, None)

    return loss


def hand_stages(toy, plain_step, state, batches, copies, commit="sequential"):
    """Both training stages from the values and optimiser states of `state`."""
    first, first_opt = plain_step(
        first_at(toy, batches, copies["first"]["a"]),
        toy.optimizers["first"],
        {"w": state.params["w"]},
        state.opt_states["first"],
    )
    w = state.params["w"] if commit == "jacobi" else first["w"]
    second, second_opt = plain_step(
        second_at(toy, batches, copies["second"]["c"], w),
        toy.optimizers["second"],
        {"v": state.params["v"]},
        state.opt_states["second"],
    )
    return {**first, **second}, {"first": first_opt, "second": second_opt}


def hand_objective(toy, plain_step, state, batches, copies):
    ahead, _ = hand_stages(toy, plain_step, state, batches, copies)
    return toy.objective(copies["validation"], ahead, {}, batches, None)


def copies_of(params):
    a, c = params["a"], params["c"]
    return {"first": {"a": a}, "second": {"c": c}, "validation": {"a": a, "c": c}}


def total(terms):
    return {
        "a": terms["first"]["a"] + terms["validation"]["a"],
        "c": terms["second"]["c"] + terms["validation"]["c"],
    }


# The step: look-ahead, supporting sets, commit.


@pytest.mark.parametrize("commit", ["sequential", "jacobi", "lookahead"])
def test_commit_equals_the_hand_written_sequence_bitwise(
    toy, warm, plain_step, assert_same, commit
):
    program = toy.program(commit=commit)
    state = warm(program, toy.params, toy.batches)
    new, _ = program.step(state, toy.batches)
    seen = state if commit == "lookahead" else new
    values, opt_states = hand_stages(
        toy, plain_step, state, toy.batches, copies_of(seen.params), commit
    )
    for name, value in values.items():
        assert_same(new.params[name], value)
    for name, opt_state in opt_states.items():
        assert_same(new.opt_states[name], opt_state)
    assert int(new.step) == int(state.step) + 1
    assert_same(new.key, state.key)


def test_a_pickled_state_goes_on_as_if_it_had_not_been(toy, warm, assert_same):
    program = toy.program()
    state = warm(program, toy.params, toy.batches)
    again = pickle.loads(pickle.dumps(state))
    assert_same(again, state)
    step = jax.jit(program.step)
    assert_same(step(again, toy.batches), step(state, toy.batches))


def test_the_three_commits_differ(toy, warm):
    states = {
        commit: warm(toy.program(commit=commit), toy.params, toy.batches, steps=1)
        for commit in ("sequential", "jacobi", "lookahead")
    }
    w = {commit: state.params["w"]["kernel"] for commit, state in states.items()}
    v = {commit: state.params["v"] for commit, state in states.items()}
    np.testing.assert_array_equal(w["sequential"], w["jacobi"])
    assert np.any(w["sequential"] != w["lookahead"])
    assert np.any(v["sequential"] != v["jacobi"])
    assert np.any(v["sequential"] != v["lookahead"])


def test_commit_starts_from_the_old_values_not_from_the_lookahead(
    toy, warm, plain_step
):
    program = toy.program()
    state = warm(program, toy.params, toy.batches)
    new, _ = program.step(state, toy.batches)
    ahead = program.hypergrad(state, toy.batches)[1].lookahead
    twice, _ = plain_step(
        first_at(toy, toy.batches, new.params["a"]),
        toy.optimizers["first"],
        {"w": ahead["w"]},
        new.opt_states["first"],
    )
    moved = np.abs(new.params["w"]["kernel"] - state.params["w"]["kernel"]).max()
    assert np.abs(new.params["w"]["kernel"] - twice["w"]["kernel"]).max() > 0.1 * moved


def test_supporting_sets_move_along_the_plain_autodiff_gradient(
    toy, warm, plain_step, assert_close
):
    program = toy.program()
    state = warm(program, toy.params, toy.batches)
    new, _ = program.step(state, toy.batches)
    terms = jax.grad(
        lambda copies: hand_objective(toy, plain_step, state, toy.batches, copies)
    )(copies_of(state.params))
    for name, gradient in total(terms).items():
        gradient = -gradient if name == "c" else gradient
        optimizer = toy.optimizers[name]
        updates, opt_state = optimizer.update(
            gradient, state.opt_states["validation"][name], state.params[name]
        )
        moved = new.params[name] - state.params[name]
        assert_close(moved, updates, rtol=1e-10)
        got = [x for x in jax.tree.leaves(new.opt_states["validation"][name]) if x.ndim]
        assert_close(got, [x for x in jax.tree.leaves(opt_state) if x.ndim], rtol=1e-10)


# Nothing leaks out of the look-ahead.


def draw(key, shape):
    """Returns numbers in [-1, 1] that the key decides; cheaper to compile than normals."""
    seed = (jax.random.key_data(key)[0] % 1009).astype(float) / 1009
    return jnp.sin(seed * (1 + jnp.arange(np.prod(shape, dtype=int)))).reshape(shape)


def noisy_stages():
    """Stages that use their key and move model states, one of them in both."""

    def first(moves, reads, model_state, batch, key):
        x = batch["train"]["x"]
        keep = draw(key, x.shape)
        out = jnp.tanh(x * keep * reads["a"][None]) @ moves["w"]["kernel"]
        shared = 0.9 * model_state["shared"] + 0.1 * out.mean(axis=0)
        metrics = {"draw": draw(key, ())}
        state = {"shared": shared, "count": model_state["count"] + 1}
        error = jnp.mean((out + moves["w"]["bias"][None] - batch["train"]["y"]) ** 2)
        return error, Aux(metrics, state)

    def second(moves, reads, model_state, batch, key):
        x = batch["train"]["x"] + 0.3 * draw(key, (16, 3))
        out = jnp.tanh(x @ moves["v"]) * reads["c"][None]
        shared = 0.8 * model_state["shared"] + 0.2 * out.mean(axis=0)
        metrics = {"draw": draw(key, ())}
        return jnp.mean((out - batch["train"]["y"]) ** 2), Aux(
            metrics, {"shared": shared, "count": 10 * model_state["count"]}
        )

    def meeting(moves, reads, model_state, batch, key):
        noise = 0.1 * draw(key, (16, 3))
        gap = (batch["aux"] + noise) @ (moves["v"] - reads["w"]["kernel"])
        return jnp.mean(gap**2), Aux({"meeting_draw": draw(key, ())})

    return {"loss_fn": first}, {"loss_fn": second, "interaction": meeting}


def noisy_objective(moves, reads, model_state, batch, key):
    keep = draw(key, batch["val"]["x"].shape)
    out = (keep * batch["val"]["x"]) @ (reads["w"]["kernel"] * reads["v"])
    scale = moves["a"].sum() - moves["c"].sum() + model_state["shared"].sum()
    leak = {"shared": 1e6 + model_state["shared"], "count": -model_state["count"]}
    value = jnp.mean(out**2) * scale
    return value, Aux({"draw": draw(key, ())}, leak)


MODEL_STATE = {"shared": np.asarray([0.3, -0.2]), "count": np.asarray(1)}


def noisy_program(toy, still=False, **changes):
    first, second = noisy_stages()
    sets = {"minimize": {"a": STILL}, "maximize": {"c": STILL}} if still else {}
    validation = toy.validation(loss_fn=noisy_objective, **sets)
    return toy.program(first, second, validation=validation, **changes)


@pytest.mark.parametrize(
    ("commit", "order"),
    [
        ("sequential", "simultaneous"),
        ("sequential", "alternate"),
        ("jacobi", "simultaneous"),
        ("lookahead", "simultaneous"),
    ],
)
def test_a_validation_that_moves_nothing_leaves_no_trace(
    toy, warm, assert_same, commit, order
):
    program = noisy_program(toy, still=True, commit=commit)
    program = program.replace(
        validation=toy.validation(
            loss_fn=noisy_objective,
            minimize={"a": STILL},
            maximize={"c": STILL},
            order=order,
        )
    )
    # Without a validation stage the look-ahead is a plain sequential step.
    plain_commit = "jacobi" if commit == "jacobi" else "sequential"
    plain = program.replace(validation=None, frozen=("a", "c"), commit=plain_commit)
    searched = warm(program, toy.params, toy.batches, 4, MODEL_STATE)
    trained = warm(plain, toy.params, toy.batches, 4, MODEL_STATE)
    opt_states = dict(searched.opt_states)
    del opt_states["validation"]
    assert_same(searched._replace(opt_states=opt_states), trained)
    assert np.any(trained.params["w"]["kernel"] != toy.params["w"]["kernel"])


def test_lookahead_and_commit_use_the_same_key_and_batch(toy, warm, assert_same):
    program = noisy_program(toy, still=True)
    state = warm(program, toy.params, toy.batches, 2, MODEL_STATE)
    ahead = program.hypergrad(state, toy.batches)[1].lookahead
    new, _ = program.step(state, toy.batches)
    assert set(ahead) == {"w", "v"}
    for name, value in ahead.items():
        assert_same(new.params[name], value)


def test_model_state_moves_once_a_step_in_the_real_step_and_in_stage_order(toy, warm):
    seen = []

    def first(moves, reads, model_state, batch, key):
        stat = moves["w"]["bias"] * reads["a"][:2]
        shared = 0.9 * model_state["shared"] + 0.1 * stat
        seen.append(("first", model_state["count"]))
        state = {"shared": shared, "count": model_state["count"] + 1}
        loss = toy.first(moves, reads, {}, batch, key)
        return loss, Aux(model_state=state)

    def second(moves, reads, model_state, batch, key):
        stat = moves["v"].sum(axis=0) * reads["c"]
        shared = 0.8 * model_state["shared"] + 0.2 * stat
        state = {"shared": shared, "count": 10 * model_state["count"]}
        return toy.second(moves, reads, {}, batch, key), Aux(model_state=state)

    def objective(moves, reads, model_state, batch, key):
        leak = {"shared": model_state["shared"] + 7, "count": model_state["count"] + 7}
        return toy.objective(moves, reads, {}, batch, key), Aux(model_state=leak)

    program = toy.program(
        {"loss_fn": first},
        {"loss_fn": second},
        validation=toy.validation(loss_fn=objective),
    )
    model_state = {**MODEL_STATE, "bystander": np.asarray(3.0)}
    state = program.init(toy.params, jax.random.key(0), model_state)
    new, _ = program.step(state, toy.batches)
    old, supports = state.params, new.params
    middle = 0.9 * MODEL_STATE["shared"] + 0.1 * old["w"]["bias"] * supports["a"][:2]
    shared = 0.8 * middle + 0.2 * old["v"].sum(axis=0) * supports["c"]
    np.testing.assert_array_equal(new.model_state["shared"], shared)
    assert int(new.model_state["count"]) == 10 * (1 + 1)
    assert float(new.model_state["bystander"]) == 3.0
    again, _ = program.step(new, toy.batches)
    assert int(again.model_state["count"]) == 10 * (20 + 1)


def test_validation_reads_the_model_state_of_before_the_step(toy):
    def objective(moves, reads, model_state, batch, key):
        metrics = {"count": model_state["count"]}
        return toy.objective(moves, reads, {}, batch, key), Aux(metrics)

    program = noisy_program(toy).replace(validation=toy.validation(loss_fn=objective))
    state = program.init(toy.params, jax.random.key(0), MODEL_STATE)
    for count in (1, 20, 210):
        state, metrics = program.step(state, toy.batches)
        assert int(metrics["validation/count"]) == count


def test_every_function_has_a_key_of_its_own_in_every_step(toy):
    program = noisy_program(toy)
    state = program.init(toy.params, jax.random.key(0), MODEL_STATE)
    draws = []
    for _ in range(3):
        state, metrics = program.step(state, toy.batches)
        draws += [
            float(metrics[name])
            for name in (
                "first/draw",
                "second/draw",
                "second/meeting_draw",
                "validation/draw",
            )
        ]
    assert len(set(draws)) == 12


def test_alternate_rounds_use_one_key(toy):
    draws = []

    def objective(moves, reads, model_state, batch, key):
        draws.append(np.asarray(jax.random.key_data(key)).tolist())
        return toy.objective(moves, reads, {}, batch, key)

    validation = toy.validation(loss_fn=objective, order="alternate")
    program = toy.program(validation=validation)
    state = program.init(toy.params, jax.random.key(0))
    program.step(state, toy.batches)
    assert len(draws) == 2
    assert draws[0] == draws[1]


def test_functions_see_only_what_they_declared(toy):
    seen = {}

    def spy(name, function):
        def spied(moves, reads, model_state, batch, key):
            seen[name] = (set(moves), set(reads), set(batch), set(model_state))
            return function(moves, reads, model_state, batch, key)

        return spied

    program = toy.program(
        {"loss_fn": spy("first", toy.first)},
        {
            "loss_fn": spy("second", toy.second),
            "interaction": spy("agreement", toy.agreement),
        },
        validation=toy.validation(
            loss_fn=spy("objective", lambda *args: jnp.zeros(())),
            interaction=spy("meeting", lambda moves, *rest: jnp.sum(moves["a"])),
            reads=("w",),
        ),
    )
    state = program.init(toy.params, jax.random.key(0), {"norm": 0.0})
    batches = {**toy.batches, "not_asked_for": 0.0}
    program.step(state, batches)
    norm = {"norm"}
    assert seen == {
        "first": ({"w"}, {"a"}, {"train"}, norm),
        "second": ({"v"}, {"c"}, {"train"}, norm),
        "agreement": ({"v"}, {"c", "w"}, {"aux"}, norm),
        "objective": ({"a", "c"}, {"w"}, {"val"}, norm),
        "meeting": ({"a", "c"}, {"w"}, set(), norm),
    }


# The hypergradient and its parts.


@pytest.mark.parametrize(
    ("adjoint", "rtol"),
    [(Exact(), 1e-11), (Autodiff(), 1e-11), (FiniteDifference(1e-3), 1e-5)],
    ids=["exact", "autodiff", "finite_difference"],
)
def test_hypergradient_and_its_terms_equal_plain_autodiff(
    toy, warm, plain_step, assert_close, adjoint, rtol
):
    program = toy.program().with_adjoint(adjoint)
    state = warm(toy.program(), toy.params, toy.batches)
    grads, info = program.hypergrad(state, toy.batches)
    value, terms = jax.value_and_grad(
        lambda copies: hand_objective(toy, plain_step, state, toy.batches, copies)
    )(copies_of(state.params))
    assert_close(info.terms, terms, rtol)
    assert_close(info.direct, terms["validation"], 1e-11)
    assert_close(
        info.response, {"a": terms["first"]["a"], "c": terms["second"]["c"]}, rtol
    )
    assert_close(grads, total(terms), rtol)
    assert_close(info.objective, value)
    assert_close(program.objective(state, toy.batches), value)


def test_total_is_direct_plus_response_is_the_sum_of_the_terms(toy, warm):
    program = toy.program({"reads": ("a", "c")}, {"reads": ("c", "a")})
    state = warm(program, toy.params, toy.batches)
    grads, info = program.hypergrad(state, toy.batches)
    for name, gradient in grads.items():
        direct, response = info.direct[name], info.response[name]
        np.testing.assert_array_equal(gradient, direct + response)
        parts = [term[name] for term in info.terms.values() if name in term]
        np.testing.assert_allclose(gradient, sum(parts), rtol=1e-14)


def test_two_stages_that_read_one_support_have_terms_apart(
    toy, warm, plain_step, assert_close
):
    def second(moves, reads, model_state, batch, key):
        pull = jnp.sum(reads["a"][:, None] * jnp.sin(moves["v"]))
        return toy.second(moves, reads, model_state, batch, key) + 0.1 * pull

    program = toy.program(None, {"loss_fn": second, "reads": ("c", "a")})
    state = warm(program, toy.params, toy.batches)
    info = program.hypergrad(state, toy.batches)[1]

    def compose(of_first, of_second, of_objective):
        c = state.params["c"]
        first, _ = plain_step(
            first_at(toy, toy.batches, of_first),
            toy.optimizers["first"],
            {"w": state.params["w"]},
            state.opt_states["first"],
        )
        own = second_at(toy, toy.batches, c, first["w"])
        moved, _ = plain_step(
            lambda v: own(v) + 0.1 * jnp.sum(of_second[:, None] * jnp.sin(v["v"])),
            toy.optimizers["second"],
            {"v": state.params["v"]},
            state.opt_states["second"],
        )
        ahead = {**first, **moved}
        supports = {"a": of_objective, "c": c}
        return toy.objective(supports, ahead, {}, toy.batches, None)

    a = state.params["a"]
    terms = jax.grad(compose, argnums=(0, 1, 2))(a, a, a)
    got = [info.terms[stage]["a"] for stage in ("first", "second", "validation")]
    assert_close(got, list(terms))
    assert_close(info.response["a"], terms[0] + terms[1])


def cut_objective(toy, plain_step, state, batches, copies, first_cut, second_cut):
    """The composition with each stage's result kept, held fixed, or not computed."""

    def apply(cut, new, old):
        return {"exact": new, "lookahead": jax.lax.stop_gradient(new), "current": old}[
            cut
        ]

    params = state.params
    first, _ = plain_step(
        first_at(toy, batches, copies["first"]["a"]),
        toy.optimizers["first"],
        {"w": params["w"]},
        state.opt_states["first"],
    )
    w = apply(first_cut, first["w"], params["w"])
    second, _ = plain_step(
        second_at(toy, batches, copies["second"]["c"], w),
        toy.optimizers["second"],
        {"v": params["v"]},
        state.opt_states["second"],
    )
    v = apply(second_cut, second["v"], params["v"])
    supports = copies["validation"]
    return toy.objective(supports, {"w": w, "v": v}, {}, batches, None)


ADJOINTS = {
    "exact": Exact(),
    "lookahead": FirstOrder(at="lookahead"),
    "current": FirstOrder(at="current"),
}


@pytest.mark.parametrize("first_cut", list(ADJOINTS))
@pytest.mark.parametrize("second_cut", list(ADJOINTS))
def test_each_stage_has_an_adjoint_of_its_own(
    toy, warm, plain_step, first_cut, second_cut
):
    program = toy.program(
        {"adjoint": ADJOINTS[first_cut]}, {"adjoint": ADJOINTS[second_cut]}
    )
    state = warm(toy.program(), toy.params, toy.batches)
    info = program.hypergrad(state, toy.batches)[1]
    terms = jax.grad(
        lambda copies: cut_objective(
            toy, plain_step, state, toy.batches, copies, first_cut, second_cut
        )
    )(copies_of(state.params))
    chex.assert_trees_all_close(info.terms, terms, rtol=1e-10, atol=1e-14)
    assert np.any(info.terms["first"]["a"]) == (first_cut == "exact")
    assert np.any(info.terms["second"]["c"]) == (second_cut == "exact")
    assert np.all(info.terms["validation"]["a"])


def test_first_order_at_current_is_the_first_order_of_darts(
    toy, warm, assert_close, assert_same
):
    program = toy.program().with_adjoint(FirstOrder(at="current"))
    state = warm(toy.program(), toy.params, toy.batches)
    grads, info = program.hypergrad(state, toy.batches)
    supports = {name: state.params[name] for name in ("a", "c")}
    want = jax.grad(
        lambda moves: toy.objective(moves, state.params, {}, toy.batches, None)
    )(supports)
    assert_close(grads, want, rtol=1e-13)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(info.response))
    assert_same(info.lookahead, {name: state.params[name] for name in ("w", "v")})
    assert_same(program.look_ahead(state, toy.batches).params, state.params)


def test_first_order_at_current_still_takes_the_real_step(
    toy, warm, plain_step, assert_same
):
    program = toy.program().with_adjoint(FirstOrder(at="current"))
    state = warm(program, toy.params, toy.batches)
    new, _ = program.step(state, toy.batches)
    values, _ = hand_stages(toy, plain_step, state, toy.batches, copies_of(new.params))
    assert_same({name: new.params[name] for name in values}, values)


def test_the_lookahead_is_the_same_under_every_adjoint_that_takes_one(
    toy, warm, assert_same
):
    state = warm(toy.program(), toy.params, toy.batches)
    aheads = [
        toy.program().with_adjoint(adjoint).hypergrad(state, toy.batches)[1].lookahead
        for adjoint in (
            Exact(),
            Autodiff(),
            FiniteDifference(),
            FirstOrder(at="lookahead"),
        )
    ]
    for ahead in aheads[1:]:
        assert_same(ahead, aheads[0])


def test_indirect_sets_are_not_given_to_the_objective(toy, warm, assert_close):
    def objective(moves, reads, model_state, batch, key):
        assert set(moves) == {"c"}
        fixed = {"a": toy.params["a"], **moves}
        return toy.objective(fixed, reads, model_state, batch, key)

    validation = toy.validation(loss_fn=objective, indirect=("a",))
    program = toy.program(validation=validation)
    state = program.init(toy.params, jax.random.key(0))
    grads, info = program.hypergrad(state, toy.batches)
    full = toy.program().hypergrad(state, toy.batches)[1]
    np.testing.assert_array_equal(info.direct["a"], np.zeros(3))
    assert "a" not in info.terms["validation"]
    assert_close(grads["a"], full.response["a"], rtol=1e-13)


def test_a_support_that_no_stage_reads_has_its_direct_term_only(toy, assert_close):
    def objective(moves, reads, model_state, batch, key):
        return toy.objective(moves, reads, model_state, batch, key)

    def second(moves, reads, model_state, batch, key):
        fixed = {"c": toy.params["c"], **reads}
        return toy.second(moves, fixed, model_state, batch, key)

    changes = {"loss_fn": second, "interaction": None, "interaction_data": ()}
    program = toy.program(
        None,
        {**changes, "interaction_reads": (), "reads": ()},
        validation=toy.validation(loss_fn=objective),
    )
    state = program.init(toy.params, jax.random.key(0))
    grads, info = program.hypergrad(state, toy.batches)
    assert_close(grads["c"], info.direct["c"], rtol=1e-15)
    np.testing.assert_array_equal(info.response["c"], np.zeros(2))
    _, metrics = program.step(state, toy.batches)
    assert float(metrics["hypergrad/c/response"]) == 0
    assert float(metrics["hypergrad/c/direct"]) > 0


@pytest.mark.parametrize("at", ["current", "lookahead"])
def test_first_order_passes_no_gradient_through_the_model_state_either(at):
    def first(moves, reads, model_state, batch, key):
        loss = jnp.sum((moves["w"] - reads["a"]) ** 2)
        return loss, Aux(model_state={"norm": 2 * reads["a"]})

    def second(moves, reads, model_state, batch, key):
        return jnp.sum((moves["v"] * model_state["norm"]) ** 2)

    def objective(moves, reads, model_state, batch, key):
        return sum(jnp.sum(x**2) for x in (reads["w"], reads["v"], moves["a"]))

    sgd = optax.sgd(0.1)
    program = Program(
        (
            Stage(
                "first",
                moves=("w",),
                reads=("a",),
                loss_fn=first,
                optimizer=sgd,
                adjoint=FirstOrder(at=at),
            ),
            Stage("second", moves=("v",), loss_fn=second, optimizer=sgd),
        ),
        Validation(objective, reads=("w", "v"), minimize={"a": sgd}),
    )
    params = {name: jnp.ones(2) for name in ("w", "v", "a")}
    state = program.init(params, jax.random.key(0), {"norm": jnp.zeros(2)})
    info = program.hypergrad(state, {})[1]
    np.testing.assert_array_equal(info.response["a"], np.zeros(2))


def test_model_state_is_no_path_for_gradients(assert_close):
    """A later stage that trains on a model state sees its value, held fixed."""

    def first(moves, reads, model_state, batch, key):
        loss = jnp.sum((moves["w"] - reads["a"]) ** 2)
        return loss, Aux(model_state={"norm": moves["w"] * reads["a"] ** 2})

    def second(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.sin(moves["v"] * model_state["norm"]))

    def objective(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.cos(reads["w"]) * reads["v"] ** 2)

    sgd = optax.sgd(0.1)
    program = Program(
        (
            Stage("first", moves=("w",), reads=("a",), loss_fn=first, optimizer=sgd),
            Stage("second", moves=("v",), loss_fn=second, optimizer=sgd),
        ),
        Validation(objective, reads=("w", "v"), minimize={"a": sgd}, indirect=("a",)),
    )
    w, v, a = jnp.asarray([0.4, 1.1]), jnp.asarray([0.8, -0.3]), jnp.asarray([1.3, 0.6])
    state = program.init(
        {"w": w, "v": v, "a": a}, jax.random.key(0), {"norm": jnp.zeros(2)}
    )

    def compose(a):
        new_w = w - 0.1 * 2 * (w - a)
        norm = jax.lax.stop_gradient(w * a**2)
        new_v = v - 0.1 * jnp.cos(v * norm) * norm
        return jnp.sum(jnp.cos(new_w) * new_v**2)

    assert_close(program.hypergrad(state, {})[0]["a"], jax.grad(compose)(a))


# One pure, compiled function of one pytree.


def test_step_compiles_once_over_100_steps(toy):
    chex.clear_trace_counter()

    def first(moves, reads, model_state, batch, key):
        norm = 0.9 * model_state["norm"] + 0.1 * batch["train"]["x"].mean()
        loss = toy.first(moves, reads, model_state, batch, key)
        return loss * (1 + moves["gain"] ** 2), Aux(model_state={"norm": norm})

    program = toy.program(
        {"moves": ("w", "gain"), "loss_fn": first},
        validation=toy.validation(order="alternate"),
    )
    params = {**toy.params, "gain": 0.5}
    state = program.init(params, jax.random.key(0), {"norm": 0.0})
    step = jax.jit(chex.assert_max_traces(program.step, n=1))
    for index in range(100):
        batches = jax.tree.map(lambda leaf, i=index: leaf + 0.01 * i, toy.batches)
        state, metrics = step(state, batches)
    assert int(state.step) == 100
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(metrics))


def test_init_makes_strong_types_of_numbers_and_weak_arrays():
    def loss(moves, reads, model_state, batch, key):
        value = (moves["w"] - reads["a"]) ** 2 + model_state["norm"]
        return value, Aux(model_state={"norm": 1.0})

    stage = Stage(
        "only", moves=("w",), reads=("a",), loss_fn=loss, optimizer=optax.adam(0.1)
    )
    validation = Validation(
        lambda moves, reads, *rest: (reads["w"] - 1) ** 2 + moves["a"] ** 2,
        reads=("w",),
        minimize={"a": optax.adam(0.1)},
    )
    program = Program((stage,), validation)
    weak = jnp.asarray(2.0)
    assert jnp.asarray(weak).weak_type
    state = program.init({"w": 0.5, "a": weak}, jax.random.key(0), {"norm": 0.0})
    new, _ = jax.jit(program.step)(state, {})
    for leaf in jax.tree.leaves((state, new)):
        assert not leaf.aval.weak_type
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    after = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new)
    assert before == after


def test_the_state_is_one_pytree_that_a_scan_carries(toy):
    program = noisy_program(toy)
    state = program.init(toy.params, jax.random.key(0), MODEL_STATE)

    def body(state, _):
        state, metrics = program.step(state, toy.batches)
        return state, metrics["validation/objective"]

    scanned, values = jax.lax.scan(body, state, length=3)
    looped = state
    for index in range(3):
        looped, metrics = program.step(looped, toy.batches)
        np.testing.assert_allclose(
            values[index], metrics["validation/objective"], rtol=1e-12
        )
    chex.assert_trees_all_close(scanned.params, looped.params, rtol=1e-11, atol=1e-13)
    assert jax.tree.structure(scanned) == jax.tree.structure(state)


def test_jit_equals_no_jit(toy, warm):
    program = noisy_program(toy)
    state = warm(program, toy.params, toy.batches, 2, MODEL_STATE)
    plain, plain_metrics = program.step(state, toy.batches)
    compiled, metrics = jax.jit(program.step)(state, toy.batches)
    chex.assert_trees_all_close(
        compiled._replace(key=0), plain._replace(key=0), rtol=1e-11, atol=1e-14
    )
    assert metrics.keys() == plain_metrics.keys()
    chex.assert_trees_all_close(metrics, plain_metrics, rtol=1e-11, atol=1e-14)


def test_one_seed_gives_the_same_bits_and_another_seed_others(toy, assert_same):
    program = noisy_program(toy)

    def run(seed):
        state = program.init(toy.params, jax.random.key(seed), MODEL_STATE)
        step = jax.jit(lambda state, batches: program.step(state, batches))
        for _ in range(3):
            state, _ = step(state, toy.batches)
        return state

    first = run(0)
    assert_same(run(0), first)
    other = run(1).params["w"]["kernel"]
    assert np.all(other != first.params["w"]["kernel"])


def test_step_under_vmap_over_seeds_equals_a_loop(toy):
    program = noisy_program(toy)
    keys = jax.random.split(jax.random.key(0), 3)

    def init(key):
        params = {**toy.params, "v": jax.random.normal(key, (3, 2))}
        return program.init(params, key, MODEL_STATE)

    states = jax.vmap(init)(keys)
    states, metrics = jax.jit(jax.vmap(program.step, (0, None)))(states, toy.batches)
    for index in range(3):
        state, want = program.step(init(keys[index]), toy.batches)
        got = jax.tree.map(lambda leaf, i=index: leaf[i], (states.params, metrics))
        chex.assert_trees_all_close(got, (state.params, want), rtol=1e-11, atol=1e-13)


def test_metrics_are_named_by_stage_and_set(toy, warm):
    program = toy.program()
    state = warm(program, toy.params, toy.batches)
    grads, info = program.hypergrad(state, toy.batches)
    new, metrics = program.step(state, toy.batches)
    assert set(metrics) == {
        "first/loss",
        "second/loss",
        "second/interaction",
        "validation/objective",
        *(
            f"hypergrad/{name}/{part}"
            for name in ("a", "c")
            for part in ("norm", "direct", "response")
        ),
    }
    for name in ("a", "c"):
        for part, tree in (
            ("norm", grads),
            ("direct", info.direct),
            ("response", info.response),
        ):
            np.testing.assert_allclose(
                metrics[f"hypergrad/{name}/{part}"],
                np.linalg.norm(tree[name]),
                rtol=1e-13,
            )
    old, supports = state.params, new.params
    # The losses of the real step: at the old weights and the new supporting sets.
    want = toy.first(old, supports, {}, toy.batches, None)
    np.testing.assert_allclose(metrics["first/loss"], want, rtol=1e-14)
    want = toy.agreement(old, supports, {}, toy.batches, None)
    np.testing.assert_allclose(metrics["second/interaction"], want, rtol=1e-14)
    np.testing.assert_allclose(
        metrics["validation/objective"], info.objective, rtol=1e-14
    )


def test_a_validation_interaction_is_added_with_its_weight(toy, assert_close):
    def meeting(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.sin(reads["w"]["kernel"]) * batch["aux"].mean()) * jnp.sum(
            moves["a"] ** 2
        )

    changes = {"interaction": meeting, "interaction_data": ("aux",)}
    state = toy.program().init(toy.params, jax.random.key(0))

    def grads(weight):
        validation = toy.validation(**changes, interaction_weight=weight)
        return toy.program(validation=validation).hypergrad(state, toy.batches)

    (zero, _), (one, info), (three, _) = grads(0.0), grads(1.0), grads(3.0)
    plain, _ = toy.program().hypergrad(state, toy.batches)
    assert_close(zero, plain, rtol=1e-13)
    assert_close(three["a"] - zero["a"], 3 * (one["a"] - zero["a"]), rtol=1e-10)
    assert "interaction" in info.metrics


def test_frozen_sets_may_hold_integers_and_keys_and_stay(toy, assert_same):
    frozen = {"table": jnp.arange(3), "key": jax.random.key(5)}

    def first(moves, reads, model_state, batch, key):
        noise = jax.random.normal(reads["fixed"]["key"], (3,))
        a = reads["a"] + 0.1 * noise + 0.1 * reads["fixed"]["table"]
        return toy.first(moves, {"a": a}, model_state, batch, key)

    program = toy.program(
        {"loss_fn": first, "reads": ("a", "fixed")}, frozen=("fixed",)
    )
    assert program.sets == ("w", "v", "a", "c", "fixed")
    state = program.init({**toy.params, "fixed": frozen}, jax.random.key(0))
    new, _ = program.step(state, toy.batches)
    assert_same(new.params["fixed"], frozen)


def test_a_program_without_validation_only_trains(toy, warm, plain_step, assert_same):
    program = Program(toy.stages(), frozen=("a", "c"))
    state = warm(program, toy.params, toy.batches)
    new, metrics = program.step(state, toy.batches)
    values, _ = hand_stages(
        toy, plain_step, state, toy.batches, copies_of(state.params)
    )
    assert_same({name: new.params[name] for name in values}, values)
    assert set(metrics) == {"first/loss", "second/loss", "second/interaction"}
    assert set(new.opt_states) == {"first", "second"}
    with pytest.raises(InputError, match="without a validation stage"):
        program.hypergrad(state, toy.batches)


def test_what_ends_a_step_keeps_books_in_a_model_state(toy, assert_same):
    def count(state, metrics):
        taken = state.model_state["taken"] + 1
        state = state._replace(model_state={**state.model_state, "taken": taken})
        return state, {**metrics, "taken": taken}

    plain, program = toy.program(), toy.program(after=count)
    state = program.init(toy.params, jax.random.key(0), {"taken": jnp.int32(0)})
    step = jax.jit(chex.assert_max_traces(program.step, n=1))
    for number in (1, 2, 3):
        same, _ = jax.jit(plain.step)(state, toy.batches)
        state, metrics = step(state, toy.batches)
        assert_same(state.params, same.params)
        assert metrics["taken"] == state.model_state["taken"] == number
    assert str(program).endswith("\n  at the end count")
    assert program.training_only().after is None
    with pytest.raises(InputError, match="the program has after=3; it must be a func"):
        toy.program(after=3)


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (lambda state, metrics: state, "State"),
        (lambda state, metrics: (metrics, state), "dict, State"),
        (lambda state, metrics: None, "NoneType"),
    ],
)
def test_what_ends_a_step_returns_state_and_metrics(toy, result, found):
    program = toy.program(after=result)
    state = program.init(toy.params, jax.random.key(0))
    match = f"after=<lambda> returned {found}; it must return"
    with pytest.raises(InputError, match=match):
        program.step(state, toy.batches)


def test_what_no_stage_changes_is_not_averaged_over_devices(toy):
    program = toy.program(axis_name="d")
    state = program.init(toy.params, jax.random.key(0), {"own": jnp.zeros(())})
    own = {"own": jnp.asarray([1.0, 2.0])}

    def step(own, batches):
        return program.step(state._replace(model_state=own), batches)[0].model_state

    mapped = jax.vmap(step, in_axes=(0, None), axis_name="d")
    np.testing.assert_array_equal(mapped(own, toy.batches)["own"], own["own"])


def test_streams_and_sets_are_listed_in_order(toy):
    assert toy.program().streams == ("train", "aux", "val")
    assert toy.program().sets == ("w", "v", "a", "c")


def test_with_adjoint_and_replace_leave_the_program_as_it_was(toy):
    program = toy.program()
    other = program.with_adjoint(FirstOrder()).replace(commit="jacobi")
    assert [stage.adjoint for stage in program.stages] == [Exact(), Exact()]
    assert [stage.adjoint for stage in other.stages] == [FirstOrder(), FirstOrder()]
    assert (program.commit, other.commit) == ("sequential", "jacobi")


def test_a_loss_that_returns_something_else_beside_its_value_is_told_so(toy):
    def first(moves, reads, model_state, batch, key):
        return toy.first(moves, reads, model_state, batch, key), {"accuracy": 1.0}

    program = toy.program({"loss_fn": first})
    state = program.init(toy.params, jax.random.key(0))
    with pytest.raises(InputError, match="first returned dict beside its value"):
        program.step(state, toy.batches)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"reads": (), "loss_fn": lambda m, r, s, batch, key: r["a"]},
            r"asks for 'a'; it is given moves \['w'\], reads \[\], model_state "
            r"\['norm'\], batch \['train'\]: if that is a set or stream, declare",
        ),
        (
            {"data": (), "loss_fn": lambda m, r, s, batch, key: batch["train"]},
            r"asks for 'train'; .* batch \[\]",
        ),
        (
            {"loss_fn": lambda m, *rest: (m["w"].sum(), Aux({"each": m["w"]}))},
            r"returned the metric 'each' of shape \(2, 3\); metrics are real scalars",
        ),
        *(
            (
                {"loss_fn": lambda m, *rest, aux=aux: (m["w"].sum(), aux)},
                f"<lambda> returned {said}",
            )
            for aux, said in (
                (
                    Aux({"each": None}),
                    "the metric 'each' of type NoneType; metrics are",
                ),
                (Aux({"each": "high"}), "the metric 'each' of type str; metrics are"),
                (Aux({"each": {"a": 1.0}}), "the metric 'each' of type dict; metrics"),
                (Aux({"each": 1j}), "the metric 'each' of type complex; metrics are"),
                (
                    Aux({"each": jax.random.key(0)}),
                    "the metric 'each' of type key<fry>",
                ),
                (Aux([0.5]), r"Aux\(metrics=...\) of type list; it must map names"),
                (
                    Aux({}, None),
                    r"Aux\(model_state=...\) of type NoneType; it must map",
                ),
                (
                    Aux({}, {"norm": "float32"}),
                    r"a model state: \['norm'\] is 'float32'",
                ),
            )
        ),
        (
            {
                "loss_fn": lambda m, *rest: (
                    m["w"].sum(),
                    Aux(model_state={"norm": m["w"]}),
                )
            },
            r"'first': it returned the model state 'norm' in another form: .* for .*\[\]",
        ),
    ],
)
def test_a_loss_that_breaks_its_contract_is_told_so(toy, changes, match):
    program = toy.program(changes)
    params = {**toy.params, "w": jnp.ones((2, 3))}
    state = program.init(params, jax.random.key(0), {"norm": 0.0})
    with pytest.raises(InputError, match=match):
        program.look_ahead(state, toy.batches)


def test_a_metric_that_loss_and_interaction_both_return_is_refused(toy):
    def counted(function):
        return lambda *args: (function(*args), Aux({"size": 1.0, "own": 2.0}))

    second = {"loss_fn": counted(toy.second), "interaction": counted(toy.agreement)}
    program = toy.program(None, second)
    state = program.init(toy.params, jax.random.key(0))
    match = r"loss and interaction both return the metrics \['own', 'size'\]"
    with pytest.raises(InputError, match=match):
        program.look_ahead(state, toy.batches)


@pytest.mark.parametrize("where", ["loss_fn", "interaction", "objective"])
def test_a_function_that_returns_no_scalar_is_told_so(toy, where):
    def wrong(moves, *rest):
        return jnp.ones(2)

    if where == "objective":
        program = toy.program(validation=toy.validation(loss_fn=wrong))
    else:
        program = toy.program({where: wrong})
    state = program.init(toy.params, jax.random.key(0))
    match = r"wrong returned a value of shape \(2,\), but a scalar float is needed"
    with pytest.raises(InputError, match=match):
        program.hypergrad(state, toy.batches)


SIGNATURE = r"its signature must be \(moves, reads, model_state, batch, key\)"


@pytest.mark.parametrize(
    ("where", "stage"),
    [("loss_fn", "stage 'first'"), ("objective", "the validation stage")],
)
@pytest.mark.parametrize("wrapped", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_a_loss_of_other_arguments_is_told_those_of_the_framework(
    toy, where, stage, wrapped
):
    def short(w, x):
        return jnp.sum(w) * x

    program = (
        toy.program({"loss_fn": wrapped(short)})
        if where == "loss_fn"
        else toy.program(validation=toy.validation(loss_fn=wrapped(short)))
    )
    state = program.init(toy.params, jax.random.key(0))
    match = rf"^{stage}: short is called with 5 arguments, .*{SIGNATURE}"
    with pytest.raises(InputError, match=match) as caught:
        program.step(state, toy.batches)
    assert isinstance(caught.value.__cause__.__cause__, TypeError)


def test_an_interaction_of_other_arguments_is_told_those_of_the_framework(toy):
    program = toy.program(None, {"interaction": lambda *, weight: weight})
    state = program.init(toy.params, jax.random.key(0))
    with pytest.raises(InputError, match=rf"^stage 'second': <lambda> .*{SIGNATURE}"):
        program.step(state, toy.batches)


def test_a_type_error_of_what_a_loss_does_stays_one(toy):
    """Where the call fits, and where nobody can tell whether it does."""

    def inner(only):
        return only

    @functools.wraps(inner)
    def hidden(*args):
        return inner(*args)

    for loss_fn in (lambda m, r, s, b, k: inner(m, r), hidden, max):
        program = toy.program({"loss_fn": loss_fn})
        state = program.init(toy.params, jax.random.key(0))
        with pytest.raises(TypeError):
            program.step(state, toy.batches)


def test_a_wrapper_may_take_more_than_what_it_wraps(toy):
    def inner(w):
        return jnp.sum(w["kernel"] ** 2)

    @functools.wraps(inner)
    def wrapper(moves, reads, model_state, batch, key):
        return inner(moves["w"]) + jnp.sum(reads["a"])

    program = toy.program({"loss_fn": wrapper})
    state = program.init(toy.params, jax.random.key(0))
    state, metrics = program.step(state, toy.batches)
    want = inner(toy.params["w"]) + jnp.sum(state.params["a"])
    np.testing.assert_allclose(metrics["first/loss"], want)


def test_a_state_of_another_program_is_refused(toy):
    program = toy.program()
    params = {name: toy.params[name] for name in ("w", "a")}
    other = Program(toy.stages()[:1], frozen=("a",)).init(params, jax.random.key(0))
    with pytest.raises(InputError, match=r"the state lacks the sets \['c', 'v'\]"):
        program.step(other, toy.batches)
    trained = program.training_only().init(toy.params, jax.random.key(0))
    match = r"the state lacks the optimizer states \['validation'\]"
    with pytest.raises(InputError, match=match):
        program.hypergrad(trained, toy.batches)
    state = program.init(toy.params, jax.random.key(0))
    of_a = {"a": state.opt_states["validation"]["a"]}
    fewer = state._replace(opt_states={**state.opt_states, "validation": of_a})
    with pytest.raises(InputError, match="the optimizer state of 'c' is of another"):
        program.step(fewer, toy.batches)


def test_what_rests_in_training_has_its_sets_all_the_same(toy):
    """Supporting sets that no stage reads, and those that were frozen before."""
    program = toy.program({"reads": ("ice",)}, frozen=("ice",))
    assert set(program.training_only().sets) == {"w", "v", "a", "c", "ice"}


def test_a_state_of_another_optimizer_is_refused(toy):
    program = toy.program()
    state = program.init(toy.params, jax.random.key(0))
    for part, name, match in (
        (
            "first",
            None,
            r"optimizer state of stage 'first' .*: it is \(\w+\) of 1 arrays",
        ),
        ("validation", "a", "the optimizer state of 'a' is of another optimizer"),
    ):
        states = {**state.opt_states}
        states[part] = jnp.zeros(3) if name is None else {**states[part], name: ()}
        with pytest.raises(InputError, match=match):
            program.step(state._replace(opt_states=states), toy.batches)


def test_arguments_in_another_order_are_refused(toy):
    program = toy.program()
    state = program.init(toy.params, jax.random.key(0))
    with pytest.raises(InputError, match=r"state is a dict; take one from .* init"):
        program.step(toy.batches, state)
    with pytest.raises(InputError, match="batches is a tuple; it must map the streams"):
        program.step(state, tuple(toy.batches.values()))
    with pytest.raises(
        InputError, match=r"key=0; it must be one as jax.random.key\(0\)"
    ):
        program.init(toy.params, 0)
    with pytest.raises(
        InputError, match=r"^key=Array[^\n]*; it must be one as [^\n]*$"
    ):
        program.init(toy.params, jax.random.split(jax.random.key(0), 3))
    with pytest.raises(
        InputError, match=r"batches\['train'\]\['x'\] is 'x'; it must be"
    ):
        program.step(state, {**toy.batches, "train": {"x": "x"}})
    with pytest.raises(InputError, match="params is a ArrayImpl; it must map the sets"):
        program.init(jnp.ones(3), jax.random.key(0))
    with pytest.raises(InputError, match="model_state is a ArrayImpl; it must map the"):
        program.init(toy.params, jax.random.key(0), jnp.ones(3))
    with pytest.raises(
        InputError, match=r"model_state\['norm'\] is 'x'; it must be an"
    ):
        program.init(toy.params, jax.random.key(0), {"norm": "x"})


def test_init_takes_the_same_array_twice_for_a_step_that_donates(toy):
    """Copies of one initial value, as in interleaving, are buffers of their own.

    The caller's arrays stay the caller's, the key among them.
    """
    program = Program(
        (
            Stage(
                "both",
                moves=("one", "two"),
                loss_fn=lambda moves, *rest: jnp.sum(moves["one"] * moves["two"]),
                optimizer=optax.sgd(0.1),
            ),
        )
    )
    start = jnp.ones(3)
    key = jax.random.key(0)
    state = program.init({"one": start, "two": start}, key)
    pointers = {state.params[name].unsafe_buffer_pointer() for name in ("one", "two")}
    assert len(pointers) == 2
    jax.jit(program.step, donate_argnums=0)(state, {})
    assert state.key.is_deleted()
    np.testing.assert_array_equal(start, jnp.ones(3))
    assert jnp.array_equal(key, jax.random.key(0))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.contrib.cocob(),
        optax.contrib.prodigy(1.0),
        optax.inject_hyperparams(optax.adam)(0.1, eps_root=1e-8),
    ],
    ids=["cocob", "prodigy", "injected"],
)
def test_an_optimizer_that_keeps_the_parameters_may_be_donated(optimizer):
    """Its state begins with the very arrays that the sets have."""
    stage = Stage(
        "learner",
        moves=("w",),
        loss_fn=lambda moves, *_: jnp.sum(moves["w"] ** 2),
        optimizer=optimizer,
    )
    validation = Validation(
        lambda moves, reads, *_: jnp.sum((reads["w"] - moves["a"]) ** 2),
        reads=("w",),
        minimize={"a": optimizer},
    )
    program = Program((stage,), validation)
    state = program.init({"w": jnp.ones(3), "a": jnp.ones(3)}, jax.random.key(0))
    traces = []

    def step(state):
        traces.append(1)
        return program.step(state, {})

    donated = jax.jit(step, donate_argnums=0)
    for _ in range(3):
        state, _ = donated(state)
    assert len(traces) == 1
    assert np.all(np.isfinite(state.params["a"]))


def test_a_program_that_only_trains_has_no_objective(toy):
    program = toy.program().training_only()
    state = program.init(toy.params, jax.random.key(0))
    with pytest.raises(InputError, match="without a validation stage has no objective"):
        program.objective(state, toy.batches)


def test_norms_of_half_precision_do_not_overflow():
    """Of four numbers: 1000 each from the objective, 1000 from the stage."""
    stage = Stage(
        "learner",
        moves=("w",),
        reads=("a",),
        loss_fn=lambda moves, reads, *_: (
            -4000 * jnp.sum(moves["w"]) * jnp.sum(reads["a"])
        ),
        optimizer=optax.sgd(0.125),
    )
    validation = Validation(
        lambda moves, reads, *_: 1000 * jnp.sum(moves["a"]) + jnp.sum(reads["w"]),
        reads=("w",),
        minimize={"a": optax.sgd(1e-6)},
    )
    program = Program((stage,), validation)
    params = {"w": jnp.ones(2, jnp.float16), "a": jnp.ones(4, jnp.float16)}
    _, metrics = program.step(program.init(params, jax.random.key(0)), {})
    assert metrics["hypergrad/a/direct"] == metrics["hypergrad/a/response"] == 2000
    assert metrics["hypergrad/a/norm"] == 4000


def test_complex_sets_are_refused():
    """The gradient of JAX is the conjugate of the direction in which to descend."""
    stage = Stage(
        "learner",
        moves=("w",),
        loss_fn=lambda moves, *_: jnp.sum(jnp.abs(moves["w"]) ** 2),
        optimizer=optax.sgd(0.1),
    )
    with pytest.raises(
        InputError, match="is complex64; what is moved is real: split it"
    ):
        Program((stage,)).init({"w": jnp.ones(2, jnp.complex64)}, jax.random.key(0))


def test_counts_and_truths_are_logged_as_floats(toy):
    """On one device as on several, of which the mean is logged."""

    def first(*args):
        found = {
            "count": jnp.asarray(3),
            "all": np.bool_(True),
            "half": jnp.bfloat16(2),
        }
        return toy.first(*args), Aux(found)

    program = toy.program({"loss_fn": first})
    _, metrics = program.step(program.init(toy.params, jax.random.key(0)), toy.batches)
    found = {name: metrics[f"first/{name}"] for name in ("count", "all", "half")}
    assert found == {"count": 3, "all": 1, "half": 2}
    assert [str(value.dtype) for value in found.values()] == [
        "float64",
        "float64",
        "bfloat16",
    ]


def test_two_metrics_of_one_name_are_refused(toy):
    def naming(name, function):
        return lambda *args: (function(*args), Aux({name: 1.0}))

    def named(program, *names):
        pairs = zip(program.stages, names, strict=True)
        stages = tuple(dataclasses.replace(stage, name=name) for stage, name in pairs)
        return program.replace(stages=stages)

    first = toy.program({"loss_fn": naming("b/loss", toy.first)})
    judged = toy.validation(loss_fn=naming("x/loss", toy.objective))
    for program, match in (
        (named(first, "a", "a/b"), "a/b/loss"),
        (
            named(toy.program(validation=judged), "validation/x", "b"),
            "validation/x/loss",
        ),
    ):
        state = program.init(toy.params, jax.random.key(0))
        with pytest.raises(InputError, match=rf"metrics \['{match}'\] are given twice"):
            program.step(state, toy.batches)
