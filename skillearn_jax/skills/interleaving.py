"""Floor 3: interleaving learning: tasks take turns, an encoder is handed on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Learner, Program, Stage, Validation
from skillearn_jax.framework.stage import Optimizer
from skillearn_jax.hypergrad import Adjoint, Exact
from skillearn_jax.skills.models import Batch, ModelState, TaskModel
from skillearn_jax.types import Array, Key, LossFn, ParamSets

_EXACT = Exact()

Transfer = Literal["proximal", "copy"]
Coupling = Literal["full", "stop_gradient"]


def interleaving_learning(
    tasks: Sequence[TaskModel],
    *,
    supporting: Mapping[str, Optimizer],
    optimizer: Optimizer,
    schedule: Sequence[str] = (),
    interaction_weight: float = 1.0,
    transfer: Transfer = "proximal",
    coupling: Coupling = "full",
    step_size: float | None = None,
    proximal_step: bool = False,
    adjoint: Adjoint = _EXACT,
    axis_name: str | None = None,
) -> Program:
    """Returns the program in which tasks take turns: one training stage per turn.

    Turn l of the schedule is a turn of task k with encoder weights W_l and head H_l:

        W_1*(A), H_1* = argmin_{W,H} L_k(A, W, H; D_k^tr)
        W_l*(A), H_l* = argmin_{W,H} L_k(A, W, H; D_k^tr) + lambda ||W - W_{l-1}*(A)||^2
        validation      min_A  sum_k L_k(A, W_k*(A), H_k*(A); D_k^val)

    where W_k*, H_k* are those of the last turn of task k: heads of earlier turns are
    discarded, and heads are never coupled. Going back over the turns, the adjoint of W_l
    is `v_l = grad_{W_l'} L_k^val + 2 xi lambda v_{l+1}` for plain SGD of step xi.

    Args:
        tasks: at least one, with distinct names.
        supporting: the sets A that all tasks read, with their optimisers.
        optimizer: of encoder and head; every turn keeps a state of its own.
        schedule: task names, turn by turn: any order and length that holds every task;
            by default two rounds, `interleaved(names, 2)`. See also `blocked`.
        interaction_weight: lambda.
        transfer: `"proximal"` as above: every turn stores an encoder and a head,
            `encoder_l` and `head_l`, so memory grows with the schedule. `"copy"` (the
            authors' code): every turn starts from the encoder that the turn before left;
            one set `encoder` and one head per task, `head_NAME`, are stored. There the
            interaction is zero with its gradient at the point where the step is taken,
            so lambda plays no part.
        coupling: `"full"` differentiates the interaction through W_{l-1}*;
            `"stop_gradient"` holds it fixed, as the authors' derivation does.
        step_size: xi of a plain SGD step, where it is known: lambda is then refused if
            the step would overshoot.
        proximal_step: solve the interaction exactly instead of descending it, stable for
            any lambda; see `step_size`, which it needs. With plain SGD

                W' = (W - xi grad L + 2 xi lambda W_{l-1}') / (1 + 2 xi lambda);

            with momentum, the same scaled gradient enters the momentum.
        adjoint: of every turn.
        axis_name: the device axis, see `Program`.

    Returns:
        A program on the streams `train_NAME` and `val_NAME` of every task. Validation
        metrics: `loss_NAME`.

    Raises:
        InputError: for a schedule that does not fit the tasks, a negative weight, and a
            plain step with `2 xi lambda > 1`.

    References:
        Xie, Du, Ban 2020, Skillearn, arXiv 2012.04863; Ban, Xie 2021, interleaving
        learning, arXiv 2103.07018.
    """
    by_name = _by_name(tasks)
    turns = tuple(schedule) or interleaved(tuple(by_name), 2)
    _check_schedule(turns, by_name)
    damping = _damping(interaction_weight, step_size, proximal_step)
    names = [_turn_sets(i, task, transfer) for i, task in enumerate(turns, start=1)]
    stages = tuple(
        Stage(
            f"turn_{i}_{turn}",
            moves=(sets.encoder, sets.head),
            reads=tuple(supporting),
            loss_fn=_train_loss(by_name[turn], sets, damping),
            data=(by_name[turn].train,),
            optimizer={
                sets.encoder: optimizer,
                # Heads are not coupled: their step is not damped.
                sets.head: optax.chain(optax.scale(damping), optimizer)
                if damping != 1
                else optimizer,
            },
            adjoint=adjoint,
            **_pull(sets, names[i - 2], interaction_weight / damping, coupling)
            if i > 1 and transfer == "proximal" and interaction_weight
            else {},
        )
        for i, (turn, sets) in enumerate(zip(turns, names, strict=True), start=1)
    )
    last = dict(zip(turns, names, strict=True))
    return Program(
        stages=stages,
        validation=_validation(by_name, last, supporting),
        learners=tuple(
            _card(
                task,
                [s for t, s in zip(turns, names, strict=True) if t == task.name],
                supporting,
            )
            for task in by_name.values()
        ),
        axis_name=axis_name,
    )


def joint_learning(
    tasks: Sequence[TaskModel],
    *,
    supporting: Mapping[str, Optimizer],
    optimizer: Optimizer,
    adjoint: Adjoint = _EXACT,
    axis_name: str | None = None,
) -> Program:
    """Returns the program that learns all tasks at once, which interleaving is compared to.

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
    by_name = _by_name(tasks)
    sets = {name: TurnSets("encoder", f"head_{name}") for name in by_name}

    def loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        total, states, metrics = jnp.zeros(()), dict(model_state), {}
        for i, (name, task) in enumerate(by_name.items()):
            losses, new_state = task.losses(
                moves["encoder"],
                moves[sets[name].head],
                reads,
                states,
                batch[task.train],
                jax.random.fold_in(key, i),
            )
            metrics[f"loss_{name}"] = jnp.mean(losses)
            total += metrics[f"loss_{name}"]
            states |= new_state
        return total, Aux(metrics, states)

    stage = Stage(
        "joint",
        moves=("encoder", *(s.head for s in sets.values())),
        reads=tuple(supporting),
        loss_fn=loss,
        data=tuple(task.train for task in by_name.values()),
        optimizer=optimizer,
        adjoint=adjoint,
    )
    return Program(
        stages=(stage,),
        validation=_validation(by_name, sets, supporting),
        axis_name=axis_name,
    )


