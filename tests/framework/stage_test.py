"""The parts of a program: interactions, optimisers, maximisation, copies, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Learner, Phase, Program, Stage, Validation
from skillearn_jax.hypergrad import Autodiff, Exact, FirstOrder, Steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def square(moves, reads, model_state, batch, key):
    return sum(jnp.sum(value**2) for value in moves.values())


def stage(**changes):
    keywords = {"moves": ("w",), "loss_fn": square, "optimizer": optax.sgd(0.1)}
    return Stage(changes.pop("name", "only"), **{**keywords, **changes})


def validation(**changes):
    keywords = {"reads": ("w",), "minimize": {"a": optax.sgd(0.1)}}
    return Validation(changes.pop("loss_fn", square), **{**keywords, **changes})


# The value of a part: a loss plus a weighted interaction on its own data.


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 3.0])
def test_an_interaction_is_added_with_its_weight_on_its_own_data(weight):
    def loss(moves, reads, model_state, batch, key):
        return 2 * moves["w"] * batch["train"], Aux({"accuracy": batch["train"] + 1})

    def interaction(moves, reads, model_state, batch, key):
        value = moves["w"] * reads["friend"] * batch["aux"]
        return value, Aux({"agreement": batch["aux"] + 2})

    part = stage(
        loss_fn=loss,
        data=("train",),
        interaction=interaction,
        interaction_reads=("friend",),
        interaction_data=("aux",),
        interaction_weight=weight,
    )
    batches = {"train": jnp.asarray(5.0), "aux": jnp.asarray(7.0)}
    value, aux = part(
        {"w": jnp.asarray(3.0)},
        {"friend": jnp.asarray(11.0)},
        {},
        batches,
        jax.random.key(0),
    )
    assert float(value) == 2 * 3 * 5 + weight * 3 * 11 * 7
    assert {name: float(metric) for name, metric in aux.metrics.items()} == {
        "loss": 30.0,
        "accuracy": 6.0,
        "interaction": 231.0,
        "agreement": 9.0,
    }


def test_an_interaction_sees_the_model_state_as_the_loss_left_it():
    def loss(moves, reads, model_state, batch, key):
        state = {"norm": model_state["norm"] + 1, "mine": model_state["mine"] * 5}
        return moves["w"], Aux(model_state=state)

    def interaction(moves, reads, model_state, batch, key):
        assert set(model_state) == {"norm", "mine", "other"}
        return model_state["other"], Aux(model_state={"norm": 10 * model_state["norm"]})

    part = stage(loss_fn=loss, interaction=interaction)
    value, aux = part(
        {"w": 1.0}, {}, {"norm": 2.0, "mine": 3.0, "other": 4.0}, {}, jax.random.key(0)
    )
    assert value == 1 + 4
    assert aux.model_state == {"norm": 30.0, "mine": 15.0}


def test_loss_and_interaction_have_keys_of_their_own():
    def uniform(moves, reads, model_state, batch, key):
        return jax.random.uniform(key)

    part = stage(loss_fn=uniform, interaction=uniform)
    metrics = part({"w": 1.0}, {}, {}, {}, jax.random.key(0))[1].metrics
    assert metrics["loss"] != metrics["interaction"]


def test_the_training_loss_may_read_auxiliary_data(toy, assert_close, plain_step):
    """A stream may serve the loss, the interaction, or both."""

    def first(moves, reads, model_state, batch, key):
        pseudo = jnp.tanh(batch["aux"] @ moves["w"]["kernel"])
        return toy.first(moves, reads, {}, batch, key) + jnp.mean(pseudo**2)

    program = toy.program({"loss_fn": first, "data": ("train", "aux")})
    assert program.streams == ("train", "aux", "val")
    state = program.init(toy.params, jax.random.key(0))

    def objective(a):
        ahead, _ = plain_step(
            lambda active: first(active, {"a": a}, {}, toy.batches, None),
            toy.optimizers["first"],
            {"w": state.params["w"]},
            state.opt_states["first"],
        )
        c = state.params["c"]
        reads = {"c": c, **ahead}
        second, _ = plain_step(
            lambda v: (
                toy.second(v, reads, {}, toy.batches, None)
                + toy.gamma * toy.agreement(v, reads, {}, toy.batches, None)
            ),
            toy.optimizers["second"],
            {"v": state.params["v"]},
            state.opt_states["second"],
        )
        supports = {"a": state.params["a"], "c": c}
        return toy.objective(supports, {**ahead, **second}, {}, toy.batches, None)

    response = program.hypergrad(state, toy.batches)[1].response["a"]
    assert_close(response, jax.grad(objective)(state.params["a"]), rtol=1e-10)


def test_float_data_that_a_stage_reads_changes_its_step(toy):
    program = toy.program()
    state = program.init(toy.params, jax.random.key(0))
    plain = program.hypergrad(state, toy.batches)[1].lookahead
    other = {**toy.batches, "aux": toy.batches["aux"] + 1}
    moved = program.hypergrad(state, other)[1].lookahead
    np.testing.assert_array_equal(plain["w"]["kernel"], moved["w"]["kernel"])
    assert np.any(plain["v"] != moved["v"])


# Optimisers.


def test_a_mapping_of_optimizers_equals_separate_ones_bitwise(plain_step, assert_same):
    optimizers = {
        "one": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, 0.9)),
        "two": optax.adamw(0.01, weight_decay=0.1),
    }
    rng = np.random.default_rng(0)
    params = {
        "one": {"kernel": jnp.asarray(rng.normal(size=(2, 3)))},
        "two": jnp.asarray(rng.normal(size=4)),
    }

    def loss(moves, reads, model_state, batch, key):
        kernel, two = moves["one"]["kernel"], moves["two"]
        return jnp.sum(jnp.sin(kernel)) * jnp.sum(jnp.cos(two)) + jnp.sum(two**2)

    program = Program(
        (stage(moves=("one", "two"), loss_fn=loss, optimizer=optimizers),)
    )
    state = program.init(params, jax.random.key(0))
    states = {name: opt.init(params[name]) for name, opt in optimizers.items()}
    for _ in range(3):
        gradients = jax.grad(loss)(params, {}, {}, {}, None)
        state, _ = program.step(state, {})
        for name, optimizer in optimizers.items():
            updates, states[name] = optimizer.update(
                gradients[name], states[name], params[name]
            )
            params[name] = optax.apply_updates(params[name], updates)
        assert_same(state.params, params)


def test_the_hypergradient_flows_through_a_mapping_of_optimizers(assert_close):
    optimizers = {"one": optax.sgd(0.1, 0.9), "two": optax.adam(0.2, eps_root=1e-8)}

    def loss(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.sin(moves["one"] * reads["a"]) * jnp.cos(moves["two"]))

    def objective(moves, reads, model_state, batch, key):
        return jnp.sum(reads["one"] ** 2 * reads["two"])

    program = Program(
        (
            stage(
                moves=("one", "two"),
                reads=("a",),
                loss_fn=loss,
                optimizer=optimizers,
            ),
        ),
        validation(loss_fn=objective, reads=("one", "two"), indirect=("a",)),
    )
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=3)) for name in ("one", "two", "a")}
    state = program.init(params, jax.random.key(0))

    def compose(a):
        gradients = jax.grad(loss)(params, {"a": a}, {}, {}, None)
        ahead = {}
        for name, optimizer in optimizers.items():
            opt_state = optimizer.init(params[name])
            updates, _ = optimizer.update(gradients[name], opt_state, params[name])
            ahead[name] = params[name] + updates
        return objective({}, ahead, {}, {}, None)

    assert_close(program.hypergrad(state, {})[0]["a"], jax.grad(compose)(params["a"]))


def test_stages_that_move_one_set_keep_optimizer_states_apart(
    plain_step, assert_same, assert_close
):
    """Two stages on one set `w`: value, both states, and the gradient through both."""
    optimizers = {"one": optax.sgd(0.1, 0.9), "two": optax.adam(0.05, eps_root=1e-8)}

    def one(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.sin(moves["w"] * reads["a"]))

    def two(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.cos(moves["w"]) * reads["a"] ** 2)

    def objective(moves, reads, model_state, batch, key):
        return jnp.sum(reads["w"] ** 3)

    losses = {"one": one, "two": two}
    program = Program(
        tuple(
            stage(name=name, loss_fn=loss, reads=("a",), optimizer=optimizers[name])
            for name, loss in losses.items()
        ),
        validation(loss_fn=objective, indirect=("a",)),
    )
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=3)) for name in ("w", "a")}
    state = program.init(params, jax.random.key(0))
    for _ in range(2):
        state, _ = program.step(state, {})

    def run(copies, state):
        value, opt_states = {"w": state.params["w"]}, {}
        for name, loss in losses.items():
            value, opt_states[name] = plain_step(
                lambda w, loss=loss, a=copies[name]: loss(w, {"a": a}, {}, {}, None),
                optimizers[name],
                value,
                state.opt_states[name],
            )
        return value, opt_states

    a = state.params["a"]
    terms = jax.grad(lambda copies: objective({}, run(copies, state)[0], 0, 0, 0))(
        {"one": a, "two": a}
    )
    info = program.hypergrad(state, {})[1]
    assert_close({name: info.terms[name]["a"] for name in losses}, terms)
    new, _ = program.step(state, {})
    moved = new.params["a"]
    value, opt_states = run({"one": moved, "two": moved}, state)
    assert_same(new.params["w"], value["w"])
    assert_same({name: new.opt_states[name] for name in losses}, opt_states)


# Which way supporting sets move, and when.


@pytest.mark.parametrize("way", ["minimize", "maximize"])
def test_maximize_negates_the_gradient_before_the_optimizer(way, assert_close):
    optimizer = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1))

    def objective(moves, reads, model_state, batch, key):
        return jnp.sum(3 * moves["a"]) + 0 * jnp.sum(reads["w"])

    program = Program(
        (stage(),), Validation(objective, reads=("w",), **{way: {"a": optimizer}})
    )
    a = jnp.asarray([2.0, -4.0])
    state = program.init({"w": jnp.ones(2), "a": a}, jax.random.key(0))
    grads, _ = program.hypergrad(state, {})
    np.testing.assert_array_equal(grads["a"], [3.0, 3.0])
    new, _ = program.step(state, {})
    sign = {"minimize": 1, "maximize": -1}[way]
    # The decay pulls towards zero whichever way the objective goes.
    assert_close(new.params["a"], a - 0.1 * (sign * 3 + 0.5 * a), rtol=1e-15)


@pytest.mark.parametrize("order", ["simultaneous", "alternate"])
def test_alternate_order_equals_two_hand_written_updates(
    toy, warm, assert_close, order
):
    program = toy.program(validation=toy.validation(order=order))
    state = warm(program, toy.params, toy.batches)
    new, metrics = program.step(state, toy.batches)
    point = state
    for name, sign in (("a", 1), ("c", -1)):
        seen = point if order == "alternate" else state
        gradient = program.hypergrad(seen, toy.batches)[0][name]
        np.testing.assert_allclose(
            metrics[f"hypergrad/{name}/norm"], np.linalg.norm(gradient), rtol=1e-12
        )
        updates, _ = toy.optimizers[name].update(
            sign * gradient,
            state.opt_states["validation"][name],
            state.params[name],
        )
        value = state.params[name] + updates
        point = point._replace(params={**point.params, name: value})
        assert_close(new.params[name], value, rtol=1e-13)
    # What is logged of the objective is where the last of them was moved from.
    want = program.objective(seen, toy.batches)
    np.testing.assert_allclose(metrics["validation/objective"], want, rtol=1e-13)


def test_sets_that_alternate_keep_the_last_look_ahead(toy, warm, assert_same):
    """That of the last set's hypergradient, at the new values of those before it."""
    orders = {}
    for order in ("simultaneous", "alternate"):
        validation = toy.validation(order=order)
        program = toy.program(validation=validation, commit="lookahead")
        state = warm(program, toy.params, toy.batches)
        orders[order], _ = program.step(state, toy.batches)
    new = orders["alternate"].params
    point = state._replace(params={**state.params, "a": new["a"]})
    kept = program.look_ahead(point, toy.batches).params
    for name in ("w", "v"):
        assert_same(new[name], kept[name])
    kernels = (done.params["w"]["kernel"] for done in orders.values())
    assert np.any(next(kernels) != next(kernels))


