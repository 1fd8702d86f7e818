"""Floor 3: no skill: plain differentiable search on a validation set."""

import jax.numpy as jnp

from skillearn_jax.framework import Learner, Program, Stage, Validation
from skillearn_jax.hypergrad import Adjoint, Exact
from skillearn_jax.skills.checks import per_example
from skillearn_jax.skills.models import Batch, LearnerModel, ModelState
from skillearn_jax.types import Array, Key, ParamSets


def baseline(
    learner: LearnerModel, *, adjoint: Adjoint = Exact(), axis_name: str | None = None
) -> Program:
    """Returns the two-level program that every skill is compared with.

        min_A L(A, W*(A); D_val)    with    W*(A) = argmin_W L(A, W; D_tr)

    With an architecture for `A` this is DARTS: second order with `Exact()`, first order
    with `FirstOrder()`.

    Args:
        learner: the model; its supporting sets are `A`.
        adjoint: of the training stage.
        axis_name: the device axis, see `Program`.

    Returns:
        A program on the streams `train` and `val`, with the sets `weights` and the
        learner's supporting sets.

    References:
        Liu, Simonyan, Yang 2018, DARTS, equations 3 to 6, arXiv 1806.09055.
    """

    def validation_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> Array:
        losses = learner.example_losses(
            reads["weights"], moves, model_state, batch["val"], key
        )
        return jnp.mean(
            per_example("LearnerModel.example_losses", losses, batch["val"])
        )

    return Program(
        stages=(learn(learner, adjoint),),
        validation=Validation(
            validation_loss,
            reads=("weights",),
            data=("val",),
            minimize=learner.supporting,
        ),
        learners=(learner_card(learner, data=("train", "val")),),
        axis_name=axis_name,
    )


def learn(learner: LearnerModel, adjoint: Adjoint) -> Stage:
    """Returns the training stage of a learner: `W* = argmin_W L(A, W; D_tr)`."""
    return Stage(
        "learner",
        moves=("weights",),
        reads=tuple(learner.supporting),
        loss_fn=learner.train_loss,
        data=("train",),
        optimizer=learner.optimizer,
        adjoint=adjoint,
    )


def learner_card(learner: LearnerModel, data: tuple[str, ...]) -> Learner:
    """Returns the learner's entry in a program's printout."""
    sets = ("weights", *learner.supporting)
    return Learner("learner", sets=sets, data=data, task=learner.task)
