"""Learning skills: each function assembles a `Program` from models given as functions."""

from skillearn_jax.skills.baseline import baseline
from skillearn_jax.skills.curriculum import (
    Curriculum,
    CurriculumState,
)
from skillearn_jax.skills.exams import normalized_exam_loss
from skillearn_jax.skills.interleaving import interleaving_learning
from skillearn_jax.skills.joint import joint_learning, sequential_fine_tuning
from skillearn_jax.skills.lpt import LPT_VARIANTS, learning_by_passing_tests
from skillearn_jax.skills.models import LearnerModel, TaskModel, TesterModel
from skillearn_jax.skills.retention import Retention, last_turns, retention
from skillearn_jax.skills.tasks import blocked, interleaved

__all__ = [
    "LPT_VARIANTS",
    "Curriculum",
    "CurriculumState",
    "LearnerModel",
    "Retention",
    "TaskModel",
    "TesterModel",
    "baseline",
    "blocked",
    "interleaved",
    "interleaving_learning",
    "joint_learning",
    "last_turns",
    "learning_by_passing_tests",
    "normalized_exam_loss",
    "retention",
    "sequential_fine_tuning",
]