def test_labels_and_masks_of_an_optimizer_begin_with_the_name_of_the_set():
    """Given for all sets or for each: a rate of its own for one layer of a network."""
    frozen = optax.partition(
        {"still": optax.set_to_zero(), "free": optax.sgd(1.0)},
        {"w": {"first": "still", "last": "free"}},
    )

    def loss(moves, reads, model_state, batch, key):
        return sum(map(jnp.sum, jax.tree.leaves(moves)))

    weights = {"first": jnp.ones(2), "last": jnp.ones(2)}
    for optimizer in (frozen, {"w": frozen}):
        study = Stage("only", moves=("w",), loss_fn=loss, optimizer=optimizer)
        program = Program((study,))
        state, _ = program.step(program.init({"w": weights}, jax.random.key(0)), {})
        np.testing.assert_array_equal(state.params["w"]["first"], [1, 1])
        np.testing.assert_array_equal(state.params["w"]["last"], [0, 0])


# A stage that starts from another's result.


def copied(adjoint=None, **changes):
    """`first` moves `one`; `second` starts `two` from it; the objective reads both."""

    def first(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.sin(moves["one"] * reads["a"]))

    def second(moves, reads, model_state, batch, key):
        return jnp.sum(jnp.cos(moves["two"]) * moves["head"])

    def objective(moves, reads, model_state, batch, key):
        return jnp.sum(reads["one"] * reads["two"] ** 2 + reads["head"] ** 3)

    changes = {"adjoint": adjoint} if adjoint is not None else {}
    program = Program(
        (
            stage(
                name="first",
                moves=("one",),
                reads=("a",),
                loss_fn=first,
                optimizer=optax.sgd(0.1, 0.9),
            ),
            stage(
                name="second",
                moves=("two", "head"),
                loss_fn=second,
                optimizer=optax.sgd(0.2, 0.9),
                start={"two": "one"},
                **changes,
            ),
        ),
        validation(loss_fn=objective, reads=("one", "two", "head"), indirect=("a",)),
    )
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=3)) for name in ("one", "two", "head", "a")
    }
    return program, params, (first, second, objective)


