"""Floor 3: several tasks in one program: their turns, their sets, their validation."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Learner, Validation
from skillearn_jax.framework.stage import Optimizer
from skillearn_jax.skills.checks import per_example, with_state
from skillearn_jax.skills.models import Batch, ModelState, TaskModel
from skillearn_jax.types import Array, Key, ParamSets, PyTree


class TaskSets(NamedTuple):
    """Names of the parameter sets that hold a task's encoder and head."""

    encoder: str
    head: str


def interleaved(names: Sequence[str], rounds: int) -> tuple[str, ...]:
    """Returns the schedule ABC ABC ..., `rounds` times."""
    return tuple(names) * rounds


def blocked(names: Sequence[str], rounds: int) -> tuple[str, ...]:
    """Returns the schedule AA.. BB.. CC.., as many turns each as `interleaved`."""
    return tuple(name for name in names for _ in range(rounds))


def by_name(tasks: Sequence[TaskModel]) -> dict[str, TaskModel]:
    """Returns the tasks under their names.

    Raises:
        InputError: without a task, for what is none, or for names that repeat.
    """
    for task in tasks:
        if not isinstance(task, TaskModel):
            raise InputError(f"tasks holds {task!r}; it must be a TaskModel(...)")
    named = {task.name: task for task in tasks}
    if not tasks or len(named) != len(tasks):
        names = [task.name for task in tasks]
        raise InputError(f"tasks need distinct names, and at least one, got {names}")
    return named


def check_schedule(turns: tuple[str, ...], tasks: Collection[str]) -> None:
    """Raises `InputError` unless the schedule holds every task and no other name."""
    unknown, missing = set(turns) - set(tasks), set(tasks) - set(turns)
    if unknown or missing:
        raise InputError(
            f"schedule={turns} must hold every task and no other; the tasks are "
            f"{tuple(tasks)}"
        )


def losses_of(
    task: TaskModel,
    encoder: PyTree,
    head: PyTree,
    supporting: ParamSets,
    model_state: ModelState,
    batch: Batch,
    key: Key,
) -> tuple[Array, ModelState]:
    """Returns what `task.losses` returns, once it is seen to be what it should be.

    Raises:
        InputError: if it is not a loss for each example and a dict of model states.
    """
    name = f"TaskModel({task.name!r}).losses"
    output = task.losses(encoder, head, supporting, model_state, batch, key)
    losses, new_state = with_state(name, output)
    return per_example(name, losses, batch), new_state


def task_means(
    tasks: Mapping[str, TaskModel],
    streams: Mapping[str, str],
    sets: Mapping[str, TaskSets],
    values: ParamSets,
    supporting: ParamSets,
    model_state: ModelState,
    batch: Batch,
    key: Key,
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Returns each task's mean loss as `loss_NAME`, and the model states that changed.

    Args:
        tasks: by name.
        streams: per task, which it is judged on.
        sets: per task, where its weights are found.
        values: the sets.
        supporting: A.
        model_state: all model states; a task sees what those before have changed.
        batch: by stream.
        key: folded with the task's place.
    """
    means: dict[str, Array] = {}
    changed: dict[str, PyTree] = {}
    for i, (name, task) in enumerate(tasks.items()):
        losses, new_state = losses_of(
            task,
            values[sets[name].encoder],
            values[sets[name].head],
            supporting,
            {**model_state, **changed},
            batch[streams[name]],
            jax.random.fold_in(key, i),
        )
        means[f"loss_{name}"] = jnp.mean(losses)
        changed |= new_state
    return means, changed


def sum_of_losses(
    tasks: Mapping[str, TaskModel],
    sets: Mapping[str, TaskSets],
    supporting: Mapping[str, Optimizer],
) -> Validation:
    """Returns the validation stage `min_A sum_k L_k(A, W_k*(A), H_k*(A); D_k^val)`.

    Args:
        tasks: by name.
        sets: per task, where its weights are found.
        supporting: A, with optimisers.
    """

    def validation_losses(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        means, _ = task_means(
            tasks, streams, sets, reads, moves, model_state, batch, key
        )
        return sum(means.values(), jnp.zeros(())), Aux(means)

    streams = {name: task.val for name, task in tasks.items()}
    reads = dict.fromkeys(name for task in tasks for name in sets[task])
    return Validation(
        validation_losses,
        reads=tuple(reads),
        data=tuple(streams.values()),
        minimize=supporting,
    )


def task_card(
    task: TaskModel, turns: Sequence[TaskSets], supporting: Mapping[str, Optimizer]
) -> Learner:
    """Returns the task's entry in a program's printout.

    Args:
        task: the task.
        turns: the sets of each of its turns.
        supporting: A.
    """
    sets = dict.fromkeys(name for turn in turns for name in turn)
    return Learner(
        task.name,
        sets=(*sets, *supporting),
        data=(task.train, task.val),
        task=task.description,
    )
