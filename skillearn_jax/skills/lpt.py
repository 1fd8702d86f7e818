"""Floor 3: learning by passing tests: a tester makes exams, a learner passes them."""

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux, Learner, Program, Stage, Validation
from skillearn_jax.hypergrad import Adjoint, Exact
from skillearn_jax.skills.baseline import learn, learner_card
from skillearn_jax.skills.models import Batch, LearnerModel, ModelState, TesterModel
from skillearn_jax.tree import sum_over_devices
from skillearn_jax.types import Array, Key, ParamSets

_EXACT = Exact()


def learning_by_passing_tests(
    learner: LearnerModel,
    tester: TesterModel,
    *,
    interaction_weight: float = 1.0,
    tester_weight: float = 1.0,
    adjoint: Adjoint = _EXACT,
    tester_adjoint: Adjoint = _EXACT,
    tester_train: str = "train",
    axis_name: str | None = None,
) -> Program:
    """Returns the three-level program of learning by passing tests.

    With the learner's weights W and supporting sets A (an architecture, say), the
    tester's encoder E, executor X and creator C, the exam `sigma` that selects example d
    of the bank D_b with probability f(d; C, E), and per-example losses l:

        stage 1     W*(A)        = argmin_W L(A, W; D_tr)
        stage 2     E*(C), X*(C) = argmin_{E,X} L(E, X; D_tt)
                                   + gamma * mean_{d in D_b} f(d; C, E) l(E, X, d)
        validation  max_C min_A  sum_{d in D_b} f l(A, W*, d) / sum_{d in D_b} f
                                 - lambda * L(E*, X*; D_val),       f = f(d; C, E*)

    The division by the exam's size keeps C from making an exam hard by making it long;
    the tester's own validation loss keeps exams meaningful.

    Args:
        learner: the testee.
        tester: the maker of exams.
        interaction_weight: gamma, on the scale of a mean over the bank batch.
        tester_weight: lambda.
        adjoint: of the learner's stage.
        tester_adjoint: of the tester's stage. With `FirstOrder()` C has no path through
            E* and X*, so gamma and lambda do not act on it.
        tester_train: the stream that the tester trains on; by default the learner's own
            mini-batch, as in the authors' code.
        axis_name: the device axis, see `Program`. The exam loss is one ratio over the
            whole batch: numerator and denominator are summed over devices.

    Returns:
        A program on the streams `train` (and `tester_train`), `bank` and `val`, with the
        sets `weights`, `encoder`, `executor`, `creator` and the learner's supporting
        sets. Validation metrics: `exam_loss` (normalised), `bank_loss` (the learner's
        plain mean loss on the same batch: an exam is difficult if its loss is larger),
        `exam_size` (mean of f), `tester_loss` and `tester_accuracy` on D_val.

    References:
        Du, Zhang, Xie 2020, learning by passing tests, arXiv 2011.15102.
    """
    for name, weight in (
        ("interaction_weight", interaction_weight),
        ("tester_weight", tester_weight),
    ):
        if weight < 0:
            raise InputError(f"{name}={weight}; it must not be negative")

    def tester_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        del reads
        data = batch[tester_train]
        features, new_state = tester.encode(moves["encoder"], model_state, data, key)
        losses = tester.losses(moves["executor"], features, data)
        return jnp.mean(losses), Aux(model_state=new_state)

    def exam_training_loss(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        bank = batch["bank"]
        features, new_state = tester.encode(moves["encoder"], model_state, bank, key)
        scores = tester.scores(reads["creator"], features)
        losses = tester.losses(moves["executor"], features, bank)
        return jnp.mean(scores * losses), Aux(model_state=new_state)

    def exam(
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        bank, val = batch["bank"], batch["val"]
        bank_key, learner_key, val_key = jax.random.split(key, 3)
        encoder, executor = reads["encoder"], reads["executor"]

        features, _ = tester.encode(encoder, model_state, bank, bank_key)
        scores = tester.scores(moves["creator"], features)
        supporting = {name: moves[name] for name in learner.supporting}
        losses = learner.example_losses(
            reads["weights"], supporting, model_state, bank, learner_key
        )
        exam_loss = normalized_exam_loss(losses, scores, axis_name)

        features, _ = tester.encode(encoder, model_state, val, val_key)
        own_loss = jnp.mean(tester.losses(executor, features, val))
        metrics = {
            "exam_loss": exam_loss,
            "bank_loss": jnp.mean(losses),
            "exam_size": jnp.mean(scores),
            "tester_loss": own_loss,
            "tester_accuracy": jnp.mean(tester.accuracies(executor, features, val)),
        }
        return exam_loss - tester_weight * own_loss, Aux(metrics)

    study = Stage(
        "tester",
        moves=("encoder", "executor"),
        loss_fn=tester_loss,
        data=(tester_train,),
        interaction=exam_training_loss,
        interaction_reads=("creator",),
        interaction_data=("bank",),
        interaction_weight=interaction_weight,
        optimizer={name: tester.optimizers[name] for name in ("encoder", "executor")},
        adjoint=tester_adjoint,
    )
    return Program(
        stages=(learn(learner, adjoint), study),
        validation=Validation(
            exam,
            reads=("weights", "encoder", "executor"),
            data=("bank", "val"),
            minimize=learner.supporting,
            maximize={"creator": tester.optimizers["creator"]},
        ),
        learners=(
            learner_card(learner, data=("train", "bank")),
            Learner(
                "tester",
                sets=("encoder", "executor", "creator"),
                data=(tester_train, "bank", "val"),
                task=tester.task,
            ),
        ),
        axis_name=axis_name,
    )


def normalized_exam_loss(
    losses: Array, scores: Array, axis_name: str | None = None
) -> Array:
    """Returns the loss of an exam per selected example, `sum(f l) / sum(f)`.

    Args:
        losses: `[B]` the learner's loss on each example of the bank.
        scores: `[B]` selection probabilities f in (0, 1).
        axis_name: the device axis that the batch is split over, if it is.

    Returns:
        `[]`; zero for an exam of size zero.
    """
    total, size = sum_over_devices(
        (jnp.sum(scores * losses), jnp.sum(scores)), axis_name
    )
    # Scores that all underflow make an empty exam: a loss and a gradient of zero.
    empty = size == 0
    return jnp.where(empty, 0, total / jnp.where(empty, 1, size))
