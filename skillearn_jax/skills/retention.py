"""Floor 3: what is left of a task after others were learned."""

from typing import NamedTuple

import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.types import Array


class Retention(NamedTuple):
    """What an error matrix says about forgetting; `[K]`, one number per task.

    Attributes:
        forgetting: errors made at the end beyond the fewest since the task was learned.
        retention: the share of the accuracy right after learning that is left at the end.
        transfer: how much error later tasks took away again; negative if they added some.
    """

    forgetting: Array
    retention: Array
    transfer: Array


def retention(errors: Array, learned: Array) -> Retention:
    """Returns forgetting, retention and transfer for every task.

    With the error rate e[t, k] on task k at time t = 0..T, and the time t_k at which the
    learning of task k ended:

        forgetting_k = e[T, k] - min_{t_k <= t <= T} e[t, k]        >= 0
        retention_k  = (1 - e[T, k]) / (1 - e[t_k, k])              1: all kept
        transfer_k   = e[t_k, k] - e[T, k]                          > 0: later tasks helped

    Args:
        errors: `[T + 1, K]` error rates, measured after every block, turn or epoch.
        learned: `[K] int` the row t_k of each task: for a schedule with one row per turn,
            `last_turns(schedule, names)`.

    Raises:
        InputError: for errors of another shape, and if a row that `learned` names does
            not exist.
    """
    errors, learned = jnp.asarray(errors), jnp.asarray(learned)
    if errors.ndim != 2:
        raise InputError(
            f"errors has the shape {errors.shape}; it must be [T + 1, K], a row for each "
            "time and a column for each task"
        )
    times, tasks = errors.shape
    if learned.shape != (tasks,) or learned.min() < 0 or learned.max() >= times:
        raise InputError(
            f"learned={learned.tolist()} must name a row of errors for each of {tasks} "
            f"tasks, from 0 to {times - 1}"
        )
    since = jnp.arange(times)[:, None] >= learned[None]
    then, last = errors[learned, jnp.arange(tasks)], errors[-1]
    return Retention(
        forgetting=last - jnp.min(jnp.where(since, errors, jnp.inf), axis=0),
        # Of a task that was never known there is nothing to retain: 1 by convention.
        retention=jnp.where(then < 1, (1 - last) / (1 - then), 1),
        transfer=then - last,
    )


def last_turns(schedule: tuple[str, ...], names: tuple[str, ...]) -> Array:
    """Returns the turn, counted from 0, that is the last of each task: `[K] int32`.

    Raises:
        InputError: for a task without a turn.
    """
    missing = sorted(set(names) - set(schedule))
    if missing:
        raise InputError(f"schedule={schedule} has no turn of {missing}")
    last = {name: turn for turn, name in enumerate(schedule)}
    return jnp.array([last[name] for name in names], jnp.int32)
