"""Floor 3: exam after exam: harder once passed, repeated once failed."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from skillearn_jax.errors import InputError
from skillearn_jax.framework import State
from skillearn_jax.tracing import is_traced
from skillearn_jax.types import Array, Metrics

CURRICULUM = "curriculum"
"""The model state that holds the `CurriculumState` of a program."""


class CurriculumState(NamedTuple):
    """How far the learner has come; scalars, so that nothing recompiles.

    Attributes:
        hardness: h, what the next exam is set to.
        error: the running error rate on exams; 1 before the first.
        capacity: kappa in [0, 1]; 1 as long as it is not measured.
        exams: how many were taken.
        passes: how many were passed.
        steady: for how many exams the running error has hardly changed.
    """

    hardness: Array
    error: Array
    capacity: Array
    exams: Array
    passes: Array
    steady: Array


@dataclass(frozen=True)
class Curriculum:
    """A sequence of exams that follows the learner's error rate.

    After an exam with error rate e_t,

        ebar_t  = beta ebar_{t-1} + (1 - beta) e_t
        h_{t+1} = min(h_t + step, h_max)   if ebar_t < R      (passed: a harder exam)
                  max(h_t - ease, 0)       otherwise          (failed: learn and retake)

    and it is over once |ebar_t - ebar_{t-1}| < tolerance for `patience` exams in a row. An
    exam of hardness h weighs the examples by f^h (`exams.harden`); the error rate is
    that on the discrete exam, the share 1 / (1 + h) of the bank with the top scores.

    With `capacity_aware`, the exam is set to kappa h in place of h. The capacity kappa is
    the learner's accuracy on the bank in units of the tester's, a running mean of

        min(1, (1 - e_learner) / (1 - e_tester)),

    so a learner that cannot know what the tester knows gets an exam nearer to the plain
    bank. As far as large scores go with large losses, its exam is strictly easier. A
    curriculum is data for the losses: no gradient flows through h or kappa.

    Attributes:
        threshold: R, below which an exam is passed.
        step: what a pass adds to the hardness.
        ease: what a failure takes from it; at 0 the same exam is taken again.
        start: the first hardness; 1 is the exam of the paper.
        max_hardness: h_max.
        decay: beta, of both running means.
        tolerance: of the change of the running error, for the end.
        patience: how many such exams in a row end the sequence.
        capacity_aware: set exams by kappa h.
    """

    threshold: float = 0.3
    step: float = 0.05
    ease: float = 0.0
    start: float = 1.0
    max_hardness: float = 4.0
    decay: float = 0.9
    tolerance: float = 1e-3
    patience: int = 50
    capacity_aware: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", 0, 1),
            ("step", 0, math.inf),
            ("ease", 0, math.inf),
            ("max_hardness", 0, 64),
            ("start", 0, self.max_hardness),
            ("decay", 0, 1),
            ("tolerance", 0, math.inf),
            ("patience", 1, math.inf),
        ):
            value = getattr(self, name)
            known = not (is_traced(value) or is_traced(high))
            if known and not low <= float(value) <= float(high):
                raise InputError(f"{name}={value}; it must lie in [{low}, {high}]")
        if not is_traced(self.decay) and self.decay == 1:
            raise InputError(
                "decay=1 leaves the running error where it begins, whatever the exams; it "
                "must be below 1"
            )

    def init(self) -> CurriculumState:
        """Returns the state before the first exam."""
        real = jnp.result_type(float)
        hardness, one, none = (
            jnp.array(self.start, real),
            jnp.ones((), real),
            jnp.zeros((), jnp.int32),
        )
        return CurriculumState(hardness, one, one, none, none, none)

    def update(self, state: CurriculumState, error: Array) -> CurriculumState:
        """Returns the state after one exam.

        Args:
            state: before it.
            error: `[]` the error rate in the exam.
        """
        running = self._running(state.error, error)
        passed = running < self.threshold
        hardness = state.hardness + jnp.where(passed, self.step, -self.ease)
        still = jnp.abs(running - state.error) < self.tolerance
        return state._replace(
            hardness=jnp.clip(hardness, 0, self.max_hardness),
            error=running,
            exams=state.exams + 1,
            passes=state.passes + passed,
            # What is over stays over: a run looks at it once an epoch.
            steady=jnp.where(still | self.finished(state), state.steady + 1, 0),
        )

    def measure_capacity(
        self, state: CurriculumState, learner_error: Array, tester_error: Array
    ) -> CurriculumState:
        """Returns the state with the capacity measured once more, on one bank batch.

        Args:
            state: before.
            learner_error: `[]` error rate of the learner on the bank.
            tester_error: `[]` of the tester, on the same examples.
        """
        known, taught = 1 - learner_error, 1 - tester_error
        # A tester that knows nothing is no measure: whoever equals it has capacity 1.
        ratio = jnp.where(known >= taught, 1, known / jnp.where(taught > 0, taught, 1))
        return state._replace(capacity=self._running(state.capacity, ratio))

    def exam_hardness(self, state: CurriculumState) -> Array:
        """Returns what the next exam is set to: h, or kappa h."""
        if self.capacity_aware:
            return state.capacity * state.hardness
        return state.hardness

    def exam_share(self, state: CurriculumState) -> Array:
        """Returns the share of the bank in the next discrete exam, 1 / (1 + h)."""
        return 1 / (1 + self.exam_hardness(state))

    def finished(self, state: CurriculumState) -> Array:
        """Returns, `[] bool`, whether the running error has come to rest."""
        return state.steady >= self.patience

    def note_exam(self, state: State, metrics: Metrics) -> tuple[State, Metrics]:
        """Returns what a step ends in, with the exam that it held on the books.

        `learning_by_passing_tests(..., curriculum=)` makes it the program's `after`.

        Args:
            state: after a step, begun with `model_state={"curriculum": self.init()}`.
            metrics: of that step. Added are `curriculum/hardness` (of the exam that comes
                next), `curriculum/error`, `curriculum/capacity`, `curriculum/passes` and
                `curriculum/passed` (1 or 0).
        """
        before = state.model_state[CURRICULUM]
        after = self.update(before, metrics["validation/exam_error"])
        if self.capacity_aware:
            after = self.measure_capacity(
                after,
                metrics["validation/bank_error"],
                metrics["validation/tester_bank_error"],
            )
        noted = {
            "curriculum/hardness": self.exam_hardness(after),
            "curriculum/error": after.error,
            "curriculum/capacity": after.capacity,
            "curriculum/passes": after.passes,
            "curriculum/passed": after.passes - before.passes,
        }
        model_state = {**state.model_state, CURRICULUM: after}
        return state._replace(model_state=model_state), {**metrics, **noted}

    def _running(self, mean: Array, value: Array) -> Array:
        return (self.decay * mean + (1 - self.decay) * value).astype(mean.dtype)
