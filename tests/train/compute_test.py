"""A search in bfloat16: its activations are, its state and its gradients are not."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest

from skillearn_jax.data import load, sample
from skillearn_jax.train.build import build_search
from skillearn_jax.train.build_tasks import build_tasks
from skillearn_jax.train.search_streams import streams_of

HALF = {"search.compute": "bfloat16"}
TASKS = ("digits", "again")


def begun(config):
    """Returns the program of a search, its first state and its first batches."""
    data = load("digits")
    if config.skill == "interleaving":
        setup = build_tasks(config, dict.fromkeys(TASKS, data), jax.random.key(0), 2)
        streams = streams_of(config, dict.fromkeys(TASKS, data.training))
    else:
        setup = build_search(config, data, jax.random.key(0), 2)
        streams = streams_of(config, data.training)
    program = setup.phases[-1].program
    state = program.init(setup.params, jax.random.key(1), setup.model_state)
    return program, state, sample(streams, state.key, 0)


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 0.1),
        pytest.param(
            {"skill": "interleaving", "tasks": TASKS, "interleaving.rounds": 1},
            0.1,
            marks=pytest.mark.long,
        ),
        pytest.param(  # thirty layers, which round one after the other
            {"skill": "baseline", "space.name": "nasbench201"},
            0.4,
            marks=pytest.mark.long,
        ),
    ],
)
def test_bfloat16_is_the_arithmetic_and_not_the_state(
    changes, share, tiny, quick_compilation
):
    plain, state, batches = begun(tiny(changes))
    program, again, narrow = begun(tiny({**changes, **HALF}))
    for leaf, other in zip(*map(jax.tree.leaves, (state, again)), strict=True):
        assert leaf.dtype == other.dtype
        assert jnp.array_equal(leaf, other)
    for name, batch in narrow.items():
        assert batch["image"].dtype == jnp.bfloat16, name
        rounded = batches[name]["image"].astype(jnp.bfloat16)
        assert jnp.array_equal(batch["image"], rounded), name

    def moved(program, state, batches):
        grads, _ = program.hypergrad(state, batches)
        return grads, program.step(state, batches)

    def traced(program, batches):
        return jax.jit(lambda *a: moved(program, *a)).trace(state, batches)

    full, half = traced(plain, batches), traced(program, narrow)
    assert "bf16" not in str(full.jaxpr)
    # A CPU adds up to 256 ones in it.
    assert not re.findall(r"bf16\[.*\] = reduce_sum\[", str(half.jaxpr))
    exact, (expected, of_plain) = full.lower().compile()(state, batches)
    grads, (found, metrics) = half.lower().compile()(state, narrow)
    for leaf, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert leaf.dtype == other.dtype
    for name, value in metrics.items():
        assert value.dtype == of_plain[name].dtype, name
    for name, grad in exact.items():
        assert optax.tree.norm(grad) > 0
        apart = optax.tree.norm(jax.tree.map(jnp.subtract, grads[name], grad))
        assert 0 < apart < share * optax.tree.norm(grad), name
    for name, value in expected.params.items():
        step = optax.tree.norm(jax.tree.map(jnp.subtract, value, state.params[name]))
        apart = jax.tree.map(jnp.subtract, found.params[name], value)
        assert 0 < optax.tree.norm(apart) < share * step, name
