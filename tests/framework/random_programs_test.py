"""Random programs: hypergradients and steps are those of a loop written out in plain JAX.

Whatever a program may be made of is drawn: what stages move, read, hold fixed and start
from, interactions, solvers, learned rates, restarts, adjoints, commits, orders.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Program, Stage, Validation
from skillearn_jax.hypergrad import Autodiff, Exact, FirstOrder, Steps

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

SIZE = 3  # numbers in every set
EXAMPLES = 4
SETS = ("w0", "w1", "w2", "w3")
SUPPORTS = ("a", "b")
OPTIMIZERS = (
    lambda rate: optax.sgd(rate),
    lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    lambda rate: optax.adam(rate, eps_root=1e-6),
    lambda rate: optax.chain(
        optax.clip_by_global_norm(0.3), optax.add_decayed_weights(0.1), optax.sgd(rate)
    ),
)


def random_function(rng, names, streams):
    """Returns a smooth function of sets and batches, in which all of them meet."""
    mixing = {name: rng.normal(size=(4, SIZE)) for name in (*names, *streams)}

    def function(moves, reads, model_state, batch, key):
        del model_state, key
        given = {**moves, **reads, **batch}
        parts = [jnp.tanh(jnp.atleast_2d(given[s])) @ mixing[s].T for s in mixing]
        met = functools.reduce(jnp.add, jnp.broadcast_arrays(*parts))
        kept = sum(0.1 * jnp.sum(jnp.cosh(value)) for value in moves.values())
        return jnp.mean(jnp.sin(met) + met**2) + kept

    return function


def some(rng, names, most):
    """Returns up to `most` of the names, in their order."""
    count = rng.integers(0, min(most, len(names)) + 1)
    chosen = set(rng.choice(names, count, replace=False)) if count else set()
    return tuple(name for name in names if name in chosen)


def random_stage(rng, index, adjoint):
    name = f"stage{index}"
    moves = some(rng, SETS, 2) or (SETS[index],)
    rest = tuple(s for s in (*SETS, *SUPPORTS) if s not in moves)
    reads = some(rng, rest, 3)
    learned = [s for s in reads if rng.random() < 0.2]
    rate = rng.uniform(0.05, 0.4)
    make = OPTIMIZERS[rng.integers(len(OPTIMIZERS))]
    optimizer, hyperparams = make(rate), None
    if learned:
        optimizer = optax.inject_hyperparams(optax.sgd)(rate, momentum=0.5)

        def hyperparams(given):
            return {"learning_rate": 0.2 * jax.nn.sigmoid(jnp.sum(given[learned[0]]))}

    data = (f"{name}/x",)
    interaction = {}
    if rng.random() < 0.4:
        more = some(rng, tuple(s for s in rest if s not in reads), 2)
        interaction = {
            "interaction": random_function(rng, (*moves, *reads, *more), ()),
            "interaction_reads": more,
            "interaction_weight": 0.7,
        }
    read = (*reads, *interaction.get("interaction_reads", ()))
    return Stage(
        name,
        moves=moves,
        reads=reads,
        data=data,
        loss_fn=random_function(rng, (*moves, *reads), data),
        optimizer=optimizer,
        hyperparams=hyperparams,
        adjoint=adjoint,
        solver=Steps(int(rng.integers(1, 4))) if rng.random() < 0.3 else None,
        start={s: str(rng.choice(rest)) for s in moves if rng.random() < 0.2},
        restart=bool(rng.random() < 0.2),
        detached=tuple(s for s in read if rng.random() < 0.15),
        **interaction,
    )


def random_program(rng):
    """Returns a program, or None where what was drawn cannot be meant."""
    kinds = (Exact(), Autodiff(), FirstOrder("current"), FirstOrder("lookahead"))
    stages = tuple(
        random_stage(rng, i, kinds[rng.choice(4, p=[0.5, 0.2, 0.1, 0.2])])
        for i in range(rng.integers(1, 5))
    )
    moved = {name for stage in stages for name in stage.moves}
    needed = {s for t in stages for s in (*t.all_reads, *t.start.values())}
    indirect = some(rng, SUPPORTS, 1)
    reads = some(rng, tuple(s for s in SETS if s in moved), 4)
    direct = tuple(s for s in SUPPORTS if s not in indirect)
    optimizers = {s: OPTIMIZERS[rng.integers(4)](0.3) for s in SUPPORTS}
    up = some(rng, SUPPORTS, 1)
    before = some(rng, tuple(s for s in SETS if s in moved), 1)
    names = (*reads, *direct, *(f"{s}_before" for s in before))
    try:
        return Program(
            stages,
            Validation(
                random_function(rng, names, ("val",)),
                reads=reads,
                data=("val",),
                minimize={s: o for s, o in optimizers.items() if s not in up},
                maximize={s: o for s, o in optimizers.items() if s in up},
                indirect=indirect,
                before=before,
                order=str(rng.choice(["simultaneous", "alternate"])),
            ),
            frozen=tuple(s for s in SETS if s in needed - moved),
            commit=str(rng.choice(["sequential", "jacobi", "lookahead"])),
        )
    except InputError:
        return None


# The reference.


def run_stage(stage, values, opt_state, batch, virtual):
    """Takes the steps of a stage; returns what it moves, and its optimiser's state."""
    active = {s: values[stage.start.get(s, s)] for s in stage.moves}
    if virtual and stage.adjoint == FirstOrder("current"):
        return active, opt_state
    reads = {
        s: jax.lax.stop_gradient(values[s]) if s in stage.detached else values[s]
        for s in stage.all_reads
    }
    held = virtual and isinstance(stage.adjoint, FirstOrder)
    optimizer = stage.optimizer
    if stage.restart:
        opt_state = optimizer.init(active)
    if stage.hyperparams is not None:
        decided = stage.hyperparams(reads)
        opt_state = opt_state._replace(hyperparams={**opt_state.hyperparams, **decided})

    def total(active, x):
        given = {s: reads[s] for s in stage.reads}
        value = stage.loss_fn(active, given, {}, {stage.data[0]: x}, None)
        if stage.interaction is not None:
            more = stage.interaction(active, reads, {}, {}, None)
            value += stage.interaction_weight * more
        return value

    for x in batch if stage.solver is not None else (batch,):
        gradient = jax.grad(total)(active, x)
        if held:
            gradient = jax.lax.stop_gradient(gradient)
        updates, opt_state = optimizer.update(gradient, opt_state, active)
        active = optax.apply_updates(active, updates)
    return active, opt_state


