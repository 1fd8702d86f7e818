"""Floor 4: a running average of the trained network, kept beside it in the state."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from skillearn_jax.framework import State
from skillearn_jax.types import Array, Metrics, PyTree

AVERAGE = "average"
"""The model state that holds the average."""


def averaging(
    decay: float, every: int = 1
) -> Callable[[State, Metrics], tuple[State, Metrics]]:
    """Returns the update of the average that a step ends in: a program's `after`.

    With w the weights and the batch statistics after the n-th update, n = 1, 2, ...,

        average <- d average + (1 - d) w,    d = min(decay, n / (n + 9)),

    so that the first values are soon forgotten. Averaged weights need averaged
    statistics: those of the last batches belong to other activations.

    Args:
        decay: d of long trainings.
        every: steps of one update: the average stays where the weights do.

    References:
        Polyak and Juditsky 1992, Acceleration of stochastic approximation by averaging.

    Cost: memory and traffic of one more copy of the weights.
    """

    def after(state: State, metrics: Metrics) -> tuple[State, Metrics]:
        updates = state.step // every
        count = updates.astype(jnp.float32)
        share = jnp.minimum(decay, count / (count + 9))
        share = jnp.where(state.step % every == 0, share, 1.0)

        def follow(old: Array, new: Array) -> Array:
            return old + (1 - share).astype(old.dtype) * (new - old)

        average = jax.tree.map(follow, state.model_state[AVERAGE], variables(state))
        model_state = {**state.model_state, AVERAGE: average}
        return state._replace(model_state=model_state), metrics

    return after


def variables(state: State) -> PyTree:
    """Returns the network of a state: parameters and running statistics."""
    return {
        "params": state.params["weights"],
        "batch_stats": state.model_state["network"],
    }


def with_average(state: State) -> State:
    """Returns a state before the first step with the average that `averaging` needs."""
    copy = jax.tree.map(jnp.copy, variables(state))
    return state._replace(model_state={**state.model_state, AVERAGE: copy})


def judged_variables(state: State) -> PyTree:
    """Returns what is judged, and kept, of a state: the average if there is one."""
    return state.model_state.get(AVERAGE) or variables(state)