def copied_by_hand(functions, plain_step, state, a, one=None):
    first, second, objective = functions
    ahead, first_opt = plain_step(
        lambda moves: first(moves, {"a": a}, {}, {}, None),
        optax.sgd(0.1, 0.9),
        {"one": state.params["one"]},
        state.opt_states["first"],
    )
    moved, second_opt = plain_step(
        lambda moves: second(moves, {}, {}, {}, None),
        optax.sgd(0.2, 0.9),
        {
            "two": ahead["one"] if one is None else one,
            "head": state.params["head"],
        },
        state.opt_states["second"],
    )
    ahead = {**ahead, **moved}
    return objective({}, ahead, {}, {}, None), (ahead, first_opt, second_opt)


@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()], ids=["exact", "autodiff"])
def test_start_hands_on_value_and_gradient(
    plain_step, warm, assert_close, assert_same, adjoint
):
    program, params, functions = copied(adjoint)
    state = warm(program, params, {})
    gradient, (ahead, *_) = jax.grad(
        lambda a: copied_by_hand(functions, plain_step, state, a), has_aux=True
    )(state.params["a"])
    grads, info = program.hypergrad(state, {})
    assert_close(grads["a"], gradient)
    assert_same(info.lookahead, ahead)


def test_the_real_step_starts_from_the_result_of_the_real_step(
    plain_step, warm, assert_same
):
    program, params, functions = copied()
    state = warm(program, params, {})
    new, _ = program.step(state, {})
    _, (values, first_opt, second_opt) = copied_by_hand(
        functions, plain_step, state, new.params["a"]
    )
    assert_same({name: new.params[name] for name in values}, values)
    assert_same(new.opt_states["first"], first_opt)
    assert_same(new.opt_states["second"], second_opt)