def interleaved(names: Sequence[str], rounds: int) -> tuple[str, ...]:
    """Returns the schedule ABC ABC ..., `rounds` times."""
    return tuple(names) * rounds


def blocked(names: Sequence[str], rounds: int) -> tuple[str, ...]:
    """Returns the schedule AA.. BB.. CC.., as many turns each as `interleaved`."""
    return tuple(name for name in names for _ in range(rounds))


class TurnSets(NamedTuple):
    """Names of the parameter sets that a turn moves."""

    encoder: str
    head: str


def _turn_sets(turn: int, task: str, transfer: Transfer) -> TurnSets:
    if transfer == "copy":
        return TurnSets("encoder", f"head_{task}")
    return TurnSets(f"encoder_{turn}", f"head_{turn}")


def _pull(
    sets: TurnSets, before: TurnSets, weight: float, coupling: Coupling
) -> dict[str, Any]:
    """Returns what a stage needs for `lambda ||W - W_prev||^2`."""

    def distance(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> Array:
        del model_state, batch, key
        previous = reads[before.encoder]
        if coupling == "stop_gradient":
            previous = jax.lax.stop_gradient(previous)
        apart = optax.tree.sub(moves[sets.encoder], previous)
        return optax.tree.norm(apart, squared=True)

    return {
        "interaction": distance,
        "interaction_reads": (before.encoder,),
        "interaction_weight": weight,
    }


def _train_loss(task: TaskModel, sets: TurnSets, damping: float) -> LossFn:
    def loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        losses, new_state = task.losses(
            moves[sets.encoder],
            moves[sets.head],
            reads,
            model_state,
            batch[task.train],
            key,
        )
        return jnp.mean(losses) / damping, Aux(model_state=new_state)

    return loss


def _validation(
    tasks: Mapping[str, TaskModel],
    last: Mapping[str, TurnSets],
    supporting: Mapping[str, Optimizer],
) -> Validation:
    """Returns `min_A sum_k L_k` at the last weights of every task."""

    def objective(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        means = {}
        for i, (name, task) in enumerate(tasks.items()):
            losses, _ = task.losses(
                reads[last[name].encoder],
                reads[last[name].head],
                moves,
                model_state,
                batch[task.val],
                jax.random.fold_in(key, i),
            )
            means[f"loss_{name}"] = jnp.mean(losses)
        return sum(means.values(), jnp.zeros(())), Aux(means)

    reads = dict.fromkeys(name for name in tasks for name in last[name])
    return Validation(
        objective,
        reads=tuple(reads),
        data=tuple(task.val for task in tasks.values()),
        minimize=supporting,
    )


def _card(
    task: TaskModel, turns: Sequence[TurnSets], supporting: Mapping[str, Optimizer]
) -> Learner:
    sets = dict.fromkeys(name for turn in turns for name in turn)
    return Learner(
        task.name,
        sets=(*sets, *supporting),
        data=(task.train, task.val),
        task=task.description,
    )


def _by_name(tasks: Sequence[TaskModel]) -> dict[str, TaskModel]:
    by_name = {task.name: task for task in tasks}
    if not tasks or len(by_name) != len(tasks):
        names = [task.name for task in tasks]
        raise InputError(f"tasks need distinct names, and at least one, got {names}")
    return by_name


def _check_schedule(turns: tuple[str, ...], tasks: Mapping[str, TaskModel]) -> None:
    unknown, missing = set(turns) - set(tasks), set(tasks) - set(turns)
    if unknown or missing:
        raise InputError(
            f"schedule={turns} must hold every task and no other; the tasks are "
            f"{tuple(tasks)}"
        )


def _damping(weight: float, step_size: float | None, proximal: bool) -> float:
    """Returns what a proximal step divides by, `1 + 2 xi lambda`; 1 for a plain step."""
    if weight < 0:
        raise InputError(f"interaction_weight={weight}; it must not be negative")
    if proximal:
        if step_size is None:
            raise InputError("proximal_step=True needs step_size=, the xi of its step")
        return 1 + 2 * step_size * weight
    if step_size is not None and 2 * step_size * weight > 1:
        raise InputError(
            f"interaction_weight={weight:g} with step_size={step_size:g}: "
            f"2 xi lambda is {2 * step_size * weight:g}, and above 1 a plain step "
            "overshoots the encoder that it is pulled to: lower one of them, or set "
            "proximal_step=True"
        )
    return 1.0
