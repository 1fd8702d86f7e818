"""The two heads of the tester: target-task executor and test creator."""

import flax.linen as nn
import jax

from skillearn_jax.layers import Dense
from skillearn_jax.types import Array


class Executor(nn.Module):
    """Target-task executor X: one linear layer.

    Attributes:
        num_classes: of the target task.
    """

    num_classes: int

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps features `[B, F]` to logits `[B, num_classes]`."""
        return Dense(self.num_classes)(features)


class Creator(nn.Module):
    """Test creator C: scores how much each example belongs in the exam.

    One linear layer to two logits whose softmax is a selection probability, as in the
    authors' code; it equals the sigmoid of the difference of the logits.
    """

    @nn.compact
    def __call__(self, features: Array) -> Array:
        """Maps features `[B, F]` to selection scores `[B]` in (0, 1)."""
        logits = Dense(2)(features)
        return jax.nn.softmax(logits)[:, 1]