def test_jacobi_starts_from_the_old_value(plain_step, warm, assert_same):
    program, params, functions = copied()
    program = program.replace(commit="jacobi")
    state = warm(program, params, {})
    new, _ = program.step(state, {})
    _, (values, *_) = copied_by_hand(
        functions, plain_step, state, new.params["a"], one=state.params["one"]
    )
    assert_same({name: new.params[name] for name in values}, values)


@pytest.mark.parametrize("at", ["current", "lookahead"])
def test_first_order_stages_hand_on_as_they_say(plain_step, warm, assert_close, at):
    """At "current" the copy is the identity; at "lookahead" a step of a constant."""
    program, params, functions = copied(FirstOrder(at=at))
    state = warm(program, params, {})

    def hand(a):
        _, (ahead, *_) = copied_by_hand(functions, plain_step, state, a)
        if at == "current":
            ahead = {**ahead, "two": ahead["one"], "head": state.params["head"]}
        else:
            fixed = jax.lax.stop_gradient(ahead)
            two = ahead["one"] + fixed["two"] - fixed["one"]
            ahead = {**ahead, "two": two, "head": fixed["head"]}
        return functions[2]({}, ahead, {}, {}, None)

    assert_close(
        program.hypergrad(state, {})[0]["a"], jax.grad(hand)(state.params["a"])
    )


