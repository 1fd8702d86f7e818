"""What goes on from one phase to the next and what begins anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Phase, Program

pytestmark = pytest.mark.usefixtures("quick_module")


def fresh_params(toy):
    return jax.tree.map(lambda leaf: leaf + 100, toy.params)


@pytest.fixture
def previous(toy, warm):
    state = warm(toy.program(), toy.params, toy.batches)
    return state._replace(model_state={"norm": jnp.asarray(2.0)})


def enter(toy, previous, *, program=None, params=None, model_state=None, **changes):
    phase = Phase("next", program or toy.program(), 1, **changes)
    if model_state is None:
        model_state = {"norm": 0.5}
    params = params or fresh_params(toy)
    return phase, phase.enter(params, jax.random.key(99), model_state, previous)


def test_the_first_phase_begins_with_init(toy, assert_same):
    phase = Phase("first", toy.program(), 1)
    entered = phase.enter(toy.params, jax.random.key(3), {"norm": 1.0})
    want = toy.program().init(toy.params, jax.random.key(3), {"norm": 1.0})
    assert_same(entered, want)


def test_all_goes_on_by_default(toy, previous, assert_same):
    _, entered = enter(toy, previous)
    assert_same(entered, previous)


def test_carry_names_what_goes_on(toy, previous, assert_same):
    phase, entered = enter(toy, previous, carry=("v", "c"))
    fresh = phase.program.init(fresh_params(toy), jax.random.key(99), {"norm": 0.5})
    for name, source in (
        ("w", fresh),
        ("v", previous),
        ("a", fresh),
        ("c", previous),
    ):
        assert_same(entered.params[name], source.params[name])
    assert_same(entered.opt_states["first"], fresh.opt_states["first"])
    assert_same(entered.opt_states["second"], previous.opt_states["second"])
    for name, source in (("a", fresh), ("c", previous)):
        got = entered.opt_states["validation"][name]
        assert_same(got, source.opt_states["validation"][name])
    assert_same(entered.model_state, fresh.model_state)
    # The run goes on: its step count and its key.
    assert_same(entered.step, previous.step)
    assert_same(entered.key, previous.key)


def test_carry_nothing_begins_anew_but_the_run_goes_on(toy, previous, assert_same):
    phase, entered = enter(toy, previous, carry=())
    fresh = phase.program.init(fresh_params(toy), jax.random.key(99), {"norm": 0.5})
    assert_same(entered, fresh._replace(step=previous.step, key=previous.key))
    assert int(entered.step) == 3


def test_carry_takes_model_states_by_name(toy, previous):
    _, entered = enter(toy, previous, carry=("norm",))
    assert float(entered.model_state["norm"]) == 2.0


def test_reset_begins_an_optimizer_anew_with_its_parameters_going_on(
    toy, previous, assert_same
):
    phase, entered = enter(toy, previous, reset=("first", "a"))
    fresh = phase.program.init(fresh_params(toy), jax.random.key(99), {"norm": 0.5})
    assert_same(entered.params, previous.params)
    assert_same(entered.opt_states["first"], fresh.opt_states["first"])
    assert_same(entered.opt_states["second"], previous.opt_states["second"])
    supports = entered.opt_states["validation"]
    assert_same(supports["a"], fresh.opt_states["validation"]["a"])
    assert_same(supports["c"], previous.opt_states["validation"]["c"])


def deeper(toy):
    """A network with more weights, as in the stages of P-DARTS."""
    return {**fresh_params(toy), "w": {"kernel": jnp.ones((5, 2)), "bias": jnp.ones(2)}}


def test_changed_shapes_are_refused_if_carried_and_begin_anew_otherwise(
    toy, previous, assert_same
):
    match = (
        "phase 'next' carries 'w', whose shapes have changed; leave it out of carry="
    )
    with pytest.raises(InputError, match=match):
        enter(toy, previous, params=deeper(toy))
    with pytest.raises(InputError, match=match):
        enter(toy, previous, params=deeper(toy), carry=("w",))
    _, entered = enter(toy, previous, params=deeper(toy), carry=("v", "a", "c"))
    assert entered.params["w"]["kernel"].shape == (5, 2)
    assert_same(entered.params["a"], previous.params["a"])
    moments = jax.tree.leaves(entered.opt_states["first"])
    assert {leaf.shape for leaf in moments} >= {(5, 2)}
    assert not any(np.any(leaf) for leaf in moments)


@pytest.mark.parametrize(
    "change",
    [
        lambda w: {**w, "extra": w["bias"]},
        lambda w: {**w, "bias": w["bias"].astype(jnp.float32)},
    ],
    ids=["structure", "dtype"],
)
def test_changed_structure_and_dtype_are_refused(toy, previous, change):
    params = fresh_params(toy)
    params["w"] = change(params["w"])
    with pytest.raises(InputError, match="carries 'w', whose shapes have changed"):
        enter(toy, previous, params=params)


@pytest.mark.parametrize("name", ["ghost", "norm"])
def test_carry_of_what_is_not_in_both_phases_is_refused(toy, previous, name):
    if name == "norm":
        previous = previous._replace(model_state={})
    match = f"phase 'next' carries '{name}', which is not in both phases"
    with pytest.raises(InputError, match=match):
        enter(toy, previous, carry=("w", name))


def test_negative_epochs_are_refused(toy):
    with pytest.raises(InputError, match="phase 'short' has -1 epochs; at least 0"):
        Phase("short", toy.program(), -1)
    assert Phase("none", toy.program(), 0).epochs == 0


@pytest.mark.parametrize("epochs", ["3", 2.5, None])
def test_epochs_that_are_no_whole_number_are_refused(toy, epochs):
    match = f"phase 'short' has {epochs!r} epochs; at least 0, and a whole number"
    with pytest.raises(InputError, match=match):
        Phase("short", toy.program(), epochs)


def test_frozen_alphas_then_search(toy, plain_step, assert_same):
    """A warm-up of the weights leaves the alphas and their moments untouched."""
    warmup = Phase("warmup", Program(toy.stages(), frozen=("a", "c")), 1)
    search = Phase("search", toy.program(), 1)
    state = warmup.enter(toy.params, jax.random.key(0))
    for _ in range(2):
        state, _ = warmup.program.step(state, toy.batches)
    assert np.any(state.params["w"]["kernel"] != toy.params["w"]["kernel"])
    entered = search.enter(fresh_params(toy), jax.random.key(1), None, state)
    assert_same(entered.params, state.params)
    assert_same(entered.params["a"], toy.params["a"])
    for name in ("first", "second"):
        assert_same(entered.opt_states[name], state.opt_states[name])
    for name in ("a", "c"):
        assert_same(
            entered.opt_states["validation"][name],
            toy.optimizers[name].init(toy.params[name]),
        )
    new, _ = search.program.step(entered, toy.batches)
    assert np.any(new.params["a"] != entered.params["a"])
    assert int(new.step) == 3


def test_a_stage_that_moves_a_carried_and_a_fresh_set_begins_anew(
    toy, previous, assert_same
):
    def both(moves, reads, model_state, batch, key):
        return toy.first(moves, reads, {}, batch, key) + jnp.sum(moves["u"] ** 2)

    program = toy.program({"moves": ("w", "u"), "loss_fn": both})
    params = {**fresh_params(toy), "u": jnp.ones(4)}
    phase, entered = enter(toy, previous, program=program, params=params)
    fresh = phase.program.init(params, jax.random.key(0))
    assert_same(entered.opt_states["first"], fresh.opt_states["first"])
    assert_same(entered.params["w"], previous.params["w"])
    phase.program.step(entered, toy.batches)


def test_a_model_state_may_have_the_name_of_a_set(toy, previous):
    old = previous._replace(model_state={"w": jnp.ones(2)})
    with pytest.raises(InputError, match="carries 'w', whose shapes have changed"):
        enter(toy, old, params=deeper(toy), model_state={"w": jnp.ones(2)})


def test_reset_of_an_unknown_name_is_refused(toy, previous):
    with pytest.raises(InputError, match="ghost"):
        enter(toy, previous, reset=("ghost",))


def test_another_optimizer_is_refused_unless_it_begins_anew(toy, previous):
    program = toy.program({"optimizer": optax.adam(0.1)})
    match = "gives 'first' another optimizer, .*: add 'first' to reset="
    with pytest.raises(InputError, match=match):
        enter(toy, previous, program=program)
    phase, entered = enter(toy, previous, program=program, reset=("first",))
    phase.program.step(entered, toy.batches)


def test_injected_numbers_go_on_unless_reset(toy):
    old, new = (
        toy.program({"optimizer": optax.inject_hyperparams(optax.sgd)(rate)})
        for rate in (0.1, 0.01)
    )
    previous = old.init(toy.params, jax.random.key(0))
    for reset, rate in (((), 0.1), (("first",), 0.01)):
        state = Phase("two", new, 1, reset=reset).enter(
            toy.params, jax.random.key(0), previous=previous
        )
        assert state.opt_states["first"].hyperparams["learning_rate"] == rate