def run_all(program, params, opt_states, batches, virtual):
    """Returns all sets and optimiser states after the training stages."""
    values, opt_states = dict(params), dict(opt_states)
    for stage in program.stages:
        seen = params if program.commit == "jacobi" and not virtual else values
        new, opt_states[stage.name] = run_stage(
            stage, seen, opt_states[stage.name], batches[stage.data[0]], virtual
        )
        values = {**values, **new}
    return values, opt_states


def objective(supports, program, state, batches):
    validation = program.validation
    params = {**state.params, **supports}
    values, opt_states = run_all(program, params, state.opt_states, batches, True)
    reads = {s: values[s] for s in validation.reads}
    reads |= {f"{s}_before": state.params[s] for s in validation.before}
    moves = {s: supports[s] for s in validation.direct}
    value = validation.loss_fn(moves, reads, {}, {"val": batches["val"]}, None)
    return value, (values, opt_states)


def reference_step(program, state, batches):
    """Returns the state after a step: look-ahead, supporting sets, real steps."""
    validation = program.validation
    names = tuple(validation.supporting)
    alternate = validation.order == "alternate"
    of_validation = dict(state.opt_states["validation"])
    for turn in [(s,) for s in names] if alternate else [names]:
        supports = {s: state.params[s] for s in names}
        gradients, (values, opt_states) = jax.grad(objective, has_aux=True)(
            supports, program, state, batches
        )
        for s in turn:
            sign = -1 if s in validation.maximize else 1
            updates, of_validation[s] = validation.supporting[s].update(
                sign * gradients[s], of_validation[s], supports[s]
            )
            supports[s] = optax.apply_updates(supports[s], updates)
        state = state._replace(params={**state.params, **supports})
    if program.commit != "lookahead":
        values, opt_states = run_all(
            program, state.params, state.opt_states, batches, False
        )
    return state._replace(
        params={**values, **supports},
        opt_states={**opt_states, "validation": of_validation},
        step=state.step + 1,
    )


@pytest.fixture
def draw():
    """`draw(seed) -> program, state, batches`."""

    def make(seed):
        rng = np.random.default_rng(seed)
        program = None
        while program is None:
            program = random_program(rng)
        params = {name: jnp.asarray(rng.normal(size=SIZE)) for name in program.sets}
        batches = {"val": jnp.asarray(rng.normal(size=(EXAMPLES, SIZE)))}
        for stage in program.stages:
            steps = () if stage.solver is None else (stage.solver.num_steps,)
            x = rng.normal(size=(*steps, EXAMPLES, SIZE))
            batches[stage.data[0]] = jnp.asarray(x)
        state = program.init(params, jax.random.key(0))
        # Momenta and counts that are not those of a start.
        return program, reference_step(program, state, batches), batches

    return make


def assert_close(got, want):
    chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-12)


LONG = [pytest.param(seed, marks=pytest.mark.long) for seed in range(10, 60)]


@pytest.mark.parametrize("seed", [*range(10), *LONG])
def test_a_random_program_is_its_loop_written_out(draw, seed):
    program, state, batches = draw(seed)
    supports = {s: state.params[s] for s in program.validation.supporting}
    want, _ = jax.grad(objective, has_aux=True)(supports, program, state, batches)
    got, info = jax.jit(program.hypergrad)(state, batches)
    assert_close(got, want)
    total = jax.tree.map(jnp.add, info.direct, info.response)
    assert_close(total, want)
    after, _ = jax.jit(program.step)(state, batches)
    want = reference_step(program, state, batches)
    assert_close((after.params, after.opt_states), (want.params, want.opt_states))
    assert int(after.step) == int(want.step)


def test_over_devices_a_random_program_is_that_of_one(draw):
    """As many examples on each; `vmap` has an axis as devices have."""
    for seed in range(5):
        program, state, batches = draw(seed)
        solved = {s.data[0] for s in program.stages if s.solver is not None}
        axes = {name: 1 if name in solved else 0 for name in batches}
        parts = {
            name: jnp.stack(jnp.split(x, 2, axis=axes[name]))
            for name, x in batches.items()
        }
        mapped = program.replace(axis_name="devices")

        def both(state, batches, program=program):
            after, _ = program.step(state, batches)
            return program.hypergrad(state, batches)[0], after.params

        over = jax.vmap(
            functools.partial(both, program=mapped), (None, 0), axis_name="devices"
        )
        got = jax.jit(over)(state, parts)
        want = jax.jit(both)(state, batches)
        for device in range(2):
            assert_close(jax.tree.map(lambda x, i=device: x[i], got), want)