# Refusals.

MAPPING = {"w": optax.sgd(0.1), "v": optax.sgd(0.1)}
SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"moves": "weights"}, r"moves='weights' must be a tuple .*\('weights',\)"),
        ({"reads": "alphas"}, r"reads='alphas' must be a tuple"),
        ({"data": "train"}, r"data='train' must be a tuple"),
        ({"interaction_reads": "c"}, r"interaction_reads='c' must be a tuple"),
        ({"interaction_data": "bank"}, r"interaction_data='bank' must be a tuple"),
        ({"moves": ()}, "stage 'only' moves nothing"),
        (
            {"optimizer": MAPPING},
            r"stage 'only' has optimizers for \['v', 'w'\], but moves \['w'\]",
        ),
        ({"adjoint": Exact}, "stage 'only' has adjoint=<class .*; it must be a value"),
        ({"solver": 3}, r"stage 'only' has solver=3; it must be None or .* Steps\(3\)"),
        ({"loss_fn": 3}, "stage 'only' has loss_fn=3; it must be a function$"),
        ({"interaction": 3}, "interaction=3; it must be a function or None$"),
        ({"optimizer": 0.1}, "stage 'only' has the optimizer 0.1; it must be an optax"),
        (
            {"optimizer": {}},
            r"stage 'only' has optimizers for \[\], but moves \['w'\]",
        ),
        (
            {"moves": ("w", "u"), "optimizer": MAPPING},
            r"has optimizers for \['v', 'w'\], but moves \['u', 'w'\]",
        ),
    ],
)
def test_stage_refuses(changes, match):
    with pytest.raises(InputError, match=match):
        stage(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reads": "weights"}, "reads='weights' must be a tuple"),
        ({"data": "val"}, "data='val' must be a tuple"),
        ({"interaction_reads": "w"}, "interaction_reads='w' must be a tuple"),
        ({"interaction_data": "bank"}, "interaction_data='bank' must be a tuple"),
        ({"indirect": "a"}, r"indirect='a' must be a tuple of names: \('a',\)"),
        ({"minimize": {}}, "the validation stage moves nothing"),
        (
            {"maximize": {"a": SGD}},
            r"\['a'\] stand in both minimize= and maximize=",
        ),
        (
            {"indirect": ("b",)},
            r"indirect=\['b'\] are not supporting sets; those are \['a'\]",
        ),
        ({"loss_fn": None}, "the validation stage has loss_fn=None; it must be a func"),
        ({"minimize": {"a": 0.1}}, "the validation stage has the optimizer 0.1"),
        ({"order": "random"}, "order='random'; it must be one of 'simultaneous', 'alt"),
    ],
)
def test_validation_refuses(changes, match):
    with pytest.raises(InputError, match=match):
        validation(**changes)


