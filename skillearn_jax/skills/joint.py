"""Floor 3: what interleaving is compared with: all tasks at once, or one by one."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from skillearn_jax.framework import Aux, Program, Stage
from skillearn_jax.framework.stage import Optimizer
from skillearn_jax.hypergrad import Adjoint, Exact
from skillearn_jax.skills.interleaving import TurnOptimizer, interleaving_learning
from skillearn_jax.skills.models import Batch, ModelState, TaskModel
from skillearn_jax.skills.tasks import (
    TaskSets,
    blocked,
    by_name,
    sum_of_losses,
    task_means,
)
from skillearn_jax.types import Array, Key, ParamSets


def joint_learning(
    tasks: Sequence[TaskModel],
    *,
    supporting: Mapping[str, Optimizer],
    optimizer: Optimizer,
    adjoint: Adjoint = Exact(),
    axis_name: str | None = None,
) -> Program:
    """Returns the program that learns all tasks at once.

        W*(A), {H_k*(A)} = argmin  sum_k L_k(A, W, H_k; D_k^tr)
        validation         min_A   sum_k L_k(A, W*(A), H_k*(A); D_k^val)

    Args:
        tasks: at least one, with distinct names.
        supporting: the sets A, with their optimisers.
        optimizer: of encoder and heads together.
        adjoint: of the one training stage.
        axis_name: the device axis, see `Program`.

    Returns:
        A program with the sets `encoder`, `head_NAME` and the supporting ones, on the
        streams `train_NAME` and `val_NAME`.
    """
    named = by_name(tasks)
    sets = {name: TaskSets("encoder", f"head_{name}") for name in named}

    def sum_of_training_losses(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        means, changed = task_means(
            named, streams, sets, moves, reads, model_state, batch, key
        )
        return sum(means.values(), jnp.zeros(())), Aux(means, changed)

    streams = {name: task.train for name, task in named.items()}
    stage = Stage(
        "joint",
        moves=("encoder", *(s.head for s in sets.values())),
        reads=tuple(supporting),
        loss_fn=sum_of_training_losses,
        data=tuple(streams.values()),
        optimizer=optimizer,
        adjoint=adjoint,
    )
    return Program(
        stages=(stage,),
        validation=sum_of_losses(named, sets, supporting),
        axis_name=axis_name,
    )


def sequential_fine_tuning(
    tasks: Sequence[TaskModel],
    *,
    supporting: Mapping[str, Optimizer],
    optimizer: TurnOptimizer,
    turns: int = 1,
    adjoint: Adjoint = Exact(),
    axis_name: str | None = None,
) -> Program:
    """Returns the program that hands one encoder from task to task, without any pull.

        W_l' = Phi(W_{l-1}', grad L_k(A, W_{l-1}'; D_k^tr)),    lambda = 0

    in the order AA.. BB.. CC..: nothing but its starting point reminds a task of those
    before. It is `interleaving_learning` with `transfer="copy"`, `weights="shared"` and a
    blocked schedule; the validation stage judges all tasks on the encoder that the last
    one left.

    These are turns of one step of the program. To fine-tune for epochs instead, task
    after task, give each task a `Phase` of its own with the program of that one task.

    Args:
        tasks: in the order in which they are learned.
        supporting: the sets A, with their optimisers.
        optimizer: of encoder and head.
        turns: of each task, one after the other.
        adjoint: of every turn.
        axis_name: the device axis, see `Program`.

    Returns:
        A program with the sets `encoder`, `head_NAME` and the supporting ones, on the
        streams `train_NAME` and `val_NAME`.
    """
    return interleaving_learning(
        tasks,
        supporting=supporting,
        optimizer=optimizer,
        schedule=blocked(tuple(by_name(tasks)), turns),
        transfer="copy",
        weights="shared",
        adjoint=adjoint,
        axis_name=axis_name,
    )
