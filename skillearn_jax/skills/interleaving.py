"""Floor 3: interleaving learning: tasks take turns, an encoder is handed on."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax.numpy as jnp
import optax

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.framework import Aux, Program, Stage
from skillearn_jax.framework.objective import check_names
from skillearn_jax.framework.stage import Optimizer
from skillearn_jax.hypergrad import Adjoint, Exact
from skillearn_jax.hypergrad.refusals import check_number
from skillearn_jax.skills.checks import is_left_out
from skillearn_jax.skills.models import Batch, ModelState, TaskModel
from skillearn_jax.skills.tasks import (
    TaskSets,
    by_name,
    check_schedule,
    interleaved,
    losses_of,
    sum_of_losses,
    task_card,
)
from skillearn_jax.tracing import is_traced
from skillearn_jax.types import Array, Key, LossFn, ParamSets

Transfer = Literal["proximal", "copy"]
Coupling = Literal["full", "stop_gradient"]
Weights = Literal["copies", "per_task", "shared"]
TurnOptimizer: TypeAlias = Optimizer | Mapping[str, Optimizer]


def interleaving_learning(
    tasks: Sequence[TaskModel],
    *,
    supporting: Mapping[str, Optimizer],
    optimizer: TurnOptimizer,
    schedule: Sequence[str] | None = None,
    interaction_weight: float | Array = 1.0,
    transfer: Transfer = "proximal",
    coupling: Coupling = "full",
    weights: Weights = "copies",
    step_size: float | Array | None = None,
    proximal_step: bool = False,
    adjoint: Adjoint = Exact(),
    axis_name: str | None = None,
) -> Program:
    """Returns the program in which tasks take turns: one training stage per turn.

    Turn l of the schedule is a turn of task k with encoder weights W_l and head H_l:

        W_1*(A), H_1* = argmin_{W,H} L_k(A, W, H; D_k^tr)
        W_l*(A), H_l* = argmin_{W,H} L_k(A, W, H; D_k^tr) + lambda ||W - W_{l-1}*(A)||^2
        validation      min_A  sum_k L_k(A, W_k*(A), H_k*(A); D_k^val)

    where W_k*, H_k* are those of the last turn of task k: heads of earlier turns are
    discarded, and heads are never coupled. Going back over the turns, the adjoint of W_l
    is `v_l = grad_{W_l'} L_k^val + 2 xi lambda v_{l+1}` for plain SGD of step xi, the
    first term at the last turn of a task only.

    Args:
        tasks: at least one, with distinct names.
        supporting: the sets A that all tasks read, with their optimisers.
        optimizer: of encoder and head together (a clip takes the norm of both), or one
            for each: `{"encoder": ..., "head": ...}`. Every turn keeps a state of its own.
        schedule: task names, turn by turn: any order and length that holds every task;
            by default two rounds, `interleaved(names, 2)`. See also `blocked`.
        interaction_weight: lambda. At 0 there is no interaction in the program. It may be
            traced, as xi may: `jax.vmap` then sweeps over many. Traced numbers are not
            checked, and a traced 0 keeps the interaction, times 0.
        transfer: how an encoder is handed on. `"proximal"`: as above. `"copy"`: every turn
            starts from the encoder that the turn before left, and the first from that of
            the last turn, one program step ago. There the interaction is zero with its
            gradient at the point where the step is taken, so it is left out and lambda
            plays no part. Gradient follows the hand-over. The released code copies in
            its real steps, and looks ahead with `"proximal"`, `coupling="stop_gradient"`
            from weights per task: one program does one or the other.
        coupling: `"full"` differentiates the interaction through W_{l-1}*;
            `"stop_gradient"` holds it fixed, as the authors' derivation does.
        weights: what is stored. `"copies"`: a set for every turn, `encoder_l` and
            `head_l`: L encoders, L heads and as many optimiser states. `"per_task"`: a
            set for every task, `encoder_NAME` and `head_NAME`, moved on at each turn of
            the task: K of each, as the released code has them; a turn that follows one
            of the same task has nothing to be pulled to. `"shared"`: one `encoder` and
            K heads, `head_NAME`, for `transfer="copy"` only; all tasks are then validated
            on the encoder that the last turn left. There is an optimiser state per turn
            in all three. With `"per_task"` and `"shared"` the turns also chain through
            the starting points, and gradient follows.
        step_size: xi of a plain SGD step, where it is known: lambda is then refused if
            the step would overshoot. Of a schedule, the largest value.
        proximal_step: solve the interaction exactly instead of descending it, stable for
            any lambda; see `step_size`, which it needs. With plain SGD

                W~ = W - xi grad L,
                W' = argmin_V lambda ||V - W_{l-1}'||^2 + ||V - W~||^2 / (2 xi)
                   = (W~ + 2 xi lambda W_{l-1}') / (1 + 2 xi lambda)
                   = W - xi (grad L + 2 lambda (W - W_{l-1}')) / (1 + 2 xi lambda),

            a step along the ordinary gradient, scaled. It is taken in this last form, by
            scaling the encoder's gradient before the optimiser: with momentum, Adam, a
            clip or decay the scaled gradient enters those, which is then no longer the
            proximal map, but its pull xi 2 lambda / (1 + 2 xi lambda) < 1 stays stable.
        adjoint: of every turn.
        axis_name: the device axis, see `Program`.

    Returns:
        A program on the streams `train_NAME` and `val_NAME` of every task, with stages
        `turn_1_NAME`, `turn_2_NAME` and so on. Validation metrics: `loss_NAME`.

    Raises:
        InputError: for a schedule that does not fit the tasks, a negative weight, a
            plain step with `2 xi lambda > 1`, options that contradict each other.

    Cost: a look-ahead, a product and a real step per turn, whatever is stored.

    References:
        Xie, Du, Ban 2020, Skillearn, arXiv 2012.04863; Ban, Xie 2021, interleaving
        learning, arXiv 2103.07018.
    """
    named = by_name(tasks)
    if schedule is None:
        schedule = interleaved(tuple(named), 2)
    check_names("schedule", schedule)
    turns = tuple(schedule)
    check_schedule(turns, named)
    check_turns(
        interaction_weight=interaction_weight,
        transfer=transfer,
        coupling=coupling,
        weights=weights,
        step_size=step_size,
        proximal_step=proximal_step,
    )
    damping = None
    if proximal_step:
        assert step_size is not None  # `check_turns`
        damping = 1 + 2 * step_size * interaction_weight
    weighs = not is_left_out(interaction_weight)
    sets = [_turn_sets(i, turn, weights) for i, turn in enumerate(turns, start=1)]
    stages = []
    for i, (turn, own) in enumerate(zip(turns, sets, strict=True)):
        before = sets[i - 1]  # of the first turn: the last, one program step ago
        apart = before.encoder != own.encoder
        pulled = transfer == "proximal" and i > 0 and apart and weighs
        pull = _pull(own, before, interaction_weight, coupling) if pulled else {}
        stages.append(
            Stage(
                f"turn_{i + 1}_{turn}",
                moves=tuple(own),
                reads=tuple(supporting),
                loss_fn=_train_loss(named[turn], own),
                data=(named[turn].train,),
                optimizer=_optimizer(optimizer, own, damping if pulled else None),
                adjoint=adjoint,
                start={own.encoder: before.encoder}
                if transfer == "copy" and apart
                else {},
                **pull,
            )
        )
    return Program(
        stages=tuple(stages),
        validation=sum_of_losses(
            named, dict(zip(turns, sets, strict=True)), supporting
        ),
        learners=tuple(
            task_card(
                task,
                [own for t, own in zip(turns, sets, strict=True) if t == task.name],
                supporting,
            )
            for task in named.values()
        ),
        axis_name=axis_name,
    )


def check_turns(
    *,
    interaction_weight: float | Array,
    transfer: str,
    coupling: str,
    weights: str,
    step_size: float | Array | None,
    proximal_step: bool,
) -> None:
    """Raises `InputError` for options of `interleaving_learning` that disagree."""
    check_choice("transfer", transfer, get_args(Transfer))
    check_choice("coupling", coupling, get_args(Coupling))
    check_choice("weights", weights, get_args(Weights))
    check_number("interaction_weight", interaction_weight, positive=False)
    if step_size is not None:
        check_number("step_size", step_size)
    elif proximal_step:
        raise InputError("proximal_step=True needs step_size=, the xi of its step")
    if transfer == "copy":
        if coupling == "stop_gradient":
            raise InputError(
                "coupling='stop_gradient' holds an interaction fixed, and transfer='copy' "
                "has none: set coupling='full', or transfer='proximal'"
            )
        if proximal_step:
            raise InputError(
                "proximal_step=True solves an interaction, and transfer='copy' has none: "
                "set proximal_step=False, or transfer='proximal'"
            )
        return
    if weights == "shared":
        raise InputError(
            "weights='shared' leaves transfer='proximal' nothing to pull to: one encoder "
            "is its own predecessor; set transfer='copy', or weights='per_task'"
        )
    traced = is_traced(interaction_weight) or is_traced(step_size)
    if step_size is None or proximal_step or traced:
        return
    pull = 2 * float(step_size) * float(interaction_weight)
    if pull > 1:
        raise InputError(
            f"interaction_weight={float(interaction_weight):g} with "
            f"step_size={float(step_size):g}: 2 xi lambda is {pull:g}, and above 1 a "
            "plain step overshoots the encoder that it is pulled to: lower one of "
            "them, or set proximal_step=True"
        )


def _turn_sets(turn: int, task: str, weights: Weights) -> TaskSets:
    if weights == "copies":
        return TaskSets(f"encoder_{turn}", f"head_{turn}")
    encoder = "encoder" if weights == "shared" else f"encoder_{task}"
    return TaskSets(encoder, f"head_{task}")


def _pull(
    sets: TaskSets, before: TaskSets, weight: float | Array, coupling: Coupling
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
        apart = optax.tree.sub(moves[sets.encoder], reads[before.encoder])
        return optax.tree.norm(apart, squared=True)

    return {
        "interaction": distance,
        "interaction_reads": (before.encoder,),
        "interaction_weight": weight,
        "detached": (before.encoder,) if coupling == "stop_gradient" else (),
    }


def _train_loss(task: TaskModel, sets: TaskSets) -> LossFn:
    def task_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        losses, new_state = losses_of(
            task,
            moves[sets.encoder],
            moves[sets.head],
            reads,
            model_state,
            batch[task.train],
            key,
        )
        return jnp.mean(losses), Aux(model_state=new_state)

    return task_loss


def _optimizer(
    optimizer: TurnOptimizer, sets: TaskSets, damping: float | Array | None
) -> TurnOptimizer:
    """Returns a turn's optimiser; heads are not coupled, so theirs is not damped."""
    if isinstance(optimizer, Mapping):
        if set(optimizer) != {"encoder", "head"}:
            raise InputError(
                f"optimizer= has the keys {sorted(optimizer)}; a mapping needs "
                "'encoder' and 'head'"
            )
        encoder, head = optimizer["encoder"], optimizer["head"]
        if damping is not None:
            encoder = optax.chain(optax.scale(1 / damping), encoder)
        return {sets.encoder: encoder, sets.head: head}
    if damping is None:
        return optimizer
    scales = {sets.encoder: optax.scale(1 / damping), sets.head: optax.identity()}
    return optax.chain(optax.partition(scales, {n: n for n in sets}), optimizer)
