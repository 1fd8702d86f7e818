"""Floor 3: the loss functions of learning by passing tests, with their options."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.framework import Aux
from skillearn_jax.skills.checks import is_left_out, per_example, with_state
from skillearn_jax.skills.curriculum import CURRICULUM, Curriculum
from skillearn_jax.skills.exams import harden, hold, normalized_exam_loss
from skillearn_jax.skills.models import Batch, LearnerModel, ModelState, TesterModel
from skillearn_jax.tree import gather_over_devices
from skillearn_jax.types import Array, Key, ParamSets, PyTree

ExamLoss = Literal["normalized", "mean"]
ExamScores = Literal["live", "fixed", "normalized"]


@dataclass(frozen=True)
class ExamLosses:
    """The losses of both stages and the objective, all in the framework's signature.

    Attributes:
        learner: the testee.
        tester: the maker of exams.
        interaction_weight: gamma; only `weighed_exam_training_loss` reads it here.
        tester_weight: lambda; at 0 the tester's own loss is left out.
        tester_train: the stream that the tester trains on.
        tester_bank: the stream of the exams that it trains on.
        exam_loss: of the objective; see `learning_by_passing_tests`, as for the rest.
        exam_scores: of the tester's training.
        stale_reads: one supporting set each sees the old value of what is not its own.
        tester_trains: whether E is moved by a stage; if not, by the validation stage.
        curriculum: what hardens the exams.
        axis_name: the device axis.
    """

    learner: LearnerModel
    tester: TesterModel
    interaction_weight: float | Array
    tester_weight: float | Array
    tester_train: str
    tester_bank: str
    exam_loss: ExamLoss
    exam_scores: ExamScores
    stale_reads: bool
    tester_trains: bool
    curriculum: Curriculum | None
    axis_name: str | None

    @property
    def judges_tester(self) -> bool:
        """Whether the tester's own validation loss is part of the objective."""
        return self.tester_trains and not is_left_out(self.tester_weight)

    def tester_loss(
        self,
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        """Returns L(E, X; D_tt)."""
        del reads
        data = batch[self.tester_train]
        features, new_state = self._encode(moves["encoder"], model_state, data, key)
        losses = self._tester_losses(moves["executor"], features, data)
        return jnp.mean(losses), Aux(model_state=new_state)

    def exam_training_loss(
        self,
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        """Returns L(E, X, sigma(C, E, D_b)), on the scale of a mean over the bank."""
        bank = batch[self.tester_bank]
        features, new_state = self._encode(moves["encoder"], model_state, bank, key)
        losses = self._tester_losses(moves["executor"], features, bank)
        if self.exam_scores == "fixed":
            features = jax.lax.stop_gradient(features)
        scores = self._scores(reads["creator"], features, bank)
        hardness, aux = self._hardness(model_state), Aux(model_state=new_state)
        if self.exam_scores == "normalized":
            return self._normalized(losses, scores, hardness), aux
        return jnp.mean(_hardened(scores, hardness) * losses), aux

    def weighed_exam_training_loss(
        self,
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        """Returns gamma L(E, X, sigma(C, E, D_b)): all that an exam-only tester has."""
        loss, aux = self.exam_training_loss(moves, reads, model_state, batch, key)
        return self.interaction_weight * loss, aux

    def exam(
        self,
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        batch: Batch,
        key: Key,
    ) -> tuple[Array, Aux]:
        """Returns the objective: the exam's loss less the tester's own."""
        bank = batch["bank"]
        bank_key, learner_key, val_key = jax.random.split(key, 3)
        encoder = (reads if self.tester_trains else moves)["encoder"]
        features, _ = self._encode(encoder, model_state, bank, bank_key)
        scores = self._scores(moves["creator"], features, bank)
        hardness = self._hardness(model_state)
        supporting = {name: moves[name] for name in self.learner.supporting}

        def losses_of(weights: PyTree) -> Array:
            losses = self.learner.example_losses(
                weights, supporting, model_state, bank, learner_key
            )
            return per_example("LearnerModel.example_losses", losses, bank)

        losses = losses_of(reads["weights"])
        if self.stale_reads:
            old_scores = scores
            if self.tester_trains:
                old, _ = self._encode(
                    reads["encoder_before"], model_state, bank, bank_key
                )
                old_scores = self._scores(moves["creator"], old, bank)
            old_scores = jax.lax.stop_gradient(old_scores)
            of_learner = self._reduce(losses, old_scores, hardness)
            old_losses = jax.lax.stop_gradient(losses_of(reads["weights_before"]))
            exam_loss = self._reduce(old_losses, scores, hardness)
            # Two functions, one gradient each: the value is that of the tester's.
            exam_loss += of_learner - jax.lax.stop_gradient(of_learner)
        else:
            exam_loss = self._reduce(losses, scores, hardness)
        metrics = {
            "exam_loss": exam_loss,
            "bank_loss": jnp.mean(losses),
            "exam_size": jnp.mean(_hardened(scores, hardness)),
        }
        if self.curriculum is not None:
            metrics |= self._held_exam(
                moves, reads, model_state, bank, features, scores, learner_key
            )
        if not self.judges_tester:
            return exam_loss, Aux(metrics)
        val, executor = batch["val"], reads["executor"]
        features, _ = self._encode(encoder, model_state, val, val_key)
        own_loss = jnp.mean(self._tester_losses(executor, features, val))
        accuracies = self._accuracies(executor, features, val)
        metrics |= {"tester_loss": own_loss, "tester_accuracy": jnp.mean(accuracies)}
        return exam_loss - self.tester_weight * own_loss, Aux(metrics)

    def _encode(
        self, encoder: PyTree, model_state: ModelState, batch: Batch, key: Key
    ) -> tuple[PyTree, ModelState]:
        output = self.tester.encode(encoder, model_state, batch, key)
        return with_state("TesterModel.encode", output)

    def _tester_losses(self, executor: PyTree, features: PyTree, batch: Batch) -> Array:
        losses = self.tester.losses(executor, features, batch)
        return per_example("TesterModel.losses", losses, batch)

    def _scores(self, creator: PyTree, features: PyTree, batch: Batch) -> Array:
        scores = self.tester.scores(creator, features)
        return per_example("TesterModel.scores", scores, batch)

    def _accuracies(self, executor: PyTree, features: PyTree, batch: Batch) -> Array:
        right = self.tester.accuracies(executor, features, batch)
        return per_example("TesterModel.accuracies", right, batch)

    def _reduce(self, losses: Array, scores: Array, hardness: Array | None) -> Array:
        if self.exam_loss == "mean":
            return jnp.mean(_hardened(scores, hardness) * losses)
        return self._normalized(losses, scores, hardness)

    def _normalized(
        self, losses: Array, scores: Array, hardness: Array | None
    ) -> Array:
        return normalized_exam_loss(losses, scores, self.axis_name, hardness)

    def _hardness(self, model_state: ModelState) -> Array | None:
        """Returns h of the exams, or None if they are not hardened."""
        if self.curriculum is None:
            return None
        if CURRICULUM not in model_state:
            raise InputError(
                "exams that grow harder need model_state={'curriculum': "
                f"curriculum.init()}} in init; given are {sorted(model_state)}"
            )
        ledger = jax.lax.stop_gradient(model_state[CURRICULUM])
        return self.curriculum.exam_hardness(ledger)

    def _held_exam(
        self,
        moves: ParamSets,
        reads: ParamSets,
        model_state: ModelState,
        bank: Batch,
        features: PyTree,
        scores: Array,
        learner_key: Key,
    ) -> dict[str, Array]:
        """Returns the error rates of the discrete exam, of which there is no gradient."""
        assert self.curriculum is not None
        assert self.learner.example_errors is not None
        ledger = model_state[CURRICULUM]
        supporting = {name: moves[name] for name in self.learner.supporting}
        errors = self.learner.example_errors(
            reads["weights"], supporting, model_state, bank, learner_key
        )
        errors = per_example("LearnerModel.example_errors", errors, bank)
        all_errors, all_scores = (
            gather_over_devices(part, self.axis_name) for part in (errors, scores)
        )
        held = hold(all_scores, self.curriculum.exam_share(ledger))
        rates = {
            "exam_error": jnp.sum(held * all_errors) / jnp.sum(held),
            "bank_error": jnp.mean(errors),
            "exam_hardness": self.curriculum.exam_hardness(ledger),
        }
        if self.curriculum.capacity_aware:
            right = self._accuracies(reads["executor"], features, bank)
            rates["tester_bank_error"] = 1 - jnp.mean(right)
        return jax.lax.stop_gradient(rates)


def _hardened(scores: Array, hardness: Array | None) -> Array:
    return scores if hardness is None else harden(scores, hardness)
