"""Floor 0: the layers that search spaces and models share, in PyTorch's convention."""

from skillearn_jax.layers.axes import Axis, PerDevice, example_numbers
from skillearn_jax.layers.calling import run_module
from skillearn_jax.layers.drawing import draw_variables
from skillearn_jax.layers.linear import (
    Conv,
    Dense,
    Draw,
    Initializer,
    conv2d,
    lecun_normal,
    torch_uniform,
)
from skillearn_jax.layers.normalisation import BatchNorm, SideBySide

__all__ = [
    "Axis",
    "BatchNorm",
    "Conv",
    "Dense",
    "Draw",
    "Initializer",
    "PerDevice",
    "SideBySide",
    "conv2d",
    "draw_variables",
    "example_numbers",
    "lecun_normal",
    "run_module",
    "torch_uniform",
]