def test_a_stage_that_returns_an_unknown_model_state_is_named():
    def loss(moves, reads, model_state, batch, key):
        state = {"norm": 1.0, "mean": 2.0}
        return jnp.sum(moves["w"] ** 2), Aux(model_state=state)

    program = Program((stage(name="reader", loss_fn=loss),))
    state = program.init({"w": jnp.ones(2)}, jax.random.key(0), {"norm": 0.0})
    match = r"stage 'reader': it returned model states \['mean'\], .* given \['norm'\]"
    with pytest.raises(InputError, match=match):
        program.step(state, {})


@pytest.mark.parametrize("name", ["loss", "interaction", "objective", "residual"])
@pytest.mark.parametrize("where", ["stage", "validation"])
def test_metrics_of_the_framework_are_not_replaced(name, where):
    def naming(moves, reads, model_state, batch, key):
        return jnp.sum(moves["w" if "w" in moves else "a"] ** 2), Aux({name: 42.0})

    def plain(moves, reads, model_state, batch, key):
        return sum(jnp.sum(x**2) for x in (*moves.values(), *reads.values()))

    inner, outer = (naming, plain) if where == "stage" else (plain, naming)
    program = Program(
        (stage(loss_fn=inner, reads=("a",)),), validation(loss_fn=outer, reads=("w",))
    )
    state = program.init({"w": jnp.ones(2), "a": jnp.ones(2)}, jax.random.key(0))
    with pytest.raises(InputError, match=rf"naming returned the metrics \['{name}'\]"):
        program.step(state, {})


def test_an_interaction_without_a_function_is_refused():
    with pytest.raises(InputError, match="interaction"):
        stage(interaction_reads=("c",))


def test_a_stage_without_a_name_is_refused():
    with pytest.raises(InputError, match="a stage is named 7; it must be a string"):
        stage(name=7)


def test_a_set_holds_arrays():
    program = Program((stage(reads=("a",)),), frozen=("a",))
    match = r"params\['a'\]\['f'\] is 'relu'; it must be an array or a number"
    with pytest.raises(InputError, match=match):
        program.init({"w": jnp.ones(2), "a": {"f": "relu"}}, jax.random.key(0))


def test_a_stage_whose_batches_are_not_those_of_its_steps_is_named():
    program = Program((stage(data=("train",), solver=Steps(3)),))
    state = program.init({"w": jnp.ones(2)}, jax.random.key(0))
    with pytest.raises(InputError, match=r"stage 'only': .*'train'.*3 steps"):
        program.step(state, {"train": jnp.ones((2, 5))})


# Reads that are held fixed, and reads from before.


@pytest.mark.parametrize("adjoint", [Exact(), Autodiff()], ids=["exact", "autodiff"])
def test_no_gradient_passes_through_a_detached_read(toy, assert_close, adjoint):
    """As if the earlier result had been given as data; its direct way stays."""
    sgd = {"optimizer": optax.sgd(0.3)}  # a fresh Adam passes next to nothing
    first, second = {"adjoint": adjoint}, {"adjoint": adjoint, **sgd}
    cut = toy.program(first, {**second, "detached": ("w",)})
    state = cut.init(toy.params, jax.random.key(0))
    grads, info = jax.jit(cut.hypergrad)(state, toy.batches)

    def fixed(moves, reads, model_state, batch, key):
        reads = {**reads, "w": jax.lax.stop_gradient(reads["w"])}
        return toy.agreement(moves, reads, model_state, batch, key)

    by_hand = toy.program(first, {**second, "interaction": fixed})
    want, _ = jax.jit(by_hand.hypergrad)(state, toy.batches)
    assert_close(grads, want)
    full, whole = jax.jit(toy.program(first, second).hypergrad)(state, toy.batches)
    assert_close(info.lookahead, whole.lookahead)
    assert_close(grads["c"], full["c"])
    assert jnp.abs(grads["a"] - full["a"]).max() > 1e-4 * jnp.abs(full["a"]).max()


def test_a_detached_read_is_no_path(toy):
    text = str(toy.program(None, {"detached": ("w",)}))
    assert "a -> first -> second -> objective" not in text
    assert "a -> first -> objective" in text
    assert "w' (held fixed)" in text
    text = str(toy.program({"detached": ("a",)}))
    assert "a -> first  (cut: held fixed)" in text


