"""Learning skills: each function assembles a `Program` from models given as functions."""

from skillearn_jax.skills.baseline import baseline
from skillearn_jax.skills.interleaving import (
    blocked,
    interleaved,
    interleaving_learning,
    joint_learning,
)
from skillearn_jax.skills.lpt import learning_by_passing_tests, normalized_exam_loss
from skillearn_jax.skills.models import LearnerModel, TaskModel, TesterModel

__all__ = [
    "LearnerModel",
    "TaskModel",
    "TesterModel",
    "baseline",
    "blocked",
    "interleaved",
    "interleaving_learning",
    "joint_learning",
    "learning_by_passing_tests",
    "normalized_exam_loss",
]
