"""A plain multilayer perceptron."""

import flax.linen as nn

from skillearn_jax.layers import Dense
from skillearn_jax.types import Array


class MLP(nn.Module):
    """Linear layers with ReLU between them; the last is linear.

    The hand-designed task head of interleaving learning, or a small learner.

    Attributes:
        widths: output sizes of the layers, at least one.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps inputs `[B, ...]`, flattened, to `[B, widths[-1]]`."""
        x = inputs.reshape(inputs.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = nn.relu(x) if i else x
            x = Dense(width)(x)
        return x