def test_a_supporting_set_whose_only_read_is_detached_has_no_path():
    with pytest.raises(InputError, match="'a' has no path to the objective"):
        Program(
            (stage(reads=("a",), detached=("a",)),),
            validation(indirect=("a",)),
        )


def test_what_is_detached_must_be_read():
    with pytest.raises(InputError, match=r"detached=\['b'\] are not read"):
        stage(reads=("a",), detached=("b",))
    with pytest.raises(InputError, match="detached='a' must be a tuple"):
        stage(reads=("a",), detached="a")


def test_the_objective_may_read_what_a_set_was_before(x64):
    """J = (w' - w)^2 a with w' = w - 0.1 dL/dw: the old value is there, as data."""

    def loss(moves, reads, model_state, batch, key):
        return 3.0 * moves["w"] * reads["a"]

    def moved(moves, reads, model_state, batch, key):
        assert set(reads) == {"w", "w_before"}
        return (reads["w"] - reads["w_before"]) ** 2 * moves["a"]

    program = Program(
        (stage(loss_fn=loss, reads=("a",)),),
        validation(loss_fn=moved, before=("w",)),
    )
    state = program.init({"w": 5.0, "a": 2.0}, jax.random.key(0))
    grads, info = program.hypergrad(state, {})
    # w' - w = -0.3 a, so J = 0.09 a^3; direct 0.09 a^2, response 0.18 a^2.
    np.testing.assert_allclose(info.objective, 0.09 * 8, rtol=1e-14)
    np.testing.assert_allclose(grads["a"], 0.27 * 4, rtol=1e-14)
    np.testing.assert_allclose(info.direct["a"], 0.09 * 4, rtol=1e-14)
    assert "and old  w" in str(program)


def test_the_interaction_may_read_what_a_set_was_before(x64):
    """J = w' + 2 (w' - w)^2 with w' = w - 0.3 a: dJ/da = -0.3 + 0.36 a."""

    def loss(moves, reads, model_state, batch, key):
        return 3.0 * moves["w"] * reads["a"]

    program = Program(
        (stage(loss_fn=loss, reads=("a",)),),
        validation(
            loss_fn=lambda moves, reads, *_: reads["w"],
            before=("w",),
            interaction=lambda moves, reads, *_: (reads["w"] - reads["w_before"]) ** 2,
            interaction_weight=2.0,
            indirect=("a",),
        ),
    )
    state = program.init({"w": 5.0, "a": 2.0}, jax.random.key(0))
    grads, _ = program.hypergrad(state, {})
    np.testing.assert_allclose(grads["a"], -0.3 + 0.36 * 2, rtol=1e-14)


def test_what_was_before_must_have_been_moved_and_be_named_apart():
    with pytest.raises(InputError, match="before='a', which no training stage moves"):
        Program((stage(),), validation(before=("a",)))
    with pytest.raises(InputError, match="needs the name 'w_before', a set's"):
        Program(
            (stage(), stage(name="other", moves=("w_before",))),
            validation(before=("w",)),
        )
    with pytest.raises(InputError, match="before='w' must be a tuple"):
        validation(before="w")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"moves": ("w", "w")}, "moves=.* names a set or stream twice"),
        ({"moves": (name for name in "w")}, "moves=.* must be a tuple of names"),
        ({"reads": {"a"}}, "reads={'a'} must be a tuple of names"),
        ({"interaction_weight": "rho"}, "'rho' must be a number; to learn it, read a"),
        (
            {"interaction_weight": optax.constant_schedule(1.0)},
            "must be a number; to learn it",
        ),
        (
            {"interaction_weight": float("nan")},
            "interaction_weight=nan; it must be fin",
        ),
        (
            {"interaction_weight": jnp.ones(2)},
            r"interaction_weight has shape \(2,\); it must be one number",
        ),
    ],
)
def test_what_no_stage_can_mean_is_refused(changes, match):
    with pytest.raises(InputError, match=match):
        stage(**changes)


def test_supporting_sets_are_given_with_their_optimisers():
    with pytest.raises(
        InputError, match=r"minimize=.*'a'.* must map sets to optimizers"
    ):
        validation(minimize=("a",))


