"""Losses in, differentiable look-aheads out. Knows nothing of networks or skills."""

from skillearn_jax.hypergrad.adjoints import (
    Adjoint,
    Autodiff,
    Exact,
    FiniteDifference,
    FirstOrder,
    Passes,
    StepFn,
)
from skillearn_jax.hypergrad.implicit import (
    ConjugateGradient,
    FixedPoint,
    Implicit,
    Neumann,
    at_solution,
)
from skillearn_jax.hypergrad.mixed_hvp import (
    central_difference,
    central_difference_per_set,
    mixed_hvp,
)
from skillearn_jax.hypergrad.one_step import one_step
from skillearn_jax.hypergrad.optimizer_step import (
    Inputs,
    MixedProduct,
    OptimizerStep,
    StepInfo,
)
from skillearn_jax.hypergrad.unroll import Steps, unroll

__all__ = [
    "Adjoint",
    "Autodiff",
    "ConjugateGradient",
    "Exact",
    "FiniteDifference",
    "FirstOrder",
    "FixedPoint",
    "Implicit",
    "Inputs",
    "MixedProduct",
    "Neumann",
    "OptimizerStep",
    "Passes",
    "StepFn",
    "StepInfo",
    "Steps",
    "at_solution",
    "central_difference",
    "central_difference_per_set",
    "mixed_hvp",
    "one_step",
    "unroll",
]
