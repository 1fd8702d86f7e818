"""The average of the weights and batch statistics, against its recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skillearn_jax.framework import Aux, Program, Stage, State
from skillearn_jax.parallel import Devices
from skillearn_jax.train.averaging import (
    averaging,
    judged_variables,
    variables,
    with_average,
)


def state():
    return State(
        params={"weights": {"w": jnp.asarray([1.0, 2.0])}},
        opt_states={},
        model_state={"network": {"mean": jnp.asarray([3.0])}},
        step=jnp.int32(0),
        key=jax.random.key(0),
    )


def step(state, batches):
    """Weights double, statistics grow by what the batch says."""
    network = jax.tree.map(lambda m: m + batches, state.model_state["network"])
    return state._replace(
        params=jax.tree.map(lambda w: 2 * w, state.params),
        model_state={**state.model_state, "network": network},
        step=state.step + 1,
    ), {"loss": jnp.float32(0)}


@pytest.mark.parametrize("every", [1, 3])
def test_it_follows_the_updates(every):
    after = averaging(decay=0.25, every=every)

    @jax.jit
    def taken(state, batches):
        return after(*step(state, batches))

    now, batches = with_average(state()), [5.0, -1.0, 2.0, 4.0, 8.0, 1.0]
    average, updates = variables(now), 0
    for number, batch in enumerate(batches, 1):
        now, _ = taken(now, jnp.float32(batch))
        if number % every == 0:
            updates += 1
            decay = min(0.25, updates / (updates + 9))
            average = jax.tree.map(
                lambda old, new, d=decay: d * old + (1 - d) * new,
                average,
                variables(now),
            )
        found = judged_variables(now)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, average
        )
    assert updates == 6 // every
    assert found["params"]["w"][0] != variables(now)["params"]["w"][0]


def test_without_one_the_last_weights_are_judged():
    now = state()
    found = judged_variables(now)
    assert found["params"] is now.params["weights"]
    assert found["batch_stats"] is now.model_state["network"]


@pytest.mark.parametrize("way", ["pmap", "shard_map"])
def test_over_devices_it_is_that_of_the_whole_batch(way):
    """Of statistics that each device has of its part, the average follows the mean."""

    def loss_fn(moves, reads, model_state, batch, key):
        errors = batch["train"] @ moves["weights"]["w"] - 1
        mean = 0.5 * model_state["network"]["mean"] + jnp.mean(batch["train"], 0)
        return jnp.mean(errors**2), Aux({}, {"network": {"mean": mean}})

    stage = Stage(
        "network",
        moves=("weights",),
        loss_fn=loss_fn,
        data=("train",),
        optimizer=optax.sgd(0.1),
    )
    batches = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)

    def averaged(devices):
        after = averaging(decay=0.25)
        program = Program((stage,), axis_name=devices.axis_name, after=after)
        params = {"weights": {"w": jnp.ones(3)}}
        statistics = {"network": {"mean": jnp.zeros(3)}}
        now = devices.place(
            with_average(program.init(params, jax.random.key(0), statistics))
        )
        parts = [devices.split({"train": batch}) for batch in batches]
        step = devices.compile(program.step, now, parts[0])
        for part in parts:
            now, _ = step(now, part)
        return jax.device_get(judged_variables(devices.fetch(now)))

    jax.tree.map(
        lambda two, one: np.testing.assert_allclose(two, one, rtol=1e-5),
        averaged(Devices(2, way)),
        averaged(Devices(1)),
    )