def test_a_trade_off_may_be_an_array_to_sweep_over():
    def objective(weight):
        friend = stage(
            interaction=lambda moves, reads, *rest: reads["a"] * moves["w"],
            interaction_reads=("a",),
            interaction_weight=weight,
        )
        judged = validation(loss_fn=lambda m, r, *rest: r["w"] ** 2 + m["a"] ** 2)
        program = Program((friend,), judged)
        state = program.init({"w": 1.0, "a": 2.0}, jax.random.key(0))
        return program.hypergrad(state, {})[0]["a"]

    found = jax.vmap(objective)(jnp.asarray([0.5, 2.0]))
    # w' = 1 - 0.1 (2 + 2 weight), J = w'^2 + a^2, dJ/da = 2 a - 0.2 weight w'.
    np.testing.assert_allclose(found, [4 - 0.1 * 0.7, 4 - 0.4 * 0.4], rtol=1e-6)


@pytest.mark.parametrize("solver", [None, Steps(3)])
@pytest.mark.parametrize(
    "adjoint", [Exact(), Autodiff(), FirstOrder("current"), FirstOrder("lookahead")]
)
def test_a_stage_may_start_from_a_supporting_set(adjoint, solver, x64):
    """A learned initialisation: J(u) = L_val(w'(u)), w' some steps of descent from u."""
    curvature, goal = np.asarray([1.0, 3.0]), np.asarray([0.5, -2.0])

    def train(moves, reads, model_state, batch, key):
        return jnp.sum(curvature * moves["w"] ** 2) / 2 + jnp.sum(moves["w"] ** 4) / 4

    def judge(moves, reads, model_state, batch, key):
        return jnp.sum((reads["w"] - goal) ** 2)

    program = Program(
        (stage(loss_fn=train, start={"w": "u"}, adjoint=adjoint, solver=solver),),
        Validation(
            judge, reads=("w",), minimize={"u": optax.sgd(0.5)}, indirect=("u",)
        ),
    )
    u = np.asarray([0.7, -0.4])
    state = program.init({"w": np.zeros(2), "u": u}, jax.random.key(0))

    def descent(u):
        for _ in range(solver.num_steps if solver else 1):
            u = u - 0.1 * (curvature * u + u**3)
        return u

    grads, info = program.hypergrad(state, {})
    if adjoint == FirstOrder(at="current"):
        want = 2 * (u - goal)  # no step is taken
    elif adjoint == FirstOrder(at="lookahead"):
        want = 2 * (descent(u) - goal)
    else:
        want = jax.grad(lambda u: jnp.sum((descent(u) - goal) ** 2))(u)
    np.testing.assert_allclose(grads["u"], want, rtol=1e-12)
    np.testing.assert_allclose(info.terms["only"]["u"], want, rtol=1e-12)
    state, _ = program.step(state, {})
    np.testing.assert_allclose(state.params["u"], u - 0.5 * want, rtol=1e-12)
    np.testing.assert_allclose(state.params["w"], descent(u - 0.5 * want), rtol=1e-12)
    assert "moves    w from u\n" in str(program)
    assert "    u -> only -> objective" in str(program)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Learner("net", sets="w"),
            r"sets='w' must be a tuple of names: \('w',\)",
        ),
        (
            lambda: Learner("net", sets=("w",), data="train"),
            "data='train' must be a tup",
        ),
        (lambda: Program((stage(),), frozen="mask"), "frozen='mask' must be a tuple"),
        (
            lambda: stage(moves=(("w",),)),
            r"moves=\(\('w',\),\) must be a tuple of names",
        ),
        (
            lambda: Phase("p", Program((stage(),)), 1, carry="w"),
            "carry='w' must be a tu",
        ),
        (
            lambda: Phase("p", Program((stage(),)), 1, reset=3),
            "reset=3 must be a tuple",
        ),
        (
            lambda: stage(start="init"),
            "stage 'only' has start='init'; it must map sets",
        ),
    ],
)
def test_a_text_is_no_tuple_of_names(make, message):
    with pytest.raises(InputError, match=message):
        make()
