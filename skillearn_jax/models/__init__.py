"""Networks that are not searched: the tester's encoders, heads, small nets."""

from skillearn_jax.models.heads import Creator, Executor
from skillearn_jax.models.mlp import MLP
from skillearn_jax.models.resnet import ResNetEncoder, SmallEncoder, resnet_encoder

__all__ = [
    "MLP",
    "Creator",
    "Executor",
    "ResNetEncoder",
    "SmallEncoder",
    "resnet_encoder",
]
