"""Learning skills: each function assembles a `Program` from models given as functions."""

from skillearn_jax.skills.baseline import baseline
from skillearn_jax.skills.lpt import learning_by_passing_tests, normalized_exam_loss
from skillearn_jax.skills.models import LearnerModel, TesterModel

__all__ = [
    "LearnerModel",
    "TesterModel",
    "baseline",
    "learning_by_passing_tests",
    "normalized_exam_loss",
]
